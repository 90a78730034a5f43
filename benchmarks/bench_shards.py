"""Captions of shards, and features, in one process and on a Ray cluster with as many cores: the row `shards`.

    python benchmarks/bench_shards.py

A run captions the same shards of drawn scenes with a decoder of the default sizes and random weights, in a process that
is bound to the cores that it may use, and so is its cluster. The pace is that from the end of each worker's first shard
on, since it takes the same time to start for one shard as for a million; how long that is, is a part of the row.
"""

import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from measure import CHECKOUT, PAIRS, row_of_pairs, seconds
from measure import Part as Timed

from captioner.common.startup import fast_start

with fast_start():
    from captioner.common.keras import keras  # noqa: F401 - quietly, before what imports it

import local_cluster
import synthetic

from captioner import params
from captioner.common import cluster
from captioner.data import shards, store
from captioner.datasets.scenes import drawing
from captioner.features.distributed import Part, PartEncoder, noise
from captioner.features.extract import Extractor
from captioner.inference.shards import caption
from captioner.model.saved_model import SavedModel
from captioner.text.vocabulary import Vocabulary
from captioner.training import fit

SHARDS, PICTURES = 8, 150  # of each shard
GOAL = 0.9  # of the pace in one process


def prepare(directory: Path) -> None:
    """Write a model, and shards."""
    drawn = drawing.load({"train": SHARDS * PICTURES, "validation": 0, "test": 0}, (2, 3), synthetic.CAPTIONS, 1)
    store.write(drawn, directory / "data")
    names = drawn.captions["image"].unique().tolist()
    pictures = zip(names, store.read_pictures(directory / "data", names), strict=True)
    (directory / "shards").mkdir()
    for shard in range(SHARDS):
        with tarfile.open(directory / f"shards/{shard:05d}.tar", "w") as archive:
            for _, (name, data) in zip(range(PICTURES), pictures, strict=False):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    settings = params.load(CHECKOUT / "params.yaml")
    vocabulary = Vocabulary.build(drawn.captions["caption"])
    extractor = Extractor("efficientnet_lite0")
    decoder = fit.build(
        settings.model, settings.recipe, "dot", len(vocabulary), extractor.channels, extractor.positions
    )
    encoder = {"name": "efficientnet_lite0", "weights": "imagenet", "weights_sha256": extractor.weights_sha256}
    SavedModel(decoder, vocabulary, encoder, settings.recipe.maximum_words, {}).save(directory / "model")


def run(directory: Path, kind: str, cores: int, work: str) -> dict[str, float]:
    """Do work in this process or from it, and return the pace, and when the first shard or part was done."""
    os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:cores])
    workers = 1
    if kind == "Ray":
        local_cluster.start(cores)
        workers = cores
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as output:
        ends = [time.perf_counter() - began for _ in WORK[work](directory, output)]
        files = (path for path in sorted(Path(output).iterdir()) if not path.name.endswith(".json"))
        written = b"".join(path.read_bytes() for path in files)
    return {
        "pace": (SHARDS - workers) * PICTURES / (ends[-1] - ends[workers - 1]),
        "first": ends[0],
        "bytes": zlib.crc32(written),
    }


def captions(directory: Path, output: str) -> Iterator[object]:
    """Caption the shards."""
    return caption(directory / "model", shards.find([str(directory / "shards")]), output)


def features(directory: Path, output: str) -> Iterator[object]:
    """Compute the features of as many parts of pictures."""
    data = directory / "data"
    names = [(name, 0) for name in store.read_captions(data)["image"].unique().tolist()]
    parts = [Part(first, tuple(names[first : first + PICTURES])) for first in range(0, len(names), PICTURES)]
    extractor = Extractor("efficientnet_lite0")
    return cluster.each(PartEncoder, (extractor, noise(extractor), str(data), output), parts)


WORK: dict[str, Callable[[Path, str], Iterator[object]]] = {"captions": captions, "features": features}


def measure(directory: Path) -> None:
    """Measure the row and write it."""
    prepare(directory)
    found: dict[tuple[str, str, int], list[dict[str, float]]] = defaultdict(list)

    def pace(kind: str, cores: int, work: str = "captions") -> float:
        command = [sys.executable, __file__, str(directory), kind, str(cores), work]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT / "benchmarks")
        found[work, kind, cores].append(json.loads(said.stdout.splitlines()[-1]))
        return found[work, kind, cores][-1]["pace"]

    row = row_of_pairs(
        "shards",
        "captions of shards, two workers on Ray beside one process with two cores",
        "pictures/s",
        lambda: pace("Ray", 2),
        lambda: pace("one process", 2),
        goal={"ratio": GOAL},
        notes=[
            f"{SHARDS} shards of {PICTURES} drawn pictures, a decoder of the default sizes, beam 3; "
            "the pace begins when each worker has done a shard"
        ],
    )
    pairs = [(pace("Ray", 1), pace("one process", 1)) for _ in range(PAIRS)]
    of_features = [(pace("Ray", 2, "features"), pace("one process", 2, "features")) for _ in range(PAIRS)]
    given = shards.find([str(directory / "shards")])
    megabytes = sum(shard.size for shard in given) / 1e6
    reading = [seconds(lambda: [list(shards.read(shard)) for shard in given]) for _ in range(PAIRS)]
    parts = [
        Timed("features: two workers on Ray", "pictures/s", statistics.median(ray for ray, _ in of_features)),
        Timed("features: one process with two cores", "pictures/s", statistics.median(one for _, one in of_features)),
        Timed(
            "features: what Ray costs with two workers",
            "%",
            100 - statistics.median(100 * ray / one for ray, one in of_features),
            10,
        ),
        Timed("one worker on Ray", "pictures/s", statistics.median(ray for ray, _ in pairs)),
        Timed("one process with one core", "pictures/s", statistics.median(one for _, one in pairs)),
        Timed(
            "what Ray costs with one worker", "%", 100 - statistics.median(100 * ray / one for ray, one in pairs), 10
        ),
        Timed("reading shards", "MB/s", megabytes / statistics.median(reading)),
    ]
    for work in WORK:
        written = {each["bytes"] for (of, *_), runs in found.items() for each in runs if of == work}
        assert len(written) == 1, f"files of {work} differ"
    for (work, kind, cores), runs in found.items():
        first = statistics.median(each["first"] for each in runs)
        parts.append(Timed(f"{work}: until the first of {SHARDS} parts is done, {kind}, {cores} at work", "s", first))
    replace(row, parts=parts, agreement="the same bytes").write()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(run(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4])))
    else:
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder))
