"""Shards with pictures and captions, as img2dataset writes them; `captioner.data.shards` reads them."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from captioner.common.errors import CaptionerError, quoted
from captioner.common.fingerprints import FileHashes, combined
from captioner.data import shards
from captioner.data.archives import CLIMBING
from captioner.data.dataset import CAPTION_COLUMNS, Dataset
from captioner.data.shards import Sample, Shard
from captioner.data.streamed import Described
from captioner.datasets import splits
from captioner.datasets.checks import usable

UNUSABLE = "captions without a word, with control characters, halves of characters or special tokens, or too long"


class _LeftOut:
    """What is left out, by its kind: how many, and the first."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._firsts: dict[str, str] = {}

    def note(self, kind: str, which: str) -> None:
        self._counts[kind] += 1
        self._firsts.setdefault(kind, which)

    @property
    def remarks(self) -> list[str]:
        return [
            f"{kind}, which are left out ({count:,}): first {self._firsts[kind]}"
            for kind, count in self._counts.items()
        ]


def load(place: str, validation: float, test: float, whole_shards: bool = False) -> Dataset:
    """Return the pictures of shards that have captions, each under the name `SHARD/KEY`.

    The shards are read twice, for the captions and for the pictures. Nobody has written them by hand, so what cannot be
    used, or no model can learn from, is left out, and only counted. Whitespace within a caption is folded to single
    spaces.

    Args:
        place: an archive, a folder of them, or a pattern, see `captioner.data.shards.find`.
        validation: share of the pictures, or of the shards, that are for validation.
        test: share that is for test. A hash of the name decides.
        whole_shards: whether all pictures of a shard have one split, since neighbours may be alike.

    Raises:
        CaptionerError: there are no shards, one cannot be read, or none has a caption.
    """
    found = _found(place, whole_shards)
    left_out = _LeftOut()
    described = [(name, text) for name, sample in _samples(found) for text in _captions(name, sample, left_out)]
    names = dict.fromkeys(name for name, _ in described)
    if not names:
        raise CaptionerError(f"{quoted(place)} has no captions: each picture needs a .txt, or a .json with a caption")
    train = 1 - validation - test
    of_shard = splits.draw((shard.name for shard in found), train, validation) if whole_shards else {}
    of_picture = {} if whole_shards else splits.draw(names, train, validation)
    rows = [(name, of_picture.get(name) or of_shard[_shard_of(name)], text) for name, text in described]
    return Dataset(
        pd.DataFrame(rows, columns=CAPTION_COLUMNS),
        _pictures(found, names),
        places=[f"the caption of {name}" for name, _ in described],
        remarks=left_out.remarks,
    )


class Streamed:
    """Shards as a data set whose training pictures are left where they are, see `captioner.data.streamed`.

    Pictures and captions are chosen as `load` chooses them, but that no picture is moved alone to a split that would be
    empty. The shards are read once, when iterated over.

    Args:
        place: see `load`.
        validation: see `load`.
        test: see `load`.
        whole_shards: see `load`.

    Raises:
        CaptionerError: there are no shards, or one cannot be read.
    """

    def __init__(self, place: str, validation: float, test: float, whole_shards: bool = False):
        self._found = _found(place, whole_shards)
        self._shares = (1 - validation - test, validation)
        self._of_shard = splits.draw((each.name for each in self._found), *self._shares) if whole_shards else {}
        self._left_out = _LeftOut()

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[tuple[Shard, Iterator[Described]]]:
        """Yield each shard with its pictures."""
        return ((shard, self._described(shard)) for shard in self._found)

    @property
    def remarks(self) -> list[str]:
        """What was left out, a line each."""
        return self._left_out.remarks

    def _described(self, shard: Shard) -> Iterator[Described]:
        for sample in shards.read(shard):
            name = shard.picture(sample.key)
            texts = _captions(name, sample, self._left_out)
            if texts and sample.picture is not None:
                split = self._of_shard.get(shard.name) or splits.split_of(name, *self._shares)
                yield Described(name, split, texts, sample.picture)


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


def _found(place: str, whole_shards: bool) -> list[Shard]:
    found = shards.find([place])
    if whole_shards and len(found) < 3:
        raise CaptionerError(
            f"{quoted(place)} has {len(found)} of the three shards that split: shards needs at least, one for each "
            "split: set download.shards.split to pictures"
        )
    return found


def _captions(name: str, sample: Sample, left_out: _LeftOut) -> list[str]:
    """Return the captions of a picture that can be used; none of one that cannot."""
    texts = [" ".join(text.split()) for text in sample.captions]
    if sample.why:
        left_out.note(f"pictures of {sample.why}", quoted(name))
    elif CLIMBING.search(sample.key) or not sample.key.isprintable():
        left_out.note("pictures whose names lead out of the archive or cannot be printed", quoted(name))
    elif not texts:
        left_out.note("pictures without captions", name)
    else:
        for text in texts:
            if not usable(text):
                left_out.note(UNUSABLE, f"{name}, {quoted(text)}")
        return [text for text in texts if usable(text)]
    return []


def _pictures(found: Sequence[Shard], names: Collection[str]) -> Iterator[tuple[str, bytes]]:
    for name, sample in _samples(found):
        if name in names and sample.picture is not None:
            yield name, sample.picture


def _samples(found: Sequence[Shard]) -> Iterator[tuple[str, Sample]]:
    for shard in tqdm(found, "reading", unit=" shards", disable=None):
        yield from ((shard.picture(sample.key), sample) for sample in shards.read(shard))


def _shard_of(name: str) -> str:
    return name.partition("/")[0]
