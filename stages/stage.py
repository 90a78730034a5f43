"""What all stages share: this checkout's source, validated parameters, errors in one line."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from types import TracebackType

_CHECKOUT = Path(__file__).resolve().parents[1]
# a queued run is a copy of the checkout, while an installed package may be the main checkout's: its own source first
sys.path.insert(0, str(_CHECKOUT / "src"))

from ruamel.yaml import YAML

from captioner import params
from captioner.common import resuming
from captioner.common.errors import CaptionerError
from captioner.common.files import files_below, json_of, replacing
from captioner.common.fingerprints import FileHashes, combined
from captioner.common.interruption import Interrupted, end_with_parent, raising
from captioner.common.startup import backend, keep_freed_memory
from captioner.common.threads import cores
from captioner.common.workspace import SECONDS
from captioner.params import Params


def _in_one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, CaptionerError):
        print(f"{Path(sys.argv[0]).stem}: {error}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _in_one_line  # of what a stage imports, before it runs


def main_checkout() -> Path:
    """Return the checkout that DVC was called in, also from one of its temporary copies."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()


def place_of(path: str) -> str:
    """Return a path that counts from the main checkout; an address as it is."""
    return path if "://" in path else str(main_checkout() / path)


def place_of_shards(given: Params) -> str:
    """Return where the shards lie: no input of a stage, as their content is."""
    return place_of(given.download.shards.path)


def from_environment(name: str) -> Path | None:
    """Return the path that an environment variable names, a relative one counted from the main checkout."""
    value = os.environ.get(name)
    return main_checkout() / value if value else None


def find_keras_home() -> None:
    """Let a relative `KERAS_HOME` count from the main checkout; before Keras is imported, which reads it then."""
    if keras_home := from_environment("KERAS_HOME"):
        os.environ["KERAS_HOME"] = str(keras_home)


CHECKPOINTS = Path(".cache/checkpoints")
"""Of interrupted stages, in the main checkout: what DVC removes lies elsewhere, and its temporary copies share it."""

_seconds_before = 0.0


def spent_before(seconds: float) -> None:
    """Count what an interrupted stage took, too, before it goes on."""
    global _seconds_before
    _seconds_before = seconds


@contextmanager
def resumable(stage: str, given: Params) -> Iterator[Path | None]:
    """Yield a directory for what this stage can go on from when it was interrupted, see `resuming.resumable`."""
    root = main_checkout() / CHECKPOINTS
    described = YAML(typ="safe", pure=True).load(_CHECKOUT / "dvc.yaml")["stages"][stage]
    wanted = [name.replace("${dataset}", given.dataset) for name in described["params"]]
    values = {
        name: value
        for name, value in params.flattened(given.model_dump()).items()
        if any(name == each or name.startswith(f"{each}.") for each in wanted)
    }
    root.mkdir(parents=True, exist_ok=True)
    hashes = FileHashes(root / f"{stage}-hashes.json")
    others = {}
    for dependency in described["deps"]:
        place = (_CHECKOUT if dependency.startswith(("src/", "stages/")) else Path()) / dependency
        found = hashes.of(files_below(place))
        others[dependency] = combined((str(path.relative_to(place)), each) for path, each in found.items())
    hashes.save()
    others["the number of processors"] = str(cores())
    others |= {f"the version of {name}": version(name) for name in ("keras", backend(), "numpy", "scipy")}
    with resuming.resumable(root, resuming.Work(stage, values, others)) as directory:
        yield directory


def run(stage: Callable[[Params], None], timed: bool = True) -> None:
    """Run a stage with the parameters of `params.yaml`, and, if timed, note how long it took.

    What a user can cause ends in one line on the standard error stream and exit code 1; a signal in the code that
    shells have for it.
    """
    began = time.perf_counter()
    keep_freed_memory()
    if "DVC_ROOT" in os.environ:
        end_with_parent()
    try:
        with raising():
            stage(params.load(Path("params.yaml")))
    except CaptionerError as error:
        sys.exit(f"{stage.__name__}: {error}")
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        sys.exit(f"{stage.__name__}: {error.strerror or error}{where}; no output was written.")
    except MemoryError:
        sys.exit(f"{stage.__name__}: the memory of this machine does not suffice; no output was written.")
    except Interrupted as interrupted:
        left = interrupted.left or "no output was written."
        with suppress(OSError):  # whoever read it may be gone
            print(f"{stage.__name__}: interrupted; {left}", file=sys.stderr, flush=True)
        sys.exit(interrupted.exit_code)
    if timed:
        seconds = _seconds_before + time.perf_counter() - began
        with replacing(SECONDS / f"{stage.__name__}.json") as beside:
            beside.write_text(json_of({stage.__name__: round(seconds, 1)}) + "\n")
