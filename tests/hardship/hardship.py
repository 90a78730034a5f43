"""Put the pipeline through hardship on this machine, and print what it withstood.

    python tests/hardship/hardship.py [--full]

The moments are drawn from a seed. Exit code 1 when an output differs, or something is left over.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import kills

SEED = 1


def main() -> None:
    """Run all, and print the table."""
    parser = argparse.ArgumentParser(description="Put the pipeline through hardship, and print what it withstood.")
    parser.add_argument("--full", action="store_true", help="more of everything")
    full = parser.parse_args().full
    wanted = {stage: 7 if full and stage in kills.TRAINING else 5 for stage in kills.OUTPUTS}
    broken = False
    print("| stage | killed | went on midway | files that differ | left over | DVC's lock file cut off | seconds |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        began = time.perf_counter()
        for found in kills.run(wanted, SEED, Path(temporary) / "checkout"):
            broken |= bool(found.differing or found.left)
            took, began = time.perf_counter() - began, time.perf_counter()
            compared = _listed(found.differing), _listed(found.left)
            cells = [f"`{found.stage}`", found.killed, found.resumed, *compared, found.cut, round(took)]
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
    sys.exit(broken)


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"


if __name__ == "__main__":
    main()
