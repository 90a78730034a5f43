"""What the evaluation writes: scores, a row a picture, and where the model looked."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from captioner import evaluation
from captioner.datasets import scenes
from captioner.datasets.dataset import OBJECT_COLUMNS, no_objects
from captioner.datasets.scenes import RELATIONS
from captioner.errors import CaptionerError
from captioner.model import Caption
from captioner.scores import Scores

LEFT, RIGHT = RELATIONS["left"][0], RELATIONS["right"][0]
CAPTIONS = {
    "one.png": f"a red circle {LEFT} a blue square",
    "two.png": f"a red circle {LEFT} a blue square",
    "three.png": "",
}
REFERENCES = {
    "one.png": [f"a red circle is {LEFT} a blue square", f"a large red circle {LEFT} a blue square"],
    "two.png": [f"a red circle {RIGHT} a blue square"],
    "three.png": ["a star", "das Schöne 犬"],
}
NAMES = ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr", "distinct-captions"]


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


def said(text: str, positions: int = 4) -> Caption:
    words = text.split()
    return Caption(words, -1.234567, np.full((len(words), positions), 1 / positions, np.float32))


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 24), "teal").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def scores() -> Scores:
    return evaluation.score(CAPTIONS, REFERENCES, objects())


def test_references_by_image_as_published() -> None:
    table = pd.DataFrame(
        [("b.png", "Two ."), ("a.png", "One !"), ("b.png", "A dog")], columns=["image", "caption"], index=[7, 9, 11]
    )
    assert evaluation.references_by_image(table) == {"b.png": ["Two .", "A dog"], "a.png": ["One !"]}
    assert evaluation.references_by_image(table[:0]) == {}


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
    assert evaluation.true_captions(captions, objects()) == pytest.approx(share)


def test_metrics_on_scenes(scores: Scores, tmp_path: Path) -> None:
    evaluation.write_metrics(scores, tmp_path / "results" / "metrics.json")
    metrics = json.loads((tmp_path / "results" / "metrics.json").read_text("utf-8"))
    assert list(metrics) == [*NAMES, "true-captions"]
    assert metrics["true-captions"] == 33.3333 and metrics["distinct-captions"] == 33.3333
    assert 0 < metrics["BLEU-4"] < 100


def test_metrics_of_photographs(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnlyOneScore:
        def __init__(self, references: object):
            pass

        def score(self, captions: object) -> Scores:
            return Scores({"CIDEr": 50.0}, pd.DataFrame())

    monkeypatch.setattr(evaluation, "Scorer", OnlyOneScore)
    assert list(evaluation.score(CAPTIONS, REFERENCES, no_objects()).corpus) == ["CIDEr", "distinct-captions"]


def test_a_row_a_picture(scores: Scores, tmp_path: Path) -> None:
    captions = {image: said(text) for image, text in CAPTIONS.items()}
    evaluation.write_captions(captions, REFERENCES, scores, tmp_path / "captions.jsonl")
    text = (tmp_path / "captions.jsonl").read_text("utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    assert [row["image"] for row in rows] == list(CAPTIONS)
    for row in rows:
        assert list(row) == ["image", "caption", "references", "log_probability", "scores"]
        assert row["caption"] == CAPTIONS[row["image"]] and row["references"] == REFERENCES[row["image"]]
        assert row["log_probability"] == -1.2346
        assert set(row["scores"]) == set(NAMES) - {"distinct-captions"}
    assert rows[0]["scores"]["BLEU-1"] > rows[2]["scores"]["BLEU-1"] == 0
    assert "das Schöne 犬" in text


def test_a_figure_a_picture(tmp_path: Path) -> None:
    captions = {"one.png": said("a red circle"), "folder/two.jpg": said(""), "other.jpg": said("no figure asked for")}
    references = {image: ["a reference"] for image in captions}
    pictures = {image: picture() for image in ("one.png", "folder/two.jpg")}
    evaluation.write_attention(pictures, captions, references, tmp_path / "attention")
    figures = list((tmp_path / "attention").iterdir())
    assert len(figures) == 2 and all(path.suffix == ".png" for path in figures)
    for path in figures:
        assert Image.open(path).width > 200


def test_pictures_of_one_name_in_two_folders_get_two_figures(tmp_path: Path) -> None:
    names = ["a/dog.jpg", "b/dog.jpg", "dog.jpg", "dog.png"]
    captions = {image: said("a dog") for image in names}
    references = {image: ["a dog"] for image in names}
    evaluation.write_attention({image: picture() for image in names}, captions, references, tmp_path / "attention")
    assert len(list((tmp_path / "attention").glob("*.png"))) == 4


def test_no_figures_asked_for(tmp_path: Path) -> None:
    evaluation.write_attention({}, {}, {}, tmp_path / "attention")
    assert list((tmp_path / "attention").iterdir()) == []


def test_nothing_half_written(scores: Scores, tmp_path: Path) -> None:
    captions = {"one.png": said("a red circle"), "two.png": said("a star")}
    broken = {"one.png": picture(), "two.png": b"no picture"}
    with pytest.raises(CaptionerError):
        evaluation.write_attention(broken, captions, REFERENCES, tmp_path / "attention")
    with pytest.raises(KeyError):
        evaluation.write_captions(captions | {"four.png": said("a")}, REFERENCES, scores, tmp_path / "captions.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_earlier_results_stay_when_writing_fails(scores: Scores, tmp_path: Path) -> None:
    captions = {"one.png": said("a red circle")}
    evaluation.write_attention({"one.png": picture()}, captions, REFERENCES, tmp_path / "attention")
    before = {path.name: path.read_bytes() for path in (tmp_path / "attention").iterdir()}
    with pytest.raises(CaptionerError):
        evaluation.write_attention({"one.png": b""}, captions, REFERENCES, tmp_path / "attention")
    assert {path.name: path.read_bytes() for path in (tmp_path / "attention").iterdir()} == before


def boxes(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=OBJECT_COLUMNS)


COLOUR, SHAPE = next(iter(scenes.COLOURS)), scenes.SHAPES[0]
HALF = boxes(("a.png", SHAPE, COLOUR, "large", 0, 0, scenes.SIZE // 2, scenes.SIZE))


@pytest.mark.parametrize(
    ("weights", "mass"),
    [([1, 0, 0, 0], 100), ([0, 0, 1, 0], 100), ([0, 1, 0, 0], 0), ([0.25] * 4, 50), ([0.5, 0.5, 0, 0], 50)],
)
def test_attention_on_the_left_half(weights: list[float], mass: float) -> None:
    elsewhere = [0.0, 0.0, 0.0, 1.0]
    caption = Caption(["a", COLOUR, SHAPE], -1.0, np.array([elsewhere, elsewhere, weights]))
    found = evaluation.attention_on_objects({"a.png": caption}, HALF)
    assert found == pytest.approx({"attention-mass": mass, "pointing-chance": 50})


def test_a_box_that_covers_a_position_in_part_counts_in_part() -> None:
    quarter = scenes.SIZE // 4
    objects = boxes(("a.png", SHAPE, COLOUR, "small", 0, 0, quarter, quarter))
    caption = Caption([COLOUR, SHAPE], -1.0, np.array([[0.0, 0, 0, 1], [1, 0, 0, 0]]))
    assert evaluation.attention_on_objects({"a.png": caption}, objects) == pytest.approx(
        {"attention-mass": 25, "pointing-chance": 6.25}
    )


@pytest.mark.parametrize("words", [[], [SHAPE], ["a", "dog"], ["no-colour", SHAPE]])
def test_a_caption_that_names_no_object_says_nothing_of_attention(words: list[str]) -> None:
    caption = Caption(words, -1.0, np.full((len(words), 4), 0.25))
    assert evaluation.attention_on_objects({"a.png": caption}, HALF) == {}
