"""The start of a process of ours: Keras imported and set to compile in half the time."""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from captioner.errors import CaptionerError, quoted
from captioner.quiet import quiet

BACKENDS = ("tensorflow", "jax")
"""Backends of Keras that the project runs on; the first is taken where none is asked for."""

LESS = "--xla_backend_optimization_level=1"


def keras_home() -> Path:
    """Return where Keras keeps its settings and downloaded weights."""
    return Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")


def backend() -> str:
    """Return the backend that Keras is to take, without loading it: what `keras.json` says is of other projects.

    Raises:
        CaptionerError: `KERAS_BACKEND` names none that this project knows.
    """
    name = os.environ.get("KERAS_BACKEND") or BACKENDS[0]
    if name not in BACKENDS:
        raise CaptionerError(f"KERAS_BACKEND is {quoted(name)}: set it to {' or '.join(BACKENDS)}, or unset it")
    return name


@contextmanager
def lean() -> Iterator[None]:
    """Import Keras in half the time, quietly, and to compile in two thirds: wraps the import in a process of ours.

    Packages seem not to be installed meanwhile that Keras and TensorFlow offer something for, if they are. They can be
    imported as ever afterwards; what is offered for them (wrappers for scikit-learn, data frames as inputs) is missing
    in this process, so whoever imports Captioner as a library has it all.

    Nor is garbage looked for meanwhile, or ever after among the half a million objects that came: they stay, and the
    search at the process's end alone took longer than all else that is done there.

    What XLA compiles for a CPU with TensorFlow is optimized less: it is as fast, since its time goes into products of
    matrices, whose kernels are compiled already. On a GPU that was not measured, and all is left as it is.
    """
    on_tensorflow = backend() == "tensorflow"
    packages = ["matplotlib", "pandas", "sklearn", *(["jax"] if on_tensorflow else [])]
    hidden = [package for package in packages if package not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: what Python takes for "not there"
    collected = gc.isenabled()
    gc.disable()
    try:
        with quiet():
            yield
            if on_tensorflow:
                _compile_sooner()
    finally:
        gc.freeze()
        if collected:
            gc.enable()
        for package in hidden:
            del sys.modules[package]


def _compile_sooner() -> None:
    import tensorflow

    if not tensorflow.config.list_physical_devices("GPU"):
        # of flags given twice the last one holds, so those of the user
        os.environ["XLA_FLAGS"] = f"{LESS} {os.environ.get('XLA_FLAGS', '')}".rstrip()
