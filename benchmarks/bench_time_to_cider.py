"""From Flickr8k's archives to a model of validation CIDEr 45: the row `time-to-cider`.

    CAPTIONER_MIRROR=that/directory python benchmarks/bench_time_to_cider.py

Wants the photographs: without a mirror that holds the archives nothing is measured. Ours is `dvc repro train` in a
fresh clone, until the first pass whose captions of the validation pictures reach that score, by the default recipe.
The reference would do the same arithmetic: to ours for everything else are added its measured seconds a picture, one
file a picture, and a caption, times the same numbers of both (see `bench_features.py` and `bench_training.py`).
"""

import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import bench_features
from bench_repro import call, surroundings
from bench_training import Textbook, one_caption_an_example
from measure import CHECKOUT, PAIRS, Part, Row, seconds

from captioner import params
from captioner.common.errors import CaptionerError
from captioner.data import store
from captioner.encoders import networks
from captioner.features.store import Features
from captioner.text.vocabulary import Vocabulary
from captioner.training import fit

ATTENTION, GOAL, MINUTES = "dot", 45.0, 15
PICTURES, STEPS = 160, 8  # of the reference, in one of its runs
PASS = re.compile(r"- (\d+)s - .* seconds: ([0-9.]+) .*val_CIDEr: ([0-9.]+)")


@dataclass(frozen=True)
class Pass:
    """One pass of training: all its seconds, those of its steps, and since the pipeline began; the score after it."""

    whole: float
    steps: float
    since: float
    score: float


def run_pipeline(clone: Path, environment: Mapping[str, str]) -> list[Pass]:
    """Train in a clone, and return its passes.

    Raises:
        CaptionerError: the pipeline failed, or ended below the score.
    """
    began = time.perf_counter()
    said: list[str] = []
    passes: list[Pass] = []
    with subprocess.Popen(
        ["dvc", "repro", "train"],
        cwd=clone,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as running:
        assert running.stdout is not None
        for line in running.stdout:
            said.append(line.strip())
            if found := PASS.search(line):
                whole, steps, score = map(float, found.groups())
                passes.append(Pass(whole, steps, time.perf_counter() - began, score))
                print(f"  CIDEr {score:.1f} after {passes[-1].since:.0f} s", flush=True)
    best = max((one.score for one in passes), default=0)
    if running.returncode or best < GOAL:
        last = next((line for line in reversed(said) if line), "nothing")
        raise CaptionerError(f"ended at CIDEr {best:.1f} after {len(passes)} passes, and said: {last}")
    return passes


def reference_paces(clone: Path, directory: Path) -> tuple[float, float, float]:
    """Return the reference's pictures a second, its captions a second, and the captions of a pass."""
    settings = params.load(CHECKOUT / "params.yaml")
    recipe = settings.train.flickr8k
    captions = store.read_captions(clone / "data")
    training_batches = captions[captions["split"] == "train"]
    names = list(dict.fromkeys(training_batches["image"]))[:PICTURES]
    paths = [directory / f"{number}.jpg" for number in range(len(names))]
    for path, data in zip(paths, store.read_pictures(clone / "data", names), strict=True):
        path.write_bytes(data)
    encoder = networks.build(settings.features.encoder, settings.features.weights)
    bench_features.predict(encoder, paths[: bench_features.BATCH], directory)
    extracting = median(
        len(paths) / seconds(lambda: bench_features.predict(encoder, paths, directory)) for _ in range(PAIRS)
    )
    features, vocabulary = Features.open(clone / "data/features"), Vocabulary.load(clone / "data/vocabulary.json")
    longest = max(len(vocabulary.split(caption)) for caption in training_batches["caption"])
    batches = fit.batches(features, captions, "train", vocabulary, recipe.model_copy(update={"maximum_words": longest}))
    decoder = fit.build(settings.model, recipe, ATTENTION, len(vocabulary), features.channels, features.positions)
    textbook = Textbook(decoder, recipe, len(batches))
    size = recipe.batch_size * recipe.captions_per_picture
    examples = one_caption_an_example(features, batches, size)

    def run(steps: int) -> float:
        return seconds(lambda: [textbook.step(*each).numpy() for each in itertools.islice(examples, steps)])

    run(1)
    learning = median(STEPS * size / run(STEPS) for _ in range(PAIRS))
    return extracting, learning, float(len(training_batches))


def main() -> None:
    """Measure the row and write it."""
    mirror = os.environ.get("CAPTIONER_MIRROR")
    if not mirror:
        print("time-to-cider: not measured, since it wants Flickr8k's archives: set CAPTIONER_MIRROR")
        return
    environment = surroundings() | {
        "CAPTIONER_MIRROR": str(Path(mirror).resolve()),
        "PYTHONUNBUFFERED": "1",  # a pass is seen when it ends
    }
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "captioner"
        call(["git", "clone", "--quiet", str(CHECKOUT), str(clone)], Path(folder), environment)
        chosen = {"dataset": "flickr8k", "attention": ATTENTION}
        text = (clone / "params.yaml").read_text("utf-8")
        for key, value in chosen.items():
            text = re.sub(rf"^{key}: \w+", f"{key}: {value}", text, flags=re.MULTILINE)
        (clone / "params.yaml").write_text(text, "utf-8")
        began = time.perf_counter()
        every = run_pipeline(clone, environment)
        whole = time.perf_counter() - began
        stages = {
            name: json.loads((clone / f"results/seconds/{name}.json").read_text("utf-8"))[name]
            for name in ("download", "vocabulary", "features", "train")
        }
        pictures = len(Features.open(clone / "data/features").rows)
        extracting, learning, captions = reference_paces(clone, Path(folder))
    needed = list(itertools.takewhile(lambda one: one.score < GOAL, every))
    needed.append(every[len(needed)])
    took = needed[-1].since
    ours = stages["features"] + sum(one.steps for one in needed)
    reference = took - ours + pictures / extracting + len(needed) * captions / learning
    # without the first pass, which compiles
    beside = 1 - sum(one.steps for one in every[1:]) / sum(one.whole for one in every[1:])
    Row(
        "time-to-cider",
        f"archives of Flickr8k to validation CIDEr {GOAL:g}, {ATTENTION}",
        "s",
        took,
        reference,
        reference / took,
        goal={"ours": 60 * MINUTES, "ratio": 4},
        parts=[
            Part("to the whole model, all passes of the recipe", "s", whole, 60 * MINUTES),
            Part("work of a pass that is not training, all but the first", "%", 100 * beside, 10),
            Part("the reference's pictures a second", "pictures/s", extracting),
            Part("the reference's captions a second", "captions/s", learning),
            *(Part(f"stage {name}", "s", value) for name, value in stages.items()),
        ],
        notes=[
            f"measured once; CIDEr of the captions generated for the validation pictures after each pass: "
            f"{', '.join(f'{one.score:.1f}' for one in every)}",
            f"the reference's side is reckoned, not run: {pictures:,} pictures and {len(needed)} passes of "
            f"{captions:,.0f} captions at its measured paces (medians of {PAIRS}), all else as ours",
        ],
    ).write()


if __name__ == "__main__":
    try:
        main()
    except CaptionerError as error:
        sys.exit(f"bench_time_to_cider: {error}")
