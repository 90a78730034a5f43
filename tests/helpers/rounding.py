"""How far numbers may lie apart that are equal but for rounding, on any processor, in any order of summation."""

from typing import Any

import numpy as np


def tolerance(terms: int, magnitude: float, kind: Any = np.float32) -> float:
    """Return how far sums of that many terms, at most as large as that in between, may lie apart.

    Each addition rounds by half a spacing of what it makes, in both sums; products and functions round as well.
    Source: Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 4.2.
    """
    return 2 * terms * float(np.finfo(kind).eps) * magnitude


def assert_same(found: Any, expected: Any, terms: int, magnitude: float | None = None) -> None:
    """Compare arrays of float32 or float64: the coarser of the two kinds decides.

    Args:
        found: an array, float32 or float64.
        expected: another of its shape, computed in another way.
        terms: how many numbers are added up on the way to one of them, all sums that follow each other together.
        magnitude: of the largest number on the way; without it, of `expected`.
    """
    found, expected = np.asarray(found), np.asarray(expected)
    kind = max((found.dtype, expected.dtype), key=lambda kind: np.finfo(kind).eps)
    if magnitude is None:
        magnitude = float(np.abs(expected).max(initial=0))
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance(terms, magnitude, kind))
