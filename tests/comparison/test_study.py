"""Attentions by seeds, brought together."""

import re
from dataclasses import replace
from pathlib import Path

import measured
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from captioner.common.errors import CaptionerError
from captioner.comparison import study
from captioner.comparison.runs import Run
from captioner.comparison.study import Trained
from captioner.evaluation.signature import Signature

MEANS = {
    "uniform": {1: 40.0, 2: 44.0},
    "dot": {1: 80.0, 2: 84.0},
    "bahdanau": {1: 80.4, 2: 83.0},
}


def trained(attention: str, seed: int, cider: float, **more: float) -> Trained:
    noise = 100 * seed + len(attention)
    scores = {"CIDEr": measured.values(cider, 10, noise), "nll": [3 - cider / 100] * measured.PICTURES}
    scores |= {name.replace("_", "-"): [value] * measured.PICTURES for name, value in more.items()}
    signatures = {name: Signature.parse(measured.signature(name)).parts for name in scores}
    run = Run(f"{attention}-{seed}", attention, measured.statistics(scores), signatures)
    history = pd.DataFrame({"epoch": [0, 1], "val_nll": [4, 3], "val_CIDEr": [cider / 2, cider]})
    return Trained(attention, seed, run, history)


def everything(**more: float) -> list[Trained]:
    return [trained(name, seed, cider, **more) for name, by_seed in MEANS.items() for seed, cider in by_seed.items()]


def test_scores_are_means_over_seeds_and_pictures_give_the_interval() -> None:
    found = study.analyse(everything())
    result = found.results["dot"]["CIDEr"]
    assert result.mean == pytest.approx(82) and result.deviation == pytest.approx(np.std([80, 84], ddof=1))
    assert result.low < 82 < result.high
    assert found.seeds == [1, 2] and list(found.results) == list(MEANS)


def test_a_single_seed_has_no_deviation() -> None:
    found = study.analyse([each for each in everything() if each.seed == 1])
    assert found.results["dot"]["CIDEr"].deviation is None
    assert "±" not in study.paragraphs(found, "scenes")[1]


def test_what_is_said() -> None:
    said = study.paragraphs(
        study.analyse(everything(pointing_accuracy=50.0, pointing_chance=7.5, nll_picture_blind=2.9)), "scenes"
    )
    assert said[0].startswith("uniform, dot and bahdanau attention were trained on scenes with the seeds 1, 2,")
    assert f"the same {measured.PICTURES} test pictures" in said[0]
    assert said[1].startswith("By CIDEr: dot 82.0 ± 2.8, bahdanau 81.7 ± 1.8 and uniform 42.0 ± 2.8.")
    assert "ot is better than uniform, with every seed (p" in said[1]
    assert "ot and bahdanau are not significantly different (p = " in said[1]
    assert "needs 2.90 nats per token. Seeing it saves uniform 0.32, dot 0.72 and bahdanau 0.72 nats" in said[3]
    assert (
        "uniform in 50.0 %, dot in 50.0 % and bahdanau in 50.0 % of the cases; by chance it would in 7.5 %." in said[4]
    )
    assert said[5].startswith("With fewer than three seeds")


def test_a_difference_that_not_every_seed_shows() -> None:
    pairs = [("dot", 1, 80.0), ("dot", 2, 60.0), ("uniform", 1, 62.0), ("uniform", 2, 50.0)]
    said = study.paragraphs(study.analyse([trained(*each) for each in pairs]), "scenes")
    assert "ot is better than uniform, though scores of their seeds overlap (p" in said[1]


def test_seeing_may_cost() -> None:
    said = study.paragraphs(study.analyse(everything(nll_picture_blind=2.4)), "scenes")
    assert (
        "needs 2.40 nats per token. Seeing it saves dot 0.22 and bahdanau 0.22 nats per token. Seeing it costs uniform "
        "0.18 nats per token more." in said[3]
    )
    said = study.paragraphs(study.analyse(everything(nll_picture_blind=2.0)), "scenes")
    assert "needs 2.00 nats per token. Seeing it costs uniform 0.58, dot 0.18 and" in said[3]


def test_what_seeing_is_worth_follows_from_its_test() -> None:
    blind = measured.statistics({"nll-picture-blind": measured.values(2.182, 0.1)})
    found = [
        replace(each, measured=replace(each.measured, statistics=each.measured.statistics | blind))
        for each in everything()
    ]
    for each in found:
        each.measured.signatures["nll-picture-blind"] = {}
    said = study.paragraphs(study.analyse(found), "scenes")
    assert "Seeing it costs uniform 0.40 nats per token more." in said[3] and "saves" not in said[3]
    others = r"By likelihood nothing tells these from it: dot \(0\.002 less, p = 1\.00\) and bahdanau \(0\.001 more, p"
    assert re.search(others, said[3]), said[3]


def test_names_keep_their_letters() -> None:
    pairs = [("MyDot", 1, 80.0), ("MyDot", 2, 81.0), ("uniform", 1, 62.0), ("uniform", 2, 60.0)]
    said = study.paragraphs(study.analyse([trained(*each) for each in pairs]), "scenes")
    assert ". MyDot is better than uniform, with every seed (p" in said[1]


def test_one_seed_has_no_deviations_to_speak_of() -> None:
    said = study.paragraphs(study.analyse([each for each in everything() if each.seed == 1]), "scenes")
    assert "with the seed 1," in said[0] and "Scores are those of one seed; the interval says" in said[0]
    assert said[-1].startswith("With one seed the variation over seeds is unknown")


def test_one_picture_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "PICTURES", 1)
    found = study.analyse(everything())
    said = study.paragraphs(found, "scenes")
    assert "the same 1 test picture. Scores are means over the seeds, ± their standard deviation; of one" in said[0]
    assert not any(word in " ".join(said) for word in ("better", "apart", "nan", "CIDEr"))
    assert said[1] == "By nll: dot 2.180 ± 0.028, bahdanau 2.183 ± 0.018 and uniform 2.580 ± 0.028."
    study.write(found, "scenes", {}, tmp_path / "study")
    page = (tmp_path / "study/index.html").read_text("utf-8")
    assert "nan" not in page and "[" not in page.partition("<main>")[2].partition("</table>")[0]
    assert pd.read_csv(tmp_path / "study/scores.csv")[["low", "high"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("attentions", "problem"),
    [
        ([("dot", 1), ("dot", 2)], "received 1 attention; a study needs two or more"),
        ([("dot", 1), ("dot", 2), ("uniform", 1)], r"received uniform with the seeds \[1\]; all need \[1, 2\]"),
    ],
)
def test_what_cannot_be_brought_together(attentions: list[tuple[str, int]], problem: str) -> None:
    with pytest.raises(CaptionerError, match=problem):
        study.analyse([trained(name, seed, 50) for name, seed in attentions])


def test_the_page_and_what_lies_beside_it(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a b.png")
    data = (tmp_path / "a b.png").read_bytes()
    pictures = {name: {"a b.png": data} for name in MEANS} | {"dot": {"a b.png": data, "only-dot.png": data}}
    study.write(study.analyse(everything()), "scenes", pictures, tmp_path / "study")
    page = (tmp_path / "study/index.html").read_text("utf-8")
    assert page.count("a%20b.png") == 3 and "only-dot.png" not in page
    for link in ("comparison.html", "scores.csv", "curves.png", "attention/dot/a b.png"):
        assert (tmp_path / "study" / link).stat().st_size
    table = pd.read_csv(tmp_path / "study/scores.csv")
    row = table[(table["attention"] == "dot") & (table["score"] == "CIDEr")].iloc[0]
    assert (row["mean"], row["seed-1"], row["seed-2"]) == (82, 80, 84)
    assert "http" not in page
