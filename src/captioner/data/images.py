"""Encoded pictures into pixels: the one preprocessing of training and of inference."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
from PIL import ExifTags, Image, Jpeg2KImagePlugin

from captioner.common.errors import CaptionerError
from captioner.data import IMAGE_SIZE, Crop

BARS = (124, 116, 104)  # of `pad`: the mean colour of ImageNet's pictures, which encoders take for nothing

# Named one by one, because Pillow also opens forms that start other programs (EPS) or are no photographs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")

SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .gif .bmp .tif .tiff .ppm .pgm .pbm .pnm .jp2 .j2k .avif .heic .heif".split()  # noqa: SIM905
)
"""What names of pictures end in; HEIC cannot be read, but a person who has such pictures wants to be told."""

# Just under the size from which Pillow itself warns of decompression bombs.
MAXIMUM_PIXELS = 89_000_000
# What JPEG can have. Of few pixels, a longer line becomes a picture that fills the memory while it is scaled.
MAXIMUM_SIDE = 65_535
# Of a file: so many pixels of 16 bits a colour, not compressed, and what stands before them.
MAXIMUM_BYTES = 6 * MAXIMUM_PIXELS + 2**20

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# What people take for pictures and Pillow does not read, by the bytes at its beginning.
OTHERS = {
    b"%PDF": "a PDF document: save its picture as JPEG or PNG",
    b"<!doctype html": "an HTML page: give the picture itself",
    b"<html": "an HTML page: give the picture itself",
    b"<svg": "an SVG drawing: save it as PNG",
    b"<?xml": "an XML file: save it as PNG if it is a drawing",
    b"PK\x03\x04": "a ZIP archive, as .docx and .pptx are, too: give the pictures in it",
    b"\x1f\x8b": "a gzip archive: give the pictures in it",
    b"8BPS": "a Photoshop document: save it as JPEG or PNG",
}
HEIC = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")  # brands, at byte 8

_opened = threading.Lock()


class _Budget:
    """Lets threads in as long as what they take together is no more than a budget."""

    def __init__(self, whole: int):
        self._left = whole
        self._changed = threading.Condition()

    @contextmanager
    def taking(self, part: int) -> Iterator[None]:
        """Wait until so much is left, at most the whole, and take it meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: part <= self._left)
            self._left -= part
        try:
            yield
        finally:
            with self._changed:
                self._left += part
                self._changed.notify_all()


# A picture takes up to 20 bytes a pixel while it is decoded, and there are many threads.
_pixels = _Budget(MAXIMUM_PIXELS)


class UnreadableImage(CaptionerError):  # noqa: N818 - the name says what is wrong
    """The bytes are no picture that can be decoded; the message says why, and the caller adds the name."""


def decode(data: bytes, size: int = IMAGE_SIZE, crop: Crop = "stretch") -> np.ndarray:
    """Decode a picture, turn it upright by its EXIF orientation and make it a square.

    Transparency is laid over white, of an animation the first frame is taken, 16-bit values are scaled to 8 bits.
    A picture that has the size already keeps its pixels. May be called from many threads at once.

    Args:
        data: an encoded picture in one of `FORMATS`.
        size: width and height of the result, in pixels.
        crop: how it becomes a square.

    Returns:
        RGB values, uint8 `[size, size, 3]`.

    Raises:
        UnreadableImage: no picture, a broken or truncated one, or one of more than `MAXIMUM_PIXELS`,
            or with a side of more than `MAXIMUM_SIDE`.
    """
    if not data:
        raise UnreadableImage("the file is empty: put a picture in its place, or leave it out")
    with _unreadable(data), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        _check_size(image.width, image.height)
        _reduce(image, data, 2 * size)
        with _pixels.taking(image.width * image.height):
            return _squared(image, size, crop)


def from_pillow(image: Image.Image, size: int = IMAGE_SIZE, crop: Crop = "stretch") -> np.ndarray:
    """Return the pixels of an opened picture as `decode` does; the picture stays open and as it was.

    Raises:
        UnreadableImage: a truncated or closed one, or one that is too large, see `decode`.
    """
    # The same picture may come twice, and Pillow reads lazily: one thread at a time.
    with _opened, _unreadable():
        _check_size(image.width, image.height)
        return _squared(image, size, crop)


def from_array(values: np.ndarray, size: int = IMAGE_SIZE, crop: Crop = "stretch") -> np.ndarray:
    """Return the pixels of an array as `decode` does.

    Args:
        values: uint8, RGB `[H, W, 3]` or grey `[H, W]`.
        size: width and height of the result, in pixels.
        crop: how it becomes a square.

    Raises:
        UnreadableImage: another type or shape, or too large, see `decode`.
    """
    if values.dtype != np.uint8 or not (values.ndim == 2 or (values.ndim == 3 and values.shape[2] == 3)):
        raise UnreadableImage(
            f"an array of {values.dtype} {list(values.shape)}: allowed is uint8, RGB [H, W, 3] or grey [H, W], "
            "one picture an array"
        )
    if not values.size:
        raise UnreadableImage(f"an array without pixels, {list(values.shape)}: put a picture in its place")
    return from_pillow(Image.fromarray(values), size, crop)


@contextmanager
def _unreadable(data: bytes = b"") -> Iterator[None]:
    """Turn whatever Pillow raises of a picture into `UnreadableImage`."""
    try:
        yield
    except UnreadableImage:
        raise
    except Image.UnidentifiedImageError:
        if data[4:8] == b"ftyp" and data[8:12] in HEIC:
            raise UnreadableImage("a HEIC picture, as telephones take: save it as JPEG") from None
        begins = data[:64].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
        for beginning, what in OTHERS.items():
            if begins.startswith(beginning.lower()):
                raise UnreadableImage(what) from None
        kind = "no picture (it is text)" if _is_text(data[:512]) else "no picture, or one cut short"
        raise UnreadableImage(f"{kind}: allowed are {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        raise UnreadableImage(
            f"too large, more than twice the {MAXIMUM_PIXELS:,} pixels that are allowed: scale it down"
        ) from None
    except MemoryError:
        raise UnreadableImage("too large for the memory that is free: scale it down") from None
    # What Pillow's decoders raise for damaged bytes is whatever they tripped over. It may repeat the bytes, and those
    # who asked may be others than those whose file it is.
    except Exception as error:
        raise UnreadableImage("a broken or truncated picture: put a whole one in its place") from error


def _is_text(data: bytes) -> bool:
    """Say whether bytes, which may end within a character, are text in UTF-8."""
    text = data.decode("utf-8", "replace").rstrip("\ufffd")
    return all(character.isprintable() or character.isspace() for character in text) and "\ufffd" not in text


def _reduce(image: Image.Image, data: bytes, wanted: int) -> None:
    """Have a large JPEG or JPEG 2000 decoded at a half, a quarter, ..., though not below what is wanted.

    So much is left to the better filter. The other formats cannot be decoded but whole.
    """
    image.draft(None, (wanted, wanted))
    if isinstance(image, Jpeg2KImagePlugin.Jpeg2KImageFile):
        halvings = max(0, (min(image.size) // wanted).bit_length() - 1)
        image.reduce = min(halvings, _resolutions(data))


def _resolutions(data: bytes) -> int:
    """Return how many times a JPEG 2000 can be halved, as its codestream says: ISO/IEC 15444-1, annex A.6."""
    found, place = set[int](), data.find(b"\xff\x4f\xff\x51") + 2
    while 2 <= place < len(data) - 9 and data[place] == 0xFF and data[place + 1] != 0x90:  # where the tiles begin
        if data[place + 1] in (0x52, 0x53):  # of all components, of one
            found.add(data[place + (9 if data[place + 1] == 0x52 else 6)])
        place += 2 + int.from_bytes(data[place + 2 : place + 4])
    return min(found, default=0)


def _squared(image: Image.Image, size: int, crop: Crop) -> np.ndarray:
    """Return the pixels of an opened picture, upright, over white and made a square, uint8 `[size, size, 3]`."""
    image.load()
    # Read after the pixels: PNG may hold it behind them, and TIFF has turned itself by then.
    orientation = _orientation(image)
    seen, wanted = _to_rgb(image), (size, size)
    width, height = seen.size
    if crop == "center":
        shorter = min(width, height)
        left, top = (width - shorter) // 2, (height - shorter) // 2
        seen = seen.crop((left, top, left + shorter, top + shorter))
    elif crop == "pad":
        wanted = (max(1, round(size * width / max(seen.size))), max(1, round(size * height / max(seen.size))))
    seen = seen.resize(wanted, Image.Resampling.BILINEAR)
    if orientation in TURNS:
        # Turned only now, since a small picture is quickly turned.
        seen = seen.transpose(TURNS[orientation])
    if seen.size != (size, size):
        square = Image.new("RGB", (size, size), BARS)
        square.paste(seen, ((size - seen.width) // 2, (size - seen.height) // 2))
        seen = square
    return np.array(seen)


def _check_size(width: int, height: int) -> None:
    if width * height > MAXIMUM_PIXELS:
        raise UnreadableImage(
            f"too large, {width} × {height} pixels: at most {MAXIMUM_PIXELS:,} pixels are allowed, scale it down"
        )
    if max(width, height) > MAXIMUM_SIDE:
        raise UnreadableImage(
            f"too long, {width} × {height} pixels: at most {MAXIMUM_SIDE:,} are allowed on a side, scale it down"
        )


def upright_size(data: bytes, size: int) -> tuple[int, int]:
    """Return width and height of a picture that can be decoded, as one sees it, in pixels.

    Args:
        data: the encoded picture.
        size: that it is wanted in: a large JPEG or JPEG 2000 counts as at a half, a quarter, ...
    """
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        _reduce(image, data, 2 * size)
        image.load()  # only then are size and orientation settled in every format
        width, height = image.size
        return (height, width) if _orientation(image) in (5, 6, 7, 8) else (width, height)


def _orientation(image: Image.Image) -> int:
    # Damaged EXIF data does not make the picture unreadable.
    with suppress(Exception):
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    # Of the formats, PPM alone holds its 16-bit values in 32 bits.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return _grey_of_16_bits(image)
    if image.mode in ("I", "F"):
        raise UnreadableImage(
            "its values are 32-bit numbers, of which nobody knows what is white: save it with 8 or 16 bits a channel"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it


def _grey_of_16_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    # The upper byte, as Pillow does for 16-bit colour, so that grey saved either way decodes alike.
    grey = (values >> 8).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey).convert("RGB")
