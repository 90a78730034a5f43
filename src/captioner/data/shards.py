"""Shards of a large data set: tar archives in WebDataset's layout, as img2dataset writes them.

The members of a sample follow each other and have its key for a name, up to the first dot: `000000017.jpg` is a
picture, `000000017.txt` its caption, `000000017.json` an object whose `caption` counts where there is no text. Shards
lie in local files or wherever fsspec reads, as on S3. They are read from front to back, a sample at a time.
"""

import json
import re
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any

from captioner.common.errors import CaptionerError, quoted, reason
from captioner.common.files import read_pieces
from captioner.data.images import MAXIMUM_BYTES, SUFFIXES

SUFFIX = ".tar"
MAXIMUM_TEXT = 2**20  # bytes of a caption, or of the object around it
BUFFER = 2**20  # bytes that are read at a time

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class Shard:
    """An archive.

    Attributes:
        url: a path, or an address such as `s3://bucket/00000.tar`.
        size: bytes.
    """

    url: str
    size: int

    @property
    def name(self) -> str:
        """What the archive is called, without its folder and ending."""
        return PurePosixPath(self.url.replace("\\", "/")).name.removesuffix(SUFFIX)


@dataclass(frozen=True)
class Sample:
    """A picture with what is said of it.

    Attributes:
        key: its name within the shard.
        picture: encoded, None where it is too large or absent.
        captions: as they stand there.
        why: the reason why there is no picture, or nothing.
    """

    key: str
    picture: bytes | None
    captions: tuple[str, ...]
    why: str = ""


def find(places: Iterable[str]) -> list[Shard]:
    """Return the shards at some places, in the order of the places and of their names.

    Args:
        places: archives; folders, of which the archives directly in them count; patterns with `*`, or with ranges such
            as `{00000..00099}`.

    Raises:
        CaptionerError: there is none at a place, it cannot be reached, or two have one name.
    """
    found = [shard for place in places for one in _expanded(place) for shard in _at(one)]
    names: dict[str, str] = {}
    for shard in found:
        if names.setdefault(shard.name, shard.url) != shard.url:
            raise CaptionerError(
                f"two shards are called {shard.name}: {names[shard.name]} and {shard.url}: what is made of them has "
                "their names, so give each a name of its own"
            )
    return list(dict.fromkeys(found))


def read(shard: Shard) -> Iterator[Sample]:
    """Yield the samples of a shard that have a picture, or had one; only one is in memory at a time.

    Raises:
        CaptionerError: the archive cannot be read, is damaged or cut short, or has a key in two places.
    """
    seen: set[str] = set()
    with _opened(shard) as file:
        key, members = "", dict[str, bytes | str]()
        for name, suffix, content in _members(file, shard):
            if name != key:
                yield from _sample(key, members)
                if name in seen:
                    raise _damaged(shard, f"{quoted(name)} comes in two places, with others between", len(seen))
                seen.add(name)
                key, members = name, {}
            members[suffix] = content
        yield from _sample(key, members)


def identity(shard: Shard) -> str:
    """Return what changes with a shard's content, as far as its file system knows.

    Raises:
        CaptionerError: it cannot be reached.
    """
    files, path = filesystem(shard.url)
    with reaching(shard.url):
        return str(files.ukey(path))


def filesystem(url: str) -> tuple[Any, str]:
    """Return fsspec's file system for a path or an address, and the path in it.

    Raises:
        CaptionerError: there is no such file system, or its package is not installed.
    """
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        kind = url.partition("://")[0]
        extra = "pip install -e '.[s3]' in the checkout" if kind in ("s3", "s3a") else "install it"
        raise CaptionerError(f"{quoted(url)} needs a package ({reason(error)}): {extra}") from None
    except ValueError as error:
        raise CaptionerError(f"cannot read {quoted(url)} ({reason(error)}): give a path or an address") from None


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Say in one line what a file system or the service behind it raises; each has exceptions of its own kinds."""
    try:
        yield
    except CaptionerError:
        raise
    except OSError as error:
        said = error.strerror or reason(error)
        raise CaptionerError(f"cannot reach {url} ({said}): fix that and run again") from None
    except Exception as error:
        if not type(error).__module__.startswith(("botocore", "aiobotocore", "aiohttp", "fsspec", "s3fs", "gcsfs")):
            raise
        raise CaptionerError(f"cannot reach {url} ({reason(error)}): check the address and the credentials") from None


def _expanded(place: str) -> Iterator[str]:
    """Yield what a range in a place stands for; with leading zeros as its ends have."""
    match = _RANGE.search(place)
    if match is None:
        yield place
        return
    first, last = match.groups()
    if not int(first) <= int(last) < int(first) + 10_000_000:
        raise CaptionerError(f"received the range {match.group()} in {quoted(place)}; give ends in their order")
    for number in range(int(first), int(last) + 1):
        yield from _expanded(f"{place[: match.start()]}{number:0{len(first)}d}{place[match.end() :]}")


def _at(place: str) -> Iterator[Shard]:
    files, path = filesystem(place)
    with reaching(place):
        if "*" in path or "?" in path or ("[" in path and not files.exists(path)):
            listed = files.glob(path, detail=True).values()
        else:
            try:
                about = files.info(path)
            except FileNotFoundError:
                raise CaptionerError(f"there is no {place}: give the path or the address of shards") from None
            listed = files.ls(path, detail=True) if about["type"] == "directory" else [about | {"asked": True}]
        found = sorted(
            (files.unstrip_protocol(each["name"]).removeprefix("file://"), int(each["size"] or 0))
            for each in listed
            if each["type"] == "file" and (each.get("asked") or each["name"].endswith(SUFFIX))
        )
    if not found:
        raise CaptionerError(f"no shard at {quoted(place)}: give .tar files of img2dataset's layout, or their folder")
    yield from (Shard(url, size) for url, size in found)


@contextmanager
def _opened(shard: Shard) -> Iterator[IO[bytes]]:
    files, path = filesystem(shard.url)
    with reaching(shard.url), files.open(path, "rb") as file:
        yield file


class _DamagedError(Exception):
    """What is wrong with an archive."""


class _Header(tarfile.TarInfo):
    """A header that must be whole: tarfile takes damage behind the first member for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        if len(buf) < tarfile.BLOCKSIZE:
            raise _DamagedError("it has no end")
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if any(buf):
                raise _DamagedError(reason(error)) from None
            raise


def _members(file: IO[bytes], shard: Shard) -> Iterator[tuple[str, str, bytes | str]]:
    """Yield key, suffix, and content of the members that count; of one that is too large, what is wrong with it."""
    count = 0
    try:
        # a stream, and nothing packed: what comes is what is read, and a picture cannot swell
        with tarfile.open(
            fileobj=file, mode="r|", bufsize=BUFFER, tarinfo=_Header, encoding="utf-8", errors="replace"
        ) as archive:
            for member in iter(archive.next, None):
                archive.members.clear()  # type: ignore[attr-defined]  # else memory grows with their number
                key, suffix = _split(member.name)
                if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or suffix not in _READ:
                    continue
                content = archive.extractfile(member)
                most = MAXIMUM_BYTES if suffix in SUFFIXES else MAXIMUM_TEXT
                count += 1
                if content is None or member.size > most:
                    yield key, suffix, f"more than {most:,} bytes"
                else:
                    yield key, suffix, read_pieces(content, most)
    except (tarfile.TarError, _DamagedError, EOFError, ValueError) as error:
        raise _damaged(shard, reason(error), count) from None


_READ = SUFFIXES | {".txt", ".json"}


def _split(name: str) -> tuple[str, str]:
    """Return the key of a member, its name up to the first dot behind the last slash, and its suffix."""
    folder, slash, last = name.rpartition("/")
    stem, _, suffix = last.partition(".")
    return f"{folder}{slash}{stem}", f".{suffix.rpartition('.')[2].lower()}"


def _sample(key: str, members: dict[str, bytes | str]) -> Iterator[Sample]:
    pictures = [content for suffix, content in members.items() if suffix in SUFFIXES]
    if pictures:
        [picture, *_] = pictures
        data, why = (picture, "") if isinstance(picture, bytes) else (None, picture)
        yield Sample(key, data, tuple(_captions(members)), why)


def _captions(members: dict[str, bytes | str]) -> Iterator[str]:
    """Yield what is said of a picture; what is no text, or no JSON, says nothing."""
    text, described = members.get(".txt"), members.get(".json")
    if isinstance(text, bytes):
        yield from _texts(text.decode("utf-8", "replace").strip())
    elif isinstance(described, bytes):
        try:
            said = json.loads(described).get("caption")
        except (ValueError, AttributeError, RecursionError):
            return
        yield from _texts(*(said if isinstance(said, list) else [said]))


def _texts(*said: Any) -> Iterator[str]:
    yield from (text for text in said if isinstance(text, str) and text.strip())


def _damaged(shard: Shard, what: str, members: int) -> CaptionerError:
    return CaptionerError(
        f"{shard.url} is damaged or cut short after {members:,} members ({what}): get it again, or leave it out"
    )
