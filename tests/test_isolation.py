"""What tests must not see of the machine and of the workspace they run in."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import parameters
import pytest
from checkout import ROOT

from captioner.params import Params

HOSTILE = {
    "ATTENTIONS": "none",
    "CAPTIONER_MIRROR": "/nowhere",
    "DVC_EXP_NAME": "theirs",
    "GIT_DIR": "/nowhere",
    "KERAS_BACKEND": "no-such-backend",
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
    "MPLBACKEND": "no-such-backend",
    "http_proxy": "http://127.0.0.1:9",
}


def test_neither_environment_nor_home_has_a_say(tmp_path: Path) -> None:
    (tmp_path / ".keras").mkdir()
    (tmp_path / ".keras/keras.json").write_text('{"backend": "no-such-backend"}')
    (tmp_path / ".gitconfig").write_text("[commit]\n    gpgsign = true\n")
    script = "import isolation, os, subprocess; from pathlib import Path; print(*sorted(os.environ), Path.home())\n"
    script += "import sys; sys.exit(subprocess.run(['git', 'config', '--get', 'commit.gpgsign']).returncode != 1)"
    environment = os.environ | HOSTILE | {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT / "tests/helpers")}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=tmp_path, text=True, capture_output=True, check=True
    )
    *names, home = done.stdout.split()
    assert not set(names) & HOSTILE.keys() and home != str(tmp_path)


def test_keras_came_as_it_is_by_itself() -> None:
    assert (keras.config.backend(), keras.config.floatx()) == ("tensorflow", "float32")
    assert keras.config.image_data_format() == "channels_last"


@pytest.mark.parametrize("name", ["params.yaml", "dvc.lock", "mlflow.db", "data/x", "results/x"])
def test_what_its_user_has_in_the_checkout_is_not_read(name: str) -> None:
    with pytest.raises(AssertionError, match=f"a test reads {ROOT / name}, which is its user's"):
        (ROOT / name).open()


def test_the_parameters_of_tests_are_complete() -> None:
    assert parameters.params() == Params.model_validate(parameters.values())
    assert parameters.params(**{"evaluate.beam": 7}).evaluate.beam == 7 != parameters.params().evaluate.beam
