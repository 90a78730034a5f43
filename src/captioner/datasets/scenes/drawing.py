"""Drawn scenes: coloured shapes whose captions can be held against the picture.

Each picture shows one large object and a few small ones on a varied ground; each of its captions says where the large
one stands, in words of a small grammar, seen from one of the small ones. Since the grammar is known, a generated
caption can be parsed, and is true or not; since each object's box is known, so is where a model has to look. Everything
follows from a seed.

That the large object comes first is what makes the scenes learnable: attention is computed from the state before the
previous word enters it, so a decoder cannot look for the red thing right after it said "red", but it can go to
the large thing first, and to the thing on its left once it said "to the right of".
"""

import io
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from captioner.common import threads
from captioner.data.dataset import OBJECT_COLUMNS, SPLITS, Dataset
from captioner.datasets.scenes.grammar import COLOURS, RADII, RELATIONS, SHAPES, SIZE, SceneObject

_OVERSAMPLING = 2
_AT_A_TIME = 256


def load(
    pictures: dict[str, int], objects: tuple[int, int], captions: int, seed: int, image_size: int = SIZE
) -> Dataset:
    """Draw a data set.

    Args:
        pictures: how many, by split.
        objects: the fewest and the most objects in a picture.
        captions: captions per picture.
        seed: equal seeds give equal scenes.
        image_size: height and width of the pictures, in pixels. Boxes count as in pictures of `SIZE` all the same.
    """
    names = [(split, f"{split}-{number:05d}.png") for split in SPLITS for number in range(pictures[split])]
    generators = {name: np.random.default_rng([seed, row]) for row, (_, name) in enumerate(names)}
    scenes = {name: compose(generators[name], objects) for _, name in names}
    rows = [(name, split, text) for split, name in names for text in describe(scenes[name], captions, generators[name])]
    marked = [
        (name, thing.shape, thing.colour, thing.size, *thing.box) for name, things in scenes.items() for thing in things
    ]
    return Dataset(
        captions=pd.DataFrame(rows, columns=["image", "split", "caption"]),
        pictures=_drawn(scenes, generators, image_size),
        objects=pd.DataFrame(marked, columns=OBJECT_COLUMNS),
    )


def _drawn(
    scenes: Mapping[str, Sequence[SceneObject]], generators: Mapping[str, np.random.Generator], image_size: int
) -> Iterator[tuple[str, bytes]]:
    """Yield the pictures, drawn by a thread a core; a few at a time, so that memory does not grow."""
    return threads.prefetch(
        lambda name: (name, draw(scenes[name], generators[name], image_size)), scenes, _AT_A_TIME, threads.cores()
    )


def compose(generator: np.random.Generator, objects: tuple[int, int]) -> list[SceneObject]:
    """Choose objects and places for one scene: the large one first, no two alike in colour and shape, none touching."""
    count = int(generator.integers(objects[0], objects[1] + 1))
    kinds = list(itertools.product(COLOURS, SHAPES))
    while True:
        things: list[SceneObject] = []
        for number in generator.permutation(len(kinds))[:count]:
            colour, shape = kinds[number]
            size = "small" if things else "large"
            for _ in range(50):
                radius = generator.uniform(*RADII[size])
                x, y = generator.uniform(radius + 2, SIZE - radius - 2, 2)
                thing = SceneObject(shape, colour, size, _box(x, y, radius))
                if all(_apart(thing, other) for other in things):
                    things.append(thing)
                    break
        if len(things) == count:
            return things


def describe(things: Sequence[SceneObject], captions: int, generator: np.random.Generator) -> list[str]:
    """Return different true captions, each relating the large object, which is the first, to one of the others."""
    large, *others = things
    facts = [(relation, other) for other in others for relation in RELATIONS if large.is_related(relation, other)]
    texts: list[str] = []
    while len(texts) < captions:
        relation, other = facts[generator.integers(len(facts))]
        verb = ("is ", "")[generator.integers(2)]
        wording = RELATIONS[relation][generator.integers(len(RELATIONS[relation]))]
        text = f"{_noun(large, generator)} {verb}{wording} {_noun(other, generator)}"
        if text not in texts:
            texts.append(text)
    return texts


def draw(things: Iterable[SceneObject], generator: np.random.Generator, image_size: int = SIZE) -> bytes:
    """Return the scene as PNG, `image_size` x `image_size`."""
    picture = _ground(generator).resize((image_size * _OVERSAMPLING,) * 2, Image.Resampling.BICUBIC)
    canvas = ImageDraw.Draw(picture)
    for thing in things:
        shade = generator.normal(0, 8, 3)
        colour = tuple(int(v) for v in np.clip(np.array(COLOURS[thing.colour]) + shade, 0, 255))
        _paint(canvas, thing, colour, image_size / SIZE * _OVERSAMPLING)
    buffer = io.BytesIO()
    picture.resize((image_size, image_size), Image.Resampling.BOX).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _noun(thing: SceneObject, generator: np.random.Generator) -> str:
    words = [thing.size] if generator.random() < 0.5 else []
    words += [thing.colour, thing.shape]
    return f"{'an' if words[0][0] in 'aeiou' else 'a'} {' '.join(words)}"


def _apart(one: SceneObject, other: SceneObject, margin: int = 4) -> bool:
    """Whether boxes are apart along an axis, so that at least one relation holds."""
    return any(
        one.box[axis + 2] + margin <= other.box[axis] or other.box[axis + 2] + margin <= one.box[axis]
        for axis in (0, 1)
    )


def _ground(generator: np.random.Generator) -> Image.Image:
    """Return a soft, pale ground of low saturation: a few random patches, to be enlarged smoothly."""
    cells = int(generator.integers(2, 7))
    patches = generator.uniform(170, 235) + generator.normal(0, 6, 3) + generator.normal(0, 10, (cells, cells, 1))
    return Image.fromarray(np.clip(patches, 0, 255).astype(np.uint8))


def _polygon(corners: int, inner: float = 1.0) -> np.ndarray:
    """Return the corners of a regular polygon, or of a star whose every second corner is nearer, `[corners, 2]`."""
    angles = 2 * np.pi * np.arange(corners) / corners
    distances = np.where(np.arange(corners) % 2 == 0, 1, inner)
    return np.stack([distances * np.sin(angles), -distances * np.cos(angles)], axis=1)


_CROSS = [(1, 0), (2, 0), (2, 1), (3, 1), (3, 2), (2, 2), (2, 3), (1, 3), (1, 2), (0, 2), (0, 1), (1, 1)]
_OUTLINES = {
    "circle": _polygon(60),
    "square": np.array([(0, 0), (1, 0), (1, 1), (0, 1)]),
    "triangle": _polygon(3),
    "star": _polygon(10, inner=0.42),
    "cross": np.array(_CROSS),
    "ring": _polygon(60),
}


def _box(x: float, y: float, radius: float) -> tuple[int, int, int, int]:
    return round(x - radius), round(y - radius), round(x + radius), round(y + radius)


def _paint(canvas: ImageDraw.ImageDraw, thing: SceneObject, colour: tuple[int, ...], scale: float) -> None:
    """Fill the object's box with its shape; a pixel of the box has `scale` pixels of the canvas."""
    corner, opposite = np.array(thing.box[:2]), np.array(thing.box[2:])
    outline = _OUTLINES[thing.shape]
    low, high = outline.min(axis=0), outline.max(axis=0)
    points = corner + (outline - low) / (high - low) * (opposite - corner)
    if thing.shape == "ring":  # a band, drawn as outer edge and, backwards, inner edge
        middle = (corner + opposite) / 2
        points = np.concatenate([points, points[:1], (middle + 0.55 * (points - middle))[[0, *range(59, -1, -1)]]])
    canvas.polygon([tuple(point) for point in points * scale], fill=colour)
