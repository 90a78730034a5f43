"""Runs against each other on the same test pictures: which differences are real, and which chance would give as well.

Every score of every run, and every difference between two of them, has a 95 % interval from resampling the test
pictures, the same for all runs. The p-values of a score are corrected for how many pairs of runs it compares (Holm);
scores are not corrected for each other, since they measure much the same captions.

The intervals hold for these weights on other pictures of the same kind. They do not hold for other weights: how much a
training with another seed differs can be seen only by training again.

Source of the statistics: `captioner.evaluation.bootstrap`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, count
from math import isnan

import numpy as np

from captioner.common.errors import CaptionerError
from captioner.comparison.runs import Run
from captioner.evaluation import BASELINES
from captioner.evaluation.bootstrap import (
    LEVEL,
    RESAMPLES,
    Difference,
    difference,
    holm,
    percentile_interval,
    resampled,
)
from captioner.reports import wording
from captioner.reports.wording import decimal, digits, probability
from captioner.scoring.statistics import NotFiniteError, SufficientStatistics

SCORES = (
    "CIDEr",
    "BLEU-4",
    "METEOR",
    "ROUGE-L",
    "SPICE",
    "BLEU-1",
    "distinct-captions",
    "nll",
    "true-captions",
    "pointing-accuracy",
    "attention-mass",
)
"""What is compared, as far as all runs have it."""
LOWER_IS_BETTER = frozenset({"nll"})
_DATA = ("split", "pictures", "references")
_SEARCH = {"beam": "beam", "length-normalization": "length normalization"}
_WEIGHTS = "weights"
_PEOPLE = frozenset({"METEOR-person", "ROUGE-L-person", "CIDEr-person"})  # made of the references alone


@dataclass(frozen=True)
class Score:
    """A score and the ends of its 95 % interval over pictures, NaN where there is none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Pair:
    """How two runs differ in a score.

    Attributes:
        score: which.
        one: place of a run among those compared.
        other: place of the run that is subtracted from it.
        difference: of the scores, with the p-value of this pair by itself.
        p: corrected for how many pairs were compared; NaN where there was no test.
    """

    score: str
    one: int
    other: int
    difference: Difference
    p: float

    @property
    def significant(self) -> bool:
        """Whether chance would give such a difference less than 1 time in 20, corrected."""
        return self.p < LEVEL

    @property
    def better(self) -> int | None:
        """The place of the better run, if the difference stands."""
        if not self.significant:
            return None
        return self.one if (self.difference.value > 0) != (self.score in LOWER_IS_BETTER) else self.other


@dataclass(frozen=True)
class Comparison:
    """Runs against each other.

    Attributes:
        names: of the runs, no two alike.
        attentions: of the runs, nothing where it is not known.
        pictures: how many they were measured on.
        resamples: how many the intervals and p-values rest on.
        scores: by score, one a run, in order.
        baselines: what was measured of the data, by score.
        pairs: of each score, each pair of runs.
        notes: what to know of the comparison, in sentences.
    """

    names: list[str]
    attentions: list[str]
    pictures: int
    resamples: int
    scores: dict[str, list[Score]]
    baselines: dict[str, Score]
    pairs: list[Pair]
    notes: list[str]

    @property
    def labels(self) -> list[str]:
        """The runs' names with their attentions."""
        both = zip(self.names, self.attentions, strict=True)
        return [f"{name} · {attention}" if attention and attention != name else name for name, attention in both]

    @property
    def short(self) -> list[str]:
        """What the runs are called in sentences: by attention, where each has its own."""
        return self.attentions if all(self.attentions) and _distinct(self.attentions) else self.names

    def sentences(self) -> list[str]:
        """Say of each pair and score which run is better, if the difference is significant; in the order of `pairs`."""
        return [_sentence(pair, self.short[pair.one], self.short[pair.other]) for pair in self.pairs]


def compare(runs: Sequence[Run], resamples: int = RESAMPLES) -> Comparison:
    """Compare runs in every one of `SCORES` that all of them have.

    Args:
        runs: two or more.
        resamples: how many to draw. The least p-value is one in so many and one.

    Raises:
        CaptionerError: fewer than two runs, one whose scores are not finite, or runs that were measured on different
            pictures, references or splits.
    """
    if len(runs) < 2:
        raise CaptionerError(f"received {len(runs)} run to compare; give two or more")
    for run in runs:
        _check_finite(run)
    runs = [replace(run, name=name) for run, name in zip(runs, _unique_names([run.name for run in runs]), strict=True)]
    for run in runs[1:]:
        _check_comparable(runs[0], run)
    first = runs[0].statistics
    # the same order of pictures, so that a resample holds the same pictures of every run
    aligned = [first, *(SufficientStatistics(first.images, {}) | run.statistics for run in runs[1:])]
    values = [each.scores() for each in aligned]
    drawn = [resampled(each, resamples) for each in aligned]
    counts = [each.counted() for each in aligned]
    scores, notes = _shared(runs, values)
    if not scores:
        raise CaptionerError(
            f"received runs without a common score; each needs at least one of {', '.join(SCORES)}: evaluate them again"
        )
    pairs: list[Pair] = []
    for score in scores:
        found = {
            f"{one} {other}": Pair(
                score,
                one,
                other,
                difference(
                    values[one][score] - values[other][score],
                    drawn[one][score] - drawn[other][score],
                    min(counts[one][score], counts[other][score]),
                ),
                1,
            )
            for one, other in combinations(range(len(runs)), 2)
        }
        corrected = holm({name: pair.difference.p for name, pair in found.items()})
        pairs += [replace(pair, p=corrected[name]) for name, pair in found.items()]
    baselines, differing = _baselines(values, drawn)
    count = len(pairs) // len(scores)
    return Comparison(
        names=[run.name for run in runs],
        attentions=[run.attention for run in runs],
        pictures=len(first.images),
        resamples=resamples,
        scores={
            score: [
                Score(value[score], *percentile_interval(draw[score]))
                for value, draw in zip(values, drawn, strict=True)
            ]
            for score in scores
        },
        baselines=baselines,
        pairs=pairs,
        notes=[_method(len(first.images), resamples, count), *_same_model(runs), *_searches(runs), *notes, *differing],
    )


def number(score: str, value: float, signed: bool = False) -> str:
    """Write a score's value with as many digits as it deserves: 52.5, or 2.513 for what is counted in nats."""
    return decimal(value, decimals_of(score), signed)


def interval(score: str, low: float, high: float) -> str:
    """Write the ends of an interval: [49.1, 55.9]; nothing where there is none."""
    return wording.interval(low, high, decimals_of(score))


def differing(score: str, found: Difference, signed: bool = True) -> tuple[str, str]:
    """Write a difference and its interval, with more digits than `number` gives where it would else be 0."""
    decimals = digits(found.value, decimals_of(score))
    return decimal(found.value, decimals, signed), wording.interval(found.low, found.high, decimals)


def decimals_of(score: str) -> int:
    """Return with how many decimals a score is written."""
    return 3 if score in LOWER_IS_BETTER else 1


def _sentence(pair: Pair, one: str, other: str) -> str:
    score, found = pair.score, pair.difference
    if found.nothing:
        return f"{one} and {other} are equal by {score}."
    if found.value < 0:
        found = replace(found, value=-found.value, low=-found.high, high=-found.low)
        one, other = other, one
    decimals = digits(found.value, decimals_of(score))
    by = decimal(found.value, decimals)
    if isnan(found.p):
        what = f"has {by} more than {other}" if found.value else f"has as much as {other}"
        return f"By {score} {one} {what}; of one picture nothing can be tested."
    spread = "" if isnan(found.low) else f", {decimal(found.low, decimals)} to {decimal(found.high, decimals)}"
    p = probability(pair.p, named=True)
    if found.p < LEVEL <= pair.p:
        p += f"; {probability(found.p)} before correction"
    if not pair.significant:
        return f"{one} and {other} are not significantly different in {score}: the difference is {by}{spread} ({p})."
    lower = score in LOWER_IS_BETTER
    better, worse = (other, one) if lower else (one, other)
    way = "lower" if lower else "higher"
    return f"{better} is better than {worse} by {score}: {by} {way}{spread} ({p})."


def _unique_names(names: Sequence[str]) -> list[str]:
    told: list[str] = []
    for name in names:
        count, own = 1, name
        while own in told:
            count += 1
            own = f"{name} ({count})"
        told.append(own)
    return told


def _distinct(names: Sequence[str]) -> bool:
    return len(set(names)) == len(names)


def _check_finite(run: Run) -> None:
    try:
        run.statistics.checked()
    except NotFiniteError as error:
        raise CaptionerError(f"received {run.name!r}, which cannot be compared: {error}") from None


def _check_comparable(one: Run, other: Run) -> None:
    pictures, others = set(one.statistics.images), set(other.statistics.images)
    if pictures != others:
        raise CaptionerError(
            f"received {one.name!r} with {len(pictures):,} pictures and {other.name!r} with {len(others):,}, "
            f"{len(pictures & others):,} in common; only runs measured on the same pictures can be compared"
        )
    for score in SCORES:
        if score in one.signatures and score in other.signatures:
            for part in _DATA:
                has, has_other = (run.signatures[score].get(part, "none") for run in (one, other))
                if has != has_other:
                    raise CaptionerError(
                        f"received {one.name!r} measured with {part} {has} and {other.name!r} with {part} {has_other}; "
                        f"only runs measured with the same {part} can be compared: evaluate one of them again"
                    )
    # pictures drawn with other parameters bear the same names; what people reach shows that the captions are others
    here = SufficientStatistics(one.statistics.images, {}) | other.statistics
    for name, rows in one.statistics.rows.items():
        terms = [run.signatures.get(name, {}).get("references") for run in (one, other)]
        alike = name in _PEOPLE and name in here.rows and terms[0] == terms[1]
        if alike and not np.allclose(rows, here.rows[name]):
            raise CaptionerError(
                f"received {one.name!r} and {other.name!r}, whose pictures bear the same names but have other "
                "references; only runs measured on the same references can be compared"
            )


def _shared(runs: Sequence[Run], values: Sequence[dict[str, float]]) -> tuple[list[str], list[str]]:
    """Return the scores that all runs have and computed alike, and notes on those that they do not."""
    scores, lacking, notes = [], [], []
    single = len(runs[0].statistics.images) == 1
    if single and any("CIDEr" in value for value in values):
        notes.append("CIDEr is left out: it is 0 on a single picture, whatever the caption.")
    for score in SCORES:
        if single and score == "CIDEr":
            continue
        having = [score in value and score in run.signatures for run, value in zip(runs, values, strict=True)]
        if not all(having):
            lacking += [score] if any(having) else []
            continue
        parts = sorted({part for run in runs for part in run.signatures[score]} - {*_SEARCH, _WEIGHTS})
        kinds = {part: [run.signatures[score].get(part, "none") for run in runs] for part in parts}
        unlike = {part: kind for part, kind in kinds.items() if len(set(kind)) > 1}
        if unlike:
            told = "; ".join(f"{part} {', '.join(kind)}" for part, kind in unlike.items())
            notes.append(f"{score} is left out, since it was not computed alike: {told}.")
        else:
            scores.append(score)
    if lacking:
        notes.insert(0, f"Left out, since not every run has it: {', '.join(lacking)}.")
    return scores, notes


def _method(pictures: int, resamples: int, pairs: int) -> str:
    if pictures == 1:
        return (
            "One test picture allows no intervals and no p-values: each resample of it is that picture. The scores are "
            "those of its captions, and no difference between them is a finding."
        )
    sentences = [
        f"Intervals (95 %) and p-values come from {resamples:,} resamples of the {pictures:,} test pictures, the same "
        "for all runs. They say how much other pictures would change the scores, not how much another training would: "
        "seeds differ, too.",
        f"The p-values in sentences are corrected (Holm) for the {pairs} pairs of runs within a score; intervals are "
        "those of each pair by itself."
        if pairs > 1
        else "With one pair of runs there is nothing to correct for.",
    ]
    least_p: dict[str, tuple[int, Callable[[int], float]]] = {
        "pictures": (pictures, lambda number: pairs * 2.0 ** (1 - number)),
        "resamples": (resamples, lambda number: pairs / (number + 1)),
    }
    for what, (given, least) in least_p.items():
        if least(given) >= LEVEL:
            enough = next(number for number in count(given) if least(number) < LEVEL)
            sentences.append(
                f"So few {what} give no {'corrected ' if pairs > 1 else ''}p below {min(1, least(given)):.2f}, and so "
                f"no finding: it takes {enough:,} or more."
            )
    return " ".join(sentences)


def _same_model(runs: Sequence[Run]) -> list[str]:
    notes = []
    for one, other in combinations(runs, 2):
        weights = [{parts.get(_WEIGHTS) for parts in run.signatures.values()} - {None} for run in (one, other)]
        if weights[0] and weights[0] == weights[1]:
            alike = all(_setting(one, part) == _setting(other, part) for part in _SEARCH)
            notes.append(
                f"{one.name} and {other.name} are the same model"
                + (", searched alike: they can only be equal." if alike else "; only the search differs.")
            )
    return notes


def _searches(runs: Sequence[Run]) -> list[str]:
    return [
        f"The runs were searched with another {what}: "
        + ", ".join(f"{run.name} with {_setting(run, part)}" for run in runs)
        + "; part of a difference may come from that."
        for part, what in _SEARCH.items()
        if len({_setting(run, part) for run in runs}) > 1
    ]


def _setting(run: Run, part: str) -> str:
    return next((parts[part] for parts in run.signatures.values() if part in parts), "unknown")


def _baselines(
    values: Sequence[dict[str, float]], drawn: Sequence[dict[str, np.ndarray]]
) -> tuple[dict[str, Score], list[str]]:
    """Return what was measured of the data, as far as all runs agree on it, and a note if they do not."""
    names = [f"{score}-{suffix}" for score in SCORES for suffix in BASELINES]
    shared = [name for name in names if all(name in value for value in values)]
    agreed = [name for name in shared if np.ptp([value[name] for value in values]) < 1e-6]
    differing = [name for name in shared if name not in agreed]
    why = "other training captions, or another version?"
    note = f"Left out, since it is not the same for all runs ({why}): {', '.join(differing)}."
    return {name: Score(values[0][name], *percentile_interval(drawn[0][name])) for name in agreed}, [
        note
    ] if differing else []
