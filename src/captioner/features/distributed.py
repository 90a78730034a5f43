"""Features of a data set, computed on the machines of a Ray cluster.

Each worker reads pictures from the data set's archive, which all machines reach, and writes the maps of a part of them
to a file. The parts are then put together, with the bytes that one machine writes. A part that is there is not computed
again, so a killed worker, machine or driver loses the parts that were under way.
"""

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from captioner.common import cluster
from captioner.common.arrays import mapped
from captioner.common.files import replacing
from captioner.data import store
from captioner.features.extract import Extractor

PART = 500  # maps, 63 MB of EfficientNet-Lite0


@dataclass(frozen=True)
class Part:
    """Successive rows of the grid.

    Attributes:
        first: the first row.
        views: of each row, the picture and the number of its view.
    """

    first: int
    views: tuple[tuple[str, int], ...]


def extract(
    extractor: Extractor,
    data: Path,
    names: Sequence[str],
    directory: Path,
    views: int = 1,
    viewed: Sequence[str] = (),
    partial: Path | None = None,
) -> float:
    """Write the features of a data set's pictures to a directory, which is whole or absent.

    Args:
        extractor: what computes them.
        data: the data set's directory, see `captioner.data.store`.
        names: of the pictures, each once.
        directory: what is written.
        views: see `Extractor.extract`.
        viewed: names of the pictures that have further views.
        partial: a directory in which an interrupted call has left what it had.

    Returns:
        The seconds that interrupted calls took.

    Raises:
        CaptionerError: there is no cluster, or a picture cannot be decoded.
    """
    rows = [(name, 0) for name in names] + [(name, number) for name in viewed for number in range(1, views)]
    parts = [Part(first, tuple(rows[first : first + PART])) for first in range(0, len(rows), PART)]
    place = (directory.with_name(f".{directory.name}-parts") if partial is None else partial / "parts").resolve()
    place.mkdir(parents=True, exist_ok=True)

    def computed(first: int) -> Iterator[np.ndarray]:
        left = [part for part in parts if part.first + len(part.views) > first]
        waiting = [part for part in left if not _is_whole(place, part, extractor)]
        encode(PartEncoder, extractor, data, place, waiting, "parts")
        for part in left:
            yield np.load(_file(place, part))[max(0, first - part.first) :]

    spent = extractor.write(computed, names, directory, views, viewed, partial)
    shutil.rmtree(place)
    return spent


def encode(
    worker: Callable[..., Callable[[Any], bool]],
    extractor: Extractor,
    data: Path,
    place: Path,
    waiting: Sequence[Any],
    what: str,
) -> None:
    """Have workers write features to files, here or on a cluster, and say where processors round otherwise.

    Args:
        worker: is made of what `PartEncoder` is made of, and called with each of those that wait.
        extractor: what computes the features.
        data: the data set's directory, which all machines reach.
        place: the directory of the files, likewise.
        waiting: what has no file yet.
        what: they are, for what is said.
    """
    given = (extractor, noise(extractor), str(data.resolve()), str(place.resolve()))
    made = cluster.each(worker, given, waiting)
    where = "on the cluster" if cluster.on_cluster() else extractor.encoder
    others = sum(not same for same in tqdm(made, where, len(waiting), unit=f" {what}"))
    if others:
        tqdm.write(
            f"{others:,} of {len(waiting):,} {what} were computed on processors that round otherwise than this one: "
            "their features differ in the last places.",
            file=sys.stderr,
        )


class PartEncoder:
    """Computes the features of parts.

    Args:
        extractor: what computes them.
        expected: its features of a picture of noise, where it comes from.
        data: the data set's directory.
        place: the directory of the parts.
    """

    def __init__(self, extractor: Extractor, expected: np.ndarray, data: str, place: str):
        self._extractor, self._data, self._place = extractor, Path(data), Path(place)
        self._same = np.array_equal(noise(extractor), expected)

    def __call__(self, part: Part) -> bool:
        """Write the features of a part; return whether this processor rounds as that where the extractor comes from."""
        names = [name for name, _ in part.views]
        pictures = zip(part.views, store.read_pictures(self._data, names), strict=True)
        made = list(self._extractor.in_order((name, data, number) for (name, number), data in pictures))
        with replacing(_file(self._place, part)) as beside, beside.open("wb") as file:
            np.save(file, np.concatenate(made))
        return self._same


def noise(extractor: Extractor) -> np.ndarray:
    """Return the features of a picture of noise."""
    size = extractor.image_size
    extractor.compile()
    return extractor(np.random.default_rng(1).integers(0, 256, (1, size, size, 3), np.uint8))


def _file(place: Path, part: Part) -> Path:
    return place / f"{part.first:09d}.npy"


def _is_whole(place: Path, part: Part, extractor: Extractor) -> bool:
    try:
        found = mapped(_file(place, part))
    except (OSError, ValueError):
        return False
    return (found.shape, found.dtype) == ((len(part.views), extractor.positions, extractor.channels), np.float16)
