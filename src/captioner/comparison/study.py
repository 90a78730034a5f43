"""A study of attentions: the same training with several seeds each, and what may be said of the differences.

Scores are means over seeds. Their deviation over seeds says how much trainings vary; their 95 % interval comes
from resampling the test pictures, each with the captions of all seeds, and says how much pictures vary. Both
are needed before one attention is called better than another; `captioner.comparison.compare` has the tests.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from captioner.common.errors import CaptionerError
from captioner.common.files import replacing
from captioner.comparison import compare, views
from captioner.comparison.compare import Comparison
from captioner.comparison.runs import Run
from captioner.evaluation.bootstrap import LEVEL, Difference, differences, holm
from captioner.reports import curves, pages
from captioner.reports.wording import counted, decimal, digits, probability
from captioner.scoring.statistics import SufficientStatistics

_BLIND = "nll-picture-blind"


@dataclass(frozen=True, eq=False)
class Trained:
    """One training of the study.

    Attributes:
        attention: which.
        seed: of the training.
        measured: its scores.
        history: a row an epoch, as `results/fine_tune/history.csv` has it.
    """

    attention: str
    seed: int
    measured: Run
    history: pd.DataFrame


@dataclass(frozen=True)
class Result:
    """One score of one attention.

    Attributes:
        values: one a seed.
        low: lower end of the 95 % interval over pictures, all seeds together; NaN where there is none.
        high: upper end; NaN like the lower one.
    """

    values: list[float]
    low: float
    high: float

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds (of the sample); none for a single seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True, eq=False)
class Study:
    """Everything that the page says.

    Attributes:
        seeds: of the trainings.
        results: by attention and score.
        compared: the attentions against each other, the captions of all seeds together.
        histories: by attention, of each seed a row an epoch.
        chance: in percent, how often a random position would lie on the object named; none but on scenes.
        seeing: by attention, how many nats per token fewer it needs than the decoder that never sees the picture, the
            p-values corrected for how many attentions there are (Holm); empty where that decoder was not measured.
    """

    seeds: list[int]
    results: dict[str, dict[str, Result]]
    compared: Comparison
    histories: dict[str, list[pd.DataFrame]]
    chance: float | None
    seeing: dict[str, Difference]


def analyse(trained: Sequence[Trained]) -> Study:
    """Bring the trainings of a study together.

    Raises:
        CaptionerError: fewer than two attentions, an attention that lacks a seed, or runs that cannot be compared.
    """
    attentions = list(dict.fromkeys(each.attention for each in trained))
    seeds = sorted({each.seed for each in trained})
    if len(attentions) < 2:
        raise CaptionerError(f"received {len(attentions)} attention; a study needs two or more")
    by_attention = {name: [each for each in trained if each.attention == name] for name in attentions}
    for name, runs in by_attention.items():
        if sorted(each.seed for each in runs) != seeds:
            raise CaptionerError(f"received {name} with the seeds {[each.seed for each in runs]}; all need {seeds}")
    pooled = [_pooled(name, [each.measured for each in runs]) for name, runs in by_attention.items()]
    compared = compare.compare(pooled)
    results: dict[str, dict[str, Result]] = {}
    for place, (name, runs) in enumerate(by_attention.items()):
        own = [each.measured.statistics.scores() for each in runs]
        results[name] = {}
        for score, many in compared.scores.items():
            values = [scores[score] for scores in own]
            results[name][score] = Result(values, many[place].low, many[place].high)
    histories = {name: [each.history for each in runs] for name, runs in by_attention.items()}
    chances = [each.measured.statistics.scores().get("pointing-chance") for each in trained]
    known = [chance for chance in chances if chance is not None]
    chance = statistics.fmean(known) if known else None
    measured = "nll" in compared.scores and _BLIND in compared.baselines
    return Study(seeds, results, compared, histories, chance, _seeing(pooled) if measured else {})


def _seeing(pooled: Sequence[Run]) -> dict[str, Difference]:
    """Return how far each attention is from the decoder that never sees the picture, by likelihood."""
    found = {}
    for run in pooled:
        images, rows = run.statistics.images, run.statistics.rows
        own, blind = (SufficientStatistics(images, {"nll": rows[name]}) for name in ("nll", _BLIND))
        found[run.name] = differences(blind, own)["nll"]
    corrected = holm({name: each.p for name, each in found.items()})
    return {name: replace(each, p=corrected[name]) for name, each in found.items()}


def _pooled(attention: str, runs: Sequence[Run]) -> Run:
    """Return the runs of one attention as one, whose captions are those of all seeds."""
    first = runs[0].statistics
    aligned = [first, *(SufficientStatistics(first.images, {}) | run.statistics for run in runs[1:])]
    shared = [name for name in first.rows if all(name in each.rows for each in aligned)]
    rows = {name: np.sum([each.rows[name] for each in aligned], axis=0) for name in shared}
    # which weights they are has no one answer
    signatures = {
        score: {part: value for part, value in parts.items() if part != "weights"}
        for score, parts in runs[0].signatures.items()
    }
    return Run(attention, attention, SufficientStatistics(first.images, rows), signatures)


def write(study: Study, dataset: str, pictures: Mapping[str, Mapping[str, bytes]], directory: Path) -> None:
    """Write `index.html`, `comparison.html`, `scores.csv`, `curves.png` and `attention/`, all or nothing.

    Args:
        study: what was found.
        dataset: its name.
        pictures: by attention and file name, encoded pictures of where the model looked.
        directory: where to.
    """
    with replacing(directory) as beside:
        beside.mkdir()
        for attention, files in pictures.items():
            (beside / "attention" / attention).mkdir(parents=True)
            for name, data in files.items():
                (beside / "attention" / attention / name).write_bytes(data)
        _table(study).to_csv(beside / "scores.csv", index=False)
        curves.study_curves(study.histories).save(beside / "curves.png", "PNG")
        (beside / "comparison.html").write_text(views.page(study.compared), "utf-8")
        (beside / "index.html").write_text(_page(study, dataset, pictures), "utf-8")


def paragraphs(study: Study, dataset: str) -> list[str]:
    """Return what may be said of a study; every number in it is one that was measured."""
    compared, names = study.compared, list(study.results)
    several = len(study.seeds) > 1
    said = [
        f"{_listed(names)} attention were trained on {dataset} with the seed{'s' if several else ''} "
        f"{', '.join(map(str, study.seeds))}, all else being equal, and captioned the same "
        f"{counted(compared.pictures, 'test picture')}. "
        + ("Scores are means over the seeds, ± their standard deviation" if several else "Scores are those of one seed")
        + (
            "; the interval says how far other test pictures would move them."
            if compared.pictures > 1
            else "; of one picture there are no intervals, and nothing can be tested."
        )
    ]
    said += [_of_score(study, score) for score in ("CIDEr", "true-captions", "nll") if score in compared.scores]
    if study.seeing:
        said.append(_of_seeing(study))
    if "pointing-accuracy" in compared.scores and study.chance is not None:
        points = [f"{name} in {result['pointing-accuracy'].mean:.1f} %" for name, result in study.results.items()]
        said.append(
            f"At the word for an object the highest weight lies in its box with {_listed(points)} of the cases; by "
            f"chance it would in {study.chance:.1f} %."
        )
    if len(study.seeds) < 3:
        few = (
            "fewer than three seeds the deviations say little"
            if several
            else "one seed the variation over seeds is unknown"
        )
        said.append(f"With {few}: take more before drawing conclusions.")
    return said


def _of_seeing(study: Study) -> str:
    found = {name: each for name, each in study.seeing.items() if each.p < LEVEL}
    saved = [f"{name} {_size(each)}" for name, each in found.items() if each.value > 0]
    lost = [f"{name} {_size(each)}" for name, each in found.items() if each.value < 0]
    others = [f"{name} ({_needs(each)})" for name, each in study.seeing.items() if name not in found]
    return (
        f"A decoder that never sees the picture needs {study.compared.baselines[_BLIND].value:.2f} nats per token."
        + (f" Seeing it saves {_listed(saved)} nats per token." if saved else "")
        + (f" Seeing it costs {_listed(lost)} nats per token more." if lost else "")
        + (f" By likelihood nothing tells these from it: {_listed(others)}." if others else "")
    )


def _size(gain: Difference) -> str:
    return decimal(abs(gain.value), digits(gain.value, 2))


def _needs(gain: Difference) -> str:
    less = f"{_size(gain)} {'less' if gain.value > 0 else 'more'}" if gain.value else "as many"
    return f"{less}, {probability(gain.p, named=True)}"


def _of_score(study: Study, score: str) -> str:
    lower = score in compare.LOWER_IS_BETTER
    order = sorted(study.results, key=lambda name: study.results[name][score].mean, reverse=not lower)
    means = [f"{name} {_mean(score, study.results[name][score])}" for name in order]
    found = []
    for pair in (pair for pair in study.compared.pairs if pair.score == score):
        one, other = study.compared.names[pair.one], study.compared.names[pair.other]
        if math.isnan(pair.p):
            continue
        if pair.better is None:
            found.append(f"{one} and {other} are not significantly different ({probability(pair.p, named=True)})")
            continue
        better, worse = (one, other) if pair.better == pair.one else (other, one)
        ours, theirs = study.results[better][score].values, study.results[worse][score].values
        apart = max(ours) < min(theirs) if lower else min(ours) > max(theirs)
        seeds = "" if len(ours) == 1 else ", with every seed" if apart else ", though scores of their seeds overlap"
        found.append(f"{better} is better than {worse}{seeds} ({probability(pair.p, named=True)})")
    verdicts = "; ".join(found)
    return f"By {score}: {_listed(means)}." + (f" {verdicts[0].upper()}{verdicts[1:]}." if found else "")


def _mean(score: str, result: Result) -> str:
    deviation = "" if result.deviation is None else f" ± {compare.number(score, result.deviation)}"
    return f"{compare.number(score, result.mean)}{deviation}"


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]


def _table(study: Study) -> pd.DataFrame:
    rows = [
        {
            "attention": attention,
            "score": score,
            "mean": round(result.mean, 4),
            "deviation": None if result.deviation is None else round(result.deviation, 4),
            "low": None if math.isnan(result.low) else round(result.low, 4),
            "high": None if math.isnan(result.high) else round(result.high, 4),
            **{f"seed-{seed}": round(value, 4) for seed, value in zip(study.seeds, result.values, strict=True)},
        }
        for attention, results in study.results.items()
        for score, result in results.items()
    ]
    return pd.DataFrame(rows)


def _page(study: Study, dataset: str, pictures: Mapping[str, Mapping[str, bytes]]) -> str:
    scores = list(study.compared.scores)
    runs = []
    for name, result in study.results.items():
        ends = [compare.interval(score, result[score].low, result[score].high) for score in scores]
        means = [_mean(score, result[score]) for score in scores]
        runs.append((name, "", list(zip(scores, means, ends, strict=True))))
    files = list(pictures.values())
    return pages.template("comparison/study.html").render(
        title=f"Attention on {dataset}: {_listed(list(study.results))}",
        paragraphs=paragraphs(study, dataset),
        header=["attention", *scores],
        runs=runs,
        seed=study.seeds[0],
        attentions=list(pictures),
        pictures=[name for name in next(iter(files), {}) if all(name in each for each in files)],
    )
