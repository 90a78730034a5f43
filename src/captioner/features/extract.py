"""Pictures into feature vectors, and those of a whole data set into a directory.

Legend: `B` pictures, `S` their height and width in pixels, `P` positions of the grid (49 by default, row by row from
the top left), `C` channels of the encoder.
"""

import io
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from captioner.common import files, interruption, threads
from captioner.common.errors import CaptionerError
from captioner.common.weights import weights_hash
from captioner.data import Crop, images
from captioner.encoders import networks
from captioner.encoders.registry import network_path, runs_only
from captioner.features import runtimes
from captioner.features.compiled import Compiled, compile_forward, half, on_litert, runs_on_litert
from captioner.features.store import GRID, INDEX, kept_name
from captioner.features.views import view

if TYPE_CHECKING:
    from captioner.common.keras import keras

EXPONENT = 0x7C00  # of float16, its bits


FLUSHED = "flushed.json"


class GrowingGrid:
    """The file `grid.npy` while it grows by rows.

    Written from front to back and not through a memory map, whose pages would count as the process's memory.

    Args:
        directory: which the file lies in.
        shape: that it will have, `[rows, P, C]`.
        lasting: whether the directory outlasts an interrupted process, so that the next one goes on.

    Attributes:
        rows: that are there.
        seconds_before: that interrupted processes took for them.
    """

    def __init__(self, directory: Path, shape: tuple[int, int, int], lasting: bool):
        self._note = directory / FLUSHED if lasting else None
        self._row_bytes = 2 * math.prod(shape[1:])
        self.rows, self.seconds_before = self._left(directory / GRID)
        self._file = (directory / GRID).open("r+b" if self.rows else "wb")
        np.lib.format.write_array_header_1_0(self._file, {"descr": "<f2", "fortran_order": False, "shape": shape})
        self._file.seek(self.rows * self._row_bytes, os.SEEK_CUR)
        self._file.truncate()
        if self.rows:
            print(f"Goes on after {self.rows:,} of {shape[0]:,} feature maps, where it was interrupted.", flush=True)
        self._began = self._flushed = time.monotonic()

    def _left(self, grid: Path) -> tuple[int, float]:
        """Return what an interrupted process has left, as far as it is whole."""
        if self._note is None:
            return 0, 0.0
        try:
            left = json.loads(self._note.read_text("utf-8"))
            if grid.stat().st_size >= left["rows"] * self._row_bytes:
                return int(left["rows"]), float(left["seconds"])
        except (OSError, ValueError, TypeError, KeyError):
            return 0, 0.0
        return 0, 0.0

    def append(self, features: np.ndarray) -> None:
        """Write the next rows, float16 `[B, P, C]`."""
        self._file.write(features.astype("<f2", copy=False).data)
        self.rows += len(features)
        if time.monotonic() - self._flushed >= interruption.INTERVAL:
            self._flush()

    def _flush(self) -> None:
        """Have the rows on the disk, and note how many they are."""
        self._flushed = time.monotonic()
        if self._note is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            files.write_json(
                self._note, {"rows": self.rows, "seconds": self.seconds_before + self._flushed - self._began}
            )

    def __enter__(self) -> "GrowingGrid":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close the file, from which an interrupted process can go on; not where a picture or the disk is at fault."""
        with self._file:
            if kind is None or issubclass(kind, KeyboardInterrupt):
                self._flush()


class FeatureOverflowError(CaptionerError):
    """A feature is not finite in float16."""


class Extractor:
    """A frozen encoder, compiled: the one way from pixels to feature vectors, in training as in inference.

    Only the first picture that comes alone need not wait until it is compiled: its values may differ in the last place.
    It can be pickled. Where it was compiled for LiteRT, it then runs elsewhere without TensorFlow, by `.[litert]`.

    Args:
        encoder: a key of `captioner.encoders.ENCODERS`, or the path of a network of one's own.
        weights: `imagenet` or the path of a weights file.
        batch_size: pictures that go through the network at a time, on a GPU or on JAX; else each core takes one.
        image_size: height and width of the pictures that it gets, `S` pixels; by default the encoder's own.
        crop: how encoded pictures become squares.
        preprocessing: what an encoder of one's own wants, a key of `captioner.encoders.registry.PREPROCESSINGS`.
        model: the encoder itself, whose weights then stay as they are; `encoder` is what it is called.

    Attributes:
        positions: `P`.
        channels: `C`.
        image_size: `S`.
        network: path of a network of one's own, None of others.
        weights_sha256: hash of the weights' values.

    Raises:
        CaptionerError: the encoder is unknown, or its weights cannot be obtained or do not fit.
    """

    def __init__(
        self,
        encoder: str,
        weights: str | Path = "imagenet",
        *,
        batch_size: int = 32,
        image_size: int | None = None,
        crop: Crop = "stretch",
        preprocessing: str = "auto",
        model: "keras.Model | None" = None,
    ) -> None:
        self._made_with = (
            (encoder, weights),
            {
                "batch_size": batch_size,
                "image_size": image_size,
                "crop": crop,
                "preprocessing": preprocessing,
                "model": model,
            },
        )
        self._compiled: Compiled | None = None
        self._known = encoder in networks.ENCODERS and model is None
        self.network = None if model else network_path(encoder)
        if self.network and runs_only(encoder):
            runtime = runtimes.open_network(self.network, networks.preprocessing_of(encoder, preprocessing), image_size)
            self._compiled = Compiled(runtime.forward, 1)
            _, self.image_size, self.positions, self.channels, self.weights_sha256 = runtime
        else:
            model = model or networks.build(encoder, weights, image_size, preprocessing)
            _, height, width, self.channels = model.output_shape
            self.positions = height * width
            self.image_size = model.input_shape[1]
            self.weights_sha256 = weights_hash(model)
            self._model = model
        if self.positions < 4:
            raise CaptionerError(
                f"encoder {encoder!r} has a single position for pictures of {self.image_size} pixels, and attention "
                "nothing to choose from: raise features.image_size to twice that"
            )
        self.crop, self.preprocessing = crop, preprocessing
        self.encoder = encoder if self.network is None else self.network.name
        self.weights = str(weights)
        self.batch_size = batch_size
        self._asked = False
        self._lock = threading.Lock()

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """Turn pictures, uint8 `[B, S, S, 3]`, into feature vectors, float16 `[B, P, C]`.

        Raises:
            FeatureOverflowError: a value is not finite in float16, as happens with the weights of another network.
        """
        features = np.empty((len(pictures), self.positions, self.channels), np.float16)  # [B, P, C]
        forward = self._network(alone=len(pictures) == 1).forward
        for start in range(0, len(pictures), self.batch_size):
            part = pictures[start : start + self.batch_size]
            features[start : start + len(part)] = forward(part).reshape(len(part), self.positions, self.channels)
        # not finite: all bits of the exponent are set; NumPy's own test takes ten times as long in float16
        if (features.view(np.uint16) & EXPONENT == EXPONENT).any():
            check = "features.preprocessing" if self.network else "that `weights` are its own"
            raise FeatureOverflowError(f"encoder {self.encoder!r} gives values that float16 cannot hold: check {check}")
        return features

    def __getstate__(self) -> dict[str, Any]:
        content = self._network().content
        if content is None:
            return {"_made_with": self._made_with}
        kept = self.__dict__.keys() - {"_compiled", "_lock", "_made_with", "_model"}
        return {name: self.__dict__[name] for name in kept} | {"content": content}

    def __setstate__(self, state: dict[str, Any]) -> None:
        content = state.pop("content", None)
        if content is None:
            arguments, options = state["_made_with"]
            self.__init__(*arguments, **options)  # type: ignore[misc]
            return
        self.__dict__ |= state
        self._lock = threading.Lock()
        self._compiled = on_litert(content)

    def compile(self) -> None:
        """Compile the network now, and not when pictures wait for it."""
        self._network()

    def _network(self, alone: bool = False) -> Compiled:
        """Return what `compile_forward` made of the network.

        Whoever gives a picture alone may have no other. The first such goes through Keras as it is, which takes a fifth
        of a second where compiling takes two.
        """
        with self._lock:
            if self._compiled is None:
                if alone and not self._asked and runs_on_litert():
                    self._asked = True
                    network = half(self._model)  # kept, should another thread compile it before this one comes to it
                    return Compiled(lambda batch: np.asarray(network(batch)), 1)
                self._compiled = compile_forward(self._model, self.batch_size, check=not self._known)
                del self._model
            return self._compiled

    def extract(
        self,
        pictures: Iterable[bytes],
        names: Sequence[str],
        directory: Path,
        views: int = 1,
        viewed: tuple[Iterable[bytes], Sequence[str]] = ((), ()),
        partial: Path | None = None,
        beside_grid: Mapping[str, Path] | None = None,
    ) -> float:
        """Write the features of encoded pictures to a directory, which is whole or absent.

        Pictures are decoded and encoded on all cores; memory does not grow with their number.

        Args:
            pictures: encoded pictures (JPEG, PNG, ...), read once, as they are asked for.
            names: their names, in the same order, each once.
            directory: what is written, in place of what may stand there.
            views: of each picture that is trained on, the plain one included, see `captioner.features.views`.
            viewed: pictures that are trained on, once more, and their names.
            partial: a directory in which an interrupted call has left what it had, and from which this one goes on.
            beside_grid: files that are to stand in the directory as well, by their paths there.

        Returns:
            The seconds that interrupted calls took.

        Raises:
            CaptionerError: a picture cannot be decoded.
            ValueError: there are more names than pictures, or fewer.
        """
        others = range(1, views)
        plain = ((name, data, 0) for name, data in zip(names, pictures, strict=True))
        further = ((name, data, number) for name, data in zip(viewed[1], viewed[0], strict=True) for number in others)
        every = chain(plain, further if others else ())
        return self.write(
            lambda first: self.in_order(islice(every, first, None)),
            names,
            directory,
            views,
            viewed[1],
            partial,
            beside_grid,
        )

    def write(
        self,
        rows: Callable[[int], Iterator[np.ndarray]],
        names: Sequence[str],
        directory: Path,
        views: int,
        viewed: Sequence[str],
        partial: Path | None,
        beside_grid: Mapping[str, Path] | None = None,
    ) -> float:
        """Write features to a directory, which is whole or absent.

        Args:
            rows: the features, float16 `[B, P, C]` at a time, from the given row on.
            names: see `extract`.
            directory: see `extract`.
            views: see `extract`.
            viewed: names of the pictures that have further views.
            partial: see `extract`.
            beside_grid: see `extract`.

        Returns:
            See `extract`.
        """
        further = (views - 1) * len(viewed)
        shape = (len(names) + further, self.positions, self.channels)
        index = {
            "encoder": self.encoder,
            "weights": self.weights,
            "weights_sha256": self.weights_sha256,
            "image_size": self.image_size,
            "crop": self.crop,
            "preprocessing": self.preprocessing,
            "shape": shape,
            "images": list(names),
            "views": views,
            "viewed": list(viewed) if views > 1 else [],
            "network": self.network and kept_name(self.network),
        }
        if views > 1:
            self._say_what_it_takes(shape, len(names))
        with files.replacing(directory) as beside:
            beside.mkdir()
            with (
                GrowingGrid(partial or beside, shape, lasting=partial is not None) as grid,
                tqdm(total=shape[0], initial=grid.rows, unit=" pictures", desc=self.encoder) as bar,
            ):
                for features in rows(grid.rows):
                    grid.append(features)
                    bar.update(len(features))
            if partial is not None:
                files.link(partial / GRID, beside / GRID)
            if self.network:
                files.copy(self.network, beside / kept_name(self.network))
            for name, file in (beside_grid or {}).items():
                (beside / name).parent.mkdir(exist_ok=True)
                files.link(file, beside / name)
            (beside / INDEX).write_text(files.json_of(index, indent=1) + "\n", encoding="utf-8")
        return grid.seconds_before

    def _say_what_it_takes(self, shape: tuple[int, ...], plain: int) -> None:
        """Print how much disk and time the views take, by the pace on some pictures of noise."""
        noise = np.random.default_rng(1).integers(0, 256, (500, 375, 3), np.uint8)
        Image.fromarray(noise).save(encoded := io.BytesIO(), "JPEG")
        pictures = [("noise", encoded.getvalue(), 1)] * max(16, self._network().together)
        list(self.in_order(pictures))
        began = time.perf_counter()
        list(self.in_order(pictures))
        seconds = (time.perf_counter() - began) / len(pictures) * shape[0]
        print(
            f"{shape[0]:,} feature maps, of {plain:,} pictures and {shape[0] - plain:,} further views, take "
            f"{2 * math.prod(shape) / 1e9:.1f} GB of disk and about {max(1, round(seconds / 60)):,} min.",
            flush=True,
        )

    def in_order(self, pictures: Iterable[tuple[str, bytes, int]]) -> Iterator[np.ndarray]:
        """Yield features of encoded pictures, each with its name and the number of a view, in their order.

        Where the network takes one picture at a time, each core decodes one and puts it through; else all cores decode
        what the network is given next.
        """
        cores = threads.cores()
        together = self._network().together
        if together == 1:
            yield from threads.prefetch(lambda each: self(self._decode(each)[None]), pictures, 2 * cores, cores)
        else:
            with closing(threads.prefetch(self._decode, pictures, 2 * together, cores)) as decoded:
                while part := list(islice(decoded, together)):
                    yield self(np.stack(part))

    def _decode(self, picture: tuple[str, bytes, int]) -> np.ndarray:
        """Decode a view of a picture, and say which one when it is broken."""
        name, data, number = picture
        try:
            return view(data, name, number, self.image_size, self.crop)
        except images.UnreadableImage as error:
            raise images.UnreadableImage(f"picture {name!r}: {error}") from error
