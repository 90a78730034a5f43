"""Files that are whole or absent, their identity, and text as people save it."""

import glob
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from captioner.errors import CaptionerError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; rename it to `path` when the block succeeds.

    Works for a file or a directory (the block makes it). When the block raises, what it wrote is removed and
    whatever stood at `path` before stays as it was. What a killed process left beside `path` is swept up by the next.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        if not psutil.pid_exists(int(left.suffixes[-2][1:])):
            _remove(left)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield beside
        if path.is_dir():
            shutil.rmtree(path)
        beside.replace(path)
    finally:
        _remove(beside)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of the file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_text(path: Path, most: int | None = None) -> str:
    """Return the text of a file in UTF-8, without a byte order mark; line breaks stay as they are.

    Args:
        path: the file.
        most: bytes that it may have.

    Raises:
        CaptionerError: it cannot be read, is larger, is in another encoding or has NUL characters; with the line.
        FileNotFoundError: there is none.
    """
    try:
        with path.open("rb") as file:
            data = file.read(-1 if most is None else most + 1)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise CaptionerError(f"cannot read {path} ({said}): give a file of text that you may read") from None
    if most is not None and len(data) > most:
        raise CaptionerError(f"{path} has more than {most:,} bytes: is it the right file?")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise CaptionerError(f"{path}, line 1: byte 0x{data[0]:02x} is no UTF-8, but of UTF-16: save the file as UTF-8")
    if b"\0" in data:
        raise CaptionerError(
            f"{path}, line {_line(data, data.index(0))}: a NUL character, as in UTF-16 or in no text: "
            "save the file as UTF-8, without NUL"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = f"line {_line(data, error.start)}: byte 0x{data[error.start]:02x}"
        raise CaptionerError(f"{path}, {place} is no UTF-8: save the file as UTF-8") from None


def _line(data: bytes, place: int) -> int:
    return data.count(b"\n", 0, place) + 1
