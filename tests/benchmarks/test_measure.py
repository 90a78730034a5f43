"""How all benchmarks measure."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from measure import PAIRS, Part, Row, row_of_pairs, row_of_rounds


def path(values: Iterable[float], calls: list[str], name: str) -> Callable[[], float]:
    """What returns one value after the other, and notes that it was called."""
    left = iter(values)

    def run() -> float:
        calls.append(name)
        return next(left)

    return run


@pytest.mark.parametrize(
    ("unit", "ratio", "fraction"),
    [
        ("s", 3, 1 / 2),  # of the pairs 10, 3, 2 and of 1/10, 1/2, 1/1: not those of the medians, 8 and 1
        ("MiB", 3, 1 / 2),
        ("captions/s", 1 / 3, 2),
    ],
)
def test_a_row_has_medians_and_the_median_of_its_pairs_ratios(unit: str, ratio: float, fraction: float) -> None:
    calls: list[str] = []
    row = row_of_pairs(
        "a",
        "A row",
        unit,
        path([1, 2, 8], calls, "ours"),
        path([10, 6, 16], calls, "reference"),
        path([0.1, 1, 8], calls, "limit"),
        pairs=3,
    )
    assert calls == ["ours", "reference", "limit"] * 3
    assert (row.ours, row.reference) == (2, 10)
    assert row.ratio == pytest.approx(ratio)
    assert row.fraction_of_limit == pytest.approx(fraction)
    assert row.pairs == {"ours": [1, 2, 8], "reference": [10, 6, 16], "limit": [0.1, 1, 8]}


def test_a_row_without_reference_and_limit_has_no_ratio() -> None:
    row = row_of_pairs("a", "A row", "s", path(range(1, PAIRS + 1), [], "ours"), goal={"ours": 9})
    assert PAIRS >= 5
    assert (row.ours, row.reference, row.ratio, row.fraction_of_limit) == ((PAIRS + 1) / 2, None, None, None)
    assert (row.goal, list(row.pairs)) == ({"ours": 9}, ["ours"])


def test_a_row_is_a_file_with_the_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Row("start", "Start", "s", 1.23456, parts=[Part("import", "s", 0.123456, 0.3)], notes=["warm"]).write(tmp_path)
    written = json.loads((tmp_path / "start.json").read_text("utf-8"))
    assert {"name", "unit", "ours", "reference", "ratio", "fraction_of_limit"} <= written.keys()
    assert (written["ours"], written["ratio"]) == (1.235, None)
    assert written["parts"] == [{"name": "import", "unit": "s", "value": 0.1235, "at_most": 0.3}]
    assert {"processor", "cores", "memory", "tensorflow"} <= written["machine"].keys()
    assert "start [s]" in capsys.readouterr().out


@pytest.mark.parametrize(("relative", "unit", "value"), [(False, "s", 6.0), (True, "times one", 2.0)])
def test_rounds_run_each_once_and_compare_within(relative: bool, unit: str, value: float) -> None:
    calls: list[str] = []
    ones, others = [1.0, 2.0, 3.0, 4.0, 100.0], [2.0, 4.0, 6.0, 8.0, 300.0]
    runs = {"one": path(ones, calls, "one"), "other": path(others, calls, "other")}
    row = row_of_rounds("row", "A row", "s", runs, relative=relative)
    assert calls == ["one", "other"] * PAIRS
    assert (row.ours, list(row.parts)) == (3.0, [Part("other", unit, value)])
    assert row.pairs == {"one": ones, "other": others}
