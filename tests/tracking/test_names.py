"""What values are called in MLflow and TensorBoard."""

from typing import Literal

import pytest

from captioner.tracking import names


@pytest.mark.parametrize(
    ("stage", "name", "expected"),
    [
        ("train", "nll", "train/nll"),
        ("train", "loss", "train/loss"),
        ("train", "learning_rate", "train/learning_rate"),
        ("train", "captions_per_second", "train/captions_per_second"),
        ("train", "val_nll", "val/nll"),
        ("train", "val_BLEU-4", "val/BLEU-4"),
        ("evaluate", "nll", "test/nll"),
        ("evaluate", "perplexity", "test/perplexity"),
        ("evaluate", "CIDEr-leave-one-out", "test/CIDEr-leave-one-out"),
        ("evaluate", "unseen-4-grams", "test/unseen-4-grams"),
        ("evaluate", "attention-mass-colour", "test/attention-mass-colour"),
        ("evaluate", "nll-unigram", "baseline/nll-unigram"),
        ("evaluate", "perplexity-unigram-by-position", "baseline/perplexity-unigram-by-position"),
        ("evaluate", "nll-picture-blind", "baseline/nll-picture-blind"),
        ("evaluate", "BLEU-4-constant", "baseline/BLEU-4-constant"),
        ("evaluate", "unseen-4-grams-person", "baseline/unseen-4-grams-person"),
        ("evaluate", "pointing-chance", "baseline/pointing-chance"),
        ("evaluate", "box-share", "baseline/box-share"),
    ],
)
def test_a_name_says_what_was_measured_on(stage: Literal["train", "evaluate"], name: str, expected: str) -> None:
    assert names.metric_name(name, stage) == expected
