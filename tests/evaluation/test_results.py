"""What the evaluation writes: scores, a row a picture, and where the model looked."""

import io
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from checkout import ROOT
from PIL import Image

from captioner.common.errors import CaptionerError
from captioner.datasets.scenes.grammar import RELATIONS
from captioner.evaluation import results, signature
from captioner.evaluation.results import Evaluated
from captioner.evaluation.signature import Setting, Signature
from captioner.scoring.scorer import Scorer, Scores
from captioner.scoring.statistics import SufficientStatistics, mean
from captioner.search.caption import Caption

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
NAMES = ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr"]


def said(text: str, side: int = 2) -> Caption:
    words = text.split()
    return Caption(words, -1.234567, np.full((len(words), side, side), 1 / side**2, np.float32))


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 24), "teal").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def scores(scorer_of: Callable[..., Scorer]) -> Scores:
    return scorer_of(REFERENCES).score(CAPTIONS)


OWN = SufficientStatistics(
    ["one.png", "two.png", "three.png"],
    {"CIDEr": mean([50, 60, 70]), "nll": mean([4.0, 9.0, 2.0], [2, 3, 1]), "distinct-captions": mean([100, 100, 0])},
)
BASELINES = SufficientStatistics(
    ["two.png", "one.png", "three.png"],
    {"CIDEr-constant": mean([1, 2, 3]), "nll-picture-blind": mean([12.0, 6.0, 4.0], [3, 2, 1])},
)
SETTING = Setting("4-6", 3, 5, 0.5, "0123456789abcdef")


def test_scores_carry_how_they_were_made_and_how_sure_they_are(tmp_path: Path) -> None:
    written = results.write_scores(OWN, BASELINES, SETTING, tmp_path / "results")
    assert json.loads((tmp_path / "results/scores.json").read_text("utf-8")) == written
    metrics = json.loads((tmp_path / "results/metrics.json").read_text("utf-8"))
    assert metrics == {name: entry["value"] for name, entry in written.items()}
    assert metrics["CIDEr"] == 60 and metrics["nll"] == 2.5 and metrics["perplexity"] == round(math.exp(2.5), 4)
    assert metrics["perplexity-picture-blind"] > metrics["perplexity"]
    for entry in written.values():
        assert entry["low"] <= entry["value"] <= entry["high"]
    made = f"pycocoevalcap:{metadata.version('pycocoevalcap')}|tokenizer:PTB-3.4.1|references:4-6|split:test|pictures:3"
    assert written["CIDEr"]["signature"] == f"CIDEr|{made}|beam:5|length-normalization:0.5|weights:0123456789ab"
    assert written["CIDEr-constant"]["signature"] == f"CIDEr-constant|{made}"
    assert written["nll"]["signature"].endswith("|references:4-6|split:test|pictures:3|weights:0123456789ab")
    assert SufficientStatistics.read(tmp_path / "results/statistics.parquet").scores()["CIDEr-constant"] == 2


def test_number_of_references() -> None:
    assert signature.number_of_references({"a": ["x"] * 5, "b": ["x"] * 5}) == "5"
    assert signature.number_of_references({"a": ["x"] * 5, "b": ["x"], "c": ["x"] * 3}) == "1-5"


def test_people_are_held_against_one_reference_less() -> None:
    assert "|references:4-6,one-left-out|" in str(SETTING.signature("CIDEr-person", of_model=False))
    assert "|references:4-6,one-left-out|" in str(SETTING.signature("BLEU-4-leave-one-out"))
    skipped = replace(SETTING, skipped=3)
    for name in ("CIDEr", "nll", "CIDEr-person"):
        assert "|pictures:3|skipped:3" in str(skipped.signature(name)) and "skipped" not in str(SETTING.signature(name))
    copied = replace(SETTING, copies=True)
    assert "|references:4-6,one-left-out,copies-left-out|" in str(copied.signature("CIDEr-person", of_model=False))
    assert "|references:4-6|" in str(copied.signature("CIDEr"))
    assert "|references:4-6|" in str(SETTING.signature("unseen-2-grams-person", of_model=False))


def test_how_far_people_are() -> None:
    own = SufficientStatistics(OWN.images, {"CIDEr-leave-one-out": mean([40, 50, 60])})
    people = SufficientStatistics(OWN.images, {"CIDEr-person": mean([240, 240, 246], [3, 3, 3])})
    assert results.remarks(own, people) == [
        "Held against all references of a picture but one, the model reaches 50.0 CIDEr, "
        "and the reference left out 80.7."
    ]


def test_variety_and_own_words_are_said() -> None:
    bleu = np.tile([4.0, 4, 4, 3, 2, 1, 4, 3, 2, 1], (3, 1))
    own = SufficientStatistics(OWN.images, {"nll": mean([1, 2, 3]), "nll-samples": mean([1, 1, 1]), "mBLEU": bleu})
    people = SufficientStatistics(OWN.images, {"mBLEU-person": bleu / [1, 1, 1, 1, 1, 1, 1, 1, 1, 16]})
    assert results.remarks(own, people) == [
        "The references surprise the model by 2.00 nats per token, captions that it draws itself by 1.00.",
        "How much the captions of a picture repeat each other, mBLEU-4: 100.0 of those that the model draws, "
        "50.0 of the references.",
    ]
    assert results.remarks(own, SufficientStatistics(OWN.images, {}))[1:] == []


def test_copies_are_said() -> None:
    own = SufficientStatistics(OWN.images, {"CIDEr-leave-one-out": mean([40, 50, 60])})
    people = SufficientStatistics(OWN.images, {"CIDEr-person": mean([240, 240, 246], [3, 3, 3])})
    first, second = results.remarks(own, people, "2 of the 9 references repeat another.")
    assert first.startswith("Held against all references of a picture but one and its copies, the model")
    assert second == "2 of the 9 references repeat another."


def many(values: dict[str, list[float]]) -> SufficientStatistics:
    images = [f"{number}.png" for number in range(len(next(iter(values.values()))))]
    return SufficientStatistics(images, {name: mean(each) for name, each in values.items()})


SPREAD = np.random.default_rng(1).normal(0, 1, 40)
SPREAD -= SPREAD.mean()


@pytest.mark.parametrize(
    ("gains", "said"),
    [
        (
            2 + SPREAD,
            r"The model beats one constant .*: better by 2\.00 CIDEr \(95 % interval 1\.\d+ to 2\.\d+, p = 0.001\)",
        ),
        (
            -117.15 + SPREAD,
            r"The model is worse than one constant caption for all pictures by 117\.15 CIDEr "
            r"\(95 % interval 116\.\d+ to 117\.\d+, p = 0\.001\)\.",
        ),
        (
            0.05 + SPREAD,
            r"The model and one constant .* are not significantly different: .* is better by 0\.05 CIDEr "
            r".*−.*, p = 0\.\d+",
        ),
        (-0.05 + SPREAD, r"are not significantly different: on these pictures the model is worse by 0\.05 CIDEr"),
        (-0.001 + SPREAD, r"are not significantly different: on these pictures the model is worse by 0\.001 CIDEr"),
        (
            0.001 + SPREAD / 1000,
            r"The model beats .*: better by 0\.001 CIDEr \(95 % interval 0\.00\d to 0\.00\d, p = 0\.001",
        ),
        (np.full(40, 3.0), r"The model beats .*: better by 3\.00 CIDEr \(p = 0\.001\)\."),
        (
            np.tile([1.0, -1.0], 20),
            r"are not significantly different: .* the model is as good \(95 % interval −.*, p = 1\.00\)",
        ),
        (np.tile([0.1, -0.1 + 1e-12], 20), r"on these pictures the model is as good \(95 % interval −"),
        (np.zeros(40), r"The model and one constant caption for all pictures are equal: the difference is 0 CIDEr\."),
    ],
)
def test_a_verdict_follows_from_its_test(gains: np.ndarray, said: str) -> None:
    hard = 500 + np.arange(40.0)
    own, baseline = many({"CIDEr": list(hard + gains)}), many({"CIDEr-constant": list(hard)})
    (remark,) = results.remarks(own, baseline)
    assert re.search(said, remark), remark
    # of likelihoods, less is better
    own, baseline = many({"nll": list(hard - gains)}), many({"nll-picture-blind": list(hard)})
    (remark,) = results.remarks(own, baseline)
    told = said.replace("one constant caption for all pictures", "the decoder that never sees a picture")
    assert re.search(told.replace("one constant", "the decoder").replace("CIDEr", "nats per token"), remark), remark


@pytest.mark.parametrize("pictures", [2, 3, 5])
def test_few_pictures_allow_no_verdict(pictures: int) -> None:
    numbers = list(np.arange(pictures) + 9.0)
    own = many({"CIDEr": [200 + number for number in numbers], "nll": [number / 9 for number in numbers]})
    remarks = results.remarks(own, many({"CIDEr-constant": numbers, "nll-picture-blind": numbers}))
    assert remarks.pop() == f"On {pictures} test pictures no difference can be significant: it takes 6 or more."
    assert len(remarks) == 2 and all("are not significantly different" in remark for remark in remarks)


def test_one_picture_allows_neither_interval_nor_verdict(tmp_path: Path) -> None:
    own = many({"CIDEr": [0.0], "nll": [3.0], "CIDEr-leave-one-out": [0.0]})
    baselines = many({"CIDEr-constant": [0.0], "nll-picture-blind": [2.5], "CIDEr-person": [0.0]})
    assert results.remarks(own, baselines) == [
        "On one picture, which allows no test, the model is worse than the decoder that never sees a picture by 0.50 "
        "nats per token.",
        "One test picture allows neither intervals nor verdicts, and CIDEr is 0 on a single picture, whatever the "
        "caption.",
    ]
    written = results.write_scores(own, baselines, replace(SETTING, pictures=1), tmp_path)
    assert json.loads((tmp_path / "scores.json").read_text("utf-8")) == written
    assert {(entry["low"], entry["high"]) for entry in written.values()} == {(None, None)}
    assert written["nll"]["value"] == 3 and written["perplexity"]["value"] == round(math.exp(3), 4)
    line = results.line("nll", written["nll"])
    assert line.split() == ["nll", "3.00", written["nll"]["signature"]]


def test_a_line_of_a_score() -> None:
    line = results.line("CIDEr", {"value": 53.257, "low": 50.1, "high": 55, "signature": "CIDEr|split:test"})
    assert line.split("  ")[-3:] == ["53.26", "[50.10, 55.00]", "CIDEr|split:test"]


def test_curves_stand_beside_the_baselines(tmp_path: Path) -> None:
    (tmp_path / "history.csv").write_text("epoch,nll,val_nll,val_CIDEr\n0,4,3.5,20\n1,3,3.2,40\n")
    scores = {"nll-unigram": {"value": 5.0}, "CIDEr-person": {"value": 82.0}, "CIDEr": {"value": 50.0}}
    results.write_curves(tmp_path / "history.csv", scores, tmp_path / "results")
    table = pd.read_csv(tmp_path / "results/curves.csv")
    assert table["CIDEr-person"].tolist() == [82, 82]
    assert Image.open(tmp_path / "results/curves.png").width > 600


def test_the_curves_table_has_every_column_that_dvc_plots(tmp_path: Path) -> None:
    """People are not measured where a picture has one caption; DVC warns of a missing column, and draws no nan."""
    (tmp_path / "history.csv").write_text("epoch,nll,val_nll,val_CIDEr\n0,4,3.5,\n1,3,3.2,40\n")
    results.write_curves(tmp_path / "history.csv", {"CIDEr-constant": {"value": 5.0}}, tmp_path)
    plots = yaml.safe_load((ROOT / "dvc.yaml").read_text("utf-8"))["plots"]
    drawn = (each for plot in plots if isinstance(plot, dict) for each in plot.values())
    fields = {field for each in drawn for field in each["y"]["results/evaluate/curves.csv"]}
    first, *rows = (line.split(",") for line in (tmp_path / "curves.csv").read_text("utf-8").splitlines())
    assert fields <= set(first)
    assert [row[first.index("CIDEr-person")] for row in rows] == ["nan", "nan"]
    assert rows[0][first.index("val_CIDEr")] == "nan"


def test_a_row_a_picture(scores: Scores, tmp_path: Path) -> None:
    captions = {image: said(text) for image, text in CAPTIONS.items()}
    results.write_captions(Evaluated(captions, REFERENCES, scores.by_image), tmp_path / "captions.jsonl")
    text = (tmp_path / "captions.jsonl").read_text("utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    assert [row["image"] for row in rows] == list(CAPTIONS)
    for row in rows:
        assert list(row) == ["image", "caption", "references", "log_probability", "scores"]
        assert row["caption"] == CAPTIONS[row["image"]] and row["references"] == REFERENCES[row["image"]]
        assert row["log_probability"] == -1.2346
        assert set(row["scores"]) == set(NAMES)
    assert rows[0]["scores"]["BLEU-1"] > rows[2]["scores"]["BLEU-1"] == 0
    assert "das Schöne 犬" in text


def test_a_figure_a_picture(tmp_path: Path) -> None:
    captions = {"one.png": said("a red circle"), "folder/two.jpg": said(""), "other.jpg": said("no figure asked for")}
    references = {image: ["a reference"] for image in captions}
    pictures = {image: picture() for image in ("one.png", "folder/two.jpg")}
    results.write_attention(pictures, captions, references, tmp_path / "attention")
    figures = list((tmp_path / "attention").iterdir())
    assert len(figures) == 2 and all(path.suffix == ".png" for path in figures)
    for path in figures:
        assert Image.open(path).width > 200


def test_pictures_of_one_name_in_two_folders_get_two_figures(tmp_path: Path) -> None:
    names = ["a/dog.jpg", "b/dog.jpg", "dog.jpg", "dog.png", "dog", "Dog.png", "a_dog.jpg", "curves.png"]
    captions = {image: said("a dog") for image in names}
    references = {image: ["a dog"] for image in names}
    results.write_attention({image: picture() for image in names}, captions, references, tmp_path / "attention")
    drawn = {path.name for path in (tmp_path / "attention").glob("*.png")}
    assert len(drawn) == len(names) and {"dog.jpg.png", "dog.png", "a_dog.jpg.png"} <= drawn
    assert "curves.png" not in drawn  # what lies beside them in MLflow


def test_a_picture_whose_path_is_longer_than_a_file_name_may_be(tmp_path: Path) -> None:
    image = "/".join(["目录" * 20] * 5 + ["犬" * 80 + ".jpg"])
    results.write_attention({image: picture()}, {image: said("a dog")}, {image: ["a dog"]}, tmp_path / "attention")
    [drawn] = (tmp_path / "attention").iterdir()
    assert drawn.name.endswith("犬.jpg.png")


def test_no_figures_asked_for(tmp_path: Path) -> None:
    results.write_attention({}, {}, {}, tmp_path / "attention")
    assert list((tmp_path / "attention").iterdir()) == []


def test_nothing_half_written(scores: Scores, tmp_path: Path) -> None:
    by_image = scores.by_image
    captions = {"one.png": said("a red circle"), "two.png": said("a star")}
    broken = {"one.png": picture(), "two.png": b"no picture"}
    with pytest.raises(CaptionerError):
        results.write_attention(broken, captions, REFERENCES, tmp_path / "attention")
    with pytest.raises(KeyError):
        found = Evaluated(captions | {"four.png": said("a")}, REFERENCES, by_image)
        results.write_captions(found, tmp_path / "captions.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_earlier_results_stay_when_writing_fails(scores: Scores, tmp_path: Path) -> None:
    captions = {"one.png": said("a red circle")}
    results.write_attention({"one.png": picture()}, captions, REFERENCES, tmp_path / "attention")
    before = {path.name: path.read_bytes() for path in (tmp_path / "attention").iterdir()}
    with pytest.raises(CaptionerError):
        results.write_attention({"one.png": b""}, captions, REFERENCES, tmp_path / "attention")
    assert {path.name: path.read_bytes() for path in (tmp_path / "attention").iterdir()} == before


def test_a_likelihood_beyond_any_perplexity(tmp_path: Path) -> None:
    own = replace(OWN, rows=OWN.rows | {"nll": mean([1500.0, 2200.0, 700.0], [2, 3, 1])})
    written = results.write_scores(own, BASELINES, SETTING, tmp_path)
    assert written["nll"]["value"] > 700 and "perplexity" not in written and "perplexity-picture-blind" in written


@pytest.mark.parametrize("broken", ["model", "baselines"])
def test_scores_that_are_not_finite_are_not_written(broken: str, tmp_path: Path) -> None:
    images, wrong = OWN.images, mean([1, np.nan, 2])
    own = SufficientStatistics(images, {"nll": wrong}) if broken == "model" else OWN
    baselines = SufficientStatistics(images, {"nll-picture-blind": wrong}) if broken == "baselines" else BASELINES
    with pytest.raises(CaptionerError, match=r"nll.* is not finite on 1 of 3 pictures, such as 'two.png'"):
        results.write_scores(own, baselines, SETTING, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["CIDEr", "CIDEr-person", "BLEU-4-leave-one-out", "nll", "perplexity", "true-captions"]
)
def test_a_signature_is_what_its_text_says(name: str) -> None:
    made = SETTING.signature(name)
    assert Signature.parse(str(made)) == made and made.score == name
    assert made.is_of(SETTING.weights_sha256) and not made.is_of("f" * 64)
    assert not SETTING.signature(name, of_model=False).is_of(SETTING.weights_sha256)


def test_samples_and_likelihoods_of_each_picture(scores: Scores, tmp_path: Path) -> None:
    own = SufficientStatistics(
        list(CAPTIONS), {"nll": mean([4.0, 9.0, 2.0], [2, 3, 1]), "nll-samples": mean([8.0, 2.0, 3.0], [4, 4, 4])}
    )
    found = Evaluated(
        {image: said(text) for image, text in CAPTIONS.items()},
        REFERENCES,
        scores.by_image,
        {image: ["a red circle", "a star"] for image in CAPTIONS},
        results.nll_by_image(own),
        {next(iter(CAPTIONS)): "a red"},
    )
    results.write_captions(found, tmp_path / "captions.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text("utf-8").splitlines()]
    assert [row["samples"] for row in rows] == [["a red circle", "a star"]] * 3
    assert [row["nll"] for row in rows] == [
        {"references": 2, "samples": 2},
        {"references": 3, "samples": 0.5},
        {"references": 2, "samples": 0.75},
    ]
    assert [row.get("teacher_forced") for row in rows] == ["a red", None, None]
    results.write_report("title", {}, [], [picture()] * 3, found, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text("utf-8")
    shown = [json.loads(row) for row in re.findall("data-row>(.*?)</script>", page)]
    assert [(row["samples"], row["nll"]["samples"]) for row in shown] == [
        (["a red circle", "a star"], nats) for nats in (2, 0.5, 0.75)
    ]
    assert [row.get("teacherForced") for row in shown] == ["a red", None, None]


def test_scores_of_samples_say_how_many_were_drawn() -> None:
    drawn = replace(SETTING, samples=5, subwords=1000)
    for name in ("mBLEU-4", "distinct-1-grams"):
        assert str(drawn.signature(name)).endswith("|pictures:3|samples:5|weights:0123456789ab")
    assert str(drawn.signature("nll-samples")).endswith("|subwords:1000|samples:5|weights:0123456789ab")
    assert "samples" not in str(drawn.signature("mBLEU-4-person", of_model=False))
    assert "samples" not in str(drawn.signature("distinct-captions")) and "beam" in str(
        drawn.signature("distinct-captions")
    )


def test_likelihoods_of_pieces_of_words_say_so() -> None:
    of_subwords = replace(SETTING, subwords=1000)
    for name in ("nll", "perplexity", "nll-unigram"):
        assert "|subwords:1000|" in f"{of_subwords.signature(name, of_model=False)}|"
        assert "subwords" not in str(SETTING.signature(name))
    assert "subwords" not in str(of_subwords.signature("CIDEr"))
