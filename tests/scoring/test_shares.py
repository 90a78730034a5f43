"""Which captions are distinct, and which are true."""

import pandas as pd
import pytest

from captioner.data.dataset import OBJECT_COLUMNS, no_objects
from captioner.datasets.scenes.grammar import RELATIONS
from captioner.scoring.shares import shares

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
