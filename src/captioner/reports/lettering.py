"""Text in pictures, in whatever script: each character in a font that has it, of those that the system has."""

import sys
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib.font_manager import findSystemFonts
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

# matplotlib brings this font along, so that every machine draws the same of what it has
PLAIN = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def write(
    picture: Image.Image, place: tuple[float, float], text: str, colour: Colour, size: int, centred: bool = False
) -> None:
    """Draw a line of text.

    Args:
        picture: RGB, drawn on.
        place: left end of the text's baseline, or its middle; pixels.
        text: in any script; characters that no font has are drawn as boxes, and said once on stderr.
        colour: RGB; of coloured characters, their own.
        size: of the font, pixels.
        centred: whether `place` is the middle.
    """
    parts = [(part, *_at_size(path, size)) for part, path in _parts(text)]
    x, y = place
    anchor = "ls"
    if centred and len(parts) == 1 and parts[0][2] == 1:
        anchor = "ms"
    elif centred:
        x -= length(text, size) / 2
    for part, font, scale in parts:
        if scale == 1:
            ImageDraw.Draw(picture).text((x, y), part, colour, font, anchor=anchor)
        else:
            _write_bitmaps(picture, (x, y), part, font, scale)
        x += font.getlength(part) * scale


def length(text: str, size: int) -> float:
    """Return the width of a line of text in pixels."""
    fonts = ((part, *_at_size(path, size)) for part, path in _parts(text))
    return sum(font.getlength(part) * scale for part, font, scale in fonts)


@cache
def plain(size: int) -> ImageFont.FreeTypeFont:
    """Return the font that draws all that it has."""
    return ImageFont.truetype(PLAIN, size)


def _write_bitmaps(
    picture: Image.Image, place: tuple[float, float], text: str, font: ImageFont.FreeTypeFont, scale: float
) -> None:
    """Draw text of a font that has coloured pictures of one size."""
    left, top, right, bottom = (round(edge) for edge in font.getbbox(text, anchor="ls"))
    drawn = Image.new("RGBA", (max(1, right - left), max(1, bottom - top)))
    ImageDraw.Draw(drawn).text((-left, -top), text, font=font, anchor="ls", embedded_color=True)
    width, height = (max(1, round(side * scale)) for side in drawn.size)
    small = drawn.resize((width, height), Image.Resampling.LANCZOS)
    picture.paste(small, (round(place[0] + left * scale), round(place[1] + top * scale)), small)


def _parts(text: str) -> Iterator[tuple[str, Path]]:
    """Yield the text in parts, each with its font.

    Marks, joiners and spaces stay with what they follow, since only together letters are joined and ordered as their
    script wants.
    """
    part, font = "", PLAIN
    for character in text:
        category = unicodedata.category(character)
        follows = part and category in ("Mn", "Mc", "Me", "Cf", "Sk", "Zs")
        if not (follows and (_is_silent(character) or ord(character) in _characters(font))):
            found = _font_of(character)
            if part and found != font:
                yield part, font
                part = ""
            font = found
        part += character
    if part:
        yield part, font


def _is_silent(character: str) -> bool:
    """Whether it only says how others are drawn: a joiner, a direction, a variation selector, a control character."""
    return unicodedata.category(character)[0] == "C" or unicodedata.name(character, "").startswith("VARIATION SELECTOR")


@cache
def _font_of(character: str) -> Path:
    """Return the first font that has the character, or the plain one; say once by script that none has it."""
    if _is_silent(character) or ord(character) in _characters(PLAIN):
        return PLAIN
    for path in _system_fonts():
        if ord(character) in _characters(path):
            return path
    _say_lacking(_script(character))
    return PLAIN


@cache
def _say_lacking(script: str) -> None:
    print(
        f"No font here has {script}, which figures show as boxes: install one that has, such as one of Noto "
        "(https://fonts.google.com/noto; packages of systems are called fonts-noto or google-noto-fonts).",
        file=sys.stderr,
    )


def _script(character: str) -> str:
    """Name the script of a character: names in Unicode begin with it."""
    first = unicodedata.name(character, "UNNAMED").split()[0].split("-")[0]
    if unicodedata.category(character) in ("So", "Sk"):
        return "emoji and symbols"
    if first in ("CJK", "IDEOGRAPHIC", "KANGXI"):
        return "Chinese characters"
    return f"{first.title()} characters"


@cache
def _system_fonts() -> tuple[Path, ...]:
    """Fonts of the system, upright and plain ones without serifs first."""

    def rank(path: Path) -> tuple[bool, bool, bool, bool, str]:
        name = path.stem
        odd = any(style in name for style in ("Bold", "Italic", "Oblique", "Black", "Light", "Thin", "Medium", "Mono"))
        # coloured pictures last: their fonts have digits as well
        return "Emoji" in name, odd, "Sans" not in name, "CJK" in name, name

    found = {Path(name) for name in findSystemFonts()}
    # Unicode's font of last resort draws a box for each character that there is
    return tuple(sorted((path for path in found if "LastResort" not in path.name), key=rank))


@cache
def _characters(path: Path) -> frozenset[int]:
    """Return the characters that a font has; none where it cannot be read or drawn with."""
    try:
        found = frozenset(FT2Font(path).get_charmap())
        _at_size(path, 20)
    except (OSError, RuntimeError, ValueError):
        return frozenset()
    return found


# sizes of the pictures in the fonts that have only pictures: Noto's, Apple's and JoyPixels'
_BITMAPS = (109, 160, 136, 128, 96, 64)


@cache
def _at_size(path: Path, size: int) -> tuple[ImageFont.FreeTypeFont, float]:
    """Return a font and by how much what it draws is to be scaled.

    Raises:
        OSError: no size can be set, or the file is no font.
    """
    try:
        return ImageFont.truetype(path, size), 1
    except OSError:
        for other in _BITMAPS:
            try:
                return ImageFont.truetype(path, other), size / other
            except OSError:
                continue
        raise
