"""TensorFlow's notes to its developers, kept off the terminal."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Drop what C++ libraries write to the standard error stream meanwhile; Python's exceptions still pass.

    To wrap the first import of Keras, since TensorFlow writes several lines before it knows its log level. Whoever sets
    `TF_CPP_MIN_LOG_LEVEL` to less than 3 sees everything.
    """
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") != "3":
        yield
        return
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
