"""Captions of any number of pictures, always with the decoder's present weights."""

import numpy as np
import pytest
import tiny
from rounding import assert_same

from captioner.model.decoder import Decoder
from captioner.search.generators import Generator, Sampler
from captioner.text.vocabulary import END, PAD, decoder_inputs


@pytest.fixture(scope="module")
def grid() -> np.ndarray:
    return tiny.features().grid


def test_the_last_batch_is_filled_up(generator: Generator, grid: np.ndarray) -> None:
    found = generator.generate(grid)
    assert found.words.shape == (4, 5) and found.weights.shape == (4, 5, tiny.POSITIONS)
    for picture in range(4):
        alone = generator.generate(grid[picture : picture + 1])
        np.testing.assert_array_equal(alone.words[0], found.words[picture])
        assert_same(alone.log_probability[0], found.log_probability[picture], tiny.TERMS, tiny.LARGEST)
        assert_same(alone.weights[0], found.weights[picture], tiny.TERMS, tiny.LARGEST)


def test_says_what_was_learnt(generator: Generator, grid: np.ndarray) -> None:
    vocabulary = tiny.vocabulary()
    said = [vocabulary.decode(words) for words in generator.generate(grid).words]
    assert said == [texts[0] for texts in tiny.CAPTIONS.values()]


def test_rows_in_any_order(generator: Generator, grid: np.ndarray) -> None:
    rows = np.array([2, 0, 2, 1, 3])
    np.testing.assert_array_equal(generator.generate(grid, rows).words, generator.generate(grid).words[rows])


def test_attention_is_a_distribution_at_each_word(generator: Generator, grid: np.ndarray) -> None:
    found = generator.generate(grid)
    said = found.words != PAD
    assert_same(found.weights.sum(axis=-1), said.astype(float), 2 * tiny.POSITIONS)
    assert ((found.words == END).sum(axis=1) == 1).all()


def test_captions_follow_the_weights(overfit: Decoder, grid: np.ndarray) -> None:
    decoder = tiny.decoder("bahdanau")
    generator = Generator(decoder, beam=1, maximum=4, batch_size=4)
    before = generator.generate(grid)
    decoder.set_weights(overfit.get_weights())
    after = generator.generate(grid)
    vocabulary = tiny.vocabulary()
    assert [vocabulary.decode(words) for words in after.words] == [texts[0] for texts in tiny.CAPTIONS.values()]
    assert (before.words != after.words).any()
    assert (before.log_probability < after.log_probability).all()


def test_log_probability_is_what_the_whole_sequence_form_gives(
    overfit: Decoder, generator: Generator, grid: np.ndarray
) -> None:
    found = generator.generate(grid)
    targets = tiny.vocabulary().encode_batch([tiny.vocabulary().decode(row) for row in found.words], 4)
    words = decoder_inputs(targets)
    logits = np.asarray(overfit({"features": grid, "words": words[:, None]}))[:, 0]  # [G, T, V]
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    chosen = np.take_along_axis(log_probabilities, targets[..., None], axis=-1)[..., 0]
    expected = (chosen * (targets != PAD)).sum(axis=1)
    assert_same(found.log_probability, expected, tiny.TERMS, tiny.LARGEST)


def test_draws_several_captions_of_a_picture(overfit: Decoder, generator: Generator, grid: np.ndarray) -> None:
    sampler = Sampler(overfit, samples=6, maximum=4)
    cold = sampler.draw(grid[1:2], temperature=1e-4, seed=1)
    expected = Generator(overfit, beam=1, maximum=4, batch_size=1).generate(grid[1:2])
    np.testing.assert_array_equal(cold.words, np.repeat(expected.words, 6, axis=0))
    assert_same(cold.log_probability, np.repeat(expected.log_probability, 6), tiny.TERMS, tiny.LARGEST)
    assert_same(cold.weights, np.repeat(expected.weights, 6, axis=0), tiny.TERMS, tiny.LARGEST)
    hot = sampler.draw(grid[1:2], temperature=50.0, seed=1)
    assert len({tuple(words) for words in hot.words.tolist()}) > 1
    np.testing.assert_array_equal(hot.words, sampler.draw(grid[1:2], temperature=50.0, seed=1).words)
    assert (hot.words != sampler.draw(grid[1:2], temperature=50.0, seed=2).words).any()


@pytest.mark.usefixtures("eager")
def test_what_is_drawn_of_a_picture_does_not_depend_on_the_batch(overfit: Decoder, grid: np.ndarray) -> None:
    rows = np.array([3, 0, 2])
    one, three = (Sampler(overfit, samples=2, maximum=4, batch_size=size) for size in (1, 3))
    found = three.draw(grid, temperature=30.0, seed=1, rows=rows)
    assert found.words.shape == (6, 5) and len({tuple(words) for words in found.words.tolist()}) > 1
    np.testing.assert_array_equal(one.draw(grid, temperature=30.0, seed=1, rows=rows).words, found.words)
    several = Sampler(overfit, samples=2, maximum=4, batch_size=2).draw(grid, temperature=30.0, seed=1, rows=rows)
    np.testing.assert_array_equal(several.words, found.words)
    assert_same(several.log_probability, found.log_probability, tiny.TERMS, 30 * tiny.LARGEST)
