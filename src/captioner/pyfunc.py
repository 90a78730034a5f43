"""What a model that was logged to MLflow is loaded and served with: pictures in, captions out."""

import base64
import binascii
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from captioner.images import UnreadableImage
from captioner.model import Captioner
from captioner.pictures import ABSENT, LARGEST, Picture, is_address

ALLOWED = "give base64 of a picture, a data:, http:, https: or file: address, or a path where the model runs"
SHORTEST = 48  # characters of base64; fewer are no picture, but a name that happens to be written with its letters


class Refused(MlflowException):
    """Names the picture that cannot be captioned, and why; MLflow's server answers it as HTTP 400."""

    def __init__(self, message: str):
        super().__init__(message, error_code=INVALID_PARAMETER_VALUE)

    def serialize_as_json(self) -> str:
        """Return what the server answers."""
        self.message = str(self)  # the server has put all that was sent before it, pictures and all
        return super().serialize_as_json()


class PicturesToCaptions:
    """Captions pictures in a list, in an array, or in the first column of a table.

    Each is base64 of an encoded picture, a data:, http:, https: or file: address, a path, or encoded bytes.
    """

    def __init__(self, model: Captioner):
        self.model = model

    def predict(self, pictures: Any, params: Any = None) -> list[str]:  # noqa: ARG002
        """Return a caption for each picture.

        Raises:
            Refused: one cannot be read, so that none is captioned.
        """
        given: Iterable[Any] = pictures.iloc[:, 0] if hasattr(pictures, "iloc") else pictures
        try:
            read = [picture(each, number) for number, each in enumerate(given, 1)]
            return [caption.text for caption in self.model.caption(read)]
        except UnreadableImage as error:
            raise Refused(str(error)) from None


def picture(given: Any, number: int) -> Picture:
    """Return what `Captioner.caption` takes for one of the pictures given.

    Raises:
        UnreadableImage: it is none of what is allowed, no ordinary file, or a file larger than those taken from the
            network; the message begins with the number.
    """
    if isinstance(given, bytes):
        return given
    if not isinstance(given, str | os.PathLike):
        raise UnreadableImage(f"picture {number}: received {type(given).__name__}: {ALLOWED}")
    text = os.fspath(given)
    if is_address(text):
        return text
    scheme, colon, rest = text.partition(":")
    if colon and scheme.lower() == "data":
        head, _, body = rest.partition(",")
        data = _decoded(body) if head.lower().endswith(";base64") else None
        if data is None:
            raise UnreadableImage(f"picture {number}: no data:<type>;base64,<base64 of a picture>")
        return data
    if colon and scheme.lower() == "file":
        address = urlsplit(text)
        if address.netloc not in ("", "localhost"):
            raise UnreadableImage(
                f"picture {number}: {text}: a file's address has three slashes, as in file:///a/b.jpg"
            )
        return _file(Path(url2pathname(address.path)), number)
    # asked first, since a path may be written with base64's letters alone
    if _size(Path(text)) is not None:
        return _file(Path(text), number)
    data = _decoded(text) if len(text) >= SHORTEST else None
    if data is None:
        shown = text if len(text) <= 60 else f"{text[:60]}..."
        raise UnreadableImage(
            f"picture {number}: received {shown!r}, neither base64 nor a file that is here: {ALLOWED}"
        )
    return data


def _decoded(text: str) -> bytes | None:
    try:
        # without the line ends that the tool base64 puts in
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return None


def _file(path: Path, number: int) -> Path:
    # Reading a device would never end.
    size = _size(path)
    if size is None:
        raise UnreadableImage(f"picture {number}: {path}: {ABSENT}")
    if size > LARGEST:
        raise UnreadableImage(f"picture {number}: {path}: more than {LARGEST >> 20} MB: scale it down")
    return path


def _size(path: Path) -> int | None:
    """Return an ordinary file's bytes; `None` if it is no such file."""
    try:
        return path.stat().st_size if path.is_file() else None
    except (OSError, ValueError):  # of a name that is too long, say, or a folder that is closed
        return None


def _load_pyfunc(path: str) -> PicturesToCaptions:
    """Load the model's directory; the name is MLflow's."""
    model = Captioner.load(Path(path))
    # A server says that it is ready when this is done: with the encoder compiled, as it is for a second picture, and
    # the search, not before.
    model.caption([np.zeros((1, 1), np.uint8)] * 2)
    return PicturesToCaptions(model)
