"""Pictures as people give them, paths, addresses, folders, bytes, opened or in arrays, into pixels.

Pictures are read in threads before they are needed, and never more than a bounded number of pictures ahead, so that
memory does not grow with their number.
"""

import os
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse, InvalidURL
from itertools import chain, islice
from pathlib import Path
from typing import TypeAlias
from urllib import error as errors

import numpy as np
from PIL import Image

from captioner.common import threads
from captioner.common.files import read_bytes
from captioner.data import IMAGE_SIZE, Crop, images
from captioner.data.images import SUFFIXES, UnreadableImage
from captioner.inference import web

Picture: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | np.ndarray
"""A path, an http or https address, an encoded picture, one that Pillow opened, or uint8 `[H, W, 3]` or `[H, W]`."""

ABSENT = "there is no such file: give the path or the address of a picture"

TIMEOUT = 10.0  # seconds without a byte
DEADLINE = 60.0  # seconds for a whole picture
LARGEST = 64 << 20  # bytes of a picture from the network
CHUNK = 1 << 16  # bytes


def is_address(picture: object) -> bool:
    """Say whether this is the address of a picture in the network."""
    return isinstance(picture, str) and picture.lower().startswith(("http://", "https://"))


def expand(places: Iterable[str]) -> Iterator[str | UnreadableImage]:
    """Yield the pictures that are meant by paths, folders and addresses.

    Of a folder these are the pictures in it and in the folders below, known by their suffix, in the order of their
    names; names that begin with a dot are passed over. A folder without a picture comes as an error in its place.
    """
    for place in places:
        if is_address(place):
            yield place
            continue
        if not Path(place).is_dir():
            yield place if Path(place).exists() else UnreadableImage(f"{place}: {ABSENT}")
            continue
        inside = _inside(place)
        first = next(inside, None)
        if first is None:
            yield UnreadableImage(f"{place}: a folder with no picture: give one that has files such as .jpg or .png")
        else:
            yield from chain([first], inside)


def _inside(folder: str) -> Iterator[str]:
    for directory, below, names in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                yield str(Path(directory, name))


def name_of(picture: Picture, number: int) -> str:
    """Return what to call a picture in a message: its path or address, else its number among those given, from 1."""
    return os.fspath(picture) if isinstance(picture, str | os.PathLike) else f"picture {number}"


def pixels(picture: Picture, number: int = 1, size: int = IMAGE_SIZE, crop: Crop = "stretch") -> np.ndarray:
    """Return a picture's pixels as training saw such pictures, uint8 `[size, size, 3]`; see `captioner.data.images`.

    Raises:
        UnreadableImage: it cannot be read; the message begins with what `name_of` calls it.
    """
    try:
        if isinstance(picture, Image.Image):
            return images.from_pillow(picture, size, crop)
        if isinstance(picture, np.ndarray):
            return images.from_array(picture, size, crop)
        if isinstance(picture, bytes):
            return images.decode(picture, size, crop)
        if isinstance(picture, str | os.PathLike):
            return images.decode(read(os.fspath(picture)), size, crop)
        raise UnreadableImage(
            f"received {type(picture).__name__}: allowed are a path, an address, bytes, a Pillow image or an array"
        )
    except UnreadableImage as error:
        raise UnreadableImage(f"{name_of(picture, number)}: {error}") from error


def prefetch(
    pictures: Iterable[Picture | UnreadableImage],
    batch_size: int,
    size: int = IMAGE_SIZE,
    crop: Crop = "stretch",
    first: int = 1,
) -> Generator[list[np.ndarray | UnreadableImage], None, None]:
    """Yield the pixels of pictures in batches, in their order, an error in the place of one that cannot be read.

    The first batch has `first` pictures, by default one, so that a person who waits sees something soon. Meanwhile the
    next two batches are read and decoded.
    """
    # More threads than there are cores, since some wait for a disk or a network.
    cores = threads.cores()

    def pixels_or_error(numbered: tuple[int, Picture | UnreadableImage]) -> np.ndarray | UnreadableImage:
        number, picture = numbered
        try:
            return picture if isinstance(picture, UnreadableImage) else pixels(picture, number, size, crop)
        except UnreadableImage as error:
            return error

    with closing(threads.prefetch(pixels_or_error, enumerate(pictures, 1), 2 * batch_size, 2 * cores)) as read:
        many = first
        while batch := list(islice(read, many)):
            yield batch
            many = batch_size


def read(place: str, public: bool = False) -> bytes:
    """Return the bytes of a file, or those at an address; see `fetch`.

    Raises:
        UnreadableImage: they cannot be obtained.
    """
    if is_address(place):
        return fetch(place, public)
    try:
        return read_bytes(Path(place), images.MAXIMUM_BYTES)
    except FileNotFoundError:
        raise UnreadableImage(ABSENT) from None
    except IsADirectoryError:
        raise UnreadableImage("a folder: give the pictures in it") from None
    except (OSError, ValueError) as error:
        raise UnreadableImage(f"cannot be read ({getattr(error, 'strerror', None) or error})") from None


def fetch(address: str, public: bool = False) -> bytes:
    """Return the bytes at an http or https address; redirections to anything else are not followed.

    Args:
        address: where they are.
        public: take nothing but what is in the public network, see `web.opened`; for addresses that others give.

    Raises:
        UnreadableImage: no answer within `TIMEOUT` or not the whole within `DEADLINE` seconds, a refusal, an HTML page,
            or more than `LARGEST` bytes. Nothing of what was answered is in the message.
    """
    until = time.monotonic() + DEADLINE
    try:
        with web.opened(address, timeout=TIMEOUT, until=until, public=public) as response:
            return _received(response, until)
    except UnreadableImage:
        raise
    except errors.HTTPError as error:
        error.close()
        if 300 <= error.code < 400:
            raise UnreadableImage(
                f"the server answers {error.code}, and leads on too often or to no http or https address: give the "
                "address of the picture itself"
            ) from None
        known = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}
        raise UnreadableImage(f"the server answers {known.get(error.code, error.code)}: check the address") from None
    except (HTTPException, OSError, ValueError) as error:
        cause = error.reason if isinstance(error, errors.URLError) else error
        if time.monotonic() > until:
            raise _late() from None
        if isinstance(cause, TimeoutError):
            raise UnreadableImage(f"no answer within {TIMEOUT:g} seconds: try again, or save the picture") from None
        if isinstance(cause, web.NotPublicError):
            raise UnreadableImage(
                "no address of the public network, on the port 80 or 443: give base64 of the picture itself"
            ) from None
        if isinstance(cause, HTTPException) and not isinstance(cause, InvalidURL):
            raise UnreadableImage("what answers there does not speak HTTP: check the address") from None
        raise UnreadableImage(
            f"cannot be fetched ({' '.join(str(cause).split()) or type(cause).__name__}): check the address and the "
            "network"
        ) from None


def _received(response: HTTPResponse, until: float) -> bytes:
    kind = response.headers.get_content_type()
    if kind in ("text/html", "application/xhtml+xml"):
        raise UnreadableImage("the server answers an HTML page, no picture: give the address of the picture itself")
    parts: list[bytes] = []
    size = 0
    while part := response.read1(CHUNK):
        parts.append(part)
        size += len(part)
        if size > LARGEST:
            raise UnreadableImage(f"more than {LARGEST >> 20} MB: scale it down")
    # the connection is ended then
    if time.monotonic() > until:
        raise _late()
    length = response.headers.get("Content-Length")
    if length and length.isdecimal() and size < int(length):
        raise UnreadableImage(f"the connection broke after {size:,} of {int(length):,} bytes: try again")
    return b"".join(parts)


def _late() -> UnreadableImage:
    return UnreadableImage(f"not whole within {DEADLINE:g} seconds: try again, or save the picture")


def is_batch(given: object) -> bool:
    """Say whether pictures were given, not one."""
    return not isinstance(given, str | os.PathLike | bytes | Image.Image | np.ndarray)
