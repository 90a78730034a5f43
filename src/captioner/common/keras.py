"""Keras as this project relies on it, whatever other projects wrote into `keras.json`: every module takes it from here.

Numbers are float32, pictures have their channels last, and the backend is TensorFlow unless `KERAS_BACKEND` names JAX.

Raises:
    CaptionerError: on import, if `KERAS_BACKEND` names another backend, or Keras cannot be imported.
"""

import os
from typing import Any, TypeAlias

from captioner.common.errors import CaptionerError, quoted, reason
from captioner.common.startup import BACKENDS, backend, keras_home

__all__ = ["Tensor", "keras", "ops"]

Tensor: TypeAlias = Any
"""A tensor of Keras's backend; the docstring says its shape."""

os.environ["KERAS_BACKEND"] = backend()  # which Keras puts before what `keras.json` says
os.environ.setdefault("KERAS_NNX_ENABLED", "false")
try:
    import keras
    from keras import ops
except ImportError as error:
    raise CaptionerError(
        f"Keras on {backend()} cannot be imported ({reason(error)}): `make setup` installs it; KERAS_BACKEND chooses "
        f"between {' and '.join(BACKENDS)}"
    ) from error
except (ValueError, TypeError, AttributeError, OSError) as error:  # what it raises of values that it does not know
    raise CaptionerError(
        f"Keras cannot be imported ({reason(error)}): correct or delete {keras_home() / 'keras.json'}, and unset "
        "variables KERAS_… of other projects"
    ) from error

# Where a program imported it before
if keras.config.backend() not in BACKENDS:
    raise CaptionerError(
        f"Keras was imported with the backend {quoted(keras.config.backend())}: set KERAS_BACKEND to "
        f"{' or '.join(BACKENDS)} before"
    )
keras.config.set_floatx("float32")
keras.config.set_epsilon(1e-7)
keras.config.set_image_data_format("channels_last")
keras.config.set_dtype_policy("float32")
