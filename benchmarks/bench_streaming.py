"""Training pictures that stay in their shards: reading their features, and memory: the row `streaming`.

    python benchmarks/bench_streaming.py

Features of training pictures lie in Parquet files, compressed by zstd, a row group for 500 pictures. They are read a
row group at a time, in random order, beside the file `grid.npy` that smaller data sets have, of which a batch of 16
reads random rows. Pages of both files are dropped before, so that the disk is read. The maps are drawn, with as many
zeros as EfficientNet-Lite0's maps of photographs have.

The memory is that of a training on a data set and on one with four times the pictures, measured as the row `memory` is.
"""

import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from bench_memory import peak
from measure import CHECKOUT, PAIRS, Part, Row, check_disk, seconds

from captioner.common.errors import CaptionerError
from captioner.common.startup import fast_start, keep_freed_memory
from captioner.data import streamed
from captioner.features.shard_files import FeatureShards

SIZES = (1_000, 123_000)  # pictures: the latter are COCO's
SHARD = 10_000  # pictures, as img2dataset has them
READ = 4_000  # pictures, a window
BATCH = 16
SHAPE = (49, 1280)
ZEROS = 0.88  # of a photograph's map
DRAWN = 1_000  # different maps
PICTURES, TIMES = 8_000, 4
STEPS = 300  # of an epoch: a window has 250
NEEDED = 24 * 2**30  # bytes of disk


def drawn() -> np.ndarray:
    """Return maps, float16 `[DRAWN, 49, 1280]`."""
    generator = np.random.default_rng(1)
    values = np.abs(generator.standard_normal((DRAWN, *SHAPE), np.float32)).astype(np.float16)
    values[generator.random(values.shape, np.float32) < ZEROS] = 0
    return values


def write_grid(pictures: int, maps: np.ndarray, path: Path) -> None:
    """Write the maps of pictures to one file."""
    with path.open("wb") as file:
        shape = (pictures, *SHAPE)
        np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
        for first in range(0, pictures, DRAWN):
            file.write(maps[: pictures - first].tobytes())


def write_shards(pictures: int, maps: np.ndarray, files: FeatureShards) -> list[streamed.Part]:
    """Write the maps of pictures to a file for each shard, and return the parts."""
    parts = []
    for shard, first in enumerate(range(0, pictures, SHARD)):
        numbers = range(first, min(first + SHARD, pictures))
        groups = [numbers[start : start + streamed.PART] for start in range(0, len(numbers), streamed.PART)]
        names = [[f"{shard}/{number}" for number in group] for group in groups]
        files.write(str(shard), names, (maps[number % DRAWN] for number in numbers))
        parts += [streamed.Part(str(shard), place, 0) for place in range(len(groups))]
    return parts


def drop(directory: Path) -> None:
    """Have the pages of files dropped from memory."""
    for path in directory.rglob("*"):
        if path.is_file():
            number = os.open(path, os.O_RDONLY)
            os.fsync(number)
            os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(number)


def reading(pictures: int, folder: Path) -> tuple[list[float], list[float], float]:
    """Return the paces of shards' files and of one file, in pictures/s, and how many times smaller the former are."""
    maps, count = drawn(), min(READ, pictures)
    files = FeatureShards(folder / "train", *SHAPE)
    parts = write_shards(pictures, maps, files)
    write_grid(pictures, maps, folder / "grid.npy")
    size = sum(path.stat().st_size for path in (folder / "train").iterdir())
    generator = np.random.default_rng(2)

    def windows() -> None:
        chosen = generator.permutation(len(parts))[: count // streamed.PART]
        assert sum(len(files.read(parts[number])[1]) for number in chosen) == count

    def rows() -> None:
        grid = np.load(folder / "grid.npy", mmap_mode="r")
        for batch in np.array_split(generator.permutation(pictures)[:count], count // BATCH):
            grid[batch]

    def pace(read: Callable[[], None]) -> float:
        drop(folder)
        return count / seconds(read)

    pairs = [(pace(windows), pace(rows)) for _ in range(PAIRS)]
    for ours, other in pairs:
        print(f"  streaming, {pictures:,} pictures: {ours:,.0f} and {other:,.0f} pictures/s", flush=True)
    return [ours for ours, _ in pairs], [other for _, other in pairs], (folder / "grid.npy").stat().st_size / size


def write_data(pictures: int, directory: Path) -> None:
    """Write a data set whose training pictures stay in their shards, with features of these."""
    import io

    import synthetic
    from PIL import Image

    from captioner.data.shards import Shard

    Image.new("RGB", (8, 8)).save(encoded := io.BytesIO(), "PNG")
    said = synthetic.captions(pictures).groupby("image", sort=False)["caption"].apply(list)

    def described() -> Iterator[tuple[Shard, list[streamed.Described]]]:
        for shard, first in enumerate(range(0, pictures, SHARD)):
            few = [{0: "validation", 1: "test"}.get(number % 500, "train") for number in range(SHARD)]
            texts = said[first : first + SHARD]
            yield (
                Shard(f"{shard}.tar", 1),
                [
                    streamed.Described(f"{shard}/{number}", split, captions, encoded.getvalue())
                    for number, (split, captions) in enumerate(zip(few, texts, strict=False))
                ],
            )

    streamed.write(described(), directory)
    captions, maps = streamed.TrainingCaptions(directory), drawn()
    files = FeatureShards(directory / "train", *SHAPE)
    for shard, parts in captions.parts_of.items():
        names = [captions.images(part) for part in parts]
        files.write(shard, names, (maps[int(name.partition("/")[2]) % DRAWN] for group in names for name in group))


def training(directory: Path) -> None:
    """Train as the stage `train` does, but for the length of an epoch and the generated captions."""
    with fast_start():
        from captioner.common.keras import keras  # noqa: F401 - what follows imports it, with its notes
    import synthetic

    from captioner import params
    from captioner.data import store
    from captioner.features.store import Features
    from captioner.training import fit
    from captioner.training.history import LIKELIHOOD
    from captioner.training.streamed import training_batches

    settings = params.load(CHECKOUT / "params.yaml")
    recipe = settings.train.flickr8k.model_copy(update={"epochs": 1})
    vocabulary, captions = synthetic.vocabulary(), store.read_captions(directory, "validation")
    names = captions["image"].unique()
    maps = Features.at_hand(np.zeros((len(names), *SHAPE), np.float16), names, training=directory / "train")
    batches = training_batches(directory, maps, vocabulary, recipe, 1)
    validation = fit.batches(maps, captions, "validation", vocabulary, recipe)
    synthetic.shorten(batches, STEPS)
    decoder = fit.build(settings.model, recipe, settings.attention, len(vocabulary), maps.channels, maps.positions)
    fit.train(decoder, batches, validation, recipe, [], LIKELIHOOD)


def main() -> None:
    """Measure the row and write it."""
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        check_disk(folder, NEEDED)
        for pictures in SIZES:
            place = Path(folder) / str(pictures)
            place.mkdir()
            ours, reference, smaller = reading(pictures, place)
            shutil.rmtree(place)
            parts += [
                Part(f"{pictures:,} pictures, parts of shards", "pictures/s", statistics.median(ours)),
                Part(f"{pictures:,} pictures, random rows of one file", "pictures/s", statistics.median(reference)),
            ]
        directories = [Path(folder) / f"training-{count}" for count in (PICTURES, TIMES * PICTURES)]
        for directory, count in zip(directories, (PICTURES, TIMES * PICTURES), strict=True):
            write_data(count, directory)
        few, many = (peak([__file__, str(directory)])[0] for directory in directories)
        parts += [
            Part(f"peak memory of training, {PICTURES:,} pictures", "MiB", few),
            Part(f"the same, {TIMES * PICTURES:,} pictures", "MiB", many),
            Part(f"growth with {TIMES} times the pictures", "times", many / few, 1.1),
        ]
    Row(
        "streaming",
        f"reading features of training pictures in shards, {SIZES[-1]:,} pictures",
        "pictures/s",
        statistics.median(ours),
        statistics.median(reference),
        statistics.median(own / other for own, other in zip(ours, reference, strict=True)),
        pairs={"ours": ours, "reference": reference},
        parts=parts,
        notes=[
            f"the reference is random rows of one memory-mapped file, which is {smaller:.1f} times larger; both are "
            "read from the disk",
            f"training for {STEPS} steps, with two windows of 4,000 pictures in memory; each size measured once",
        ],
    ).write()


if __name__ == "__main__":
    try:
        if sys.argv[1:]:
            keep_freed_memory()
            training(Path(sys.argv[1]))
        else:
            main()
    except CaptionerError as error:
        sys.exit(f"bench_streaming: {error}")
