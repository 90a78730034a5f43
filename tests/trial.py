"""What `test_backends.py` has each backend of Keras do with the tiny data set."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tiny

from captioner import training
from captioner.features import compile_forward
from captioner.likelihood import nll_of_decoder
from captioner.model import Captioner
from captioner.names import ATTENTIONS

STEPS, WORDS = 6, 2
ENCODER = "encoder.keras"
PICTURES = np.random.default_rng(5).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)


def begin(directory: Path) -> None:
    """Write first weights, one file an attention, and a small encoder of the layers that the large ones have."""
    directory.mkdir()
    for attention in ATTENTIONS:
        tiny.decoder(attention).save_weights(directory / f"{attention}.weights.h5")
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


def encoder(first: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return the encoder in `first`, compiled for the two pictures: to a map, float16 `[2, 4, 4, 12]`."""
    return compile_forward(keras.saving.load_model(first / ENCODER), len(PICTURES))[0]


def learn(first: Path, directory: Path) -> None:
    """Train from the weights in `first`, one step an epoch; write a history and a model an attention."""
    used = tiny.recipe(epochs=STEPS, maximum_words=WORDS)
    features = tiny.features()
    made_by = {"name": features.encoder, "weights": features.weights, "weights_sha256": features.weights_sha256}
    for attention in ATTENTIONS:
        decoder = tiny.decoder(attention, used)
        decoder.load_weights(first / f"{attention}.weights.h5")
        (directory / attention).mkdir(parents=True)
        history = keras.callbacks.CSVLogger(directory / attention / "history.csv")
        data = tiny.batches(used)
        assert len(data) == 1
        training.train(decoder, data, tiny.batches(used, None), used, [tiny.Scores(range(STEPS)), history])
        Captioner(decoder, tiny.vocabulary(), made_by, WORDS, {}).save(directory / attention / "model")


def seeded() -> list[np.ndarray]:
    """Return the weights after a training whose dropout, first weights and order of batches follow from a seed."""
    keras.utils.set_random_seed(7)
    used = tiny.recipe(maximum_words=1, batch_size=2, word_dropout=0.5, output_dropout=0.5)
    decoder = tiny.decoder("dot", used)
    training.train(decoder, tiny.batches(used), tiny.batches(used, None), used, [tiny.Scores(range(used.epochs))])
    return decoder.get_weights()


def use(directory: Path) -> dict[str, Any]:
    """Return what the models there say of the pictures, and how surprised they are by the captions."""
    said: dict[str, Any] = {}
    for attention in ATTENTIONS:
        model = Captioner.load(directory / attention / "model")
        found = model.generator(beam=3, batch_size=4).generate(tiny.features().grid)
        said |= {f"{attention} {name}": values for name, values in found._asdict().items()}
        surprise = nll_of_decoder(model.decoder, tiny.batches(tiny.recipe(maximum_words=WORDS), None))
        said[f"{attention} nll"] = surprise.rows["nll"]
    return said
