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
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

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
    _check_splits(dataset.captions, splits, {})
    try:
        with ExitStack() as stack:
            beside = {name: stack.enter_context(replacing(directory / name)) for name in (IMAGES, CAPTIONS, OBJECTS)}
            readable, unreadable = _write_pictures(dataset.pictures, len(described), beside[IMAGES])
            _check_pictures(described, readable, unreadable, skip_unreadable)
            captions = _without(dataset.captions, unreadable)
            _check_splits(captions, splits, unreadable)
            made = {"origin": json.dumps(dataset.origin, sort_keys=True)}
            made |= {"skipped": str(len(unreadable))} if unreadable else {}
            _write_table(captions, CAPTION_SCHEMA, beside[CAPTIONS], made)
            _write_table(_without(dataset.objects, unreadable), OBJECT_SCHEMA, beside[OBJECTS], {})
    except OSError as error:
        raise CaptionerError(
            f"cannot write to {directory} ({error.strerror or error}): fix that and run again, nothing was changed"
        ) from error
    if unreadable:
        print(f"{_listed(unreadable)}; left out with their captions", file=sys.stderr)
    return Packed(len(readable), len(captions), unreadable)


def read_captions(directory: Path) -> pd.DataFrame:
    """Return the captions: columns `image`, `split`, `caption`.

    Raises:
        CaptionerError: the file is missing, damaged or another one.
    """
    return _read_table(directory / CAPTIONS, CAPTION_SCHEMA)


def read_skipped(directory: Path) -> int:
    """Return how many pictures were left out of the data set.

    Raises:
        CaptionerError: the file of captions is missing, damaged or another one.
    """
    path = directory / CAPTIONS
    try:
        return int((pq.read_schema(path).metadata or {}).get(b"skipped", 0))
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
        decoded = tqdm(_decoded(pictures), "decoding", count, unit=" pictures", disable=None)
        for number, (name, data, why) in enumerate(decoded, 1):
            if name in readable or name in unreadable:
                raise CaptionerError(f"the picture {name} came twice: give each picture a name of its own")
            if why:
                unreadable[name] = f"{why} (picture {number:,} of {count:,})"
            else:
                readable.add(name)
                archive.writestr(_member(name), data)
    return readable, unreadable


def _decoded(pictures: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes, str]]:
    """Yield each picture, in order, with the reason why it cannot be decoded, or with an empty one."""
    workers = min(8, threads.cores())
    # As many as keep the threads busy, so that memory holds a few pictures and not all.
    return threads.prefetch(lambda picture: (*picture, _why_unreadable(picture[1])), pictures, 4 * workers, workers)


def _why_unreadable(data: bytes) -> str:
    try:
        images.decode(data)
    except images.UnreadableImage as error:
        return str(error)
    return ""


def _member(name: str) -> zipfile.ZipInfo:
    # One time and one system for all, so that equal pictures give equal bytes.
    member = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    member.create_system = 3
    member.external_attr = 0o644 << 16
    return member


def _check_pictures(described: set[str], readable: set[str], unreadable: dict[str, str], skip: bool) -> None:
    if unreadable and not skip:
        raise CaptionerError(
            f"{_listed(unreadable)}; put whole ones in their place, or set download.skip_unreadable to true to leave "
            "them out with their captions"
        )
    absent = sorted(described - readable - unreadable.keys())
    if absent:
        raise CaptionerError(
            f"absent pictures that have captions ({len(absent):,}): {_first(absent)}: add them or remove the captions"
        )


def _check_splits(captions: pd.DataFrame, needed: Sequence[str], unreadable: dict[str, str]) -> None:
    unknown = sorted(set(captions["split"]) - set(SPLITS))
    if unknown:
        raise CaptionerError(f"unknown splits {_first(unknown)}: allowed are {', '.join(SPLITS)}")
    empty = [split for split in needed if not (captions["split"] == split).any()]
    left_out = f"; left out were {_listed(unreadable)}" if unreadable else ""
    if "train" in empty:
        raise CaptionerError(f"no captions to train on are left: give some readable pictures the split train{left_out}")
    if empty:
        raise CaptionerError(
            f"no pictures in {' and '.join(empty)}, of {captions['image'].nunique():,} in all: each of "
            f"{', '.join(needed)} needs one at least, so {len(needed)} in all, to learn from, to choose the best pass "
            f"by and to be scored on: give some pictures these splits, or add pictures{left_out}"
        )


def _listed(unreadable: dict[str, str]) -> str:
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


def _read_table(path: Path, schema: pa.Schema) -> pd.DataFrame:
    try:
        table = pq.read_table(path)
        table.validate(full=True)  # of text, that it is UTF-8
    except FileNotFoundError:
        raise CaptionerError(f"there is no {path}: run the download stage to get it") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(path, error) from None
    if not table.schema.equals(schema):
        raise CaptionerError(
            f"{path} has the columns {', '.join(table.column_names)}, expected are {', '.join(schema.names)} of a data "
            "set packed by this version: delete it and run again"
        )
    return table.to_pandas()


def _damaged(path: Path, error: Exception) -> CaptionerError:
    return CaptionerError(f"{path} is damaged or cut short ({reason(error)}): delete it and run again")
