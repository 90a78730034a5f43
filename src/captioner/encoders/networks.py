"""Networks of the registry, built in Keras: from pictures to a grid of feature vectors.

Legend: `B` pictures, `S` their height and width in pixels, `R` rows and columns of the grid, `C` channels of the
encoder. Every encoder takes pictures `[B, S, S, 3]` with values 0 to 255 (its preprocessing is part of the model) and
gives a map `[B, R, R, C]`: of 224 pixels most have one of 7 × 7.

Importing this module is cheap: Keras is imported when a model is built.
"""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.common.errors import CaptionerError
from captioner.common.startup import silence_stderr
from captioner.common.weights import not_finite
from captioner.encoders import efficientnet_lite
from captioner.encoders.registry import ENCODERS, Encoder

if TYPE_CHECKING:
    from captioner.common.keras import keras


def build(name: str, weights: str | Path = "imagenet", image_size: int | None = None) -> "keras.Model":
    """Build a frozen encoder.

    Args:
        name: a key of `ENCODERS`.
        weights: `imagenet`, or a weights file of the same network without its classifier: `.h5`, `.weights.h5` or
            `.keras`.
        image_size: `S`; by default that of the pictures which the network was trained on.

    Returns:
        Model from pictures `[B, S, S, 3]`, values 0 to 255, to the map `[B, R, R, C]`.

    Raises:
        CaptionerError: the encoder is unknown or takes no such pictures, or its weights cannot be obtained or do not
            fit.
    """
    if name not in ENCODERS:
        raise CaptionerError(f"encoder {name!r} is unknown: choose one of {', '.join(ENCODERS)}")
    with silence_stderr():
        from captioner.common.keras import keras
    encoder = ENCODERS[name]
    file = weights_file(name, weights)
    size = image_size or encoder.image_size
    pictures = keras.Input((size, size, 3), name="pictures")
    connect = efficientnet_lite.connect if encoder.is_lite else _application
    grid = connect(encoder.network, preprocessed(encoder, pictures), file is None)
    model = keras.Model(pictures, grid, name=name)
    if file is not None:
        _load(model, file)
    model.trainable = False
    return model


def preprocessed(encoder: Encoder, pictures: "keras.KerasTensor") -> "keras.KerasTensor":
    """Put an encoder's preprocessing on pictures `[B, S, S, 3]`, values 0 to 255."""
    from captioner.common.keras import keras

    wanted = encoder.preprocessing
    scaled = keras.layers.Rescaling(wanted.scale, wanted.offset, name="preprocessing")(pictures)
    return keras.ops.flip(scaled, axis=-1) if wanted.blue_first else scaled


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


def _application(network: str, preprocessed: "keras.KerasTensor", imagenet: bool) -> "keras.KerasTensor":
    """Put a network of `keras.applications` without its classifier on preprocessed pictures, and return its map."""
    from captioner.common.keras import keras

    shape = tuple(preprocessed.shape[1:])
    try:
        with warnings.catch_warnings():
            # of MobileNet's weights those for 224 pixels serve all sizes
            warnings.filterwarnings("ignore", message="`input_shape` is undefined or non-square")
            model = getattr(keras.applications, network)(
                include_top=False,
                weights="imagenet" if imagenet else None,
                input_tensor=preprocessed,
                input_shape=shape,
            )
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise CaptionerError(f"encoder {network.lower()!r} takes no pictures of {shape[0]} pixels: {reason}") from error
    except Exception as error:
        # Keras raises a bare Exception when a download fails; anything else is not about the network.
        if "URL fetch failure" not in str(error):
            raise
        raise CaptionerError(
            f"the ImageNet weights of {network} cannot be downloaded: set KERAS_HOME to a folder that has them under "
            "models/, or give a file as `weights`, or choose efficientnet_lite0, which needs no network"
        ) from error
    return model.output
