"""A data set in three files, however many pictures it has.

- `images.zip`: the encoded pictures as they came, stored, under their names;
- `captions.parquet`: a row a caption, with the strings `image`, `split` and `caption`; under the key `origin` of its
  metadata, as JSON, the SHA-256 by name of the archives that the data came from, and under `skipped` how many pictures
  were left out, since they could not be read;
- `objects.parquet`: a row an object drawn in a picture, with the strings `image`, `word`, `colour` and `size` and its
  box in pixels, the integers `left`, `top`, `right` and `bottom`; no rows where nobody marked objects.

Equal data gives equal bytes.
"""

import json
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from captioner.common import threads
from captioner.common.errors import CaptionerError, reason
from captioner.common.files import replacing
from captioner.data import images
from captioner.data.archives import open_zip, read_member
from captioner.data.dataset import SPLITS, Dataset

IMAGES, CAPTIONS, OBJECTS = "images.zip", "captions.parquet", "objects.parquet"

CAPTION_SCHEMA = pa.schema([(name, pa.string()) for name in ("image", "split", "caption")])
OBJECT_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("image", "word", "colour", "size")]
    + [(name, pa.int64()) for name in ("left", "top", "right", "bottom")]
)

NAMES_SHOWN = 10

Picture = TypeVar("Picture")


@dataclass(frozen=True)
class Packed:
    """What was written.

    Attributes:
        pictures: how many pictures.
        captions: how many captions.
        unreadable: the reason by name of each picture that was left out together with its captions.
    """

    pictures: int
    captions: int
    unreadable: dict[str, str]


def write(
    dataset: Dataset, directory: Path, splits: Sequence[str] = ("train",), skip_unreadable: bool = False
) -> Packed:
    """Write a data set to `images.zip`, `captions.parquet` and `objects.parquet`, all of them or none.

    Every picture is decoded once.

    Args:
        dataset: the data set.
        directory: where the files go.
        splits: those that must have pictures that can be read.
        skip_unreadable: leave out pictures that cannot be read, with their captions and objects, and say so on stderr.

    Raises:
        CaptionerError: pictures are unreadable and not to be skipped, captions and pictures do not belong together, a
            split has no picture, or the files cannot be written.
    """
    described = set(dataset.captions["image"])
    check_splits(_pictures_of_splits(dataset.captions), splits, {})
    with writing(directory) as beside:
        readable, unreadable = _write_pictures(dataset.pictures, len(described), beside[IMAGES])
        check_readable(unreadable, skip_unreadable)
        _check_there(described, readable, unreadable)
        captions = _without(dataset.captions, unreadable)
        check_splits(_pictures_of_splits(captions), splits, unreadable)
        made = {"origin": json.dumps(dataset.origin, sort_keys=True)}
        made |= {"skipped": str(len(unreadable))} if unreadable else {}
        _write_table(captions, CAPTION_SCHEMA, beside[CAPTIONS], made)
        write_objects(_without(dataset.objects, unreadable), beside[OBJECTS])
    if unreadable:
        print(f"{listed(unreadable)}; left out with their captions", file=sys.stderr)
    return Packed(len(readable), len(captions), unreadable)


@contextmanager
def writing(directory: Path) -> Iterator[dict[str, Path]]:
    """Yield where to write each file of a data set, by its name; they are renamed when the block succeeds.

    Raises:
        CaptionerError: the files cannot be written.
    """
    try:
        with ExitStack() as stack:
            yield {name: stack.enter_context(replacing(directory / name)) for name in (IMAGES, CAPTIONS, OBJECTS)}
    except OSError as error:
        raise CaptionerError(
            f"cannot write to {directory} ({error.strerror or error}): fix that and run again, nothing was changed"
        ) from error


def read_captions(directory: Path, *splits: str) -> pd.DataFrame:
    """Return the captions of some splits, or of all: columns `image`, `split`, `caption`.

    Raises:
        CaptionerError: the file is missing, damaged or another one.
    """
    return _read_table(directory / CAPTIONS, CAPTION_SCHEMA, [("split", "in", splits)] if splits else None)


def read_skipped(directory: Path) -> int:
    """Return how many pictures were left out of the data set.

    Raises:
        CaptionerError: the file of captions is missing, damaged or another one.
    """
    path = directory / CAPTIONS
    try:
        return int((pq.read_metadata(path).metadata or {}).get(b"skipped", 0))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(path, error) from None


def read_objects(directory: Path) -> pd.DataFrame:
    """Return the marked objects: columns `image`, `word`, `colour`, `size`, `left`, `top`, `right`, `bottom` (pixels).

    Raises:
        CaptionerError: the file is missing, damaged or another one.
    """
    return _read_table(directory / OBJECTS, OBJECT_SCHEMA)


def read_pictures(directory: Path, names: Sequence[str]) -> Iterator[bytes]:
    """Yield the encoded picture of each name, in the order of the names; only one is in memory at a time.

    Raises:
        CaptionerError: the file is missing or damaged, or has no picture of a name.
    """
    # its names are those of files that were there, which may have a colon or a backslash
    with open_zip(directory / IMAGES, own=True) as archive:
        for name in names:
            yield read_member(archive, name)


def _write_pictures(pictures: Iterable[tuple[str, bytes]], count: int, path: Path) -> tuple[set[str], dict[str, str]]:
    """Write the pictures that can be decoded; return their names, and the reason by name of the others."""
    readable: set[str] = set()
    unreadable: dict[str, str] = {}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        every = tqdm(decoded(pictures, itemgetter(1)), "decoding", count, unit=" pictures", disable=None)
        for number, ((name, data), why) in enumerate(every, 1):
            if name in readable or name in unreadable:
                raise CaptionerError(f"the picture {name} came twice: give each picture a name of its own")
            if why:
                unreadable[name] = f"{why} (picture {number:,} of {count:,})"
            else:
                readable.add(name)
                archive.writestr(member(name), data)
    return readable, unreadable


def decoded(pictures: Iterable[Picture], data: Callable[[Picture], bytes]) -> Iterator[tuple[Picture, str]]:
    """Yield each picture, in order, with the reason why its data cannot be decoded, or with an empty one."""
    workers = min(8, threads.cores())
    # As many as keep the threads busy, so that memory holds a few pictures and not all.
    return threads.prefetch(lambda each: (each, _why_unreadable(data(each))), pictures, 4 * workers, workers)


def _why_unreadable(data: bytes) -> str:
    try:
        images.decode(data)
    except images.UnreadableImage as error:
        return str(error)
    return ""


def member(name: str) -> zipfile.ZipInfo:
    """Return what describes a picture in the archive: one time and one system, so that equal data gives equal bytes."""
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.create_system = 3
    info.external_attr = 0o644 << 16
    return info


def check_readable(unreadable: dict[str, str], skip: bool) -> None:
    """Raise `CaptionerError` where pictures cannot be read and are not to be skipped."""
    if unreadable and not skip:
        raise CaptionerError(
            f"{listed(unreadable)}; put whole ones in their place, or set download.skip_unreadable to true to leave "
            "them out with their captions"
        )


def _check_there(described: set[str], readable: set[str], unreadable: dict[str, str]) -> None:
    absent = sorted(described - readable - unreadable.keys())
    if absent:
        raise CaptionerError(
            f"absent pictures that have captions ({len(absent):,}): {_first(absent)}: add them or remove the captions"
        )


def _pictures_of_splits(captions: pd.DataFrame) -> dict[str, int]:
    """Return how many pictures each split has."""
    return {str(split): of_split["image"].nunique() for split, of_split in captions.groupby("split")}


def check_splits(pictures: Mapping[str, int], needed: Sequence[str], unreadable: dict[str, str]) -> None:
    """Raise `CaptionerError` where a split is unknown, or one that is needed has no pictures."""
    unknown = sorted(pictures.keys() - set(SPLITS))
    if unknown:
        raise CaptionerError(f"unknown splits {_first(unknown)}: allowed are {', '.join(SPLITS)}")
    empty = [split for split in needed if not pictures.get(split)]
    left_out = f"; left out were {listed(unreadable)}" if unreadable else ""
    if "train" in empty:
        raise CaptionerError(f"no captions to train on are left: give some readable pictures the split train{left_out}")
    if empty:
        raise CaptionerError(
            f"no pictures in {' and '.join(empty)}, of {sum(pictures.values()):,} in all: each of "
            f"{', '.join(needed)} needs one at least, so {len(needed)} in all, to learn from, to choose the best pass "
            f"by and to be scored on: give some pictures these splits, or add pictures{left_out}"
        )


def listed(unreadable: dict[str, str]) -> str:
    """Say which pictures cannot be read, and why."""
    shown = [f"{name}: {why}" for name, why in unreadable.items()]
    return f"unreadable pictures ({len(unreadable):,}): {_first(shown, '; ')}"


def _first(names: list[str], separator: str = ", ") -> str:
    more = f"{separator}and {len(names) - NAMES_SHOWN:,} more" if len(names) > NAMES_SHOWN else ""
    return separator.join(names[:NAMES_SHOWN]) + more


def _without(table: pd.DataFrame, unreadable: dict[str, str]) -> pd.DataFrame:
    return table[~table["image"].isin(list(unreadable))]


def _write_table(table: pd.DataFrame, schema: pa.Schema, path: Path, metadata: dict[str, str]) -> None:
    # Column by column, since what pandas would add to the metadata changes with its version.
    columns = [pa.array(table[field.name], type=field.type, from_pandas=True) for field in schema]
    pq.write_table(pa.table(columns, schema=schema.with_metadata(metadata)), path)


def write_objects(objects: pd.DataFrame, path: Path) -> None:
    """Write the table of marked objects."""
    _write_table(objects, OBJECT_SCHEMA, path, {})


def _read_table(path: Path, schema: pa.Schema, chosen: list[tuple] | None = None) -> pd.DataFrame:
    with reading(path):
        check_schema(path, pq.read_schema(path), schema)
        table = pq.read_table(path, filters=chosen)
        table.validate(full=True)  # of text, that it is UTF-8
    return table.to_pandas()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say in one line that a table is missing or damaged."""
    try:
        yield
    except FileNotFoundError:
        raise CaptionerError(f"there is no {path}: run the download stage to get it") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(path, error) from None


def check_schema(path: Path, found: pa.Schema, expected: pa.Schema) -> None:
    """Raise `CaptionerError` where a table has other columns than it should."""
    if not found.equals(expected):
        raise CaptionerError(
            f"{path} has the columns {', '.join(found.names)}, expected are {', '.join(expected.names)} of a data "
            "set packed by this version: delete it and run again"
        )


def _damaged(path: Path, error: Exception) -> CaptionerError:
    return CaptionerError(f"{path} is damaged or cut short ({reason(error)}): delete it and run again")
