"""The package itself: cheap to import, and all that it offers is there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT

import captioner


def python(script: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", script], env=environment, text=True, capture_output=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_importing_loads_nothing() -> None:
    loaded = python("import sys, captioner; dir(captioner); print(*sys.modules)").split()
    heavy = {"tensorflow", "keras", "numpy", "pandas", "PIL", "mlflow", "dvc", "pydantic", "typer", "tqdm"}
    assert not heavy & set(loaded)
    assert not [name for name in loaded if name.startswith("captioner.")]


@pytest.mark.slow
def test_tensorflow_is_loaded_when_it_is_needed_and_quietly() -> None:
    script = """
import sys
from captioner import CaptionerError
print('keras' in sys.modules)
from captioner import Captioner
print(Captioner.__module__, 'keras' in sys.modules)
"""
    assert python(script) == "False\ncaptioner.inference.captioner True\n"


def test_all_that_is_offered_is_there() -> None:
    assert set(captioner.__all__) <= set(dir(captioner))
    assert {getattr(captioner, name).__name__ for name in captioner.__all__} == set(captioner.__all__)
    with pytest.raises(AttributeError, match=r"module 'captioner' has no attribute 'Painter'"):
        captioner.Painter  # noqa: B018


def test_it_is_typed() -> None:
    assert (Path(captioner.__file__).parent / "py.typed").is_file()
