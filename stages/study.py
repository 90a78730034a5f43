"""Train every attention with every seed, and bring the results together. No stage: `make study` starts it.

Each training is a DVC experiment in a temporary copy, under a name that says which it is. One that exists is not made
again, so an interrupted study goes on where it stopped; one whose parameters are others by now is made anew.
"""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from dvc.api import DVCFileSystem
from stage import RESULTS, main_checkout

from captioner import params
from captioner.common.errors import CaptionerError, quoted
from captioner.comparison import runs
from captioner.comparison import study as studies
from captioner.comparison.study import Trained
from captioner.datasets import DATASETS
from captioner.model.attention import ATTENTIONS


def study(dataset: str, attentions: list[str], seeds: list[int]) -> None:
    """Write `results/study/`."""
    params.load(Path("params.yaml"))  # else the first stage would say what is wrong with it
    checkout = main_checkout()
    trainings = {(attention, seed): f"study-{dataset}-{attention}-{seed}" for attention in attentions for seed in seeds}
    commit = _git("rev-parse", "--short", "HEAD")
    trained, pictures = [], {}
    for number, ((attention, seed), beginning) in enumerate(trainings.items(), 1):
        name = f"{beginning}-{commit}"
        print(f"{number} of {len(trainings)}: {name}", flush=True)
        chosen = {"dataset": dataset, "attention": attention, "seed": seed}
        revision = _revision(name)
        if revision is None or not _has_parameters(revision, chosen):
            revision = _train(name, chosen, anew=revision is not None)
        runs.track(name, revision, checkout)
        files = DVCFileSystem(str(checkout), rev=revision)
        history = pd.read_csv(io.BytesIO(files.read_bytes("results/train/history.csv")))
        trained.append(Trained(attention, seed, runs.find(name, checkout), history))
        if seed == seeds[0]:
            drawn = files.ls("results/evaluate/attention", detail=False)
            pictures[attention] = {Path(path).name: files.read_bytes(path) for path in sorted(drawn)}
    found = studies.analyse(trained)
    studies.write(found, dataset, pictures, RESULTS / "study")
    print("", *studies.paragraphs(found, dataset), "", f"{RESULTS / 'study' / 'index.html'} shows more.", sep="\n")


def _train(name: str, chosen: dict[str, Any], anew: bool) -> str:
    if anew:
        _run("dvc", "exp", "remove", name)
    settings = [part for key, value in chosen.items() for part in ("-S", f"{key}={value}")]
    _run("dvc", "exp", "run", "--temp", "--name", name, *settings)
    revision = _revision(name)
    if revision is None:
        raise CaptionerError(f"DVC made no experiment {name}: see what it said above.")
    return revision


def _run(*command: str) -> None:
    if subprocess.run(command, check=False).returncode:
        raise CaptionerError(
            f"`{' '.join(command)}` failed, see above; `make study` again goes on with it, and keeps what was trained."
        )


def _revision(name: str) -> str | None:
    """Return the commit of an experiment, if there is one of this name."""
    found = _git("for-each-ref", "--format=%(objectname) %(refname)", "refs/exps").splitlines()
    return next((line.split()[0] for line in found if line.endswith(f"/{name}")), None)


def _has_parameters(revision: str, chosen: dict[str, Any]) -> bool:
    """Whether an experiment was made with the parameters that the checkout has now, but for the chosen ones."""
    now = params.parse(Path("params.yaml").read_text("utf-8"), "params.yaml") | chosen
    return bool(params.parse(_git("show", f"{revision}:params.yaml"), f"params.yaml of {revision[:8]}") == now)


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise CaptionerError(f"`git {' '.join(arguments)}` failed: {done.stderr.strip()}")
    return done.stdout.strip()


def _listed(name: str, default: str, allowed: Any) -> list[str]:
    values = list(dict.fromkeys((os.environ.get(name) or default).replace(",", " ").split()))
    for value in values:
        if value not in allowed:
            raise CaptionerError(f"{name} has {quoted(value)}: allowed are {', '.join(allowed)}.")
    return values


def _seeds(text: str) -> list[int]:
    values = text.replace(",", " ").split()
    if not values or not all(value.isdecimal() and len(value) <= 10 and int(value) < params.SEEDS for value in values):
        raise CaptionerError(
            f"SEEDS is {quoted(text)}: give whole numbers from 0 to {params.SEEDS - 1}, as in SEEDS=1,2,3."
        )
    return sorted({int(value) for value in values})


if __name__ == "__main__":
    try:
        datasets = _listed("DATASET", "scenes", DATASETS)
        if len(datasets) > 1:
            raise CaptionerError(f"DATASET is {quoted(','.join(datasets))}: a study has one; start one for each.")
        some_attentions = _listed("ATTENTIONS", ",".join(ATTENTIONS), ATTENTIONS)
        if len(some_attentions) < 2:
            raise CaptionerError(f"ATTENTIONS is {quoted(some_attentions[0])}: a study needs two or more.")
        study(datasets[0], some_attentions, _seeds(os.environ.get("SEEDS") or "1,2,3"))
    except CaptionerError as error:
        sys.exit(f"study: {error}")
    except KeyboardInterrupt:
        sys.exit("study: interrupted; `make study` again goes on where it stopped.")
