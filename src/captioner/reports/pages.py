"""What pages share: how templates are filled, the light of attention, and photographs small enough to lie in them."""

import base64
import hashlib
import io
from functools import cache
from typing import TYPE_CHECKING

from PIL import Image

from captioner.data import Crop, images
from captioner.reports import attention_figure

if TYPE_CHECKING:
    from jinja2 import Environment, Template

QUALITY = 80

LIGHT = {
    "darkest": attention_figure.DARKEST,
    "plain": attention_figure.PLAIN,
    "tint": attention_figure.TINT,
    "amber": attention_figure.AMBER.tolist(),
    "luminance": attention_figure.LUMINANCE.astype(float).round(6).tolist(),
}
"""How `pages.js` lays light over a photograph, so that it looks as in `attention_figure`."""


def template(name: str) -> "Template":
    """Return a template by its path in this package, as `reports/report.html`.

    What it is filled with is text, never markup, and a name that nothing was given for is an error.
    """
    return _environment().get_template(name)


def program_sha256(template: "Template") -> str:
    """Return the hash of a template's block `program`, all of a script, as a Content Security Policy names it."""
    program = "".join(template.blocks["program"](template.new_context()))
    return base64_of(hashlib.sha256(program.encode()).digest())


def photograph(data: bytes, side: int, crop: Crop = "stretch") -> tuple[bytes, tuple[int, int]]:
    """Return a picture upright as JPEG, scaled down until no side is longer than `side`, with its width and height.

    It shows what an encoder with that `crop` sees of it; if the encoder stretches it, in its own proportions.

    Raises:
        UnreadableImage: see `images.decode`.
    """
    # first, since it refuses what cannot be decoded
    square = Image.fromarray(images.decode(data, side, crop))
    width, height = images.upright_size(data, side) if crop == "stretch" else square.size
    shrunk = min(1, side / max(width, height))
    size = max(1, round(shrunk * width)), max(1, round(shrunk * height))
    buffer = io.BytesIO()
    square.resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return buffer.getvalue(), size


def base64_of(data: bytes) -> str:
    """Return bytes as base64."""
    return base64.b64encode(data).decode("ascii")


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined  # takes long, and few commands make a page

    environment = Environment(
        loader=PackageLoader(__package__.partition(".")[0], "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # `tojson` writes ASCII alone, in which nothing can end a script element or begin a comment in it
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return environment
