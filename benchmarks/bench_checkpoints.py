"""Seconds that a checkpoint of a training takes: the row `checkpoints`.

    python benchmarks/bench_checkpoints.py

A round writes one checkpoint of the decoder on scenes with its best weights, and one of the decoder together with an
encoder of which all layers learn. Goal: at one every 30 seconds, under 2 % of the time.
"""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from measure import CHECKOUT, Part, row_of_rounds, seconds

from captioner.common.startup import fast_start, keep_freed_memory

with fast_start():
    from captioner.common.keras import keras

import synthetic

from captioner import params
from captioner.common.interruption import INTERVAL
from captioner.datasets.scenes import drawing
from captioner.encoders import networks
from captioner.features.store import Features
from captioner.text.vocabulary import Vocabulary
from captioner.training import fit
from captioner.training.callbacks import KeepBest
from captioner.training.checkpoints import Checkpoints, SaveCheckpoints
from captioner.training.history import CIDER, Kept
from captioner.training.pixels import compile_end_to_end

PERCENT_ALLOWED = 2


def measure(directory: Path) -> None:
    """Measure the row and write it."""
    settings = params.load(CHECKOUT / "params.yaml")
    recipe, pictures = settings.recipe, 2 * settings.recipe.batch_size
    captions = drawing.load({"train": pictures, "validation": 0, "test": 0}, (2, 3), synthetic.CAPTIONS, 1).captions
    vocabulary, names = Vocabulary.build(captions["caption"]), captions["image"].unique().tolist()
    features = Features.at_hand(synthetic.features(pictures, directory).grid, names)
    batches = fit.batches(features, captions, "train", vocabulary, recipe, 1)

    def decoder() -> keras.Model:
        return fit.build(settings.model, recipe, "dot", len(vocabulary), features.channels, features.positions)

    encoder = networks.build("efficientnet_lite0")
    networks.set_trainable(encoder, "all", batch_statistics=False)
    models = {
        "decoder": fit.compile_for_training(decoder(), batches, recipe),
        "decoder and encoder": compile_end_to_end(encoder, decoder(), batches, recipe, 1e-4, False),
    }
    runs = {label: _saving(model, batches, directory / label) for label, model in models.items()}
    row = row_of_rounds("checkpoints", "a checkpoint of a training on scenes", "s", runs)
    slowest = max(row.ours, *(part.value for part in row.parts))
    share = Part(f"of the time, with one every {INTERVAL:g} s, at most", "%", 100 * slowest / INTERVAL, PERCENT_ALLOWED)
    sizes = {label: _megabytes(directory / label) for label in models}
    notes = ["checkpoints of " + " and ".join(f"{size:.0f} MB ({label})" for label, size in sizes.items())]
    replace(row, parts=[*row.parts, share], notes=notes).write()


def _saving(model: keras.Model, batches: fit.CaptionBatches, directory: Path) -> Callable[[], float]:
    """Return what writes a checkpoint of a model with best weights, and returns the seconds that it took."""
    directory.mkdir()
    best = KeepBest(CIDER, 1)
    best.kept, best.weights = Kept(0, CIDER, 1.0), [np.array(value) for value in model.get_weights()]
    saving = SaveCheckpoints(Checkpoints(directory), batches, [best])
    saving.set_model(model)
    return partial(seconds, partial(saving.save, 0, 1))


def _megabytes(directory: Path) -> float:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) / 1e6


if __name__ == "__main__":
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder))
