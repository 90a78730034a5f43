"""Other views of a picture, which training may see in its place: a part of it, and every second time its mirror image.

View 0 is the picture as it is. For the others it is enlarged by a seventh, and a square of the usual size is cut
out at random, as He et al. 2016 (arXiv 1512.03385, section 3.4) cut 224 of 256 pixels.
"""

import zlib

import numpy as np

from captioner.data import Crop, images

ENLARGED = 8 / 7


def generator_of(name: str, number: int) -> np.random.Generator:
    """Return what draws for a view of a picture: the same for the same name and number."""
    return np.random.default_rng([zlib.crc32(name.encode("utf-8", "surrogateescape")), number])


def is_mirrored(number: int) -> bool:
    """Say whether a view is a mirror image: those with odd numbers are."""
    return number % 2 == 1


def view(data: bytes, name: str, number: int, size: int, crop: Crop, part: bool = True) -> np.ndarray:
    """Return a view of an encoded picture, uint8 `[size, size, 3]`; the same for the same name and number.

    Args:
        data: the encoded picture.
        name: its name.
        number: of the view.
        size: height and width, in pixels.
        crop: how it becomes a square.
        part: whether views other than 0 are cut out; else they differ in being mirrored alone.

    Raises:
        UnreadableImage: see `images.decode`.
    """
    larger = round(ENLARGED * size) if part and number else size
    pixels = images.decode(data, larger, crop)
    top, left = generator_of(name, number).integers(0, larger - size + 1, 2)
    seen = pixels[top : top + size, left : left + size]
    return np.ascontiguousarray(seen[:, ::-1] if is_mirrored(number) else seen)
