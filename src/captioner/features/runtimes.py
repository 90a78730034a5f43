"""Networks in files of one's own that are not Keras's: TensorFlow Lite by LiteRT, ONNX by ONNX Runtime.

Legend: `S` height and width of the pictures in pixels, `P` positions, `C` channels.
"""

import importlib
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import isqrt
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np

from captioner.common.errors import CaptionerError
from captioner.common.files import sha256
from captioner.common.startup import silence_stderr
from captioner.encoders.registry import Preprocessing

Forward = Callable[[np.ndarray], np.ndarray]
MOST_INTERPRETERS = 8  # each has the weights in a layout of its own


class Runtime(NamedTuple):
    """A network that is ready to run.

    Attributes:
        forward: from pictures, uint8 `[B, S, S, 3]`, to their maps, float16 `[B, P, C]`; from any thread.
        image_size: `S`.
        positions: `P`.
        channels: `C`.
        sha256: hash of the file.
    """

    forward: Forward
    image_size: int
    positions: int
    channels: int
    sha256: str


def is_runtimes(name: str) -> bool:
    """Say whether an encoder's name is that of a file which Keras does not read."""
    return Path(name).suffix in _RUNNERS


def open_network(path: Path, preprocessing: Preprocessing, image_size: int | None = None) -> Runtime:
    """Open a file with a network from pictures, `[1, S, S, 3]` or `[1, 3, S, S]`, to a map in the same order of axes.

    A map `[1, P, C]` will do as well.

    Args:
        path: ends in `.tflite` or `.onnx`.
        preprocessing: of pixels, before they come to the network.
        image_size: `S`, which a file need not say.

    Raises:
        CaptionerError: the runtime is not installed, the file is damaged, or its network is another one than described.
    """
    try:
        run, shape, dtype = _RUNNERS[path.suffix](path)
    except CaptionerError:
        raise
    except Exception as error:  # both libraries raise their own kinds and plain ones
        raise _refused(path, f"cannot be read ({' '.join(str(error).split())[:200]})") from error
    first = len(shape) == 4 and shape[1] == 3
    sides = [side for side in (shape[2:] if first else shape[1:3]) if isinstance(side, int) and side > 1]
    size = sides[0] if sides else image_size
    if len(shape) != 4 or (not first and shape[3] != 3) or len(set(sides)) > 1 or dtype not in (np.float32, np.uint8):
        raise _refused(path, f"takes {np.dtype(dtype)} values of the shape {list(shape)}: square pictures are needed")
    if size is None:
        raise _refused(path, "does not say of which size its pictures are: set features.image_size")
    if image_size not in (None, size):
        raise _refused(path, f"takes pictures of {size} pixels, and features.image_size is {image_size}")

    def one(picture: np.ndarray) -> np.ndarray:
        values = picture[None] if dtype == np.uint8 else preprocessing(picture[None]).astype(np.float32)
        given = run(np.ascontiguousarray(values.transpose(0, 3, 1, 2) if first else values))
        if first and given.ndim == 4:
            given = given.transpose(0, 2, 3, 1)
        with np.errstate(over="ignore"):  # infinite is what the caller asks for
            return given.reshape(1, -1, given.shape[-1]).astype(np.float16)

    pool = ThreadPoolExecutor(os.cpu_count())

    def forward(batch: np.ndarray) -> np.ndarray:
        return one(batch[0]) if len(batch) == 1 else np.concatenate(list(pool.map(one, batch)))

    try:
        found = one(np.zeros((size, size, 3), np.uint8))
    except Exception as error:
        raise _refused(path, f"cannot be run ({' '.join(str(error).split())[:200]})") from error
    _, positions, channels = found.shape
    if isqrt(positions) ** 2 != positions or positions < 4:
        raise _refused(path, f"gives {positions} positions: a square map of at least 2 × 2 is needed, no classifier")
    return Runtime(forward, size, positions, channels, sha256(path))


def _refused(path: Path, reason: str) -> CaptionerError:
    return CaptionerError(f"encoder {str(path)!r} {reason}")


def interpreters(content: bytes) -> tuple[Forward, tuple[int, ...], Any]:
    """Return what runs a TensorFlow Lite network on one picture, with the shape and type of its input.

    Each core takes a picture with an interpreter of its own, since an interpreter has one set of buffers.
    """
    try:
        make = importlib.import_module("ai_edge_litert.interpreter").Interpreter
    except ImportError:
        make = importlib.import_module("tensorflow").lite.Interpreter
    cores = os.cpu_count() or 1
    workers = min(cores, MOST_INTERPRETERS)
    free: SimpleQueue = SimpleQueue()
    with silence_stderr(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*Warning: tf.lite.Interpreter is deprecated")
        for _ in range(workers):
            interpreter = make(model_content=content, num_threads=cores // workers)
            interpreter.allocate_tensors()
            free.put(interpreter)
    [source], [target] = interpreter.get_input_details(), interpreter.get_output_details()

    def run(picture: np.ndarray) -> np.ndarray:
        interpreter = free.get()
        try:
            interpreter.set_tensor(source["index"], picture)
            interpreter.invoke()
            return np.asarray(interpreter.get_tensor(target["index"]))
        finally:
            free.put(interpreter)

    return run, tuple(map(int, source["shape"])), source["dtype"]


def _litert(path: Path) -> tuple[Forward, tuple[int, ...], Any]:
    try:
        return interpreters(path.read_bytes())
    except ImportError:
        raise _refused(path, "needs LiteRT: pip install -e '.[litert]' in the checkout") from None


def _onnx(path: Path) -> tuple[Forward, tuple[Any, ...], Any]:
    try:
        onnxruntime = importlib.import_module("onnxruntime")
    except ImportError:
        raise _refused(path, "needs ONNX Runtime: pip install -e '.[onnx]' in the checkout") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # each core takes a picture
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    [source], [target] = session.get_inputs(), session.get_outputs()
    dtypes = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}

    def run(picture: np.ndarray) -> np.ndarray:
        return np.asarray(session.run([target.name], {source.name: picture})[0])

    return run, tuple(source.shape), dtypes.get(source.type, np.float64)


_RUNNERS: dict[str, Callable[[Path], tuple[Forward, tuple[Any, ...], Any]]] = {".tflite": _litert, ".onnx": _onnx}
