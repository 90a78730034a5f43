"""The start of a process: memory that is kept, Keras imported quickly and without TensorFlow's notes to developers."""

import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from captioner.common.errors import CaptionerError, quoted


@contextmanager
def silence_stderr() -> Iterator[None]:
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
def fast_start() -> Iterator[None]:
    """Import Keras in half the time, quietly, and to compile in two thirds: wraps the import in a process of ours.

    Packages seem not to be installed meanwhile that Keras and TensorFlow offer something for, if they are. They can be
    imported as ever afterwards; what is offered for them (wrappers for scikit-learn, data frames as inputs) is missing
    in this process, so a program that imports Captioner as a library has it all.

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
        with silence_stderr():
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


# of mallopt(3), from glibc's malloc.h
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_AT_ONCE = 64 * 2**20  # by which the heap grows
_KEPT = 2**30


def keep_freed_memory() -> None:
    """Have freed memory kept for what needs it next.

    A training step takes and frees some 200 megabytes. What goes back to the system in between is handed out again page
    by page, each page cleared: 50,000 faults a step, a third of its time. The peak of memory is no higher for it; a
    process that has had its peak keeps most of it.

    To be called before the first tensor is made, since TensorFlow chooses its allocator then: the one of its own that
    keeps what it has, and finds a free block of the right size faster. All else, JAX included, takes its memory from
    the C library, which is told to have one heap, to give back of it only what exceeds a gigabyte at its end, and to
    take no blocks outside it, which would go back when they are freed. Where that library is not glibc, nothing is said
    to it.
    """
    os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_ARENA_MAX, 1)
    mallopt(_TRIM_THRESHOLD, _KEPT)
    mallopt(_TOP_PAD, _AT_ONCE)
