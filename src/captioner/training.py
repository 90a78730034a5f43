"""Training a decoder: loss under teacher forcing, early stopping by captions that the model generates itself."""

import io
import math
import time
from collections.abc import Callable, Sequence
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
from captioner.features import Features
from captioner.generation import Generator
from captioner.params import ModelParams, Recipe
from captioner.vocabulary import Vocabulary

MONITORS = {"val_CIDEr": "max", "val_nll": "min"}
"""What can stop training early, and whether more or less of it is better."""

Judge = Callable[[dict[str, str]], dict[str, float]]
"""From generated captions, by picture, to scores by name."""


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
    """Return the batches of a split, with a seed in another order each epoch."""
    return CaptionBatches(
        features,
        captions[captions["split"] == split],
        vocabulary,
        recipe.batch_size,
        recipe.captions_a_picture,
        recipe.maximum_words,
        seed,
        recipe.epochs,
    )


def train(
    decoder: Decoder,
    training: CaptionBatches,
    validation: CaptionBatches,
    recipe: Recipe,
    callbacks: Sequence[keras.callbacks.Callback],
    monitor: str = "val_CIDEr",
) -> None:
    """Fit a decoder in place, and leave it with the weights of its best epoch.

    Args:
        decoder: what is trained.
        training: batches to learn from.
        validation: batches for the teacher-forced loss.
        recipe: passes, learning rate and the like.
        callbacks: one of them must add `val_CIDEr` to the logs, as `GeneratedValidation` does, if that is monitored.
        monitor: by which of `MONITORS` the best epoch is known.
    """
    training.layout = validation.layout = training.layout.wider(validation.layout)
    stopping = keras.callbacks.EarlyStopping(
        monitor, patience=recipe.patience, mode=MONITORS[monitor], restore_best_weights=True
    )
    teacher(decoder, training, recipe).fit(
        training,
        validation_data=validation,
        epochs=recipe.epochs,
        callbacks=[*callbacks, stopping],
        verbose=2,
    )


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
