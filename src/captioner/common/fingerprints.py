"""What files contain, as hashes, without reading again what has not changed."""

import json
import time
from collections.abc import Iterable
from hashlib import sha256 as sha256_of
from pathlib import Path
from typing import Any

from captioner.common import files, threads

GRANULARITY = 2 * 10**9  # nanoseconds; the coarsest times that a file system in use keeps (FAT)


class FileHashes:
    """SHA-256 of files, computed again only where a file's size, times or inode are others than before.

    A file that changed less than `GRANULARITY` before it was hashed is hashed again next time: another change could
    leave its times as they are.

    Args:
        cache: the JSON file that keeps what was computed. A missing or damaged one only costs time.
    """

    def __init__(self, cache: Path):
        self._cache = cache
        self._known = _read(cache)
        self._used: dict[str, list[Any]] = {}

    def of(self, paths: Iterable[Path]) -> dict[Path, str]:
        """Return the hexadecimal SHA-256 of each file, computed on all cores.

        Raises:
            OSError: one cannot be read.
        """
        paths = list(dict.fromkeys(paths))
        cores = threads.cores()
        return dict(zip(paths, threads.prefetch(self._hash, paths, 4 * cores, cores), strict=True))

    def save(self) -> None:
        """Write the hashes that were asked for to the cache."""
        if self._used and self._used != self._known:
            with files.replacing(self._cache) as beside:
                beside.write_text(json.dumps(self._used) + "\n", "utf-8")

    def _hash(self, path: Path) -> str:
        name, state = str(path.absolute()), _state(path)
        entry = self._known.get(name)
        if entry is None or entry[:-1] != state:
            began = time.time_ns()
            entry = [*state, files.sha256(path)]
            if max(state[1:3]) > began - GRANULARITY:
                return str(entry[-1])
        self._used[name] = entry
        return str(entry[-1])


def combined(hashes: Iterable[tuple[str, str]]) -> str:
    """Return one SHA-256 for the names and hashes of files, whatever their order."""
    digest = sha256_of()
    for name, one in sorted(hashes):
        digest.update(f"{one} {len(name)} {name}\n".encode())
    return digest.hexdigest()


def _state(path: Path) -> list[int]:
    """Return size, time of change of the content and of the inode (nanoseconds), and inode."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _read(cache: Path) -> dict[str, list[Any]]:
    try:
        known = json.loads(cache.read_text("utf-8"))
        return {str(name): list(entry) for name, entry in known.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
