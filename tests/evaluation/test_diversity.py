"""How varied captions are, and how surprising to the model that draws them."""

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu

from captioner.evaluation.diversity import nll_of_samples, variety
from captioner.scoring.statistics import SufficientStatistics
from captioner.text.vocabulary import END, PAD

SETS = {
    "one.png": ["a dog runs over the grass", "a brown dog runs over grass", "the dog is on a lawn"],
    "two.png": ["two stars", "two red stars"],
    "three.png": ["a boat on the sea"],
}


def words(sets: dict[str, list[str]]) -> dict[str, list[list[str]]]:
    return {image: [caption.split() for caption in many] for image, many in sets.items()}


def test_mutual_bleu_is_the_bleu_of_each_caption_against_the_others() -> None:
    pairs = [
        (caption, [*many[:place], *many[place + 1 :]])
        for many in SETS.values()
        for place, caption in enumerate(many)
        if len(many) > 1
    ]
    hypotheses = {number: [caption] for number, (caption, _) in enumerate(pairs)}
    expected, _ = Bleu(4).compute_score(dict(enumerate(others for _, others in pairs)), hypotheses, verbose=0)
    found = variety(words(SETS)).scores()
    assert [found[f"mBLEU-{n}"] for n in (1, 2, 3, 4)] == pytest.approx([100 * value for value in expected])


@pytest.mark.parametrize(
    ("captions", "mutual", "distinct"),
    [
        (["a red star shines"] * 5, 100, [20, 15]),  # 4 words and 3 pairs, of 20 words
        (["a red star shines", "one blue cup stands"], 0, [100, 75]),
        (["a dog", "a cat"], 0, [75, 50]),
        (["", ""], None, [None, None]),
        (["a dog"], None, [100, 50]),
    ],
)
def test_variety(captions: list[str], mutual: float | None, distinct: list[float | None]) -> None:
    found = variety({"a.png": [caption.split() for caption in captions]}).scores()
    assert found.get("mBLEU-4") == (None if mutual is None else pytest.approx(mutual, abs=0.1))
    assert [found.get(f"distinct-{n}-grams") for n in (1, 2)] == distinct


def test_a_person_has_the_same_names_with_a_suffix() -> None:
    found = variety(words(SETS)).suffixed("person")
    assert {"mBLEU-4-person", "distinct-2-grams-person"} <= found.scores().keys()


def test_what_is_kept_can_be_resampled() -> None:
    found = variety(words(SETS))
    of_one = variety(words({"one.png": SETS["one.png"]})).scores()
    resampled = found.scores_of_resamples(np.array([[1, 0, 0]]))
    assert {name: values[0] for name, values in resampled.items()} == pytest.approx(of_one)


def test_nats_per_token_of_what_a_model_draws() -> None:
    tokens = np.array([[5, 6, END, PAD], [5, END, PAD, PAD], [7, 7, 7, END], [END, PAD, PAD, PAD]])
    found = nll_of_samples(["one.png", "two.png"], tokens, np.array([-3.0, -1.0, -6.0, -0.5]))
    assert isinstance(found, SufficientStatistics)
    np.testing.assert_array_equal(found.rows["nll-samples"], [[4, 5], [6.5, 5]])
    assert found.scores() == {"nll-samples": pytest.approx(1.05)}
