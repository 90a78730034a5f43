"""The values of a Keras model's weights: their hash, and whether all are finite."""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from captioner.common.keras import keras


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
