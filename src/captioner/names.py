"""What can be chosen by name, and what values are called; known without loading Keras."""

from typing import Literal

ATTENTIONS = {
    "uniform": "UniformAttention",
    "bahdanau": "BahdanauAttention",
    "dot": "DotProductAttention",
}
"""Name in `params.yaml`: class in `captioner.attention`."""

DATASETS = ("scenes", "flickr8k", "folder")
"""Data sets that the download stage knows."""

ENCODERS = ("efficientnet_lite0", "mobilenet", "densenet121")
"""Frozen networks that `captioner.encoders` builds."""

SPICE = "SPICE"
METRICS = {
    "BLEU": ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"),
    "METEOR": ("METEOR",),
    "ROUGE-L": ("ROUGE-L",),
    "CIDEr": ("CIDEr",),
    SPICE: ("SPICE",),
}
"""Metrics of captions, and the scores that each computes."""

BASELINES = {
    "constant": "one caption for all pictures",
    "person": "a person, against one reference fewer",
    "unigram": "word frequencies",
    "unigram-by-position": "word frequencies by position",
    "picture-blind": "a model without pictures",
}
"""What is measured of the data and of no model: the end of the score's name, and what that is."""
CHANCE = ("pointing-chance", "box-share")
"""What looking at random reaches: baselines as well, of the objects that a model names."""


def metric(name: str, stage: Literal["train", "evaluate"]) -> str:
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
