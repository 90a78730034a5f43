"""Frozen convolutional networks, pretrained on ImageNet, that turn a picture into a grid of feature vectors.

Legend: `B` pictures, `C` channels of the encoder. Every encoder takes pictures `[B, 224, 224, 3]` with values 0 to 255
(its preprocessing is part of the model) and gives a map `[B, 7, 7, C]`.

Importing this module is cheap: Keras is imported when a model is built.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.common.errors import CaptionerError
from captioner.common.startup import silence_stderr
from captioner.common.weights import not_finite
from captioner.data.images import IMAGE_SIZE
from captioner.encoders.efficientnet_lite import efficientnet_lite0

if TYPE_CHECKING:
    from captioner.common.keras import keras


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
        CaptionerError: the encoder is unknown, or its weights cannot be obtained or do not fit.
    """
    if name not in ENCODERS:
        raise CaptionerError(f"encoder {name!r} is unknown: choose one of {', '.join(ENCODERS)}")
    with silence_stderr():
        from captioner.common.keras import keras
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
    from captioner.common.keras import keras

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


_IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of red, green and blue, values 0 to 1
_IMAGENET_DEVIATION = (0.229, 0.224, 0.225)

ENCODERS = {
    encoder.name: encoder
    for encoder in (
        Encoder("efficientnet_lite0", 1280, 1 / 128, -127 / 128, efficientnet_lite0),
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
