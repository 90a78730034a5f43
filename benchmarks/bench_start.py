"""How long one waits at first: the row `start`.

    python benchmarks/bench_start.py

From the start of the process to its end, as whoever types the command waits for it: `captioner caption PICTURE`, which
prints the first caption, and `import captioner` in a Python of its own. The model is an untrained decoder of the
pipeline's sizes and the picture is drawn: both cost the same time as trained and taken ones.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import synthetic
from measure import CHECKOUT, PAIRS, Part, row_of_pairs, seconds
from PIL import Image

from captioner.common.errors import CaptionerError
from captioner.common.startup import fast_start

WORDS = 500


def save_model(directory: Path) -> None:
    """Write an untrained model of the pipeline's sizes."""
    with fast_start():
        from captioner.common.keras import keras  # noqa: F401 - what follows imports it, with its notes

    from captioner import params
    from captioner.common import weights
    from captioner.encoders import networks
    from captioner.model.saved_model import SavedModel
    from captioner.training import fit

    settings = params.load(CHECKOUT / "params.yaml")
    name = settings.features.encoder
    network = networks.build(name)
    _, height, width, channels = network.output_shape
    vocabulary = synthetic.vocabulary(WORDS)
    recipe = settings.train.flickr8k
    decoder = fit.build(settings.model, recipe, settings.attention, len(vocabulary), channels, height * width)
    encoder = {"name": name, "weights": "imagenet", "weights_sha256": weights.weights_hash(network)}
    SavedModel(decoder, vocabulary, encoder, recipe.maximum_words, {}).save(directory)


def run(*arguments: str) -> float:
    """Return the seconds that a Python process takes.

    Raises:
        CaptionerError: it failed.
    """
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT / "src")}
    command: Sequence[str] = [sys.executable, *arguments]
    finished = None

    def wait() -> None:
        nonlocal finished
        finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    took = seconds(wait)
    assert finished is not None
    if finished.returncode or ("caption" in arguments and not finished.stdout.strip()):
        said = finished.stderr.strip().splitlines() or ["nothing"]
        raise CaptionerError(f"`python {' '.join(arguments)}` ended with {finished.returncode} and said: {said[-1]}")
    return took


def main() -> None:
    """Measure the row and write it."""
    with tempfile.TemporaryDirectory() as folder:
        model, picture = Path(folder) / "model", Path(folder) / "picture.jpg"
        save_model(model)
        pixels = np.random.default_rng(1).integers(0, 256, (375, 500, 3), np.uint8)
        Image.fromarray(pixels).save(picture)
        bare, imported = ([run("-c", code) for _ in range(PAIRS)] for code in ("pass", "import captioner"))
        row_of_pairs(
            "start",
            "first caption of the command line",
            "s",
            lambda: run("-m", "captioner", "caption", str(picture), "--model", str(model)),
            goal={"ours": 6},
            parts=[
                Part("import captioner", "s", statistics.median(imported), 0.3),
                Part("a Python that does nothing", "s", statistics.median(bare)),
            ],
            notes=[
                "whole processes, the start of Python included; files are in the system's cache after the first run",
                f"an untrained decoder of the pipeline's sizes that knows {WORDS} words",
            ],
        ).write()


if __name__ == "__main__":
    try:
        main()
    except CaptionerError as error:
        sys.exit(f"bench_start: {error}")
