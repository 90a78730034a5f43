"""The console command: what it prints, writes and refuses."""

import inspect
import json
import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from measured import values, write
from typer.testing import CliRunner

from captioner import __version__, bootstrap
from captioner.cli import app, compare

ROOT = Path(__file__).parents[1]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with two runs, `a` and `b`; `b` is better."""
    write(tmp_path / "a", {"CIDEr": values(50, 20), "nll": values(2.5)}, "uniform", weights="1")
    write(tmp_path / "b", {"CIDEr": values(55, 20), "nll": values(2.4)}, "dot", weights="2")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def call(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, text=True, capture_output=True, check=True, timeout=60
    )


class TestCompare:
    def test_prints_tables_and_words(self, here: Path) -> None:
        code, out, err = call("compare", "a", "b")
        assert (code, err) == (0, "")
        assert "a · uniform  50.0 [" in out
        assert "dot is better than uniform by CIDEr: 5.0 higher, 5.0 to 5.0 (p < 0.001)." not in out
        assert "dot is better than uniform by CIDEr: 5.0 higher, 5.0 to 5.0 (p = 0.001)." in out
        assert "1,000 resamples" in out

    def test_json_and_nothing_else(self, here: Path) -> None:
        code, out, err = call("compare", "a", "b", "--json", "--resamples", "200")
        told = json.loads(out)
        assert (code, err) == (0, "")
        assert told["resamples"] == 200
        assert [each["better"] for each in told["differences"]] == ["b", "b"]

    def test_writes_a_page(self, here: Path) -> None:
        code, out, err = call("compare", "a", "b", "--json", "--html", "new/page.html")
        assert code == 0
        assert json.loads(out)
        assert err == "Wrote new/page.html.\n"
        assert (here / "new/page.html").read_text("utf-8").startswith("<!doctype html>")
        assert [each.name for each in (here / "new").iterdir()] == ["page.html"]

    def test_the_workspace_is_that_of_the_checkout_around(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (here / "a/.dvc").mkdir()
        (here / "a/deeper").mkdir()
        monkeypatch.chdir(here / "a/deeper")
        code, out, _ = call("compare", "workspace", "../../b")
        assert code == 0
        assert "workspace · uniform" in out

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["a", "nothing"], "compare: Received 'nothing', which is no run:"),
            (["a", "other"], "compare: received 'a' measured with split test and 'other' with split validation;"),
            (["a", "b", "--html", "file/page.html"], "compare: "),
        ],
    )
    def test_what_a_user_can_cause_is_one_line(self, here: Path, arguments: list[str], message: str) -> None:
        write(here / "other", {"CIDEr": values(50)}, split="validation")
        (here / "file").touch()
        code, out, err = call("compare", *arguments)
        assert (code, out) == (1, "")
        assert err.startswith(message)
        assert err.count("\n") == 1

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["a"], "received one run, 'a'; give two or more"),
            ([], "Missing argument"),
            (["a", "b", "--resamples", "99"], "received 99; give 100 to 100000"),
            (["a", "b", "--resamples", "100001"], "received 100001; give 100 to 100000"),
            (["a", "b", "--resamples", "many"], "'--resamples': Input should be a valid integer"),
        ],
    )
    def test_usage(self, here: Path, arguments: list[str], message: str) -> None:
        code, out, err = call("compare", *arguments)
        assert (code, out) == (2, "")
        assert message in " ".join(err.split())

    def test_resamples_are_as_many_as_anywhere(self) -> None:
        assert inspect.signature(compare).parameters["resamples"].default == bootstrap.RESAMPLES


def test_version() -> None:
    assert call("--version") == (0, f"captioner {__version__}\n", "")


def test_help_comes_at_once() -> None:
    script = """
import sys
from captioner.cli import app
try:
    app(["--help"])
except SystemExit as ended:
    assert not ended.code
print(sorted({"tensorflow", "keras", "mlflow", "dvc", "pandas", "numpy"} & sys.modules.keys()))
"""
    lines = python("-c", script).stdout.splitlines()
    assert any(line.split()[:1] == ["compare"] for line in lines)
    assert lines[-1] == "[]"


def test_compares_without_tensorflow(here: Path) -> None:
    script = """
import sys
from captioner.cli import app
try:
    app(["compare", "a", "b"])
except SystemExit as ended:
    assert not ended.code
print(sorted({"tensorflow", "keras", "mlflow", "dvc"} & sys.modules.keys()))
"""
    assert python("-c", script).stdout.splitlines()[-1] == "[]"


def test_the_package_is_a_command() -> None:
    assert python("-m", "captioner", "--version").stdout == f"captioner {__version__}\n"


def test_the_script_of_the_package_is_the_command() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    module, _, name = project["scripts"]["captioner"].partition(":")
    assert getattr(import_module(module), name) is app
    assert project["version"] == __version__
