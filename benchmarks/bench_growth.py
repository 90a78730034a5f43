"""How cost grows with the data and the model: `results/growth.json` and `growth.png`.

    python benchmarks/bench_growth.py

One thing varies at a time around a middle that is about Flickr8k's: the captions, the vocabulary, the longest caption,
the grid's positions, the state. Each point is a process of its own that trains a few steps as the pipeline does, by the
recipe for photographs, with `dot` attention: seconds of a step (a median), seconds until the first step is done
(building the batches, compilation) and the peak of its anonymous memory, as in the row `memory`.
"""

import io
import itertools
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench_memory import peak
from measure import CHECKOUT, RESULTS, machine

from captioner.common.errors import CaptionerError
from captioner.common.files import replacing
from captioner.common.startup import fast_start

MIDDLE = {"captions": 40_000, "vocabulary": 5_000, "words a caption": 20, "positions": 49, "state": 512}
VALUES: Mapping[str, Sequence[int]] = {
    "captions": (10_000, 20_000, 40_000, 80_000),
    "vocabulary": (2_000, 5_000, 10_000, 20_000, 40_000),
    "words a caption": (10, 20, 40),
    "positions": (49, 196),
    "state": (256, 512, 1024),
}
STEPS = 10
PICTURES = 64  # with a map of their own; the others share them, so that no gigabytes are drawn
SHOWN = {"pass": "seconds a pass", "start": "seconds to the first step", "memory": "peak memory, MiB"}
PICTURE = CHECKOUT / "benchmarks/growth.png"


def train(point: Mapping[str, int]) -> None:
    """Train a few steps, and print the seconds to the first and of each other as JSON."""
    with fast_start():
        from captioner.common.keras import keras
    import synthetic

    from captioner import params
    from captioner.common.startup import keep_freed_memory
    from captioner.features.store import Features
    from captioner.training import fit

    keep_freed_memory()
    began = time.perf_counter()
    ends: list[float] = []

    settings = params.load(CHECKOUT / "params.yaml")
    longest = {"epochs": 1, "maximum_words": point["words a caption"]}
    recipe = settings.train.flickr8k.model_copy(update=longest)
    sizes = settings.model.model_copy(update={"state_size": point["state"]})
    pictures = point["captions"] // synthetic.CAPTIONS
    vocabulary = synthetic.vocabulary(point["vocabulary"])
    captions = synthetic.captions(pictures, point["vocabulary"]).assign(split="train")
    with tempfile.TemporaryDirectory() as folder:
        drawn = synthetic.features(PICTURES, Path(folder), point["positions"])
        rows = {f"{number}.jpg": number % PICTURES for number in range(pictures)}
        features = Features(drawn.grid, rows, drawn.encoder, drawn.weights, drawn.weights_sha256)
        batches = fit.batches(features, captions, "train", vocabulary, recipe, 1)
        validation = fit.batches(features, captions[: synthetic.CAPTIONS], "train", vocabulary, recipe)
        synthetic.shorten(batches, STEPS)
        decoder = fit.build(sizes, recipe, "dot", len(vocabulary), drawn.channels, drawn.positions)
        watch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_, **__: ends.append(time.perf_counter()))
        fit.train(decoder, batches, validation, recipe, [watch], monitor="val_nll")
    steps = [end - start for start, end in itertools.pairwise(ends)]
    captions_a_step = recipe.batch_size * recipe.captions_per_picture
    print(json.dumps({"start": ends[0] - began, "pass": statistics.median(steps) * len(captions) / captions_a_step}))


def draw(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> bytes:
    """Return the plot as PNG: a column for what varies, a row for what it costs."""
    from matplotlib.figure import Figure

    from captioner.reports.curves import COLOURS

    figure = Figure(figsize=(12, 6.5), dpi=90, layout="constrained")
    grid = figure.subplots(len(SHOWN), len(curves), sharey="row", sharex="col")
    for column, (varied, points) in enumerate(curves.items()):
        values = [point["value"] for point in points]
        for row, ((key, label), colour) in enumerate(zip(SHOWN.items(), COLOURS, strict=False)):
            axes = grid[row, column]
            axes.plot(values, [point[key] for point in points], ".-", color=colour)
            axes.set_xlim(0, 1.08 * max(values))
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", color="#e4e4e4")
            if not column:
                axes.set_ylabel(label)
            if row == len(SHOWN) - 1:
                axes.set_xlabel(varied)
                axes.set_xticks([values[0], values[-1]], [f"{value:,}" for value in (values[0], values[-1])])
    for axes in grid[:, 0]:  # shared by the row, and scaled to all that it shows
        axes.set_ylim(bottom=0)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def describe(varied: str, points: Sequence[Mapping[str, float]]) -> str:
    """Say by how much cost grew, and whether faster than what was varied."""
    first, last = points[0], points[-1]
    times = last["value"] / first["value"]
    grown = {key: last[key] / first[key] for key in SHOWN}
    steepest = max(
        math.log(after[key] / before[key]) / math.log(after["value"] / before["value"])
        for before, after in itertools.pairwise(points)
        for key in SHOWN
    )
    return (
        f"{varied}, {first['value']:,.0f} to {last['value']:,.0f} ({times:.3g} times): a pass takes "
        f"{grown['pass']:.2g} times as long, the first step {grown['start']:.2g} times, memory {grown['memory']:.2g} "
        f"times; the steepest part grows as the power {steepest:.2g}"
    )


def main() -> None:
    """Measure all points, and write the plot and its numbers."""
    measured: dict[str, dict[str, float]] = {}
    curves: dict[str, list[dict[str, float]]] = {}
    for varied, values in VALUES.items():
        curves[varied] = []
        for value in values:
            point = json.dumps(MIDDLE | {varied: value})
            if point not in measured:
                memory, printed = peak([__file__, point])
                measured[point] = json.loads(printed.strip().splitlines()[-1]) | {"memory": memory}
                print(f"  {varied} {value:,}:", {k: round(v, 1) for k, v in measured[point].items()}, flush=True)
            curves[varied].append({"value": value, **measured[point]})
    middle = ", ".join(f"{value:,} {name}" for name, value in MIDDLE.items())
    described: dict[str, Any] = {
        "name": "growth",
        "title": "Seconds and memory of training against captions, vocabulary, length, positions and state",
        "curves": curves,
        "notes": [
            f"one thing varies, the others stay at {middle}",
            f"a pass is the median of {STEPS - 1} steps, times the steps of a pass; the first step holds building the "
            "batches and compilation",
            *(describe(varied, points) for varied, points in curves.items()),
            "a state of twice the size has recurrent matrices of four times; up to 1,024 the parts that do not grow so "
            "still hide it",
        ],
        "machine": machine(),
    }
    with replacing(PICTURE) as beside:
        beside.write_bytes(draw(curves))
    with replacing(RESULTS / "growth.json") as beside:
        beside.write_text(json.dumps(described, indent=2, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    try:
        if sys.argv[1:]:
            train(json.loads(sys.argv[1]))
        else:
            main()
    except CaptionerError as error:
        sys.exit(f"bench_growth: {error}")
