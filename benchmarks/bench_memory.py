"""Memory at Flickr8k's size and at four times that: the row `memory`.

    python benchmarks/bench_memory.py

What a person lacks is memory that the system cannot take back. So the anonymous pages of a process and its children are
added up (`RssAnon` of Linux's `/proc`), every 20 ms, and the peak counts. Pages of files, the memory-mapped features
above all, are not counted: the system drops them when it needs their place, and keeps them as long as it does not.

- features: the whole stage, over all pictures; they are small JPEGs, since they are scaled to one size anyway;
- training: the stage's way from the files on, with all captions, the order over all pictures, but a few dozen steps of
  an epoch; then the teacher-forced validation, cut likewise, and generated captions of all validation pictures, scored.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
from measure import CHECKOUT, Part, Row, check_disk

from captioner.common.errors import CaptionerError
from captioner.common.startup import fast_start, keep_freed_memory

PICTURES, TIMES = 8000, 4
STEPS = 40  # of an epoch
EVERY = 0.02  # seconds
NEEDED = 8 * 2**30  # bytes of disk for both sizes
SIDE = 64  # of the drawn pictures, in pixels
DRAWN = 64  # different pictures


def write_data(pictures: int, directory: Path) -> None:
    """Write `images.zip` and `captions.parquet`: three quarters to train on, an eighth each to validate and test."""
    import io

    import numpy as np
    import synthetic
    from PIL import Image

    from captioner.data import store
    from captioner.data.dataset import Dataset

    generator = np.random.default_rng(1)
    drawn = []
    for _ in range(DRAWN):
        encoded = io.BytesIO()
        Image.fromarray(generator.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(encoded, "JPEG")
        drawn.append(encoded.getvalue())
    captions = synthetic.captions(pictures)
    eighth = np.arange(len(captions)) * 8 // len(captions)
    captions["split"] = np.select([eighth < 6, eighth < 7], ["train", "validation"], "test")
    names = captions["image"].drop_duplicates()
    store.write(Dataset(captions, ((name, drawn[number % DRAWN]) for number, name in enumerate(names))), directory)


def features(directory: Path) -> None:
    """Do what the stage `features` does."""
    from captioner.data import store
    from captioner.features.extract import Extractor

    names = store.read_captions(directory)["image"].drop_duplicates().tolist()
    Extractor("efficientnet_lite0").extract(store.read_pictures(directory, names), names, directory / "features")


def training(directory: Path) -> None:
    """Do what the stage `train` does, but for the length of an epoch."""
    with fast_start():
        from captioner.common.keras import keras  # noqa: F401 - what follows imports it, with its notes
    import synthetic

    from captioner import params
    from captioner.data import store
    from captioner.data.dataset import captions_by_image
    from captioner.features.store import Features, rows_of
    from captioner.scoring.scorer import Scorer
    from captioner.search.generators import Generator
    from captioner.training import callbacks, fit

    settings = params.load(CHECKOUT / "params.yaml")
    recipe = settings.train.flickr8k.model_copy(update={"epochs": 1})
    maps, vocabulary = Features.open(directory / "features"), synthetic.vocabulary()
    captions = store.read_captions(directory)
    training_captions = fit.batches(maps, captions, "train", vocabulary, recipe, 1)
    validation = fit.batches(maps, captions, "validation", vocabulary, recipe)
    for batches in (training_captions, validation):
        synthetic.shorten(batches, STEPS)
    references = captions_by_image(captions[captions["split"] == "validation"])
    scorer = Scorer(references)
    decoder = fit.build(settings.model, recipe, settings.attention, len(vocabulary), maps.channels, maps.positions)
    names = list(references)
    greedy = Generator(decoder, beam=1, maximum=recipe.maximum_words)

    def judge(generated: dict[str, str]) -> dict[str, float]:
        return {"CIDEr": scorer.score(generated, ["BLEU", "CIDEr"]).corpus["CIDEr"]}

    judged = callbacks.GeneratedValidation(greedy, maps.grid, rows_of(maps, names), names, vocabulary, judge)
    fit.train(decoder, training_captions, validation, recipe, [judged])


def anonymous(process: psutil.Process) -> int:
    """Return the anonymous memory of a process and its children, in bytes."""
    total = 0
    for each in (process, *process.children(recursive=True)):
        lines = Path(f"/proc/{each.pid}/status").read_text("utf-8").splitlines()
        total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))
    return total


def peak(arguments: Sequence[str]) -> tuple[float, str]:
    """Run Python with arguments, and return the peak of its memory, in MiB, and what it printed.

    Raises:
        CaptionerError: it failed.
    """
    highest = 0
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT / "src")}
    with tempfile.TemporaryFile("w+") as said:
        child = psutil.Popen([sys.executable, *arguments], env=environment, stdout=said, stderr=subprocess.STDOUT)
        while child.poll() is None:
            try:
                highest = max(highest, anonymous(child))
            except (OSError, psutil.NoSuchProcess):
                continue  # one of them ended while it was looked at
            time.sleep(EVERY)
        said.seek(0)
        printed = said.read()
    if child.returncode:
        last = printed.strip().splitlines() or ["nothing"]
        raise CaptionerError(f"`python {' '.join(arguments)}` ended with {child.returncode} and said: {last[-1]}")
    return highest / 2**20, printed


def measured(folder: Path) -> Iterator[tuple[str, float, float]]:
    """Yield the name of each path, and its peak at the smaller and at the larger size."""
    directories = [folder / str(pictures) for pictures in (PICTURES, TIMES * PICTURES)]
    for directory in directories:
        write_data(int(directory.name), directory)
    for path in (features, training):
        few, many = (peak([__file__, path.__name__, str(directory)])[0] for directory in directories)
        print(f"  memory, {path.__name__}: {few:.0f} and {many:.0f} MiB", flush=True)
        yield path.__name__, few, many


def main() -> None:
    """Measure the row and write it."""
    if not Path("/proc/self/status").exists():
        raise CaptionerError("there is no /proc on this system: this row is measured on Linux")
    with tempfile.TemporaryDirectory() as folder:
        check_disk(folder, NEEDED)
        found = list(measured(Path(folder)))
    parts = []
    for name, few, many in found:
        parts += [
            Part(f"{name}, {PICTURES:,} pictures", "MiB", few),
            Part(f"{name}, {TIMES * PICTURES:,} pictures", "MiB", many),
            Part(f"{name}, growth with {TIMES} times the pictures", "times", many / few, 1.1),
        ]
    Row(
        "memory",
        f"peak memory of features and training, {TIMES} times Flickr8k's size",
        "MiB",
        max(many for _, _, many in found),
        goal={"ours": 2560},
        parts=parts,
        notes=[
            "anonymous memory of the process and its children, sampled every 20 ms; each size measured once",
            f"drawn pictures, five captions each; features of all of them, of training {STEPS} steps an epoch, and "
            "generated captions of all validation pictures (an eighth)",
        ],
    ).write()


if __name__ == "__main__":
    try:
        if sys.argv[1:]:
            keep_freed_memory()
            {"features": features, "training": training}[sys.argv[1]](Path(sys.argv[2]))
        else:
            main()
    except CaptionerError as error:
        sys.exit(f"bench_memory: {error}")
