"""TensorFlow without its compiler."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow


@contextmanager
def eager() -> Iterator[None]:
    """Compile nothing: for tests whose subject is not what the compiler makes."""
    tensorflow.config.run_functions_eagerly(True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Even though the `tf.config.experimental_run_functions_eagerly`")
        yield
    tensorflow.config.run_functions_eagerly(False)
