"""Where a stage keeps what it can go on from after it was interrupted, and when that still counts."""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock, Timeout

from captioner.common.files import json_of, write_json

ABOUT = "about.json"
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
def resumable(root: Path, work: Work) -> Iterator[Path]:
    """Yield a directory for what an interrupted stage can go on from; it goes when the block succeeds.

    Args:
        root: of the directories of all stages.
        work: to go on with; another one's state is never taken.

    Yields:
        The directory; where another process is at the same work, one that nobody goes on from.
    """
    place = root / work.stage / work.key
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{place}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"Another process does the same {work.stage}, so this one keeps nothing to go on from.", flush=True)
        with TemporaryDirectory() as temporary:
            yield Path(temporary)
        return
    try:
        others = _others(place)
        if others and not place.is_dir():
            print(f"{work.stage} starts afresh: since it was interrupted, {work.difference(others[0])}.", flush=True)
        place.mkdir(exist_ok=True)
        write_json(place / ABOUT, asdict(work))
        yield place
        shutil.rmtree(place)
    finally:
        lock.release()  # its file stays for a while: another process may be about to lock it


def _others(place: Path) -> list[Work]:
    """Return the other interrupted work of the stage, the latest first; sweep up what is old or damaged."""
    found: list[tuple[float, Work]] = []
    for path in place.parent.glob("*.lock"):
        if path.stat().st_mtime < time.time() - KEPT:
            path.unlink(missing_ok=True)
    for path in place.parent.glob(f"*/{ABOUT}"):
        changed = path.stat().st_mtime
        try:
            other = Work(**json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            changed = 0.0
        if path.parent == place:
            continue
        if changed < time.time() - KEPT:
            shutil.rmtree(path.parent)
        else:
            found.append((changed, other))
    return [other for _, other in sorted(found, key=lambda each: -each[0])]
