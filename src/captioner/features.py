"""Pictures into feature vectors, and the file that holds those of a whole data set.

Legend: `B` pictures, `P` positions of the grid (49, row by row from the top left), `C` channels of the encoder.

A directory of features has two files: `grid.npy`, float16 `[pictures, P, C]`, and `index.json` with `encoder`,
`weights` (as they were asked for), `weights_sha256` (of their values), `image_size` (pixels), `shape` (of the grid) and
`images`, the pictures' names in the order of the grid's rows.
"""

import json
import math
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from captioner import encoders, files, images, threads
from captioner.errors import CaptionerError
from captioner.quiet import quiet

if TYPE_CHECKING:
    from captioner.configured import keras

GRID = "grid.npy"
INDEX = "index.json"
EXPONENT = 0x7C00  # of float16, its bits
MOST_INTERPRETERS = 8  # each has the weights in a layout of its own


def extract(
    pictures: Iterable[bytes],
    names: Sequence[str],
    encoder: str,
    weights: str,
    directory: Path,
    *,
    batch_size: int = 32,
) -> None:
    """Write the features of encoded pictures to a directory, which is whole or absent.

    Pictures are decoded and encoded on all cores; memory does not grow with their number.

    Args:
        pictures: encoded pictures (JPEG, PNG, ...), read once, as they are asked for.
        names: their names, in the same order, each once.
        encoder: a key of `captioner.encoders.ENCODERS`.
        weights: `imagenet` or the path of a weights file.
        directory: what is written, in place of what may stand there.
        batch_size: pictures that go through the network at a time, on a GPU or on JAX; else each core takes one.

    Raises:
        CaptionerError: the encoder or its weights cannot be had, or a picture cannot be decoded.
        ValueError: there are more names than pictures, or fewer.
    """
    Extractor(encoder, weights, batch_size=batch_size).extract(pictures, names, directory)


class Extractor:
    """A frozen encoder, compiled: the one way from pixels to feature vectors, in training as in inference.

    Only the first picture that comes alone need not wait until it is compiled: its values may differ in the last place.

    Args:
        encoder: a key of `captioner.encoders.ENCODERS`.
        weights: `imagenet` or the path of a weights file.
        batch_size: pictures that go through the network at a time, on a GPU or on JAX; else each core takes one.

    Attributes:
        positions: `P`.
        channels: `C`.
        weights_sha256: hash of the weights' values.

    Raises:
        CaptionerError: the encoder is unknown, or its weights cannot be had or do not fit.
    """

    def __init__(self, encoder: str, weights: str | Path = "imagenet", *, batch_size: int = 32) -> None:
        model = encoders.build(encoder, weights)
        _, height, width, self.channels = model.output_shape
        self.positions = height * width
        self.encoder, self.weights = encoder, str(weights)
        self.batch_size = batch_size
        self.weights_sha256 = encoders.weights_hash(model)
        self._model = model
        self._compiled: tuple[Callable[[np.ndarray], np.ndarray], int] | None = None
        self._asked = False
        self._lock = threading.Lock()

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """Turn pictures, uint8 `[B, 224, 224, 3]`, into feature vectors, float16 `[B, P, C]`.

        Raises:
            CaptionerError: a value is not finite in float16, as happens with the weights of another network.
        """
        features = np.empty((len(pictures), self.positions, self.channels), np.float16)  # [B, P, C]
        forward, _ = self._network(alone=len(pictures) == 1)
        for start in range(0, len(pictures), self.batch_size):
            part = pictures[start : start + self.batch_size]
            features[start : start + len(part)] = forward(part).reshape(len(part), self.positions, self.channels)
        # not finite: all bits of the exponent are set; NumPy's own test takes ten times as long in float16
        if (features.view(np.uint16) & EXPONENT == EXPONENT).any():
            raise CaptionerError(
                f"encoder {self.encoder!r} gives values that float16 cannot hold: check that `weights` are its own"
            )
        return features

    def _network(self, alone: bool = False) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
        """Return what `compile_forward` made of the network.

        Whoever gives a picture alone may have no other. The first such goes through Keras as it is, which takes a fifth
        of a second where compiling takes two.
        """
        with self._lock:
            if self._compiled is None:
                if alone and not self._asked and runs_on_litert():
                    self._asked = True
                    network = half(self._model)  # kept, should another thread compile it before this one comes to it
                    return lambda batch: np.asarray(network(batch)), 1
                self._compiled = compile_forward(self._model, self.batch_size)
                del self._model
            return self._compiled

    def extract(self, pictures: Iterable[bytes], names: Sequence[str], directory: Path) -> None:
        """Write the features of encoded pictures to a directory; see the function `extract`."""
        shape = (len(names), self.positions, self.channels)
        index = {
            "encoder": self.encoder,
            "weights": self.weights,
            "weights_sha256": self.weights_sha256,
            "image_size": encoders.IMAGE_SIZE,
            "shape": shape,
            "images": list(names),
        }
        with files.replacing(directory) as beside:
            beside.mkdir()
            # Written from front to back and not through a memory map, whose pages would count as the process's memory.
            with (beside / GRID).open("wb") as grid, tqdm(total=len(names), unit=" pictures", desc=self.encoder) as bar:
                header = {"descr": "<f2", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(grid, header)
                for features in self._in_order(pictures, names):
                    grid.write(features.astype("<f2", copy=False).data)
                    bar.update(len(features))
            (beside / INDEX).write_text(files.json_of(index, indent=1) + "\n", encoding="utf-8")

    def _in_order(self, pictures: Iterable[bytes], names: Sequence[str]) -> Iterator[np.ndarray]:
        """Yield features of encoded pictures, in their order.

        Where the network takes one picture at a time, each core decodes one and puts it through; else all cores decode
        what the network is given next.
        """
        pairs = zip(names, pictures, strict=True)
        cores = os.cpu_count() or 1
        _, together = self._network()
        if together == 1:
            yield from threads.ahead(lambda pair: self(_decode(pair)[None]), pairs, 2 * cores, cores)
        else:
            with closing(threads.ahead(_decode, pairs, 2 * together, cores)) as decoded:
                while part := list(islice(decoded, together)):
                    yield self(np.stack(part))


def half(model: "keras.Model") -> "keras.Model":
    """Return a model whose map is float16, infinite where that cannot hold it."""
    from captioner.configured import keras

    return keras.Model(model.inputs[0], keras.ops.cast(model.outputs[0], "float16"))


def runs_on_litert() -> bool:
    """Whether frozen models run through LiteRT: on TensorFlow without a GPU."""
    from captioner.configured import keras

    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow

    return not tensorflow.config.list_physical_devices("GPU")


def compile_forward(model: "keras.Model", batch_size: int) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    """Compile a frozen model.

    On TensorFlow without a GPU it runs through LiteRT, whose kernels (XNNPACK) are several times faster on a CPU; else
    through Keras, which fills smaller batches up, so that it compiles for one size.

    Returns:
        Function from pictures, uint8 `[B, 224, 224, 3]`, `B` up to `batch_size`, to the map, float16 `[B, 7, 7, C]`,
        infinite where float16 cannot hold it; and how many pictures it takes at a time at best.
    """
    network = half(model)
    if runs_on_litert():
        return _compile_litert(network), 1

    # A web server calls from many threads, and on JAX Keras lends the weights' memory to a prediction until it ends.
    lock = threading.Lock()

    def forward(batch: np.ndarray) -> np.ndarray:
        filled = np.pad(batch, ((0, batch_size - len(batch)), (0, 0), (0, 0), (0, 0)))
        with lock:
            return network.predict_on_batch(filled)[: len(batch)]

    return forward, batch_size


def _compile_litert(model: "keras.Model") -> Callable[[np.ndarray], np.ndarray]:
    """Convert a model for LiteRT, in memory, its weights as constants.

    Each core takes a picture at a time with an interpreter of its own. What a layer leaves is then in the core's cache
    when the next one wants it, and no core waits for another after each layer; the values are those of any batch.
    """
    import tensorflow

    trainable = [variable.numpy() for variable in model.trainable_variables]
    others = [variable.numpy() for variable in model.non_trainable_variables]
    function = tensorflow.function(
        lambda batch: model.stateless_call(trainable, others, batch, training=False)[0],
        input_signature=[tensorflow.TensorSpec((1, *model.input_shape[1:]), tensorflow.uint8)],
        autograph=False,
    )
    # The second argument would hold the variables; there are none, but without it a deprecated path is taken.
    converter = tensorflow.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()], tensorflow.Module()
    )
    cores = os.cpu_count() or 1
    workers = min(cores, MOST_INTERPRETERS)
    free: SimpleQueue = SimpleQueue()
    with quiet(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*Warning: tf.lite.Interpreter is deprecated")
        content = converter.convert()
        for _ in range(workers):
            interpreter = tensorflow.lite.Interpreter(model_content=content, num_threads=cores // workers)
            interpreter.allocate_tensors()
            free.put(interpreter)
    [source], [target] = interpreter.get_input_details(), interpreter.get_output_details()
    pool = ThreadPoolExecutor(workers)

    def forward_one(picture: np.ndarray) -> np.ndarray:
        # An interpreter has one set of buffers; a web server calls from many threads.
        interpreter = free.get()
        try:
            interpreter.set_tensor(source["index"], picture[None])
            interpreter.invoke()
            return interpreter.get_tensor(target["index"])
        finally:
            free.put(interpreter)

    def forward(batch: np.ndarray) -> np.ndarray:
        if len(batch) == 1:  # one of many threads' picture: no other thread is waited for
            return forward_one(batch[0])
        return np.concatenate(list(pool.map(forward_one, batch)))

    return forward


def _decode(picture: tuple[str, bytes]) -> np.ndarray:
    """Decode a picture, and say which one when it is broken."""
    name, data = picture
    try:
        return images.decode(data, encoders.IMAGE_SIZE)
    except images.UnreadableImage as error:
        raise images.UnreadableImage(f"picture {name!r}: {error}") from error


@dataclass(frozen=True)
class Features:
    """Features of a data set, on disk.

    Attributes:
        grid: float16 `[pictures, P, C]`, memory-mapped for reading.
        rows: the grid's row by the picture's name.
        encoder: name of the encoder that made them.
        weights: its weights, as they were asked for.
        weights_sha256: hash of their values.
    """

    grid: np.ndarray
    rows: dict[str, int]
    encoder: str
    weights: str
    weights_sha256: str

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
        return cls(
            grid=_map_grid(directory / GRID, tuple(index["shape"])),
            rows={name: row for row, name in enumerate(index["images"])},
            encoder=index["encoder"],
            weights=index["weights"],
            weights_sha256=index["weights_sha256"],
        )


def _damaged(path: Path, found: str, expected: str) -> CaptionerError:
    return CaptionerError(f"{path}: found {found}, expected {expected}; `dvc repro features` makes it anew")


def _read_index(path: Path) -> dict:
    """Read the index; all keys are there and every row has a name."""
    keys = ("encoder", "weights", "weights_sha256", "image_size", "shape", "images")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _damaged(path, "no file", "an index of features") from None
    except ValueError as error:
        raise _damaged(path, "text that is not JSON", "an index of features") from error
    if not isinstance(index, dict) or not index.keys() >= set(keys):
        raise _damaged(path, "other JSON", f"the keys {', '.join(keys)}")
    if len(index["shape"]) != 3 or len(set(index["images"])) != index["shape"][0]:
        raise _damaged(path, f"{len(set(index['images']))} names", f"one for each row of the shape {index['shape']}")
    return index


def _map_grid(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Map the grid for reading after its header and length are found right."""
    expected = f"float16 values of the shape {shape}"
    try:
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            found_shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            length = file.tell() + math.prod(shape) * dtype.itemsize
    except FileNotFoundError:
        raise _damaged(path, "no file", expected) from None
    except ValueError as error:
        raise _damaged(path, "no header of a .npy file", expected) from error
    if (found_shape, dtype) != (shape, np.float16):
        raise _damaged(path, f"{dtype} values of the shape {found_shape}", expected)
    if path.stat().st_size != length:
        raise _damaged(path, f"{path.stat().st_size:,} bytes", f"{length:,} for {expected}")
    return np.load(path, mmap_mode="r")
