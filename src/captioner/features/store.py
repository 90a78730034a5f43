"""The files that hold the features of a data set.

Legend: `P` positions of the grid (49 by default, row by row from the top left), `C` channels of the encoder.

A directory of features has two files: `grid.npy`, float16 `[rows, P, C]`, and `index.json` with `encoder`,
`weights` (as they were asked for), `weights_sha256` (of their values), `image_size` (pixels), `crop`, `preprocessing`,
`shape` (of the grid) and `images`, the pictures' names in the order of the grid's rows. Where there are several `views`
of the pictures `viewed`, those beside the plain one stand behind, picture by picture. `network` names the copy of an
encoder of one's own, which then lies there as well. Where the training pictures of a data set stay in their shards, the
grid has those for validation and test alone, and the folder `train` has the others, see `shard_files`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from captioner.common.arrays import mapped
from captioner.common.errors import CaptionerError, problem, reason
from captioner.common.files import file_inside
from captioner.data import IMAGE_SIZE, Crop

GRID = "grid.npy"
INDEX = "index.json"
TRAIN = "train"


@dataclass(frozen=True)
class Features:
    """Features of a data set, on disk.

    Attributes:
        grid: float16 `[rows, P, C]`, memory-mapped for reading.
        rows: the grid's row by the picture's name.
        encoder: name of the encoder that made them.
        weights: its weights, as they were asked for.
        weights_sha256: hash of their values.
        image_size: height and width of the pictures that it got, in pixels.
        crop: how they became squares.
        preprocessing: what was asked for, for an encoder of one's own.
        views: the rows of all views of a picture, the plain one first and every second one mirrored, by the names of
            those that have more than one.
        network: file or folder of an encoder of one's own.
        training: folder with the features of the training pictures, where these stay in their shards.
    """

    grid: np.ndarray
    rows: dict[str, int]
    encoder: str
    weights: str
    weights_sha256: str
    image_size: int = IMAGE_SIZE
    crop: Crop = "stretch"
    preprocessing: str = "auto"
    views: dict[str, list[int]] = field(default_factory=dict)
    network: Path | None = None
    training: Path | None = None

    @classmethod
    def at_hand(cls, grid: np.ndarray, images: Iterable[str], **options: Any) -> "Features":
        """Return features in memory, a row for each picture; `options` are other attributes."""
        return cls(grid, {name: row for row, name in enumerate(images)}, "none", "none", "none", **options)

    @classmethod
    def blank(cls, images: Iterable[str]) -> "Features":
        """Return what a decoder gets that never sees a picture: for all of them one map of 2 x 2 empty positions."""
        return cls(np.zeros((1, 4, 1), np.float16), dict.fromkeys(images, 0), "none", "none", "none")

    @property
    def positions(self) -> int:
        """`P`."""
        return self.grid.shape[1]

    @property
    def channels(self) -> int:
        """`C`."""
        return self.grid.shape[2]

    @classmethod
    def open(cls, directory: Path) -> "Features":
        """Open what `extract` wrote; nothing is read but the index.

        Raises:
            CaptionerError: a file is missing, damaged or cut short, or is not the other one's.
        """
        index = _read_index(directory / INDEX)
        rows = {name: row for row, name in enumerate(index.images)}
        others = index.views - 1
        firsts = {name: len(rows) + others * number for number, name in enumerate(index.viewed)}
        return cls(
            grid=_map_grid(directory / GRID, tuple(index.shape)),
            rows=rows,
            encoder=index.encoder,
            weights=index.weights,
            weights_sha256=index.weights_sha256,
            image_size=index.image_size,
            crop=index.crop,
            preprocessing=index.preprocessing,
            network=_network(directory, index.network),
            training=directory / TRAIN if (directory / TRAIN).is_dir() else None,
            views={name: [rows[name], *range(first, first + others)] for name, first in firsts.items()},
        )

    @property
    def made_by(self) -> dict[str, Any]:
        """What tells features apart that differ in their making, as a model's description has it."""
        return {
            "name": self.encoder,
            "weights": self.weights,
            "weights_sha256": self.weights_sha256,
            "image_size": self.image_size,
            "crop": self.crop,
            "preprocessing": self.preprocessing,
        }


def kept_name(network: Path) -> str:
    """Return what the copy of an encoder of one's own is called, with its features and in a model."""
    return f"encoder{network.suffix}"


def _damaged(path: Path, found: str, expected: str) -> CaptionerError:
    return CaptionerError(f"{path}: found {found}, expected {expected}; `dvc repro features` makes it again")


class _Index(BaseModel):
    """What `index.json` says."""

    model_config = ConfigDict(strict=True)

    encoder: str
    weights: str
    weights_sha256: str
    image_size: int
    # as before there was a choice
    crop: Crop = "stretch"
    preprocessing: str = "auto"
    shape: Annotated[list[int], Field(min_length=3, max_length=3)]
    images: list[str]
    views: Annotated[int, Field(ge=1)] = 1
    viewed: list[str] = []
    network: str | None = None


def _read_index(path: Path) -> _Index:
    """Read the index; every row has a name."""
    try:
        index = _Index.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise _damaged(path, "no file", "an index of features") from None
    except ValidationError as error:
        raise _damaged(path, problem(error), "an index of features") from error
    names, viewed = set(index.images), set(index.viewed)
    rows = len(names) + (index.views - 1) * len(viewed)
    if rows != index.shape[0] or len(names) < len(index.images) or not viewed <= names:
        raise _damaged(path, f"names for {rows:,} rows", f"one for each row of the shape {index.shape}")
    return index


def _network(directory: Path, name: str | None) -> Path | None:
    try:
        return file_inside(directory, name) if name else None
    except ValueError as error:
        raise _damaged(directory / INDEX, str(error), "the name of the encoder beside it") from None


def _map_grid(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    expected = f"float16 values of the shape {shape}"
    try:
        grid = mapped(path)
    except FileNotFoundError:
        raise _damaged(path, "no file", expected) from None
    except ValueError as error:
        raise _damaged(path, reason(error), expected) from error
    if (grid.shape, grid.dtype) != (shape, np.float16):
        raise _damaged(path, f"{grid.dtype} values of the shape {grid.shape}", expected)
    return grid


def row_of(features: Features, image: str) -> int:
    """Return the row of a picture's features.

    Raises:
        CaptionerError: it has none.
    """
    try:
        return features.rows[image]
    except KeyError:
        raise CaptionerError(
            f"The features lack the picture {image!r} (they have {len(features.rows):,}): "
            "make them again with `dvc repro features`."
        ) from None


def rows_of(features: Features, images: Sequence[str]) -> np.ndarray:
    """Return the rows of pictures' features, int `[pictures]`."""
    return np.array([row_of(features, image) for image in images], int)
