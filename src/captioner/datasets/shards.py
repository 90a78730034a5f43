"""Shards with pictures and captions, as img2dataset writes them; `captioner.data.shards` reads them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from captioner.common.errors import CaptionerError, quoted
from captioner.common.fingerprints import FileHashes, combined
from captioner.data import shards
from captioner.data.archives import CLIMBING
from captioner.data.dataset import CAPTION_COLUMNS, Dataset
from captioner.data.shards import Sample, Shard
from captioner.datasets import splits
from captioner.datasets.checks import usable


@dataclass
class _LeftOut:
    """Things of one kind that are left out: how many, and the first."""

    what: str
    count: int = 0
    first: str = ""

    def note(self, name: str) -> None:
        self.first = self.first or name
        self.count += 1

    @property
    def remark(self) -> list[str]:
        return [f"{self.what}, which are left out ({self.count:,}): first {self.first}"] if self.count else []


@dataclass
class _Described:
    """What the shards say of their pictures."""

    rows: list[tuple[str, str]] = field(default_factory=list)
    alone: _LeftOut = field(default_factory=lambda: _LeftOut("pictures without captions"))
    unusable: _LeftOut = field(
        default_factory=lambda: _LeftOut(
            "captions without a word, with control characters or special tokens, or too long"
        )
    )


def load(place: str, validation: float, test: float, whole_shards: bool = False) -> Dataset:
    """Return the pictures of shards that have captions, each under the name `SHARD/KEY`.

    The shards are read twice, for the captions and for the pictures. Nobody has written them by hand, so captions that
    no model can learn from are left out, and only counted. Whitespace within a caption is folded to single spaces.

    Args:
        place: an archive, a folder of them, or a pattern, see `captioner.data.shards.find`.
        validation: share of the pictures, or of the shards, that are for validation.
        test: share that is for test. A hash of the name decides.
        whole_shards: whether all pictures of a shard have one split, since neighbours may be alike.

    Raises:
        CaptionerError: there are no shards, one cannot be read, none has a caption, or a name leads out of an archive.
    """
    found = shards.find([place])
    if whole_shards and len(found) < 3:
        raise CaptionerError(
            f"{quoted(place)} has {len(found)} of the three shards that split: shards needs at least, one for each "
            "split: set download.shards.split to pictures"
        )
    described = _describe(found)
    names = dict.fromkeys(name for name, _ in described.rows)
    if not names:
        raise CaptionerError(f"{quoted(place)} has no captions: each picture needs a .txt, or a .json with a caption")
    train = 1 - validation - test
    of_shard = splits.draw((shard.name for shard in found), train, validation) if whole_shards else {}
    of_picture = {} if whole_shards else splits.draw(names, train, validation)
    rows = [(name, of_picture.get(name) or of_shard[_shard_of(name)], text) for name, text in described.rows]
    return Dataset(
        pd.DataFrame(rows, columns=CAPTION_COLUMNS),
        _pictures(found, names),
        places=[f"the caption of {name}" for name, _ in described.rows],
        remarks=[*described.alone.remark, *described.unusable.remark],
    )


def fingerprint(place: str, hashes: FileHashes) -> dict[str, str]:
    """Return what tells whether shards changed, nothing where there are none or they cannot be reached.

    Of local ones it is a hash of their bytes, of others what their file system knows them by, such as S3's ETag.
    """
    try:
        found = shards.find([place])
        paths = {shard.url: Path(shard.url) for shard in found if "://" not in shard.url}
        contents = hashes.of(paths.values())
        return {
            "shards": combined(
                (shard.name, contents[paths[shard.url]] if shard.url in paths else shards.identity(shard))
                for shard in found
            )
        }
    except (CaptionerError, OSError):
        return {}


def _describe(found: Sequence[Shard]) -> _Described:
    described = _Described()
    for name, sample in _samples(found, "captions"):
        texts = [" ".join(text.split()) for text in sample.captions]
        kept = [text for text in texts if usable(text)]
        for text in texts:
            if text not in kept:
                described.unusable.note(f"{name}, {quoted(text)}")
        if not texts:
            described.alone.note(name)
        described.rows += [(name, text) for text in kept]
    return described


def _pictures(found: Sequence[Shard], names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    wanted = set(names)
    for name, sample in _samples(found, "pictures"):
        if name in wanted:
            yield name, sample.picture or b""


def _samples(found: Sequence[Shard], what: str) -> Iterator[tuple[str, Sample]]:
    for shard in tqdm(found, f"reading {what}", unit=" shards", disable=None):
        for sample in shards.read(shard):
            if CLIMBING.search(sample.key) or not sample.key.isprintable():
                raise CaptionerError(
                    f"{shard.url} has the key {quoted(sample.key)}, which leads out of the archive or cannot be "
                    "printed: only relative names with / are allowed"
                )
            yield f"{shard.name}/{sample.key}", sample


def _shard_of(name: str) -> str:
    return name.partition("/")[0]
