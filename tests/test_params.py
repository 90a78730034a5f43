"""The experiment's file: whole, or one line that says what is wrong and what is allowed."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from captioner import params
from captioner.errors import CaptionerError
from captioner.names import ATTENTIONS, DATASETS, ENCODERS, METRICS

FILE = Path(__file__).parents[1] / "params.yaml"


def values() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text("utf-8"))


def load(content: object, tmp_path: Path) -> params.Params:
    path = tmp_path / "params.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), "utf-8")
    return params.load(path)


def changed(key: str, value: object) -> dict[str, Any]:
    """The values of the project's own file, but one."""
    all_values = section = values()
    *names, last = key.split(".")
    for name in names:
        section = section[name]
    section[last] = value
    return all_values


def complaint(content: object, tmp_path: Path) -> str:
    with pytest.raises(CaptionerError) as error:
        load(content, tmp_path)
    assert "\n" not in str(error.value) and "params.yaml" in str(error.value)
    return str(error.value)


# --- the project's own file ------------------------------------------------------------------------------------------


def test_the_projects_own_file_is_valid() -> None:
    loaded = params.load(FILE)
    assert (loaded.dataset, loaded.attention) == ("scenes", "dot")


def test_dataset_and_attention_stand_at_the_top() -> None:
    assert list(values())[:2] == ["dataset", "attention"]


def test_every_value_has_a_comment() -> None:
    described: dict[str, bool] = {}
    for line in FILE.read_text("utf-8").splitlines():
        if found := re.match(r"( *)(\w+):( *[^ #][^#]*)?( *# \S.*)?$", line):
            _, key, value, comment = found.groups()
            # what one kind of data says of a key is not repeated for the other
            described[key] = bool(comment) or described.get(key, False) or not value
    assert [key for key, has_comment in described.items() if not has_comment] == []
    assert set(described) >= {key.rpartition(".")[2] for key in params.load(FILE).flat()}


def test_comments_list_every_name() -> None:
    lines = {line.split(":")[0].strip(): line for line in FILE.read_text("utf-8").splitlines()}
    listed = {"dataset": DATASETS, "attention": ATTENTIONS, "encoder": ENCODERS, "metrics": METRICS}
    for key, names in listed.items():
        assert all(name in lines[key].partition("#")[2] for name in names)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("attention", "additive", ["attention is 'additive'", *ATTENTIONS]),
        ("attention", "", ["attention is ''", *ATTENTIONS]),
        ("dataset", "flickr9k", ["dataset is 'flickr9k'", *DATASETS]),
        ("dataset", None, ["dataset is None", "string"]),
        ("features.encoder", "resnet", ["features.encoder is 'resnet'", *ENCODERS]),
        ("train.scenes.schedule", "linear", ["train.scenes.schedule is 'linear'", "cosine", "constant"]),
        ("seed", -1, ["seed is -1", "greater than or equal to 0"]),
        ("seed", 1.5, ["seed is 1.5", "integer"]),
        ("seed", True, ["seed is True", "integer"]),
        ("seed", "1", ["seed is '1'", "integer"]),
        ("vocabulary.minimum_count", 0, ["vocabulary.minimum_count is 0", "greater than or equal to 1"]),
        ("train.scenes.label_smoothing", 1, ["train.scenes.label_smoothing is 1", "less than 1"]),
        ("train.photographs.word_dropout", -0.1, ["train.photographs.word_dropout is -0.1"]),
        ("train.scenes.learning_rate", 0, ["train.scenes.learning_rate is 0", "greater than 0"]),
        ("train.scenes.learning_rate", float("nan"), ["train.scenes.learning_rate is nan"]),
        ("train.scenes.learning_rate", float("inf"), ["train.scenes.learning_rate is inf", "finite"]),
        ("train.scenes.learning_rate", "fast", ["train.scenes.learning_rate is 'fast'", "number"]),
        ("evaluate.beam", 0, ["evaluate.beam is 0", "1"]),
        ("evaluate.length_normalization", -1, ["evaluate.length_normalization is -1"]),
        ("evaluate.metrics", [], ["evaluate.metrics is []", *METRICS]),
        ("evaluate.metrics", ["BLEU-4"], ["evaluate.metrics is ['BLEU-4']", *METRICS]),
        ("evaluate.metrics", ["CIDEr", "CIDEr"], ["['CIDEr', 'CIDEr']", "each once"]),
        ("evaluate.metrics", "CIDEr", ["evaluate.metrics is 'CIDEr'", "list"]),
        ("evaluate.metrics", [5], ["evaluate.metrics.0 is 5", "string"]),
        ("download.scenes.fewest_objects", 1, ["download.scenes.fewest_objects is 1", "2"]),
        ("download.scenes.most_objects", 99, ["download.scenes.most_objects is 99"]),
        ("model", 5, ["model is 5", "dictionary"]),
        ("download.scenes", None, ["download.scenes is None", "dictionary"]),
    ],
)
def test_a_value_that_is_not_allowed(key: str, value: object, named: list[str], tmp_path: Path) -> None:
    message = complaint(changed(key, value), tmp_path)
    assert [part for part in named if part not in message] == [], message


def test_fewest_objects_above_most(tmp_path: Path) -> None:
    content = changed("download.scenes.fewest_objects", 5)
    content["download"]["scenes"]["most_objects"] = 4
    message = complaint(content, tmp_path)
    assert "download.scenes.most_objects is 4" in message and "fewest_objects" in message and "5" in message


@pytest.mark.parametrize(
    ("key", "named"),
    [
        ("attnetion", ["unknown key attnetion", "dataset, attention, seed", "did you mean attention?"]),
        ("train.scenes.epoch", ["unknown key train.scenes.epoch", "epochs, patience", "did you mean epochs?"]),
        ("evaluate.zzz", ["unknown key evaluate.zzz", "beam, length_normalization, batch_size, attention_pictures"]),
        ("download.folder.PATH", ["unknown key download.folder.PATH", "path, captions"]),
    ],
)
def test_an_unknown_key(key: str, named: list[str], tmp_path: Path) -> None:
    message = complaint(changed(key, 1), tmp_path)
    assert [part for part in named if part not in message] == [], message


@pytest.mark.parametrize("key", ["attention", "model.state_size", "train.photographs", "download.scenes.seed"])
def test_a_missing_key(key: str, tmp_path: Path) -> None:
    content = changed(key, None)
    section: Any = content
    *names, last = key.split(".")
    for name in names:
        section = section[name]
    del section[last]
    assert f"{key} is missing" in complaint(content, tmp_path)


def test_all_problems_at_once(tmp_path: Path) -> None:
    content = changed("attention", "additive") | {"seed": -1, "colour": "red"}
    message = complaint(content, tmp_path)
    assert all(part in message for part in ("'additive'", "seed is -1", "unknown key colour"))


@pytest.mark.parametrize("content", ["", "# nothing\n", "null", "5", "[1, 2]", "attention"])
def test_no_keys_at_all(content: str, tmp_path: Path) -> None:
    assert "the file is" in complaint(content, tmp_path)


@pytest.mark.parametrize("content", ["a: [", "a: b: c", "\tattention: dot", "a: \x00", "a: !!python/name:os.system"])
def test_not_yaml(content: str, tmp_path: Path) -> None:
    assert "is not YAML" in complaint(content, tmp_path)


def test_not_text(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes(b"attention: \xff\xfe")
    with pytest.raises(CaptionerError, match="is not YAML"):
        params.load(tmp_path / "params.yaml")


def test_keys_that_are_no_text(tmp_path: Path) -> None:
    assert "1" in complaint(values() | {1: 2}, tmp_path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(CaptionerError, match=r"No file .*params\.yaml: run from the checkout"):
        params.load(tmp_path / "params.yaml")


# --- what is accepted ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ATTENTIONS)
def test_every_attention(name: str, tmp_path: Path) -> None:
    assert load(changed("attention", name), tmp_path).attention == name


def test_the_order_of_metrics_says_nothing(tmp_path: Path) -> None:
    one, other = (
        load(changed("evaluate.metrics", names), tmp_path) for names in (["SPICE", "CIDEr"], ["CIDEr", "SPICE"])
    )
    assert one == other and one.flat()["evaluate.metrics"] == "CIDEr, SPICE"


def test_whole_numbers_where_fractions_are_allowed(tmp_path: Path) -> None:
    assert load(changed("train.scenes.gradient_norm", 5), tmp_path).train.scenes.gradient_norm == 5.0


def test_byte_order_mark_and_carriage_returns(tmp_path: Path) -> None:
    text = "\ufeff" + FILE.read_text("utf-8").replace("\n", "\r\n")
    (tmp_path / "params.yaml").write_bytes(text.encode("utf-8"))
    assert params.load(tmp_path / "params.yaml") == params.load(FILE)


@pytest.mark.parametrize("dataset", DATASETS)
def test_recipe_is_that_of_the_data(dataset: str, tmp_path: Path) -> None:
    loaded = load(changed("dataset", dataset), tmp_path)
    assert loaded.recipe == (loaded.train.scenes if dataset == "scenes" else loaded.train.photographs)


@pytest.mark.parametrize("dataset", DATASETS)
def test_flat_has_what_has_a_say_and_nothing_else(dataset: str, tmp_path: Path) -> None:
    content = changed("dataset", dataset)
    flat = load(content, tmp_path).flat()
    assert flat["dataset"] == dataset and flat["evaluate.beam"] == content["evaluate"]["beam"]
    recipe = content["train"]["scenes" if dataset == "scenes" else "photographs"]
    assert {key: value for key, value in flat.items() if key.startswith("train.")} == {
        f"train.{key}": value for key, value in recipe.items()
    }
    own = content["download"].get(dataset, {})
    assert {key: value for key, value in flat.items() if key.startswith("download.")} == {
        f"download.{key}": value for key, value in own.items()
    }
    assert not any(isinstance(value, (dict, list)) for value in flat.values())
