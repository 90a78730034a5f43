"""A training pass of each attention and each switch of the decoder against `dot`: the row `attentions`.

    python benchmarks/bench_attentions.py [PICTURES]

All train on the captions of the same drawn scenes, by the recipe for scenes, as the pipeline does; each with one change
of `params.yaml`. The features are drawn from a seed: what they show is of no matter for the time. A round runs a pass
of each, and what is compared is the passes of one round.
"""

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import synthetic
from measure import CHECKOUT, row_of_rounds, seconds

from captioner.common.startup import fast_start

with fast_start():
    import numpy as np

    from captioner import params
    from captioner.common.startup import keep_freed_memory
    from captioner.datasets.scenes import drawing
    from captioner.features.store import Features
    from captioner.text.vocabulary import Subwords, Vocabulary
    from captioner.training import fit

PICTURES = 640  # 40 steps
DEFAULT = "dot"
CHANGES: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "uniform": {"attention": "uniform"},
    "bahdanau": {"attention": "bahdanau"},
    "scaled_dot": {"attention": "scaled_dot"},
    "scaled_dot, model.heads=4": {"attention": "scaled_dot", "model": {"heads": 4}},
    "gated": {"attention": "gated"},
    "adaptive": {"attention": "adaptive"},
    "model.spatial_encoding=sinusoidal": {"model": {"spatial_encoding": "sinusoidal"}},
    "model.tie_embeddings=true": {"model": {"tie_embeddings": True}},
    "train.scenes.attention_penalty=1": {"recipe": {"attention_penalty": 1.0}},
    "word vectors of 50": {"word_vectors": 50},
    "vocabulary.tokens=bpe, bpe_size=280": {"bpe_size": 280},
}


def prepare(change: dict[str, Any], features: Features, captions: Any) -> Callable[[], Any]:
    """Return what trains one pass of a decoder with this change."""
    settings = params.load(CHECKOUT / "params.yaml")
    recipe = settings.train.scenes.model_copy(update=change.get("recipe", {}))
    vectors = change.get("word_vectors")
    sizes = settings.model.model_copy(update=change.get("model", {}) | ({"word_vectors": "drawn"} if vectors else {}))
    text = captions["caption"]
    size = change.get("bpe_size")
    vocabulary = Subwords.learn(text, size) if size else Vocabulary.build(text)
    batches = fit.batches(features, captions, "train", vocabulary, recipe, 1)
    matrix = np.random.default_rng(1).standard_normal((len(vocabulary), vectors), np.float32) if vectors else None
    grid = (features.channels, features.positions)
    decoder = fit.build(sizes, recipe, change.get("attention", DEFAULT), len(vocabulary), *grid, matrix)
    teacher = fit.compile_for_training(decoder, batches, recipe)
    return lambda: teacher.fit(batches, epochs=1, verbose=0)


def measure(pictures: int, directory: Path) -> None:
    """Measure the row and write it."""
    drawn = drawing.load({"train": pictures, "validation": 0, "test": 0}, (2, 3), synthetic.CAPTIONS, 1)
    features = synthetic.features(pictures, directory)
    names = dict(zip(drawn.captions["image"].unique(), range(pictures), strict=True))
    features = Features(features.grid, names, features.encoder, features.weights, "none")
    passes: dict[str, Callable[[], float]] = {}
    for name, change in CHANGES.items():
        passes[name] = partial(seconds, prepare(change, features, drawn.captions))
        print(f"  {name}: first pass, compilation included, {passes[name]():.0f} s", flush=True)
    row_of_rounds(
        "attentions",
        f"a pass over the captions of {pictures} scenes, {DEFAULT}",
        "s",
        passes,
        relative=True,
        notes=["each with one change of the default parameters; the median over rounds that run a pass of each"],
    ).write()


if __name__ == "__main__":
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        measure(int(sys.argv[1]) if sys.argv[1:] else PICTURES, Path(folder))
