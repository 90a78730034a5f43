"""Numbers are written so that they say what they are."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioner.reports.wording import MINUS, counted, decimal, digits, interval, probability


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 pictures"), (1, "1 picture"), (2, "2 pictures"), (1000, "1,000 pictures")]
)
def test_counted(number: int, text: str) -> None:
    assert counted(number, "picture") == text


@pytest.mark.parametrize(
    ("p", "alone", "named"),
    [
        (1, "1.00", "p = 1.00"),
        (0.412, "0.41", "p = 0.41"),
        (0.0996, "0.100", "p = 0.100"),
        (1 / 1001, "0.001", "p = 0.001"),
        (0.0004, "< 0.001", "p < 0.001"),
        (math.nan, "–", "no p"),
    ],
)
def test_probability(p: float, alone: str, named: str) -> None:
    assert (probability(p), probability(p, named=True)) == (alone, named)


@pytest.mark.parametrize(
    ("value", "least", "text"),
    [
        (3.44, 1, "3.4"),
        (-0.04, 1, f"{MINUS}0.04"),
        (0.000321, 1, "0.0003"),
        (0.0, 1, "0.0"),
        (1e-12, 1, "0.0"),
        (-117.154, 2, f"{MINUS}117.15"),
        (0.0004, 3, "0.0004"),
    ],
)
def test_what_is_not_0_is_not_written_as_0(value: float, least: int, text: str) -> None:
    assert decimal(value, digits(value, least)) == text


@given(st.floats(1e-9, 1e6), st.integers(1, 4))
def test_digits_are_enough_and_not_fewer_than_asked_for(value: float, least: int) -> None:
    assert digits(value, least) >= least and float(f"{value:.{digits(value, least)}f}") > 0


@pytest.mark.parametrize("ends", [(None, None), (math.nan, math.nan), (1.0, None), (None, 1.0)])
def test_no_interval(ends: tuple[float | None, float | None]) -> None:
    assert interval(*ends) == ""


def test_interval() -> None:
    assert interval(-0.5, 2.5134) == f"[{MINUS}0.50, 2.51]"
    assert interval(49.06, 55.94, 1) == "[49.1, 55.9]"
