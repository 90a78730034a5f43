"""The networks that can be chosen, as data.

Importing this module is cheap: it needs no Keras.
"""

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioner.common.errors import CaptionerError, quoted

SUFFIXES = (".keras", ".onnx", ".tflite")
"""What files with networks of one's own end in; a folder in Keras's format is known by the `/` in its path."""
ENCODER_TRAININGS = FROZEN, FINE_TUNED, RANDOM = "frozen", "fine_tuned", "random"
"""Whether an encoder learns with the decoder: not, from the weights that it has, or from random ones."""


@dataclass(frozen=True)
class Preprocessing:
    """How pixels, 0 to 255, become a network's input: `scale * pixels + offset`, each a number or one a colour.

    Attributes:
        scale: of red, green and blue.
        offset: likewise.
        blue_first: whether the network then takes them in reverse order.
    """

    scale: float | tuple[float, ...] = 1.0
    offset: float | tuple[float, ...] = 0.0
    blue_first: bool = False

    def __call__(self, pixels: Any) -> Any:
        """Return the input for pixels in a NumPy array `[..., 3]`."""
        values = pixels * self.scale + self.offset
        return values[..., ::-1] if self.blue_first else values


MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels, 0 to 1
AS_IT_IS = Preprocessing()  # the network begins with its own
SYMMETRIC = Preprocessing(1 / 127.5, -1.0)  # to -1 to 1
STANDARDIZED = Preprocessing(
    tuple(1 / 255 / deviation for deviation in DEVIATION),
    tuple(-mean / deviation for mean, deviation in zip(MEAN, DEVIATION, strict=True)),
)
CENTERED = Preprocessing(1.0, (-123.68, -116.779, -103.939), blue_first=True)  # as Caffe's networks have it
LITE = Preprocessing(1 / 128, -127 / 128)
PREPROCESSINGS = {"none": AS_IT_IS, "symmetric": SYMMETRIC, "standardized": STANDARDIZED, "centered": CENTERED}
"""What `features.preprocessing` may ask for a network of one's own."""


@dataclass(frozen=True)
class Encoder:
    """A network, by what is known of it before it is built.

    Attributes:
        network: its function in `keras.applications`, or its key in `captioner.encoders.efficientnet_lite.VARIANTS`.
        preprocessing: what it wants of pixels.
        image_size: height and width of the pictures that it was trained on, in pixels.
    """

    network: str
    preprocessing: Preprocessing
    image_size: int


_SIZES = {
    **{"efficientnet_lite1": 240, "efficientnet_lite2": 260},
    **dict.fromkeys(("InceptionV3", "InceptionResNetV2", "Xception"), 299),
    "NASNetLarge": 331,
    **dict(zip((f"EfficientNetB{number}" for number in range(1, 8)), (240, 260, 300, 380, 456, 528, 600), strict=True)),
    **{"EfficientNetV2B1": 240, "EfficientNetV2B2": 260, "EfficientNetV2B3": 300},
    **{"EfficientNetV2S": 384, "EfficientNetV2M": 480, "EfficientNetV2L": 480},
}
"""Of the networks that were trained on other pictures than of 224 pixels."""

_NETWORKS = {
    LITE: ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"),
    SYMMETRIC: (
        *("MobileNet", "MobileNetV2", "ResNet50V2", "ResNet101V2", "ResNet152V2"),
        *("InceptionV3", "InceptionResNetV2", "Xception", "NASNetMobile", "NASNetLarge"),
    ),
    STANDARDIZED: ("DenseNet121", "DenseNet169", "DenseNet201"),
    CENTERED: ("VGG16", "VGG19", "ResNet50", "ResNet101", "ResNet152"),
    AS_IT_IS: (
        *("MobileNetV3Small", "MobileNetV3Large"),
        *(f"EfficientNetB{number}" for number in range(8)),
        *(f"EfficientNetV2{size}" for size in ("B0", "B1", "B2", "B3", "S", "M", "L")),
        *(f"ConvNeXt{size}" for size in ("Tiny", "Small", "Base", "Large", "XLarge")),
    ),
}

ENCODERS = {
    network.lower(): Encoder(network, preprocessing, _SIZES.get(network, 224))
    for preprocessing, networks in _NETWORKS.items()
    for network in networks
}
"""All by name: those of `keras.applications` have their names there, in lower case."""


def is_path(name: str) -> bool:
    """Say whether an encoder's name is the path of a network of one's own."""
    return name not in ENCODERS and (name.lower().endswith(SUFFIXES) or "/" in name)


def runs_only(name: str) -> bool:
    """Say whether an encoder's name is that of a file which Keras does not read, so that it cannot be trained."""
    return name.lower().endswith((".onnx", ".tflite"))


def choices(name: str) -> str:
    """Say what may be given in place of an encoder's name that is none."""
    near = difflib.get_close_matches(name.lower(), ENCODERS, 1)
    meant = f"did you mean {near[0]}? " if near else ""
    return (
        f"{meant}allowed are {', '.join(ENCODERS)}, and a path: a file {', '.join(SUFFIXES)}, or a folder in Keras's "
        "format with a / in its path"
    )


def network_path(name: str, directory: Path = Path()) -> Path | None:
    """Return the path of a network of one's own, none of one in `ENCODERS`; a relative one counts from `directory`.

    Raises:
        CaptionerError: there is nothing, or the name is neither.
    """
    if name in ENCODERS:
        return None
    if not is_path(name):
        raise CaptionerError(f"encoder {quoted(name)} is unknown: {choices(name)}")
    path = directory / name
    if not path.exists():
        raise CaptionerError(f"encoder {quoted(name)} is no file: give the path of a network, or one of the names")
    return path


def checked_side(shape: Sequence[int | None], path: Path) -> int:
    """Return `R` of what a network of one's own gives, `[B, R, R, C]` or `[B, R * R, C]`.

    Raises:
        CaptionerError: it is no square map of at least 2 x 2 positions.
    """
    sides = [side for side in shape[1:-1] if side is not None]
    side = math.isqrt(math.prod(sides))
    known = len(shape) in (3, 4) and None not in shape[1:]
    if not known or side < 2 or side**2 != math.prod(sides) or len(set(sides)) > 1:
        raise CaptionerError(
            f"encoder {str(path)!r} gives values of the shape {list(shape)}: a square map of at least 2 × 2 is needed, "
            "no classifier"
        )
    return side
