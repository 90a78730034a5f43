"""Registered models: the best training's model made the champion, and logged models brought here."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioner.common.errors import CaptionerError, quoted
from captioner.tracking.store import connect, exists, load_mlflow, locked, no_store, store, tolerate_existing, why

CHAMPION = "champion"
LOADERS = ("captioner.serving.pyfunc", "captioner.pyfunc")
"""Modules that load a logged model: now, and before there were subpackages."""
SELECTION_METRICS = {"val/CIDEr": 1, "val/nll": -1}
"""What trainings are compared by, -1 where less is better; the first by which the epoch of one of them was chosen."""
KEPT_SUFFIX = "-kept"


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
    if not exists(root):
        raise CaptionerError(f"Received {quoted(uri)}, but {no_store(root)}")
    mlflow = load_mlflow()
    client, _ = connect(root)
    try:
        fetched = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(directory)))
        flavor = mlflow.models.Model.load(str(fetched)).flavors["python_function"]
    except (mlflow.exceptions.MlflowException, OSError, KeyError) as error:
        raise CaptionerError(
            f"Received {quoted(uri)}, which the MLflow store {address} does not give ({why(error)}): give "
            f"models:/<name>@<alias>, models:/<name>/<version> or runs:/<run id>/captioner. {_registered_names(client)}"
        ) from None
    data = (fetched / str(flavor.get("data", ".."))).resolve()
    if flavor.get("loader_module") not in LOADERS or not data.is_relative_to(fetched.resolve()):
        raise CaptionerError(f"Received {quoted(uri)}, a model that is not one of Captioner's: give another.")
    return data


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
        dataset: compare trainings on this data set; by default that of the newest training.

    Raises:
        CaptionerError: the store cannot be reached, no training of it has finished, or the best has no model there.
    """
    if not exists(root):
        raise CaptionerError(f"There is no model to promote: {no_store(root)}")
    client, experiment = connect(root)
    mlflow = load_mlflow()
    try:
        with locked(root):
            finished = client.search_runs(
                [experiment],
                "attributes.status = 'FINISHED' and tags.recorded_as LIKE '%'",
                max_results=50_000,  # the most that MLflow gives
                order_by=["attributes.start_time DESC", "attributes.run_id"],
            )
            return _promoted(client, store(root), finished, dataset)
    except (mlflow.exceptions.MlflowException, OSError) as error:
        raise CaptionerError(f"The MLflow store {store(root)} does not register the model ({why(error)}).") from None


def _promoted(client: Any, address: str, finished: Iterable[Any], dataset: str | None) -> Champion:
    trainings = [
        run
        for run in finished
        if "mlflow.parentRunId" not in run.data.tags and dataset in (None, run.data.tags.get("dataset"))
    ]
    judged = [run for run in trainings if any(math.isfinite(_kept(run, by)) for by in SELECTION_METRICS)]
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
    reached = [(run, by) for by in SELECTION_METRICS for run in alike if math.isfinite(_kept(run, by))]
    by = next((by for run, by in reached if run.data.tags.get("kept_by") == by), reached[0][1])
    copies: dict[str, list[Any]] = {}
    for run in (run for run, each in reached if each == by):
        copies.setdefault(run.data.tags["recorded_as"], []).append(run)
    best = max(reversed(copies.values()), key=lambda runs: SELECTION_METRICS[by] * _kept(runs[0], by))
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
        models = [(each, model_id) for each in copies for model_id in logged_models(each)]
        found = next(((each, model_id) for each, model_id in models if _has_files(client, model_id)), None)
        if found is None:
            raise CaptionerError(
                f"The best training, the MLflow run {run.info.run_id}, has no model in the store: put its artifacts "
                f"back, or delete it with `mlflow runs delete --run-id {run.info.run_id}`, and the next best is taken."
            )
        with tolerate_existing():
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


def logged_models(run: Any) -> list[str]:
    """Return the ids of the models that a run logged."""
    return [each.model_id for each in run.outputs.model_outputs] if run.outputs else []


def _registered_names(client: Any) -> str:
    names = [each.name for each in client.search_registered_models(max_results=5)]
    if not names:
        return "No model is registered there: `captioner promote` registers one."
    return f"Registered there: {', '.join(names)}."


def _has_files(client: Any, model_id: str) -> bool:
    return "MLmodel" in [each.path for each in client.list_logged_model_artifacts(model_id)]
