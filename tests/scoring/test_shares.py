"""Which captions are distinct, and which are true."""

import pandas as pd
import pytest

from captioner.data.dataset import OBJECT_COLUMNS, no_objects
from captioner.datasets.scenes.grammar import RELATIONS
from captioner.scoring.shares import colours_and_shapes, shares

LEFT, RIGHT = RELATIONS["left"][0], RELATIONS["right"][0]
CAPTIONS = {
    "one.png": f"a red circle {LEFT} a blue square",
    "two.png": f"a red circle {LEFT} a blue square",
    "three.png": "",
}


def objects() -> pd.DataFrame:
    left, right = (10, 10, 50, 50), (100, 10, 140, 50)
    rows = [
        ("one.png", "circle", "red", "large", *left),
        ("one.png", "square", "blue", "large", *right),
        ("two.png", "circle", "red", "large", *right),
        ("two.png", "square", "blue", "large", *left),
        ("three.png", "star", "red", "large", *left),
        ("three.png", "star", "blue", "large", *right),
    ]
    return pd.DataFrame(rows, columns=OBJECT_COLUMNS)


@pytest.mark.parametrize(
    ("captions", "share"),
    [
        (CAPTIONS, 100 / 3),
        ({"one.png": CAPTIONS["one.png"]}, 100),
        ({"two.png": CAPTIONS["two.png"]}, 0),
        ({"two.png": f"a blue square {LEFT} a red circle", "one.png": "", "three.png": "a b"}, 100 / 3),
    ],
)
def test_true_captions(captions: dict[str, str], share: float) -> None:
    assert shares(captions, objects()).scores()["true-captions"] == pytest.approx(share)


@pytest.mark.parametrize(
    ("caption", "colours", "shapes"),
    [
        ("a red circle is above a blue square", 100, 100),
        ("a red circle is above a red square", 50, 50),
        ("a blue circle", 0, 0),  # shape and colour are there, in two objects
        ("a green circle", 0, None),  # no object has the colour, so that nothing says which shape is meant
        ("A large blue star", None, 0),
        ("a green star", None, None),
        ("red and a circle", None, None),
    ],
)
def test_true_colours_and_shapes(caption: str, colours: float | None, shapes: float | None) -> None:
    found = colours_and_shapes({"one.png": caption}, objects()).scores()
    expected = {"true-colours": colours, "true-shapes": shapes}
    assert found == {name: share for name, share in expected.items() if share is not None}
    assert colours_and_shapes({"one.png": caption}, no_objects()).scores() == {}


@pytest.mark.parametrize(
    ("captions", "share"),
    [
        (["a", "a", "a"], 0),
        (["a", "b", "c"], 100),
        (["a", "b", "a", ""], 50),
        (["a"], 100),
    ],
)
def test_distinct_captions(captions: list[str], share: float) -> None:
    found = shares({str(number): text for number, text in enumerate(captions)}, no_objects())
    assert found.scores() == {"distinct-captions": share}
