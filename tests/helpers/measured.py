"""Runs whose scores are known, in memory and as the files that an evaluation leaves."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from captioner.comparison.runs import Run
from captioner.evaluation.bootstrap import intervals
from captioner.evaluation.signature import Signature
from captioner.scoring.statistics import SufficientStatistics, mean

PICTURES = 60


def values(average: float, spread: float = 0.0, seed: int = 0) -> list[float]:
    """Values of 60 pictures with exactly this average; with the same seed the same pictures are hard."""
    drawn = np.random.default_rng(seed).normal(0, 1, PICTURES)
    return list(average + spread * (drawn - drawn.mean()))


def statistics(scores: Mapping[str, Sequence[float]]) -> SufficientStatistics:
    images = [f"test-{number:04}.png" for number in range(len(next(iter(scores.values()))))]
    return SufficientStatistics(images, {name: mean(each) for name, each in scores.items()})


def signature(name: str, **parts: str) -> str:
    known = {"split": "test", "references": "5", "pictures": str(PICTURES), "beam": "3", "length_normalization": "1"}
    known |= {"weights": "0123456789ab"} | parts
    return "|".join([name, *(f"{part.replace('_', '-')}:{value}" for part, value in known.items())])


def write(directory: Path, scores: Mapping[str, Sequence[float]], attention: str = "", **parts: str) -> Path:
    """Write a workspace's results, and return `results/evaluate`."""
    evaluated = directory / "results/evaluate"
    evaluated.mkdir(parents=True, exist_ok=True)
    measured = statistics(scores)
    measured.write(evaluated / "statistics.parquet")
    ends = intervals(measured, 10)
    described = {
        name: {"value": value, "low": ends[name][0], "high": ends[name][1], "signature": signature(name, **parts)}
        for name, value in measured.scores().items()
    }
    (evaluated / "scores.json").write_text(json.dumps(described), "utf-8")
    if attention:
        trained = directory / "results/train"
        trained.mkdir(exist_ok=True)
        (trained / "run.json").write_text(json.dumps({"tags": {"attention": attention}}), "utf-8")
    return evaluated


def run(name: str, scores: Mapping[str, Sequence[float]], attention: str = "", **parts: str) -> Run:
    parts.setdefault("weights", f"weights of {name}")
    signatures = {}
    for score in scores:
        signatures[score] = Signature.parse(signature(score, **parts)).parts
    return Run(name, attention, statistics(scores), signatures)
