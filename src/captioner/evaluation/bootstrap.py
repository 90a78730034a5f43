"""How sure scores and differences of scores are: intervals and p-values from resampled pictures.

A resample of one picture is that picture: where a single one counts, there is neither an interval nor a p-value. Of two
systems that do not differ, either could have said what the other said of each picture: `2 ** I` outcomes, equally
likely, two of which are as far from 0 as the one in which all pictures point one way. So `p` is never below
`2 ** (1 - I)`, and no difference on fewer than `FEWEST` pictures is significant.

Legend: `I` pictures · `R` resamples.

Sources: the bootstrap's percentile interval: Efron and Tibshirani 1993, chapter 13. Paired differences between systems:
Koehn, EMNLP 2004, with the p-value of Riezler and Maxwell, 2005. Exchanging what two systems said (approximate
randomization): Noreen 1989. Many comparisons: Holm 1979.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from captioner.scoring.statistics import SufficientStatistics, check_same_images

RESAMPLES = 1000
CONFIDENCE = 0.95
LEVEL = 0.05
"""A difference with a p-value below this one is significant."""
FEWEST = 6
"""The fewest pictures on which a difference can be significant: the first `I` with `2 ** (1 - I) < LEVEL`."""
SEED = 1
_HAIR = 1e-9  # what differs by less differs by rounding alone
_AT_ONCE = 4_000_000  # numbers drawn; bounds the memory of many resamples


@dataclass(frozen=True)
class Difference:
    """How much higher one system scores than another on the same pictures.

    Attributes:
        value: the difference of the scores.
        low: lower end of its 95 % interval; NaN where there is none, see `percentile_interval`.
        high: upper end; NaN like the lower one.
        p: probability of a difference at least as large if there were none, two-sided; NaN where one picture counts.
    """

    value: float
    low: float
    high: float
    p: float

    @property
    def nothing(self) -> bool:
        """Whether the systems are equal on every picture."""
        return self.value == self.low == self.high == 0


def resampled(statistics: SufficientStatistics, resamples: int = RESAMPLES, seed: int = SEED) -> dict[str, np.ndarray]:
    """Return each score of each resample, `[R]`; equal seeds draw equal pictures, whatever was measured of them."""
    blocks = [statistics.scores_of_resamples(counts) for counts in _draws(len(statistics.images), resamples, seed)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def intervals(
    statistics: SufficientStatistics, resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, tuple[float, float]]:
    """Return, for each score, the ends of its 95 % interval over pictures, see `percentile_interval`."""
    return {name: percentile_interval(values) for name, values in resampled(statistics, resamples, seed).items()}


def differences(
    one: SufficientStatistics, other: SufficientStatistics, resamples: int = RESAMPLES
) -> dict[str, Difference]:
    """Compare two systems, picture by picture, in every score that both have.

    Raises:
        CaptionerError: they were not measured on the same pictures.
    """
    check_same_images(one, other)
    if one.images != other.images:
        other = SufficientStatistics(one.images, {}) | other
    first, second = one.scores(), other.scores()
    drawn, drawn_other = resampled(one, resamples), resampled(other, resamples)
    counted, counted_other = one.counted(), other.counted()
    return {
        name: difference(
            first[name] - second[name], drawn[name] - drawn_other[name], min(counted[name], counted_other[name])
        )
        for name in first
        if name in second
    }


def difference(value: float, drawn: np.ndarray, pictures: int) -> Difference:
    """Say how sure a difference of scores is.

    The p-value counts the resamples whose difference is as far from its mean as the observed one is from 0, plus one;
    so it is never less than `1 / (R + 1)`, nor than `2 ** (1 - pictures)`. Resamples in which nothing was counted, NaN,
    are left out.

    Args:
        value: the difference.
        drawn: that of each resample, `[R]`.
        pictures: how many counted for either score, the fewer of the two.
    """
    value = 0.0 if abs(value) < _HAIR else value
    values = drawn[~np.isnan(drawn)]
    if pictures < 2 or not len(values):
        return Difference(value, np.nan, np.nan, np.nan)
    if np.abs(values).max() < _HAIR:
        return Difference(0.0, 0.0, 0.0, 1.0)  # equal on each picture
    beyond = ~(np.abs(values - values.mean()) < abs(value) - _HAIR)  # so that what cannot be compared shows nothing
    p = max(float((beyond.sum() + 1) / (len(values) + 1)), 2.0 ** (1 - pictures))
    return Difference(value, *percentile_interval(values), p)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values corrected for how many there are, so that the chance of any false finding stays bounded.

    A NaN stands for no test: it stays, and does not count.
    """
    tested = {name: p for name, p in p_values.items() if not np.isnan(p)}
    corrected: dict[str, float] = {}
    least = 0.0
    for rank, (name, p) in enumerate(sorted(tested.items(), key=lambda item: item[1])):
        least = max(least, min(1.0, (len(tested) - rank) * p))
        corrected[name] = least
    return {name: corrected.get(name, np.nan) for name in p_values}


def percentile_interval(values: np.ndarray) -> tuple[float, float]:
    """Return the ends of the 95 % interval of what resamples gave, `[R]`; NaN, of nothing counted, is left out.

    Where all gave the same, as those of a single picture do, they do not say how sure it is: the ends are NaN.
    """
    counted = values[~np.isnan(values)]
    if not len(counted) or np.ptp(counted) < _HAIR:
        return np.nan, np.nan
    low, high = np.quantile(counted, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _draws(pictures: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each picture stands in each resample, `[R, I]` in blocks."""
    generator = np.random.default_rng(seed)
    block = max(1, _AT_ONCE // pictures)
    for first in range(0, resamples, block):
        count = min(block, resamples - first)
        yield generator.multinomial(pictures, np.full(pictures, 1 / pictures), count).astype(float)
