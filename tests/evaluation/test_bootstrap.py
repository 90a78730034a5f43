"""Corpus scores from sums, their intervals, and paired differences."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioner.common.errors import CaptionerError
from captioner.evaluation import bootstrap
from captioner.evaluation.bootstrap import differences, holm, intervals, resampled
from captioner.scoring import statistics as statistics_module
from captioner.scoring.scorer import Scorer, Scores
from captioner.scoring.statistics import SufficientStatistics, mean

REFERENCES = {
    "dog.jpg": ["A brown dog runs across the grass .", "The dog is running."],
    "bikes.jpg": ["Two men ride their bikes down a steep hill .", "Two cyclists are racing downhill."],
    "girl.jpg": ["A little girl climbs the stairs .", "a small girl climbs into a wooden playhouse", "A girl ."],
    "surfer.jpg": ["A surfer rides a large wave ."],
}
CAPTIONS = {
    "dog.jpg": "a brown dog runs across the grass",
    "bikes.jpg": "two men are riding bikes",
    "girl.jpg": "",
    "surfer.jpg": "a man surfing a big wave",
}


def means(values: list[float], counts: list[float] | None = None, name: str = "CIDEr") -> SufficientStatistics:
    return SufficientStatistics([f"{n}.png" for n in range(len(values))], {name: mean(values, counts)})


@pytest.fixture(scope="module")
def scorer(scorer_of: Callable[..., Scorer]) -> Scorer:
    return scorer_of(REFERENCES)


@pytest.fixture(scope="module")
def scored(scorer: Scorer) -> Scores:
    return scorer.score(CAPTIONS)


def test_sums_give_the_scores_of_the_metrics_own_programs(scored: Scores) -> None:
    assert scored.statistics.scores() == pytest.approx(scored.corpus, rel=1e-12, abs=1e-12)


def test_a_resample_is_the_corpus_of_its_pictures(scored: Scores, scorer_of: Callable[..., Scorer]) -> None:
    # pictures drawn twice stand in the corpus twice; CIDEr's document frequencies stay those of the whole split
    counts = np.array([[2, 1, 0, 1]])
    names = ["dog.jpg", "dog.jpg", "bikes.jpg", "surfer.jpg"]
    drawn = scorer_of({f"{n}{name}": REFERENCES[name] for n, name in enumerate(names)})
    metrics = ["BLEU", "METEOR", "ROUGE-L"]
    expected = drawn.score({f"{n}{name}": CAPTIONS[name] for n, name in enumerate(names)}, metrics).corpus
    found = scored.statistics.scores_of_resamples(counts)
    assert {name: values[0] for name, values in found.items() if name != "CIDEr"} == pytest.approx(expected, rel=1e-12)


def test_people_and_those_on_their_terms(scorer: Scorer) -> None:
    people = scorer.people().scores()
    assert {"BLEU-4", "METEOR", "ROUGE-L", "CIDEr"} <= people.keys()
    pairs = {
        f"{image} {place}": (own, others)
        for image, captions in REFERENCES.items()
        for place, own in enumerate(captions)
        if (others := captions[:place] + captions[place + 1 :])
    }
    assert len(pairs) == 7  # the surfer's only caption has nothing to be held against
    by_hand = Scorer({pair: others for pair, (_, others) in pairs.items()})
    values = by_hand.score({pair: own for pair, (own, _) in pairs.items()}, ["ROUGE-L"]).by_image["ROUGE-L"]
    assert people["ROUGE-L"] == pytest.approx(values.mean())
    # a model that says what one person said scores as that person where they are held against the others
    first = {image: captions[0] for image, captions in REFERENCES.items()}
    alike = scorer.leave_one_out(first, ["ROUGE-L", "BLEU"])
    assert alike.rows["ROUGE-L"][:, 1].tolist() == [2, 2, 3, 0]
    assert alike.scores()["BLEU-1"] <= scorer.score(first, ["BLEU"]).corpus["BLEU-1"]


def test_nobody_has_two_captions() -> None:
    assert Scorer({"a": ["a dog"], "b": ["a cat"]}).people().scores() == {}


def test_the_interval_covers_as_often_as_it_says(rng: np.random.Generator) -> None:
    covered = 0
    for _ in range(200):
        low, high = intervals(means(rng.normal(5, 1, 60).tolist()), resamples=200)["CIDEr"]
        covered += low <= 5 <= high
    assert 0.88 * 200 <= covered <= 200


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=20), st.integers(0, 5))
def test_intervals_are_ordered_lie_within_the_values_and_are_the_same_twice(values: list[float], seed: int) -> None:
    statistics = means(values)
    low, high = intervals(statistics, 50, seed)["CIDEr"]
    if np.ptp(resampled(statistics, 50, seed)["CIDEr"]) < 1e-9:
        assert np.isnan(low) and np.isnan(high)
        return
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    assert (low, high) == intervals(means(values), 50, seed)["CIDEr"]


@pytest.mark.parametrize(
    ("values", "counts"), [([7.0], [1]), ([0, 14, 0], [0, 2, 0]), ([100.0] * 20, [1] * 20), ([0.1] * 3, [1] * 3)]
)
def test_resamples_that_are_all_the_same_give_no_interval(values: list[float], counts: list[float]) -> None:
    assert np.isnan(intervals(means(values, counts))["CIDEr"]).all()


def test_how_many_pictures_count(scored: Scores) -> None:
    rows = {"CIDEr": mean([1, 0, 0], [1, 1, 0]), "BLEU-person": np.array([[0.0] * 10, [1] * 10, [1] * 10])}
    assert SufficientStatistics(["a", "b", "c"], rows).counted() == {"CIDEr": 2} | {
        f"BLEU-{n}-person": 2 for n in range(1, 5)
    }
    assert scored.statistics.counted().keys() == scored.statistics.scores().keys()


def test_many_resamples_are_drawn_in_parts_that_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    statistics = means([1, 2, 3, 5, 8])
    whole = resampled(statistics, 50)["CIDEr"]
    monkeypatch.setattr(bootstrap, "_AT_ONCE", 35)
    assert len(list(bootstrap._draws(5, 50, 1))) == 8
    assert resampled(statistics, 50)["CIDEr"] == pytest.approx(whole)
    monkeypatch.setattr(bootstrap, "_AT_ONCE", 1)  # fewer than a resample has pictures
    assert resampled(statistics, 50)["CIDEr"] == pytest.approx(whole)


def test_a_ratio_counts_what_was_counted_not_pictures() -> None:
    statistics = means([10, 0, 2], [4, 0, 2], "nll")
    assert statistics.scores() == {"nll": 2}
    low, high = intervals(statistics)["nll"]
    assert 1 <= low < high <= 2.5  # resamples of the middle picture alone count nothing, and are left out


def test_of_nothing_counted_there_is_no_score() -> None:
    statistics = means([0, 0], [0, 0])
    assert statistics.scores() == {}
    assert np.isnan(intervals(statistics)["CIDEr"]).all()


def test_equal_systems_do_not_differ_and_unequal_ones_do(rng: np.random.Generator) -> None:
    values = rng.normal(50, 10, 300)
    one, same = means(values.tolist()), means(values.tolist())
    assert differences(one, same)["CIDEr"] == bootstrap.Difference(0, 0, 0, 1)
    # paired: a small gain on each picture is sure, although the pictures differ by far more
    better = differences(means((values + rng.normal(0.5, 1, 300)).tolist()), one)["CIDEr"]
    assert 0 < better.low < better.value < better.high and better.p == pytest.approx(1 / 1001)
    noise = differences(means((values + rng.normal(0, 1, 300)).tolist()), one)["CIDEr"]
    assert noise.low < 0 < noise.high and noise.p > 0.05
    worse = differences(one, means((values + 1).tolist()))["CIDEr"]
    assert worse.value == pytest.approx(-1)


@pytest.mark.parametrize("gain", [0.0, 5.0, -5.0])
def test_a_single_picture_allows_no_test(gain: float) -> None:
    for one, other in (
        (means([50 + gain]), means([50])),
        (means([50 + gain, 0, 0], [1, 0, 0]), means([50, 50, 50])),  # only one counts on one side
    ):
        found = differences(one, other)["CIDEr"]
        assert found.value == pytest.approx(gain)
        assert np.isnan([found.low, found.high, found.p]).all()


@pytest.mark.parametrize("pictures", range(2, 12))
def test_no_p_is_less_than_the_pictures_allow(pictures: int, rng: np.random.Generator) -> None:
    hard = rng.normal(50, 10, pictures)
    gains = rng.uniform(1, 2, pictures)  # all one way, as clear as so many pictures can be
    for gain in (gains, np.full(pictures, 3.0)):
        p = differences(means((hard + gain).tolist()), means(hard.tolist()))["CIDEr"].p
        assert p == pytest.approx(max(2 / 2**pictures, 1 / 1001))
        assert (p < bootstrap.LEVEL) == (pictures >= bootstrap.FEWEST)


def test_pictures_are_paired_by_name_and_must_be_the_same() -> None:
    one = means([1, 2, 3])
    turned = SufficientStatistics(one.images[::-1], {"CIDEr": one.rows["CIDEr"][::-1]})
    assert differences(one, turned)["CIDEr"].value == 0
    assert differences(one, turned)["CIDEr"].high == 0
    with pytest.raises(CaptionerError, match=r"different pictures \(3 and 2, 2 in common\)"):
        differences(one, means([1, 2]))


def test_suffixes_and_unions(scored: Scores) -> None:
    statistics = SufficientStatistics(
        scored.statistics.images, {name: scored.statistics.rows[name] for name in ("BLEU", "ROUGE-L")}
    )
    both = statistics | statistics.suffixed("constant")
    assert list(both.scores())[4:] == ["ROUGE-L", *(f"BLEU-{n}-constant" for n in range(1, 5)), "ROUGE-L-constant"]
    assert both.scores()["BLEU-2-constant"] == both.scores()["BLEU-2"]


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.5, 0.9], [1.0, 1.0]),
        ([0.02], [0.02]),
        ([0.01, 0.01], [0.02, 0.02]),
        ([], []),
        ([0.02, np.nan, 0.03], [0.04, np.nan, 0.04]),
    ],
)
def test_holm(p_values: list[float], expected: list[float]) -> None:
    corrected = holm({str(number): p for number, p in enumerate(p_values)})
    assert list(corrected.values()) == pytest.approx(expected, nan_ok=True)


def test_what_is_written_is_read(scored: Scores, tmp_path: Path) -> None:
    statistics = scored.statistics | scored.statistics.suffixed("constant")
    statistics.write(tmp_path / "statistics.parquet")
    read = SufficientStatistics.read(tmp_path / "statistics.parquet")
    assert read.images == statistics.images and read.scores() == statistics.scores()


@pytest.mark.parametrize("content", [b"", b"PAR1 no table", None])
def test_a_damaged_table_is_one_line(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "statistics.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CaptionerError, match="missing or damaged: make it with `dvc repro`"):
        SufficientStatistics.read(path)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["nll", "CIDEr", "BLEU", "METEOR-person"])
def test_numbers_that_are_not_finite_are_never_skipped(name: str, wrong: float, tmp_path: Path) -> None:
    rows = np.ones((3, len(statistics_module.columns(name))))
    rows[1, 0] = wrong
    statistics = SufficientStatistics(["a", "b", "c"], {name: rows})
    assert np.isnan(list(statistics.scores().values())).all()
    assert np.isnan(list(intervals(statistics, 20).values())).all()
    better = differences(statistics, SufficientStatistics(["a", "b", "c"], {name: np.ones_like(rows)}), 20)
    assert better and all(np.isnan(each.p) for each in better.values())
    statistics.write(tmp_path / "statistics.parquet")
    for refused in (statistics.checked, lambda: SufficientStatistics.read(tmp_path / "statistics.parquet")):
        with pytest.raises(
            statistics_module.NotFiniteError, match=rf"{name} is not finite on 1 of 3 pictures, such as 'b'"
        ):
            refused()


def test_a_likelihood_of_exactly_1_was_nan_once() -> None:
    nothing = mean([0, 0], [3, 0])
    with pytest.raises(statistics_module.NotFiniteError, match="nll is not finite on 1 of 2 pictures, such as 'a'"):
        SufficientStatistics(["a", "b"], {"nll": nothing}).checked()
    SufficientStatistics(["a", "b"], {"nll": mean([0, 1]), "CIDEr": nothing}).checked()
