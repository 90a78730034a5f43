"""How long a newcomer waits for all results: the row `repro`.

    python benchmarks/bench_repro.py

A fresh clone of this checkout's last commit, with DVC's cache and MLflow's store of its own and the environment that
runs this, is brought from nothing to scores on drawn scenes by `dvc repro`; then again, with nothing to do.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from measure import CHECKOUT, PAIRS, Part, row_of_pairs, seconds

from captioner.common.errors import CaptionerError


def call(command: list[str], directory: Path, environment: Mapping[str, str]) -> str:
    """Run a command and return what it printed.

    Raises:
        CaptionerError: it failed.
    """
    finished = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    if finished.returncode:
        said = (finished.stderr or finished.stdout).strip().splitlines() or ["nothing"]
        raise CaptionerError(f"`{' '.join(command)}` ended with {finished.returncode} and said: {said[-1]}")
    return finished.stdout


def surroundings() -> dict[str, str]:
    """Return the environment of a newcomer: nothing of another pipeline's, this Python's tools first."""
    left_out = ("PYTHONPATH", "DVC_", "MLFLOW_", "CAPTIONER_", "KERAS_HOME", "GIT_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    return kept | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "DVC_NO_ANALYTICS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
    }


def main() -> None:
    """Measure the row and write it."""
    environment = surroundings()
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "captioner"
        call(["git", "clone", "--quiet", str(CHECKOUT), str(clone)], Path(folder), environment)
        commit = call(["git", "rev-parse", "--short", "HEAD"], clone, environment).strip()
        row = row_of_pairs(
            "repro",
            "`dvc repro` on scenes, clean",
            "s",
            lambda: seconds(lambda: call(["dvc", "repro"], clone, environment)),
            pairs=1,
            goal={"ours": 240},
        )
        again = [seconds(lambda: call(["dvc", "repro"], clone, environment)) for _ in range(PAIRS)]
        stages: dict[str, float] = {}
        for path in (clone / "results/seconds").glob("*.json"):
            stages |= json.loads(path.read_text("utf-8"))
    row = replace(
        row,
        parts=[
            Part("`dvc repro` with nothing to do", "s", statistics.median(again), 5),
            *(Part(f"stage {name}", "s", took) for name, took in sorted(stages.items(), key=lambda each: -each[1])),
        ],
        notes=[
            f"measured once, since it takes minutes, and with nothing to do {PAIRS} times; of commit {commit}",
            "a stage's seconds do not hold the start of its Python and its imports, nor what DVC does before and after",
        ],
    )
    row.write()


if __name__ == "__main__":
    try:
        main()
    except CaptionerError as error:
        sys.exit(f"bench_repro: {error}")
