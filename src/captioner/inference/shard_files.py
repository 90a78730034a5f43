"""Folders of what is made of shards, local or wherever fsspec writes.

A folder has `index.json`, which says what its files are made with, and for each shard `NAME` one file or several, and
`NAME_stats.json`, which is written last: a shard that has it is done. Files are whole or absent.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, ClassVar, Generic, Protocol, TypeVar

from pydantic import TypeAdapter, ValidationError

from captioner.common import files, threads
from captioner.common.errors import CaptionerError
from captioner.data import shards
from captioner.data.shards import Shard, reaching

INDEX, STATS = "index.json", "_stats.json"
STATS_AT_A_TIME = 32  # files that are read at once


class _Stats(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def bytes(self) -> int: ...  # of a shard's files together


Made = TypeVar("Made", bound=_Stats)


class ShardFiles(Generic[Made]):
    """A folder with files for each shard.

    Args:
        url: its path or address.
        endings: of the files that each shard gets; what is before is the shard's name.
        stats: a dataclass, what `NAME_stats.json` says.
        what: is in the folder; for messages.

    Raises:
        CaptionerError: there is no such file system.
    """

    def __init__(self, url: str, endings: Sequence[str], stats: type[Made], what: str):
        self.url = url.rstrip("/")
        self._endings, self._stats, self._what = endings, TypeAdapter(stats), what
        self._files, self._path = shards.filesystem(self.url)
        self._local = "file" in (self._files.protocol, *self._files.protocol)

    @property
    def address(self) -> str:
        """The folder as every machine finds it, whatever directory it works in."""
        return str(self._files.unstrip_protocol(self._path))

    def index(self) -> dict[str, Any] | None:
        """Return what the files are made with; nothing, if there is no `index.json`."""
        with reaching(self.url):
            try:
                return _parsed(self._files.cat_file(f"{self._path}/{INDEX}"))
            except FileNotFoundError:
                return None

    def begin(self, made_with: dict[str, Any], given: Sequence[Shard]) -> None:
        """Note what the files of some shards are made with.

        Raises:
            CaptionerError: files that were made with something else are there, or those of others that have the names
                which these get.
        """
        there = self._sizes()
        before = self.index() if INDEX in there else None
        names = (f"{shard.name}{ending}" for shard in given for ending in (*self._endings, STATS))
        taken = [name for name in names if name in there]
        if taken and before is None:
            raise CaptionerError(
                f"{self.url} has {taken[0]}, which is not of this command and would be replaced: give another folder"
            )
        if before is not None:
            if before == made_with:
                return
            differing = [name for name, value in made_with.items() if before.get(name) != value]
            if any(name.endswith(STATS) for name in there):
                raise CaptionerError(
                    f"{self.url} has {self._what} that were made with another {', '.join(differing)}: give another "
                    "folder, or remove it"
                )
        self.write_file(INDEX, (files.json_of(made_with, indent=2) + "\n").encode())

    def whole(self, given: Sequence[Shard], fits: Callable[[Made, Shard], bool]) -> dict[str, Made]:
        """Return what is said of the shards whose files are there, have their size and fit, by name."""
        there = self._sizes()
        noted = [shard for shard in given if f"{shard.name}{STATS}" in there]

        def read(shard: Shard) -> Made | None:
            with reaching(self.url):
                stats = self._files.cat_file(f"{self._path}/{shard.name}{STATS}")
            try:
                found = self._stats.validate_json(stats, strict=True)
            except ValidationError:
                return None
            sizes = [there.get(f"{shard.name}{ending}") for ending in self._endings]
            known = [size for size in sizes if size is not None]
            return found if len(known) == len(sizes) and found.bytes == sum(known) and fits(found, shard) else None

        stats = threads.prefetch(read, noted, 4 * STATS_AT_A_TIME, STATS_AT_A_TIME)
        return {shard.name: made for shard, made in zip(noted, stats, strict=True) if made}

    def write(self, shard: Shard, contents: Sequence[bytes], made: Made) -> None:
        """Write the files of a shard, and what is said of it last."""
        for ending, content in zip(self._endings, contents, strict=True):
            self.write_file(f"{shard.name}{ending}", content)
        self.write_file(f"{shard.name}{STATS}", (files.json_of(asdict(made)) + "\n").encode())

    def address_of(self, shard: Shard, ending: str) -> str:
        """A file of a shard, as every machine finds it."""
        return f"{self.address}/{shard.name}{ending}"

    def read(self, shard: Shard, ending: str) -> bytes:
        """Return what is in a file of a shard."""
        with reaching(self.url):
            return bytes(self._files.cat_file(f"{self._path}/{shard.name}{ending}"))

    def open(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """Open a file, to read pieces of it."""
        with reaching(self.url):
            return self._files.open(f"{self._path}/{name}", "rb")

    def write_file(self, name: str, content: bytes) -> None:
        """Write a file that is whole or absent; those of S3 and its like are so by themselves."""
        with reaching(self.url):
            if self._local:
                with files.replacing(Path(self._path, name)) as beside:
                    beside.write_bytes(content)
            else:
                self._files.pipe_file(f"{self._path}/{name}", content)

    def _sizes(self) -> dict[str, int]:
        """Return the size of each file that is there, by its name."""
        with reaching(self.url):
            try:
                found = shards.sizes(self._files, self._path)
            except FileNotFoundError:
                return {}
        return {path.rpartition("/")[2]: size for path, size in found.items()}


def _parsed(content: bytes) -> dict[str, Any]:
    """Return the object that JSON has, an empty one if it has none."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
