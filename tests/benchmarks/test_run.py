"""The page of all rows, and the command that measures them."""

import json
from pathlib import Path
from typing import Any

import pytest
import run
from checkout import ROOT
from measure import Part, Row
from run import PAGE, RESULTS, ROWS, SCRIPTS, main, page

ROW = Row(
    "beam-search",
    "beam search",
    "captions/s",
    1234.5,
    100.0,
    12.345,
    0.456,
    agreement="the same words",
    goal={"ratio": 10, "fraction_of_limit": 0.4},
    notes=["a beam of 3"],
)


def written(directory: Path, *rows: Row) -> Path:
    for row in rows:
        row.write(directory)
    return directory


def cells(text: str, row: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith(f"| `{row}`")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_a_row_stands_in_the_table_and_its_notes_below(tmp_path: Path) -> None:
    text = page(written(tmp_path, ROW))
    expected = ["`beam-search`: beam search", "captions/s", "1,234", "", "100", "12.3", "10", "46%", "40%", "yes"]
    assert cells(text, "beam-search") == [expected]
    assert "- Same result: the same words." in text
    assert "- A beam of 3." in text
    assert "| cores | " in text


@pytest.mark.parametrize(
    ("unit", "ours", "ratio", "fraction", "goal", "reached"),
    [
        ("s", 5.0, None, None, {"ours": 5}, "yes"),
        ("s", 5.1, None, None, {"ours": 5}, "no"),
        ("MiB", 5.1, None, None, {"ours": 5}, "no"),
        ("captions/s", 5.1, None, None, {"ours": 5}, "yes"),
        ("captions/s", 1.0, 4.0, None, {"ratio": 4}, "yes"),
        ("captions/s", 1.0, 3.99, None, {"ratio": 4}, "no"),
        ("s", 1.0, 4.1, 0.5, {"ratio": 4, "fraction_of_limit": 0.5}, "yes"),
        ("s", 1.0, 4.1, 0.49, {"ratio": 4, "fraction_of_limit": 0.5}, "no"),
        ("s", 1.0, 4.1, None, {"ratio": 4, "fraction_of_limit": 0.5}, "no"),
        ("s", 1.0, 4.1, 0.9, {}, "–"),
    ],
)
def test_goals_are_all_to_be_reached(
    unit: str, ours: float, ratio: float | None, fraction: float | None, goal: Any, reached: str, tmp_path: Path
) -> None:
    row = Row("beam-search", "beam search", unit, ours, None, ratio, fraction, goal=goal)
    [found] = cells(page(written(tmp_path, row)), "beam-search")
    assert found[-1] == reached


def test_parts_with_a_goal_stand_in_the_table_the_others_in_the_notes(tmp_path: Path) -> None:
    parts = [Part("import", "s", 0.25, 0.3), Part("nothing to do", "s", 6, 5), Part("bare", "s", 0.01)]
    text = page(written(tmp_path, Row("start", "first caption", "s", 4.0, goal={"ours": 6}, parts=parts)))
    assert [[line[0], line[2], line[3], line[-1]] for line in cells(text, "start")] == [
        ["`start`: first caption", "4", "6", "yes"],
        ["`start`: import", "0.25", "0.3", "yes"],
        ["`start`: nothing to do", "6", "5", "no"],
    ]
    assert "- Also: bare: 0.01 s." in text


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    text = page(tmp_path)
    for name in (*ROWS, "accelerator"):
        [found] = cells(text, name)
        assert "not measured" in found
    assert "growth.png" not in text


@pytest.mark.parametrize("name", ["beam-search", "profile", "growth"])
def test_another_machine_is_said(name: str, tmp_path: Path) -> None:
    others = [Row(other, other, "s", 1.0) for other in ("start", "repro")]
    row = json.loads((written(tmp_path, ROW, *others) / "beam-search.json").read_text("utf-8"))
    there = {"machine": row["machine"] | {"cores": "1024"}, "parts": [] if name == "beam-search" else {"dot": {}}}
    (tmp_path / f"{name}.json").write_text(json.dumps(row | there), "utf-8")
    text = page(tmp_path)
    assert "Measured on another machine: cores 1024." in text
    assert "| cores | 1024 |" not in text


def test_the_page_is_that_of_the_results() -> None:
    assert PAGE.read_text("utf-8") == page(RESULTS)


def test_every_row_has_a_file_it_can_be_measured_by() -> None:
    names = {script[0] for script in SCRIPTS.values()}
    assert [name for name in sorted(names) if not (ROOT / "benchmarks" / name).is_file()] == []


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Scripts that are run, of which `bench_start.py` fails; the page is written to a directory of the test's."""
    scripts: list[str] = []

    def measure(script: tuple[str, ...]) -> int:
        scripts.append(" ".join(script))
        return int(script[0] == "bench_start.py")

    monkeypatch.setattr(run, "measure", measure)
    monkeypatch.setattr(run, "PAGE", tmp_path / "README.md")
    monkeypatch.setattr(run, "RESULTS", written(tmp_path / "results", ROW))
    return scripts


def test_rows_run_in_a_fixed_order_and_go_on_after_a_failure(measured: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^bench: failed, with their last results kept: start$"):
        main(["memory", "start,beam-search"])
    assert measured == ["bench_beam_search.py", "bench_start.py", "bench_memory.py"]
    assert (tmp_path / "README.md").read_text("utf-8") == page(tmp_path / "results")


def test_all_rows_by_default(measured: list[str]) -> None:
    with pytest.raises(SystemExit):
        main([])
    assert measured == [" ".join(script) for script in SCRIPTS.values()]


def test_an_unknown_row_is_said_before_anything_runs(measured: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^bench: there is no row speed: choose of features-efficientnet_lite0, "):
        main(["start", "speed"])
    assert not measured and not (tmp_path / "README.md").exists()
