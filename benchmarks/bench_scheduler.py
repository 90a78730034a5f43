"""What a cluster costs, and what a core does: the constants of the estimate in docs/scale.md, the row `scheduler`.

    python benchmarks/bench_scheduler.py

Ray's scheduler is real, with the settings of `captioner.common.cluster`; the workers sleep in place of work. So one
machine shows how it does with more of both than it has cores. What a core does in a second is measured beside it.
"""

import io
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial

import local_cluster
import numpy as np
import psutil
from measure import CHECKOUT, PAIRS, Part, Row, seconds
from PIL import Image

from captioner.common import cluster
from captioner.data import images

SHARDS, WORKERS, SLEEP = 10_000, 20, 0.2  # seconds a shard
SIDES = ((224, 224), (640, 480), (2048, 1536))  # of JPEGs, in pixels
AT_ONCE = 64  # pictures


def simulate(sleep: float) -> dict[str, float]:
    """Give shards to sleeping workers, and return seconds and memory, in MiB, of this process and of each worker."""
    machine = local_cluster.start(WORKERS)
    began, ends, workers = time.perf_counter(), [], 0.0
    for number, _ in enumerate(cluster.each(local_cluster.Sleeper, (sleep,), range(SHARDS))):
        ends.append(time.perf_counter())
        if number == SHARDS // 2:
            workers = statistics.median(_workers())
    machine.shutdown()
    quarter = SHARDS // 4  # by then all workers are there
    return {
        "rate": (SHARDS - 2 * quarter) / (ends[-quarter] - ends[quarter]),
        "until the first": ends[0] - began,
        "driver": psutil.Process().memory_info().rss / 2**20,
        "worker": workers,
    }


def _workers() -> Iterator[float]:
    for process in psutil.process_iter(["cmdline", "memory_info"]):
        if "MapWorker" in "".join(process.info["cmdline"] or ()):
            yield process.info["memory_info"].rss / 2**20


def of_a_core() -> dict[str, float]:
    """Return milliseconds that one core takes to decode a picture of each size, and for the network."""
    os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])
    from captioner.features.extract import Extractor

    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8))
    found = {}
    for width, height in SIDES:
        noise.resize((width, height), Image.Resampling.BICUBIC).save(encoded := io.BytesIO(), "JPEG", quality=85)
        data = encoded.getvalue()
        took = [seconds(partial(_decode, data)) for _ in range(PAIRS)]
        found[f"decoding {width} × {height}, {len(data) / 1e3:.0f} kB"] = 1000 * statistics.median(took) / AT_ONCE
    extractor = Extractor("efficientnet_lite0")
    pixels = np.zeros((AT_ONCE, 224, 224, 3), np.uint8)
    extractor(pixels)
    took = [seconds(lambda: extractor(pixels)) for _ in range(PAIRS)]
    return found | {"EfficientNet-Lite0": 1000 * statistics.median(took) / AT_ONCE}


def _decode(data: bytes) -> None:
    for _ in range(AT_ONCE):
        images.decode(data)


def main() -> None:
    """Measure the row and write it."""

    def of(*arguments: str) -> dict[str, float]:
        command = [sys.executable, __file__, *arguments]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT / "benchmarks")
        print(f"  scheduler, {' '.join(arguments)}: {said.stdout.splitlines()[-1]}", flush=True)
        return json.loads(said.stdout.splitlines()[-1])

    without, with_sleep, core = of("0"), of(str(SLEEP)), of("core")
    Row(
        "scheduler",
        f"shards that Ray gives to {WORKERS} workers which do nothing",
        "shards/s",
        without["rate"],
        goal={"ours": 14},  # 1,000 workers, of which each takes 70 s for a shard
        parts=[
            Part(
                f"of the rate of workers that sleep {SLEEP} s, lost",
                "%",
                100 - 100 * with_sleep["rate"] * SLEEP / WORKERS,
            ),
            Part(
                "until the first shard is done, Ray's start and a worker's included", "s", with_sleep["until the first"]
            ),
            Part("memory of the process that waits", "MiB", with_sleep["driver"]),
            Part("memory of a worker that does nothing", "MiB", with_sleep["worker"]),
            *(Part(f"one core: {name}", "ms a picture", value) for name, value in core.items()),
        ],
        notes=[f"{SHARDS:,} shards; the rate is that of the middle half; measured once"],
    ).write()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(of_a_core() if sys.argv[1] == "core" else simulate(float(sys.argv[1]))))
    else:
        main()
