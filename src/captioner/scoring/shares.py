"""Shares of captions: those that no other picture got, and those that are true."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

import pandas as pd

from captioner.datasets.scenes import grammar
from captioner.scoring.statistics import SufficientStatistics, mean


def shares(captions: Mapping[str, str], objects: pd.DataFrame) -> SufficientStatistics:
    """Return shares of captions, in percent.

    `distinct-captions` have a caption that no other picture of these got. A resample leaves open what the captions of
    pictures outside it are, so a caption that is distinct stays so. On scenes, `true-captions` are sentences of the
    grammar and true of their picture.
    """
    counts = Counter(captions.values())
    rows = {"distinct-captions": mean(100.0 * (counts[text] == 1) for text in captions.values())}
    if not objects.empty:
        things = grammar.objects_by_image(objects)
        rows["true-captions"] = mean(100.0 * grammar.is_true(text, things[image]) for image, text in captions.items())
    return SufficientStatistics(list(captions), rows)


def colours_and_shapes(captions: Mapping[str, str], objects: pd.DataFrame) -> SufficientStatistics:
    """Return, on scenes, how often objects are named rightly, in percent of those named by colour and shape.

    `true-colours` is the share with that colour, of those whose shape is in the picture, and `true-shapes` the share
    with that shape, of those whose colour is.
    """
    if objects.empty:
        return SufficientStatistics(list(captions), {})
    things = grammar.objects_by_image(objects)
    counts = [_named(text, things[image]) for image, text in captions.items()]
    right, of_shape, of_colour = zip(*counts, strict=True)
    rows = {
        "true-colours": mean((100.0 * count for count in right), of_shape),
        "true-shapes": mean((100.0 * count for count in right), of_colour),
    }
    return SufficientStatistics(list(captions), rows)


def _named(caption: str, things: Sequence[grammar.SceneObject]) -> tuple[int, int, int]:
    """Return how many objects a caption names that are there, whose shape is there, and whose colour is there."""
    pairs = [
        (colour, shape)
        for colour, shape in pairwise(caption.lower().split())
        if colour in grammar.COLOURS and shape in grammar.SHAPES
    ]
    there = {(thing.colour, thing.shape) for thing in things}
    colours, shapes = ({pair[part] for pair in there} for part in (0, 1))
    return (
        sum(pair in there for pair in pairs),
        sum(shape in shapes for _, shape in pairs),
        sum(colour in colours for colour, _ in pairs),
    )
