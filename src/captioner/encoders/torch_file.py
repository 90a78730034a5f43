"""Tensors from a PyTorch file, without PyTorch and without running anything that the file names."""

import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from captioner.common.errors import CaptionerError


class _Tensor(NamedTuple):
    """A tensor of a PyTorch file before its values are read: a view of a storage, which comes later in the file."""

    storage: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


_DTYPES = {"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8"}
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001


def read_torch(path: Path) -> dict[str, np.ndarray]:
    """Read the tensors of a PyTorch file in its format of before 1.6 (a row of pickles, then the values).

    A pickle may name any function and have it called. This reader admits only what a dictionary of tensors needs and
    never imports anything that the file names.

    Raises:
        CaptionerError: the file is missing, damaged, or holds anything but a dictionary of tensors.
    """
    try:
        with path.open("rb") as file:
            return _read_tensors(file)
    except Exception as error:  # damaged pickles raise nearly every kind
        raise CaptionerError(
            f"{path} is not a whole PyTorch file of tensors only ({error}): reinstall the package it came with"
        ) from error


def _read_tensors(file: IO[bytes]) -> dict[str, np.ndarray]:
    """Read the pickles and then the storages, in the order they have in the file."""
    if _Tensors(file).load() != _MAGIC or _Tensors(file).load() != _PROTOCOL:
        raise pickle.UnpicklingError("it does not begin as such a file does")
    _Tensors(file).load()  # word sizes of the machine that wrote it
    unpickler = _Tensors(file)
    tensors = unpickler.load()
    if not isinstance(tensors, dict) or not all(isinstance(value, _Tensor) for value in tensors.values()):
        raise pickle.UnpicklingError("it holds something else than a dictionary of tensors")
    storages = {key: _read_storage(file, unpickler.dtypes[key]) for key in _Tensors(file).load()}
    return {name: _view(tensor, storages[tensor.storage]) for name, tensor in tensors.items()}


def _read_storage(file: IO[bytes], dtype: np.dtype) -> np.ndarray:
    """Read the number of values and the values."""
    [count] = struct.unpack("<q", file.read(8))
    return np.frombuffer(file.read(count * dtype.itemsize), dtype, count)


def _view(tensor: _Tensor, storage: np.ndarray) -> np.ndarray:
    """Cut a tensor out of its storage; its axes may lie in any order there, but not outside."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    if min(tensor.offset, *tensor.shape, *tensor.strides, 0) < 0 or tensor.offset + last >= len(storage):
        raise pickle.UnpicklingError("it has a tensor that reaches beyond its values")
    strides = [stride * storage.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, strides, writeable=False)


class _Tensors(pickle.Unpickler):
    """Unpickler that knows tensors, ordered dictionaries and storages of plain numbers, and refuses all else."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.dtypes: dict[str, np.dtype] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return our own stand-in for what the pickle names."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise pickle.UnpicklingError(f"it names {module}.{name}")

    def persistent_load(self, reference: Any) -> str:
        """Note the type of a storage and return its key."""
        _, dtype, key, _, _, view = reference
        if view is not None:
            raise pickle.UnpicklingError("it has a view of a storage")
        self.dtypes[key] = np.dtype(dtype)
        return key


def _rebuild_tensor(storage: str, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object) -> _Tensor:
    """Take the arguments of PyTorch's function of this name; what follows them concerns training."""
    return _Tensor(storage, offset, shape, strides)
