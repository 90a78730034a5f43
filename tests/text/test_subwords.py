"""Pieces of words to numbers and back."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from captioner.common.errors import CaptionerError
from captioner.text import FEWEST_SUBWORDS
from captioner.text.vocabulary import END, PAD, SPECIAL_TOKENS, UNKNOWN, Subwords, Vocabulary, split

CAPTIONS = ["a dog runs", "a dog's ball", "dogs run", "a running dog", "the 犬 runs", "👍🏽 a dog"] * 3


@pytest.fixture(scope="module")
def subwords() -> Subwords:
    return Subwords.learn(CAPTIONS, 280)


@given(text=st.text(max_size=40))
@example(text="two zebras 👨‍👩‍👧 dance ☃ 🇩🇪🇯🇵")
@example(text="犬が走る naïve Cafe\u0301 ZÜRICH")
@example(text="<end> \ufffd x\ufffdy Ġdog \U00020bb7")
@example(text="1\u00a01/2 \u200d👍 👍\u200d")
def test_decode_is_the_inverse_of_encode_on_any_text(subwords: Subwords, text: str) -> None:
    numbers = subwords.encode(text)
    assert all(number >= len(SPECIAL_TOKENS) for number in numbers)
    normalized = " ".join(subwords.split(text))
    assert subwords.decode(numbers) == subwords.decode([*numbers, END, *numbers]) == normalized
    assert subwords.encode(normalized) == numbers and subwords.decode_words(numbers) == subwords.split(text)


@given(text=st.text(max_size=40))
def test_the_words_are_those_of_any_vocabulary_and_symbols(subwords: Subwords, text: str) -> None:
    assert [word for word in subwords.split(text) if any(map(str.isalnum, word))] == [
        word for word in split(text) if any(map(str.isalnum, word))
    ]


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A Dog, running!", ["a", "dog", "running"]),
        ("a dog 👍🏽.", ["a", "dog", "👍🏽"]),
        ("👨‍👩‍👧 ☃️", ["👨‍👩‍👧", "☃"]),
        ("x<y ^ `z`", ["x", "y", "z"]),
        ("", []),
    ],
)
def test_split(subwords: Subwords, caption: str, words: list[str]) -> None:
    assert subwords.split(caption) == words


def test_frequent_words_are_one_token_and_rare_ones_several(subwords: Subwords) -> None:
    assert [len(word) for word in subwords.encode_words("a dog runs")] == [1, 1, 1]
    [word] = subwords.encode_words("zebra")
    assert len(word) == len(" zebra")
    assert subwords.begins_word is not None
    assert [bool(subwords.begins_word[number]) for number in word] == [True, *[False] * 5]
    assert not subwords.begins_word[: len(SPECIAL_TOKENS)].any()
    assert UNKNOWN not in subwords.encode("anything at all")


def test_each_piece_joins_the_most_frequent_pair() -> None:
    plain = Subwords.learn(["ab ab ab cab"], FEWEST_SUBWORDS)
    assert len(plain) == FEWEST_SUBWORDS == len(SPECIAL_TOKENS) + 256
    assert Subwords.learn(["ab ab ab cab"], FEWEST_SUBWORDS + 2).tokens[FEWEST_SUBWORDS:] == ("ab", "Ġab")
    # no pair stands twice any more
    assert Subwords.learn(["ab ab ab cab"], 10_000).tokens[FEWEST_SUBWORDS:] == ("ab", "Ġab")


def test_learning_is_repeatable(tmp_path: Path) -> None:
    words = [f"w{number % 37}x{number % 11}" for number in range(2000)]
    for name in ("one", "other"):
        Subwords.learn([" ".join(words)], 400).save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_too_small() -> None:
    with pytest.raises(CaptionerError, match="received a vocabulary of 259 subwords; give 260 or more"):
        Subwords.learn(CAPTIONS, 259)


def test_save_and_load(subwords: Subwords, tmp_path: Path) -> None:
    subwords.save(tmp_path / "vocabulary.json")
    loaded = Vocabulary.load(tmp_path / "vocabulary.json")
    assert isinstance(loaded, Subwords) and loaded.tokens == subwords.tokens
    assert loaded.encode("A zebra's <end> 犬") == subwords.encode("A zebra's <end> 犬")
    assert loaded.described() == "276 subwords; any word can be put together from them"


def test_a_caption_is_cut_after_whole_words(subwords: Subwords) -> None:
    a, dog, runs = subwords.encode("a dog runs")
    zebra = subwords.encode("zebra")
    targets = subwords.encode_batch(["a dog runs", "a dog runs a", "a zebra", "zebra zebra", "", "z" * 100], 3)
    assert targets.shape == (6, 3 * Subwords.PIECES_A_WORD + 1)
    spoken = [[number for number in row if number != PAD] for row in targets.tolist()]
    assert spoken[:5] == [[a, dog, runs, END], [a, dog, runs], [a, *zebra, END], [*zebra, *zebra, END], [END]]
    # a single word that finds no room is cut itself
    assert len(spoken[5]) == 3 * Subwords.PIECES_A_WORD and END not in spoken[5]
    assert subwords.encode_batch(["zebra zebra zebra"], 3)[0].tolist() == [*zebra, *zebra, PAD]


def test_places_of_the_tokens_of_each_word(subwords: Subwords) -> None:
    a, dog = subwords.encode("a dog")
    zebra = subwords.encode("zebra")
    assert subwords.decode_places([a, *zebra, dog, END, a]) == [
        ("a", [0]),
        ("zebra", [1, 2, 3, 4, 5, 6]),
        ("dog", [7]),
    ]
    assert subwords.decode_places([*zebra[1:3], dog]) == [("ze", [0, 1]), ("dog", [2])]


def test_bytes_that_are_no_text_are_left_out(subwords: Subwords) -> None:
    [dog] = subwords.encode("dog")
    space, byte = map(subwords.tokens.index, "Ġð")  # the first of the four bytes of an emoji
    assert subwords.decode_places([dog, space, byte, dog]) == [("dog", [0]), ("dog", [3])]
    assert subwords.decode_places([dog, byte]) == [("dog", [0, 1])]


@given(numbers=st.lists(st.integers(0, 279), max_size=30))
def test_whatever_is_generated_are_words_whose_tokens_follow_each_other(subwords: Subwords, numbers: list[int]) -> None:
    found = subwords.decode_places(numbers)
    assert all(word and " " not in word for word, _ in found)
    places = [place for _, many in found for place in many]
    assert all(one < other for one, other in pairwise(places))
    assert np.isin(places, np.flatnonzero(np.array(numbers, int) >= len(SPECIAL_TOKENS))).all()
