"""Measured runs, wherever they are kept: a directory, MLflow, or DVC's experiments and git's commits."""

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from captioner.common.errors import CaptionerError, quoted
from captioner.common.workspace import EVALUATED, MODEL, RESULTS, TRAINED, TRAINED_LAST
from captioner.evaluation.signature import Signature
from captioner.scoring.statistics import SCORES, STATISTICS, NotFiniteError, SufficientStatistics
from captioner.tracking import runs, store
from captioner.tracking.record import RECORD

WORKSPACE = "workspace"
SHOWN = 5


@dataclass(frozen=True, eq=False)
class Run:
    """What was measured of one model on one split.

    Attributes:
        name: as it was asked for; of an MLflow run, the first 8 digits of its id.
        attention: the mechanism, or nothing where it is not known.
        statistics: what its scores are made of.
        signatures: by score, how it was measured, by part: `{"references": "5", "beam": "3"}`.
    """

    name: str
    attention: str
    statistics: SufficientStatistics
    signatures: dict[str, dict[str, str]]


def find(name: str, checkout: Path) -> Run:
    """Read a run.

    Args:
        name: `workspace`, for the results that lie in the checkout; a directory that holds both files, or a checkout,
            or its `results/`; the id of an MLflow run, or at least 8 digits that begin it and no other; the name of a
            DVC experiment, or a git revision. The first that fits is taken, in this order.
        checkout: where DVC, git and the default MLflow store are.

    Raises:
        CaptionerError: there is no such run, or it has no results.
    """
    if name == WORKSPACE:
        found = _in_directory(checkout, name)
        if found is None:
            raise CaptionerError(f"{checkout / EVALUATED} lacks {STATISTICS} or {SCORES}: make them with `dvc repro`.")
        return found
    found = _in_directory(Path(name), name)
    if found is not None:
        return found
    unreachable = None
    try:
        found = _in_mlflow(name, checkout)
    except CaptionerError as error:
        unreachable = error  # the name may be that of a commit
    found = found or _in_dvc(name, checkout)
    if found is None:
        raise unreachable or CaptionerError(_unknown(name, checkout))
    return found


def _in_directory(directory: Path, name: str) -> Run | None:
    for place in (directory, directory / "evaluate", directory / EVALUATED):
        if (place / STATISTICS).is_file() and (place / SCORES).is_file():
            records = [place.resolve().parent / each.relative_to(RESULTS) / RECORD for each in TRAINED_LAST]
            record = next((each.read_text("utf-8") for each in records if each.is_file()), "")
            return _read(place, name, _attention(record))
    return None


def _in_mlflow(name: str, checkout: Path) -> Run | None:
    if not re.fullmatch("[0-9a-f]{8,32}", name):
        return None
    found = store.find(checkout, name)
    if len(found) > 1:
        raise CaptionerError(
            f"Received {name!r}, which begins several MLflow runs: give more digits of one of {_list(found)}."
        )
    for run_id, (title, attention) in found.items():
        with TemporaryDirectory() as temporary:
            directory = Path(temporary)
            store.fetch(checkout, run_id, (STATISTICS, SCORES), directory)
            if not all((directory / each).is_file() for each in (STATISTICS, SCORES)):
                raise CaptionerError(
                    f"The MLflow run {run_id} ({title}) lacks {STATISTICS} or {SCORES}: it was not evaluated, or by an "
                    "older version; evaluate it again with `dvc exp run`."
                )
            return _read(directory, run_id[:8], attention)
    return None


def _in_dvc(name: str, checkout: Path) -> Run | None:
    if not (checkout / ".dvc").is_dir():
        return None
    from dvc.api import DVCFileSystem  # here, since it takes half a second
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import Git, RevError, resolve_rev
    from dvc_data.index import DataIndexError

    try:
        git = Repo(str(checkout)).scm
        if not name or not isinstance(git, Git):
            return None  # without git DVC would read the workspace, whatever the name
        commit = resolve_rev(git, f"{resolve_rev(git, name)}^{{commit}}")
    except RevError as error:
        if "ambiguous" in str(error):
            raise CaptionerError(
                f"Received {name!r}, a name of several experiments: rename one with `dvc exp rename`, or give the "
                "commit of one."
            ) from None
        return None
    except DvcException:
        return None
    files = DVCFileSystem(str(checkout), rev=commit)

    def bytes_of(path: Path) -> bytes:
        with files.open(path.as_posix(), "rb") as file:
            return bytes(file.read())

    with TemporaryDirectory() as temporary:
        directory = Path(temporary)
        try:
            for each in (STATISTICS, SCORES):
                (directory / each).write_bytes(bytes_of(EVALUATED / each))
        except (DvcException, DataIndexError, OSError):
            raise CaptionerError(
                f"The results of {name!r} are not complete in DVC's cache: {STATISTICS} or {SCORES} is missing; fetch "
                f"them with `dvc exp pull`, or make them with `dvc exp apply {name}` and `dvc repro`."
            ) from None
        attention = ""
        for place in TRAINED_LAST:
            with suppress(DvcException, DataIndexError, OSError):
                attention = attention or _attention(bytes_of(place / RECORD).decode())
        return _read(directory, name, attention)


def _read(directory: Path, name: str, attention: str) -> Run:
    try:
        scores = json.loads((directory / SCORES).read_text("utf-8"))
        signatures = {score: Signature.parse(each["signature"]).parts for score, each in scores.items()}
        return Run(name, attention, SufficientStatistics.read(directory / STATISTICS), signatures)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CaptionerError(f"The {SCORES} of {name!r} is damaged: make it again with `dvc repro`.") from None
    except NotFiniteError as error:
        raise CaptionerError(f"{name!r} cannot be compared: {error}.") from None
    except CaptionerError:
        raise CaptionerError(f"The {STATISTICS} of {name!r} is damaged: make it again with `dvc repro`.") from None


def _attention(record: str) -> str:
    try:
        return str(json.loads(record)["tags"]["attention"])
    except (ValueError, KeyError, TypeError):
        return ""


def _unknown(name: str, checkout: Path) -> str:
    try:
        of_mlflow = store.find(checkout, most=SHOWN)
    except CaptionerError:
        of_mlflow = {}
    return (
        f"Received {name!r}, which is no run: give a directory with {STATISTICS} and {SCORES}, the id of an MLflow run "
        f"(8 digits or more), a DVC experiment, a git revision, or {WORKSPACE}. "
        f"DVC experiments: {', '.join(_experiments(checkout)) or 'none'}. Latest MLflow runs: {_list(of_mlflow)}."
    )


def _list(found: dict[str, tuple[str, str]]) -> str:
    shown = {run_id: ", ".join(filter(None, about)) for run_id, about in found.items()}
    return "; ".join(f"{run_id[:12]} ({about})" for run_id, about in shown.items()) or "none"


def _experiments(checkout: Path) -> list[str]:
    """Return the names of the latest experiments, and … where there are more."""
    names = list(experiments(checkout))
    return [*names[:SHOWN], *(["…"] if len(names) > SHOWN else [])]


def experiments(checkout: Path) -> dict[str, str]:
    """Return the commits of DVC's experiments by name, the latest first; none without DVC or git."""
    if not (checkout / ".dvc").is_dir():
        return {}
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.repo.experiments.utils import exp_refs

    try:
        git: Any = Repo(str(checkout)).scm
        commits = [(each.name, git.resolve_commit(str(each))) for each in exp_refs(git)]
    except (DvcException, AttributeError):  # no git
        return {}
    latest = sorted(commits, key=lambda each: (-each[1].commit_time, each[0]))
    return {name: commit.hexsha for name, commit in latest}


def track(experiment: str, commit: str, checkout: Path) -> None:
    """Let the MLflow runs of an experiment bear its name, and make those that the store lacks.

    An experiment whose stages DVC restored from its run cache has run none of them, so nothing has told MLflow of it.

    Args:
        experiment: its name.
        commit: that holds it.
        checkout: where DVC, git and the default MLflow store are.

    Raises:
        CaptionerError: its results are not in DVC's cache, or the store cannot be reached.
    """
    if runs.knows(checkout, experiment):
        return
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from dvc_data.index import DataIndexError

    files = DVCFileSystem(str(checkout), rev=commit)
    with TemporaryDirectory() as temporary:
        workspace = Path(temporary)
        try:
            for place in (MODEL, EVALUATED):
                (workspace / place).parent.mkdir(exist_ok=True)
                files.get(place.as_posix(), str(workspace / place), recursive=True)
            last = next(place for place in TRAINED_LAST if place == TRAINED or files.isdir(place.as_posix()))
            (workspace / last).mkdir()
            for entry in files.ls(last.as_posix(), detail=True):
                if entry["type"] == "file":
                    files.get(entry["name"], str(workspace / last / Path(entry["name"]).name))
        except (DvcException, DataIndexError, OSError):
            raise CaptionerError(
                f"The results of {quoted(experiment)} are not complete in DVC's cache, so MLflow lacks them: fetch "
                "them with `dvc exp pull`."
            ) from None
        runs.restore(checkout, workspace, experiment)
