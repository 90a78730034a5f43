"""Has several programs work on the same: one workspace, one queue, one store of MLflow."""

import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kills import Checkout

LOCKED = 30.0  # seconds


@dataclass
class Together:
    """What came of several programs.

    Attributes:
        what: they did.
        ended: how they ended.
        faults: what should not be.
    """

    what: str
    ended: str
    faults: list[str]


def run(checkout: Checkout, folder: Path) -> Iterator[Together]:
    """Have programs work at once.

    Args:
        checkout: in which every stage has run undisturbed.
        folder: an empty one, for copies.
    """
    here = checkout.copied(folder / "checkout")
    yield _two_repros(here)
    yield _locked(here)
    yield _one_store([here, checkout.copied(folder / "other")])
    yield _two_workers(here)


def _two_repros(checkout: Checkout) -> Together:
    checkout.forget("train")
    processes = [checkout.start("train") for _ in range(2)]
    said = [process.communicate(timeout=900)[0] for process in processes]
    codes = [process.returncode for process in processes]
    refusals = [text for text, code in zip(said, codes, strict=True) if code]
    faults = [] if 0 in codes else ["none went through"]
    faults += [
        f"refused without a reason: {text[-300:]}" for text in refusals if "Traceback" in text or "ERROR" not in text
    ]
    last = [line for line in "\n".join(refusals).splitlines() if line.startswith("ERROR")]
    ended = f"one went through, one was refused: {last[0]}" if refusals and last else "one after the other"
    return Together("two `dvc repro` in one workspace", ended, faults + checkout.differing("train"))


def _locked(checkout: Checkout) -> Together:
    """Have another writer hold MLflow's database for a while as training begins."""
    checkout.forget("train")
    held, free = threading.Event(), threading.Event()

    def hold() -> None:
        with sqlite3.connect(checkout.path / "mlflow.db", timeout=60, isolation_level=None) as database:
            database.execute("BEGIN EXCLUSIVE")
            held.set()
            free.wait(LOCKED)
            database.execute("ROLLBACK")

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    began = time.perf_counter()
    try:
        checkout.repro("train")
        faults = checkout.differing("train")
    except RuntimeError as error:
        faults = [str(error)[-300:]]
    took = time.perf_counter() - began
    free.set()
    holder.join()
    ended = f"trained, in {took:.0f} s instead of {checkout.seconds['train']:.0f}"
    return Together(f"MLflow's database locked for {LOCKED:g} s", ended, faults)


def _one_store(checkouts: list[Checkout]) -> Together:
    """Have two checkouts train at once, and log to the store of the first."""
    store = f"sqlite:///{checkouts[0].path / 'mlflow.db'}"
    before = _runs(checkouts[0])
    processes = []
    for checkout in checkouts:
        checkout.forget("train")
        checkout.environment = checkout.environment | {"MLFLOW_TRACKING_URI": store}
        processes.append(checkout.start("train"))
    said = [process.communicate(timeout=900)[0] for process in processes]
    faults = [text[-300:] for text, process in zip(said, processes, strict=True) if process.returncode]
    faults += [name for checkout in checkouts for name in checkout.differing("train")]
    del checkouts[0].environment["MLFLOW_TRACKING_URI"]
    finished = _runs(checkouts[0]) - before
    faults += [] if finished == 2 else [f"{finished} runs have finished"]
    return Together("two trainings that log to one SQLite", f"{finished} runs have finished", faults)


def _runs(checkout: Checkout) -> int:
    with sqlite3.connect(checkout.path / "mlflow.db") as database:
        found = database.execute("SELECT count(*) FROM runs WHERE status = 'FINISHED'").fetchone()
    return int(found[0])


def _two_workers(checkout: Checkout) -> Together:
    """Queue two experiments, and have two workers make them."""
    for seed in (2, 3):
        checkout.run("dvc", "exp", "run", "--queue", "--name", f"seed-{seed}", "-S", f"seed={seed}")
    checkout.run("dvc", "queue", "start", "--jobs", "2")
    end = time.monotonic() + 900
    states = []
    while time.monotonic() < end:
        time.sleep(2)
        told = subprocess.run(
            ["dvc", "queue", "status"], cwd=checkout.path, env=checkout.environment, capture_output=True, text=True
        ).stdout
        states = [line.split()[-1] for line in told.splitlines() if "seed-" in line]
        if states and all(state in ("Success", "Failed") for state in states):
            break
    faults = [] if states == ["Success", "Success"] else [f"they are {', '.join(states) or 'gone'}"]
    return Together("two queue workers", ", ".join(states), faults)
