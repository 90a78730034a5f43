"""Whether attention lies on what is named, and how narrow it is."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from captioner.data.dataset import OBJECT_COLUMNS, no_objects
from captioner.datasets.scenes import drawing, grammar
from captioner.evaluation import attention_metrics
from captioner.search.caption import Caption

SIZE = grammar.SIZE
COLOUR, OTHER_COLOUR = list(grammar.COLOURS)[:2]
SHAPE, OTHER_SHAPE = grammar.SHAPES[:2]


def boxes(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=OBJECT_COLUMNS)


LEFT = ("a.png", SHAPE, COLOUR, "large", 0, 0, SIZE // 2, SIZE)
RIGHT = ("a.png", OTHER_SHAPE, OTHER_COLOUR, "small", SIZE // 2, 0, SIZE, SIZE)
CORNER = ("a.png", SHAPE, COLOUR, "small", 0, 0, SIZE // 4, SIZE // 4)
ELSEWHERE = [0.0, 0.0, 0.0, 1.0]
EVEN = [0.25] * 4


def said(*words: tuple[str, Sequence[float]]) -> dict[str, Caption]:
    return {
        "a.png": Caption([word for word, _ in words], -1.0, np.reshape([weights for _, weights in words], (-1, 2, 2)))
    }


@pytest.mark.parametrize(
    ("weights", "mass", "pointing"),
    [
        ([1, 0, 0, 0], 100, 100),
        ([0, 0, 1, 0], 100, 100),
        ([0, 1, 0, 0], 0, 0),
        (EVEN, 50, 50),
        ([0.5, 0.5, 0, 0], 50, 50),
        ([0.4, 0.3, 0.3, 0], 70, 100),
        ([0.3, 0.4, 0.3, 0], 60, 0),
    ],
)
def test_attention_on_the_left_half(weights: list[float], mass: float, pointing: float) -> None:
    captions = said(("a", ELSEWHERE), (COLOUR, ELSEWHERE), (SHAPE, weights))
    found = attention_metrics.attention_on_objects(captions, boxes(LEFT)).scores()
    assert found == pytest.approx(
        {
            "pointing-accuracy": pointing,
            "attention-mass": mass,
            "pointing-accuracy-colour": 0,
            "attention-mass-colour": 0,
            "pointing-chance": 50,
            "box-share": 50,
        }
    )


def test_a_box_that_covers_a_position_in_part_counts_in_part() -> None:
    captions = said((COLOUR, ELSEWHERE), (SHAPE, [1, 0, 0, 0]))
    found = attention_metrics.attention_on_objects(captions, boxes(CORNER)).scores()
    assert found["attention-mass"] == pytest.approx(25) and found["box-share"] == pytest.approx(6.25)
    assert (
        found["pointing-accuracy"] == found["pointing-chance"] == 0
    )  # the centre of the position, at an eighth, lies outside


def test_each_object_counts_at_its_own_words() -> None:
    captions = said(
        (COLOUR, [1, 0, 0, 0]), (SHAPE, [1, 0, 0, 0]), ("over", ELSEWHERE), (OTHER_COLOUR, EVEN), (OTHER_SHAPE, EVEN)
    )
    found = attention_metrics.attention_on_objects(captions, boxes(LEFT, RIGHT))
    assert found.scores()["pointing-accuracy-colour"] == 75
    assert found.rows["attention-mass"].tolist() == [[150, 2]]


@pytest.mark.parametrize("words", [[], [SHAPE], ["a", "dog"], ["no-colour", SHAPE], [OTHER_COLOUR, SHAPE]])
def test_a_caption_that_names_no_object_says_nothing_of_attention(words: list[str]) -> None:
    caption = Caption(words, -1.0, np.full((len(words), 2, 2), 0.25))
    assert attention_metrics.attention_on_objects({"a.png": caption}, boxes(LEFT)).scores() == {}
    assert attention_metrics.attention_on_objects({"a.png": caption}, no_objects()).scores() == {}


def test_even_attention_is_chance() -> None:
    objects = drawing.load({"train": 0, "validation": 0, "test": 150}, (2, 3), 1, 5).objects
    even = np.full((2, 7, 7), 1 / 49)
    things = {image: rows.iloc[0] for image, rows in objects.groupby("image")}
    captions = {str(image): Caption([row["colour"], row["word"]], -1.0, even) for image, row in things.items()}
    found = attention_metrics.attention_on_objects(captions, objects).scores()
    assert found["pointing-accuracy"] == pytest.approx(found["pointing-chance"])
    assert found["attention-mass"] == pytest.approx(found["box-share"])
    # objects keep off the border, so that a centre lies in a box a little more often than a point of the picture
    assert found["pointing-chance"] == pytest.approx(found["box-share"], rel=0.15)


@pytest.mark.parametrize(("weights", "nats"), [(EVEN, math.log(4)), (ELSEWHERE, 0), ([0.5, 0.5, 0, 0], math.log(2))])
def test_entropy_by_kind_of_word(weights: list[float], nats: float) -> None:
    captions = said(("a", EVEN), (COLOUR, weights), ("dog", weights), ("above", ELSEWHERE))
    photographs = attention_metrics.entropy(captions, no_objects()).scores()
    assert photographs == pytest.approx(
        {"attention-entropy-content": nats, "attention-entropy-function": math.log(4) / 2}
    )
    on_scenes = attention_metrics.entropy(captions, boxes(LEFT)).scores()
    assert on_scenes == pytest.approx(photographs | {"attention-entropy-colour": nats, "attention-entropy-relation": 0})


def test_words_of_the_scenes_have_a_kind() -> None:
    words = {word for wordings in grammar.RELATIONS.values() for wording in wordings for word in wording.split()}
    known = attention_metrics.FUNCTION_WORDS | attention_metrics._SCENE_KINDS.keys()
    assert words | {"a", "an", "is"} <= known


def test_grounding_by_kind_of_word() -> None:
    words = said(*((word, [0.25] * 4) for word in ("a", "red", "star", "below")))["a.png"]
    caption = replace(words, grounding=np.array([0.2, 0.5, 0.9, 0.4], np.float32))
    photographs = attention_metrics.grounding({"a.png": caption}, no_objects()).scores()
    assert photographs == pytest.approx({"grounding-content": 70, "grounding-function": 30})
    on_scenes = attention_metrics.grounding({"a.png": caption}, boxes(LEFT)).scores()
    more = {"grounding-colour": 50, "grounding-shape": 90, "grounding-relation": 40}
    assert {name: value for name, value in on_scenes.items() if not np.isnan(value)} == pytest.approx(
        photographs | more
    )


def test_what_always_looks_has_no_grounding() -> None:
    assert attention_metrics.grounding(said(("a", [0.25] * 4)), boxes(LEFT)).scores() == {}
