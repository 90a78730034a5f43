"""How all benchmarks measure: two paths in turn on the same input, medians, and how far the machine's limit is.

A row is one file, `benchmarks/results/ROW.json`:

- `name`, `unit`;
- `ours`, `reference`: the medians of both paths, in that unit; no reference is `null`;
- `ratio`: how many times better ours is, the median over pairs, since a pair's two runs see the same machine;
- `fraction_of_limit`: of what the machine's float32 matrix rate would allow, the median over pairs; or `null`;
- `pairs`: the values measured, `ours`, `reference` and `limit`, or what else is compared, in the order of measurement;
- `agreement`: by what and how closely the two paths give the same result;
- `goal`: what was to be reached, by key of this row;
- `parts`: what else the row measures, each with `name`, `unit`, `value` and the goal `at_most` or `null`;
- `machine`: what it was measured on;
- whatever else the row has to say, in words, as `notes`.
"""

import json
import os
import platform
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from captioner.common.errors import CaptionerError
from captioner.common.files import replacing

CHECKOUT = Path(__file__).resolve().parents[1]
RESULTS = CHECKOUT / "benchmarks/results"
PAIRS = 5
LOWER_IS_BETTER = ("s", "MiB")


@dataclass(frozen=True)
class Part:
    """Something else that a row measures; see the module."""

    name: str
    unit: str
    value: float
    at_most: float | None = None


@dataclass(frozen=True)
class Row:
    """One line of the benchmark page; see the module."""

    name: str
    title: str
    unit: str
    ours: float
    reference: float | None = None
    ratio: float | None = None
    fraction_of_limit: float | None = None
    pairs: Mapping[str, Sequence[float]] = field(default_factory=dict)
    agreement: str = ""
    goal: Mapping[str, float] = field(default_factory=dict)
    parts: Sequence[Part] = ()
    notes: Sequence[str] = ()

    def write(self, directory: Path = RESULTS) -> None:
        """Write `ROW.json`, with the machine it was measured on, and print the row."""
        directory.mkdir(parents=True, exist_ok=True)
        described = _rounded(asdict(self) | {"machine": machine()})
        with replacing(directory / f"{self.name}.json") as beside:
            beside.write_text(json.dumps(described, indent=2, ensure_ascii=False) + "\n", "utf-8")
        shown = {key: described[key] for key in ("ours", "reference", "ratio", "fraction_of_limit")}
        print(f"{self.name} [{self.unit}]: {shown} {self.agreement}", flush=True)


def row_of_pairs(
    name: str,
    title: str,
    unit: str,
    ours: Callable[[], float],
    reference: Callable[[], float] | None = None,
    limit: Callable[[], float] | None = None,
    *,
    pairs: int = PAIRS,
    **described: Any,
) -> Row:
    """Measure ours, the reference and the limit in turn, A, B, L, A, B, L …, and return the row of their medians.

    Args:
        name: of the row's file.
        title: of the row, in words.
        unit: of what the three functions return; of seconds and MiB less is better, of all else more.
        ours: runs our path once, and returns what it measured.
        reference: the same for the path that we are compared with.
        limit: the same for what the machine would allow, in the same unit.
        pairs: how often.
        described: other fields of the row.
    """
    measured: dict[str, list[float]] = {"ours": [], "reference": [], "limit": []}
    for number in range(pairs):
        for key, path in (("ours", ours), ("reference", reference), ("limit", limit)):
            if path is not None:
                measured[key].append(path())
        print(f"  {name} {number + 1}/{pairs}:", {k: round(v[-1], 3) for k, v in measured.items() if v}, flush=True)
    less = unit in LOWER_IS_BETTER

    def of(key: str) -> float | None:
        return statistics.median(measured[key]) if measured[key] else None

    def against(key: str) -> float | None:
        each = zip(measured["ours"], measured[key], strict=False)
        quotients = [(other / own if less else own / other) for own, other in each]
        return statistics.median(quotients) if quotients else None

    return Row(
        name,
        title,
        unit,
        statistics.median(measured["ours"]),
        of("reference"),
        against("reference"),
        against("limit"),
        {key: values for key, values in measured.items() if values},
        **described,
    )


def row_of_rounds(
    name: str,
    title: str,
    unit: str,
    runs: Mapping[str, Callable[[], float]],
    *,
    relative: bool = False,
    **described: Any,
) -> Row:
    """Measure several things in turn, each once a round, and return the row of their medians.

    Args:
        name: of the row's file.
        title: of the row, in words.
        unit: of what the functions return.
        runs: by name, what runs each once, and returns what it measured; the first is the row's own value, the others
            are its parts.
        relative: whether a part is given as a multiple of the first, the median over rounds.
        described: other fields of the row.
    """
    first, *others = runs
    measured: dict[str, list[float]] = {label: [] for label in runs}
    for number in range(PAIRS):
        for label, run in runs.items():
            measured[label].append(run())
        print(f"  {name} {number + 1}/{PAIRS}:", {label: round(v[-1], 3) for label, v in measured.items()}, flush=True)

    def of(label: str) -> float:
        if not relative:
            return statistics.median(measured[label])
        return statistics.median(own / one for own, one in zip(measured[label], measured[first], strict=True))

    parts = [Part(label, f"times {first}" if relative else unit, of(label)) for label in others]
    return Row(name, title, unit, statistics.median(measured[first]), pairs=measured, parts=parts, **described)


def check_disk(folder: str, needed: int) -> None:
    """Raise `CaptionerError` where a folder has not so many bytes left."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CaptionerError(
            f"{folder} has {free / 2**30:.1f} GiB free, {needed / 2**30:.0f} are needed: "
            "set TMPDIR to a directory with more"
        )


def seconds(run: Callable[[], object]) -> float:
    """Return how long a run took."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def matrix_rate(size: int = 2048, times: int = 7) -> float:
    """Return the rate at which this machine multiplies float32 matrices now, in FLOP/s: the median of some products.

    The products are of square matrices, on all cores, by the faster of NumPy (OpenBLAS) and TensorFlow (oneDNN): which
    of them knows a processor better differs.
    """
    import tensorflow

    left, right = np.random.default_rng(1).standard_normal((2, size, size), np.float32)
    tensors = [tensorflow.constant(each) for each in (left, right)]
    products: list[Callable[[], object]] = [lambda: left @ right, lambda: tensorflow.linalg.matmul(*tensors).numpy()]
    for product in products:
        product()
    took = [[seconds(product) for product in products] for _ in range(times)]
    return 2 * size**3 / min(map(statistics.median, zip(*took, strict=True)))


def machine() -> dict[str, str]:
    """Describe what this runs on."""
    packages = ("tensorflow", "keras", "jax", "numpy")
    return {
        "processor": _processor(),
        "cores": f"{os.cpu_count()}",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}",
        "python": sys.version.split()[0],
        **{name: metadata.version(name) for name in packages if _installed(name)},
    }


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    facts = {key.strip(): value.strip() for key, mark, value in (line.partition(":") for line in lines) if mark}
    wide = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_tile") if name in facts.get("flags", "").split()]
    return f"{facts.get('model name', platform.machine())} ({', '.join(wide)})" if wide else facts.get("model name", "")


def _rounded(value: Any) -> Any:
    """Keep four significant digits: the rest is noise."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(each) for each in value]
    return value
