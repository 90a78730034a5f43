"""What DVC is told of a stage is what the stage does."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import parameters
import pytest
import tiny
import yaml
from checkout import ROOT
from PIL import Image
from tarballs import pack

from captioner.data import store
from captioner.data.dataset import CAPTION_COLUMNS, SPLITS, Dataset
from captioner.model.attention import ATTENTIONS
from captioner.params import Recipe

pytestmark = pytest.mark.slow

SOURCE = ROOT / "src"
PIPELINE: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text("utf-8"))
STAGES: dict[str, dict[str, Any]] = PIPELINE["stages"]
EVERY = pytest.mark.parametrize("stage", STAGES)
# properties of the parameters: what they read
DERIVED = {
    "recipe": {"dataset", "train"},
    "fine_tuning": {"dataset", "fine_tune"},
    "streamed": {"dataset", "download"},
}
NO_INPUT = {"flat", "frozen"}  # for the record only


# --- what a script reads ---------------------------------------------------------------------------------


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def scripts(path: Path) -> set[Path]:
    """A script, and what it imports of those beside it."""
    found, waiting = set[Path](), {path}
    while waiting:
        found |= waiting
        imported = {
            alias.name
            for one in waiting
            for node in ast.walk(parsed(one))
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        waiting = {each for name in imported if (each := path.parent / f"{name}.py").exists()} - found
    return found


def parameters_read(path: Path) -> set[str]:
    """The sections of `params` that a script names, and those that it shares with others."""
    named = {
        node.attr
        for each in scripts(path)
        for node in ast.walk(parsed(each))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "params"
    }
    return {section for name in named - NO_INPUT for section in DERIVED.get(name, {name})}


# --- dvc.yaml --------------------------------------------------------------------------------------------------------


@EVERY
def test_dependencies_are_sorted_and_each_there_once(stage: str) -> None:
    assert STAGES[stage]["deps"] == sorted(set(STAGES[stage]["deps"]))


@EVERY
def test_parameters_are_what_the_script_reads(stage: str) -> None:
    listed = {name.split(".")[0] for name in STAGES[stage].get("params", [])}
    assert listed == parameters_read(ROOT / f"stages/{stage}.py")


def test_of_a_recipe_each_stage_names_the_keys_that_concern_it() -> None:
    def listed(stage: str) -> set[str]:
        names = STAGES[stage]["params"]
        return {name.rpartition(".")[2] for name in names if name.startswith("train.${dataset}.")}

    blind, every = {"blind_epochs", "blind_learning_rate"}, {*Recipe.model_fields}
    trained = {"epochs", "learning_rate", "attention_penalty", "workers"}
    assert listed("blind") == every - trained and listed("train") == every - blind
    assert listed("fine_tune") == every - blind - {"epochs", "workers"}
    assert listed("baselines") == {"maximum_words"}


@EVERY
def test_script_and_function_bear_the_name_of_the_stage(stage: str) -> None:
    assert STAGES[stage]["cmd"] == f"python stages/{stage}.py"
    functions = [node.name for node in parsed(ROOT / f"stages/{stage}.py").body if isinstance(node, ast.FunctionDef)]
    assert stage in functions


@EVERY
def test_nothing_switches_off_the_run_cache(stage: str) -> None:
    assert STAGES[stage]["deps"]
    assert not STAGES[stage].keys() & {"metrics", "plots", "frozen"}
    assert STAGES[stage].get("always_changed", False) == (stage == "fingerprint")
    if stage != "fingerprint":  # which reads what it wrote before
        assert [out for out in STAGES[stage]["outs"] if not isinstance(out, str)] == []


def test_data_dependencies_are_outputs_of_earlier_stages() -> None:
    made: list[str] = []
    for stage in STAGES.values():
        for path in stage["deps"]:
            if not path.startswith(("src/", "stages/")):
                assert any(path == out or path.startswith(f"{out}/") for out in made), path
        made += [path for out in stage["outs"] for path in ([out] if isinstance(out, str) else out)]
    assert len(made) == len(set(made))
    for shown in (*PIPELINE["metrics"], *(path for plot in PIPELINE["plots"] for path in _files(plot))):
        assert any(shown == out or shown.startswith(f"{out}/") for out in made), shown


def _files(plot: str | dict[str, Any]) -> list[str]:
    return [plot] if isinstance(plot, str) else [path for described in plot.values() for path in described["y"]]


# --- the scripts -----------------------------------------------------------------------------------------------------


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A directory with parameters and four captions."""
    parameters.write(tmp_path, **{"vocabulary.minimum_count": 2})
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    rows = [("a.png", "train", "a dog runs"), ("b.png", "train", "a dog"), *[("c.png", "test", "a cat")] * 3]
    pictures = [(name, (tmp_path / "picture.png").read_bytes()) for name in ("a.png", "b.png", "c.png")]
    store.write(Dataset(pd.DataFrame(rows, columns=CAPTION_COLUMNS), pictures), tmp_path / "data")
    (tmp_path / "picture.png").unlink()
    return tmp_path


def run(*command: str, directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=directory,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def script(stage: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return run(str(ROOT / f"stages/{stage}.py"), directory=directory)


def files(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_stage_writes_its_output_and_its_time(workspace: Path) -> None:
    done = script("vocabulary", workspace)
    assert (done.returncode, done.stderr) == (0, "")
    written = json.loads((workspace / "data/vocabulary.json").read_text("utf-8"))
    assert list(written["model"]["vocab"])[4:] == ["a", "dog"]  # "cat" stands in no training caption
    assert json.loads((workspace / "results/seconds/vocabulary.json").read_text("utf-8"))["vocabulary"] >= 0


@pytest.mark.parametrize("stage", ["download", "vocabulary", "features"])
def test_an_unknown_attention_is_one_line_before_any_work(stage: str, workspace: Path) -> None:
    parameters.write(workspace, attention="additive")
    before = files(workspace)
    done = script(stage, workspace)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (f"{stage}: params.yaml: attention is 'additive': allowed are {', '.join(ATTENTIONS)}.\n")
    assert files(workspace) == before


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"KERAS_BACKEND": "tensorflow"}, "RAY_ADDRESS is not set: set it to local, for processes on this machine, or"),
        ({"KERAS_BACKEND": "jax", "RAY_ADDRESS": "local"}, "KERAS_BACKEND is jax, which trains in one process: set"),
    ],
)
def test_workers_that_there_cannot_be_are_one_line(environment: dict[str, str], said: str, workspace: Path) -> None:
    parameters.write(workspace, **{"train.scenes.workers": 2})
    done = run(str(ROOT / "stages/train.py"), directory=workspace, **environment)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"train: train.scenes.workers is 2, and {said}")


@pytest.fixture
def own(workspace: Path) -> Path:
    """A folder of one's own pictures in the workspace, chosen as its data set."""
    folder = workspace / "mine"
    folder.mkdir()
    for number, (split, shade) in enumerate((split, shade) for split in SPLITS for shade in (0, 90)):
        Image.new("RGB", (8, 8), (shade,) * 3).save(folder / f"{split}{number}.png")
    rows = [f"{path.name},a dog runs,{path.name[:-5]}" for path in sorted(folder.glob("*.png"))]
    (folder / "captions.csv").write_text("image,caption,split\n" + "\n".join(rows) + "\n", "utf-8")
    parameters.write(workspace, dataset="folder", **{"download.folder.path": "mine", "vocabulary.minimum_count": 1})
    return folder


def fingerprints(directory: Path) -> tuple[bytes, ...]:
    done = script("fingerprint", directory)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return tuple(
        (directory / f"data/fingerprints/{name}.json").read_bytes() for name in ("pictures", "weights", "encoder")
    )


def test_a_fingerprint_changes_with_the_content_of_what_is_named_and_with_nothing_else(own: Path) -> None:
    workspace = own.parent
    first = fingerprints(workspace)
    os.utime(own / "train0.png", ns=(0, 0))
    (own / "not-captioned.png").write_bytes(b"?")
    assert fingerprints(workspace) == first
    Image.new("RGB", (8, 8), "red").save(own / "train0.png")
    other_picture = fingerprints(workspace)
    assert other_picture[0] != first[0] and other_picture[1] == first[1]
    (own / "captions.csv").write_text((own / "captions.csv").read_text("utf-8").replace("dog", "cat"), "utf-8")
    assert fingerprints(workspace)[0] not in (first[0], other_picture[0])
    (own / "captions.csv").write_text("nonsense", "utf-8")  # the stage that reads it says what is wrong
    assert fingerprints(workspace)[0] not in (first[0], other_picture[0])


def test_a_clone_without_ones_own_pictures_keeps_what_was_made_of_them(own: Path) -> None:
    workspace = own.parent
    first = fingerprints(workspace)
    own.rename(workspace / "elsewhere")
    done = script("fingerprint", workspace)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "fingerprint: there is no mine here: what was made of it is kept.\n"
    assert (workspace / "data/fingerprints/pictures.json").read_bytes() == first[0]
    parameters.write(workspace, dataset="folder", **{"download.folder.path": "others"})
    assert fingerprints(workspace)[0] != first[0]


def test_shards_are_a_data_set(workspace: Path) -> None:
    for shard in range(3):
        members = [(f"{number}.png", tiny.photograph(number)) for number in range(3)]
        pack(workspace / f"crawl/{shard}.tar", sorted([*members, *((f"{n}.txt", b"a dog runs") for n in range(3))]))
    parameters.write(workspace, dataset="shards", **{"download.shards.path": "crawl/{0..2}.tar"})
    first = fingerprints(workspace)
    assert b"shards" in first[0]
    done = script("download", workspace)
    assert (done.returncode, done.stdout) == (0, "")
    assert set(store.read_captions(workspace / "data")["split"]) == set(SPLITS)
    pack(workspace / "crawl/1.tar", [])
    assert fingerprints(workspace)[0] != first[0]
    (workspace / "crawl").rename(workspace / "elsewhere")
    done = script("fingerprint", workspace)
    assert done.stderr == "fingerprint: there is no crawl/{0..2}.tar here: what was made of it is kept.\n"
    done = script("download", workspace)
    assert done.returncode == 1 and done.stderr.startswith("download: there is no ") and done.stderr.count("\n") == 1


def test_pictures_that_stay_in_their_shards_are_trained_on(workspace: Path) -> None:
    for shard in range(3):
        members = [(f"{number}.png", tiny.photograph(number % 4)) for number in range(6)]
        pack(workspace / f"crawl/{shard}.tar", sorted([*members, *((f"{n}.txt", b"a dog runs") for n in range(6))]))
    changes = {"download.shards.path": "crawl", "download.shards.stream": True, "download.shards.validation": 0.2}
    parameters.write(workspace, dataset="shards", **changes, **{"vocabulary.minimum_count": 1})
    stages = ("fingerprint", "download", "vocabulary", "features", "train")
    code = [
        f"import sys; sys.path.insert(0, {str(ROOT / 'stages')!r})",
        f"import {', '.join(stages)}, stage, captioner.params",
        "given = captioner.params.load(captioner.params.Path('params.yaml'))",
        *(f"{stage}.{stage}(given)" for stage in stages),
    ]
    done = run("-c", "\n".join(code), directory=workspace)
    assert done.returncode == 0, done.stderr
    captions = store.read_captions(workspace / "data")
    with zipfile.ZipFile(workspace / "data/images.zip") as archive:
        assert set(archive.namelist()) == set(captions["image"][captions["split"] != "train"])
    assert {path.name for path in (workspace / "data/features/train").iterdir()} == {f"{n}.parquet" for n in range(3)}
    assert (workspace / "models/train/decoder.keras").exists()


def test_a_fingerprint_of_weights(workspace: Path) -> None:
    none = fingerprints(workspace)
    parameters.write(workspace, **{"features.weights": "own.h5"})
    done = script("fingerprint", workspace)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("fingerprint: weights 'own.h5' of encoder") and done.stderr.count("\n") == 1
    (workspace / "own.h5").write_bytes(b"one")
    one = fingerprints(workspace)
    (workspace / "own.h5").write_bytes(b"two")
    assert len({none, one, fingerprints(workspace)}) == 3


def test_a_fingerprint_of_an_encoder(workspace: Path) -> None:
    none = fingerprints(workspace)
    parameters.write(workspace, **{"features.encoder": "networks/own"})
    done = script("fingerprint", workspace)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("fingerprint: encoder 'networks/own' is no file") and done.stderr.count("\n") == 1
    (workspace / "networks/own").mkdir(parents=True)
    found = [none]
    for file, content in (("config.json", b"one"), ("config.json", b"two"), ("model.weights.h5", b"")):
        (workspace / "networks/own" / file).write_bytes(content)
        found.append(fingerprints(workspace))
    assert len(set(found)) == 4


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a git checkout to copy")
def test_dvc_runs_again_what_depends_on_a_changed_file(own: Path) -> None:
    workspace = own.parent
    shutil.rmtree(workspace / "data")
    for name in ("dvc.yaml", ".dvc/config", ".dvcignore"):
        (workspace / name).parent.mkdir(exist_ok=True)
        (workspace / name).write_bytes((ROOT / name).read_bytes())
    for name in ("src", "stages"):
        shutil.copytree(ROOT / name, workspace / name, ignore=shutil.ignore_patterns("__pycache__"))
    assert run("-m", "dvc", "config", "core.no_scm", "true", directory=workspace).returncode == 0

    def repeated() -> list[str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = run("-m", "dvc", "repro", "vocabulary", directory=workspace, PATH=path, DVC_NO_ANALYTICS="1")
        assert done.returncode == 0, done.stdout + done.stderr
        return re.findall("Running stage '(.*)'", done.stdout)

    assert repeated() == ["fingerprint", "download", "vocabulary"]
    os.utime(own / "train0.png", ns=(0, 0))
    assert repeated() == ["fingerprint"]
    Image.new("RGB", (8, 8), "red").save(own / "train0.png")
    assert repeated() == ["fingerprint", "download"]
    (own / "captions.csv").write_text((own / "captions.csv").read_text("utf-8").replace("dog", "cat"), "utf-8")
    assert repeated() == ["fingerprint", "download", "vocabulary"]


def test_what_spice_lacks_is_one_line_before_any_work(workspace: Path) -> None:
    parameters.write(workspace, **{"evaluate.metrics": ["CIDEr", "SPICE"]})
    (workspace / "results/evaluate").mkdir(parents=True)
    (workspace / "results/evaluate/metrics.json").write_text('{"CIDEr": 50}\n')
    before = files(workspace)
    done = script("evaluate", workspace)  # there is no model to load either: that would be the next complaint
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("evaluate: SPICE needs stanford-corenlp-3.6.0.jar") and done.stderr.count("\n") == 1
    assert files(workspace) == before


def test_a_failure_leaves_what_was_and_nothing_half_written(workspace: Path) -> None:
    script("vocabulary", workspace)
    parameters.write(workspace, **{"vocabulary.minimum_count": 99})
    before = files(workspace)
    done = script("vocabulary", workspace)
    assert done.returncode == 1
    assert done.stderr.startswith("vocabulary: No word occurs 99 times or more") and done.stderr.count("\n") == 1
    assert files(workspace) == before


def test_without_parameters_or_data(tmp_path: Path) -> None:
    done = script("vocabulary", tmp_path)
    assert done.returncode == 1 and done.stderr.startswith("vocabulary: No file params.yaml")
    parameters.write(tmp_path)
    done = script("vocabulary", tmp_path)
    assert done.returncode == 1 and "data/captions.parquet" in done.stderr and done.stderr.count("\n") == 1
    assert list(files(tmp_path)) == [str(tmp_path / "params.yaml")]


@pytest.mark.parametrize(
    ("happens", "code", "line"),
    [
        (
            "raise OSError(28, 'No space left on device', 'data/x')",
            1,
            "x: No space left on device (data/x); no output was written.\n",
        ),
        ("os.kill(os.getpid(), signal.SIGINT)", 130, "x: interrupted; no output was written.\n"),
        ("os.kill(os.getpid(), signal.SIGTERM)", 143, "x: interrupted; no output was written.\n"),
        ("raise interruption.Interrupted(15, 'half is kept.')", 143, "x: interrupted; half is kept.\n"),
    ],
)
def test_what_the_world_can_cause_is_one_line(happens: str, code: int, line: str, workspace: Path) -> None:
    before = files(workspace)
    script = "import os, signal, stage\nfrom captioner.common import interruption\n"
    script += f"def x(params): {happens}\nstage.run(x)"
    done = run("-c", script, directory=workspace, PYTHONPATH=str(ROOT / "stages"))
    assert (done.returncode, done.stderr) == (code, line)
    assert files(workspace) == before


def test_a_fault_of_ours_keeps_its_trace(workspace: Path) -> None:
    code = "import stage\ndef x(params): return 1 / 0\nstage.run(x)"
    done = run("-c", code, directory=workspace, PYTHONPATH=str(ROOT / "stages"))
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr and "Traceback" in done.stderr


def test_a_stage_takes_the_source_beside_it(tmp_path: Path) -> None:
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/stage.py").write_bytes((ROOT / "stages/stage.py").read_bytes())
    (tmp_path / "src").symlink_to(SOURCE)
    code = "import stage, captioner; print(captioner.__file__)"
    done = run("-c", code, directory=tmp_path, PYTHONPATH=str(tmp_path / "stages"))
    assert done.stdout.strip() == str(tmp_path / "src/captioner/__init__.py")


@pytest.mark.parametrize(
    ("value", "expected"), [("../mirror", "{main}/../mirror"), ("/mirror", "/mirror"), ("", "None")]
)
def test_paths_in_the_environment_count_from_the_main_checkout(value: str, expected: str, tmp_path: Path) -> None:
    code = "import stage; print(stage.from_environment('CAPTIONER_MIRROR'))"
    variables = {
        "PYTHONPATH": str(ROOT / "stages"),
        "DVC_ROOT": str(tmp_path / "main"),
        "CAPTIONER_MIRROR": value,
    }
    done = run("-c", code, directory=tmp_path, **variables)
    assert done.stdout.strip() == expected.format(main=tmp_path / "main")
