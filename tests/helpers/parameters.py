"""The parameters that tests work with: complete, and the same whatever the workspace's `params.yaml` says."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from captioner.model.hyperparameters import ModelParams
from captioner.params import Params

_RECIPE: dict[str, Any] = {
    "epochs": 4,
    "blind_epochs": 1,
    "patience": 3,
    "minimum_steps": 1,
    "batch_size": 16,
    "captions_per_picture": 5,
    "maximum_words": 13,
    "learning_rate": 0.001,
    "blind_learning_rate": 0.001,
    "schedule": "cosine",
    "gradient_norm": 5.0,
    "label_smoothing": 0.0,
    "attention_penalty": 0.0,
    "feature_dropout": 0.0,
    "word_dropout": 0.0,
    "output_dropout": 0.0,
    "workers": 1,
}
_FINE_TUNING: dict[str, Any] = {
    "layers": "last_blocks",
    "epochs": 2,
    "random_epochs": 2,
    "learning_rate": 0.0003,
    "encoder_learning_rate": 0.0001,
    "augmentation": ["crop", "flip", "colour"],
}
_PHOTOGRAPHS: dict[str, Any] = {"epochs": 8, "maximum_words": 18, "word_dropout": 0.5, "output_dropout": 0.5}
_VALUES: dict[str, Any] = {
    "dataset": "scenes",
    "attention": "dot",
    "encoder_training": "frozen",
    "seed": 1,
    "download": {
        "skip_unreadable": False,
        "scenes": {
            "seed": 1,
            "train": 40,
            "validation": 6,
            "test": 6,
            "min_objects": 2,
            "max_objects": 3,
            "captions": 5,
            "image_size": 224,
        },
        "folder": {"path": "pictures", "captions": "captions.csv"},
        "shards": {"path": "shards", "validation": 0.1, "test": 0.1, "split": "pictures", "stream": False},
    },
    "vocabulary": {"tokens": "words", "bpe_size": 1000, "minimum_count": 5},
    "features": {
        "encoder": "efficientnet_lite0",
        "weights": "imagenet",
        "image_size": "auto",
        "crop": "stretch",
        "preprocessing": "auto",
        "views": 1,
        "batch_size": 32,
    },
    "model": ModelParams(
        embedding_size=256, state_size=512, attention_size=256, spatial_encoding="learned"
    ).model_dump(),
    "train": {
        "scenes": _RECIPE,
        "flickr8k": _RECIPE | _PHOTOGRAPHS,
        "folder": _RECIPE | _PHOTOGRAPHS,
        "shards": _RECIPE | _PHOTOGRAPHS,
    },
    "fine_tune": {dataset: dict(_FINE_TUNING) for dataset in ("scenes", "flickr8k", "folder", "shards")},
    "evaluate": {
        "beam": 3,
        "length_normalization": 1.0,
        "batch_size": 64,
        "samples": 5,
        "attention_pictures": 12,
        "metrics": ["BLEU", "METEOR", "ROUGE-L", "CIDEr"],
    },
}


def values(**changes: Any) -> dict[str, Any]:
    """Return the content of a `params.yaml`, with some values changed: `values(**{"evaluate.beam": 1})`."""
    content = deepcopy(_VALUES)
    for key, value in changes.items():
        section = content
        *names, last = key.split(".")
        for name in names:
            section = section[name]
        section[last] = value
    return content


def params(**changes: Any) -> Params:
    return Params.model_validate(values(**changes))


def write(directory: Path, **changes: Any) -> None:
    """Write a `params.yaml`."""
    (directory / "params.yaml").write_text(yaml.safe_dump(values(**changes), sort_keys=False), "utf-8")
