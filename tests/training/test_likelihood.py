"""How surprised a decoder is, and what blinds it."""

import keras
import numpy as np
import pytest
import tiny
from rounding import assert_same, tolerance

from captioner.common.errors import CaptionerError
from captioner.features.store import Features
from captioner.model.decoder import Decoder
from captioner.text.vocabulary import PAD, decoder_inputs
from captioner.training import fit
from captioner.training.likelihood import nll_of_decoder, teacher_forced
from captioner.training.losses import TokenNegativeLogLikelihood
from captioner.training.teacher_forcing import TeacherForcing


def by_hand(decoder: Decoder, image: str) -> tuple[float, int]:
    """Sum of negative log-likelihoods and tokens of a picture's captions, one by one and unpadded."""
    vocabulary, features = tiny.vocabulary(), tiny.features()
    total, tokens = 0.0, 0
    for caption in tiny.CAPTIONS[image]:
        targets = vocabulary.encode_batch([caption], 3)
        words = decoder_inputs(targets)
        length = int((targets != PAD).sum())
        grid = features.grid[[features.rows[image]]]
        logits = np.asarray(decoder({"features": grid, "words": words[:, None, :length]}), np.float64)[0, 0]
        log_probabilities = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        total -= log_probabilities[np.arange(length), targets[0, :length]].sum()
        tokens += length
    return total, tokens


@pytest.mark.parametrize("batch_size", [1, 3])
def test_likelihood_by_picture(overfit: Decoder, batch_size: int) -> None:
    batches = tiny.batches(tiny.recipe(batch_size=batch_size), None)
    found = nll_of_decoder(overfit, batches)
    assert found.images == list(tiny.CAPTIONS)  # one that has more captions than a batch holds stands here once
    expected = [by_hand(overfit, image) for image in tiny.CAPTIONS]
    rounding = tolerance(3 * tiny.TERMS, tiny.LARGEST)  # of three captions; logits are float32
    assert found.rows["nll"] == pytest.approx(np.array(expected), rel=0, abs=rounding)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_most_probable_words_after_each_beginning_of_the_first_caption(overfit: Decoder, batch_size: int) -> None:
    found = teacher_forced(overfit, tiny.batches(tiny.recipe(batch_size=batch_size), None)).next_tokens
    vocabulary, features = tiny.vocabulary(), tiny.features()
    assert found.keys() == tiny.CAPTIONS.keys()
    for image, (first, *_) in tiny.CAPTIONS.items():
        targets = vocabulary.encode_batch([first], 3)
        words = decoder_inputs(targets)[:, None, : int((targets != PAD).sum())]
        logits = overfit({"features": features.grid[[features.rows[image]]], "words": words})
        assert found[image] == np.argmax(logits, axis=-1)[0, 0].tolist()


def test_of_many_captions_the_first_is_read_and_no_longer_one_behind(overfit: Decoder, eager: None) -> None:
    by_image = {"sky.png": ["two stars", "two stars", "two small stars"], "sun.png": ["a red circle"]}
    found = teacher_forced(overfit, tiny.batches(tiny.recipe(batch_size=5), None, by_image)).next_tokens
    assert {image: len(tokens) for image, tokens in found.items()} == {"sky.png": 3, "sun.png": 4}


def test_one_who_knows_by_heart_is_less_surprised_than_a_beginner(overfit: Decoder, eager: None) -> None:
    batches = tiny.batches(tiny.recipe(), None)
    assert nll_of_decoder(overfit, batches).scores()["nll"] < nll_of_decoder(tiny.decoder(), batches).scores()["nll"]


def test_the_metric_of_training_is_the_same_number(overfit: Decoder, eager: None) -> None:
    batches = tiny.batches(tiny.recipe(batch_size=2), None)
    metric = TokenNegativeLogLikelihood()
    for number in range(len(batches)):
        inputs, targets = batches[number]
        metric.update_state(targets, TeacherForcing(overfit, batches.step_widths)(inputs))
    assert_same(metric.result(), nll_of_decoder(overfit, batches).scores()["nll"], tiny.TERMS, tiny.LARGEST)


def test_a_blank_shows_the_same_of_every_picture(eager: None) -> None:
    blank = Features.blank(["a.png", "b.png"])
    sizes = tiny.SIZES.model_copy(update={"spatial_encoding": "none"})
    decoder = fit.build(sizes, tiny.recipe(), "uniform", 9, blank.channels, blank.positions)
    words = np.array([[[1, 4, 5]]])
    views = [decoder({"features": blank.grid[[blank.rows[name]]], "words": words}) for name in blank.rows]
    assert np.array_equal(*map(keras.ops.convert_to_numpy, views))


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_decoder_whose_weights_are_not_finite_has_no_likelihood(wrong: float, eager: None) -> None:
    decoder = tiny.decoder()
    decoder.set_weights([np.full_like(weight, wrong) for weight in decoder.get_weights()])
    with pytest.raises(CaptionerError, match="nll-picture-blind is not finite on 4 of 4 pictures"):
        nll_of_decoder(decoder, tiny.batches(tiny.recipe(), None), "nll-picture-blind")
