"""A data set and a decoder so small that they compile and train in seconds."""

import io
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pandas as pd
import parameters
from PIL import Image

from captioner.features.store import Features
from captioner.model.decoder import Decoder
from captioner.params import ModelParams, Recipe
from captioner.text import FEWEST_SUBWORDS
from captioner.text.vocabulary import Subwords, Vocabulary
from captioner.training import fit
from captioner.training.batches import CaptionBatches
from captioner.training.prefix_sharing import StepWidths

POSITIONS, CHANNELS = 4, 6
# what is added up on the way to a caption's probability: in each of four steps what the gates, the attention, the
# output and the vocabulary have for inputs; no logit of the decoder that knows by heart is larger
TERMS, LARGEST = 4 * (6 + 6 + 8 + 6 + 8 + 5 + 4 + 4 + 6 + 6 + 8 + 6 + 13), 40
PARAMS = parameters.params(**{"model.embedding_size": 6, "model.state_size": 8, "model.attention_size": 5})
SIZES = PARAMS.model
CAPTIONS = {
    "sun.png": ["a red circle"],
    "sea.png": ["the blue square", "a blue square"],
    "sky.png": ["two stars", "two small stars", "two red stars"],
    "tree.png": ["a red square"],
}


def recipe(**changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "epochs": 2,
        "blind_epochs": 1,
        "patience": 10,
        "batch_size": 5,
        "captions_per_picture": 2,
        "maximum_words": 3,
        "learning_rate": 0.05,
        "schedule": "constant",
        "gradient_norm": 5.0,
        "label_smoothing": 0.0,
        "feature_dropout": 0.0,
        "word_dropout": 0.0,
        "output_dropout": 0.0,
    }
    return Recipe(**PARAMS.train.scenes.model_dump() | values | changes)


KNOWN_BY_HEART = {image: texts[:1] * 30 for image, texts in CAPTIONS.items()}


def captions(by_image: dict[str, list[str]] = CAPTIONS) -> pd.DataFrame:
    rows = [(image, text) for image, texts in by_image.items() for text in texts]
    return pd.DataFrame(rows, columns=["image", "caption"])


def features(images: list[str] | None = None, seed: int = 0) -> Features:
    names = list(CAPTIONS) if images is None else images
    grid = np.random.default_rng(seed).normal(size=(len(names), POSITIONS, CHANNELS)).astype(np.float16)
    rows = {name: row for row, name in enumerate(names)}
    return Features(grid, rows, encoder="efficientnet_lite0", weights="imagenet", weights_sha256="0123456789abcdef")


def vocabulary() -> Vocabulary:
    return Vocabulary.build(captions()["caption"])


SAID = [texts[0] for texts in CAPTIONS.values()]
"""What a decoder that knows the data set by heart says of `photograph(0)`, `photograph(1)`, ..."""


def photograph(row: int, form: str = "PNG") -> bytes:
    """Return an encoded picture that `Extractor` takes for that row of `features()`."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (60 * row + 20,) * 3).save(buffer, form)
    return buffer.getvalue()


def wide(middle: int, sides: int) -> bytes:
    """Return a picture three times as wide as high, whose middle is `photograph(middle)`, and its sides another."""
    picture = Image.new("RGB", (18, 6), (60 * sides + 20,) * 3)
    picture.paste((60 * middle + 20,) * 3, (6, 0, 12, 6))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


class Extractor:
    """Stands for the real one: tells pictures by how light they are."""

    weights_sha256 = features().weights_sha256

    def __init__(self, *_: Any, **__: Any):
        pass

    def compile(self) -> None:
        pass

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        return features().grid[pixels[:, 0, 0, 0] // 60]


def subwords() -> Subwords:
    """Return a vocabulary in which the words of the data set have one piece to six."""
    return Subwords.learn(captions()["caption"], FEWEST_SUBWORDS + 6)


def batches(
    used: Recipe,
    seed: int | None = 1,
    by_image: dict[str, list[str]] = CAPTIONS,
    known: Vocabulary | None = None,
    share: tuple[int, int] = (0, 1),
) -> CaptionBatches:
    return CaptionBatches(
        features(),
        captions(by_image),
        known or vocabulary(),
        used.batch_size,
        used.captions_per_picture,
        used.maximum_words,
        seed,
        share=share,
    )


def histories(step_widths: StepWidths, inputs: dict[str, np.ndarray]) -> list[list[tuple[int, int]]]:
    """Return what a decoder knows after each row of a batch: step by step, which picture it saw and what it read."""
    known: list[list[tuple[int, int]]] = []
    before: list[list[tuple[int, int]]] = []
    words = iter(inputs["words"].tolist())
    start = 0
    for phase in filter(None, step_widths.phases):
        pictures, parent_rows = (
            inputs[name][start : start + max(phase)].tolist() for name in ("pictures", "parent_rows")
        )
        before = [before[parent_row] if start else [] for parent_row in parent_rows[: phase[0]]]
        for width in phase:
            before = [*before[:width], *(before[parent_row] for parent_row in parent_rows[len(before) : width])]
            before = [[*history, (picture, next(words))] for history, picture in zip(before, pictures, strict=False)]
            known += before
        start += max(phase)
    return known


def decoder(
    attention: str = "dot",
    used: Recipe | None = None,
    sizes: ModelParams = SIZES,
    known: Vocabulary | None = None,
) -> Decoder:
    return fit.build(sizes, used or recipe(), attention, len(known or vocabulary()), CHANNELS, POSITIONS)


class Scores(keras.callbacks.Callback):
    """Gives each epoch the CIDEr it is told to have."""

    def __init__(self, scores: Sequence[float]):
        super().__init__()
        self.scores = scores

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        assert logs is not None
        logs["val_CIDEr"] = self.scores[epoch]


def overfit() -> Decoder:
    """Train a decoder until it knows a caption of each picture by heart."""
    keras.utils.set_random_seed(7)
    used = recipe(epochs=4, word_dropout=0.05)
    trained = decoder("bahdanau", used)
    by_heart = batches(used, by_image=KNOWN_BY_HEART)
    fit.train(trained, by_heart, batches(used, None), used, [Scores(range(used.epochs))])
    return trained
