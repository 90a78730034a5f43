"""Keras is as the project relies on it, whatever the settings of other projects say."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from checkout import ROOT

pytestmark = pytest.mark.slow

SETTINGS = """
from captioner.common.keras import keras, ops
c = keras.config
print(c.backend(), c.floatx(), c.image_data_format(), c.epsilon(), c.dtype_policy().name, ops.ones(1).dtype)
"""
OURS = "tensorflow float32 channels_last 1e-07 float32 <dtype: 'float32'>\n"
FOOLISH = {
    "floatx": "float16",
    "epsilon": 0.1,
    "backend": "theano",
    "image_data_format": "channels_first",
    "image_dim_ordering": "th",
    "nnx_enabled": True,
}


def python(script: str, home: Path, settings: Any, **environment: str) -> subprocess.CompletedProcess[str]:
    (home / "keras.json").write_text(json.dumps(settings), "utf-8")
    return subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ
        | {"PYTHONPATH": str(ROOT / "src"), "KERAS_HOME": str(home), "TF_CPP_MIN_LOG_LEVEL": "3"}
        | environment,
        text=True,
        capture_output=True,
        check=False,
    )


def test_settings_of_another_project_do_not_count(tmp_path: Path) -> None:
    done = python(SETTINGS, tmp_path, FOOLISH)
    assert (done.returncode, done.stdout) == (0, OURS), done.stderr


def test_nor_do_those_of_a_program_that_imported_keras_before(tmp_path: Path) -> None:
    before = "import keras\nkeras.layers.Dense(1)\n"
    done = python(before + SETTINGS, tmp_path, FOOLISH | {"backend": "tensorflow", "nnx_enabled": False})
    assert (done.returncode, done.stdout) == (0, OURS), done.stderr


@pytest.mark.parametrize(
    ("settings", "environment", "message"),
    [
        ({"floatx": "float128"}, {}, "Keras cannot be imported .*float128.*: correct or delete .*keras.json"),
        ([], {}, "Keras cannot be imported .*: correct or delete .*keras.json"),
        ({}, {"KERAS_BACKEND": "theano"}, "KERAS_BACKEND is 'theano': set it to tensorflow or jax, or unset it"),
    ],
)
def test_what_stops_keras_is_one_line_of_a_stage(
    settings: Any, environment: dict[str, str], message: str, tmp_path: Path
) -> None:
    script = f"import sys; sys.path.insert(0, {str(ROOT / 'stages')!r}); import train"
    done = python(script, tmp_path, settings, **environment)
    assert done.returncode == 1
    assert re.fullmatch(rf"-c: {message}.*\n", done.stderr)


def test_every_module_takes_keras_from_there() -> None:
    sources = [*(ROOT / "src").rglob("*.py"), *(ROOT / "stages").glob("*.py")]
    bare = re.compile(r"^\s*(import keras\b|from keras\b)", re.MULTILINE)
    found = {path.name for path in sources if bare.search(path.read_text("utf-8"))}
    assert found == {"keras.py"}
