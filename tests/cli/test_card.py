"""A model card says what lies in the run's files, and nothing of another model's."""

import json
from pathlib import Path
from typing import Any

import pytest

from captioner.cli.about import about, table
from captioner.cli.card import FAILINGS, card
from captioner.inference.captioner import Captioner
from captioner.model.description import DESCRIPTION


def entry(value: float, signature: str) -> dict[str, Any]:
    return {"value": value, "low": value - 1, "high": value + 1, "signature": signature}


@pytest.fixture
def directory(saved: Path, model: Captioner, tmp_path: Path) -> Path:
    """A checkout's model with results measured with its weights."""
    own = f"split:test|weights:{model.weights_sha256[:12]}"
    evaluated = tmp_path / "results/evaluate"
    evaluated.mkdir(parents=True)
    scores = {
        "CIDEr": entry(53.25, f"CIDEr|{own}"),
        "CIDEr-constant": entry(13.75, "CIDEr-constant|split:test"),
        "true-captions": entry(84.5, f"true-captions|{own}"),
        "METEOR-constant": entry(9.25, "METEOR-constant|split:test"),
    }
    (evaluated / "scores.json").write_text(json.dumps(scores), "utf-8")
    rows = [
        {
            "image": f"{number}.png",
            "caption": f"a <b>|{number}",
            "references": ["one", "two"],
            "scores": {"CIDEr": 90 - number},
        }
        for number in range(FAILINGS + 3)
    ]
    (evaluated / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    (tmp_path / "models").mkdir()
    return saved.rename(tmp_path / "models/captioner")


def rows_of(text: str, first: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(f"| {first}")]


def test_scores_stand_beside_what_they_are_held_against(directory: Path, model: Captioner) -> None:
    text = card(directory)
    assert rows_of(text, "`CIDEr`") == [
        "| `CIDEr` | 53.25 [52.25, 54.25] | one constant caption | 13.75 [12.75, 14.75] |"
    ]
    assert rows_of(text, "`true-captions`") == ["| `true-captions` | 84.50 [83.50, 85.50] | | |"]
    assert "15.5 % of its captions are not true of their picture." in text
    assert f"CIDEr|split:test|weights:{model.weights_sha256[:12]}" in text
    assert "METEOR" not in text


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("imagenet", "frozen; `imagenet`"),
        ("fine_tuned", "fine-tuned with the decoder; its own weights"),
        ("random", "trained with the decoder from random weights; its own weights"),
    ],
)
def test_how_the_encoder_came_to_its_weights(weights: str, said: str, directory: Path) -> None:
    described = json.loads((directory / "model.json").read_text("utf-8"))
    described["encoder"] |= {"weights": weights} | ({} if weights == "imagenet" else {"file": "encoder.keras"})
    (directory / "model.json").write_text(json.dumps(described), "utf-8")
    name, digest = (described["encoder"][key] for key in ("name", "weights_sha256"))
    assert f"| encoder | `{name}`, {said} (`{digest[:12]}`); pictures of" in card(directory)
    in_words = said.partition(";")[0] if weights != "imagenet" else "weights imagenet"
    assert f"encoder     {name}, {in_words} ({digest[:12]})" in table(about(directory))


def test_the_worst_captions_come_first_and_cannot_break_the_table(directory: Path) -> None:
    shown = [line for line in card(directory).splitlines() if ".png |" in line]
    assert [line.split()[1] for line in shown] == [f"{number}.png" for number in range(FAILINGS + 2, 2, -1)]
    assert shown[0].endswith(f"| a &lt;b>\\|{FAILINGS + 2} | one |")


def test_another_models_results_are_left_out(directory: Path) -> None:
    file = directory.parents[1] / "results/evaluate/scores.json"
    file.write_text(json.dumps({"CIDEr": entry(53.25, "CIDEr|weights:0123456789ab")}), "utf-8")
    text = card(directory)
    assert "None lie beside this model" in text
    assert "53.25" not in text and ".png" not in text


def test_scores_of_one_picture_have_no_intervals(directory: Path) -> None:
    evaluated = directory.parents[1] / "results/evaluate"
    scores = json.loads((evaluated / "scores.json").read_text("utf-8"))
    for each in scores.values():
        each |= {"low": None, "high": None}
    (evaluated / "scores.json").write_text(json.dumps(scores), "utf-8")
    (evaluated / "captions.jsonl").write_text((evaluated / "captions.jsonl").read_text("utf-8").splitlines()[0] + "\n")
    text = card(directory)
    assert rows_of(text, "`CIDEr`") == ["| `CIDEr` | 53.25 | one constant caption | 13.75 |"]
    assert "interval" not in text and "None [" not in text
    assert "Nothing is known of how far other pictures" in text
    assert "The 1 caption with the lowest CIDEr, each beside" in text
    lines = table(about(directory))
    assert "scores:" in lines
    assert [line.split()[:3] for line in lines if line.startswith("  CIDEr")] == [
        ["CIDEr", "53.25", scores["CIDEr"]["signature"]]
    ]


def test_one_false_caption_of_five_thousand_is_not_none(directory: Path) -> None:
    file = directory.parents[1] / "results/evaluate/scores.json"
    scores = json.loads(file.read_text("utf-8"))
    scores["true-captions"]["value"] = 99.98
    file.write_text(json.dumps(scores), "utf-8")
    assert "- 0.02 % of its captions are not true of their picture." in card(directory)


@pytest.mark.parametrize(("data", "expected"), [("scenes", "coloured shapes"), ("flickr8k", "dogs in action")])
def test_says_what_it_is_for(data: str, expected: str, directory: Path) -> None:
    described = json.loads((directory / DESCRIPTION).read_text("utf-8"))
    described["params"]["dataset"] = data
    (directory / DESCRIPTION).write_text(json.dumps(described), "utf-8")
    text = card(directory)
    assert text.startswith(f"# Model card: bahdanau attention on {data} data\n")
    assert expected in text
    assert f'dataset: "{data}"' in text


@pytest.mark.parametrize("place", ["/home/me/own", "../me/own", "~/me/own/", r"C:\me\own"])
def test_no_path_of_the_machine_is_in_it(place: str, directory: Path) -> None:
    described = json.loads((directory / DESCRIPTION).read_text("utf-8"))
    described["params"] |= {"download.folder.path": place, "download.folder.captions": f"{place}.csv"}
    described["encoder"]["weights"] = f"{place}.h5"
    (directory / DESCRIPTION).write_text(json.dumps(described), "utf-8")
    text = card(directory)
    assert 'download.folder.path: "own"' in text and 'download.folder.captions: "' in text
    assert "me/" not in text and "me\\" not in text and str(directory) not in text


def test_of_data_that_nobody_noted(directory: Path) -> None:
    assert card(directory).startswith("# Model card: bahdanau attention on unknown data\n")
