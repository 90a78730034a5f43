"""Files that are whole or absent, their names, their identity, and text as people save it."""

import errno
import glob
import hashlib
import json
import math
import os
import platform
import re
import shutil
import stat
import time
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import psutil

from captioner.common.errors import CaptionerError, quoted

LARGEST_TEXT = 2**30  # bytes
_PIECE = 2**16  # bytes that are read at a time
LONGEST = 118  # bytes; a name may have 255, or 143 on eCryptfs, and counters, suffixes and `.part` are added
STALE = 3600.0  # seconds since another machine has written to a file that is not whole yet
_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:5]  # processes of several machines have one number


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; rename it to `path` when the block succeeds.

    Works for a file or a directory (the block makes it). When the block raises, what it wrote is removed and
    whatever stood at `path` before stays as it was. What a killed process left beside `path` is swept up by the next, a
    file of another machine's process after an hour.
    What was written is on the disk before it is renamed, so that a power cut leaves the old or the new; of a directory
    it may leave neither, and never a part.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    name = _shortened(path.name)
    for left in path.parent.glob(f".{glob.escape(name)}.*.part"):
        if _is_left_over(left):
            _remove(left)
    beside, old = (path.with_name(f".{name}.{kind}{_HOST}-{os.getpid()}.part") for kind in ("", "old."))
    _remove(beside)  # of an earlier process with this number
    try:
        yield beside
        for written in [*sorted(beside.rglob("*"), reverse=True), beside]:
            _flush(written)
        if path.is_dir():
            path.rename(old)
        try:
            beside.replace(path)
        except BaseException:
            if old.exists():
                old.rename(path)
            raise
        _flush(path.parent)
    finally:
        _remove(beside)
        _remove(old)


def _is_left_over(part: Path) -> bool:
    """Say whether whoever wrote this has ended."""
    match = re.fullmatch(r"\.(?:([0-9a-f]{5})-)?(\d+)", part.suffixes[-2])  # older versions did not name the machine
    if match is None:
        return False
    host, process = match.groups()
    if host in (None, _HOST):
        return not _is_alive(int(process))
    try:
        return part.is_file() and time.time() - part.stat().st_mtime > STALE
    except OSError:  # it has just been renamed
        return False


def _is_alive(process: int) -> bool:
    """Say whether a process runs; one that has ended, and that its parent has not asked about yet, does not."""
    try:
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _flush(path: Path) -> None:
    """Have a file, or the names in a directory, on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno != errno.EINVAL:  # as some file systems say of directories
            raise
    finally:
        os.close(number)


def files_below(path: Path) -> list[Path]:
    """Return the files of a directory and of those in it, in order, but for compiled Python; a file is its own."""
    if not path.is_dir():
        return [path]
    return sorted(each for each in path.rglob("*") if each.is_file() and "__pycache__" not in each.parts)


def file_inside(directory: Path, name: str) -> Path:
    """Return what a directory has under a name that a file of unknown origin gives.

    Raises:
        ValueError: it is a path, which could lead elsewhere.
    """
    if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise ValueError(f"{quoted(name)} is no name of a file in {directory}")
    return directory / name


def copy(source: Path, target: Path) -> None:
    """Copy a file, or a folder with all that is in it."""
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def link(source: Path, target: Path) -> None:
    """Put a file or folder at a second place, without copying where the file system has hard links.

    To be used on what is replaced as a whole and never changed, since a change would show at both places.
    """

    def linked(one: str, other: str) -> None:
        try:
            os.link(one, other)
        except OSError:
            shutil.copyfile(one, other)

    if source.is_dir():
        shutil.copytree(source, target, copy_function=linked)
    else:
        linked(str(source), str(target))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def file_names(things: Iterable[str], suffix: str, taken: Iterable[str] = ()) -> Iterator[str]:
    """Yield a file name for each of the things, none twice, on whatever file system.

    It is the thing's own name as far as all file systems allow: separators, reserved characters and invisible ones
    become `_`, a long name loses its beginning, and one that is there already gets a number. Names are taken for the
    same that some file system takes for the same: those that differ in case or in how letters are encoded.

    Args:
        things: their names; paths count whole.
        suffix: of each file, such as `.png`.
        taken: names of files that must not come out.
    """
    known = {_folded(name) for name in taken}
    numbers: dict[str, int] = {}  # the last that a name got
    for thing in things:
        plain = stem = _shortened("".join(each if _is_plain(each) else "_" for each in thing)) or "unnamed"
        if plain.startswith(".") or plain.partition(".")[0].strip().upper() in _DEVICES:
            plain = stem = f"_{plain}"
        same = _folded(plain)
        while _folded(f"{stem}{suffix}") in known:
            numbers[same] = numbers.get(same, 1) + 1
            stem = f"{plain}-{numbers[same]}"
        known.add(_folded(f"{stem}{suffix}"))
        yield f"{stem}{suffix}"


# what Windows takes for a device, whatever follows behind a dot
_DEVICES = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"}
_DEVICES |= {f"{port}{number}" for port in ("COM", "LPT") for number in (*"0123456789", "¹", "²", "³")}


def _is_plain(character: str) -> bool:
    """Whether a character may stand in a file's name everywhere, and in an address as it is."""
    return character.isprintable() and character not in '<>:"/\\|?*#%'


def _shortened(name: str) -> str:
    """Return a name of at most `LONGEST` bytes, with its end, which says more than its beginning."""
    encoded = name.encode("utf-8", "surrogateescape")
    if len(encoded) <= LONGEST:
        return name
    end = encoded[-(LONGEST - len("…".encode())) :].decode("utf-8", "ignore")
    while end and unicodedata.combining(end[0]):
        end = end[1:]
    return f"…{end}"


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def json_of(value: Any, indent: int | None = None) -> str:
    """JSON of a value. Numbers that are not finite, for which JSON has no word, become `null`: undefined."""
    return json.dumps(_defined(value), indent=indent, ensure_ascii=False, allow_nan=False)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file as a whole, see `json_of` and `replacing`."""
    with replacing(path) as beside:
        beside.write_text(json_of(value, indent=2) + "\n", "utf-8")


def _defined(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _defined(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_defined(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of the file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bytes(path: Path, most: int) -> bytes:
    """Return what is in a file of at most so many bytes.

    What is no file could be read for ever: a pipe that nobody writes to, a device, some of what Linux has in `/proc`.

    Raises:
        OSError: it cannot be read, is no file or is larger; `strerror` says which.
    """
    with open(path, "rb", opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "no file but a pipe, a socket or a device", str(path))
        data = read_pieces(file, most)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"more than {most:,} bytes", str(path))
    return data


def read_pieces(file: IO[bytes], most: int) -> bytes:
    """Return what a stream has; of one with more than so many bytes, a piece more at most, whatever it says it has."""
    data = bytearray()
    while len(data) <= most and (part := file.read(_PIECE)):
        data += part
    return bytes(data)


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; of a pipe do not wait for whoever opens its other end."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_text(path: Path, most: int = LARGEST_TEXT) -> str:
    """Return the text of a file in UTF-8, without a byte order mark; line breaks stay as they are.

    Args:
        path: the file.
        most: bytes that it may have.

    Raises:
        CaptionerError: it cannot be read, is larger, is in another encoding or has NUL characters; with the line.
        FileNotFoundError: there is none.
    """
    try:
        data = read_bytes(path, most)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) == errno.EFBIG:
            raise CaptionerError(f"{path} has more than {most:,} bytes: is it the right file?") from None
        said = getattr(error, "strerror", None) or error
        raise CaptionerError(f"cannot read {path} ({said}): give a file of text that you may read") from None
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
