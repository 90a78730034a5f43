"""Importing Keras without what it only looks for."""

import gc
import os
import subprocess
import sys

import pytest
from checkout import ROOT

from captioner.common.errors import CaptionerError
from captioner.common.startup import LESS, backend, fast_start

HIDDEN = ("matplotlib", "pandas", "sklearn", "jax")

IMPORT = """
import sys
from captioner.common.startup import fast_start
with fast_start():
    from captioner.common.keras import keras
print(keras.backend.backend(), *[name for name in ("matplotlib", "pandas", "sklearn", "jax") if name in sys.modules])
import matplotlib, pandas, sklearn, jax
import os
print(os.environ.get("XLA_FLAGS"))
"""


def imported(**environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")} | environment,
        text=True,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.slow
def test_keras_comes_without_what_it_only_looks_for() -> None:
    assert imported(KERAS_BACKEND="tensorflow", XLA_FLAGS="") == ["tensorflow", LESS]


@pytest.mark.slow
def test_keras_comes_with_jax_where_that_is_its_backend() -> None:
    assert imported(KERAS_BACKEND="jax", XLA_FLAGS="--xla_cpu_enable_fast_math=false") == [
        "jax",
        "jax",
        "--xla_cpu_enable_fast_math=false",
    ]


@pytest.mark.slow
def test_flags_of_the_user_come_last_and_hold() -> None:
    own = "--xla_backend_optimization_level=2"
    assert imported(KERAS_BACKEND="tensorflow", XLA_FLAGS=own) == ["tensorflow", LESS, own]


@pytest.mark.parametrize("collects", [True, False])
def test_all_is_as_before_when_the_import_fails(collects: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in HIDDEN:
        monkeypatch.delitem(sys.modules, name, raising=False)
    before = dict(sys.modules)
    if not collects:
        gc.disable()
    try:
        with pytest.raises(ModuleNotFoundError, match="pandas"), fast_start():
            assert not gc.isenabled()
            import pandas  # noqa: F401
        assert gc.isenabled() == collects
    finally:
        gc.enable()
    assert sys.modules.keys() == before.keys()


@pytest.mark.parametrize(
    ("variable", "expected"), [(None, "tensorflow"), ("", "tensorflow"), ("tensorflow", "tensorflow"), ("jax", "jax")]
)
def test_the_backend_is_tensorflow_unless_another_is_asked_for(
    variable: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    if variable is not None:
        monkeypatch.setenv("KERAS_BACKEND", variable)
    assert backend() == expected


@pytest.mark.parametrize("variable", ["theano", "torch", "openvino", "TensorFlow", "x" * 10_000])
def test_other_backends_are_refused(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", variable)
    with pytest.raises(
        CaptionerError, match=r"KERAS_BACKEND is .*: set it to tensorflow or jax, or unset it"
    ) as raised:
        backend()
    assert len(str(raised.value)) < 300
