"""Processes with this directory on PYTHONPATH compile nothing: a step of a tiny model takes less than compiling it.

For tests of what happens around a training. What is compiled has tests of its own.
"""

import sys
from importlib.abc import MetaPathFinder
from typing import Any


class _Eager(MetaPathFinder):
    """Waits until Keras has loaded TensorFlow, since most processes never do."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == "keras.src.backend.tensorflow.trainer":
            sys.meta_path.remove(self)
            import tensorflow

            tensorflow.config.run_functions_eagerly(True)


sys.meta_path.insert(0, _Eager())
