"""Measure the rows of the benchmark page one after the other, and write the page.

    python benchmarks/run.py [ROW ...]

Each row's script runs in a process of its own, so that no row finds the memory, threads or caches that another left. A
row that fails leaves its last result; the others go on. `benchmarks/README.md` is made of `benchmarks/results/` alone.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from measure import CHECKOUT, LOWER_IS_BETTER, RESULTS

from captioner.common.files import replacing

PAGE = CHECKOUT / "benchmarks/README.md"
ROWS = {
    "features-efficientnet_lite0": ("bench_features.py", "efficientnet_lite0"),
    "features-mobilenet": ("bench_features.py", "mobilenet"),
    "features-densenet121": ("bench_features.py", "densenet121"),
    "encoders": ("bench_encoders.py",),
    "training-uniform": ("bench_training.py", "uniform"),
    "training-bahdanau": ("bench_training.py", "bahdanau"),
    "training-dot": ("bench_training.py", "dot"),
    "attentions": ("bench_attentions.py",),
    "fine-tuning": ("bench_fine_tuning.py",),
    "checkpoints": ("bench_checkpoints.py",),
    "beam-search": ("bench_beam_search.py",),
    "shards": ("bench_shards.py",),
    "streaming": ("bench_streaming.py",),
    "scheduler": ("bench_scheduler.py",),
    "time-to-cider": ("bench_time_to_cider.py",),
    "repro": ("bench_repro.py",),
    "start": ("bench_start.py",),
    "figures": ("bench_figures.py",),
    "memory": ("bench_memory.py",),
}
GROWTH, PROFILE = "growth", "profile"
SCRIPTS: Mapping[str, Sequence[str]] = ROWS | {PROFILE: ("bench_profile.py",), GROWTH: ("bench_growth.py",)}
ACCELERATOR = "accelerator"

INTRODUCTION = """\
# Benchmarks

`make bench` measures every row again and writes this page; `make bench ROWS=start,memory` measures some. It wants the
machine for itself: what else runs is measured too.

Our path and the reference's run in turn (A, B, A, B …) in one process, on the same input, and have to give the same
result within tolerance. *Ours* and *reference* are medians of at least five runs, *ratio* says how many times better
ours is: the median over the pairs, since the two runs of a pair see the same machine. *Of the limit* is the share of
the rate that the machine's own float32 matrix product (measured in turn as well, by the faster of NumPy and TensorFlow)
would allow if nothing but the row's matrix products took time. All data is drawn from seeds; no photographs are needed.
Each row is a file in `results/`, made by a script of this directory.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the rows named, or all, and write the page; exit code 1 when one failed."""
    parser = argparse.ArgumentParser(description="Measure the rows of the benchmark page, and write it.")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(SCRIPTS)}; all by default")
    given = [name for one in parser.parse_args(arguments).rows for name in one.split(",") if name]
    unknown = [name for name in given if name not in SCRIPTS]
    if unknown:
        sys.exit(f"bench: there is no row {', '.join(unknown)}: choose of {', '.join(SCRIPTS)}")
    failed = []
    try:
        for name in [name for name in SCRIPTS if not given or name in given]:
            began = time.perf_counter()
            if measure(SCRIPTS[name]):
                failed.append(name)
            print(f"{name} took {time.perf_counter() - began:.0f} s", flush=True)
    except KeyboardInterrupt:
        sys.exit("bench: interrupted; what was measured before is kept, the page is as it was")
    with replacing(PAGE) as beside:
        beside.write_text(page(RESULTS), "utf-8")
    if failed:
        sys.exit(f"bench: failed, with their last results kept: {', '.join(failed)}")


def measure(script: Sequence[str]) -> int:
    """Run a row's script, and return its exit code."""
    path = os.pathsep.join(filter(None, [str(CHECKOUT / "src"), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, str(CHECKOUT / "benchmarks" / script[0]), *script[1:]]
    return subprocess.run(command, cwd=CHECKOUT, env=os.environ | {"PYTHONPATH": path}, check=False).returncode


def page(results: Path) -> str:
    """Return the page that a directory of results makes."""
    known = [*ROWS, ACCELERATOR, PROFILE, GROWTH]
    found = {
        name: json.loads((results / f"{name}.json").read_text("utf-8"))
        for name in known
        if (results / f"{name}.json").exists()
    }
    usual = _usual_machine(list(found.values()))
    lines = [INTRODUCTION, *_machine(usual)]
    lines += [
        "## What was measured",
        "",
        "| row | unit | ours | at most | reference | ratio | goal | of the limit | goal | reached |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in (*ROWS, ACCELERATOR):
        lines += _table(found[name]) if name in found else [_line(f"`{name}`", "", "not measured", *[""] * 6, "–")]
    notes = [line for name in (*ROWS, ACCELERATOR) if name in found for line in _notes(found[name], usual)]
    lines += ["", *(["## Notes", "", *notes] if notes else [])]
    if PROFILE in found:
        lines += _profile(found[PROFILE], usual)
    if GROWTH in found:
        lines += _growth(found[GROWTH], usual)
    return "\n".join(lines).rstrip() + "\n"


def _usual_machine(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the machine of most rows."""
    counted = Counter(json.dumps(row["machine"], sort_keys=False) for row in rows)
    return json.loads(counted.most_common(1)[0][0]) if counted else {}


def _machine(machine: Mapping[str, str]) -> list[str]:
    if not machine:
        return []
    return ["## The machine", "", "| | |", "|---|---|", *(_line(*item) for item in machine.items()), ""]


def _table(row: Mapping[str, Any]) -> Iterator[str]:
    """A line for the row, and one for each of its parts that has a goal."""
    goal = row["goal"]
    yield _line(
        f"`{row['name']}`: {row['title']}",
        row["unit"],
        _number(row["ours"]),
        _number(goal.get("ours")),
        _number(row["reference"]),
        _number(row["ratio"]),
        _number(goal.get("ratio")),
        _percent(row["fraction_of_limit"]),
        _percent(goal.get("fraction_of_limit")),
        _reached(row),
    )
    for part in row.get("parts", ()):
        if part["at_most"] is not None:
            reached = "yes" if part["value"] <= part["at_most"] else "no"
            limits = (_number(part["value"]), _number(part["at_most"]))
            yield _line(f"`{row['name']}`: {part['name']}", part["unit"], *limits, *[""] * 5, reached)


def _reached(row: Mapping[str, Any]) -> str:
    """Say whether all goals of a row's own values were reached."""
    if not row["goal"]:
        return "–"
    met = [
        row[key] is not None
        and (row[key] <= goal if key == "ours" and row["unit"] in LOWER_IS_BETTER else row[key] >= goal)
        for key, goal in row["goal"].items()
    ]
    return "yes" if all(met) else "no"


def _notes(row: Mapping[str, Any], usual: Mapping[str, str]) -> list[str]:
    others = [
        f"{part['name']}: {_number(part['value'])} {part['unit']}"
        for part in row.get("parts", ())
        if part["at_most"] is None
    ]
    said = [
        *([f"Same result: {row['agreement']}."] if row["agreement"] else []),
        *(f"{note[0].upper()}{note[1:]}." for note in row["notes"]),
        *([f"Also: {'; '.join(others)}."] if others else []),
        *_elsewhere(row, usual),
    ]
    return [f"**`{row['name']}`**", "", *(f"- {sentence}" for sentence in said), ""] if said else []


def _elsewhere(row: Mapping[str, Any], usual: Mapping[str, str]) -> list[str]:
    machine = ", ".join(f"{key} {value}" for key, value in row["machine"].items() if usual.get(key) != value)
    return [f"Measured on another machine: {machine}."] if machine else []


def _profile(profile: Mapping[str, Any], usual: Mapping[str, str]) -> list[str]:
    parts: Mapping[str, Mapping[str, float]] = profile["parts"]
    names = list(parts)
    return [
        "## Where the time of training goes",
        "",
        "Milliseconds of a step of 80 captions, by the recipe for photographs, on data of Flickr8k's shape. The parts",
        "are differences of medians, each variant compiled for itself, so a small one may come out below 0.",
        *_elsewhere(profile, usual),
        "",
        _line("part", *names),
        f"|---|{'---|' * len(names)}",
        *(_line(part, *(_number(parts[name][part]) for name in names)) for part in parts[names[0]]),
        "",
    ]


def _growth(growth: Mapping[str, Any], usual: Mapping[str, str]) -> list[str]:
    said = [*(f"{note[0].upper()}{note[1:]}." for note in growth["notes"]), *_elsewhere(growth, usual)]
    return ["## How cost grows", "", f"![{growth['title']}](growth.png)", "", *(f"- {one}" for one in said), ""]


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


if __name__ == "__main__":
    main()
