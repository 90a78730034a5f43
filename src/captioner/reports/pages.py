"""What the pages about attention share: their form, their light, and photographs small enough to lie in them."""

import base64
import hashlib
import io
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib import resources
from typing import Any

from PIL import ExifTags, Image

from captioner.data import images
from captioner.reports import attention_figure

QUALITY = 80

LIGHT = {
    "darkest": attention_figure.DARKEST,
    "plain": attention_figure.PLAIN,
    "tint": attention_figure.TINT,
    "amber": attention_figure.AMBER.tolist(),
    "luminance": attention_figure.LUMINANCE.astype(float).round(6).tolist(),
}
"""How `pages.js` lays light over a photograph, so that it looks as in `attention_figure`."""


@cache
def form(name: str, package: str = __package__) -> str:
    """Return a page of a package with what it includes of this one, `{{pages.css}}` and the like, in its place."""
    text = resources.files(package).joinpath(name).read_text("utf-8")
    directory = resources.files(__package__)
    return re.sub(r"{{(pages\.[a-z]+)}}\n", lambda included: directory.joinpath(included[1]).read_text("utf-8"), text)


def filled(form: str, parts: Mapping[str, str]) -> str:
    """Put each part, as it is, in the place of its name in double braces."""
    return re.sub("{{([a-z0-9-]+)}}", lambda found: parts[found[1]], form)


def program_sha256(form: str) -> str:
    """Return the hash of a form's program, its last script, as a Content Security Policy names it."""
    program = re.findall("<script>(.*?)</script>", form, re.DOTALL)[-1]
    return base64_of(hashlib.sha256(program.encode()).digest())


def photograph(data: bytes, side: int) -> tuple[bytes, tuple[int, int]]:
    """Return a picture upright as JPEG, scaled down until no side is longer than `side`, with its width and height.

    Raises:
        UnreadableImage: see `images.decode`.
    """
    # first, since it refuses what cannot be decoded
    square = Image.fromarray(images.decode(data, side))
    width, height = _upright_size(data, side)
    shrunk = min(1, side / max(width, height))
    size = max(1, round(shrunk * width)), max(1, round(shrunk * height))
    buffer = io.BytesIO()
    square.resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return buffer.getvalue(), size


def base64_of(data: bytes) -> str:
    """Return bytes as base64."""
    return base64.b64encode(data).decode("ascii")


def as_json(value: Any) -> str:
    """JSON of ASCII alone, in which nothing can end a script element or begin a comment in it."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


def _upright_size(data: bytes, side: int) -> tuple[int, int]:
    """Width and height of a picture that can be decoded, as one sees it."""
    with Image.open(io.BytesIO(data), formats=images.FORMATS) as image:
        image.draft(None, (2 * side, 2 * side))
        # as in `images.decode`, only then are size and orientation settled in every format
        image.load()
        width, height = image.size
        with suppress(Exception):
            if image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8):
                return height, width
    return width, height
