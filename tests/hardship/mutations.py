"""Tries thousands of changed inputs at all doors, in a process that may hang or die of one."""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

HERE = Path(__file__).resolve().parent
PATIENCE = 5.0  # seconds for an input
READY = 300.0  # seconds until the first
MEMORY = 2048  # MiB that all inputs together may take beside what the program has before the first


@dataclass
class Tried:
    """What became of the inputs at a door.

    Attributes:
        taken: how many were taken.
        refused: how many were refused, in one line.
        faults: what else became of one: its number, and what is to be said.
        slowest: seconds, of one.
    """

    taken: int = 0
    refused: int = 0
    faults: list[str] = field(default_factory=list)
    slowest: float = 0.0


def run(count: int, seed: int, directory: Path, patience: float = PATIENCE) -> tuple[dict[str, Tried], int]:
    """Try inputs, door after door, and return what became of them by door, and the MiB that they took at most.

    Args:
        count: how many.
        seed: of what is changed.
        directory: an empty one, to work in.
        patience: seconds that one may take.
    """
    found: dict[str, Tried] = {}
    first, most = 0, 0
    while first < count:
        before = None
        for number, door, told in _worker(seed, first, count - first, directory, patience):
            tried = found.setdefault(door, Tried())
            first = number + 1
            if told["outcome"] == "fault":
                tried.faults.append(f"input {number} of seed {seed}: {told['said']}")
            elif told["outcome"] == "taken":
                tried.taken += 1
            else:
                tried.refused += 1
            tried.slowest = max(tried.slowest, told.get("seconds", patience))
            before = told.get("memory", 0) if before is None else before
            taken = told.get("memory", 0) - before
            if taken > MEMORY >= most:
                tried.faults.append(f"input {number} of seed {seed}: {taken:,} MiB")
            most = max(most, taken)
    return found, most


def _worker(seed: int, first: int, count: int, directory: Path, patience: float) -> Iterator[tuple[int, str, dict]]:
    """Yield the number, the door and the outcome of inputs, until they are through or one ends the process."""
    temporary = directory / "place"
    temporary.mkdir(parents=True, exist_ok=True)
    others = [HERE, HERE.parent / "helpers", HERE.parents[1] / "src"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, others)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TMPDIR": str(temporary),  # where libraries may write
    }
    arguments = [str(each) for each in (seed, first, count, directory)]
    with (directory / "errors").open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, str(HERE / "doors.py"), *arguments], env=environment, stdout=subprocess.PIPE, stderr=errors
        )
    assert process.stdout is not None
    lines: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
    began: dict = {}
    try:
        while True:
            try:
                line = lines.get(timeout=patience if began else READY)
            except queue.Empty:
                if not began:
                    raise RuntimeError(f"{HERE / 'doors.py'} did not begin within {READY:g} seconds") from None
                yield began["number"], began["door"], {"outcome": "fault", "said": f"more than {patience:g} seconds"}
                return
            if not line:
                break
            told = json.loads(line)
            if "number" in told:
                began = told
            else:
                yield began["number"], began["door"], told
    finally:
        process.kill()
        code = process.wait()
    if not began or "number" in told:
        said = f"the process ended with {code}: {(directory / 'errors').read_text('utf-8', 'replace')[-500:]}"
        if not began:
            raise RuntimeError(said)
        yield began["number"], began["door"], {"outcome": "fault", "said": " ".join(said.split())}


def _read(stream: IO[bytes], lines: "queue.Queue[bytes]") -> None:
    for line in stream:
        lines.put(line)
    lines.put(b"")
