"""What happens around the epochs of a training: validation on generated captions, the best epoch, and safety."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from captioner.common.errors import CaptionerError
from captioner.common.keras import keras
from captioner.common.weights import not_finite
from captioner.text.vocabulary import Vocabulary
from captioner.training.history import CIDER, LIKELIHOOD, Kept

if TYPE_CHECKING:
    from captioner.search.generators import Generator
    from captioner.training.batches import Batches

FEW = 50
"""Validation pictures; of fewer, CIDEr says too little to choose an epoch by."""

ScoreCaptions = Callable[[dict[str, str]], dict[str, float]]
"""From generated captions, by picture, to scores by name."""


def chosen_by(pictures: int) -> str:
    """Return the metric that the best epoch is known by, given how many validation pictures there are."""
    return CIDER if pictures >= FEW else LIKELIHOOD


class StopOnNonFinite(keras.callbacks.Callback):
    """Ends training at the first loss that is not finite, and after an epoch whose weights are not.

    Stands first in the list of callbacks, so that the others see finite values alone.

    Args:
        remedy: what the error says to do.
        training: the batches that are trained on.

    Raises:
        CaptionerError: in the midst of training.
    """

    def __init__(self, remedy: str, training: "Batches"):
        super().__init__()
        self.remedy, self.training = remedy, training
        self.epoch = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        """Note the epoch."""
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Look at the mean losses up to this batch."""
        self._check(logs or {}, f"step {self.training.first + batch + 1} of epoch {self.epoch + 1}")

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Look at all losses, and at the weights, which a step may spoil without any loss that shows it."""
        when = f"epoch {epoch + 1}"
        self._check(logs or {}, when)
        if weight := not_finite(self.model):
            raise CaptionerError(self._line(f"the weight {weight} is not finite", when))

    def _check(self, logs: Mapping[str, float], when: str) -> None:
        for name, loss in logs.items():
            if not math.isfinite(loss):
                raise CaptionerError(self._line(f"{name} is {loss}", when))

    def _line(self, found: str, when: str) -> str:
        return f"training ended at {when}, since {found}; no model is kept: {self.remedy}"


class KeepBest(keras.callbacks.Callback):
    """Notes the best epoch, stops when none was better for some time, and puts the best weights back.

    Args:
        metric: by what the best is known, see `train`.
        patience: epochs without a better one after which training stops.

    Attributes:
        kept: the best epoch so far.
    """

    def __init__(self, metric: str, patience: int):
        super().__init__()
        self.metric = metric
        self.patience = patience
        self.kept = Kept(-1, LIKELIHOOD, math.inf)
        self.scores = {CIDER: math.nan, LIKELIHOOD: math.inf}
        self.weights: list[np.ndarray] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Look whether this epoch is the best so far."""
        assert logs is not None
        scores = {name: float(logs.get(name, math.nan)) for name in (CIDER, LIKELIHOOD)}
        if self._better(scores):
            metric = LIKELIHOOD if math.isnan(scores[self.metric]) else self.metric
            self.kept, self.scores = Kept(epoch, metric, scores[metric]), scores
            self.weights = self.model.get_weights()
        elif epoch - self.kept.epoch >= self.patience:
            self.model.stop_training = True

    def state(self) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Return the best epoch and its weights, see `captioner.training.checkpoints`."""
        return {"kept": asdict(self.kept), "scores": self.scores}, self.weights

    def restore(self, values: Mapping[str, Any], arrays: list[np.ndarray]) -> None:
        """Take what `state` has returned."""
        self.kept, self.scores, self.weights = Kept(**values["kept"]), dict(values["scores"]), arrays

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        """Put the best weights back."""
        self.model.set_weights(self.weights)

    def _better(self, scores: Mapping[str, float]) -> bool:
        cider, before = scores[CIDER], self.scores[CIDER]
        if self.metric == LIKELIHOOD or cider == before or math.isnan(cider) or math.isnan(before):
            return scores[LIKELIHOOD] < self.scores[LIKELIHOOD]
        return cider > before


class GeneratedValidation(keras.callbacks.Callback):
    """After each epoch, captions the validation pictures greedily and adds their scores to the logs.

    Teacher-forced loss does not tell how captions read: an epoch is judged by what the model says on its own.

    Args:
        generator: shares the trained decoder.
        features: the map of all pictures `[pictures, P, C]`.
        rows: the validation pictures' rows in it.
        images: their names, in the same order.
        vocabulary: decodes.
        judge: scores the captions; each score appears as `val_` and its name.
    """

    def __init__(
        self,
        generator: "Generator",
        features: np.ndarray,
        rows: np.ndarray,
        images: Sequence[str],
        vocabulary: Vocabulary,
        judge: ScoreCaptions,
    ):
        super().__init__()
        self.generator = generator
        self.features, self.rows, self.images = features, rows, images
        self.vocabulary = vocabulary
        self.judge = judge

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        """Generate, judge, and add the scores to the logs."""
        found = self.generator.generate(self.features, self.rows)
        captions = {image: self.vocabulary.decode(words) for image, words in zip(self.images, found.words, strict=True)}
        assert logs is not None
        logs |= {f"val_{name}": score for name, score in self.judge(captions).items()}


class Throughput(keras.callbacks.Callback):
    """Adds to the logs an epoch's `seconds` of training (validation excluded), `captions_per_second`, `learning_rate`.

    Stands before `GeneratedValidation` in the list of callbacks, and counts until the teacher-forced validation begins.
    """

    def __init__(self, captions: int):
        super().__init__()
        self.captions = captions
        self.began = self.ended = math.nan
        self.before = 0.0  # seconds of the epoch, before it was interrupted

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        """Start the clock."""
        self.began = time.perf_counter() - self.before
        self.ended = math.nan
        self.before = 0.0

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        """Stop the clock."""
        self.ended = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        """Add them to the logs."""
        assert logs is not None
        logs["seconds"] = self.ended - self.began
        logs["captions_per_second"] = self.captions / logs["seconds"]
        logs["learning_rate"] = float(self.model.optimizer.learning_rate)

    def state(self) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Return the seconds of an epoch that goes on, see `captioner.training.checkpoints`."""
        return {"seconds": time.perf_counter() - self.began if math.isnan(self.ended) else 0.0}, []

    def restore(self, values: Mapping[str, Any], arrays: list[np.ndarray]) -> None:  # noqa: ARG002
        """Take what `state` has returned."""
        self.before = values["seconds"]
