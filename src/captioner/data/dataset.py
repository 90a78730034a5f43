"""What every data set source returns, before it is packed into files."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pandas as pd

SPLITS = ("train", "validation", "test")
CAPTION_COLUMNS = ["image", "split", "caption"]
OBJECT_COLUMNS = ["image", "word", "colour", "size", "left", "top", "right", "bottom"]


def no_objects() -> pd.DataFrame:
    """Return the table of objects of pictures whose objects nobody marked."""
    return pd.DataFrame(columns=OBJECT_COLUMNS)


def captions_by_image(captions: pd.DataFrame) -> dict[str, list[str]]:
    """Return each picture's captions as published, from the columns `image` and `caption`."""
    return {str(image): texts.tolist() for image, texts in captions.groupby("image", sort=False)["caption"]}


@dataclass(frozen=True)
class Dataset:
    """Captions, and the encoded pictures that they describe.

    Attributes:
        captions: columns `image` (name of the picture), `split` (one of `SPLITS`), `caption`; a row a caption.
        pictures: name and encoded bytes (JPEG, PNG, ...) of each picture, read as they are asked for, once.
        objects: for drawn scenes, a row an object: its `image`, `word`, `colour`, `size` and its box (`left`, `top`,
            `right`, `bottom`, the last two exclusive), in pixels of a scene of 224 x 224, of whatever size it is drawn.
        origin: SHA-256 by name of the archives the data came from.
        places: where each caption stands in its source, in the order of `captions`; for messages.
        remarks: what the person who gave the data should know, a line each.
    """

    captions: pd.DataFrame
    pictures: Iterable[tuple[str, bytes]]
    objects: pd.DataFrame = field(default_factory=no_objects)
    origin: dict[str, str] = field(default_factory=dict)
    places: Sequence[str] = ()
    remarks: Sequence[str] = ()
