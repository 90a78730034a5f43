"""Put the pipeline through hardship on this machine, and print what it withstood.

    python tests/hardship/hardship.py [--full] [kills] [places] [inputs] [load] [together]

What is random is drawn from a seed. Exit code 1 when something is not as it should be.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import kills
import load
import mutations
import places
import together
from kills import Checkout

SEED = 1
SHORT = ["kills", "inputs", "load"]

Row = tuple[list[object], bool]
"""The cells of a row, and whether all is as it should be."""


def main() -> None:
    """Run what was asked for, and print a table of each part."""
    parser = argparse.ArgumentParser(description="Put the pipeline through hardship, and print what it withstood.")
    parser.add_argument("--full", action="store_true", help="more of everything")
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="part",
        help=f"of {', '.join(PARTS)}; by default {', '.join(SHORT)}, with --full all",
    )
    asked = parser.parse_args()
    if unknown := set(asked.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    parts = asked.parts or (list(PARTS) if asked.full else SHORT)
    may_mount = places.go_where_one_may_mount()
    well = True
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        checkout = Checkout(directory / "checkout")
        if set(parts) - {"inputs"}:
            checkout.undisturbed()
        for part in parts:
            if part == "places" and not may_mount:
                print("places: not tried, since nothing may be mounted here\n", flush=True)
                continue
            heading, rows = PARTS[part]
            (directory / part).mkdir()
            print(f"| {' | '.join(heading)} |\n|{'---|' * len(heading)}", flush=True)
            for cells, is_well in rows(checkout, directory / part, asked.full):
                print(f"| {' | '.join(map(str, cells))} |", flush=True)
                well &= is_well
            print(flush=True)
    sys.exit(not well)


def _kills(checkout: Checkout, _: Path, full: bool) -> Iterator[Row]:
    wanted = {stage: 7 if full and stage in kills.TRAINING else 5 for stage in kills.OUTPUTS}
    for found in kills.run(checkout, wanted, SEED):
        compared = _listed(found.differing), _listed(found.left)
        yield (
            [f"`{found.stage}`", found.killed, found.resumed, *compared, found.cut],
            not (found.differing or found.left),
        )


def _places(checkout: Checkout, directory: Path, full: bool) -> Iterator[Row]:
    for found in places.run(checkout, directory, full):
        yield [found.place, f"`{found.stage}`", found.ended, _listed(found.faults)], not found.faults


def _inputs(_: Checkout, directory: Path, full: bool) -> Iterator[Row]:
    found, most = mutations.run(10_000 if full else 1_000, SEED, directory)
    for door, tried in found.items():
        inputs = tried.taken + tried.refused + len(tried.faults)
        yield (
            [door, inputs, tried.taken, tried.refused, _listed(tried.faults), f"{tried.slowest:.1f}"],
            not tried.faults,
        )
    yield ["all together", "", "", "", f"at most {most:,} MiB more", ""], True


def _load(checkout: Checkout, _: Path, full: bool) -> Iterator[Row]:
    for found in load.run(checkout, full, SEED):
        middle, high = found.seconds
        refused = ", ".join(f"{times} × {status}" for status, times in found.errors.items()) or "none"
        cells = [found.what, found.requests, refused, found.differing, f"{middle:.2f}", f"{high:.2f}"]
        yield [*cells, f"{found.growth:.2f}", f"{found.memory:,}"], found.is_well


def _together(checkout: Checkout, directory: Path, _: bool) -> Iterator[Row]:
    for found in together.run(checkout, directory):
        yield [found.what, found.ended, _listed(found.faults)], not found.faults


def _listed(names: Sequence[str]) -> str:
    return "; ".join(names) or "none"


PARTS: dict[str, tuple[list[str], Callable[[Checkout, Path, bool], Iterator[Row]]]] = {
    "kills": (
        ["stage", "killed", "went on midway", "files that differ", "left over", "DVC's lock file cut off"],
        _kills,
    ),
    "places": (["place", "stage", "ended", "faults"], _places),
    "together": (["what", "ended", "faults"], _together),
    "inputs": (["door", "inputs", "taken", "refused in a line", "faults", "seconds of the slowest"], _inputs),
    "load": (
        ["what", "requests", "refused", "differing", "median, s", "95th percentile, s", "memory / before", "MiB"],
        _load,
    ),
}


if __name__ == "__main__":
    main()
