"""Training passes against the textbook's loop: the rows `training-uniform`, `training-bahdanau` and `training-dot`.

    python benchmarks/bench_training.py [attention ...]

Both sides train the same decoder by the same recipe, on the same captions, 80 a step. Ours is what the pipeline runs.
The reference is the loop of the textbooks, compiled by `tf.function`: an example is one caption with its picture, so
that a picture is read and projected for each of its captions; at each word `V x_j` or `K x_j` is computed again; and
the vocabulary layer is applied at each word, to captions padded to the longest.

Ours computes the first words that captions of a picture share once for all of them. The limit counts matrix products
over all real tokens, each picture's projection once, a training step as three times the products forward (two for the
projection, whose input needs no gradient).
"""

import itertools
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import synthetic
from measure import CHECKOUT, matrix_rate, row_of_pairs, seconds

from captioner.common.startup import fast_start

with fast_start():
    import tensorflow

import numpy as np

from captioner import params
from captioner.common.startup import keep_freed_memory
from captioner.features.store import Features
from captioner.model.decoder import Decoder, Picture, State
from captioner.params import ModelParams, Recipe
from captioner.text.vocabulary import PAD, decoder_inputs
from captioner.training import fit
from captioner.training.batches import CaptionBatches
from captioner.training.losses import TokenCrossEntropy
from captioner.training.teacher_forcing import TeacherForcing

PICTURES = 960  # 60 steps of ours, a few seconds
REFERENCE_STEPS = 8
GOALS = {"uniform": 0.5, "dot": 0.5, "bahdanau": 0.4}


class Textbook:
    """The textbooks' loop, around the weights of a decoder of ours."""

    def __init__(self, decoder: Decoder, recipe: Recipe, steps_an_epoch: int):
        self.decoder = decoder
        self.cost = TokenCrossEntropy(recipe.label_smoothing)
        self.optimizer = fit.optimizer(recipe, steps_an_epoch)
        self.optimizer.build(decoder.trainable_weights)
        self.step = tensorflow.function(self._step)

    def loss(self, maps: Any, words: Any, targets: Any, training: bool) -> Any:
        """Return the mean loss of a real token, from maps `[B, P, C]`, words and targets `[B, T]`."""
        decoder = self.decoder
        normalized = decoder.normalization(tensorflow.cast(maps, "float32"))
        vectors = decoder.projection(normalized) + decoder.positions  # [B, P, E]
        vectors = decoder.feature_dropout(vectors, training=training)
        mean = tensorflow.reduce_mean(vectors, axis=1)
        state = State(decoder.initial_output(mean), decoder.initial_cell(mean))
        total, tokens = 0.0, 0.0
        for place in range(words.shape[1]):
            embedded = decoder.word_dropout(decoder.embedding(words[:, place]), training=training)
            # without keys, the attention prepares the picture again
            state, context, _ = decoder.step(decoder.word_gates(embedded), state, Picture(vectors, None))
            logits = decoder.logits(decoder.deep_output(state.output, context, embedded), training)  # [B, V]
            real = tensorflow.reduce_sum(tensorflow.cast(targets[:, place] != PAD, "float32"))
            total += self.cost(targets[:, place], logits) * real
            tokens += real
        return total / tokens

    def _step(self, maps: Any, words: Any, targets: Any) -> Any:
        with tensorflow.GradientTape() as tape:
            loss = self.loss(maps, words, targets, True)
        weights = self.decoder.trainable_weights
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return loss


def one_caption_an_example(
    features: Features, batches: CaptionBatches, captions: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield maps `[B, P, C]`, words and targets `[B, T]`, endlessly, in random order."""
    pictures = np.repeat([row for row, _ in batches.examples], [len(rows) for _, rows in batches.examples])
    rows = np.concatenate([rows for _, rows in batches.examples])
    generator = np.random.default_rng(1)
    while True:
        order = generator.permutation(len(rows))
        for start in range(0, len(order) - captions + 1, captions):
            chosen = order[start : start + captions]
            targets = batches.targets[rows[chosen]].astype(np.int32)
            yield features.grid[pictures[chosen]], decoder_inputs(targets), targets


def flop_of_a_token(attention: str, sizes: ModelParams, vocabulary: int) -> float:
    """Return what the matrix products of a step forward take for one caption."""
    embedding, state, size = sizes.embedding_size, sizes.state_size, sizes.attention_size
    looking = 0 if attention == "uniform" else state * size + synthetic.POSITIONS * (size + embedding)
    return 2 * ((2 * embedding + state) * 4 * state + looking + (state + embedding + vocabulary) * embedding)


def flop_of_a_picture(attention: str, sizes: ModelParams, channels: int, training: bool = False) -> float:
    """Return what the matrix products take that a picture's captions share; in training backward as well."""
    embedding = sizes.embedding_size
    keys = 0 if attention == "uniform" else synthetic.POSITIONS * embedding * sizes.attention_size
    projection = synthetic.POSITIONS * channels * embedding
    states = 2 * embedding * sizes.state_size
    return 2 * (2 * projection + 3 * (keys + states) if training else projection + keys + states)


def agreement(decoder: Decoder, textbook: Textbook, batches: CaptionBatches) -> str:
    """Compare loss and gradients of both paths on a batch of whole captions, without dropout.

    Raises:
        AssertionError: they differ by more than float32 explains.
    """
    inputs, targets = batches[0]
    step_widths = batches.step_widths
    (steps, captions), (_, rows) = step_widths.target_rows, step_widths.input_rows
    pictures = inputs["features"][inputs["pictures"][rows[inputs["target_rows"][: step_widths.captions[0]]]]]
    apart = np.full((step_widths.captions[0], len(step_widths.captions)), PAD, np.int32)
    apart[captions, steps] = targets
    teacher = TeacherForcing(decoder, step_widths)
    losses: list[Callable[[], Any]] = [
        lambda: textbook.cost(targets, teacher(inputs, training=False)),
        lambda: textbook.loss(pictures, decoder_inputs(apart), apart, False),
    ]
    found = []
    for loss in losses:
        with tensorflow.GradientTape() as tape:
            value = loss()
        gradients = tape.gradient(value, decoder.trainable_weights)
        dense = [tensorflow.convert_to_tensor(each).numpy().ravel() for each in gradients if each is not None]
        found.append((float(value), np.concatenate(dense)))
    (ours, own), (theirs, other) = found
    distance = float(np.linalg.norm(own - other) / np.linalg.norm(other))
    assert abs(ours - theirs) < 1e-4 * theirs and distance < 1e-4, (ours, theirs, distance)
    return f"the loss of a batch differs by {abs(ours - theirs) / theirs:.0e}, its gradient by {distance:.0e} of itself"


def measure(attention: str, directory: Path) -> None:
    """Measure a row and write it."""
    settings = params.load(CHECKOUT / "params.yaml")
    recipe: Recipe = settings.train.flickr8k
    features, vocabulary = synthetic.features(PICTURES, directory), synthetic.vocabulary()
    captions = synthetic.captions(PICTURES).assign(split="train")
    ours = fit.batches(features, captions, "train", vocabulary, recipe, 1)
    whole = fit.batches(
        features, captions, "train", vocabulary, recipe.model_copy(update={"maximum_words": synthetic.LONGEST})
    )
    own, other = (
        fit.build(settings.model, recipe, attention, len(vocabulary), features.channels, features.positions)
        for _ in range(2)
    )
    teacher = fit.compile_for_training(own, ours, recipe)
    textbook = Textbook(other, recipe, len(ours))
    agreed = agreement(other, textbook, whole)
    examples = one_caption_an_example(features, whole, recipe.batch_size * recipe.captions_per_picture)

    def run_ours() -> float:
        return len(captions) / seconds(lambda: teacher.fit(ours, epochs=1, verbose=0))

    def run_textbook(steps: int = REFERENCE_STEPS) -> float:
        each = recipe.batch_size * recipe.captions_per_picture
        return steps * each / seconds(lambda: [textbook.step(*x).numpy() for x in itertools.islice(examples, steps)])

    tokens = float((ours.targets != PAD).sum(1).mean())
    rows = sum(map(sum, ours.step_widths.phases)) * len(ours) / len(captions)
    shared = flop_of_a_picture(attention, settings.model, features.channels, training=True)
    flop = 3 * flop_of_a_token(attention, settings.model, len(vocabulary)) * tokens + shared / synthetic.CAPTIONS
    compiling = [seconds(run_ours), seconds(lambda: run_textbook(1))]
    row_of_pairs(
        f"training-{attention}",
        f"training, {attention}",
        "captions/s",
        run_ours,
        run_textbook,
        lambda: matrix_rate() / flop,
        agreement=agreed,
        goal={"ratio": 4, "fraction_of_limit": GOALS[attention]},
        notes=[
            f"{flop / 1e6:.0f} MFLOP a caption of {tokens:.1f} tokens, for which ours computes {rows:.1f} rows, as "
            f"many in each batch as in the fullest; ours cuts captions at {recipe.maximum_words} words, as the "
            f"pipeline does, the textbook's loop pads them to {synthetic.LONGEST}",
            f"first pass, compilation included: ours {compiling[0]:.0f} s, one step of the reference "
            f"{compiling[1]:.0f} s; not counted",
        ],
    ).write()


if __name__ == "__main__":
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[1:] or GOALS:
            measure(name, Path(folder))
