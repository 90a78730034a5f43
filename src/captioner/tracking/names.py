"""What MLflow and TensorBoard call a value."""

from typing import Literal

from captioner.evaluation import BASELINES, CHANCE


def metric_name(name: str, stage: Literal["train", "evaluate"]) -> str:
    """Return what MLflow and TensorBoard call a value.

    Args:
        name: of a column of `history.csv` (train), or of a score of `metrics.json` (evaluate).
        stage: that measured it.

    Returns:
        Of train, `val/nll` of `val_nll`, and `train/nll` of `nll`; of evaluate, `test/nll` of `nll`, and
        `baseline/nll-unigram` of `nll-unigram`.
    """
    if stage == "train":
        rest = name.removeprefix("val_")
        return f"train/{name}" if rest == name else f"val/{rest}"
    is_baseline = name in CHANCE or name.endswith(tuple(f"-{end}" for end in BASELINES))
    return f"baseline/{name}" if is_baseline else f"test/{name}"
