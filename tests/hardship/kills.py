"""Kills stages at random moments, lets `dvc repro` go on, and compares what comes out with an undisturbed run."""

import copy
import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import psutil
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "download.scenes.train": 300,
    "download.scenes.validation": 60,
    "download.scenes.test": 20,
    "train.scenes.epochs": 6,
    "train.scenes.blind_epochs": 4,
    "train.scenes.word_dropout": 0.2,
    "train.scenes.output_dropout": 0.2,
    "encoder_training": "fine_tuned",
    "fine_tune.scenes.epochs": 3,
    "evaluate.attention_pictures": 2,
    "evaluate.samples": 0,
}
OUTPUTS = {
    "fingerprint": ["data/fingerprints"],
    "download": ["data/images.zip", "data/captions.parquet", "data/objects.parquet"],
    "vocabulary": ["data/vocabulary.json"],
    "features": ["data/features"],
    "blind": ["results/blind"],
    "baselines": ["results/baselines"],
    "train": ["models/train", "results/train"],
    "fine_tune": ["models/captioner", "results/fine_tune"],
    "evaluate": ["results/evaluate"],
}
CUT = "Unable to read RWLock-file"
"""What DVC says when it was killed in the midst of writing its list of locks."""
TRAINING = ("blind", "train", "fine_tune")
"""Stages that go on from checkpoints; so does `features`."""


@dataclass
class Killed:
    """What became of a stage that was killed.

    Attributes:
        stage: its name.
        killed: how often.
        resumed: how often it went on in the midst of its work.
        differing: files of outputs that are not those of the undisturbed run.
        left: processes and half-written files that were left over.
        cut: how often a file of DVC's own had to be removed.
    """

    stage: str
    killed: int
    resumed: int
    differing: list[str]
    left: list[str]
    cut: int


class Checkout:
    """A clone of this checkout with small settings, whose DVC this environment runs."""

    def __init__(self, path: Path):
        self.path = path
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(path)], check=True)
        yaml = YAML()
        settings = yaml.load(path / "params.yaml")
        for name, value in SMALL.items():
            *sections, last = name.split(".")
            inner = settings
            for section in sections:
                inner = inner[section]
            inner[last] = value
        yaml.dump(settings, path / "params.yaml")
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_"))},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "CAPTIONER_CHECKPOINT_SECONDS": "1",
            "DVC_NO_ANALYTICS": "1",
            "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "false",
        }
        self.cache: Path | None = None  # where DVC's is, if not in the checkout
        self.seconds: dict[str, float] = {}
        self._expected: dict[str, dict[str, str]] = {}

    def undisturbed(self) -> "Checkout":
        """Run every stage, and note how long it took and what it made."""
        for stage in OUTPUTS:
            began = time.perf_counter()
            self.repro(stage)
            self.seconds[stage] = time.perf_counter() - began
            self._expected[stage] = self.contents(stage)
        return self

    def at(self, path: Path) -> "Checkout":
        """Return the same, which is found at another place."""
        other = copy.copy(self)
        other.path = path
        return other

    def copied(self, path: Path) -> "Checkout":
        """Copy all of it."""
        shutil.copytree(self.path, path, symlinks=True)
        return self.at(path)

    def remove(self, stage: str) -> None:
        """Remove a stage's outputs."""
        for output in OUTPUTS[stage]:
            shutil.rmtree(self.path / output, ignore_errors=True)
            (self.path / output).unlink(missing_ok=True)

    def start(self, stage: str) -> subprocess.Popen[str]:
        """Start `dvc repro STAGE` in a process group of its own."""
        return subprocess.Popen(
            ["dvc", "repro", stage],
            cwd=self.path,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def repro(self, stage: str) -> str:
        """Run `dvc repro STAGE` to its end; where a kill has cut off a file of DVC, remove it, as DVC asks for."""
        process = self.start(stage)
        said = process.communicate(timeout=900)[0]
        if CUT in said:
            (self.path / ".dvc/tmp/rwlock").unlink()
            return said + self.repro(stage)
        if process.returncode:
            raise RuntimeError(f"dvc repro {stage} ended with {process.returncode}:\n{said[-3000:]}")
        return said

    def run(self, *command: str) -> None:
        """Run a command of this environment there."""
        subprocess.run(command, cwd=self.path, env=self.environment, check=True, capture_output=True)

    def forget(self, stage: str) -> None:
        """Have DVC know neither the outputs of a stage nor that it ever ran, and keep nothing of them."""
        lock, cache = self.path / "dvc.lock", self.cache or self.path / ".dvc/cache"
        yaml = YAML()
        locked = yaml.load(lock)
        for output in (locked["stages"].pop(stage, None) or {}).get("outs", []):
            kept = _kept(cache, output["md5"])
            inside = json.loads(kept.read_text()) if kept.suffix == ".dir" and kept.is_file() else []
            for each in [kept, *(_kept(cache, file["md5"]) for file in inside)]:
                each.unlink(missing_ok=True)
        yaml.dump(locked, lock)
        shutil.rmtree(cache / "runs", ignore_errors=True)

    def contents(self, stage: str) -> dict[str, str]:
        """Return a hash of each file of a stage's outputs, of what has to be equal in it: values, and no times."""
        return {name: each for output in OUTPUTS[stage] for name, each in _contents(self.path / output).items()}

    def differing(self, stage: str) -> list[str]:
        """Return files of a stage's outputs that are not as they were undisturbed, absent and further ones included."""
        found, expected = self.contents(stage), self._expected[stage]
        return [name for name in {**expected, **found} if found.get(name) != expected.get(name)]

    def leftovers(self) -> list[str]:
        """Return processes that work in the checkout, and half-written files."""
        found = [str(path.relative_to(self.path)) for path in self.path.rglob(".*.part") if ".git" not in path.parts]
        for process in psutil.process_iter():
            try:
                if Path(process.cwd()).is_relative_to(self.path):
                    found.append(f"process {' '.join(process.cmdline())}")
            except (psutil.Error, OSError):
                continue
        return found


def _kept(cache: Path, md5: str) -> Path:
    return cache / "files/md5" / md5[:2] / md5[2:]


def _contents(path: Path) -> dict[str, str]:
    """Hash what of each file of an output has to be the same each time."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    lasting = (file for file in files if "tensorboard" not in file.parts)
    return {str(file.relative_to(path.parent)): hashlib.sha256(_lasting(file)).hexdigest() for file in lasting}


def _lasting(file: Path) -> bytes:
    if file.suffix == ".keras":  # an archive, with times
        with zipfile.ZipFile(file) as archive:
            return b"".join(_weights(archive.read(name)) for name in archive.namelist() if name.endswith(".h5"))
    if file.name in ("history.csv", "curves.csv"):
        rows = [line.split(",") for line in file.read_text("utf-8").splitlines()]
        timed = {rows[0].index(name) for name in ("seconds", "captions_per_second") if name in rows[0]}
        return json.dumps([[each for place, each in enumerate(row) if place not in timed] for row in rows]).encode()
    if file.name == "run.json":
        return json.dumps(json.loads(file.read_text("utf-8"))["tags"].get("model_sha256")).encode()
    return file.read_bytes()


def _weights(data: bytes) -> bytes:
    found: list[bytes] = []
    with h5py.File(io.BytesIO(data)) as file:
        file.visititems(lambda name, item: found.append(np.asarray(item).tobytes()) if hasattr(item, "shape") else None)
    return b"".join(found)


def kill(process: subprocess.Popen[str], alone: bool) -> str:
    """Kill a process, alone or with all of its group, and return what they said until all have ended."""
    if alone:
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)
    return process.communicate(timeout=120)[0]


def run(checkout: Checkout, kills: Mapping[str, int], seed: int) -> Iterator[Killed]:
    """Kill stages at random moments of their undisturbed duration.

    Every second time DVC alone is killed, and the stage has to notice; else DVC and the stage.

    Args:
        checkout: in which every stage has run undisturbed, see `Checkout.undisturbed`.
        kills: how often, by stage.
        seed: of the moments.
    """
    generator = random.Random(seed)
    for stage, wanted in kills.items():
        killed, said, differing = 0, "", list[str]()
        while killed < wanted:
            checkout.forget(stage)
            while killed < wanted:
                process = checkout.start(stage)
                try:
                    said += process.communicate(timeout=generator.uniform(0, checkout.seconds[stage]))[0]
                    break  # what goes on may have ended before this moment
                except subprocess.TimeoutExpired:
                    said += kill(process, alone=killed % 2 == 1)
                    killed += 1
            said += checkout.repro(stage)
            differing += checkout.differing(stage)
        yield Killed(stage, killed, said.count("Goes on after"), differing, checkout.leftovers(), said.count(CUT))
