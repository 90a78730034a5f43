"""Encoded pictures into pixels: the one preprocessing of training and of inference."""

import io
from contextlib import suppress

import numpy as np
from PIL import ExifTags, Image

from captioner.errors import CaptionerError

# Named one by one, because Pillow also opens forms that start other programs (EPS) or are no photographs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")

# Just under the size from which Pillow itself warns of decompression bombs.
MAXIMUM_PIXELS = 89_000_000

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImage(CaptionerError):  # noqa: N818 - the name says what is wrong
    """The bytes are no picture that can be decoded; the message says why, and the caller adds the name."""


def decode(data: bytes, size: int = 224) -> np.ndarray:
    """Decode a picture, turn it upright by its EXIF orientation and stretch it to a square.

    Transparency is laid over white, of an animation the first frame is taken, 16-bit values are scaled to 8 bits.
    A picture that has the size already keeps its pixels. May be called from many threads at once.

    Args:
        data: an encoded picture in one of `FORMATS`.
        size: width and height of the result, in pixels.

    Returns:
        RGB values, uint8 `[size, size, 3]`.

    Raises:
        UnreadableImage: no picture, a broken or truncated one, or one of more than `MAXIMUM_PIXELS`.
    """
    if not data:
        raise UnreadableImage("the file is empty: put a picture in its place, or leave it out")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image.width, image.height)
            # Decodes a large JPEG at a half, a quarter or an eighth; twice the size is left to the better filter.
            image.draft(None, (2 * size, 2 * size))
            image.load()
            # Read after the pixels: PNG may hold it behind them, and TIFF has turned itself by then.
            orientation = _orientation(image)
            stretched = _to_rgb(image).resize((size, size), Image.Resampling.BILINEAR)
    except UnreadableImage:
        raise
    except Image.UnidentifiedImageError:
        raise UnreadableImage(
            f"no picture, or one cut short (it begins with {data[:8]!r}): allowed are {', '.join(FORMATS)}"
        ) from None
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"too large, {error}: scale it down") from None
    # What Pillow's decoders raise for damaged bytes is whatever they tripped over.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImage(f"a broken or truncated picture ({reason}): put a whole one in its place") from error
    if orientation in TURNS:
        # Turned after the stretch, since a square is quickly turned.
        stretched = stretched.transpose(TURNS[orientation])
    return np.array(stretched)


def _check_size(width: int, height: int) -> None:
    if width * height > MAXIMUM_PIXELS:
        raise UnreadableImage(
            f"too large, {width} × {height} pixels: at most {MAXIMUM_PIXELS:,} pixels are allowed, scale it down"
        )


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
    return image.convert("RGB")


def _grey_of_16_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    # The upper byte, as Pillow does for 16-bit colour, so that grey saved either way decodes alike.
    grey = (values >> 8).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey).convert("RGB")
