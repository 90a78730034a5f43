"""The trainings of a study: every attention with every seed, and their results brought together.

Each training is a DVC experiment in a temporary copy, under a name that says which it is. One that exists is not made
again, so an interrupted study continues where it stopped; one whose parameters have changed since is made again.
"""

import io
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from dvc.api import DVCFileSystem

from captioner import params
from captioner.common.errors import CaptionerError
from captioner.common.workspace import EVALUATED, FINE_TUNED, STUDY
from captioner.comparison import runs
from captioner.comparison import study as studies
from captioner.comparison.study import Trained
from captioner.training.history import HISTORY


def train_all(checkout: Path, dataset: str, attentions: Sequence[str], seeds: Sequence[int]) -> None:
    """Train what is not trained yet, and write `results/study/`.

    Args:
        checkout: where DVC, git and the parameters are.
        dataset: that all are trained on.
        attentions: two or more.
        seeds: of the trainings of each attention.

    Raises:
        CaptionerError: the parameters are wrong, a training fails, or git or the MLflow store cannot be used.
    """
    for attention in attentions:  # else the first stage would say what is wrong, of the last one after hours
        params.load(checkout / "params.yaml", dataset=dataset, attention=attention)
    trainings = {(attention, seed): f"study-{dataset}-{attention}-{seed}" for attention in attentions for seed in seeds}
    commit = _git(checkout, "rev-parse", "--short", "HEAD")
    trained, pictures = [], {}
    for number, ((attention, seed), beginning) in enumerate(trainings.items(), 1):
        name = f"{beginning}-{commit}"
        print(f"{number} of {len(trainings)}: {name}", flush=True)
        chosen = {"dataset": dataset, "attention": attention, "seed": seed}
        revision = _revision(checkout, name)
        if revision is None or not _has_parameters(checkout, revision, chosen):
            revision = _train(checkout, name, chosen, again=revision is not None)
        runs.track(name, revision, checkout)
        files = DVCFileSystem(str(checkout), rev=revision)
        history = pd.read_csv(io.BytesIO(files.read_bytes((FINE_TUNED / HISTORY).as_posix())))
        trained.append(Trained(attention, seed, runs.find(name, checkout), history))
        if seed == seeds[0]:
            drawn = files.ls((EVALUATED / "attention").as_posix(), detail=False)
            pictures[attention] = {Path(path).name: files.read_bytes(path) for path in sorted(drawn)}
    found = studies.analyse(trained)
    studies.write(found, dataset, pictures, checkout / STUDY)
    print("", *studies.paragraphs(found, dataset), "", f"{STUDY / 'index.html'} shows more.", sep="\n")


def _train(checkout: Path, name: str, chosen: dict[str, Any], again: bool) -> str:
    if again:
        _run(checkout, "dvc", "exp", "remove", name)
    settings = [part for key, value in chosen.items() for part in ("-S", f"{key}={value}")]
    _run(checkout, "dvc", "exp", "run", "--temp", "--name", name, *settings)
    revision = _revision(checkout, name)
    if revision is None:
        raise CaptionerError(f"DVC made no experiment {name}: see what it said above.")
    return revision


def _run(checkout: Path, *command: str) -> None:
    if subprocess.run([sys.executable, "-m", *command], cwd=checkout, check=False).returncode:
        raise CaptionerError(
            f"`{' '.join(command)}` failed, see above; `make study` again continues with it and keeps what was trained."
        )


def _revision(checkout: Path, name: str) -> str | None:
    """Return the commit of an experiment, if there is one of this name."""
    found = _git(checkout, "for-each-ref", "--format=%(objectname) %(refname)", "refs/exps").splitlines()
    return next((line.split()[0] for line in found if line.endswith(f"/{name}")), None)


def _has_parameters(checkout: Path, revision: str, chosen: dict[str, Any]) -> bool:
    """Whether an experiment was made with the parameters that the checkout has now, but for the chosen ones."""
    now = params.parse((checkout / "params.yaml").read_text("utf-8"), "params.yaml") | chosen
    return bool(
        params.parse(_git(checkout, "show", f"{revision}:params.yaml"), f"params.yaml of {revision[:8]}") == now
    )


def _git(checkout: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(checkout), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise CaptionerError(f"`git {' '.join(arguments)}` failed: {done.stderr.strip()}")
    return done.stdout.strip()
