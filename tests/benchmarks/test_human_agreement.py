"""Judgements are read as the literature reads them, and correlated as the definition of Kendall's tau says."""

import json
import re
import zipfile
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Literal

import human_agreement
import numpy as np
import pytest
from checkout import ROOT
from human_agreement import COLUMNS, CROWD, EXPERT, agreement, crowd, expert, measure, read_captions, rounds, score
from hypothesis import given
from hypothesis import strategies as st

from captioner.common.errors import CaptionerError
from captioner.datasets.flickr8k import CAPTIONS
from captioner.scoring import meteor
from captioner.scoring.scorer import Scorer
from captioner.scoring.statistics import ROWS

RESULT = ROOT / "benchmarks/results/human-agreement.json"
PAGE = ROOT / "docs/human-agreement.md"

TEXTS = {
    "dog.jpg": ["A brown dog runs across the grass .", "The dog is running .", "A dog plays on a lawn ."],
    "surf.jpg": ["A surfer rides a large wave .", "A man is surfing .", "The wave breaks behind a surfer ."],
    "snow.jpg": ["A skier jumps off a snowy ramp .", "A man skis through the air .", "A man is surfing ."],
}
EXPERT_LINES = [
    "dog.jpg\tsurf.jpg#0\t1\t1\t2",
    "dog.jpg\tdog.jpg#1\t4\t4\t4",
    "surf.jpg\tsnow.jpg#1\t2\t3\t2",
    "snow.jpg\tsurf.jpg#1\t4\t1\t3",
    "surf.jpg\tdog.jpg#2\t1\t1\t1",
]
CROWD_LINES = [
    "dog.jpg\tdog.jpg#1\t1\t3\t0",
    "dog.jpg\tsnow.jpg#0\t0\t0\t3",
    "dog.jpg\tsurf.jpg#1\t0.333333333333333\t1\t2",
    "surf.jpg\tdog.jpg#0\t0.25\t1\t3",
    "snow.jpg\tsurf.jpg#1\t0.4\t2\t3",
]

FILES = (CAPTIONS, EXPERT, CROWD)
Members = dict[str, str]


def members() -> Members:
    captions = [f"{image}#{number}\t{text}" for image, texts in TEXTS.items() for number, text in enumerate(texts)]
    return {
        name: "\n".join(lines) + "\n" for name, lines in zip(FILES, (captions, EXPERT_LINES, CROWD_LINES), strict=True)
    }


def written(path: Path, content: Members) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in content.items():
            archive.writestr(name, text)
    return path


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return written(tmp_path / "text.zip", members())


@pytest.fixture
def no_meteor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The length of a caption in METEOR's place, which takes seconds to start."""

    def lengths(_: object, captions: list[str], __: object) -> tuple[list[float], list[list[float]], np.ndarray]:
        rows = np.zeros((len(captions), len(ROWS["METEOR"])))
        return [0.0], [[float(len(caption)) for caption in captions]], rows

    monkeypatch.setattr(meteor.Meteor, "ask", lengths)


# --- what is read -----------------------------------------------------------------------------------------------------


def test_experts_do_not_judge_captions_of_the_picture_itself(archive: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        judged = expert(opened, read_captions(opened))
    assert judged.pairs == [
        ("dog.jpg", "A surfer rides a large wave ."),
        ("surf.jpg", "A man skis through the air ."),
        ("surf.jpg", "A dog plays on a lawn ."),
    ]
    assert judged.ratings.tolist() == [[1, 1, 2], [2, 3, 2], [1, 1, 1]]
    assert judged.references == {image: TEXTS[image] for image in ("dog.jpg", "surf.jpg")}


def test_the_crowds_candidates_are_no_references_of_their_picture(archive: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        judged = crowd(opened, read_captions(opened))
    assert len(judged.pairs) == 5
    assert judged.ratings.ravel().tolist() == [1, 0, 1 / 3, 1 / 4, 2 / 5]
    assert judged.references == {
        "dog.jpg": [TEXTS["dog.jpg"][0], TEXTS["dog.jpg"][2]],
        "surf.jpg": TEXTS["surf.jpg"],
        "snow.jpg": TEXTS["snow.jpg"][:2],
    }


@pytest.mark.parametrize(
    ("member", "line"),
    [
        (CAPTIONS, "dog.jpg\tA dog ."),
        (CAPTIONS, "dog.jpg#9"),
        (CAPTIONS, "dog.jpg#9\t "),
        (CAPTIONS, "dog.jpg#9\tA dog .\tA cat ."),
        (EXPERT, "dog.jpg"),
        (EXPERT, "dog.jpg\tsurf.jpg#0\t1\t1"),
        (EXPERT, "dog.jpg\tsurf.jpg#0\t1\t1\t1\t1"),
        (EXPERT, "dog.jpg\tsurf.jpg#0\t1\t1\t5"),
        (EXPERT, "dog.jpg\tsurf.jpg#0\t0\t1\t1"),
        (EXPERT, "dog.jpg\tsurf.jpg#0\t1\t1\t1.5"),
        (CROWD, "dog.jpg\tsurf.jpg#0"),
        (CROWD, "dog.jpg\tsurf.jpg#0\t1\t3"),
        (CROWD, "dog.jpg\tsurf.jpg#0\t0\t0\t0"),
        (CROWD, "dog.jpg\tsurf.jpg#0\t0.5\t3\t0"),
        (CROWD, "dog.jpg\tsurf.jpg#0\tnan\t3\t0"),
        (CROWD, "dog.jpg\tsurf.jpg#0\t2\t2\t-1"),
        (CROWD, "dog.jpg\tsurf.jpg#0\tall\t3\t0"),
    ],
)
def test_a_malformed_line_is_shown(member: str, line: str, tmp_path: Path) -> None:
    content = members()
    lines = content[member].splitlines()
    path = written(tmp_path / "text.zip", {**content, member: "\n".join([lines[0], "", line, *lines[1:]])})
    with pytest.raises(CaptionerError, match=f"line 3 of {re.escape(member)}.* published is ") as caught:
        measure(path)
    assert repr(line) in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "text.zip", {name: text for name, text in members().items() if name != EXPERT})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(EXPERT, b"dog.jpg\t\xff")
    with pytest.raises(CaptionerError, match=f"has {re.escape(EXPERT)} with 'utf-8' codec"):
        measure(path)


@pytest.mark.parametrize("line", ["cat.jpg\tdog.jpg#0\t1\t1\t1", "dog.jpg\tsurf.jpg#7\t1\t1\t1", "dog.jpg\tx\t1\t1\t1"])
def test_a_judgement_of_what_is_not_there_is_refused(line: str, tmp_path: Path) -> None:
    with pytest.raises(CaptionerError, match=r"which line 1 of ExpertAnnotations\.txt speaks of"):
        measure(written(tmp_path / "text.zip", {**members(), EXPERT: line}))


@pytest.mark.parametrize(("member", "text"), [(EXPERT, ""), (EXPERT, EXPERT_LINES[1]), (CROWD, "\n")])
def test_an_archive_without_pairs_is_refused(member: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(CaptionerError, match=f"no pair in {re.escape(member)}"):
        measure(written(tmp_path / "text.zip", {**members(), member: text}))


# --- what is computed -------------------------------------------------------------------------------------------------


def tau(scores: Sequence[float], ratings: Sequence[float], variant: Literal["b", "c"]) -> float:
    """Kendall's tau by its definition, over all pairs of observations."""
    signs = [
        (np.sign(scores[i] - scores[j]), np.sign(ratings[i] - ratings[j]))
        for i, j in combinations(range(len(scores)), 2)
    ]
    difference = sum(score * rating for score, rating in signs)
    if variant == "b":
        return 100 * difference / np.sqrt(sum(score != 0 for score, _ in signs) * sum(rate != 0 for _, rate in signs))
    classes = min(len(set(scores)), len(set(ratings)))
    return 100 * 2 * difference / (len(scores) ** 2 * (classes - 1) / classes)


VARIANTS = pytest.mark.parametrize("variant", ["b", "c"])
FEW = st.integers(0, 4)
OBSERVED = st.lists(st.tuples(FEW, st.lists(FEW, min_size=3, max_size=3)), min_size=2, max_size=12).filter(
    lambda rows: len({score for score, _ in rows}) > 1 and len({one for _, many in rows for one in many}) > 1
)


@VARIANTS
@given(rows=OBSERVED)
def test_each_rating_counts_by_itself(variant: Literal["b", "c"], rows: list[tuple[int, list[int]]]) -> None:
    found = agreement(np.array([score for score, _ in rows]), np.array([ratings for _, ratings in rows]), variant)
    flat = [(score, rating) for score, ratings in rows for rating in ratings]
    assert found == pytest.approx(tau([score for score, _ in flat], [rating for _, rating in flat], variant), abs=1e-9)


@VARIANTS
def test_agreement_is_of_order_alone(variant: Literal["b", "c"], rng: np.random.Generator) -> None:
    values, ratings = rng.normal(size=50), rng.integers(1, 5, size=(50, 3))
    found = agreement(values, ratings, variant)
    assert agreement(np.exp(3 * values), ratings, variant) == pytest.approx(found)
    assert agreement(-values, ratings, variant) == pytest.approx(-found)
    order = np.arange(50)[:, None]
    assert agreement(order.ravel(), order, variant) == pytest.approx(100)


@VARIANTS
@pytest.mark.parametrize(("values", "ratings"), [([1, 1], [[1], [2]]), ([1, 2], [[3], [3]]), ([1], [[1]])])
def test_no_order_is_no_agreement(variant: Literal["b", "c"], values: list[int], ratings: list[list[int]]) -> None:
    with pytest.raises(CaptionerError, match="two of each"):
        agreement(np.array(values), np.array(ratings), variant)


@given(st.lists(st.sampled_from("abcd")))
def test_rounds_take_each_once_and_no_picture_twice(pictures: list[str]) -> None:
    turns = rounds(pictures)
    assert sorted(position for turn in turns for position in turn) == list(range(len(pictures)))
    assert all(len({pictures[position] for position in turn}) == len(turn) for turn in turns)
    assert len(turns) == max(Counter(pictures).values(), default=0)


@pytest.mark.usefixtures("no_meteor")
def test_scores_are_those_of_the_caption_alone(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(human_agreement, "BATCH", 2)
    with zipfile.ZipFile(archive) as opened:
        judged = crowd(opened, read_captions(opened))
    table = score(judged, "crowd")
    assert tuple(table.columns) == COLUMNS and len(table) == len(judged.pairs)
    scorer = Scorer(judged.references)
    for (image, caption), row in zip(judged.pairs, table.to_dict("records"), strict=True):
        alone = scorer.score({**dict.fromkeys(judged.references, ""), image: caption}).by_image.loc[image]
        assert row == pytest.approx(alone[list(COLUMNS)].to_dict())
    assert table["CIDEr"].nunique() > 2


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_meteor")
def test_the_mirrors_archive_is_measured_and_the_result_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "flickr8k").mkdir()
    written(tmp_path / "flickr8k/Flickr8k_text.zip", members())
    monkeypatch.setenv("CAPTIONER_MIRROR", str(tmp_path))
    human_agreement.main(["--result", str(tmp_path / "results/found.json")])
    found = json.loads((tmp_path / "results/found.json").read_text("utf-8"))
    assert list(found) == ["expert", "crowd"]
    assert all(tuple(row) == COLUMNS and all(-100 <= one <= 100 for one in row.values()) for row in found.values())
    lengths = [len(TEXTS[image][number]) for image, number in (("surf.jpg", 0), ("snow.jpg", 1), ("dog.jpg", 2))]
    ratings = [1, 1, 2, 2, 3, 2, 1, 1, 1]
    assert found["expert"]["METEOR"] == pytest.approx(tau(np.repeat(lengths, 3).tolist(), ratings, "c"), abs=1e-4)
    assert "expert: 9 ratings of 3 pairs of 2 pictures, 6 references" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "there is no file"),
        (b"no archive", "is damaged or cut short"),
        *((name, f"has no member {name}") for name in FILES),
        (b"", "is damaged or cut short"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(content: bytes | str | None, told: str, tmp_path: Path) -> None:
    path = tmp_path / "text.zip"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        written(path, {name: text for name, text in members().items() if name != content})
    with pytest.raises(SystemExit, match=told) as caught:
        human_agreement.main([str(path), "--result", str(tmp_path / "found.json")])
    assert str(caught.value).startswith("human_agreement: ") and "\n" not in str(caught.value)
    assert not (tmp_path / "found.json").exists()


def test_the_page_shows_the_measured_agreements() -> None:
    found = json.loads(RESULT.read_text("utf-8"))
    rows = {cells[0]: cells[1:] for cells in map(cells_of, PAGE.read_text("utf-8").splitlines()) if len(cells) == 5}
    for column in COLUMNS:
        assert [rows[column][0], rows[column][2]] == [f"{found[name][column]:.2f}" for name in ("expert", "crowd")]


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("| ").split("|")]
