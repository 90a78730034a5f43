"""Training a decoder: loss under teacher forcing, early stopping by captions that the model generates itself."""

import io
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from captioner import figures, names
from captioner.batches import CaptionBatches
from captioner.configured import keras
from captioner.decoder import Decoder, TeacherForcing, TokenCrossEntropy, TokenNegativeLogLikelihood
from captioner.encoders import not_finite
from captioner.errors import CaptionerError
from captioner.features import Features
from captioner.generation import Generator
from captioner.history import CIDER, LIKELIHOOD, Kept
from captioner.params import ModelParams, Recipe
from captioner.vocabulary import Vocabulary

FEW = 50
"""Validation pictures; of fewer, CIDEr says too little to choose an epoch by."""

Judge = Callable[[dict[str, str]], dict[str, float]]
"""From generated captions, by picture, to scores by name."""


def chosen_by(pictures: int) -> str:
    """Return the metric that the best epoch is known by, given how many validation pictures there are."""
    return CIDER if pictures >= FEW else LIKELIHOOD


def about_choice(training: int, validation: int) -> str:
    """Say in a line which epoch of a training will be kept, given how many pictures it has, and what they can give."""
    if chosen_by(validation) == CIDER:
        return (
            f"Kept is the epoch with the highest CIDEr on the {validation:,} validation pictures; of equal ones, and "
            "where there is no CIDEr, the one with the highest likelihood."
        )
    return (
        "Kept is the epoch with the highest validation likelihood, since CIDEr says nothing on fewer than "
        f"{FEW} pictures, and validation has {validation:,}. Expect well-formed sentences, but few that are true: "
        f"{training:,} training pictures show how captions are worded rather than what is in a picture."
    )


def build(
    sizes: ModelParams, recipe: Recipe, attention: str, vocabulary: int, channels: int, positions: int
) -> Decoder:
    """Return an untrained decoder for `vocabulary` tokens and a map `[positions, channels]`."""
    decoder = Decoder(
        vocabulary,
        attention,
        **sizes.model_dump(),
        **recipe.model_dump(include={"feature_dropout", "word_dropout", "output_dropout"}),
        name="decoder",
    )
    tokens = (None, recipe.captions_a_picture, recipe.maximum_words + 1)
    decoder.build({"features": (None, positions, channels), "words": tokens})
    return decoder


def batches(
    features: Features,
    captions: pd.DataFrame,
    split: str,
    vocabulary: Vocabulary,
    recipe: Recipe,
    seed: int | None = None,
) -> CaptionBatches:
    """Return the batches of a split, with a seed in another order each time and at least `minimum_steps` an epoch."""
    of_split = captions[captions["split"] == split]
    sizes = (recipe.batch_size, recipe.captions_a_picture, recipe.maximum_words)
    found = CaptionBatches(features, of_split, vocabulary, *sizes, seed, recipe.epochs)
    passes = 1 if seed is None else math.ceil(recipe.minimum_steps / len(found))
    if passes == 1:
        return found
    return CaptionBatches(features, of_split, vocabulary, *sizes, seed, recipe.epochs, passes)


def train(
    decoder: Decoder,
    training: CaptionBatches,
    validation: CaptionBatches,
    recipe: Recipe,
    callbacks: Sequence[keras.callbacks.Callback],
    monitor: str = CIDER,
    section: str = "train.<recipe>",
) -> Kept:
    """Fit a decoder in place, leave it with the weights of its best epoch, and return which that is.

    Args:
        decoder: what is trained.
        training: batches to learn from.
        validation: batches for the teacher-forced loss.
        recipe: passes, learning rate and the like.
        callbacks: one of them must add `val_CIDEr` to the logs, as `GeneratedValidation` does, if that is monitored.
        monitor: by what the best epoch is known, `val_CIDEr` or `val_nll`. Equal or undefined CIDEr leaves it to
            `val_nll`.
        section: of the parameters, which holds the recipe: what an error names.

    Raises:
        CaptionerError: a loss or a weight is not finite any more.
    """
    training.layout = validation.layout = training.layout.wider(validation.layout)
    finite = _Finite(f"lower {section}.learning_rate, which is {recipe.learning_rate:g}")
    best = _Best(monitor, recipe.patience)
    teacher(decoder, training, recipe).fit(
        training,
        validation_data=validation,
        epochs=recipe.epochs,
        callbacks=[finite, *callbacks, best],
        verbose=2,
    )
    return best.kept


def teacher(decoder: Decoder, batches: CaptionBatches, recipe: Recipe) -> TeacherForcing:
    """Return what fits a decoder to batches, compiled."""
    model = TeacherForcing(decoder, batches.layout)
    model.compile(
        optimizer=optimizer(recipe, len(batches)),
        loss=TokenCrossEntropy(recipe.label_smoothing),
        metrics=[TokenNegativeLogLikelihood()],
        jit_compile=True,
    )
    # else it makes its variables in the first step, which is then traced twice
    model.optimizer.build(decoder.trainable_variables)
    # likewise, on JAX Keras builds loss and metrics from batches, which the first epoch then lacks
    target, logits = np.zeros(1, np.int32), np.zeros((1, decoder.config["vocabulary_size"]), np.float32)
    model.compute_loss(y=target, y_pred=logits)
    model.compute_metrics(None, target, logits)
    return model


def optimizer(recipe: Recipe, steps_an_epoch: int) -> keras.optimizers.Optimizer:
    """Return Adam (Kingma, Ba 2015), for gradients that are clipped together."""
    return keras.optimizers.Adam(_learning_rate(recipe, steps_an_epoch), global_clipnorm=recipe.gradient_norm)


def _learning_rate(recipe: Recipe, steps_an_epoch: int) -> Any:
    if recipe.schedule == "constant":
        return recipe.learning_rate
    return keras.optimizers.schedules.CosineDecay(recipe.learning_rate, recipe.epochs * steps_an_epoch)


class _Finite(keras.callbacks.Callback):
    """Ends training at the first loss that is not finite, and after an epoch whose weights are not.

    Stands first in the list of callbacks, so that the others see finite values alone.

    Args:
        remedy: what the error says to do.

    Raises:
        CaptionerError: in the midst of training.
    """

    def __init__(self, remedy: str):
        super().__init__()
        self.remedy = remedy
        self.epoch = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        """Note the epoch."""
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Look at the mean losses up to this batch."""
        self._check(logs or {}, f"step {batch + 1} of epoch {self.epoch + 1}")

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Look at all losses, and at the weights, which a step may spoil without any loss that shows it."""
        when = f"epoch {epoch + 1}"
        self._check(logs or {}, when)
        if weight := not_finite(self.model.decoder):
            raise CaptionerError(self._line(f"the weight {weight} is not finite", when))

    def _check(self, logs: Mapping[str, float], when: str) -> None:
        for name, loss in logs.items():
            if not math.isfinite(loss):
                raise CaptionerError(self._line(f"{name} is {loss}", when))

    def _line(self, found: str, when: str) -> str:
        return f"training ended at {when}, since {found}; no model is kept: {self.remedy}"


class _Best(keras.callbacks.Callback):
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
        generator: Generator,
        features: np.ndarray,
        rows: np.ndarray,
        images: Sequence[str],
        vocabulary: Vocabulary,
        judge: Judge,
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


class Pace(keras.callbacks.Callback):
    """Adds to the logs an epoch's `seconds` of training (validation excluded), `captions_per_second`, `learning_rate`.

    Stands before `GeneratedValidation` in the list of callbacks, and counts until the teacher-forced validation begins.
    """

    def __init__(self, captions: int):
        super().__init__()
        self.captions = captions
        self.began = self.ended = math.nan

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        """Start the clock."""
        self.began = time.perf_counter()
        self.ended = math.nan

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        """Stop the clock."""
        self.ended = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        """Add them to the logs."""
        assert logs is not None
        logs["seconds"] = self.ended - self.began
        logs["captions_per_second"] = self.captions / logs["seconds"]
        logs["learning_rate"] = float(self.model.optimizer.learning_rate)


class Summaries(keras.callbacks.Callback):
    """TensorBoard summaries: every value of the logs, and attention on some pictures, by epoch.

    Args:
        directory: where the event file goes.
        generator: shares the trained decoder.
        vocabulary: decodes.
        features: of the shown pictures, `[pictures, P, C]`.
        pictures: their pixels, uint8 `[pictures, S, S, 3]`.
    """

    def __init__(
        self,
        directory: Path,
        generator: Generator,
        vocabulary: Vocabulary,
        features: np.ndarray,
        pictures: np.ndarray,
    ):
        super().__init__()
        self.writer = EventFileWriter(str(directory))
        self.generator = generator
        self.vocabulary = vocabulary
        self.features, self.pictures = features, pictures

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Write the summaries of an epoch."""
        values = [
            Summary.Value(tag=names.metric(name, "train"), simple_value=float(value))
            for name, value in (logs or {}).items()
        ]
        found = self.generator.generate(self.features)
        for number, picture in enumerate(self.pictures):
            words = self.vocabulary.decode_words(found.words[number])
            figure = figures.attention_figure(picture, words, found.weights[number, : len(words)])
            encoded = io.BytesIO()
            figure.save(encoded, "PNG")
            image = Summary.Image(height=figure.height, width=figure.width, encoded_image_string=encoded.getvalue())
            values.append(Summary.Value(tag=f"attention/{number}", image=image))
        self.writer.add_event(Event(wall_time=time.time(), step=epoch, summary=Summary(value=values)))
        self.writer.flush()

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        """Close the event file."""
        self.writer.close()
