"""Where a stage keeps what it can go on from after it was interrupted, and when that still counts."""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from captioner.common.files import json_of, write_json

ABOUT, GONE = "about.json", ".gone"
KEPT = 14 * 24 * 3600
"""Seconds for which what nobody went on from is kept."""


@dataclass(frozen=True)
class Work:
    """All that the results of a stage depend on.

    Attributes:
        stage: its name.
        params: values of parameters by name.
        others: hashes of files and versions of packages, by name.
    """

    stage: str
    params: Mapping[str, Any]
    others: Mapping[str, str]

    @property
    def key(self) -> str:
        """Tells it from other work."""
        return hashlib.sha256(json_of(asdict(self)).encode()).hexdigest()[:16]

    def difference(self, before: "Work") -> str:
        """Say in what an earlier work of this stage differs from this one."""
        said = [
            f"{name} was {before.params.get(name)} and is {self.params.get(name)}"
            for name in {**self.params, **before.params}
            if before.params.get(name) != self.params.get(name)
        ]
        names = {**self.others, **before.others}
        said += [f"{name} has changed" for name in names if before.others.get(name) != self.others.get(name)]
        more = f" and {len(said) - 3} more" if len(said) > 3 else ""
        return f"{', '.join(said[:3])}{more}"


@contextmanager
def resumable(root: Path, work: Work) -> Iterator[Path | None]:
    """Yield a directory for what an interrupted stage can go on from; it goes when the block succeeds.

    Args:
        root: of the directories of all stages.
        work: to go on with; another one's state is never taken.

    Yields:
        The directory; none where another process is at the same work.
    """
    place = root / work.stage / work.key
    place.parent.mkdir(parents=True, exist_ok=True)
    with _locked(place) as ours:
        if not ours:
            print(f"Another process does the same {work.stage}, so this one keeps nothing to go on from.", flush=True)
            yield None
            return
        others = _others(place)
        if others and not place.is_dir():
            print(f"{work.stage} starts afresh: since it was interrupted, {work.difference(others[0])}.", flush=True)
        place.mkdir(exist_ok=True)
        write_json(place / ABOUT, asdict(work))
        yield place
        _remove(place)


@contextmanager
def _locked(place: Path) -> Iterator[bool]:
    """Lock a directory of work against other processes, and yield whether that was possible.

    The file of the lock stays: another process may have opened it, and be about to lock it.
    """
    lock = FileLock(f"{place}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _others(place: Path) -> list[Work]:
    """Return the other interrupted work of the stage, the latest first; sweep up what is old, damaged or half removed.

    What another process is at was not interrupted, and is passed over.
    """
    found: list[tuple[float, Work]] = []
    for path in (each for each in place.parent.iterdir() if each.is_dir() and each != place):
        with _locked(path.with_suffix("")) as ours:
            if not ours:
                continue
            try:
                changed = (path / ABOUT).stat().st_mtime
                other = Work(**json.loads((path / ABOUT).read_text("utf-8")))
            except (OSError, ValueError, TypeError):
                changed = 0.0
            if path.suffix == GONE or changed < time.time() - KEPT:
                shutil.rmtree(path, ignore_errors=True)
            else:
                found.append((changed, other))
    return [other for _, other in sorted(found, key=lambda each: -each[0])]


def _remove(place: Path) -> None:
    """Remove a directory of work; what a kill leaves of it counts for nothing."""
    gone = place.with_suffix(GONE)
    shutil.rmtree(gone, ignore_errors=True)
    place.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)
