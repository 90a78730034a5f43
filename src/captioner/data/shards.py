"""Shards of a large data set: tar archives in WebDataset's layout, as img2dataset writes them.

The members of a sample follow each other and have its key for a name, up to the first dot: `000000017.jpg` is a
picture, `000000017.txt` its caption, `000000017.json` an object whose `caption` counts where there is no text. Other
members, as `000000017.mask.png`, are passed over. Shards lie in local files or wherever fsspec reads, as on S3. They
are read from front to back, a sample at a time.
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
from captioner.data.images import SUFFIXES

SUFFIX = ".tar"
MAXIMUM_PICTURE = 64 << 20  # bytes: encoded pictures wait in memory until a core is free
MAXIMUM_TEXT = 2**20  # bytes of a caption, or of the object around it
MAXIMUM_HEADER = 2**13  # bytes of what extends a header; tarfile's time grows with the square
BUFFER = 2**20  # bytes that are read at a time

_RANGE = re.compile(r"\{(\d{1,18})\.\.(\d{1,18})\}")
_EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_IDENTITIES = ("ETag", "etag", "Content-MD5", "Digest", "checksum", "md5Hash", "mtime", "LastModified", "last_modified")


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

    def picture(self, key: str) -> str:
        """Return the name that a data set has for a picture."""
        return f"{self.name}/{key}"


@dataclass(frozen=True)
class Sample:
    """A picture with what is said of it.

    Attributes:
        key: its name within the shard.
        picture: encoded, None where it is too large.
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
        if not shard.name.isprintable():
            raise CaptionerError(f"the name of {quoted(shard.url)} cannot be printed: give it another")
        if names.setdefault(shard.name, shard.url) != shard.url:
            raise CaptionerError(
                f"two shards are called {shard.name}: {names[shard.name]} and {shard.url}: what is made of them has "
                "their names, so give each a name of its own"
            )
    return list(dict.fromkeys(found))


def read(shard: Shard) -> Iterator[Sample]:
    """Yield the samples of a shard that have a picture; only one is in memory at a time.

    Raises:
        CaptionerError: the archive cannot be read, is damaged or cut short, has a key in two places, or pictures whose
            names have no key and ending alone.
    """
    seen: set[str] = set()
    passed_over = ""
    with _opened(shard) as file:
        key, members = "", dict[str, bytes | str]()
        for name, extension, content in _members(file, shard):
            if extension not in _READ:
                passed_over = passed_over or f"{name}{extension}"
                continue
            if name != key:
                yield from _sample(key, members)
                if name in seen:
                    raise CaptionerError(
                        f"{shard.url} has {quoted(name)} in two places, with others between: pack it again in the "
                        "order of names, as tar --sort=name does"
                    )
                seen.add(name)
                key, members = name, {}
            if extension in members:
                raise CaptionerError(f"{shard.url} has {quoted(name + extension)} twice: leave one out")
            members[extension] = content
        yield from _sample(key, members)
    if passed_over and not seen:
        raise CaptionerError(
            f"{shard.url} has no picture whose name is a key and an ending, but {quoted(passed_over)}: a key goes up "
            "to the first dot, so take the other dots out of the names"
        )


def identity(shard: Shard) -> str:
    """Return what changes with a shard's content, as far as its file system knows.

    Raises:
        CaptionerError: it cannot be reached.
    """
    files, path = filesystem(shard.url)
    with reaching(shard.url):
        about = files.info(path)
    known = next((str(about[name]) for name in _IDENTITIES if about.get(name)), "")
    return f"{shard.size}-{known}"


def filesystem(url: str) -> tuple[Any, str]:
    """Return fsspec's file system for a path or an address, and the path in it.

    Raises:
        CaptionerError: there is no such file system, or its package is not installed.
    """
    import fsspec

    with reaching(url):
        try:
            return fsspec.core.url_to_fs(url)
        except ImportError as error:
            kind = url.partition("://")[0]
            extra = "pip install -e '.[s3]' in the checkout" if kind in ("s3", "s3a") else "install it"
            raise CaptionerError(f"{quoted(url)} needs a package ({reason(error)}): {extra}") from None


def sizes(files: Any, path: str) -> dict[str, int]:
    """Return the size of each file in a folder of fsspec's, or that a pattern of its stands for, by its path."""
    listed = files.glob(path, detail=True).values() if "*" in path else files.ls(path, detail=True)
    # local links, of which a listing does not say what they lead to
    known = (files.info(each["name"]) if each.get("islink") else each for each in listed)
    return {each["name"]: int(each["size"] or 0) for each in known if each["type"] == "file"}


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Say in one line what a file system or the service behind it raises; each has exceptions of its own kinds."""
    try:
        yield
    except (CaptionerError, MemoryError):
        raise
    except Exception as error:
        said = getattr(error, "strerror", None) or reason(error)
        raise CaptionerError(
            f"cannot reach {quoted(url)} ({said}): check the place, the network and the credentials"
        ) from None


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
        try:
            about = None if "*" in path else files.info(path)
        except FileNotFoundError:
            raise CaptionerError(f"there is no {place}: give the path or the address of shards") from None
        if about is not None and about["type"] != "directory":
            found = {about["name"]: int(about["size"] or 0)}
        else:
            found = {name: size for name, size in sizes(files, path).items() if name.endswith(SUFFIX)}
        urls = {files.unstrip_protocol(name).removeprefix("file://"): size for name, size in found.items()}
    if not urls:
        raise CaptionerError(f"no shard at {quoted(place)}: give .tar files of img2dataset's layout, or their folder")
    yield from (Shard(url, size) for url, size in sorted(urls.items()))


class _Reader:
    """A file that is read from front to back, wherever it lies."""

    def __init__(self, file: IO[bytes], url: str):
        self._file, self._url = file, url

    def read(self, size: int) -> bytes:
        with reaching(self._url):
            return self._file.read(size)


@contextmanager
def _opened(shard: Shard) -> Iterator[_Reader]:
    files, path = filesystem(shard.url)
    with reaching(shard.url):
        file = files.open(path, "rb")
    with file:
        yield _Reader(file, shard.url)


class _DamagedError(Exception):
    """What is wrong with an archive."""


class _Header(tarfile.TarInfo):
    """A header that must be whole: tarfile takes damage behind the first member for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        if len(buf) < tarfile.BLOCKSIZE:
            raise _DamagedError("it has no end")
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if any(buf):
                raise _DamagedError(reason(error)) from None
            raise
        if header.size < 0 or (header.type in _EXTENSIONS and header.size > MAXIMUM_HEADER):
            raise _DamagedError(f"a header says that it has {header.size:,} bytes")
        return header

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> "_Header":
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.InvalidHeaderError as error:  # type: ignore[attr-defined]
            raise _DamagedError(reason(error)) from None


def _members(file: _Reader, shard: Shard) -> Iterator[tuple[str, str, bytes | str]]:
    """Yield key, extension and content of texts and pictures; of what is too large, what is wrong with it."""
    count = 0
    try:
        # a stream, and nothing packed: what comes is what is read, and a picture cannot swell
        with tarfile.open(
            fileobj=file,  # type: ignore[call-overload]
            mode="r|",
            bufsize=BUFFER,
            tarinfo=_Header,
            encoding="utf-8",
            errors="replace",
        ) as archive:
            for member in iter(archive.next, None):
                archive.members.clear()  # else memory grows with their number
                key, extension = _split(member.name)
                kind = f".{extension.rpartition('.')[2]}"
                if not member.isreg() or member.issparse() or kind not in _READ or not PurePosixPath(key).name:
                    continue
                count += 1
                most = MAXIMUM_PICTURE if kind in SUFFIXES else MAXIMUM_TEXT
                content = archive.extractfile(member)
                if content is None or member.size > most or extension not in _READ:
                    yield key, extension, f"more than {most:,} bytes"
                else:
                    yield key, extension, read_pieces(content, most)
            while rest := archive.fileobj.read(BUFFER):
                if rest.strip(b"\0"):
                    raise _DamagedError("there is something behind its end")
    except (tarfile.TarError, _DamagedError, EOFError, ValueError, RecursionError) as error:
        raise CaptionerError(
            f"{shard.url} is damaged or cut short after {count:,} members ({reason(error)}): get it again, or leave it "
            "out"
        ) from None


_READ = SUFFIXES | {".txt", ".json"}


def _split(name: str) -> tuple[str, str]:
    """Return the key of a member, its name up to the first dot behind the last slash, and what follows in lower case.

    Names of hidden files have no key.
    """
    folder, slash, last = name.rpartition("/")
    stem, dot, extension = last.partition(".")
    return (f"{folder}{slash}{stem}", f"{dot}{extension.lower()}") if stem else ("", "")


def _sample(key: str, members: dict[str, bytes | str]) -> Iterator[Sample]:
    pictures = [content for extension, content in members.items() if extension in SUFFIXES]
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
