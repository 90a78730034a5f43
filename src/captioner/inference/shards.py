"""Captions of large data sets: a file of captions for each shard, on one machine or many.

A folder of captions has for each shard `NAME.jsonl` or `NAME.parquet`, a row a picture in the shard's order; see
`captioner.inference.shard_files`. A row has `key`, and `caption` and `log_probability` (nats), or `error` where the
picture cannot be read.
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

from pydantic import TypeAdapter

from captioner.common import cluster, files
from captioner.common.errors import CaptionerError, reason
from captioner.common.startup import backend, fast_start
from captioner.data import shards
from captioner.data.images import UnreadableImage
from captioner.data.shards import Shard
from captioner.inference.shard_files import ShardFiles
from captioner.model.description import Description

FORM_VERSION = 1
Form = Literal["jsonl", "parquet"]


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


@dataclass(frozen=True)
class Row:
    """A picture's row in a file of captions.

    Attributes:
        key: its name in the shard.
        caption: nothing where it cannot be read.
    """

    key: str
    caption: str | None = None


class Captions(ShardFiles[Done]):
    """A folder of captions, local or wherever fsspec writes.

    Args:
        url: its path or address.
        form: of the files.

    Raises:
        CaptionerError: there is no such file system.
    """

    def __init__(self, url: str, form: Form):
        self.form = form
        super().__init__(url, [f".{form}"], Done, "captions")

    @classmethod
    def find(cls, url: str) -> tuple["Captions", dict[str, Any]]:
        """Return the captions that are in a folder, and what they were made with.

        Raises:
            CaptionerError: there are none, or it cannot be reached.
        """
        made_with = cls(url, "jsonl").index()
        if made_with is None or made_with.get("format") not in _ENCODED:
            raise CaptionerError(f"{url} has no captions of shards: give the --output of `captioner caption --shards`")
        return cls(url, made_with["format"]), made_with

    def done(self, given: Sequence[Shard]) -> dict[str, Done]:
        """Return what became of the shards whose captions are there and whole, by name."""
        return self.whole(given, lambda done, shard: done.shard_bytes == shard.size)

    def put(self, shard: Shard, rows: Sequence[dict[str, Any]], seconds: float) -> Done:
        """Write the captions of a shard."""
        content = _ENCODED[self.form](rows)
        unreadable = sum("error" in row for row in rows)
        done = Done(shard.name, shard.size, len(rows), unreadable, len(content), round(seconds, 3))
        self.write(shard, [content], done)
        return done

    def rows(self, shard: Shard) -> list[Row]:
        """Return the captions of a shard.

        Raises:
            CaptionerError: they cannot be read.
        """
        content = self.read(shard, f".{self.form}")
        try:
            return _ROWS.validate_python(_DECODED[self.form](content))
        except (ValueError, RecursionError) as error:
            raise CaptionerError(
                f"the captions of {shard.name} in {self.url} are damaged ({reason(error)}): remove them, and call "
                "`captioner caption --shards` again"
            ) from None


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
        return self._captions.put(shard, rows, time.perf_counter() - began)

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


def _of_jsonl(content: bytes) -> list[Any]:
    return [json.loads(line) for line in content.splitlines()]


def _of_parquet(content: bytes) -> list[Any]:
    import pyarrow.parquet as pq

    rows: list[Any] = pq.read_table(io.BytesIO(content)).to_pylist()
    return rows


_ROWS = TypeAdapter(list[Row])
_ENCODED = {"jsonl": _jsonl, "parquet": _parquet}
_DECODED = {"jsonl": _of_jsonl, "parquet": _of_parquet}
