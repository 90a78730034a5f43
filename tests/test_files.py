"""Files are whole or absent."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from captioner.files import replacing, sha256


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("directory", [False, True])
def test_what_succeeds_takes_the_place(tmp_path: Path, directory: bool) -> None:
    path = tmp_path / "deep" / "results"
    for text in ("first", "second"):
        with replacing(path) as beside:
            if directory:
                beside.mkdir()
                beside /= "file"
            beside.write_text(text)
            assert not path.exists() or text == "second"
        assert (path / "file" if directory else path).read_text() == text
    assert names(path.parent) == ["results"]


@pytest.mark.parametrize("directory", [False, True])
def test_what_fails_leaves_what_was(tmp_path: Path, directory: bool) -> None:
    path = tmp_path / "results"
    path.write_text("before")

    def fail() -> None:
        with replacing(path) as beside:
            if directory:
                beside.mkdir()
                (beside / "half").touch()
            else:
                beside.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "before"
    assert names(tmp_path) == ["results"]


def test_what_a_killed_process_left_is_swept_up(tmp_path: Path) -> None:
    path = tmp_path / "results"
    script = "import os, pathlib, sys\nfrom captioner.files import replacing\n"
    script += "with replacing(pathlib.Path(sys.argv[1])) as beside:\n    beside.write_text('half')\n    os._exit(9)\n"
    assert subprocess.run([sys.executable, "-c", script, str(path)], check=False).returncode == 9
    assert len(names(tmp_path)) == 1
    with replacing(path) as beside:
        beside.write_text("whole")
    assert names(tmp_path) == ["results"]


def test_sha256_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"captions" * 100_000)
    assert sha256(path) == hashlib.sha256(b"captions" * 100_000).hexdigest()
