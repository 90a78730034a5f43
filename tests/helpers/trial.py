"""What `test_backends.py` has each backend of Keras do with the tiny data set."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tiny

from captioner.common import interruption
from captioner.features.compiled import compile_forward
from captioner.inference.captioner import Captioner
from captioner.model.decoder import Decoder
from captioner.model.hyperparameters import ModelParams
from captioner.model.saved_model import SavedModel
from captioner.params import Recipe
from captioner.text.vocabulary import Vocabulary
from captioner.training import fit
from captioner.training.batches import CaptionBatches
from captioner.training.checkpoints import Checkpoints
from captioner.training.likelihood import nll_of_decoder
from captioner.training.losses import TokenCrossEntropy
from captioner.training.teacher_forcing import TeacherForcing

STEPS, WORDS = 6, 2
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "gated": ("gated", {"spatial_encoding": "sinusoidal", "embedding_size": 8}, {"attention_penalty": 0.1}),
    "heads": ("scaled_dot", {"heads": 2, "attention_size": 6, "spatial_encoding": "none"}, {"label_smoothing": 0.1}),
    "adaptive": ("adaptive", {"tie_embeddings": True}, {}),
}
"""Attention, changes of the decoder's hyper-parameters and of the recipe, so that each switch is on once.

`uniform`, `bahdanau` and `dot` have nothing that these lack.
"""
ENCODER = "encoder.keras"
PICTURES = np.random.default_rng(5).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)


def begin(directory: Path) -> None:
    """Write first weights, one file a model, and a small encoder of the layers that the large ones have."""
    directory.mkdir()
    for name in MODELS:
        untrained(name)[0].save_weights(directory / f"{name}.weights.h5")
    layers = keras.layers
    small = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Rescaling(1 / 128, -1),
            layers.Conv2D(8, 3, 2, padding="same", use_bias=False),
            layers.BatchNormalization(moving_variance_initializer=keras.initializers.RandomUniform(0.5, 1.5)),
            layers.ReLU(6.0),
            layers.DepthwiseConv2D(5, 2, padding="same"),
            layers.Conv2D(12, 1),
        ]
    )
    small.save(directory / ENCODER)


def known(name: str) -> Vocabulary:
    """Return the vocabulary of one of `MODELS`: one has subwords."""
    return tiny.subwords() if name == "heads" else tiny.vocabulary()


def untrained(name: str) -> tuple[Decoder, Recipe]:
    """Return one of `MODELS`, and its recipe."""
    attention, sizes, recipe = MODELS[name]
    used = tiny.recipe(epochs=STEPS, maximum_words=WORDS, **recipe)
    return tiny.decoder(attention, used, ModelParams(**tiny.SIZES.model_dump() | sizes), known(name)), used


def encoder(first: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return the encoder in `first`, compiled for the two pictures: to a map, float16 `[2, 4, 4, 12]`."""
    return compile_forward(keras.saving.load_model(first / ENCODER), len(PICTURES)).forward


def learn(first: Path, directory: Path) -> None:
    """Train from the weights in `first`, one step an epoch; write the history and the model of each of `MODELS`."""
    features = tiny.features()
    made_by = {"name": features.encoder, "weights": features.weights, "weights_sha256": features.weights_sha256}
    for name in MODELS:
        decoder, used = untrained(name)
        decoder.load_weights(first / f"{name}.weights.h5")
        (directory / name).mkdir(parents=True)
        history = keras.callbacks.CSVLogger(directory / name / "history.csv")
        data, validation = (tiny.batches(used, seed, known=known(name)) for seed in (1, None))
        assert len(data) == 1
        fit.train(decoder, data, validation, used, [tiny.Scores(range(STEPS)), history])
        SavedModel(decoder, known(name), made_by, WORDS, {}).save(directory / name / "model")


def seeded(checkpoints: Checkpoints | None = None, *callbacks: keras.callbacks.Callback) -> list[np.ndarray]:
    """Return the weights after a training whose dropout, first weights and order of batches follow from a seed."""
    keras.utils.set_random_seed(7)
    used = tiny.recipe(maximum_words=1, batch_size=2, word_dropout=0.5, output_dropout=0.5)
    decoder = tiny.decoder("dot", used)
    many = tiny.batches(used, by_image=tiny.KNOWN_BY_HEART)
    watching = [tiny.Scores(range(used.epochs)), *callbacks]
    fit.train(decoder, many, tiny.batches(used, None), used, watching, checkpoints=checkpoints)
    return decoder.get_weights()


class PowerCut(keras.callbacks.Callback):
    """Ends a training in a step, counted from 1."""

    def __init__(self, step: int):
        super().__init__()
        self.left = step

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.left -= 1
        if not self.left:
            raise ConnectionError("power")


def interrupted(directory: Path) -> list[np.ndarray]:
    """Return what `seeded` does, of a training that was interrupted in its second epoch."""
    interruption.INTERVAL = 0.0
    try:
        seeded(Checkpoints(directory), PowerCut(40))
    except ConnectionError:
        return seeded(Checkpoints(directory))
    raise AssertionError("there was no step 40")


class Losses(keras.callbacks.Callback):
    """Notes the mean loss after each batch of training and of validation, a list an epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.training: list[list[float]] = []
        self.validation: list[list[float]] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.training.append([])
        self.validation.append([])

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.training[-1].append(logs["loss"])

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self.validation[-1].append(logs["loss"])


def consumed() -> dict[str, np.ndarray]:
    """Return which batches three epochs take, in order: `training` and `validation`, int `[epochs, batches]`.

    A batch of training is told by its number in all orders of the batches, one behind the other. The decoder learns
    nothing, so that a loss tells which batch it is of.
    """
    keras.utils.set_random_seed(7)
    used = tiny.recipe(epochs=3, maximum_words=1, learning_rate=1e-10)
    decoder = tiny.decoder("dot", used)
    names = [f"{number}.png" for number in range(40)]
    by_image = {name: [tiny.SAID[number % len(tiny.SAID)]] for number, name in enumerate(names)}
    of_pictures = (tiny.features(names), tiny.captions(by_image), tiny.vocabulary(), 2, 1, used.maximum_words)
    data, validation = CaptionBatches(*of_pictures, 1, used.epochs), CaptionBatches(*of_pictures)
    losses = Losses()
    fit.train(decoder, data, validation, used, [losses, tiny.Scores(range(used.epochs))])

    teacher, loss = TeacherForcing(decoder, data.step_widths), TokenCrossEntropy()

    def of_batches(batches: CaptionBatches) -> list[float]:
        return [float(loss(targets, teacher(inputs))) for inputs, targets in (batches[n] for n in range(len(batches)))]

    every: list[float] = []
    for data.epoch in range(used.epochs):
        every += of_batches(data)
    return {
        "training": _nearest(losses.training, every),
        "validation": _nearest(losses.validation, of_batches(validation)),
    }


def _nearest(means: list[list[float]], known: list[float]) -> np.ndarray:
    """Return which known loss each batch has, given the mean losses after each, int `[epochs, batches]`."""
    sums = np.array(means) * np.arange(1, len(means[0]) + 1)
    off = np.abs(np.diff(sums, axis=1, prepend=0)[..., None] - known)
    assert off.min(axis=-1).max() < 1e-4  # of a sum of some tens, in float32
    return off.argmin(axis=-1)


def use(directory: Path) -> dict[str, Any]:
    """Return what the models there say of the pictures, and how surprised they are by the captions."""
    said: dict[str, Any] = {}
    for name in MODELS:
        model = Captioner.load(directory / name / "model")
        found = model.generator(beam=3, batch_size=4).generate(tiny.features().grid)
        said |= {f"{name} {part}": values for part, values in found._asdict().items()}
        test = tiny.batches(tiny.recipe(maximum_words=WORDS), None, known=known(name))
        surprise = nll_of_decoder(model.decoder, test)
        said[f"{name} nll"] = surprise.rows["nll"]
    return said
