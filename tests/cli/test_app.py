"""The console command: what it prints, writes and refuses."""

import inspect
import json
import os
import shutil
import struct
import subprocess
import sys
import tomllib
import zlib
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import parameters
import pytest
import tiny
from checkout import ROOT
from measured import values, write
from PIL import Image
from typer.testing import CliRunner

from captioner import __version__
from captioner.cli.app import app, compare
from captioner.common.errors import CaptionerError
from captioner.evaluation import bootstrap
from captioner.inference.captioner import Captioner
from captioner.model.attention import ATTENTIONS


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with two runs, `a` and `b`; `b` is better."""
    write(tmp_path / "a", {"CIDEr": values(50, 20), "nll": values(2.5)}, "uniform", weights="1")
    write(tmp_path / "b", {"CIDEr": values(55, 22), "nll": values(2.4)}, "dot", weights="2")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, text=True, capture_output=True, check=True, timeout=60
    )


class TestCompare:
    def test_prints_tables_and_words(self, here: Path) -> None:
        code, out, err = call("compare", "a", "b")
        assert (code, err) == (0, "")
        assert "a · uniform  50.0 [" in out
        assert "dot is better than uniform by CIDEr: 5.0 higher, 4.6 to 5.5 (p < 0.001)." not in out
        assert "dot is better than uniform by CIDEr: 5.0 higher, 4.6 to 5.5 (p = 0.001)." in out
        assert "1,000 resamples" in out

    def test_json_and_nothing_else(self, here: Path) -> None:
        code, out, err = call("compare", "a", "b", "--json", "--resamples", "200")
        told = json.loads(out)
        assert (code, err) == (0, "")
        assert told["resamples"] == 200
        assert [each["better"] for each in told["differences"]] == ["b", "b"]

    def test_writes_a_page(self, here: Path) -> None:
        code, out, err = call("compare", "a", "b", "--json", "--html", "new/page.html")
        assert code == 0
        assert json.loads(out)
        assert err == "Wrote new/page.html.\n"
        assert (here / "new/page.html").read_text("utf-8").startswith("<!doctype html>")
        assert [each.name for each in (here / "new").iterdir()] == ["page.html"]

    def test_the_workspace_is_that_of_the_checkout_around(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (here / "a/.dvc").mkdir()
        (here / "a/deeper").mkdir()
        monkeypatch.chdir(here / "a/deeper")
        code, out, _ = call("compare", "workspace", "../../b")
        assert code == 0
        assert "workspace · uniform" in out

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["a", "nothing"], "compare: Received 'nothing', which is no run:"),
            (["a", "other"], "compare: received 'a' measured with split test and 'other' with split validation;"),
            (["a", "b", "--html", "file/page.html"], "compare: "),
        ],
    )
    def test_what_a_user_can_cause_is_one_line(self, here: Path, arguments: list[str], message: str) -> None:
        write(here / "other", {"CIDEr": values(50)}, split="validation")
        (here / "file").touch()
        code, out, err = call("compare", *arguments)
        assert (code, out) == (1, "")
        assert err.startswith(message)
        assert err.count("\n") == 1

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["a"], "received one run, 'a'; give two or more"),
            ([], "Missing argument"),
            (["a", "b", "--resamples", "99"], "received 99; give 100 to 100000"),
            (["a", "b", "--resamples", "100001"], "received 100001; give 100 to 100000"),
            (["a", "b", "--resamples", "many"], "'--resamples': Input should be a valid integer"),
        ],
    )
    def test_usage(self, here: Path, arguments: list[str], message: str) -> None:
        code, out, err = call("compare", *arguments)
        assert (code, out) == (2, "")
        assert message in " ".join(err.split())

    def test_resamples_are_as_many_as_anywhere(self) -> None:
        assert inspect.signature(compare).parameters["resamples"].default == bootstrap.RESAMPLES


@pytest.fixture
def checkout(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seeing: None) -> Path:
    """A working directory in a checkout with the tiny model, and pictures."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "models").mkdir()
    saved.rename(tmp_path / "models/captioner")
    pictures = tmp_path / "work/pictures"
    (pictures / "more").mkdir(parents=True)
    (tmp_path / "work/empty").mkdir()
    for row, name in enumerate(("a.png", "b.jpg", "more/a.png")):
        (pictures / name).write_bytes(tiny.photograph(row, "JPEG" if name.endswith("jpg") else "PNG"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def bomb() -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


class TestCaption:
    def test_one_picture_is_its_caption(self, checkout: Path) -> None:
        assert call("caption", "pictures/a.png") == (0, f"{tiny.SAID[0]}\n", "")

    def test_several_are_named(self, checkout: Path) -> None:
        code, out, err = call("caption", "pictures", "pictures/b.jpg", "--beam", "2")
        expected = [("a.png", 0), ("b.jpg", 1), ("more/a.png", 2), ("b.jpg", 1)]
        assert (code, err) == (0, "")
        assert out.splitlines() == [f"pictures/{name}: {tiny.SAID[row]}" for name, row in expected]

    def test_a_folder_of_one_is_named(self, checkout: Path) -> None:
        assert call("caption", "pictures/more") == (0, f"pictures/more/a.png: {tiny.SAID[2]}\n", "")

    def test_json_lines(self, checkout: Path) -> None:
        code, out, err = call("caption", "pictures", "--json")
        told = [json.loads(line) for line in out.splitlines()]
        assert (code, err) == (0, "")
        assert [each["image"] for each in told] == ["pictures/a.png", "pictures/b.jpg", "pictures/more/a.png"]
        assert [each["caption"] for each in told] == tiny.SAID[:3]
        for each in told:
            assert each.keys() == {"image", "caption", "words", "log_probability", "weights"}
            assert each["words"] == each["caption"].split()
            assert each["log_probability"] < 0
            assert np.shape(each["weights"]) == (len(each["words"]), 2, 2)
            np.testing.assert_allclose(np.sum(each["weights"], axis=(1, 2)), 1, atol=1e-5)

    def test_max_words(self, checkout: Path) -> None:
        code, out, _ = call("caption", "pictures", "--max-words", "1")
        assert code == 0
        assert [len(line.split(": ")[1].split()) for line in out.splitlines()] == [1, 1, 1]

    def test_samples(self, checkout: Path) -> None:
        arguments = ("pictures/a.png", "--samples", "20", "--temperature", "3", "--top-p", "1", "--seed", "1")
        code, out, err = call("caption", *arguments)
        captions = out.splitlines()
        assert (code, err) == (0, "")
        assert 1 < len(captions) <= 20 and len(set(captions)) == len(captions)
        told = json.loads(call("caption", *arguments, "--json")[1])
        assert told["image"] == "pictures/a.png"
        assert [each["caption"] for each in told["captions"]] == captions

    def test_samples_of_several(self, checkout: Path) -> None:
        code, out, err = call("caption", "pictures", "none.png", "--samples", "5", "--top-p", "0.000001")
        assert code == 1
        assert [line.split(": ")[1] for line in out.splitlines()] == tiny.SAID[:3]
        assert err.startswith("caption: none.png: there is no such file")

    @pytest.mark.parametrize("options", [(), ("--samples", "3", "--top-p", "0.000001")])
    @pytest.mark.parametrize("figure", [(), ("--figure", "figures")])
    def test_a_model_that_sees_the_middle(
        self, options: tuple[str, ...], figure: tuple[str, ...], model: Captioner, checkout: Path
    ) -> None:
        of_middle = replace(model, encoder=model.encoder | {"image_size": 64, "crop": "center"})
        of_middle.save(checkout / "models/middle")
        Path("wide.png").write_bytes(tiny.wide(middle=1, sides=3))
        asked = ("caption", "wide.png", *options, *figure, "--model")
        assert call(*asked, str(checkout / "models/middle"))[:2] == (0, f"{tiny.SAID[1]}\n")
        assert call(*asked, str(checkout / "models/captioner"))[:2] == (0, f"{tiny.SAID[3]}\n")

    @pytest.mark.parametrize("sampling", [(), ("--samples", "3")])
    def test_figures(self, sampling: tuple[str, ...], checkout: Path) -> None:
        Path("pictures/bad.png").write_bytes(b"%PDF-1.4")
        assert call("caption", "pictures", "--figure", "new/figures", *sampling)[0] == 1
        figures = sorted(Path("new/figures").iterdir())
        assert [path.name for path in figures] == ["a.png-2.png", "a.png.png", "b.jpg.png"]
        lightness = []
        for path in figures:
            with Image.open(path) as drawn:
                assert drawn.width == 1070
                lightness.append(np.asarray(drawn)[150, 60].mean())
        assert lightness[1] < lightness[2] < lightness[0]  # each shows its own picture

    @pytest.mark.parametrize(
        ("name", "data", "message"),
        [
            ("empty.jpg", b"", "the file is empty"),
            ("cut.png", tiny.photograph(0)[:45], "a broken or truncated picture"),
            ("bomb.png", bomb(), "too large"),
            ("phone.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC picture, as telephones take"),
            ("paper.pdf", b"%PDF-1.7", "a PDF document"),
            ("page.jpg", b"<!DOCTYPE html>", "an HTML page"),
            ("words.jpg", b"these are words", "no picture (it is text): allowed are JPEG, "),
        ],
    )
    def test_what_is_no_picture_is_named_and_the_rest_goes_on(
        self, name: str, data: bytes, message: str, checkout: Path
    ) -> None:
        Path(name).write_bytes(data)
        code, out, err = call("caption", "pictures/a.png", name, "pictures/b.jpg")
        assert (code, out) == (1, f"pictures/a.png: {tiny.SAID[0]}\npictures/b.jpg: {tiny.SAID[1]}\n")
        first, last = err.splitlines()
        assert first.startswith(f"caption: {name}: {message}")
        assert last == "caption: 1 of 3 pictures could not be read."
        assert call("caption", name) == (1, "", f"{first}\n")

    def test_of_an_animation_the_first_frame_is_captioned(self, checkout: Path) -> None:
        frames = [Image.new("RGB", (8, 8), (60 * row + 20,) * 3) for row in (2, 0)]
        frames[0].save("moving.gif", save_all=True, append_images=frames[1:])
        assert call("caption", "moving.gif") == (0, f"{tiny.SAID[2]}\n", "")

    @pytest.mark.parametrize(
        ("place", "message"),
        [("empty", "empty: a folder with no picture:"), ("none.jpg", "none.jpg: there is no such file:")],
    )
    def test_nothing_to_caption_needs_no_model(self, place: str, message: str, checkout: Path) -> None:
        shutil.rmtree(checkout / "models")
        code, out, err = call("caption", place)
        assert (code, out) == (1, "")
        assert err.startswith(f"caption: {message}") and err.count("\n") == 1

    def test_an_address_is_fetched_once(self, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fetched = []

        def fetch(address: str, public: bool = False) -> bytes:
            fetched.append(address)
            return tiny.photograph(3)

        monkeypatch.setattr("captioner.inference.pictures.fetch", fetch)
        assert call("caption", "http://x.org/a%20b/tree.png?size=9", "--figure", "f") == (0, f"{tiny.SAID[3]}\n", "")
        assert fetched == ["http://x.org/a%20b/tree.png?size=9"]
        assert [path.name for path in Path("f").iterdir()] == ["tree.png.png"]

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (shutil.rmtree, "There is no model in"),
            (lambda model: (model / "decoder.keras").unlink(), "has no complete model"),
            (lambda model: (model / "vocabulary.json").unlink(), "No vocabulary at"),
            (lambda model: (model / "model.json").unlink(), "has no complete model"),
            (lambda model: (model / "model.json").write_text('{"format": 99}'), "has the format 99"),
        ],
    )
    def test_no_whole_model(self, damage: Callable[[Path], object], message: str, checkout: Path) -> None:
        damage(checkout / "models/captioner")
        code, out, err = call("caption", "pictures")
        assert (code, out) == (1, "")
        assert err.startswith("caption: ") and message in err and "dvc repro" in err and err.count("\n") == 1

    def test_a_model_elsewhere(self, checkout: Path) -> None:
        (checkout / "models/captioner").rename(checkout / "work/moved")
        assert call("caption", "pictures/a.png", "--model", "moved")[1] == f"{tiny.SAID[0]}\n"
        code, _, err = call("caption", "pictures/a.png", "--model", "models:/captioner-scenes@champion")
        assert code == 1 and "there is no MLflow store" in err and err.count("\n") == 1
        assert not (checkout / "mlflow.db").exists()

    @pytest.mark.parametrize(
        "arguments",
        [
            ["x", "--beam", "0"],
            ["x", "--beam", "51"],
            ["x", "--max-words", "0"],
            ["x", "--samples", "0"],
            ["x", "--samples", "2", "--temperature", "0"],
            ["x", "--samples", "2", "--top-p", "0"],
            ["x", "--samples", "2", "--top-p", "1.5"],
            ["--json"],
        ],
    )
    def test_usage(self, arguments: list[str], checkout: Path) -> None:
        code, out, err = call("caption", *arguments)
        assert (code, out) == (2, "")
        assert "Usage: " in err


class TestPromote:
    def test_without_a_store(self, here: Path) -> None:
        code, out, err = call("promote")
        assert (code, out) == (1, "")
        assert err.startswith(f"promote: There is no model to promote: there is no MLflow store sqlite:///{here}")
        assert err.count("\n") == 1
        assert not (here / "mlflow.db").exists()


class TestInfo:
    def test_as_a_table_and_as_json(self, checkout: Path, model: Captioner) -> None:
        own, other = f"beam:3|weights:{model.weights_sha256[:12]}", "beam:3|weights:0123456789ab"
        scores = {
            "CIDEr": {"value": 53.25, "low": 50.0, "high": 56.0, "signature": f"CIDEr|{own}"},
            "METEOR": {"value": 1.0, "low": 0.0, "high": 2.0, "signature": f"METEOR|{other}"},
        }
        (checkout / "results/evaluate").mkdir(parents=True)
        (checkout / "results/evaluate/scores.json").write_text(json.dumps(scores), "utf-8")
        code, out, err = call("info")
        assert (code, err) == (0, "")
        words = len(tiny.vocabulary()) - 4
        for expected in ("efficientnet_lite0", f"{words} words", "bahdanau", "53.25  [50.00, 56.00]  CIDEr|beam:3|"):
            assert expected in out
        assert "METEOR" not in out
        told = json.loads(call("info", "--json")[1])
        assert told["scores"] == {"CIDEr": scores["CIDEr"]}
        assert (told["params"], told["weights_sha256"]) == (model.params, model.weights_sha256)
        assert (told["words"], told["maximum_words"], told["attention"], told["data"]) == (words, 4, "bahdanau", None)

    def test_word_vectors(self, checkout: Path, model: Captioner) -> None:
        vectors = {"file": "glove.txt", "covered": 93.12}
        replace(model, word_vectors=vectors).save(checkout / "models/captioner")
        code, out, err = call("info")
        assert (code, err) == (0, "") and "vectors     glove.txt, of 93.12 % of the words\n" in out
        assert json.loads(call("info", "--json")[1])["word_vectors"] == vectors
        assert "glove.txt" in call("info", "--card")[1]

    def test_without_scores_or_model(self, checkout: Path) -> None:
        assert "none beside this model" in call("info")[1]
        expected = "info: There is no model in elsewhere: make one with `dvc repro`.\n"
        assert call("info", "--model", "elsewhere") == (1, "", expected)
        assert call("info", "--card", "--model", "elsewhere") == (1, "", expected)

    def test_as_a_card(self, checkout: Path, model: Captioner) -> None:
        code, out, err = call("info", "--card")
        assert (code, err) == (0, "")
        assert out.startswith("# Model card: bahdanau attention on ")
        assert model.weights_sha256[:12] in out
        assert call("info", "--card", "--json")[0] == 2


class TestCheck:
    def states(self, out: str) -> dict[str, str]:
        return {line[9:29].strip(): line[:9].strip() for line in out.splitlines()}

    def test_ready(self, checkout: Path) -> None:
        code, out, _ = call("check")
        needed = {"Python", "backend", "efficientnet_lite0", "Java", "disk"}
        states = self.states(out)
        assert {name for name, state in states.items() if state == "ok"} >= needed | {"model"}
        others = {"efficientnet_lite1", "efficientnet_lite2", "other encoders"}
        assert states.keys() == needed | others | {"GPU", "mirror", "model"}
        assert code == 0

    def test_what_is_missing(self, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def no_java() -> str:
            raise CaptionerError("found no Java")

        monkeypatch.setattr("captioner.scoring.java.find_java", no_java)
        monkeypatch.setenv("CAPTIONER_MIRROR", "mirror")
        monkeypatch.setenv("KERAS_BACKEND", "no-such-backend")
        shutil.rmtree(checkout / "models")
        code, out, _ = call("check")
        states = self.states(out)
        assert code == 1
        assert {name for name, state in states.items() if state == "MISSING"} == {"Java", "mirror", "backend"}
        assert states["model"] == "none"
        assert "KERAS_BACKEND is 'no-such-backend': set it to tensorflow or jax, or unset it" in out
        assert "Flickr8k_Dataset.zip" in out and "unset CAPTIONER_MIRROR" in out
        (checkout / "mirror/flickr8k").mkdir(parents=True)
        for name in ("Flickr8k_Dataset.zip", "Flickr8k_text.zip"):
            (checkout / "mirror/flickr8k" / name).touch()
        assert self.states(call("check")[1])["mirror"] == "ok"


def test_version() -> None:
    assert call("--version") == (0, f"captioner {__version__}\n", "")


def test_help_comes_at_once() -> None:
    script = """
import sys
from captioner.cli.app import app
try:
    app(["--help"])
except SystemExit as ended:
    assert not ended.code
print(sorted({"tensorflow", "keras", "mlflow", "dvc", "pandas", "numpy"} & sys.modules.keys()))
"""
    lines = python("-c", script).stdout.splitlines()
    assert {"caption", "check", "compare", "info"} <= {line.split()[0] for line in lines if line.strip()}
    assert lines[-1] == "[]"


def test_compares_without_tensorflow(here: Path) -> None:
    script = """
import sys
from captioner.cli.app import app
try:
    app(["compare", "a", "b"])
except SystemExit as ended:
    assert not ended.code
print(sorted({"tensorflow", "keras", "mlflow", "dvc"} & sys.modules.keys()))
"""
    assert python("-c", script).stdout.splitlines()[-1] == "[]"


def test_looks_at_a_model_without_loading_it(saved: Path) -> None:
    script = """
import sys
from captioner.cli.app import app
try:
    app(["info", "--model", sys.argv[1]])
except SystemExit as ended:
    assert not ended.code
print(sorted({"tensorflow", "keras", "mlflow", "dvc", "pandas"} & sys.modules.keys()))
"""
    assert python("-c", script, str(saved)).stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_a_caption_loads_no_more_than_it_needs(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(tiny.photograph(0))
    script = """
import sys
from captioner.cli.app import app
import numpy
import captioner.features.extract
class Extractor:  # the tests' own loads more
    weights_sha256 = "0123456789abcdef"
    def __init__(self, *_, **__): pass
    def __call__(self, pixels): return numpy.ones((len(pixels), 4, 6), numpy.float16)
captioner.features.extract.Extractor = Extractor
try:
    app(["caption", sys.argv[1], "--model", sys.argv[2]])
except SystemExit as ended:
    assert not ended.code
print(sorted({"mlflow", "dvc", "pandas", "matplotlib", "sklearn"} & sys.modules.keys()))
"""
    said, modules = python("-c", script, str(tmp_path / "a.png"), str(saved)).stdout.splitlines()
    assert said
    assert modules == "[]"


def test_the_package_is_a_command() -> None:
    assert python("-m", "captioner", "--version").stdout == f"captioner {__version__}\n"


def test_the_script_of_the_package_is_the_command() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    module, _, name = project["scripts"]["captioner"].partition(":")
    assert getattr(import_module(module), name) is app
    assert project["version"] == __version__


@pytest.mark.parametrize(
    ("command", "example"),
    [
        ("caption", "captioner caption dog.jpg --samples 5 "),
        ("promote", "mlflow models serve -m models:/captioner-flickr8k@"),
    ],
)
def test_help_gives_each_example_a_line(command: str, example: str) -> None:
    code, out, _ = call(command, "--help")
    assert code == 0
    assert any(line.strip().startswith(example) for line in out.splitlines())


@pytest.mark.parametrize("seeds", [str(2**32), "-1", "1.5", "1e3", "9" * 5001, "one", ","])
def test_a_study_takes_the_seeds_that_a_training_takes(seeds: str) -> None:
    code, _, err = call("study", "--seeds", seeds)
    assert code == 1 and err.startswith("study: --seeds is '") and len(err) < 300
    assert err.endswith("give whole numbers from 0 to 4294967295, as in --seeds 1,2,3.\n")


def test_what_an_attention_of_a_study_cannot_have_is_refused_before_the_first_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters.write(tmp_path, **{"attention": "scaled_dot", "model.heads": 4})
    monkeypatch.chdir(tmp_path)
    code, out, err = call("study", "--attentions", "scaled_dot,dot")
    assert (code, out) == (1, "")
    assert err.startswith("study: params.yaml: model.heads is 4, and attention dot has one head: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--attentions", "dot,additive"], f"--attentions has 'additive': allowed are {', '.join(ATTENTIONS)}."),
        (["--attentions", "dot"], "--attentions is 'dot': a study needs two or more."),
        (["--dataset", "coco"], "--dataset has 'coco': allowed are scenes, flickr8k, folder, shards."),
        (["--dataset", "scenes,folder"], "--dataset is 'scenes,folder': a study has one; start one for each."),
    ],
)
def test_what_a_study_refuses(arguments: list[str], message: str) -> None:
    assert call("study", *arguments) == (1, "", f"study: {message}\n")
