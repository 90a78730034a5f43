"""A model whose tokens are pieces of words says, shows and takes whole words."""

import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import tiny
from rounding import assert_same

from captioner.cli.about import about, table
from captioner.common.errors import CaptionerError
from captioner.inference.captioner import Captioner
from captioner.text.vocabulary import END, START

WORDS = 3

pytestmark = pytest.mark.usefixtures("eager", "seeing")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Captioner:
    """An untrained model, which says any bytes, saved and loaded."""
    known, features = tiny.subwords(), tiny.features()
    encoder = {"name": features.encoder, "weights": features.weights, "weights_sha256": features.weights_sha256}
    decoder = tiny.decoder("dot", known=known)
    plain = [token.strip("Ġ") for token in known.tokens]
    letters = [number for number, token in enumerate(plain) if token.isalpha() and token.isascii()]
    kernel, bias = decoder.vocabulary_logits.get_weights()
    bias[:] = -9
    bias[[END, *letters, known.tokens.index("Ġ")]] = 0
    decoder.vocabulary_logits.set_weights([3 * kernel, bias])
    made = Captioner(decoder, known, encoder, WORDS, {"attention": "dot", "vocabulary.tokens": "bpe"})
    directory = tmp_path_factory.mktemp("subwords") / "captioner"
    made.save(directory)
    return Captioner.load(directory)


def test_captions_are_whole_words_with_the_mean_weights_of_their_pieces(model: Captioner) -> None:
    captions = model.caption([tiny.photograph(row) for row in range(4)], beam=1)
    found = model.generator(beam=1, batch_size=4).generate(tiny.features().grid)
    several = 0
    for caption, tokens, weights in zip(captions, found.words, found.weights, strict=True):
        words = model.vocabulary.decode_places(tokens)
        assert caption.text == model.vocabulary.decode(tokens)
        assert caption.words == [word for word, _ in words] and len(words) <= WORDS
        assert caption.attention.shape == (len(words), 2, 2)
        assert_same(caption.attention.sum(axis=(1, 2)), np.ones(len(words)), 4 * tiny.POSITIONS)
        for shown, (_, places) in zip(caption.attention_by_position, words, strict=True):
            assert_same(shown, weights[places].mean(axis=0), 4 * WORDS)
            several += len(places) > 1
    assert several


@pytest.mark.parametrize("words", [1, 2])
def test_at_most_so_many_words(words: int, model: Captioner) -> None:
    assert all(
        len(caption.words) <= words
        for caption in model.caption([tiny.photograph(row) for row in range(4)], maximum_words=words)
    )


def test_alternatives_are_whole_words(model: Captioner) -> None:
    picture = tiny.photograph(0)
    every = model.alternatives(picture, ["a", "zebra", "犬"], most=100)
    assert len(every) == 4
    for place in every:
        assert len({each.word for each in place}) == len(place)
        assert all(each.word and " " not in each.word for each in place)
        probabilities = [each.probability for each in place]
        assert probabilities == sorted(probabilities, reverse=True) and 0 < sum(probabilities) <= 1 + 1e-5


def spellings(word: str, pieces: dict[str, int]) -> list[list[int]]:
    """Return all ways to put a word of ASCII letters together."""
    if not word:
        return [[]]
    return [
        [pieces[word[:end]], *rest]
        for end in range(1, len(word) + 1)
        if word[:end] in pieces
        for rest in spellings(word[end:], pieces)
    ]


def test_the_probability_of_a_word_is_that_of_its_pieces_and_of_its_end(model: Captioner) -> None:
    begins = model.vocabulary.begins_word
    assert begins is not None
    pieces = {token: number for number, token in enumerate(model.vocabulary.tokens)}
    ends = [END, *np.flatnonzero(begins)]

    def probability(spelling: list[int]) -> float:
        words = np.array([[[START, *spelling]]], np.int32)
        logits = np.asarray(model.decoder({"features": tiny.features().grid[1:2], "words": words}), float)[0, 0]
        given = np.exp(logits - logits.max(axis=-1, keepdims=True))
        given /= given.sum(axis=-1, keepdims=True)
        return math.prod(given[place, piece] for place, piece in enumerate(spelling)) * given[-1, ends].sum()

    [first] = model.alternatives(tiny.photograph(1), [], most=300)
    words = [each for each in first if each.word != "<end>" and each.probability > 1e-12]
    assert len(words) > 1
    for each in words:
        ways = [probability(spelling) for spelling in spellings(f"Ġ{each.word}", pieces)]
        sums = [sum(chosen) for many in range(1, len(ways) + 1) for chosen in combinations(ways, many)]
        assert any(each.probability == pytest.approx(value, rel=1e-4) for value in sums)


@pytest.mark.parametrize("word", ["<end>", "", "a dog", "!"])
def test_what_is_no_word(word: str, model: Captioner) -> None:
    with pytest.raises(CaptionerError, match="a word that the model does not know"):
        model.alternatives(tiny.photograph(0), ["a", word])


def test_it_is_said_that_tokens_are_subwords(model: Captioner, tmp_path: Path) -> None:
    model.save(tmp_path / "captioner")
    assert about(tmp_path / "captioner")["words"] == 262
    lines = table(about(tmp_path / "captioner"))
    assert "vocabulary  262 subwords; any word can be put together from them" in lines
    assert "captions    at most 3 words long" in lines
