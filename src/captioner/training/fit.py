"""Training a decoder: built, compiled and fitted."""

import math
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import pandas as pd

from captioner.common.keras import keras
from captioner.features.store import Features
from captioner.model.decoder import Decoder
from captioner.model.hyperparameters import ModelParams
from captioner.params import Recipe
from captioner.text.vocabulary import Vocabulary
from captioner.training import parallel
from captioner.training.batches import Batches, CaptionBatches
from captioner.training.callbacks import FEW, KeepBest, StopOnNonFinite, chosen_by
from captioner.training.checkpoints import Checkpoints, SaveCheckpoints, Stateful
from captioner.training.history import CIDER, Kept
from captioner.training.losses import TokenCrossEntropy, TokenNegativeLogLikelihood
from captioner.training.parallel import Leading, Peers, SharedTeacherForcing
from captioner.training.teacher_forcing import TeacherForcing


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
    sizes: ModelParams,
    recipe: Recipe,
    attention: str,
    vocabulary: int,
    channels: int,
    positions: int,
    word_vectors: np.ndarray | None = None,
) -> Decoder:
    """Return an untrained decoder for `vocabulary` tokens and a map `[positions, channels]`.

    Where there are `word_vectors` `[vocabulary, D]`, its embeddings begin with them.
    """
    decoder = Decoder(
        vocabulary,
        attention,
        sizes,
        **recipe.model_dump(include={"feature_dropout", "word_dropout", "output_dropout"}),
        word_vector_size=None if word_vectors is None else word_vectors.shape[1],
        name="decoder",
    )
    tokens = (None, recipe.captions_per_picture, recipe.maximum_words + 1)
    decoder.build({"features": (None, positions, channels), "words": tokens})
    if word_vectors is not None:
        decoder.embedding.set_weights([word_vectors])
    return decoder


def batches(
    features: Features,
    captions: pd.DataFrame,
    split: str,
    vocabulary: Vocabulary,
    recipe: Recipe,
    seed: int | None = None,
    share: tuple[int, int] = (0, 1),
) -> CaptionBatches:
    """Return the batches of a split, with a seed in another order each time and at least `minimum_steps` an epoch.

    Of each, those of a process among several have a `share`, see `CaptionBatches`.
    """
    of_split = captions[captions["split"] == split]
    sizes = (recipe.batch_size, recipe.captions_per_picture, recipe.maximum_words)
    found = CaptionBatches(features, of_split, vocabulary, *sizes, seed, recipe.epochs, share=share)
    passes = 1 if seed is None else math.ceil(recipe.minimum_steps / len(found))
    if passes == 1:
        return found
    return CaptionBatches(features, of_split, vocabulary, *sizes, seed, recipe.epochs, passes, share)


def train(
    decoder: Decoder,
    training: Batches,
    validation: CaptionBatches,
    recipe: Recipe,
    callbacks: Sequence[keras.callbacks.Callback],
    monitor: str = CIDER,
    section: str = "train.<dataset>",
    checkpoints: Checkpoints | None = None,
    peers: Peers | None = None,
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
        checkpoints: from which it goes on, and to which it saves; by default neither.
        peers: the processes that train together, of which this is the first, and the others are in `follow`.

    Raises:
        CaptionerError: a loss or a weight is not finite any more.
    """
    remedy = f"lower {section}.learning_rate, which is {recipe.learning_rate:g}"
    if peers is None:
        in_one_shape(training, validation)
        model = compile_for_training(decoder, training, recipe)
    else:  # each has a share of the training batches, and the first one whole batches of validation
        model = compile_shared(decoder, training, recipe, peers, validation)
    return run(model, training, validation, recipe, callbacks, monitor, remedy, checkpoints)


def follow(decoder: Decoder, training: Batches, recipe: Recipe, peers: Peers) -> None:
    """Take part in what the first of several processes does in `train`.

    Args:
        decoder: what is trained, here as well.
        training: the shares of this process.
        recipe: as in the first process.
        peers: all that train together.
    """
    parallel.follow(compile_shared(decoder, training, recipe, peers), training, recipe.epochs)


def in_one_shape(training: Batches, validation: CaptionBatches) -> None:
    """Give both batches one shape, so that a model is compiled for one."""
    training.step_widths = validation.step_widths = training.step_widths.wider(validation.step_widths)


def run(
    model: keras.Model,
    training: Batches,
    validation: CaptionBatches,
    recipe: Recipe,
    callbacks: Sequence[keras.callbacks.Callback],
    monitor: str,
    remedy: str,
    checkpoints: Checkpoints | None = None,
) -> Kept:
    """Fit a compiled model, leave it with the weights of its best epoch, and return which that is.

    Args:
        model: what is trained.
        training: see `train`.
        validation: see `train`.
        recipe: passes and patience.
        callbacks: see `train`.
        monitor: see `train`.
        remedy: what to do against values that are not finite.
        checkpoints: see `train`.

    Raises:
        CaptionerError: a loss or a weight is not finite any more, or a batch cannot be read.
    """
    best = KeepBest(monitor, recipe.patience)
    around: list[keras.callbacks.Callback] = [StopOnNonFinite(remedy, training), *callbacks, best]
    with ExitStack() as stack:
        first_epoch = 0
        if checkpoints is not None:
            saving = SaveCheckpoints(checkpoints, training, [each for each in around if isinstance(each, Stateful)])
            around.append(saving)
            first_epoch = saving.first_epoch
            stack.enter_context(saving.signals.handling())
            # an epoch that goes on has fewer batches than Keras was told
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", message="Your input ran out of data")
        if isinstance(model, SharedTeacherForcing):
            around.append(Leading(checkpoints.state if checkpoints else None))
        stack.enter_context(training.telling())
        model.fit(
            training,
            validation_data=validation,
            epochs=recipe.epochs,
            initial_epoch=first_epoch,
            callbacks=around,
            shuffle=False,  # the batches have an order of their own, which an interrupted epoch can go on in
            verbose=2,
        )
    return best.kept


def compile_for_training(decoder: Decoder, batches: Batches, recipe: Recipe) -> TeacherForcing:
    """Return what fits a decoder to batches, compiled."""
    model = teacher(decoder, batches, recipe)
    compile_model(model, recipe, decoder.config["vocabulary_size"], optimizer(recipe, len(batches)))
    return model


def compile_shared(
    decoder: Decoder,
    batches: Batches,
    recipe: Recipe,
    peers: Peers,
    validation: CaptionBatches | None = None,
) -> SharedTeacherForcing:
    """Return what fits a decoder to batches that several processes share, compiled."""
    batches.targets_as_input = recipe.attention_penalty > 0
    widths = validation.step_widths if validation else None
    model = SharedTeacherForcing(decoder, batches.step_widths, recipe.attention_penalty, widths, peers)
    compile_model(model, recipe, decoder.config["vocabulary_size"], optimizer(recipe, len(batches)))
    return model


def teacher(decoder: Decoder, batches: Batches, recipe: Recipe) -> TeacherForcing:
    """Return what runs a decoder along the captions of batches."""
    batches.targets_as_input = recipe.attention_penalty > 0
    return TeacherForcing(decoder, batches.step_widths, recipe.attention_penalty)


def compile_model(
    model: keras.Model,
    recipe: Recipe,
    vocabulary: int,
    chosen: keras.optimizers.Optimizer,
    jit_compile: bool = True,
) -> None:
    """Compile what gives logits over a vocabulary, with the optimizer that was chosen."""
    model.compile(
        optimizer=chosen,
        loss=TokenCrossEntropy(recipe.label_smoothing),
        metrics=[TokenNegativeLogLikelihood()],
        jit_compile=jit_compile,
    )
    # else it makes its variables in the first step, which is then traced twice
    model.optimizer.build(model.trainable_variables)
    # likewise, on JAX Keras builds loss and metrics from batches, which the first epoch then lacks
    target, logits = np.zeros(1, np.int32), np.zeros((1, vocabulary), np.float32)
    model.compute_loss(y=target, y_pred=logits)
    model.compute_metrics(None, target, logits)


def optimizer(recipe: Recipe, steps_an_epoch: int) -> keras.optimizers.Optimizer:
    """Return Adam (Kingma, Ba 2015), for gradients that are clipped together."""
    return keras.optimizers.Adam(learning_rate(recipe, steps_an_epoch), global_clipnorm=recipe.gradient_norm)


def learning_rate(recipe: Recipe, steps_an_epoch: int) -> Any:
    """Return the learning rate of a recipe, a number or a schedule."""
    if recipe.schedule == "constant":
        return recipe.learning_rate
    return keras.optimizers.schedules.CosineDecay(recipe.learning_rate, recipe.epochs * steps_an_epoch)
