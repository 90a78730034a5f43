"""The experiment's file: whole, or one line that says what is wrong and what is allowed."""

import re
import subprocess
from pathlib import Path
from typing import Any, get_args

import parameters
import pytest
import yaml
from checkout import ROOT
from dvc.utils.serialize import dumps_yaml, loads_yaml
from hypothesis import given
from hypothesis import strategies as st

from captioner import params
from captioner.common.errors import CaptionerError
from captioner.data import Crop
from captioner.datasets import DATASETS
from captioner.encoders import ENCODERS
from captioner.encoders.registry import PREPROCESSINGS
from captioner.model.attention import ATTENTIONS
from captioner.scoring import METRICS


def load(content: object, tmp_path: Path) -> params.Params:
    path = tmp_path / "params.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), "utf-8")
    return params.load(path)


def changed(key: str, value: object) -> dict[str, Any]:
    return parameters.values(**{key: value})


def complaint(content: object, tmp_path: Path) -> str:
    with pytest.raises(CaptionerError) as error:
        load(content, tmp_path)
    assert "\n" not in str(error.value) and "params.yaml" in str(error.value)
    return str(error.value)


# --- the project's own file ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def committed() -> str:
    """The text of the project's own file: the workspace's copy is its user's, who may write there what they like."""
    shown = subprocess.run(["git", "show", "HEAD:params.yaml"], cwd=ROOT, capture_output=True, check=False)
    if shown.returncode:
        pytest.skip("needs a git checkout, whose last commit has the file")
    return shown.stdout.decode("utf-8")


def test_the_projects_own_file_is_valid(committed: str, tmp_path: Path) -> None:
    load(committed, tmp_path)


def test_dataset_and_attention_stand_at_the_top(committed: str) -> None:
    assert list(yaml.safe_load(committed))[:2] == ["dataset", "attention"]


def test_every_value_has_a_comment(committed: str, tmp_path: Path) -> None:
    described: dict[str, bool] = {}
    for line in committed.splitlines():
        if found := re.match(r"( *)(\w+):( *[^ #][^#]*)?( *# \S.*)?$", line):
            _, key, value, comment = found.groups()
            # what one kind of data says of a key is not repeated for the other
            described[key] = bool(comment) or described.get(key, False) or not value
    assert [key for key, has_comment in described.items() if not has_comment] == []
    assert set(described) >= {key.rpartition(".")[2] for key in load(committed, tmp_path).flat()}


def test_comments_list_every_name(committed: str) -> None:
    lines = {line.split(":")[0].strip(): line for line in committed.splitlines()}
    listed = {
        "dataset": DATASETS,
        "attention": ATTENTIONS,
        "crop": get_args(Crop),
        "preprocessing": PREPROCESSINGS,
        "metrics": METRICS,
    }
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
        ("seed", 5.0, ["seed is 5.0", "integer"]),
        ("seed", 2**32, [f"seed is {2**32}", f"less than {2**32}"]),
        ("download.scenes.seed", 2**32, [f"less than {2**32}"]),
        ("download.scenes.train", 2**31, ["less than or equal to 100000"]),
        ("download.scenes.validation", 0, ["greater than or equal to 1"]),
        ("download.scenes.test", 1e20, ["download.scenes.test is 1e+20", "integer"]),
        ("download.scenes.captions", 17, ["less than or equal to 16"]),
        ("download.skip_unreadable", 1, ["download.skip_unreadable is 1", "boolean"]),
        ("download.folder.path", "", ["download.folder.path is ''", "at least 1 character"]),
        ("download.folder.path", "x" * 100_000, ["download.folder.path is 'xxx", "at most 4000 characters"]),
        ("download.folder.path", "a\nb", ["download.folder.path is 'a\\nb'", "without line breaks"]),
        ("download.folder.path", 2024, ["download.folder.path is 2024", "quotes", """'download.folder.path="2024"'"""]),
        ("download.folder.path", True, ["download.folder.path is True", "quotes"]),
        ("download.shards.validation", 0, ["download.shards.validation is 0", "greater than 0"]),
        ("download.shards.test", 0.95, ["download.shards.test is 0.95", "numbers from 1e-06 to 0.9"]),
        ("download.shards.split", "keys", ["download.shards.split is 'keys'", "'pictures' or 'shards'"]),
        ("features.weights", 1e5, ["features.weights is 100000.0", "quotes"]),
        ("features.batch_size", 2**31, ["less than or equal to 1024"]),
        ("model.state_size", 2**31, ["less than or equal to 4096"]),
        ("model.embedding_size", 10**20, ["less than or equal to 4096"]),
        ("model.attention_size", 1e20, ["integer"]),
        ("vocabulary.minimum_count", 2**31, ["less than or equal to 1000000"]),
        ("train.scenes.epochs", 2**31, ["less than or equal to 100000"]),
        ("train.scenes.blind_epochs", 2**31, ["less than or equal to 100000"]),
        ("train.scenes.patience", 2**31, ["less than or equal to 100000"]),
        ("train.scenes.batch_size", 2**31, ["less than or equal to 4096"]),
        ("train.scenes.workers", 0, ["greater than or equal to 1"]),
        ("train.scenes.workers", 1025, ["less than or equal to 1024"]),
        ("train.flickr8k.captions_per_picture", 2**31, ["less than or equal to 1000"]),
        ("train.flickr8k.maximum_words", 2**31, ["less than or equal to 1000"]),
        ("train.scenes.learning_rate", 1e20, ["train.scenes.learning_rate is 1e+20", "from 1e-10 to 1000"]),
        ("train.scenes.learning_rate", 1e-46, ["train.scenes.learning_rate is 1e-46", "from 1e-10 to 1000"]),
        ("train.scenes.gradient_norm", 1e39, ["train.scenes.gradient_norm is 1e+39", "from 1e-06 to 1e+30"]),
        ("train.scenes.output_dropout", 0.99999999999, ["from 0 to 0.99"]),
        ("evaluate.beam", 51, ["less than or equal to 50"]),
        ("evaluate.batch_size", 2**31, ["less than or equal to 4096"]),
        ("evaluate.attention_pictures", 2**31, ["less than or equal to 10000"]),
        ("evaluate.length_normalization", 1e20, ["less than or equal to 10"]),
        ("vocabulary.minimum_count", 0, ["vocabulary.minimum_count is 0", "greater than or equal to 1"]),
        ("train.scenes.label_smoothing", 1, ["train.scenes.label_smoothing is 1", "less than 1"]),
        ("train.flickr8k.word_dropout", -0.1, ["train.flickr8k.word_dropout is -0.1"]),
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
        ("download.scenes.min_objects", 1, ["download.scenes.min_objects is 1", "2"]),
        ("download.scenes.max_objects", 99, ["download.scenes.max_objects is 99"]),
        ("model", 5, ["model is 5", "dictionary"]),
        ("download.scenes", None, ["download.scenes is None", "dictionary"]),
    ],
)
def test_a_value_that_is_not_allowed(key: str, value: object, named: list[str], tmp_path: Path) -> None:
    message = complaint(changed(key, value), tmp_path)
    assert [part for part in named if part not in message] == [], message


def test_fewest_objects_above_most(tmp_path: Path) -> None:
    content = changed("download.scenes.min_objects", 5)
    content["download"]["scenes"]["max_objects"] = 4
    message = complaint(content, tmp_path)
    assert "download.scenes.max_objects is 4" in message and "min_objects" in message and "5" in message


def test_batches_that_no_memory_holds(tmp_path: Path) -> None:
    content = changed("train.scenes.batch_size", 4096)
    content["train"]["scenes"] |= {"captions_per_picture": 1000, "maximum_words": 13}
    message = complaint(content, tmp_path)
    assert "train.scenes: batch_size × captions_per_picture × (maximum_words + 1) is 57,344,000 words" in message
    content = changed("evaluate.beam", 50)
    content["evaluate"]["batch_size"] = 4096
    assert "evaluate: beam × batch_size is 204,800 captions" in complaint(content, tmp_path)


@pytest.mark.parametrize(
    ("key", "named"),
    [
        (
            "attnetion",
            ["unknown key attnetion", "dataset, attention, encoder_training", "did you mean attention?"],
        ),
        ("train.scenes.epoch", ["unknown key train.scenes.epoch", "epochs, patience", "did you mean epochs?"]),
        (
            "evaluate.zzz",
            ["unknown key evaluate.zzz", "beam, length_normalization, batch_size, samples, attention_pictures"],
        ),
        ("download.folder.PATH", ["unknown key download.folder.PATH", "path, captions"]),
    ],
)
def test_an_unknown_key(key: str, named: list[str], tmp_path: Path) -> None:
    message = complaint(changed(key, 1), tmp_path)
    assert [part for part in named if part not in message] == [], message


@pytest.mark.parametrize("key", ["attention", "model.state_size", "train.flickr8k", "download.scenes.seed"])
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


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model.heads": 4}, "params.yaml: model.heads is 4, and attention dot has one head: set model.heads to 1, or"),
        (
            {"encoder_training": "fine_tuned", "features.encoder": "mine.ONNX"},
            "params.yaml: encoder_training is fine_tuned, and features.encoder 'mine.ONNX' is a network that only runs",
        ),
        ({"encoder_training": "tuned"}, "encoder_training is 'tuned': allowed are frozen, fine_tuned, random"),
        ({"fine_tune.scenes.layers": "first"}, "fine_tune.scenes.layers is 'first': input should be 'last_blocks' or"),
        (
            {"fine_tune.folder.augmentation": ["flip", "flip"]},
            "allowed are any of crop, flip, colour, each once,",
        ),
        ({"model.heads": 3, "attention": "scaled_dot"}, "model: 3 heads do not divide embedding_size, which is 256"),
        (
            {"model.heads": 4, "attention": "scaled_dot", "model.attention_size": 6},
            "model: 4 heads do not divide attention_size, which is 6",
        ),
        (
            {"model.word_vectors_trainable": False},
            "model: word_vectors_trainable is false and word_vectors none: set it to true, or give a file",
        ),
        (
            {"attention": "uniform", "train.scenes.attention_penalty": 1.0},
            "train.scenes.attention_penalty is 1, and uniform attention has nothing to learn from it: set it to 0, or",
        ),
        (
            {"model.word_vectors": "vectors.txt", "vocabulary.tokens": "bpe"},
            "params.yaml: model.word_vectors is a file with vectors of words, and vocabulary.tokens is bpe, pieces of",
        ),
        (
            {"features.preprocessing": "none"},
            "features: encoder efficientnet_lite0 has its preprocessing: leave preprocessing at auto, received none",
        ),
        (
            {"features.encoder": "own.onnx", "features.weights": "own.h5"},
            "features: encoder 'own.onnx' has its weights in it: leave weights at imagenet",
        ),
        (
            {"dataset": "shards", "download.shards.stream": True, "encoder_training": "fine_tuned"},
            "params.yaml: download.shards.stream is true, encoder_training is fine_tuned and features.views is 1: ",
        ),
        (
            {"dataset": "shards", "download.shards.stream": True, "features.views": 2},
            "params.yaml: download.shards.stream is true, encoder_training is frozen and features.views is 2: ",
        ),
        *(
            (
                {"features.image_size": value},
                f"features.image_size is {value!r}: allowed are auto, and whole numbers from",
            )
            for value in (16, 2048, "large", "224", True)
        ),
        (
            {"train.scenes.workers": 9, "train.scenes.batch_size": 8},
            "train.scenes: workers is 9 and batch_size 8, of which each of them needs a picture: lower workers, or",
        ),
        ({"features.encoder": "MobileNet"}, "features.encoder is 'MobileNet': did you mean mobilenet? allowed are"),
        ({"evaluate.samples": 1}, "evaluate.samples is 1: allowed are 0, for none, and 2 to 100"),
        ({"evaluate.samples": 100, "evaluate.batch_size": 4096}, "samples × batch_size is 409,600 captions searched"),
        (
            {"model.spatial_encoding": "sinusoidal", "model.embedding_size": 6},
            "model: spatial_encoding sinusoidal needs an embedding_size that 4 divides, received 6",
        ),
    ],
)
def test_combinations_that_make_no_sense(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    assert said in complaint(parameters.values(**changes), tmp_path)


@pytest.mark.parametrize(
    ("training", "names"),
    [
        ("frozen", set()),
        ("fine_tuned", {"layers", "epochs", "learning_rate", "encoder_learning_rate", "augmentation"}),
        ("random", {"random_epochs", "augmentation"}),
    ],
)
def test_what_of_fine_tuning_has_a_say(training: str, names: set[str], tmp_path: Path) -> None:
    found = load(changed("encoder_training", training), tmp_path)
    said = found.flat()
    assert {name for name in said if name.startswith("fine_tune.")} == {f"fine_tune.{name}" for name in names}
    assert said["encoder_training"] == training
    assert load(changed("evaluate.metrics", ["CIDEr"]), tmp_path).flat()["evaluate.metrics"] == "CIDEr"
    assert found.frozen().flat() == load(parameters.values(), tmp_path).flat()


def test_several_heads(tmp_path: Path) -> None:
    found = load(parameters.values(**{"model.heads": 4, "attention": "scaled_dot"}), tmp_path)
    assert (found.attention, found.model.heads) == ("scaled_dot", 4)


@pytest.mark.parametrize("content", ["", "# nothing\n", "null", "5", "[1, 2]", "attention"])
def test_no_keys_at_all(content: str, tmp_path: Path) -> None:
    assert "the file is" in complaint(content, tmp_path)


@pytest.mark.parametrize("content", ["a: [", "a: b: c", "\tattention: dot", "a: \x00", "a: !!python/name:os.system"])
def test_not_yaml(content: str, tmp_path: Path) -> None:
    assert "is not YAML" in complaint(content, tmp_path)


BOMB = "a0: &a0 [boom]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("seed: 1\nattention: dot\nseed: 2\n", 'line 3: found duplicate key "seed"'),
        (f"{'x' * 100}: 1\n" * 2, "line 2: found duplicate key"),
        ("a: " + "[" * 5000, "brackets within brackets"),
        ("a: " + "{a: " * 5000, "brackets within brackets"),
        ("seed: " + "9" * 5001, "Exceeds the limit"),
        ("seed: 2024-13-45", "month"),
        ("seed: !!int x", "invalid literal"),
        ("seed: !foo 5", "line 1: could not determine a constructor for the tag"),
        ("a: 1\nb:\n\t- c", "line 3: found character '\\t'"),
        ("a: \x07", "line 1: unacceptable character"),
        ("a: *b", "undefined alias"),
        ("a: 1\n---\nb: 1", "another document"),
        (BOMB, "more than 50 aliases"),
        ("x: " + "y" * (1 << 20), "more than 1,048,576 bytes"),
        ("".join(f"key{number}: 1\n" for number in range(10_000)), "more."),
        ("&a {download: *a, train: *a}", "unknown key download.download"),
        ("- a\n- b", "the file is ['a', 'b']"),
    ],
    ids=range(17),
)
def test_what_no_reader_should_stumble_over(content: str, said: str, tmp_path: Path) -> None:
    message = complaint(content, tmp_path)
    assert said in message and len(message) < 3000, message


def test_a_folder_in_the_files_place(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").mkdir()
    with pytest.raises(CaptionerError, match=r"cannot read .*params\.yaml \(Is a directory\)"):
        params.load(tmp_path / "params.yaml")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_other_encodings(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes(yaml.safe_dump(parameters.values()).encode(encoding))
    with pytest.raises(CaptionerError, match=r"UTF-16.*save the file as UTF-8"):
        params.load(tmp_path / "params.yaml")


def test_not_text(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes(b"attention: \xff\xfe")
    with pytest.raises(CaptionerError, match="is not YAML"):
        params.load(tmp_path / "params.yaml")


def test_keys_that_are_no_text(tmp_path: Path) -> None:
    assert "1" in complaint(parameters.values() | {1: 2}, tmp_path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(CaptionerError, match=r"No file .*params\.yaml: run in the checkout"):
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


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("5e-05", 5e-5),
        ("1e-5", 1e-5),
        ("1.0e-05", 1e-5),
        ("1E-3", 1e-3),
        ("1e0", 1.0),
        (".5", 0.5),
        ("+.5", 0.5),
        ("1", 1.0),
    ],
)
def test_numbers_as_dvc_writes_them(written: str, value: float, tmp_path: Path) -> None:
    text = re.sub(r"learning_rate: [\d.]+", f"learning_rate: {written}", yaml.safe_dump(parameters.values()))
    assert load(text, tmp_path).train.scenes.learning_rate == value


@given(value=st.floats(1e-10, 1000))
def test_whatever_dvc_writes_is_read_as_it_was(value: float) -> None:
    text = dumps_yaml({"learning_rate": value})
    assert params.parse(text, "params.yaml") == loads_yaml(text) == {"learning_rate": value}


@pytest.mark.parametrize(
    "text",
    [
        "1:30",
        "yes",
        "no",
        "on",
        "1_0x",
        "2024",
        "5e-05",
        "~",
        "null",
        "a: b",
        "été (é) = ~ #1",
        " a ",
        "[a]",
        "-",
        "\u3000",
    ],
)
def test_text_as_dvc_writes_it(text: str, tmp_path: Path) -> None:
    content = changed("download.folder.path", text)
    assert load(dumps_yaml(content), tmp_path).download.folder.path == text


def test_what_is_text_in_yaml_of_today() -> None:
    assert params.parse("{a: yes, b: off, c: 1:30, d: 0o17, e: +1}", "") == {
        "a": "yes",
        "b": "off",
        "c": "1:30",
        "d": 15,
        "e": 1,
    }


def test_whole_numbers_where_fractions_are_allowed(tmp_path: Path) -> None:
    assert load(changed("train.scenes.gradient_norm", 5), tmp_path).train.scenes.gradient_norm == 5.0


def test_byte_order_mark_and_carriage_returns(tmp_path: Path) -> None:
    text = "\ufeff" + yaml.safe_dump(parameters.values()).replace("\n", "\r\n")
    (tmp_path / "params.yaml").write_bytes(text.encode("utf-8"))
    assert params.load(tmp_path / "params.yaml") == parameters.params()


@pytest.mark.parametrize(
    ("old", "now"),
    [
        ("download.scenes.fewest_objects", "min_objects"),
        ("download.scenes.most_objects", "max_objects"),
        ("train.folder.captions_a_picture", "captions_per_picture"),
        ("train.photographs", "flickr8k, or folder"),
    ],
)
def test_a_key_of_an_older_version_is_refused_with_its_name_now(old: str, now: str, tmp_path: Path) -> None:
    message = complaint(changed(old, 5), tmp_path)
    assert f"the key {old} is called {now} now: docs/upgrading.md" in message


@pytest.mark.parametrize("dataset", DATASETS)
def test_recipe_is_that_of_the_data(dataset: str, tmp_path: Path) -> None:
    loaded = load(changed("dataset", dataset), tmp_path)
    assert loaded.recipe == getattr(loaded.train, dataset)


@pytest.mark.parametrize("dataset", DATASETS)
def test_flat_has_what_has_a_say_and_nothing_else(dataset: str, tmp_path: Path) -> None:
    content = changed("dataset", dataset)
    flat = load(content, tmp_path).flat()
    assert flat["dataset"] == dataset and flat["evaluate.beam"] == content["evaluate"]["beam"]
    recipe = content["train"][dataset]
    assert {key: value for key, value in flat.items() if key.startswith("train.")} == {
        f"train.{key}": value for key, value in recipe.items()
    }
    own = content["download"].get(dataset, {}) | ({} if dataset == "scenes" else {"skip_unreadable": False})
    assert {key: value for key, value in flat.items() if key.startswith("download.")} == {
        f"download.{key}": value for key, value in own.items()
    }
    assert not any(isinstance(value, (dict, list)) for value in flat.values())
