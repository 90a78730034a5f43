"""Networks of the registry, built in Keras: from pictures to a grid of feature vectors.

Legend: `B` pictures, `S` their height and width in pixels, `R` rows and columns of the grid, `C` channels of the
encoder. Every encoder takes pictures `[B, S, S, 3]` with values 0 to 255 (its preprocessing is part of the model) and
gives a map `[B, R, R, C]`: of 224 pixels most have one of 7 × 7.

Importing this module is cheap: Keras is imported when a model is built.
"""

import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from captioner.common.errors import CaptionerError
from captioner.common.startup import silence_stderr
from captioner.common.weights import not_finite
from captioner.encoders import efficientnet_lite
from captioner.encoders.registry import DEVIATION, ENCODERS, PREPROCESSINGS, Preprocessing, checked_side, network_path

if TYPE_CHECKING:
    from captioner.common.keras import keras


MOMENTUM = 0.99


def build(
    encoder: str, weights: str | Path = "imagenet", image_size: int | None = None, preprocessing: str = "auto"
) -> "keras.Model":
    """Build a frozen encoder.

    Args:
        encoder: a key of `ENCODERS`, or the path of a network of one's own in Keras's format, from pictures
            `[B, S, S, 3]` to a map `[B, R, R, C]` or `[B, R * R, C]`.
        weights: `imagenet`, or a weights file of the same network without its classifier: `.h5`, `.weights.h5` or
            `.keras`.
        image_size: `S`; by default that of the pictures which the network was trained on.
        preprocessing: what a network of one's own wants, a key of `PREPROCESSINGS`; nothing by default.

    Returns:
        Model from pictures `[B, S, S, 3]`, values 0 to 255, to the map `[B, R, R, C]`.

    Raises:
        CaptionerError: the encoder is unknown or takes no such pictures, or its weights cannot be obtained or do not
            fit.
    """
    path = network_path(encoder)
    with silence_stderr():
        from captioner.common.keras import keras
    if path is not None:
        model = _own(path, image_size, preprocessing_of(encoder, preprocessing))
    else:
        known = ENCODERS[encoder]
        file = weights_file(encoder, weights)
        size = image_size or known.image_size
        pictures = keras.Input((size, size, 3), name="pictures")
        connect = efficientnet_lite.connect if known.network in efficientnet_lite.VARIANTS else _application
        grid = connect(known.network, preprocessed(known.preprocessing, pictures), file is None)
        model = keras.Model(pictures, grid, name=encoder)
        if file is not None:
            model = _rescaled_as_imagenet(model, known.network)
            _load(model, file)
    model.trainable = False
    return model


def untrained(model: "keras.Model") -> "keras.Model":
    """Return an encoder of the same layers whose weights are as they begin, from Keras's seed.

    The running statistics of batch normalization move by at least a hundredth a step, since a training of some thousand
    steps would end before those of networks that were made for a million have left their beginning.
    """
    from captioner.common.keras import keras

    copy = keras.models.clone_model(model)
    for layer in _layers(copy):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = min(layer.momentum, MOMENTUM)
    return copy


def set_trainable(model: "keras.Model", layers: Literal["last_blocks", "all"], batch_statistics: bool) -> None:
    """Set which weights of an encoder a training changes.

    Args:
        model: the encoder.
        layers: all, or those of the last blocks: from the first on that gives a map of the size that the encoder gives.
            If none of that size has weights, as none behind VGG's last pooling has, it is the size before.
        batch_statistics: whether batch normalization learns as well. Else it stays as it is, gain and offset included,
            if the encoder is called with `training=False`.

    Raises:
        CaptionerError: no layer says of which size its map is.
    """
    from captioner.common.keras import keras

    def learns(layer: keras.Layer) -> bool:
        return bool(layer.weights) and (batch_statistics or not isinstance(layer, keras.layers.BatchNormalization))

    model.trainable = True
    every = list(_layers(model))
    first = 0
    if layers == "last_blocks":
        grid = math.prod(model.output_shape[1:-1])
        sizes = [_map_size(layer) if learns(layer) else 0 for layer in every]
        last = min((size for size in sizes if size >= grid), default=0)
        if not last:
            raise CaptionerError(
                f"encoder {model.name!r} has no layers that tell its last blocks from others: set the `layers` of "
                "fine_tune to all"
            )
        first = sizes.index(last)
    for number, layer in enumerate(every):
        layer.trainable = number >= first and learns(layer)


def _layers(model: "keras.Model") -> "Iterator[keras.Layer]":
    """Yield the layers of a model and of the models in it, from its input on."""
    for layer in model.layers:
        if getattr(layer, "layers", None):
            yield from _layers(layer)
        else:
            yield layer


def _map_size(layer: "keras.Layer") -> int:
    """Return how many positions a layer's map has; 0 if it gives none, or is part of a subclassed model."""
    try:
        shape = tuple(layer.output.shape)
    except AttributeError:
        return 0
    return math.prod(side for side in shape[1:-1] if side) if len(shape) in (3, 4) else 0


def preprocessing_of(name: str, asked: str = "auto") -> Preprocessing:
    """Return an encoder's preprocessing; of a network of one's own what is asked for, by default none."""
    return ENCODERS[name].preprocessing if name in ENCODERS else PREPROCESSINGS["none" if asked == "auto" else asked]


def preprocessed(wanted: Preprocessing, pictures: "keras.KerasTensor") -> "keras.KerasTensor":
    """Put a preprocessing on pictures `[B, S, S, 3]`, values 0 to 255."""
    from captioner.common.keras import keras

    scaled = keras.layers.Rescaling(wanted.scale, wanted.offset, name="preprocessing")(pictures)
    return keras.ops.flip(scaled, axis=-1) if wanted.blue_first else scaled


def _own(path: Path, image_size: int | None, preprocessing: Preprocessing) -> "keras.Model":
    """Read a network in Keras's format, which may be a file or a folder, and put it on pictures."""
    from captioner.common.keras import keras

    try:
        network = keras.saving.load_model(path, compile=False)
        _, height, width, colours = network.input_shape
    except Exception as error:  # Keras raises many kinds here
        reason = " ".join(str(error).split())[:200]
        raise CaptionerError(
            f"encoder {str(path)!r} has no network from pictures in Keras's format ({reason})"
        ) from error
    size = image_size or height
    if colours != 3 or size is None or {height, width} - {None, size}:
        asked = f"features.image_size is {image_size}" if image_size else "features.image_size is auto"
        raise CaptionerError(
            f"encoder {str(path)!r} takes pictures of the shape {[height, width, colours]}, and {asked}: square "
            "pictures of three colours and of one size are needed"
        )
    pictures = keras.Input((size, size, 3), name="pictures")
    try:
        grid = network(preprocessed(preprocessing, pictures))
        shape = tuple(grid.shape)
    except Exception as error:  # likewise, as of a network that gives a list
        reason = " ".join(str(error).split())[:200]
        raise CaptionerError(
            f"encoder {str(path)!r} gives no map of pictures of {size} pixels ({reason}): one output is needed"
        ) from error
    if grid.dtype != "float32":
        raise CaptionerError(f"encoder {str(path)!r} gives {grid.dtype} values: save it in float32")
    side = checked_side(shape, path)
    model = keras.Model(pictures, keras.ops.reshape(grid, (-1, side, side, shape[-1])), name="own")
    if weight := not_finite(model):
        raise CaptionerError(f"encoder {str(path)!r} has weights that are not finite ({weight})")
    return model


def _rescaled_as_imagenet(model: "keras.Model", network: str) -> "keras.Model":
    """Return an EfficientNet B with the rescaling behind its normalization that Keras adds for `imagenet` alone."""
    from captioner.common.keras import keras

    if not network.startswith("EfficientNetB"):
        return model

    def call(layer: keras.Layer, *arguments: Any, **options: Any) -> Any:
        values = layer(*arguments, **options)
        if not isinstance(layer, keras.layers.Normalization):
            return values
        return keras.layers.Rescaling([deviation**-0.5 for deviation in DEVIATION])(values)

    return keras.models.clone_model(model, call_function=call)


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
