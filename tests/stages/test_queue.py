"""Experiments that are really queued, in a copy of the checkout with a data set of 40 pictures."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import parameters
import pytest
from checkout import ROOT
from eagerly import eager_pythonpath

pytestmark = pytest.mark.slow

EXPERIMENT = "of the copy"

# what a pipeline is made of; all else in a checkout is data, results and settings of its user
PROJECT = (".dvc/.gitignore", ".dvcignore", ".gitignore", "dvc.yaml", "src", "stages")
TINY = {
    "vocabulary.minimum_count": 1,
    "model.embedding_size": 8,
    "model.state_size": 16,
    "model.attention_size": 8,
    # few words, since a step's time grows with them
    "train.scenes.epochs": 1,
    "train.scenes.maximum_words": 3,
    "evaluate.beam": 1,
    "evaluate.attention_pictures": 2,
    # METEOR takes ten seconds to start; `baselines` asks it all the same
    "evaluate.metrics": ["BLEU", "CIDEr"],
}


@dataclass
class Checkout:
    """A copy of the checkout with a git history of its own."""

    path: Path

    def environment(self, **more: str) -> dict[str, str]:
        # stages start `python`: the one that runs the tests
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return os.environ | {"PATH": path, "PYTHONPATH": eager_pythonpath(), "DVC_NO_ANALYTICS": "1"} | more

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        # bounded, since a worker of DVC's queue may miss that its work is done, and then waits for ever
        return subprocess.run(
            command,
            cwd=self.path,
            env=self.environment(**environment),
            text=True,
            capture_output=True,
            check=False,
            timeout=600,
        )

    def must(self, *command: str) -> str:
        done = self.run(*command)
        assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def runs(self, name: str = EXPERIMENT) -> list[Any]:
        import mlflow

        client = mlflow.MlflowClient(f"sqlite:///{self.path / 'mlflow.db'}")
        experiment = client.get_experiment_by_name(name)
        return [] if experiment is None else list(client.search_runs([experiment.experiment_id]))

    def bearing(self, names: str) -> list[Any]:
        """Return the runs that bear the name of an experiment of DVC, in the way that the documentation says."""
        import mlflow

        client = mlflow.MlflowClient(f"sqlite:///{self.path / 'mlflow.db'}")
        numbers = [client.get_experiment_by_name(EXPERIMENT).experiment_id]
        return list(client.search_runs(numbers, f"tags.dvc_experiment LIKE '%{names}%'"))

    def trainings(self) -> dict[str, Any]:
        return {run.info.run_id: run for run in self.runs() if "attention" in run.data.tags}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    copy = Checkout(tmp_path_factory.mktemp("queue") / "checkout")
    for name in PROJECT:
        (copy.path / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy.path / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(ROOT / name, copy.path / name)
    (copy.path / ".dvc/config").write_text('[cache]\n    type = "reflink,hardlink,symlink,copy"\n')
    parameters.write(copy.path, **TINY)
    # tells this copy's source from the one that is installed
    module = copy.path / "src/captioner/tracking/store.py"
    source = module.read_text("utf-8")
    assert 'EXPERIMENT = "captioner"' in source
    module.write_text(source.replace('EXPERIMENT = "captioner"', f'EXPERIMENT = "{EXPERIMENT}"'), "utf-8")
    for command in (
        ["init", "--quiet", "--initial-branch", "main"],
        ["config", "user.name", "tester"],
        ["config", "user.email", "tester@example.org"],
        ["add", "--all"],
        ["commit", "--quiet", "--message", "tiny"],
    ):
        copy.must("git", *command)
    return copy


@pytest.fixture(scope="module")
def queued(checkout: Checkout) -> Iterator[tuple[Checkout, str]]:
    """The copy after a sweep over two attentions, and what DVC said: the first things that the store ever holds."""
    checkout.must("dvc", "exp", "run", "--queue", "-S", "attention=uniform,dot")
    yield checkout, checkout.must("dvc", "exp", "run", "--run-all")


def test_sweep(queued: tuple[Checkout, str]) -> None:
    checkout, said = queued
    trainings = checkout.trainings().values()
    assert not checkout.runs("captioner")
    assert {run.data.tags["attention"] for run in trainings} == {"uniform", "dot"}
    assert all(run.info.status == "FINISHED" for run in checkout.runs())
    assert all(
        {"test/CIDEr", "val/CIDEr", "train/loss", "test/true-captions"} <= run.data.metrics.keys() for run in trainings
    )
    baselines = {"nll-picture-blind", "nll-unigram", "CIDEr-constant", "CIDEr-person"}
    measured = {"test/nll", "test/unseen-4-grams", *(f"baseline/{name}" for name in baselines)}
    assert all(measured <= run.data.metrics.keys() for run in trainings)
    # what does not depend on the attention is made once
    assert all(said.count(f"Running stage '{stage}'") == 1 for stage in ("features", "blind", "baselines"))
    head = checkout.must("git", "rev-parse", "HEAD").strip()
    assert {run.data.tags["git_sha"] for run in trainings} == {head}

    shown = json.loads(checkout.must("dvc", "exp", "show", "--json"))
    experiments = [each for row in shown for each in row["experiments"] or []]
    assert {each["name"] for each in experiments} == {run.data.tags["dvc_experiment"] for run in trainings}
    for each in experiments:
        data = each["revs"][0]["data"]
        assert "CIDEr" in data["metrics"]["results/evaluate/metrics.json"]["data"]
        assert data["params"]["params.yaml"]["data"]["attention"] in {"uniform", "dot"}


def test_logged_model_captions_pictures(queued: tuple[Checkout, str], tmp_path: Path) -> None:
    checkout, _ = queued
    place = checkout.path / "mlartifacts"
    run_id, run = next(iter(checkout.trainings().items()))
    assert Path(run.info.artifact_uri.removeprefix("file://")).is_relative_to(place)
    assert len(list(place.glob(f"{run_id}/artifacts/test-*.png"))) == 2
    script = """
import base64, sys
import mlflow, pandas
from PIL import Image
Image.new("RGB", (40, 30), "red").save("red.png")
with open("red.png", "rb") as file:
    data = file.read()
text = base64.b64encode(data).decode()
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
answers = [model.predict(given) for given in ([data], [text, text], pandas.DataFrame({"picture": [text]}))]
import captioner
assert captioner.__file__.startswith(sys.argv[3]) or "/code/" in captioner.__file__, captioner.__file__
caption = answers[0][0]
assert isinstance(caption, str), answers
assert answers == [[caption], [caption, caption], [caption]], answers
"""
    arguments = [
        f"sqlite:///{checkout.path / 'mlflow.db'}",
        f"models:/{run.outputs.model_outputs[0].model_id}",
        str(place),
    ]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=tmp_path,
        env=checkout.environment(),
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_going_back_trains_nothing(queued: tuple[Checkout, str]) -> None:
    checkout, _ = queued
    before = {run.info.run_id for run in checkout.runs()}
    said = checkout.must("dvc", "exp", "run", "-S", "attention=uniform")
    assert re.findall("Running stage '(.*)'", said) == ["fingerprint"]
    assert {run.info.run_id for run in checkout.runs()} == before
    record = json.loads((checkout.path / "results/train/run.json").read_text("utf-8"))
    assert checkout.trainings()[record["run_id"]].data.tags["attention"] == "uniform"


def test_an_experiment_whose_stages_all_came_from_the_cache_is_found_by_its_name(
    queued: tuple[Checkout, str],
) -> None:
    checkout, _ = queued
    before = {run.info.run_id for run in checkout.runs()}
    said = checkout.must("dvc", "exp", "run", "--temp", "--name", "all-restored", "-S", "attention=dot")
    assert re.findall("Running stage '(.*)'", said) == ["fingerprint"] and not checkout.bearing("all-restored")
    # what `make ui` does before it becomes the UI
    script = """
from pathlib import Path
from captioner.comparison import runs
for name, commit in runs.experiments(Path.cwd()).items():
    runs.track(name, commit, Path.cwd())
"""
    done = checkout.run("python", "-c", script, PYTHONPATH=eager_pythonpath("src"))
    assert done.returncode == 0, done.stderr
    training, evaluation = sorted(checkout.bearing("all-restored"), key=lambda run: "attention" not in run.data.tags)
    assert training.data.tags["attention"] == "dot"
    assert evaluation.data.tags["mlflow.parentRunId"] == training.info.run_id
    assert all(checkout.bearing(name) for name in checkout.must("dvc", "exp", "list", "--name-only").split()[1:])
    assert {run.info.run_id for run in checkout.runs()} == before


def test_a_study_takes_what_was_trained_and_does_not_do_it_twice(queued: tuple[Checkout, str]) -> None:
    checkout, _ = queued
    before = checkout.trainings().keys()
    asked = ("python", "-m", "captioner", "study", "--attentions", "uniform,dot", "--seeds", "1")
    done = checkout.run(*asked, PYTHONPATH=eager_pythonpath("src"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Running stage 'train'" not in done.stdout and checkout.trainings().keys() == before
    # the runs are those of the sweep; all that the study needed came from DVC's cache
    bearing = checkout.bearing("study-%")
    assert {run.data.tags["attention"] for run in bearing if "attention" in run.data.tags} == {"uniform", "dot"}
    page = (checkout.path / "results/study/index.html").read_text("utf-8")
    assert "uniform and dot attention were trained on scenes with the seed 1" in page
    again = checkout.run(*asked, PYTHONPATH=eager_pythonpath("src"))
    assert again.returncode == 0 and "dvc exp" not in again.stdout and "Reproducing" not in again.stdout


def test_compare_finds_runs_wherever_they_are(queued: tuple[Checkout, str]) -> None:
    checkout, _ = queued
    run_id = next(iter(checkout.trainings()))
    (experiment,) = [line for line in checkout.must("dvc", "exp", "list", "--name-only").split() if "study-" in line][
        :1
    ]
    compare = ("python", "-m", "captioner", "compare", "--json", "workspace", run_id[:10], experiment)
    done = checkout.run(
        *compare, PYTHONPATH=eager_pythonpath("src")
    )  # the copy's, whose MLflow experiment has another name
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [each["name"] for each in found["runs"]] == ["workspace", run_id[:8], experiment]
    assert all(each["scores"].keys() >= {"CIDEr", "nll"} for each in found["runs"])


def test_mirror_counts_from_the_main_checkout(checkout: Checkout) -> None:
    (checkout.path / ".cache/mirror").mkdir(parents=True, exist_ok=True)
    done = checkout.run("dvc", "exp", "run", "--temp", "-S", "dataset=flickr8k", CAPTIONER_MIRROR=".cache/mirror")
    assert done.returncode != 0
    assert str(checkout.path / ".cache/mirror") in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_terminated_training(queued: tuple[Checkout, str]) -> None:
    checkout, _ = queued
    kept = (checkout.path / "results/train/run.json").read_bytes()
    before = checkout.trainings().keys()
    parameters.write(checkout.path, **TINY | {"train.scenes.epochs": 100_000, "train.scenes.patience": 100_000})
    process = subprocess.Popen(
        [sys.executable, "stages/train.py"],
        cwd=checkout.path,
        env=checkout.environment(),
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        training = None
        for _ in range(240):
            started = [run for run_id, run in checkout.trainings().items() if run_id not in before]
            if started and "val/CIDEr" in started[0].data.metrics:
                training = started[0]
                break
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.5)
        assert training is not None
        assert training.info.status == "RUNNING"
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 143
    assert said.splitlines()[-1] == "train: interrupted; what is learned is saved: `dvc repro` goes on from there."
    assert len(list(checkout.path.glob(".cache/checkpoints/train/*/*/arrays.npz"))) == 1
    assert "Traceback" not in said
    assert checkout.trainings()[training.info.run_id].info.status == "FAILED"
    assert (checkout.path / "results/train/run.json").read_bytes() == kept
    assert not list(checkout.path.glob("*/.*.part"))
