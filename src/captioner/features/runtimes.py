"""Networks in files of one's own that are not Keras's: TensorFlow Lite by LiteRT, ONNX by ONNX Runtime.

Legend: `S` height and width of the pictures in pixels, `P` positions, `C` channels.
"""

import hashlib
import importlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np

from captioner.common import threads
from captioner.common.errors import CaptionerError
from captioner.common.startup import silence_stderr
from captioner.encoders.registry import AS_IT_IS, Preprocessing, checked_side

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


class _Opened(NamedTuple):
    """A file as its runtime sees it: what runs it on one picture, and the shape and the type of its input."""

    run: Forward
    shape: Sequence[Any]
    dtype: str


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
    content = path.read_bytes()
    with _refusing(path, "cannot be read"):
        run, shape, dtype = _RUNNERS[path.suffix.lower()](content, image_size)
    first = len(shape) == 4 and shape[1] == 3
    sides = [side for side in (shape[2:] if first else shape[1:3]) if isinstance(side, int) and side > 1]
    size = sides[0] if sides else image_size
    if len(shape) != 4 or (not first and shape[3] != 3) or len(set(sides)) > 1:
        raise _refused(path, f"takes values of the shape {list(shape)}: square pictures of three colours are needed")
    if dtype not in ("float32", "uint8"):
        raise _refused(path, f"takes {dtype} values: save it with an input of float32 or uint8")
    if dtype == "uint8" and preprocessing != AS_IT_IS:
        raise _refused(path, "takes whole numbers from 0 to 255: leave features.preprocessing at auto")
    if size is None:
        raise _refused(path, "does not say of which size its pictures are: set features.image_size")
    if image_size not in (None, size):
        raise _refused(path, f"takes pictures of {size} pixels, and features.image_size is {image_size}")

    def one(picture: np.ndarray) -> np.ndarray:
        values = picture[None] if dtype == "uint8" else preprocessing(picture[None]).astype(np.float32)
        given = run(np.ascontiguousarray(values.transpose(0, 3, 1, 2) if first else values))
        if first and given.ndim == 4:
            given = given.transpose(0, 2, 3, 1)
        checked_side(given.shape, path)
        with np.errstate(over="ignore"):  # infinite is what the caller asks for
            return given.reshape(1, -1, given.shape[-1]).astype(np.float16)

    with _refusing(path, "cannot be run"):
        found = one(np.zeros((size, size, 3), np.uint8))
    _, positions, channels = found.shape
    return Runtime(on_all_cores(one), size, positions, channels, hashlib.sha256(content).hexdigest())


def on_all_cores(one: Forward) -> Forward:
    """Return what takes a batch `[B, ...]`, of what takes a picture `[...]` and returns a batch of one."""
    pool = ThreadPoolExecutor(threads.cores())

    def forward(batch: np.ndarray) -> np.ndarray:
        if len(batch) == 1:  # one of many threads' picture: no other thread is waited for
            return one(batch[0])
        return np.concatenate(list(pool.map(one, batch)))

    return forward


def _refused(path: Path, reason: str) -> CaptionerError:
    return CaptionerError(f"encoder {str(path)!r} {reason}")


@contextmanager
def _refusing(path: Path, what: str) -> Iterator[None]:
    """Say in one line what a library raises of a file; both raise their own kinds and plain ones."""
    try:
        yield
    except CaptionerError:
        raise
    except ImportError as error:
        raise _refused(path, str(error)) from None
    except Exception as error:
        raise _refused(path, f"{what} ({' '.join(str(error).split())[:200]})") from error


def interpreters(content: bytes, image_size: int | None = None) -> _Opened:
    """Open a TensorFlow Lite network; one of pictures of any size takes those of `image_size`.

    Each core takes a picture with an interpreter of its own, since an interpreter has one set of buffers.
    """
    make = _interpreter()
    cores = threads.cores()
    workers = min(cores, MOST_INTERPRETERS)
    free: SimpleQueue = SimpleQueue()
    with silence_stderr(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*Warning: tf.lite.Interpreter is deprecated")
        for _ in range(workers):
            interpreter = make(model_content=content, num_threads=cores // workers)
            [source] = interpreter.get_input_details()
            shape = [None if side < 0 else int(side) for side in source["shape_signature"]]
            if image_size and len(shape) == 4 and None in shape[1:3]:
                interpreter.resize_tensor_input(source["index"], (1, image_size, image_size, 3))
            interpreter.allocate_tensors()
            free.put(interpreter)
    [target] = interpreter.get_output_details()
    scale, zero = target["quantization"]

    def run(picture: np.ndarray) -> np.ndarray:
        interpreter = free.get()
        try:
            interpreter.set_tensor(source["index"], picture)
            interpreter.invoke()
            found = np.asarray(interpreter.get_tensor(target["index"]))
        finally:
            free.put(interpreter)
        return (found.astype(np.float32) - zero) * scale if scale else found

    return _Opened(run, shape, np.dtype(source["dtype"]).name)


def _interpreter() -> Any:
    for module, name in (("ai_edge_litert.interpreter", ""), ("tensorflow", "lite")):
        try:
            found = importlib.import_module(module)
        except ImportError:
            continue
        return (getattr(found, name) if name else found).Interpreter
    raise ImportError("needs LiteRT: pip install -e '.[litert]' in the checkout")


def _onnx(content: bytes, _: int | None) -> _Opened:
    """Open an ONNX network from bytes: with its weights in another file, it would be refused, as their hash needs."""
    try:
        onnxruntime = importlib.import_module("onnxruntime")
    except ImportError:
        raise ImportError("needs ONNX Runtime: pip install -e '.[onnx]' in the checkout") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # each core takes a picture
    options.log_severity_level = 4  # what fails is raised as well
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    [source], [target] = session.get_inputs(), session.get_outputs()
    dtype = source.type.removeprefix("tensor(").removesuffix(")")

    def run(picture: np.ndarray) -> np.ndarray:
        return np.asarray(session.run([target.name], {source.name: picture})[0])

    return _Opened(run, source.shape, "float32" if dtype == "float" else dtype)


_RUNNERS: dict[str, Callable[[bytes, int | None], _Opened]] = {".tflite": interpreters, ".onnx": _onnx}
