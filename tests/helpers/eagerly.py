"""TensorFlow without its compiler."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow
from checkout import ROOT


def eager_pythonpath(*before: str) -> str:
    """Return a PYTHONPATH with which processes compile nothing, see `eager_processes/sitecustomize.py`."""
    places = (*before, str(ROOT / "tests/helpers/eager_processes"), os.environ.get("PYTHONPATH", ""))
    return os.pathsep.join(filter(None, places))


@contextmanager
def eager() -> Iterator[None]:
    """Compile nothing: for tests whose subject is not what the compiler makes."""
    tensorflow.config.run_functions_eagerly(True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Even though the `tf.config.experimental_run_functions_eagerly`")
        yield
    tensorflow.config.run_functions_eagerly(False)
