"""The MLflow store: where it is, its experiment, and runs found in it."""

import json
import logging
import os
import re
import sqlite3
import time
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from captioner.common.errors import CaptionerError, reason
from captioner.tracking.names import metric_name

EXPERIMENT = "captioner"
SQLITE = "sqlite:///"
PATIENCE = 600
"""Seconds that a process waits for another of the same checkout, which may be sending a model to a server."""

COLUMNS = ("BLEU-4", "CIDEr", "METEOR", "ROUGE-L", "nll", "distinct-captions", "true-captions", "pointing-accuracy")
"""The scores on the test pictures that the table of runs shows."""
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    # the view that `make ui` opens: by default the UI's table shows no scores
    "mlflow.sharedViewState.scores": json.dumps(
        {
            "selectedColumns": [
                "attributes.`Duration`",
                *(f"metrics.`{metric_name(name, 'evaluate')}`" for name in COLUMNS),
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


def find(root: Path, beginning: str = "", most: int = 5) -> dict[str, tuple[str, str]]:
    """Return name and attention of the latest runs, by id, whose ids begin so; none where there is no store yet.

    Raises:
        CaptionerError: the store cannot be reached.
    """
    if not exists(root):
        return {}
    client, experiment = connect(root)
    found = {}
    condition = f"attributes.run_id LIKE '{beginning}%'"
    with reaching(root):
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
    client, _ = connect(root)
    try:
        there = {each.path for each in client.list_artifacts(run_id)}
        for name in there.intersection(names):
            client.download_artifacts(run_id, name, str(directory))
    except (load_mlflow().exceptions.MlflowException, OSError) as error:
        raise CaptionerError(
            f"The files of the MLflow run {run_id} cannot be read ({reason(error)}): see whether its artifacts are "
            "still where they were."
        ) from None


def store(root: Path) -> str:
    """Return the store's address: `MLFLOW_TRACKING_URI`, or the file `mlflow.db` of the main checkout."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}mlflow.db"
    # a file's relative path counts from the main checkout, since queued runs work elsewhere
    return f"{SQLITE}{root / uri.removeprefix(SQLITE)}" if uri.startswith(SQLITE) else uri


def exists(root: Path) -> bool:
    """Say whether there may be a store; a file that is missing would be made by asking it."""
    uri = store(root)
    return not uri.startswith(SQLITE) or Path(uri.removeprefix(SQLITE)).is_file()


def no_store(root: Path) -> str:
    """Say that there is no store."""
    return f"there is no MLflow store {store(root)}: call from the checkout that has one, or set MLFLOW_TRACKING_URI."


def artifact_location(root: Path) -> str:
    """Return where a local store keeps files."""
    return (root / "mlartifacts").as_uri()


def load_mlflow() -> Any:
    """Import MLflow with `ENVIRONMENT`, and return it."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow  # here, since it takes seconds and most of the package does without

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # which prints the stack trace of what it raises as well
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    return mlflow


def why(error: Exception) -> str:
    """Return what was wrong with the store, in one short line: of a database's error what the database said."""
    said = re.search(r"\(\w+\.\w*Error\) ([^\n]+)", str(error))
    return said[1][:200] if said else reason(error)


def connect(root: Path) -> tuple[Any, str]:
    """Return a client and the experiment's id; make the tables and the experiment where they are missing."""
    mlflow = load_mlflow()
    uri = store(root)
    asked = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    # it may write there, which would be taken for the user's wish when another checkout's store is asked for
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    if asked is not None:
        os.environ["MLFLOW_TRACKING_URI"] = asked
    with reaching(root), locked(root):
        client = mlflow.MlflowClient(uri)
        if client.get_experiment_by_name(EXPERIMENT) is None:
            # an experiment's place for artifacts is fixed now, also for runs made in DVC's temporary copies
            with tolerate_existing():
                client.create_experiment(EXPERIMENT, artifact_location(root) if uri.startswith(SQLITE) else None)
        experiment = mlflow.set_experiment(EXPERIMENT)
        for name, value in EXPERIMENT_TAGS.items():
            if experiment.tags.get(name) != value:
                client.set_experiment_tag(experiment.experiment_id, name, value)
        return client, experiment.experiment_id


@contextmanager
def reaching(root: Path) -> Iterator[None]:
    """Say in one line that the store cannot be reached."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (load_mlflow().exceptions.MlflowException, SQLAlchemyError, OSError) as error:
        raise CaptionerError(
            f"The MLflow store {store(root)} cannot be reached ({why(error)}): start it, or set MLFLOW_TRACKING_URI "
            "to another; unset, runs go to mlflow.db."
        ) from None


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Keep other processes from looking what the store has, and making what it lacks, at the same time.

    Those are the processes that use the same store file; with a server, those of the same checkout. Elsewhere others
    may make the same meanwhile, so a process that has made something looks again, and all take the same one of several.

    Raises:
        CaptionerError: the lock cannot be obtained.
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
        if uri.startswith(SQLITE):
            _wait_until_free(Path(uri.removeprefix(SQLITE)))
        yield


def _wait_until_free(path: Path) -> None:
    """Wait while another program writes to the store's file: MLflow itself waits for 20 seconds and no longer."""
    if not path.is_file():
        return
    end, told = time.monotonic() + PATIENCE, False
    while True:
        try:
            with closing(sqlite3.connect(path, timeout=1, isolation_level=None)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
                return
        except sqlite3.Error as error:
            # of all else MLflow says what it is
            if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                return
        if not told:
            print(f"Another program writes to {path}: waiting until it has ended.", flush=True)
            told = True


def _no_lock(path: Path, error: sqlite3.Error) -> CaptionerError:
    return CaptionerError(
        f"The lock of the MLflow store, {path}, cannot be obtained ({reason(error)}): wait for the other process of "
        "this checkout, or let its directory be written to."
    )


@contextmanager
def tolerate_existing() -> Iterator[None]:
    """Pass over that somebody else has made it meanwhile."""
    mlflow = load_mlflow()
    try:
        yield
    except mlflow.exceptions.MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
