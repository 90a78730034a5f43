"""What Keras would load only to know whether it is there, left out."""

import gc
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from captioner.quiet import quiet


def keras_home() -> Path:
    """Return where Keras keeps its settings and downloaded weights."""
    return Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")


def backend(home: Path) -> str:
    """Return the backend that Keras takes with the settings in `home`, without loading it."""
    try:
        configured = json.loads((home / "keras.json").read_text("utf-8"))["backend"]
    except (OSError, ValueError, KeyError, TypeError):
        configured = "tensorflow"
    return os.environ.get("KERAS_BACKEND") or configured


@contextmanager
def lean() -> Iterator[None]:
    """Import Keras in half the time, and quietly: to wrap its first import in a process of ours.

    Packages seem not to be installed meanwhile that Keras and TensorFlow offer something for, if they are. They can be
    imported as ever afterwards; what is offered for them (wrappers for scikit-learn, data frames as inputs) is missing
    in this process, so whoever imports Captioner as a library has it all. Nor is garbage looked for meanwhile, or ever
    after among the half a million objects that came: they stay, and the search at the process's end alone took longer
    than all else that is done there.
    """
    packages = ["matplotlib", "pandas", "sklearn"]
    if backend(keras_home()) == "tensorflow":
        packages.append("jax")
    hidden = [package for package in packages if package not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: what Python takes for "not there"
    collected = gc.isenabled()
    gc.disable()
    try:
        with quiet():
            yield
    finally:
        gc.freeze()
        if collected:
            gc.enable()
        for package in hidden:
            del sys.modules[package]
