"""Archives of public data sets: from their URL or from a mirror directory, whole, and with harmless members."""

import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from tqdm import tqdm

from captioner.common.errors import CaptionerError
from captioner.common.files import read_text, replacing, sha256

ATTEMPTS = 4  # in a row without a new byte
PAUSE = 2.0  # seconds before the second attempt, doubled before each further one
TIMEOUT = 30.0  # seconds without an answer
CHUNK = 1 << 20  # bytes


@dataclass(frozen=True)
class Archive:
    """An archive that is there.

    Attributes:
        path: where.
        sha256: of its bytes.
    """

    path: Path
    sha256: str


def fetch(url: str, *, dataset: str, directory: Path, mirror: Path | None) -> Archive:
    """Return an archive, downloading it where no mirror is given.

    A download goes to `<archive name>.part` and is renamed when it is whole, so that an archive under its own name
    is not fetched again and a broken download continues where it stopped. Its SHA-256 is kept beside it, in
    `<archive name>.sha256`, and each further use has to find the same. A mirror's archives may be packed anew.

    Args:
        url: where the archive is published; its last part is the archive's name.
        dataset: name of the data set, the folder of its archives in the mirror.
        directory: where a downloaded archive goes; made when absent.
        mirror: directory that holds `<dataset>/<archive name>`, used in place of the network.

    Raises:
        CaptionerError: the mirror has no such archive, the server cannot be reached or refuses, the disk is full, or
            the archive is not the one that was downloaded.
    """
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    if mirror is not None:
        archive = mirror / dataset / name
        if not archive.is_file():
            raise CaptionerError(
                f"the mirror has no {archive}: put {url} there, or unset CAPTIONER_MIRROR to download it"
            )
        return Archive(archive, sha256(archive))
    archive = directory / name
    if not archive.is_file():
        _download(url, archive)
        archive.with_name(f"{name}.sha256").unlink(missing_ok=True)
    return Archive(archive, _checked(archive))


def _checked(archive: Path) -> str:
    """Return an archive's SHA-256, and keep it if it is asked for the first time."""
    kept, found = archive.with_name(f"{archive.name}.sha256"), sha256(archive)
    if not kept.is_file():
        with replacing(kept) as beside:
            beside.write_text(f"{found}  {archive.name}\n", "utf-8")  # as `sha256sum --check` reads it
    elif read_text(kept).split(maxsplit=1)[:1] != [found]:
        raise CaptionerError(
            f"{archive} is not what was downloaded: its SHA-256 is {found}, and {kept.name} beside it says another: "
            "delete both and run again"
        )
    return found


def _download(url: str, archive: Path) -> None:
    part = archive.with_name(f"{archive.name}.part")
    with _writing(archive.parent):
        archive.parent.mkdir(parents=True, exist_ok=True)
    begun = most = _size(part)
    failures = 0
    with tqdm(desc=archive.name, unit="B", unit_scale=True, disable=None) as progress:
        while True:
            try:
                _receive(url, part, progress)
                break
            except (HTTPException, OSError) as error:
                failures = 0 if _size(part) > most else failures + 1
                most = max(most, _size(part))
                if failures == ATTEMPTS or not _may_pass(error, connected=most > begun):
                    raise CaptionerError(
                        f"cannot download {url} ({error}): run again when the network is there (it continues where it "
                        "stopped), or set CAPTIONER_MIRROR to a directory that holds <data set>/<archive>"
                    ) from None
                time.sleep(PAUSE * 2 ** max(failures - 1, 0))
    with _writing(archive.parent):
        part.replace(archive)


def _may_pass(error: Exception, connected: bool) -> bool:
    if isinstance(error, urllib.error.HTTPError):
        return error.code == 429 or error.code >= 500
    # Nobody should wait for a network that was not there to begin with.
    return connected or not isinstance(error, urllib.error.URLError)


def _receive(url: str, part: Path, progress: tqdm) -> None:
    """Append to `part` what it lacks of the file at `url`; raises OSError or HTTPException when that breaks off."""
    start = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not start:
            raise
        # Nothing lies behind `start`: the part is the whole, or it belongs to another file.
        if error.headers.get("Content-Range") != f"bytes */{start}":
            part.unlink()
            _receive(url, part, progress)
        return
    with response:
        if response.status != 206:
            start = 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        progress.total, progress.n = total, start
        with _writing(part.parent), part.open("ab" if start else "wb") as file:
            for chunk in _chunks(response):
                file.write(chunk)
                progress.update(len(chunk))
    if total is not None and _size(part) < total:
        raise ConnectionResetError(f"the connection broke after {_size(part):,} of {total:,} bytes")


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    try:
        while chunk := response.read1(CHUNK):
            yield chunk
    except OSError as error:
        # Of another kind than what the file that is being written may raise.
        raise HTTPException(f"the connection broke: {error}") from None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextmanager
def _writing(directory: Path) -> Iterator[None]:
    """Tell an error of the disk from one of the network, which is an OSError too."""
    try:
        yield
    except OSError as error:
        raise CaptionerError(f"cannot write to {directory} ({error.strerror}): fix that and run again") from None
