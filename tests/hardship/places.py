"""Lets a disk be full, read-only or of another time while stages run, and looks whether all goes on afterwards."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kills import Checkout

SIZE = 1 << 30  # bytes of the disk that is full
LEFT = 200_000  # bytes of it that are free while a stage runs
MAY_MOUNT = "CAPTIONER_HARDSHIP_MAY_MOUNT"


@dataclass
class Place:
    """What came of a stage in a bad place.

    Attributes:
        place: what was wrong, with what.
        stage: that ran.
        ended: how it ended: the line that said why, or that it went through.
        faults: what should not be: a stack trace, half-written files, or other outputs when all was well again.
    """

    place: str
    stage: str
    ended: str
    faults: list[str]


def go_where_one_may_mount() -> bool:
    """Have this program begin again in a namespace in which it may mount; say whether it may, then or if it cannot."""
    if MAY_MOUNT not in os.environ:
        command = ["unshare", "--user", "--map-root-user", "--mount"]
        try:
            subprocess.run([*command, "mount", "-t", "tmpfs", "tmpfs", "/tmp"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            return False
        os.execvpe(command[0], [*command, sys.executable, *sys.argv], {**os.environ, MAY_MOUNT: "1"})
    return True


def run(checkout: Checkout, folder: Path, full: bool) -> Iterator[Place]:
    """Run stages in bad places, and again when these are good.

    Args:
        checkout: in which every stage has run undisturbed; it stays as it is.
        folder: an empty one, for what is mounted and copied.
        full: all stages in all places, else some.
    """
    stages = ["download", "features", "blind", "train", "fine_tune", "evaluate"]
    disk, temporary, cache = folder / "disk", folder / "disk/temporary", folder / "disk/cache"
    with _mounted(disk, "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs"):
        here = checkout.copied(disk / "checkout")
        for stage in stages if full else ["features", "train"]:
            yield _full("workspace", here, stage, disk)
        shutil.rmtree(here.path)
        here = checkout.copied(folder / "checkout")
        temporary.mkdir()
        here.environment = here.environment | {"TMPDIR": str(temporary)}
        for stage in stages if full else ["train"]:
            yield _full("TMPDIR", here, stage, disk)
        here.environment = checkout.environment
        shutil.move(here.path / ".dvc/cache", cache)
        here.cache = cache
        here.run("dvc", "config", "--local", "cache.dir", str(cache))
        for stage in stages if full else ["features"]:
            yield _full("DVC's cache", here, stage, disk)
        for stage in ("train", "fine_tune") if full else ("train",):
            for when, moment in (("the future", time.time() + 10 * 365 * 86400), ("1970", 1.0)):
                yield _at_another_time(when, here, stage, moment)
        yield _read_only(here, folder / "bound")


@contextmanager
def _mounted(place: Path, *arguments: str) -> Iterator[None]:
    place.mkdir()
    subprocess.run(["mount", *arguments, str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def _full(place: str, checkout: Checkout, stage: str, disk: Path) -> Place:
    """Run a stage while the disk is full, and again when it is not."""
    checkout.forget(stage)
    checkout.remove(stage)  # else DVC makes room for what is new
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - LEFT)
    ended, faults = _tried(checkout, stage)
    ballast.unlink()
    return Place(f"full disk: {place}", stage, ended, faults + _afterwards(checkout, stage))


def _at_another_time(when: str, checkout: Checkout, stage: str, moment: float) -> Place:
    """Have all files be of another time, as after a jump of the clock, in the midst of a stage."""
    checkout.forget(stage)
    process = checkout.start(stage)
    try:
        process.communicate(timeout=0.7 * checkout.seconds[stage])
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    for each in [*checkout.path.glob("data/**/*"), *checkout.path.glob(".cache/**/*")]:
        if each.is_file():
            os.utime(each, (moment, moment))
    return Place(f"clock: files of {when}", stage, "killed midway", _afterwards(checkout, stage))


def _read_only(checkout: Checkout, bound: Path) -> Place:
    """Run a stage in a workspace that nobody may write to, by DVC and alone."""
    checkout.forget("train")
    with _mounted(bound, "--bind", str(checkout.path)):
        subprocess.run(["mount", "-o", "remount,bind,ro", str(bound)], check=True)
        there = checkout.at(bound)
        ended, faults = _tried(there, "train")
        command = [sys.executable, "stages/train.py"]
        alone = subprocess.run(command, cwd=bound, env=there.environment, capture_output=True, text=True)
    if not alone.returncode or "Traceback" in alone.stderr:
        faults.append(f"the stage alone ended with {alone.returncode}: {alone.stderr[-300:]}")
    return Place("read-only workspace", "train", ended, faults + _afterwards(checkout, "train"))


def _tried(checkout: Checkout, stage: str) -> tuple[str, list[str]]:
    """Run a stage, and return how it ended, and what should not be."""
    process = checkout.start(stage)
    said = process.communicate(timeout=900)[0]
    if not process.returncode:
        return "went through", []
    lines = [line for line in said.splitlines() if line.startswith((f"{stage}:", "ERROR"))]
    faults = [f"a stack trace, ending in {said.strip().splitlines()[-3:]}"] if "Traceback" in said else []
    faults += [] if lines else [f"no line says why: {said[-300:]}"]
    return (lines or [""])[0], [*faults, *checkout.leftovers()]


def _afterwards(checkout: Checkout, stage: str) -> list[str]:
    """Run a stage where nothing is wrong any more, and return what differs from what it made undisturbed."""
    try:
        checkout.repro(stage)
    except RuntimeError as error:
        return [f"afterwards: {str(error)[-300:]}"]
    return checkout.differing(stage) + checkout.leftovers()
