"""Is this machine ready? Each thing that Captioner needs, whether it is there, and how to fix it. Cheap looks only."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from captioner.common.errors import CaptionerError
from captioner.common.startup import backend, keras_home
from captioner.common.workspace import MODEL
from captioner.datasets import flickr8k
from captioner.encoders import efficientnet_lite
from captioner.model.description import Description, other_keras

DISK = 3 << 30  # bytes: the photographs' archive, their features and a few models


@dataclass(frozen=True)
class Finding:
    """One thing.

    Attributes:
        name: what was looked for.
        there: whether it is.
        says: what was found, or what is missing and how to fix it.
        needed: whether anything fails without it.
    """

    name: str
    there: bool
    says: str
    needed: bool = True

    @property
    def line(self) -> str:
        """The finding as one line."""
        state = "ok" if self.there else "MISSING" if self.needed else "none"
        return f"{state:9}{self.name:20}{self.says}"


def findings(checkout: Path) -> Iterator[Finding]:
    """Look at the machine; `checkout` is where data and models lie, or would."""
    yield _python()
    yield _backend()
    yield _gpu()
    yield from _weights(checkout)
    yield _java()
    yield _mirror(checkout)
    yield _disk(checkout)
    yield _model(checkout)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("Python", sys.version_info >= (3, 11), f"{version}; 3.11 or later is needed")


def _backend() -> Finding:
    try:
        name = backend()
    except CaptionerError as error:
        return Finding("backend", False, str(error))
    try:
        return Finding("backend", True, f"{name} {metadata.version(name)}, Keras {metadata.version('keras')}")
    except metadata.PackageNotFoundError:
        return Finding("backend", False, f"{name} is not installed: `make setup`, or unset KERAS_BACKEND")


def _gpu() -> Finding:
    asked = shutil.which("nvidia-smi")
    try:
        found = subprocess.run([asked, "-L"], capture_output=True, text=True, timeout=10) if asked else None
    except (OSError, subprocess.TimeoutExpired):
        found = None
    names = [line.split(" (UUID")[0] for line in found.stdout.splitlines()] if found and not found.returncode else []
    if not names:
        return Finding("GPU", False, "the CPU is used, which is enough to train on the scenes", needed=False)
    return Finding(
        "GPU", True, f"{'; '.join(names)}; used with the extra `gpu`: in the checkout, pip install -e '.[gpu]'"
    )


def _weights(checkout: Path) -> Iterator[Finding]:
    for name in efficientnet_lite.VARIANTS:
        try:
            path = efficientnet_lite.weights_path(name)
            there = path.is_file()
            says = f"in {path.parent}" if there else f"no {path}: reinstall its package"
        except CaptionerError as error:
            there, says = False, str(error)
        yield Finding(name, there, says, needed=name == "efficientnet_lite0")
    home = checkout / keras_home() / "models"
    found = sorted(path.name for path in home.glob("*.h5"))
    says = f"in {home}: {', '.join(found)}; " if found else ""
    yield Finding("other encoders", bool(found), f"{says}downloaded when one is first asked for", needed=False)


def _java() -> Finding:
    from captioner.scoring.java import find_java  # here, since it takes a while

    try:
        return Finding("Java", True, f"{find_java()}, for METEOR and the tokenizer of the scores")
    except CaptionerError as error:
        return Finding("Java", False, str(error))


def _mirror(checkout: Path) -> Finding:
    value = os.environ.get("CAPTIONER_MIRROR")
    if not value:
        return Finding("mirror", False, "CAPTIONER_MIRROR is not set: archives come from the network", needed=False)
    archives = [checkout / value / "flickr8k" / url.rpartition("/")[2] for url in (flickr8k.PICTURES, flickr8k.TEXT)]
    missing = [str(path) for path in archives if not path.is_file()]
    if missing:
        return Finding("mirror", False, f"no {' and no '.join(missing)}: put it there, or unset CAPTIONER_MIRROR")
    return Finding("mirror", True, f"{checkout / value} has flickr8k")


def _disk(checkout: Path) -> Finding:
    free = shutil.disk_usage(checkout).free
    return Finding(
        "disk", free >= DISK, f"{free / 2**30:.0f} GB free in {checkout}; {DISK >> 30} GB are needed for flickr8k"
    )


def _model(checkout: Path) -> Finding:
    directory = checkout / MODEL
    try:
        params = Description.read(directory).params
    except CaptionerError as error:
        return Finding("model", False, str(error), needed=False)
    kind = f"{params.get('attention')} attention on {params.get('dataset')}"
    return Finding("model", True, f"{directory}: {kind}{other_keras(directory, '; ')}")
