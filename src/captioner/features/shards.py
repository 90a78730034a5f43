"""Features of training pictures that stay in their shards: a file for each shard, here or on a Ray cluster.

A file is written beside and renamed, and is not made again if it is whole, so an interrupted run loses the shards that
were under way.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from captioner.common.errors import CaptionerError
from captioner.data import shards
from captioner.data.shards import Shard
from captioner.data.streamed import PicturesHash, TrainingCaptions
from captioner.features.distributed import encode, noise
from captioner.features.extract import Extractor
from captioner.features.shard_files import FeatureShards


def extract(extractor: Extractor, found: Sequence[Shard], data: Path, place: Path) -> list[Path]:
    """Write the features of training pictures, and return the files, one for each shard.

    Args:
        extractor: what computes them.
        found: the shards, as the data set was made of them.
        data: the data set's directory, which all machines reach.
        place: the directory of the files, likewise.

    Raises:
        CaptionerError: a shard is not there any more, or has other pictures than when the data set was made.
    """
    captions = TrainingCaptions(data)
    there = {shard.name: shard for shard in found}
    if missing := [name for name in captions.shards if name not in there]:
        raise CaptionerError(f"the shard {missing[0]} is not there any more: run `dvc repro download`")
    place.mkdir(parents=True, exist_ok=True)
    features = FeatureShards(place, extractor.positions, extractor.channels)
    wanted = [there[name] for name in captions.shards]
    waiting = [shard for shard in wanted if not features.has(shard.name, captions)]
    if len(waiting) < len(wanted):
        print(f"Goes on after {len(wanted) - len(waiting):,} of {len(wanted):,} shards.", flush=True)
    encode(ShardEncoder, extractor, data, place, waiting, "shards")
    return [features.file(shard.name) for shard in wanted]


class ShardEncoder:
    """Computes the features of the training pictures of shards.

    Args:
        extractor: what computes them.
        expected: its features of a picture of noise, where it comes from.
        data: the data set's directory.
        place: the directory of the files.
    """

    def __init__(self, extractor: Extractor, expected: np.ndarray, data: str, place: str):
        self._extractor = extractor
        self._captions = TrainingCaptions(Path(data))
        self._features = FeatureShards(Path(place), extractor.positions, extractor.channels)
        self._same = np.array_equal(noise(extractor), expected)

    def __call__(self, shard: Shard) -> bool:
        """Write the features of a shard; return whether this processor rounds as the extractor's own."""
        parts = [self._captions.images(part) for part in self._captions.parts_of[shard.name]]
        rows = self._extractor.in_order(self._pictures(shard, {name for part in parts for name in part}))
        self._features.write(shard.name, parts, (each for some in rows for each in some))
        return self._same

    def _pictures(self, shard: Shard, wanted: set[str]) -> Iterator[tuple[str, bytes, int]]:
        found = PicturesHash()
        for sample in shards.read(shard):
            if (name := shard.picture(sample.key)) in wanted and sample.picture is not None:
                found.add(name, sample.picture)
                yield name, sample.picture, 0
        if str(found) != self._captions.shards[shard.name]:
            raise CaptionerError(
                f"the shard {shard.name} has other pictures than when its captions were read: run `dvc repro download`"
            )
