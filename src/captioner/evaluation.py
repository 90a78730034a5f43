"""A trained model's captions of pictures it never saw, and how good they are."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from math import isqrt
from pathlib import Path

import numpy as np
import pandas as pd

from captioner import figures, images
from captioner.datasets import scenes
from captioner.files import replacing
from captioner.model import Caption
from captioner.scores import Scorer, Scores, distinct


def references_by_image(captions: pd.DataFrame) -> dict[str, list[str]]:
    """Return each picture's captions as published, from the columns `image` and `caption`."""
    return {str(image): texts.tolist() for image, texts in captions.groupby("image", sort=False)["caption"]}


def true_captions(captions: Mapping[str, str], objects: pd.DataFrame) -> float:
    """Return the share of captions, in percent, that are sentences of the scenes' grammar and true of their picture."""
    things = scenes.things_by_image(objects)
    return 100 * float(np.mean([scenes.is_true(text, things[image]) for image, text in captions.items()]))


def score(captions: Mapping[str, str], references: Mapping[str, Sequence[str]], objects: pd.DataFrame) -> Scores:
    """Return scores in percent: those of `captioner.scores`, `distinct-captions` and, on scenes, `true-captions`."""
    scores = Scorer(references).score(captions)
    scores.corpus["distinct-captions"] = distinct(captions.values())
    if not objects.empty:
        scores.corpus["true-captions"] = true_captions(captions, objects)
    return scores


def attention_on_objects(captions: Mapping[str, Caption], objects: pd.DataFrame) -> dict[str, float]:
    """Return how far the model looks at what it names, on scenes, in percent.

    Returns:
        `attention-mass`, the mean weight inside an object's box at the word for its shape, and `pointing-chance`, the
        mean share of the picture that these boxes cover, which is what uniform attention comes to. A position that a
        box covers in part counts in part. Nothing where no caption names an object of its picture.
    """
    things = scenes.things_by_image(objects)
    looks = [look for image, caption in captions.items() for look in _looks(caption, things.get(image, []))]
    if not looks:
        return {}
    mass, chance = 100 * np.mean(looks, axis=0)
    return {"attention-mass": float(mass), "pointing-chance": float(chance)}


def _looks(caption: Caption, things: Sequence[scenes.Thing]) -> Iterator[tuple[float, float]]:
    """Yield weight on the box, and the box's share of the picture, of each object that the caption names."""
    for (colour, shape), weights in zip(pairwise(caption.words), caption.attention[1:], strict=False):
        for thing in things:
            if thing.fits(None, colour, shape):
                covered = _covered(thing.box, isqrt(len(weights)))
                yield float(weights @ covered), float(covered.mean())


def _covered(box: tuple[int, int, int, int], side: int) -> np.ndarray:
    """Return the share of each position that a box covers, `[P]`, for a grid of `side` x `side` positions."""
    edges = np.linspace(0, scenes.SIZE, side + 1)

    def along(low: int, high: int) -> np.ndarray:
        return np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, None) / np.diff(edges)

    left, top, right, bottom = box
    return np.outer(along(top, bottom), along(left, right)).ravel()


def write_metrics(scores: Scores, path: Path) -> None:
    """Write the scores of the whole split as one flat JSON object."""
    with replacing(path) as beside:
        rounded = {name: round(value, 4) for name, value in scores.corpus.items()}
        beside.write_text(json.dumps(rounded, indent=2) + "\n", "utf-8")


def write_captions(
    captions: Mapping[str, Caption], references: Mapping[str, Sequence[str]], scores: Scores, path: Path
) -> None:
    """Write a JSON object a line and picture: `image`, `caption`, `references`, `log_probability`, `scores`."""
    own = scores.by_image.round(4).to_dict("index")
    with replacing(path) as beside, beside.open("w", encoding="utf-8") as file:
        for image, caption in captions.items():
            row = {
                "image": image,
                "caption": caption.text,
                "references": references[image],
                "log_probability": round(caption.log_probability, 4),
                "scores": own[image],
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_attention(
    pictures: Mapping[str, bytes], captions: Mapping[str, Caption], references: Mapping[str, Sequence[str]], path: Path
) -> None:
    """Write, for each of the pictures, a PNG of where the model looked for each word."""
    with replacing(path) as beside:
        beside.mkdir()
        for image, data in pictures.items():
            caption = captions[image]
            lines = f"{caption.text}\n{references[image][0]}"
            figure = figures.attention_figure(images.decode(data), caption.words, caption.attention, lines)
            # the whole name, since a/dog.jpg, b/dog.jpg and b/dog.gif are three pictures
            name = image.replace("/", "_").removesuffix(".png")
            figure.save(beside / f"{name}.png", optimize=True)
