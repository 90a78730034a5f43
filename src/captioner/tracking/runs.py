"""Runs of trainings and evaluations in MLflow.

Training makes a run: parameters, tags to group by, the values of each epoch, the model, and the scores that it reached
with the evaluation settings among those parameters. Below it stands a run for each settings that it was evaluated with.
Several DVC experiments may share a run, since DVC's run cache restores what was computed before: its tag
`dvc_experiment` names them all.

Metrics have the names that `captioner.tracking.names.metric_name` gives. Those of training and validation have a value
an epoch; the value of the epoch whose weights were kept stands beside them, with `-kept` behind the name. The logged
model has the values of that epoch and the scores on the test pictures.

`run.json`, beside the results of either stage, says what of the run lies in no other output. So a store that does not
know the run, on another machine or after the database was deleted, is given it again without training or evaluating.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from captioner.common.errors import CaptionerError
from captioner.common.workspace import EVALUATED, MODEL, trained_last
from captioner.encoders.registry import FROZEN
from captioner.params import Params
from captioner.tracking.logging import (
    evaluation_settings,
    keras_backend,
    log_evaluation,
    log_metrics,
    log_training,
    metrics_named,
)
from captioner.tracking.record import RECORD, Record, timestamp
from captioner.tracking.registry import logged_models
from captioner.tracking.store import connect, exists, load_mlflow, locked, reaching, why
from captioner.training.history import history

WORKSPACE = "workspace"
"""What stands in the tag `dvc_experiment` of a run that no experiment of DVC made."""
STAGES = ("download", "vocabulary", "features", "train", "fine_tune")
"""That a training depends on or is, in order."""
LONGEST_TAG = 5000
"""Characters of a tag's value that every store takes."""


class Run:
    """A run in the store, while its stage is running.

    Attributes:
        record: what `run.json` will say.
        whole: whether the store took everything so far.
    """

    def __init__(self, client: Any, record: Record, stage: str):
        self.client = client
        self.record = record
        self.stage = stage
        self.complete = True

    def log_epoch(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Log an epoch's values, in the form of Keras's `on_epoch_end`."""
        with self._tolerate_store_errors():
            log_metrics(self.client, self.record.run_id, metrics_named(logs or {}, "train"), epoch)

    def log_training(self, results: Path, model: Path, weights_sha256: str) -> None:
        """Write `run.json` to the results of training, and log them with the model."""
        self.record.tags["model_sha256"] = weights_sha256
        self._end(results)
        with self._tolerate_store_errors():
            log_training(self.client, self.record, self.record.run_id, results, model)

    def log_evaluation(self, results: Path, metrics: Mapping[str, float]) -> None:
        """Write `run.json` to the results of evaluation, and log them here and, where its settings are these, above.

        Args:
            results: of evaluation.
            metrics: what was measured beside the scores.
        """
        self.record.metrics |= metrics_named(metrics, "evaluate")
        self._end(results)
        with self._tolerate_store_errors():
            log_evaluation(self.client, self.record, self.record.run_id, results)

    def _end(self, results: Path) -> None:
        self.record.ended = timestamp()
        self.record.metrics[f"seconds/{self.stage}"] = (self.record.ended - self.record.began) / 1000
        self.record.write(results)

    @contextmanager
    def _tolerate_store_errors(self) -> Iterator[None]:
        # hours of training are not thrown away because a server went: the run is made again from the results later
        try:
            yield
        except (load_mlflow().exceptions.MlflowException, OSError) as error:
            self.complete = False
            print(f"MLflow took less than everything ({why(error)}); `make ui` adds the rest.", file=sys.stderr)


@contextmanager
def training(
    root: Path,
    params: Params,
    seconds: Path,
    tags: Mapping[str, str],
    metrics: Mapping[str, float] | None = None,
    stage: str = "train",
    begun: tuple[str, float] | None = None,
) -> Iterator[Run]:
    """Open the run of a training; it ends as FINISHED, or as FAILED when the block raises or the process is terminated.

    Args:
        root: the main checkout, where the default store lies.
        params: the experiment.
        seconds: the directory where the stages before have noted how long they took.
        tags: what else to tag the run with.
        metrics: what was measured before training.
        stage: which trains.
        begun: the id of the run of an interrupted training, which goes on, and the seconds that it took.

    Raises:
        CaptionerError: the store cannot be reached.
    """
    learns = params.encoder_training if params.encoder_training != FROZEN else None
    name = " · ".join(filter(None, [params.attention, params.dataset, learns, os.environ.get("DVC_EXP_NAME")]))
    record = Record("", name, _tags(root, params) | dict(tags), params.flat())
    record.metrics |= metrics or {}
    for before in STAGES[: STAGES.index(stage)]:
        path = seconds / f"{before}.json"
        if path.is_file():
            record.metrics[f"seconds/{before}"] = json.loads(path.read_text("utf-8"))[before]
    if begun:
        record.run_id = begun[0]
        record.began -= round(1000 * begun[1])
    with _running(root, record, None, stage) as run:
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
    settings = evaluation_settings(params.flat())
    beam, normalization = params.evaluate.beam, params.evaluate.length_normalization
    record = Record("", f"beam {beam}, length normalization {normalization:g}", _experiment_tag(), settings)
    with _running(root, record, workspace, "evaluate") as run:
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
    if not (trained_last(workspace, RECORD) / RECORD).is_file():
        return
    client, number = connect(root)
    with reaching(root), locked(root):
        _mark_dead_runs_failed(client, number)
        parent = _training_run(client, number, workspace)
        _name(client, parent, experiment)
        results = workspace / EVALUATED
        if (results / RECORD).is_file():
            child = _evaluation_run(client, number, parent, Record.read(results), results)
            _name(client, child, experiment)


def knows(root: Path, experiment: str) -> bool:
    """Return whether the store has the trainings that bear the name of an experiment of DVC.

    Of several stages that train, one may have failed to reach the store. Then the evaluation must be there, which comes
    last.

    Raises:
        CaptionerError: the store cannot be reached.
    """
    if not exists(root):
        return False
    client, number = connect(root)
    like = experiment.replace("'", "_")  # which stands for any character
    with reaching(root):
        found = client.search_runs([number], f"tags.dvc_experiment LIKE '%{like}%'")
    bearing = [run for run in found if experiment in _names(run)]
    trainings = {run.info.status for run in bearing if "mlflow.parentRunId" not in run.data.tags}
    evaluations = {run.info.status for run in bearing if "mlflow.parentRunId" in run.data.tags}
    return "FINISHED" in trainings and ("FAILED" not in trainings or "FINISHED" in evaluations)


@contextmanager
def _running(root: Path, record: Record, workspace: Path | None, stage: str) -> Iterator[Run]:
    mlflow = load_mlflow()
    client, experiment = connect(root)
    with reaching(root), locked(root):
        _mark_dead_runs_failed(client, experiment)
        if workspace is None:
            if record.run_id and _is_there(client, record.run_id):
                _name(client, record.run_id, os.environ.get("DVC_EXP_NAME", ""))
                record.tags["dvc_experiment"] = ", ".join(_names(client.get_run(record.run_id)))
            else:
                record.run_id = ""
                record.run_id = _create(client, experiment, record, None)
        else:
            parent = _training_run(client, experiment, workspace)
            record.run_id = _child(client, experiment, parent, record)
            for each in (parent, record.run_id):
                _name(client, each, os.environ.get("DVC_EXP_NAME", ""))
        client.set_tag(record.run_id, "process", _process())
    run = Run(client, record, stage)
    mlflow.start_run(record.run_id, log_system_metrics=True)
    try:
        yield run
    except BaseException:
        with run._tolerate_store_errors():
            mlflow.end_run("FAILED")
        raise
    with run._tolerate_store_errors():
        mlflow.end_run("FINISHED" if run.complete else "FAILED")


def _mark_dead_runs_failed(client: Any, experiment: str) -> None:
    """Mark as FAILED what this machine's killed processes left running."""
    host = socket.gethostname()
    for run in client.search_runs([experiment], "attributes.status = 'RUNNING'"):
        where, _, process = run.data.tags.get("process", "").partition(" ")
        if where == host and not _alive(process):
            client.set_terminated(run.info.run_id, "FAILED")


def _is_there(client: Any, run_id: str) -> bool:
    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except load_mlflow().exceptions.MlflowException:
        return False


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
    results = trained_last(workspace, RECORD)
    record = Record.read(results)
    known = _recorded(client, experiment, record)
    if known:
        return known[0]
    epochs, model = history(results), workspace / MODEL
    if not model.is_dir():
        raise CaptionerError(f"{model} is missing: run `dvc repro`.")
    with _restoring(client, experiment, record, None) as run_id:
        for epoch, values in epochs.items():
            log_metrics(client, run_id, metrics_named(values, "train"), epoch)
        log_training(client, record, run_id, results, model)
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
        for model_id in logged_models(client.get_run(run_id)):
            client.delete_logged_model(model_id)
        client.delete_run(run_id)
    return first


def _evaluation_run(client: Any, experiment: str, parent: str, record: Record, results: Path) -> str:
    """Return the id of the run of an evaluation that has ended; make it from its results if the store lacks it."""
    known = _children(client, experiment, parent, record.params, alive=True)
    if known:
        return known[0]
    with _restoring(client, experiment, record, parent) as run_id:
        log_evaluation(client, record, run_id, results)
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
    client.set_tag(run_id, "restored", timestamp())
    client.set_terminated(run_id, "FINISHED", record.ended)


def _child(client: Any, experiment: str, parent: str, record: Record) -> str:
    """Return the id of the run below a training's with the record's settings; make it if the store lacks it."""
    known = _children(client, experiment, parent, record.params)
    if known:
        return known[0]
    record.began = timestamp()  # which says who was first
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
        run_id, params=[load_mlflow().entities.Param(name, str(value)) for name, value in record.params.items()]
    )
    return run_id


def _tags(root: Path, params: Params) -> dict[str, str]:
    git_sha = os.environ.get("DVC_EXP_BASELINE_REV") or _git_sha(root)
    return {
        "attention": params.attention,
        "backend": keras_backend(),
        "encoder": params.features.encoder,
        "encoder_training": params.encoder_training,
        "dataset": params.dataset,
        "git_sha": git_sha,
        "mlflow.source.git.commit": git_sha,
        "mlflow.source.name": Path(sys.argv[0]).name,
        **_experiment_tag(),
    }


def _experiment_tag() -> dict[str, str]:
    return {"dvc_experiment": os.environ.get("DVC_EXP_NAME") or WORKSPACE}


def _git_sha(root: Path) -> str:
    try:
        found = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()
