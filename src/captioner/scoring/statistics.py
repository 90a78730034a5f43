"""Scores of a whole split from what adds up over its pictures.

A metric keeps, for each picture, a row of numbers whose sums over the pictures determine its score: counts of n-grams
for BLEU, matches and chunks for METEOR, a sum and a count for every score that is a mean. So each resample of the
bootstrap computes the metrics of the corpus again; nothing is an average of averages.

Legend: `I` pictures · `R` resamples · `S` numbers in a row.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd

from captioner.common.errors import CaptionerError
from captioner.common.files import replacing

STATISTICS, SCORES = "statistics.parquet", "scores.json"  # the files of an evaluation that comparisons read

BLEU, MUTUAL_BLEU, METEOR = "BLEU", "mBLEU", "METEOR"
MEAN = ("sum", "count")
_STAGES = ("exact", "stem", "synonym", "paraphrase")
_MATCHES = ("content", "reference-content", "function", "reference-function")
_BLEU_ROW = ("length", "reference-length", *(f"{kind}-{n}" for kind in ("possible", "correct") for n in range(1, 5)))
ROWS = {
    BLEU: _BLEU_ROW,
    MUTUAL_BLEU: _BLEU_ROW,  # of captions against others of their picture
    METEOR: (
        *("length", "reference-length", "function", "reference-function"),
        *(f"{stage}-{matches}" for stage in _STAGES for matches in _MATCHES),
        *("chunks", "matches", "reference-matches"),
    ),
}
"""What the numbers of a row are, where the score is no mean. METEOR's are those of its program, in its order."""

# METEOR 1.5's parameters for English (Denkowski and Lavie, WMT 2014, table 1)
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_STAGE_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])


class NotFiniteError(CaptionerError):
    """Scores are not numbers, since the model that they are of computes none."""


@dataclass(frozen=True, eq=False)
class SufficientStatistics:
    """What the scores of a split are made of.

    Attributes:
        images: the pictures.
        rows: by name, `[I, S]`. `BLEU` and `METEOR`, also with a suffix (`BLEU-constant`), have the columns of `ROWS`;
            every other name is that of a score which is a mean, and has those of `MEAN`. A number that is not finite
            makes the score so; see `checked`.
    """

    images: list[str]
    rows: dict[str, np.ndarray]

    def checked(self) -> "SufficientStatistics":
        """Return these statistics, of which all numbers are finite.

        Raises:
            NotFiniteError: they are not, or every picture's likelihood is exactly 1, to which NaN was once summed up.
        """
        for name, rows in self.rows.items():
            wrong = ~np.isfinite(rows).all(axis=1)
            if name.startswith("nll") and not rows[:, 0].any():
                wrong |= rows[:, 1] > 0
            if wrong.any():
                raise NotFiniteError(
                    f"{name} is not finite on {wrong.sum():,} of {len(self.images):,} pictures, such as "
                    f"{self.images[int(wrong.argmax())]!r}, since the model's weights are not or are too large: train "
                    "it again with a lower learning_rate"
                )
        return self

    def __or__(self, other: "SufficientStatistics") -> "SufficientStatistics":
        """Return these and other statistics of the same pictures, in the order of these."""
        check_same_images(self, other)
        order = pd.Index(other.images).get_indexer(pd.Index(self.images))
        return SufficientStatistics(self.images, self.rows | {name: row[order] for name, row in other.rows.items()})

    def suffixed(self, suffix: str) -> "SufficientStatistics":
        """Return the same under other names: `BLEU` is then `BLEU-constant`, say, and its score `BLEU-4-constant`."""
        return SufficientStatistics(self.images, {f"{name}-{suffix}": row for name, row in self.rows.items()})

    def scores(self) -> dict[str, float]:
        """Return each score; those of which nothing was counted are left out."""
        counted = {name: rows for name, rows in self.rows.items() if columns(name) != MEAN or rows[:, 1].any()}
        every = SufficientStatistics(self.images, counted).scores_of_resamples(np.ones((1, len(self.images))))
        return {name: float(values[0]) for name, values in every.items()}

    def counted(self) -> dict[str, int]:
        """Return, by score, of how many pictures something was counted."""
        return {score: int(rows.any(axis=1).sum()) for name, rows in self.rows.items() for score in _scores(name)}

    def scores_of_resamples(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """Return each score, `[R]`, of resamples, given as how often each picture is in each, `[R, I]`.

        A mean of nothing, 0/0, is NaN, and so is every score of numbers that are not finite.
        """
        found: dict[str, np.ndarray] = {}
        with np.errstate(invalid="ignore", divide="ignore"):
            for name, rows in self.rows.items():
                sums = counts @ rows  # [R, S]
                match _metric_of(name):
                    case "BLEU" | "mBLEU":
                        values = _bleu(sums)
                    case "METEOR":
                        values = _meteor(sums)[None]
                    case _:
                        values = (sums[:, 0] / sums[:, 1])[None]
                values = np.where(np.isfinite(sums).all(axis=1), values, np.nan)
                found |= dict(zip(_scores(name), values, strict=True))
        return found

    def write(self, path: Path) -> None:
        """Write a file of what `encoded` returns."""
        with replacing(path) as beside:
            beside.write_bytes(self.encoded())

    def encoded(self) -> bytes:
        """Return one Parquet table: a row a picture, columns named `METEOR/chunks` and the like."""
        table = {
            f"{name}/{column}": rows[:, number]
            for name, rows in self.rows.items()
            for number, column in enumerate(columns(name))
        }
        return pd.DataFrame(table, index=pd.Index(self.images, name="image")).to_parquet()

    @classmethod
    def read(cls, path: Path | IO[bytes]) -> "SufficientStatistics":
        """Read what `write` wrote, from a file or what is like one.

        Raises:
            CaptionerError: there is no such table, or it is damaged.
            NotFiniteError: see `checked`.
        """
        try:
            table = pd.read_parquet(path)
            names = dict.fromkeys(str(column).rpartition("/")[0] for column in table)
            rows = {name: table[[f"{name}/{column}" for column in columns(name)]].to_numpy(float) for name in names}
        except (OSError, ValueError, KeyError):
            raise CaptionerError(f"{path} is missing or damaged: make it with `dvc repro`.") from None
        return cls([str(image) for image in table.index], rows).checked()


def mean(sums: Iterable[float], counts: Iterable[float] | None = None) -> np.ndarray:
    """Return the rows `[I, 2]` of a mean: each picture's sum of values, and how many they are (one, if not given)."""
    summed = np.fromiter(sums, float)
    return np.stack([summed, np.ones_like(summed) if counts is None else np.fromiter(counts, float)], axis=1)


def columns(name: str) -> tuple[str, ...]:
    """Return what the numbers of a row are."""
    return ROWS.get(_metric_of(name), MEAN)


def _metric_of(name: str) -> str:
    """Return which of `ROWS` is kept under a name; of a mean, nothing."""
    return next((family for family in ROWS if name == family or name.startswith(f"{family}-")), "")


def _scores(name: str) -> tuple[str, ...]:
    """Return the scores that come of what is kept under a name."""
    if (metric := _metric_of(name)) in (BLEU, MUTUAL_BLEU):
        return tuple(f"{metric}-{n}{name.removeprefix(metric)}" for n in range(1, 5))
    return (name,)


def _bleu(sums: np.ndarray) -> np.ndarray:
    """Return BLEU-1 to 4, `[4, R]`, in percent, of sums `[R, 10]`, as pycocoevalcap computes it."""
    small, tiny = 1e-9, 1e-15  # its guards against zeros
    length, reference = sums[:, 0], sums[:, 1]
    precisions = (sums[:, 6:10] + tiny) / (sums[:, 2:6] + small)  # [R, 4]
    bleu = np.cumprod(precisions, axis=1) ** (1 / np.arange(1, 5))
    ratio = (length + tiny) / (reference + small)
    penalty = np.where(ratio < 1, np.exp(1 - 1 / ratio), 1)
    return 100 * (bleu * penalty[:, None]).T


def _meteor(sums: np.ndarray) -> np.ndarray:
    """Return METEOR 1.5, `[R]`, in percent, of sums `[R, 23]`: equations 1 to 4 of Denkowski and Lavie 2014."""
    length, reference, function, reference_function = sums[:, :4].T
    matches = sums[:, 4:20].reshape(-1, 4, 4)  # [R, stage, content | reference content | function | reference function]
    chunks, matched, reference_matched = sums[:, 20:].T

    def weighted(content: np.ndarray, of_function: np.ndarray) -> np.ndarray:
        return _DELTA * content + (1 - _DELTA) * of_function

    precision = weighted(matches[..., 0], matches[..., 2]) @ _STAGE_WEIGHTS / weighted(length - function, function)
    recall = weighted(matches[..., 1], matches[..., 3]) @ _STAGE_WEIGHTS
    recall = recall / weighted(reference - reference_function, reference_function)
    mean = 1 / ((1 - _ALPHA) / precision + _ALPHA / recall)
    fragmentation = chunks / ((matched + reference_matched) / 2)
    return 100 * np.where(precision * recall > 0, mean * (1 - _GAMMA * fragmentation**_BETA), 0)


def check_same_images(one: SufficientStatistics, other: SufficientStatistics) -> None:
    """Raise `CaptionerError` where two statistics are of different pictures."""
    if set(one.images) != set(other.images):
        raise CaptionerError(
            f"received scores of different pictures ({len(one.images):,} and {len(other.images):,}, "
            f"{len(set(one.images) & set(other.images)):,} in common); only the same pictures can be compared"
        )
