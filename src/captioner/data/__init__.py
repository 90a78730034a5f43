"""Pictures and captions on disk: decoding of pictures, and the three files of a data set.

Input: bytes and tables. Output: pixels and tables. It does not know where a data set comes from or what it is used for.
"""

from typing import Literal, TypeAlias

Crop: TypeAlias = Literal["stretch", "center", "pad"]
"""How a picture becomes a square: it is stretched; its middle is cut out; or it stands whole between bars."""

IMAGE_SIZE = 224  # height and width of the pictures that most encoders take, in pixels


def is_pattern(place: str) -> bool:
    """Whether a place is no path, but an address, or stands for several."""
    return "://" in place or "*" in place or "{" in place
