"""Pictures as training from pixels sees them: another part, mirrored or not, in other colours at each step."""

from collections.abc import Collection

import numpy as np
from PIL import Image, ImageEnhance

from captioner.data import Crop
from captioner.features.views import generator_of, view

SMALLEST, LARGEST = 0.8, 1.2
"""Factors of brightness, contrast and saturation: of 1.5, say, captions would name other colours than one sees."""


def augmented(data: bytes, name: str, number: int, size: int, crop: Crop, kinds: Collection[str]) -> np.ndarray:
    """Return a view of an encoded picture, uint8 `[size, size, 3]`; the same for the same name and number.

    View 0 is the picture as it is, and every second one is mirrored, as of `captioner.features.views.view`.

    Args:
        data: the encoded picture.
        name: its name.
        number: of the view.
        size: height and width, in pixels.
        crop: how the picture becomes a square.
        kinds: in what views differ beside that: `crop`, `colour`, both or none. `colour` is Howard 2013
            (arXiv 1312.5402, section 2.2), milder: brightness, contrast and saturation change in random order.

    Raises:
        UnreadableImage: see `captioner.data.images.decode`.
    """
    seen = view(data, name, number, size, crop, "crop" in kinds)
    if not number or "colour" not in kinds:
        return seen
    picture = Image.fromarray(seen)
    generator = generator_of(f"colours of {name}", number)
    changes = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for change in generator.permutation(len(changes)):
        picture = changes[change](picture).enhance(generator.uniform(SMALLEST, LARGEST))
    return np.asarray(picture)
