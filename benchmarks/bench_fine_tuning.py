"""A step of training with an encoder that learns beside one with a frozen encoder: the row `fine-tuning`.

    python benchmarks/bench_fine_tuning.py

All train the same decoder on the same drawn scenes, in batches of the default size. A round runs `STEPS` steps of each,
and what is compared is the runs of one round. `pixels at hand` has its batches in memory: by how much it is faster is
what the others wait for pictures that are decoded and augmented meanwhile.
"""

import resource
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from measure import CHECKOUT, Part, row_of_rounds, seconds

from captioner.common.startup import fast_start, keep_freed_memory

with fast_start():
    from captioner.common.keras import keras

import synthetic

from captioner import params
from captioner.data import store
from captioner.datasets.scenes import drawing
from captioner.encoders import networks
from captioner.encoders.registry import FROZEN
from captioner.features.store import Features
from captioner.text.vocabulary import Vocabulary
from captioner.training import fit
from captioner.training.pixels import Pixels, as_features, compile_end_to_end

STEPS = 10
LEARNING: dict[str, tuple[Literal["last_blocks", "all"], bool]] = {
    "fine_tuned, last_blocks": ("last_blocks", False),
    "fine_tuned, all": ("all", False),
    "random": ("all", True),
}
AT_HAND = "fine_tuned, last_blocks, pixels at hand"
GIGABYTES_ALLOWED = 6


class AtHand(keras.utils.PyDataset):
    """Batches that are in memory."""

    def __init__(self, batches: keras.utils.PyDataset):
        super().__init__()
        self.items = [batches[number] for number in range(len(batches))]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def measure(directory: Path) -> None:
    """Measure the row and write it."""
    settings = params.load(CHECKOUT / "params.yaml")
    recipe, fine_tuning = settings.recipe, settings.fine_tuning
    pictures = STEPS * recipe.batch_size
    drawn = drawing.load({"train": pictures, "validation": 0, "test": 0}, (2, 3), synthetic.CAPTIONS, 1)
    store.write(drawn, directory)
    captions, names = drawn.captions, drawn.captions["image"].unique().tolist()
    vocabulary = Vocabulary.build(captions["caption"])
    frozen = Features.at_hand(synthetic.features(pictures, directory).grid, names)
    sizes = (len(vocabulary), frozen.channels, frozen.positions)

    batches = fit.batches(frozen, captions, "train", vocabulary, recipe, 1)
    teacher = fit.compile_for_training(fit.build(settings.model, recipe, "dot", *sizes), batches, recipe)
    paces = {FROZEN: partial(_pace, partial(teacher.fit, batches, epochs=1, verbose=0), pictures)}
    for label, (layers, statistics) in LEARNING.items():
        encoder = networks.build("efficientnet_lite0")
        networks.set_trainable(encoder, layers, statistics)
        decoder = fit.build(settings.model, recipe, "dot", *sizes)
        augmented = as_features(Pixels(directory, names, encoder.input_shape[1], "stretch", params.AUGMENTATIONS))
        data = fit.batches(augmented, captions, "train", vocabulary, recipe, 1)
        model = compile_end_to_end(encoder, decoder, data, recipe, fine_tuning.encoder_learning_rate, statistics)
        paces[label] = partial(_pace, partial(model.fit, data, epochs=1, verbose=0), pictures)
        if label == AT_HAND.removesuffix(", pixels at hand"):
            paces[AT_HAND] = partial(_pace, partial(model.fit, AtHand(data), epochs=1, verbose=0), pictures)
    for label, pace in paces.items():
        print(f"  {label}: first steps, compilation included, {pace():.1f} pictures/s", flush=True)
    row = row_of_rounds(
        "fine-tuning",
        "training with a frozen encoder, EfficientNet-Lite0 on scenes",
        "pictures/s",
        paces,
        notes=[f"{STEPS} steps of {recipe.batch_size} pictures with their captions, all kinds of augmentation"],
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    memory = Part("peak memory of all of these in one process", "MiB", peak, GIGABYTES_ALLOWED * 1024)
    replace(row, parts=[*row.parts, memory]).write()


def _pace(run: Callable[[], object], pictures: int) -> float:
    return pictures / seconds(run)


if __name__ == "__main__":
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder))
