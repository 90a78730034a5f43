"""What all stages share: this checkout's source, validated parameters, errors in one line."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

# a queued run is a copy of the checkout, while an installed package may be the main checkout's: its own source first
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from captioner import params
from captioner.common.errors import CaptionerError
from captioner.common.files import json_of, replacing
from captioner.common.startup import keep_freed_memory
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


def from_environment(name: str) -> Path | None:
    """Return the path that an environment variable names, a relative one counted from the main checkout."""
    value = os.environ.get(name)
    return main_checkout() / value if value else None


def find_keras_home() -> None:
    """Let a relative `KERAS_HOME` count from the main checkout; before Keras is imported, which reads it then."""
    if keras_home := from_environment("KERAS_HOME"):
        os.environ["KERAS_HOME"] = str(keras_home)


def run(stage: Callable[[Params], None], timed: bool = True) -> None:
    """Run a stage with the parameters of `params.yaml`, and, if timed, note how long it took.

    What a user can cause ends in one line on the standard error stream and exit code 1.
    """
    began = time.perf_counter()
    keep_freed_memory()
    try:
        stage(params.load(Path("params.yaml")))
    except CaptionerError as error:
        sys.exit(f"{stage.__name__}: {error}")
    except OSError as error:
        sys.exit(f"{stage.__name__}: {error.strerror or error} ({error.filename or 'no file'}); nothing was written.")
    except KeyboardInterrupt:
        sys.exit(f"{stage.__name__}: interrupted; nothing was written.")
    if timed:
        with replacing(SECONDS / f"{stage.__name__}.json") as beside:
            beside.write_text(json_of({stage.__name__: round(time.perf_counter() - began, 1)}) + "\n")
