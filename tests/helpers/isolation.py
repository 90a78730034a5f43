"""Tests know nothing of who runs them: once this is imported, neither environment nor home has settings for them.

Nor can they open what the user of a checkout has in it: parameters, data, models, results.

What a processor computes with (`XLA_FLAGS`, `OMP_NUM_THREADS`, ...) stays: tests pass with any of it.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

_PREFIXES = ("CAPTIONER_", "DVC_", "GIT_", "JUPYTER_", "KERAS_", "LC_", "MLFLOW_", "MPL", "RAY_", "XDG_")
_NAMES = {
    *("ATTENTIONS", "DATASET", "PORT", "SEEDS"),  # of `make study` and `make ui`
    *("COLUMNS", "FORCE_COLOR", "GITHUB_ACTIONS", "LINES", "NO_COLOR", "PY_COLORS"),  # how what is printed looks
    *("IPYTHONDIR", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "LANGUAGE", "MATPLOTLIBRC", "PYTHONWARNINGS"),
    *("TF_CPP_MAX_VLOG_LEVEL", "TF_CPP_MIN_LOG_LEVEL", "TF_CPU_ALLOCATOR_USE_BFC", "_JAVA_OPTIONS"),
}
_CHECKOUT = Path(__file__).resolve().parents[2]
_FILES = ("params.yaml", "dvc.lock", "mlflow.db")
_DIRECTORIES = ("data/", "models/", "results/", "mlartifacts/")
_USERS = tuple(f"{_CHECKOUT}/{name}" for name in (*_FILES, *_DIRECTORIES))
_HOME = tempfile.TemporaryDirectory(prefix="home-", ignore_cleanup_errors=True)

for _name in list(os.environ):
    if _name.startswith(_PREFIXES) or _name in _NAMES or _name.lower().endswith("_proxy"):
        del os.environ[_name]
# git and DVC look elsewhere too
os.environ |= {"GIT_CONFIG_NOSYSTEM": "1", "DVC_SYSTEM_CONFIG_DIR": _HOME.name, "DVC_SITE_CACHE_DIR": _HOME.name}
os.environ |= {"HOME": _HOME.name, "LC_ALL": "C.UTF-8"}


def _keep_off(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse a path in the checkout that is its user's."""
    # `os.open` names no mode, and its paths may count from another directory
    opened = event == "sqlite3.connect" or (event == "open" and arguments[1])
    if opened and isinstance(arguments[0], str | bytes | os.PathLike):
        path = os.path.abspath(os.fsdecode(arguments[0]))  # noqa: PTH100 - for each file that is opened: be quick
        assert not path.startswith(_USERS), f"a test reads {path}, which is its user's"


sys.addaudithook(_keep_off)
