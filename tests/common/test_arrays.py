"""Arrays in files: what is no array is told by one kind of error."""

from pathlib import Path

import numpy as np
import pytest

from captioner.common.arrays import mapped

ROW = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    np.save(tmp_path / "row.npy", ROW)
    return tmp_path / "row.npy"


def test_what_was_saved(file: Path) -> None:
    assert np.array_equal(mapped(file), ROW)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: data[:60],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data.replace(b"}", b"(", 1),
        lambda data: data.replace(b"(3, 4)", b"(3, 4\0"),
        lambda data: data.replace(b"(3, 4)", b"(-3,4)"),
        lambda data: data.replace(b"(3, 4), }", b"(" + b"9" * 30 + b"), }").replace(b" " * 24, b"", 1),
        lambda data: data.replace(b"'<f4'", b"'|O8'"),
        lambda data: data.replace(b"\x93NUMPY", b"\x93NUMPI"),
    ],
    ids=range(10),
)
def test_what_is_none(change: object, file: Path) -> None:
    assert callable(change)
    changed = change(file.read_bytes())
    assert changed != file.read_bytes()
    file.write_bytes(changed)
    with pytest.raises(ValueError):
        mapped(file)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        mapped(tmp_path / "row.npy")
