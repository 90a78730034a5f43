"""Where the time of training goes: `results/profile.json`.

    python benchmarks/bench_profile.py

A step of the recipe for photographs on data of Flickr8k's shape, taken apart by leaving parts out: each variant is
compiled as training is, all run in turn, and a part's time is the difference of two medians.
"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import synthetic
from measure import CHECKOUT, RESULTS, machine, seconds

from captioner.common.startup import fast_start

with fast_start():
    import tensorflow

from captioner import params
from captioner.common.files import replacing
from captioner.common.startup import keep_freed_memory
from captioner.model.decoder import Decoder
from captioner.training import fit
from captioner.training.losses import TokenCrossEntropy
from captioner.training.teacher_forcing import TeacherForcing

PICTURES = 480  # 30 steps
TIMES = 15


class WithoutVocabulary:
    """A decoder whose vocabulary layer is left out: what enters it comes out."""

    def __init__(self, decoder: Decoder):
        self.decoder = decoder

    def __getattr__(self, name: str) -> Any:
        return getattr(self.decoder, name)

    def logits(self, deep: Any, training: bool = False) -> Any:
        """Return what enters the vocabulary layer."""
        return self.output_dropout(deep, training=training)


def profile(attention: str, directory: Path) -> dict[str, float]:
    """Return the milliseconds of a step's parts."""
    settings = params.load(CHECKOUT / "params.yaml")
    recipe = settings.train.flickr8k
    features, vocabulary = synthetic.features(PICTURES, directory), synthetic.vocabulary()
    captions = synthetic.captions(PICTURES).assign(split="train")
    batches = fit.batches(features, captions, "train", vocabulary, recipe, 1)
    sizes = (len(vocabulary), features.channels, features.positions)
    decoder = fit.build(settings.model, recipe, attention, *sizes)
    teacher = fit.compile_for_training(decoder, batches, recipe)
    without: Any = TeacherForcing(decoder, batches.step_widths)
    without.decoder = WithoutVocabulary(decoder)
    cost, weights = TokenCrossEntropy(recipe.label_smoothing), decoder.trainable_weights
    inputs, targets = tensorflow.nest.map_structure(tensorflow.constant, batches[0])

    def initialize() -> Any:
        picture, state = decoder.initialize(inputs["features"], training=True)
        return sum(tensorflow.reduce_sum(each) for each in (*picture, *state))

    def forward() -> Any:
        return cost(targets, teacher(inputs, training=True))

    def without_vocabulary() -> Any:
        return tensorflow.reduce_sum(without(inputs, training=True))

    def gradient() -> Any:
        with tensorflow.GradientTape() as tape:
            loss = forward()
        return [each for each in tape.gradient(loss, weights) if each is not None]

    def step() -> Any:
        with tensorflow.GradientTape() as tape:
            loss = forward()
        teacher.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return loss

    variants: dict[str, Callable[[], Any]] = {
        one.__name__: tensorflow.function(one, jit_compile=True)
        for one in (initialize, without_vocabulary, forward, gradient, step)
    }
    variants["read"] = lambda: batches[1]
    for one in variants.values():
        one()
    teacher.fit(batches, epochs=1, verbose=0)
    took: dict[str, list[float]] = {name: [] for name in (*variants, "fit")}
    for _ in range(TIMES):
        for name, one in variants.items():
            took[name].append(seconds(one))
    took["fit"] = [seconds(lambda: teacher.fit(batches, epochs=1, verbose=0)) / len(batches) for _ in range(5)]
    each = {name: 1000 * median(values) for name, values in took.items()}
    return {
        "reading a batch": each["read"],
        "forward: pictures": each["initialize"],
        "forward: words and recurrence": each["without_vocabulary"] - each["initialize"],
        "forward: vocabulary and loss": each["forward"] - each["without_vocabulary"],
        "backward": each["gradient"] - each["forward"],
        "optimizer": each["step"] - each["gradient"],
        "Keras's loop, metrics, transfers": each["fit"] - each["step"],
        "a step under `fit`": each["fit"],
    }


def main() -> None:
    """Measure and write."""
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        found = {name: profile(name, Path(folder)) for name in ("uniform", "bahdanau", "dot")}
    described = {
        "name": "profile",
        "unit": "ms",
        "parts": {name: {part: round(value, 1) for part, value in parts.items()} for name, parts in found.items()},
        "machine": machine(),
    }
    with replacing(RESULTS / "profile.json") as beside:
        beside.write_text(json.dumps(described, indent=2) + "\n", "utf-8")
    print(json.dumps(described["parts"], indent=2))


if __name__ == "__main__":
    main()
