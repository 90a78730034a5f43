"""A data set whose training pictures stay in their shards, and whose training captions are read some at a time.

It has the files of `captioner.data.store`. `images.zip` has the pictures for validation and test alone. The rows of
`captions.parquet` lie in row groups: those of up to `PART` training pictures of one shard, a part, or of pictures for
validation and test. The key `shards` of its metadata is, as JSON, an object with the hash of each shard's training
pictures and the row groups that are its parts, by the shard's name.
"""

import hashlib
import json
import sys
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from captioner.common.errors import CaptionerError
from captioner.data import store
from captioner.data.dataset import SPLITS, no_objects
from captioner.data.shards import Shard

PART = 500  # pictures, whose maps of EfficientNet-Lite0 take 63 MB
_SHARDS = b"shards"
_Row = tuple[str, str, str]  # of the captions: image, split, caption


@dataclass(frozen=True)
class Described:
    """A picture with its captions.

    Attributes:
        name: of the picture.
        split: one of `captioner.data.dataset.SPLITS`.
        captions: what is said of it.
        picture: encoded.
    """

    name: str
    split: str
    captions: Sequence[str]
    picture: bytes


@dataclass(frozen=True)
class Part:
    """Successive training pictures of a shard.

    Attributes:
        shard: its name.
        place: which of its parts this is, from 0.
        row_group: of the captions.
    """

    shard: str
    place: int
    row_group: int


class PicturesHash:
    """A hash of pictures and their names, as they come."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, name: str, picture: bytes) -> None:
        """Add a picture."""
        for each in (name.encode(), picture):
            self._hash.update(len(each).to_bytes(8))
            self._hash.update(each)

    def __str__(self) -> str:
        return self._hash.hexdigest()


class _Growing:
    """The files of a data set, while they grow shard by shard."""

    def __init__(self, captions: Path, images: Path, stack: ExitStack):
        self._captions = stack.enter_context(pq.ParquetWriter(captions, store.CAPTION_SCHEMA))
        self._images = stack.enter_context(zipfile.ZipFile(images, "w", zipfile.ZIP_STORED))
        self._training, self._others = list[list[_Row]](), list[list[_Row]]()  # of each picture
        self._groups = 0
        self._hash, self._parts = PicturesHash(), list[int]()  # of the shard that grows
        self.shards: dict[str, tuple[str, list[int]]] = {}
        self.pictures: Counter[str] = Counter()

    def add(self, each: Described) -> None:
        self.pictures[each.split] += 1
        if each.split == "train":
            pictures = self._training
            self._hash.add(each.name, each.picture)
        else:
            pictures = self._others
            self._images.writestr(store.member(each.name), each.picture)
        pictures.append([(each.name, each.split, text) for text in each.captions])
        if len(pictures) == PART:
            self._write(pictures)

    def end_shard(self, name: str) -> None:
        self._write(self._training)
        self.shards[name] = (str(self._hash), self._parts)
        self._hash, self._parts = PicturesHash(), []

    def end(self, skipped: int) -> None:
        self._write(self._others)
        made = {"origin": "{}", _SHARDS.decode(): json.dumps(self.shards)}
        self._captions.add_key_value_metadata(made | ({"skipped": str(skipped)} if skipped else {}))

    def _write(self, pictures: list[list[_Row]]) -> None:
        rows = list(chain.from_iterable(pictures))
        if rows:
            columns = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
            self._captions.write_table(pa.table(columns, schema=store.CAPTION_SCHEMA), row_group_size=len(rows))
            if pictures is self._training:
                self._parts.append(self._groups)
            self._groups += 1
        pictures.clear()


def write(
    shards: Iterable[tuple[Shard, Iterable[Described]]], directory: Path, skip_unreadable: bool = False
) -> store.Packed:
    """Write a data set to `images.zip`, `captions.parquet` and `objects.parquet`, all of them or none.

    Every picture is decoded once. Memory does not grow with the number of pictures.

    Args:
        shards: each with its pictures, no name twice.
        directory: where the files go.
        skip_unreadable: leave out pictures that cannot be read, with their captions, and say so on stderr.

    Raises:
        CaptionerError: pictures are unreadable and not to be skipped, a split has no picture, or the files cannot be
            written.
    """
    unreadable: dict[str, str] = {}
    captions = 0
    with store.writing(directory) as beside, ExitStack() as stack:
        growing = _Growing(beside[store.CAPTIONS], beside[store.IMAGES], stack)
        for shard, pictures in tqdm(shards, "reading", unit=" shards", disable=None):
            for each, why in store.decoded(pictures, lambda each: each.picture):
                if why:
                    unreadable[each.name] = why
                else:
                    growing.add(each)
                    captions += len(each.captions)
            growing.end_shard(shard.name)
        store.check_readable(unreadable, skip_unreadable)
        _check_splits(growing.pictures)
        growing.end(len(unreadable))
        store.write_objects(no_objects(), beside[store.OBJECTS])
    if unreadable:
        print(f"{store.listed(unreadable)}; left out with their captions", file=sys.stderr)
    return store.Packed(growing.pictures.total(), captions, unreadable)


def _check_splits(pictures: Counter[str]) -> None:
    if not pictures:
        raise CaptionerError(
            "no picture of the shards can be used: each needs a .txt, or a .json with a caption, and has to be readable"
        )
    if empty := [split for split in SPLITS if not pictures[split]]:
        raise CaptionerError(
            f"no pictures in {' and '.join(empty)}, of {pictures.total():,} in all: give more shards, change "
            "download.shards.validation and test, or set download.shards.stream to false, for small data"
        )


class TrainingCaptions:
    """The training captions of a data set, read some at a time.

    Args:
        directory: of the data set.

    Attributes:
        shards: the hash of each shard's training pictures, by its name; none where they are in `images.zip`.
        parts_of: the parts of each shard, by its name.

    Raises:
        CaptionerError: the file of captions is missing, damaged or another one.
    """

    def __init__(self, directory: Path):
        self._path = directory / store.CAPTIONS
        with store.reading(self._path):
            self._file = pq.ParquetFile(self._path)
            store.check_schema(self._path, self._file.schema_arrow, store.CAPTION_SCHEMA)
            described = json.loads((self._file.metadata.metadata or {}).get(_SHARDS, b"{}"))
        self.shards: dict[str, str] = {name: hashed for name, (hashed, _) in described.items()}
        self.parts_of = {
            name: [Part(name, place, group) for place, group in enumerate(groups)]
            for name, (_, groups) in described.items()
        }

    @property
    def parts(self) -> list[Part]:
        """All parts, in the order of the shards."""
        return [part for parts in self.parts_of.values() for part in parts]

    def of(self, part: Part) -> pd.DataFrame:
        """Return the captions of a part: columns `image`, `split`, `caption`."""
        with store.reading(self._path):
            return self._file.read_row_group(part.row_group).to_pandas()

    def images(self, part: Part) -> list[str]:
        """Return the pictures of a part, in the order of their captions."""
        return self.of(part)["image"].drop_duplicates().tolist()

    def __iter__(self) -> Iterator[str]:
        """Yield each training caption."""
        with store.reading(self._path):
            for batch in self._file.iter_batches():
                for split, caption in zip(batch["split"].to_pylist(), batch["caption"].to_pylist(), strict=True):
                    if split == "train":
                        yield caption
