"""Captions of large data sets: a file of captions for each shard, on one machine or many.

A folder of captions has `index.json`, which says what they were made with, and for each shard `NAME.jsonl` or
`NAME.parquet`, a row a picture in the shard's order, and `NAME_stats.json`, which is written last: a shard that has it
is done. A row has `key`, and `caption` and `log_probability` (nats), or `error` where the picture cannot be read.
"""

import io
import json
import tarfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from captioner.common import cluster, files, threads
from captioner.common.errors import CaptionerError
from captioner.common.startup import backend, fast_start
from captioner.data import shards
from captioner.data.images import UnreadableImage
from captioner.data.shards import Shard, reaching
from captioner.model.description import Description

INDEX, STATS = "index.json", "_stats.json"
FORM_VERSION = 1
Form = Literal["jsonl", "parquet"]
STATS_AT_A_TIME = 32  # files that are read at once


@dataclass(frozen=True)
class Search:
    """How captions are searched for: see `Captioner.caption`."""

    beam: int = 3
    maximum_words: int | None = None
    length_normalization: float = 1.0


@dataclass(frozen=True)
class Done:
    """What became of a shard.

    Attributes:
        shard: its name.
        shard_bytes: its size.
        pictures: how many it has.
        unreadable: how many of them cannot be read.
        bytes: of the file of captions.
        seconds: that it took.
        problem: why there are no captions, or nothing.
    """

    shard: str
    shard_bytes: int
    pictures: int = 0
    unreadable: int = 0
    bytes: int = 0
    seconds: float = 0.0
    problem: str = ""


class Captions:
    """A folder of captions, local or wherever fsspec writes.

    Args:
        url: its path or address.
        form: of the files.

    Raises:
        CaptionerError: there is no such file system.
    """

    def __init__(self, url: str, form: Form):
        self.url, self._form = url.rstrip("/"), form
        self._files, self._path = shards.filesystem(self.url)
        self._local = "file" in (self._files.protocol, *self._files.protocol)

    @property
    def address(self) -> str:
        """The folder as every machine finds it, whatever directory it works in."""
        return str(self._files.unstrip_protocol(self._path))

    def begin(self, made_with: dict[str, Any], given: Sequence[Shard]) -> None:
        """Note what the captions of some shards are made with.

        Raises:
            CaptionerError: captions that were made with something else are there, or files of others that have the
                names which captions get.
        """
        there = self._sizes()
        taken = [name for shard in given for name in (self._name(shard), self._stats(shard)) if name in there]
        if taken and INDEX not in there:
            raise CaptionerError(
                f"{self.url} has {taken[0]}, which is not of this command and would be replaced: give another folder"
            )
        if INDEX in there:
            with reaching(self.url):
                before = _parsed(self._files.cat_file(f"{self._path}/{INDEX}"))
            if before == made_with:
                return
            differing = [name for name, value in made_with.items() if before.get(name) != value]
            if any(name.endswith(STATS) for name in there):
                raise CaptionerError(
                    f"{self.url} has captions that were made with another {', '.join(differing)}: give another "
                    "folder, or remove it"
                )
        with reaching(self.url):
            self._write(INDEX, (files.json_of(made_with, indent=2) + "\n").encode())

    def done(self, given: Sequence[Shard]) -> dict[str, Done]:
        """Return what became of the shards whose captions are there and whole, by name."""
        there = self._sizes()
        noted = [shard for shard in given if self._stats(shard) in there]

        def read(shard: Shard) -> Done | None:
            with reaching(self.url):
                stats = self._files.cat_file(f"{self._path}/{self._stats(shard)}")
            try:
                found = _DONE.validate_json(stats, strict=True)
            except ValidationError:
                return None
            return found if (found.bytes, found.shard_bytes) == (there.get(self._name(shard)), shard.size) else None

        stats = threads.prefetch(read, noted, 4 * STATS_AT_A_TIME, STATS_AT_A_TIME)
        return {shard.name: done for shard, done in zip(noted, stats, strict=True) if done}

    def _sizes(self) -> dict[str, int]:
        """Return the size of each file that is there, by its name."""
        with reaching(self.url):
            try:
                found = shards.sizes(self._files, self._path)
            except FileNotFoundError:
                return {}
        return {path.rpartition("/")[2]: size for path, size in found.items()}

    def write(self, shard: Shard, rows: Sequence[dict[str, Any]], seconds: float) -> Done:
        """Write the captions of a shard."""
        content = _ENCODED[self._form](rows)
        unreadable = sum("error" in row for row in rows)
        done = Done(shard.name, shard.size, len(rows), unreadable, len(content), round(seconds, 3))
        with reaching(self.url):
            self._write(self._name(shard), content)
            self._write(self._stats(shard), (files.json_of(asdict(done)) + "\n").encode())
        return done

    def _name(self, shard: Shard) -> str:
        return f"{shard.name}.{self._form}"

    @staticmethod
    def _stats(shard: Shard) -> str:
        return f"{shard.name}{STATS}"

    def _write(self, name: str, content: bytes) -> None:
        """Write a file that is whole or absent; those of S3 and its like are so by themselves."""
        if self._local:
            with files.replacing(Path(self._path, name)) as beside:
                beside.write_bytes(content)
        else:
            self._files.pipe_file(f"{self._path}/{name}", content)


def caption(
    model: Path, given: Sequence[Shard], output: str, form: Form = "jsonl", search: Search | None = None
) -> Iterator[tuple[Done, bool]]:
    """Caption shards, and yield what became of each, and whether it was there already.

    Those that are there come first. The others come as they are ready: here, or on the cluster that `RAY_ADDRESS`
    names. A shard that cannot be read has a `problem`, and the others continue.

    Args:
        model: its directory.
        given: the shards.
        output: a folder, which all machines reach.
        form: of the files of captions.
        search: how captions are searched for.

    Raises:
        CaptionerError: there is no model or no cluster, or the folder has captions that were made otherwise.
    """
    search = search or Search()
    captions = Captions(output, form)
    described = Description.read(model)
    captions.begin(
        {
            "version": FORM_VERSION,
            "format": form,
            "model": described.weights_sha256,
            "vocabulary": described.vocabulary_sha256,
            "encoder": described.encoder,
            "backend": backend(),
            **asdict(search),
        },
        given,
    )
    done = captions.done(given)
    yield from ((each, True) for each in done.values())
    waiting = [shard for shard in given if shard.name not in done]
    if waiting:
        packed = _packed(model) if cluster.on_cluster() else None
        work = cluster.each(ShardCaptioner, (str(model), packed, captions.address, form, search), waiting)
        yield from ((each, False) for each in work)


class ShardCaptioner:
    """Captions shards with one model.

    Args:
        model: its directory.
        packed: what is in that, where it has been sent from another machine.
        output: the folder of captions.
        form: of the files in it.
        search: how captions are searched for.
    """

    def __init__(self, model: str, packed: bytes | None, output: str, form: Form, search: Search):
        with fast_start():
            from captioner.inference.captioner import BATCH, Captioner
        self._captions, self._search = Captions(output, form), asdict(search) | {"first": BATCH}
        with _unpacked(model, packed) as directory:
            try:
                self._captioner = Captioner.load(directory)
                self._captioner.compile()
            except CaptionerError as error:
                raise CaptionerError(str(error).replace(directory, model)) from None
        self._captioner.stream((), **self._search)  # says what is wrong with the search

    def __call__(self, shard: Shard) -> Done:
        """Write the captions of a shard."""
        began = time.perf_counter()
        try:
            rows = list(self._rows(shard))
        except CaptionerError as error:
            return Done(shard.name, shard.size, problem=str(error))
        return self._captions.write(shard, rows, time.perf_counter() - began)

    def _rows(self, shard: Shard) -> Iterator[dict[str, Any]]:
        keys: list[str] = []

        def pictures() -> Iterable[bytes | UnreadableImage]:
            for sample in shards.read(shard):
                keys.append(sample.key)
                yield UnreadableImage(sample.why) if sample.picture is None else sample.picture

        found = self._captioner.stream(pictures(), **self._search)
        for number, each in enumerate(found, 1):
            row: dict[str, Any] = {"key": keys[number - 1]}
            if isinstance(each, UnreadableImage):
                row["error"] = str(each).removeprefix(f"picture {number}: ")
            else:
                row |= {"caption": each.text, "log_probability": round(each.log_probability, 4)}
            yield row


def _packed(model: Path) -> bytes:
    """Return the files of a model's directory."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", dereference=True) as archive:
        for path in sorted(model.iterdir()):
            archive.add(path, path.name)
    return packed.getvalue()


@contextmanager
def _unpacked(model: str, packed: bytes | None) -> Iterator[str]:
    """Yield a model's directory, here or as it was sent; what was sent is there only within the block."""
    if packed is None:
        yield model
        return
    with TemporaryDirectory(prefix="captioner-") as directory:
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(directory, filter="data")
        yield directory


def _parsed(content: bytes) -> dict[str, Any]:
    """Return the object that JSON has, an empty one if it has none."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _jsonl(rows: Sequence[dict[str, Any]]) -> bytes:
    return "".join(files.json_of(row) + "\n" for row in rows).encode()


def _parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [("key", pa.string()), ("caption", pa.string()), ("log_probability", pa.float64()), ("error", pa.string())]
    )
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema), sink, compression="zstd")
    return sink.getvalue()


_DONE = TypeAdapter(Done)
_ENCODED = {"jsonl": _jsonl, "parquet": _parquet}
