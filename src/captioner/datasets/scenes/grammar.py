"""The grammar of drawn scenes: what captions can say of objects, and whether a caption is true.

Each caption relates the large object of a picture to one of the small ones. Since the grammar is known, a generated
caption can be parsed, and is true or not; since each object's box is known, so is where a model has to look.
"""

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from captioner.data.dataset import OBJECT_COLUMNS

SIZE = 224  # height and width of a scene, in what boxes are counted in: pixels, if it is drawn of this size

# few and far apart: a network trained to classify photographs keeps shapes well and colours badly
COLOURS = {
    "red": (214, 40, 40),
    "green": (46, 160, 67),
    "blue": (38, 84, 210),
    "yellow": (245, 211, 30),
}
RADII = {"small": (22, 26), "large": (34, 39)}  # half of an object's height, in pixels, least and most
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
RELATIONS = {
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
"""Each relation with its wordings; it holds when the boxes are apart along its axis."""

_OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
_WORDING = {wording: relation for relation, wordings in RELATIONS.items() for wording in wordings}
_NOUN = rf"an? (?:({'|'.join(RADII)}) )?({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})"
_SENTENCE = re.compile(rf"{_NOUN} (?:is )?({'|'.join(_WORDING)}) {_NOUN}")


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene: what a caption can say of it, and its box in pixels (right and bottom exclusive)."""

    shape: str
    colour: str
    size: str
    box: tuple[int, int, int, int]

    def fits(self, size: str | None, colour: str, shape: str) -> bool:
        """Whether a noun phrase (`size` may be left out) describes this object."""
        return size in (None, self.size) and (colour, shape) == (self.colour, self.shape)

    def is_related(self, relation: str, other: "SceneObject") -> bool:
        """Whether this object stands `left` of, `right` of, `above` or `below` another: their boxes are apart so."""
        if relation in ("right", "below"):
            return other.is_related(_OPPOSITE[relation], self)
        axis = 0 if relation == "left" else 1
        return self.box[axis + 2] <= other.box[axis]


def is_true(caption: str, things: Iterable[SceneObject]) -> bool:
    """Whether a caption is a sentence of the grammar and holds of a scene with these objects."""
    match = _SENTENCE.fullmatch(caption.strip().lower().rstrip(" ."))
    if match is None:
        return False
    relation = _WORDING[match[4]]
    return any(
        one.fits(*match.group(1, 2, 3)) and other.fits(*match.group(5, 6, 7)) and one.is_related(relation, other)
        for one, other in itertools.permutations(things, 2)
    )


def objects_by_image(objects: pd.DataFrame) -> dict[str, list[SceneObject]]:
    """Return each picture's objects, from the table that `pack.read_objects` returns."""
    things: dict[str, list[SceneObject]] = {}
    for image, word, colour, size, *box in objects[OBJECT_COLUMNS].itertuples(index=False):
        things.setdefault(image, []).append(SceneObject(word, colour, size, (box[0], box[1], box[2], box[3])))
    return things
