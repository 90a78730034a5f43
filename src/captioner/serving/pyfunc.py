"""What a model that was logged to MLflow is loaded and served with: pictures in, captions out.

Whoever can ask may see no more than they sent: of what they name only bytes are taken, unless the environment of the
process says otherwise, see `Sources`.
"""

import base64
import binascii
import os
import re
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

import numpy as np

from captioner.common import threads
from captioner.common.errors import CaptionerError, quoted
from captioner.common.workspace import checkout_of
from captioner.data.images import UnreadableImage
from captioner.inference import pictures
from captioner.inference.captioner import Captioner
from captioner.inference.pictures import LARGEST, is_address
from captioner.reports.wording import counted
from captioner.serving.model_server import Refused, install_guard

URLS = "CAPTIONER_SERVE_URLS"
PATHS = "CAPTIONER_SERVE_PATHS"
MOST = 1000  # pictures a call
MOST_ADDRESSES = 32  # of them; each may take a minute
READERS = 8  # threads, each with one picture in memory
SHORTEST = 48  # characters of base64; fewer are no picture


Given = TypeVar("Given")


@dataclass(frozen=True)
class Sources:
    """What pictures may be named by, beside being sent.

    Attributes:
        urls: whether by http and https addresses of the public network.
        folder: the folder whose files may be named by a path or a file: address, if any.
    """

    urls: bool = False
    folder: Path | None = None

    @classmethod
    def of_environment(cls) -> "Sources":
        """Return what `CAPTIONER_SERVE_URLS` and `CAPTIONER_SERVE_PATHS` allow: nothing, where they are not set.

        Raises:
            CaptionerError: a variable has another value than allowed.
        """
        said = os.environ.get(URLS, "").strip().lower()
        if said not in ("", "0", "1"):
            raise CaptionerError(f"{URLS} is {said[:40]!r}: set it to 1 to have addresses fetched, or unset it.")
        place = os.environ.get(PATHS, "")
        folder = (checkout_of(Path.cwd()) / Path(place).expanduser()).resolve() if place else None
        if folder is not None and not folder.is_dir():
            raise CaptionerError(f"{PATHS} is {place[:200]!r}, which is no folder: give one, or unset it.")
        return cls(said == "1", folder)

    @property
    def allowed(self) -> str:
        """What to give, in words."""
        further = ["an http: or https: address of the public network"] if self.urls else []
        further += ["a path in the folder of pictures"] if self.folder else []
        return ", or ".join(["give base64 of an encoded picture, plain or as data:<type>;base64,...", *further])


class PicturesToCaptions:
    """Captions pictures in a list, in an array, or in the first column of a table.

    Each is base64 of an encoded picture, a data: address, encoded bytes, or what else `sources` allow.
    """

    def __init__(self, model: Captioner, sources: Sources | None = None):
        self.model = model
        self.sources = sources or Sources()

    def predict(self, pictures: Any, params: Any = None) -> list[str]:
        """Return a caption for each picture.

        Args:
            pictures: in a list, in an array, or in the first column of a table.
            params: none are taken; MLflow hands on an empty mapping in place of those that a request has.

        Raises:
            Refused: there are too many, one cannot be read, so that none is captioned, or there are params.
        """
        if params is not None:
            received = f"params {quoted(params)}" if params else "params"
            raise Refused(f"received {received}: none are taken, leave them out")
        given = list(pictures.iloc[:, 0] if hasattr(pictures, "iloc") else pictures)
        if len(given) > MOST:
            raise Refused(f"received {len(given):,} pictures: give at most {MOST:,} at a time")
        try:
            found = [picture(each, number, self.sources) for number, each in enumerate(given, 1)]
            addresses = sum(isinstance(each, str) for each in found)
            if addresses > MOST_ADDRESSES:
                raise Refused(f"received {addresses:,} addresses: give at most {MOST_ADDRESSES} at a time")
            with closing(threads.prefetch(self._pixels, enumerate(found, 1), READERS, READERS)) as read:
                return [caption.text for caption in self.model.caption(read)]
        except UnreadableImage as error:
            raise Refused(str(error)) from None

    def _pixels(self, numbered: tuple[int, bytes | Path | str]) -> np.ndarray:
        number, found = numbered
        try:
            data = found if isinstance(found, bytes) else pictures.read(str(found), public=True)
        except UnreadableImage as error:
            raise UnreadableImage(f"picture {number}: {error}") from None
        return self.model.pixels(data, number)


def picture(given: Any, number: int, sources: Sources) -> bytes | Path | str:
    """Return one of the pictures given: its bytes, or, where the sources allow that, its file or address.

    Raises:
        UnreadableImage: it is none of what is allowed, or larger than `LARGEST`; the message begins with the number,
            and repeats nothing of what was given.
    """
    if isinstance(given, bytes):
        return _not_too_large(given, len(given), number)
    if not isinstance(given, str | os.PathLike):
        raise UnreadableImage(f"picture {number}: received {type(given).__name__}: {sources.allowed}")
    text = str(given)
    scheme = text[:8].partition(":")[0].lower() if ":" in text[:8] else ""
    if scheme == "data":
        head, _, body = text.partition(",")
        data = _decoded(unquote(body), number) if head.lower().endswith(";base64") else None
        if data is None:
            raise UnreadableImage(f"picture {number}: no data:<type>;base64,<base64 of a picture>")
        return data
    if is_address(text):
        if not sources.urls:
            raise UnreadableImage(f"picture {number}: an address, and none is fetched here: {sources.allowed}")
        return text
    # asked first, since a path may be written with base64's letters alone
    file = _inside(text, sources.folder) if sources.folder else None
    if file is not None:
        return _not_too_large(file, file.stat().st_size, number)
    if scheme == "file" or isinstance(given, os.PathLike):
        raise UnreadableImage(f"picture {number}: a file, and none of this name is read here: {sources.allowed}")
    data = _decoded(text, number) if len(text) >= SHORTEST else None
    if data is None:
        raise UnreadableImage(f"picture {number}: no base64 of a picture ({_why_not(text)}): {sources.allowed}")
    return data


def _why_not(text: str) -> str:
    """Say what is wrong with base64, but not what it is."""
    letters = "".join(text.split())
    if len(letters) < SHORTEST:
        return f"{counted(len(letters), 'character')}, too few for one"
    if not re.fullmatch(r"[A-Za-z0-9+/]*={0,2}", letters):
        return "other characters than A-Z, a-z, 0-9, + and /, with = at the end"
    return f"{counted(len(letters), 'character')}, where whole base64 has a multiple of 4"


def _decoded(text: str, number: int) -> bytes | None:
    _not_too_large(text, len(text) // 2, number)  # four characters, and perhaps line ends, are three bytes
    try:
        # without the line ends that the tool base64 puts in
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return None
    return _not_too_large(data, len(data), number)


def _not_too_large(given: Given, size: int, number: int) -> Given:
    if size > LARGEST:
        raise UnreadableImage(f"picture {number}: more than {LARGEST >> 20} MB: scale it down")
    return given


def _inside(text: str, folder: Path) -> Path | None:
    """Return the ordinary file in a folder or below that a path or a file: address names; `None` if there is none."""
    if text[:5].lower() == "file:":
        address = urlsplit(text)
        if address.netloc not in ("", "localhost"):
            return None
        text = url2pathname(address.path)
    try:
        file = (folder / text).resolve()
        return file if file.is_relative_to(folder) and file.is_file() else None
    except (OSError, ValueError, RuntimeError):  # of a name that is too long, say, or links in circles
        return None


def _load_pyfunc(path: str) -> PicturesToCaptions:
    """Load the model's directory; the name is MLflow's.

    Raises:
        CaptionerError: there is no whole model, or a variable of `Sources` has another value than allowed.
    """
    sources = Sources.of_environment()
    if "mlflow.pyfunc.scoring_server.app" in sys.modules:
        install_guard()
    model = Captioner.load(Path(path))
    # A server says that it is ready when this is done: with the encoder compiled, as it is for a second picture, and
    # the search, not before.
    model.caption([np.zeros((1, 1), np.uint8)] * 2)
    return PicturesToCaptions(model, sources)
