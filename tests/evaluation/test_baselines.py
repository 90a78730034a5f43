"""What a model has to beat."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioner.evaluation.baselines import WordFrequencies, best_constant, nll_of_frequencies
from captioner.evaluation.diversity import unseen
from captioner.scoring.statistics import SufficientStatistics
from captioner.text.vocabulary import END, PAD, Vocabulary

TRAINING = ["a dog runs", "a dog", "a cat", "the dog runs"]
VOCABULARY = Vocabulary.build(TRAINING)


def test_word_frequencies_by_hand() -> None:
    # tokens of two captions: 4 5 end | 4 end; V = 6
    targets = np.array([[4, 5, END], [4, END, PAD]])
    frequencies = WordFrequencies([targets], 6)
    counts = np.array([0, 0, 0, 0, 2, 1])
    counts[END] = 2
    assert frequencies.everywhere == pytest.approx((counts + 1) / 11)
    first = 6 * frequencies.everywhere
    first[4] += 2
    assert frequencies.by_position[0] == pytest.approx(first / 8)
    nll = frequencies.nll(np.array([[4, END, PAD]]))
    assert nll["unigram"] == pytest.approx([-math.log(3 / 11) * 2])


@given(st.lists(st.lists(st.integers(4, 9), min_size=1, max_size=4), min_size=1, max_size=6))
def test_frequencies_are_distributions_in_which_nothing_is_impossible(captions: list[list[int]]) -> None:
    targets = np.full((len(captions), 5), PAD)
    for row, words in enumerate(captions):
        targets[row, : len(words) + 1] = [*words, END]
    frequencies = WordFrequencies([targets[:1], targets], 12)
    assert frequencies.everywhere.sum() == pytest.approx(1) and frequencies.everywhere.min() > 0
    assert frequencies.by_position.sum(axis=1) == pytest.approx(np.ones(5)) and frequencies.by_position.min() > 0
    # where each caption is long, the words it was counted from surprise no more than unseen ones
    assert (frequencies.nll(targets)["unigram"] > 0).all()


def test_position_helps_where_words_have_their_places() -> None:
    captions = ["a dog runs"] * 50
    vocabulary = Vocabulary.build(captions)
    found = nll_of_frequencies(captions, {"x.png": ["a dog runs", "a dog"], "y.png": ["runs"]}, vocabulary, 5)
    assert found.rows["nll-unigram"][:, 1].tolist() == [7, 2]  # tokens, ends included
    assert found.scores()["nll-unigram-by-position"] < found.scores()["nll-unigram"]


def test_a_caption_is_cut_as_for_a_decoder() -> None:
    cut = nll_of_frequencies(TRAINING, {"x.png": ["a dog runs"]}, VOCABULARY, 2)
    assert cut.rows["nll-unigram"][0, 1] == 2


def test_the_best_constant_says_what_most_pictures_show() -> None:
    references = {f"{n}.png": [f"a dog runs over grass number {n}", "the dog runs"] for n in range(4)}
    references["cat.png"] = ["a cat sleeps", "one cat asleep"]
    candidates = ["a cat sleeps", "the dog runs over grass", "a man", "grass", ""]
    assert best_constant(candidates, references, VOCABULARY) == "the dog runs over grass"


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a dog runs", [0, 0, 0]),
        ("the dog", [0, 0, 0]),
        ("the cat", [100, 0, 0]),
        ("a dog runs a", [100, 100, 100]),
        ("", [0, 0, 0]),
        ("zebra", [0, 0, 0]),  # no run of two words: nothing that training could have shown
    ],
)
def test_runs_of_words_that_training_never_showed(caption: str, expected: list[float]) -> None:
    found = unseen({"a.png": [caption.split()]}, (text.split() for text in TRAINING)).scores()
    assert found == dict(zip(["unseen-2-grams", "unseen-3-grams", "unseen-4-grams"], expected, strict=True))


def test_statistics_can_be_kept(tmp_path: Path) -> None:
    found = nll_of_frequencies(TRAINING, {"x.png": ["a dog"]}, VOCABULARY, 4)
    found.write(tmp_path / "statistics.parquet")
    assert SufficientStatistics.read(tmp_path / "statistics.parquet").scores() == found.scores()
