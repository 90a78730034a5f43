"""Feature extraction by several encoders and on a finer grid: the row `encoders`.

    python benchmarks/bench_encoders.py

All take the same JPEGs, as `captioner.features.extract` runs them in the pipeline: decoding, network and writing. A
round runs each once, and what is compared is the runs of one round. See `bench_features.py` for the pictures.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench_features import DRAWN, choose_weights, draw
from measure import row_of_rounds, seconds

from captioner.common.startup import fast_start

with fast_start():
    from captioner.common.keras import keras  # noqa: F401

import numpy as np

from captioner.features.extract import Extractor

PICTURES = 256  # in a run
DEFAULT = "efficientnet_lite0"
OTHERS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "efficientnet_lite1": {},
    "efficientnet_lite2": {},
    "mobilenet": {},
    f"{DEFAULT}, features.image_size=448": {"image_size": 448},
}


def measure(directory: Path) -> None:
    """Measure the row and write it."""
    generator = np.random.default_rng(1)
    drawn = [draw(generator) for _ in range(DRAWN)]
    pictures = [drawn[number % DRAWN] for number in range(PICTURES)]
    names = [f"{number}.jpg" for number in range(PICTURES)]
    paces: dict[str, Callable[[], float]] = {}
    for label, form in OTHERS.items():
        name = label.partition(",")[0]
        extractor = Extractor(name, choose_weights(name, directory), **form)
        extractor.extract(pictures[:16], names[:16], directory / "features")
        extract = partial(extractor.extract, pictures, names, directory / "features")
        paces[label] = partial(_pace, extract)
    row_of_rounds(
        "encoders",
        f"feature extraction of several encoders, {DEFAULT}",
        "pictures/s",
        paces,
        notes=[f"{PICTURES} drawn JPEGs; medians over rounds that run each once"],
    ).write()


def _pace(extract: Callable[[], object]) -> float:
    return PICTURES / seconds(extract)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder))
