"""Runs are found by directory, by MLflow's id, and by what DVC and git call them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from measured import run, values, write

from captioner.common.errors import CaptionerError
from captioner.comparison import runs as runs_module
from captioner.comparison.runs import find
from captioner.tracking import record as record_module
from captioner.tracking import store as store_module

SCORES = {"CIDEr": values(50, 20), "nll": values(2.5)}


@pytest.fixture(autouse=True)
def _own_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield
    if "mlflow" in sys.modules:
        store_module.load_mlflow().set_tracking_uri(None)


class TestDirectories:
    @pytest.mark.parametrize("within", [".", "results", "results/evaluate"])
    def test_a_checkout_its_results_and_what_evaluation_wrote(self, tmp_path: Path, within: str) -> None:
        write(tmp_path, SCORES, "dot", beam="5")
        found = find(str(tmp_path / within), tmp_path)
        assert found.name == str(tmp_path / within)
        assert found.attention == "dot"
        assert found.statistics.scores()["CIDEr"] == pytest.approx(50)
        assert found.signatures == run("", SCORES, beam="5", weights="0123456789ab").signatures

    def test_any_directory_with_both_files(self, tmp_path: Path) -> None:
        moved = shutil.move(write(tmp_path / "first", SCORES), tmp_path / "kept")
        assert find(str(moved), tmp_path).attention == ""

    def test_a_relative_path_counts_from_here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(tmp_path / "here/kept", SCORES)
        monkeypatch.chdir(tmp_path / "here")
        assert find("kept", tmp_path).name == "kept"

    def test_the_workspace_is_the_checkouts(self, tmp_path: Path) -> None:
        write(tmp_path, SCORES, "uniform")
        assert find("workspace", tmp_path).attention == "uniform"
        with pytest.raises(CaptionerError, match="make them with `dvc repro`"):
            find("workspace", tmp_path / "elsewhere")

    @pytest.mark.parametrize("content", ["", "[]", "{", '{"CIDEr": {}}', '{"CIDEr": {"signature": 3}}', '{"CIDEr": 3}'])
    def test_damaged_scores(self, tmp_path: Path, content: str) -> None:
        (write(tmp_path, SCORES) / "scores.json").write_text(content)
        with pytest.raises(CaptionerError, match=r"scores\.json of '.*' is damaged"):
            find(str(tmp_path), tmp_path)

    def test_damaged_statistics(self, tmp_path: Path) -> None:
        (write(tmp_path, SCORES) / "statistics.parquet").write_bytes(b"PAR1")
        with pytest.raises(CaptionerError, match=r"statistics\.parquet of '.*' is damaged"):
            find(str(tmp_path), tmp_path)

    def test_a_damaged_record_hides_the_attention_alone(self, tmp_path: Path) -> None:
        write(tmp_path, SCORES, "dot")
        (tmp_path / "results/train/run.json").write_text('{"tags": ')
        assert find(str(tmp_path), tmp_path).attention == ""

    def test_nothing_of_the_name(self, tmp_path: Path) -> None:
        with pytest.raises(CaptionerError) as caught:
            find("nothing", tmp_path)
        message = str(caught.value)
        assert message.startswith("Received 'nothing', which is no run: give a directory with statistics.parquet")
        assert message.endswith("DVC experiments: none. Latest MLflow runs: none.")
        assert not list(tmp_path.iterdir())  # looking makes no store


class TestMlflow:
    @pytest.fixture(scope="class")
    @classmethod
    def store(cls, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
        """A store with a training's run, the run of another evaluation below it, and a run without results."""
        root = tmp_path_factory.mktemp("store")
        client, experiment = store_module.connect(root)
        ids: dict[str, str] = {}
        for name, tags in {
            "training": {"attention": "bahdanau"},
            "evaluation": {"mlflow.parentRunId": "training"},
            "empty": {"attention": "dot"},
        }.items():
            tags = {tag: ids.get(value, value) for tag, value in tags.items()}
            ids[name] = client.create_run(experiment, tags=tags, run_name=name).info.run_id
        for beam, name in enumerate(["training", "evaluation"], 1):
            client.log_artifacts(ids[name], str(write(root / name, SCORES, beam=str(beam))))
        return root, ids

    @pytest.mark.parametrize(("name", "beam"), [("training", "1"), ("evaluation", "2")])
    @pytest.mark.parametrize("digits", [32, 12])
    def test_by_id_and_by_its_beginning(
        self, store: tuple[Path, dict[str, str]], name: str, beam: str, digits: int
    ) -> None:
        root, ids = store
        found = find(ids[name][:digits], root)
        assert found.name == ids[name][:8]
        assert found.attention == "bahdanau"
        assert found.signatures["CIDEr"]["beam"] == beam
        assert found.statistics.scores()["CIDEr"] == pytest.approx(50)

    def test_without_results(self, store: tuple[Path, dict[str, str]]) -> None:
        root, ids = store
        with pytest.raises(CaptionerError, match=rf"MLflow run {ids['empty']} \(empty\) lacks statistics.parquet"):
            find(ids["empty"], root)

    def test_a_beginning_of_several(self, store: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
        two = {"a" * 31 + "0": ("first", "dot"), "a" * 31 + "1": ("second", "")}
        monkeypatch.setattr(store_module, "find", lambda root, beginning: two)
        with pytest.raises(CaptionerError, match=r"begins several MLflow runs: .* \(first, dot\); .* \(second\)"):
            find("a" * 31, store[0])

    def test_runs_are_named_where_there_is_none_of_the_name(self, store: tuple[Path, dict[str, str]]) -> None:
        root, ids = store
        with pytest.raises(CaptionerError, match=f"{ids['evaluation'][:12]} .evaluation, bahdanau.") as caught:
            find("f" * 32, root)
        assert "\n" not in str(caught.value)

    def test_files_that_are_gone(self, store: tuple[Path, dict[str, str]]) -> None:
        root, ids = store
        shutil.rmtree(root / "mlartifacts" / ids["evaluation"])
        with pytest.raises(CaptionerError, match=r"lacks statistics\.parquet"):
            find(ids["evaluation"], root)

    def test_files_that_cannot_be_read(self, store: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
        with pytest.raises(CaptionerError, match="see whether its artifacts are still where they were"):
            store_module.fetch(store[0], "f" * 32, ["scores.json"], tmp_path)

    def test_a_store_that_is_away(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def away(*_: object, **__: object) -> None:
            raise CaptionerError("The MLflow store cannot be reached")

        monkeypatch.setattr(store_module, "find", away)
        with pytest.raises(CaptionerError, match="cannot be reached"):
            find("0123456789abcdef", tmp_path)
        with pytest.raises(CaptionerError, match="is no run"):
            find("nothing", tmp_path)


@pytest.mark.slow
class TestDvc:
    @pytest.fixture(scope="class")
    @classmethod
    def checkout(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A repository with two experiments, `sunny` and `rainy`, and results of the first in its last commit.

        What a stage evaluates takes no time here: it copies what was prepared.
        """
        root = tmp_path_factory.mktemp("dvc")
        write(root / "prepared/dot", SCORES, "dot")
        write(root / "prepared/uniform", {"CIDEr": values(40, 20), "nll": values(2.5)}, "uniform")
        for attention in ("dot", "uniform"):
            (root / f"prepared/{attention}/models/captioner").mkdir(parents=True)
            (root / f"prepared/{attention}/models/captioner/model.json").write_text("{}")
        tuned = root / "prepared/dot/results/fine_tune"  # which an older version had not
        shutil.copytree(root / "prepared/dot/results/train", tuned)
        (tuned / "features").mkdir()
        (tuned / "features/grid.npy").write_bytes(b"large")
        stage = {
            "cmd": "cp -r prepared/${attention}/. .",
            "params": ["attention"],
            "outs": ["models", "results"],
        }
        (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"evaluate": stage}}))
        (root / "params.yaml").write_text("attention: dot\n")
        (root / ".gitignore").write_text("/prepared\n/models\n/results\n")
        for command in (
            "git init --quiet --initial-branch main",
            "git config user.name tester",
            "git config user.email tester@example.org",
            "dvc init --quiet",
            "git add --all",
            "git commit --quiet --message empty",
            "dvc exp run --quiet --name sunny",
            "git add --all",
            "git commit --quiet --message dot",
            "dvc exp run --quiet --name rainy -S attention=uniform",
        ):
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            own = os.environ | {"PATH": path, "DVC_NO_ANALYTICS": "1"}
            subprocess.run(command.split(), cwd=root, env=own, check=True, timeout=120)
        return root

    @pytest.mark.parametrize(
        ("name", "attention"),
        [("sunny", "dot"), ("rainy", "uniform"), ("HEAD", "dot"), ("main", "dot"), ("workspace", "uniform")],
    )
    def test_experiments_and_revisions(self, checkout: Path, name: str, attention: str) -> None:
        found = find(name, checkout)
        assert (found.name, found.attention) == (name, attention)
        assert found.statistics.scores()["CIDEr"] == pytest.approx({"dot": 50, "uniform": 40}[attention])
        assert found.signatures["nll"]["references"] == "5"

    @pytest.mark.parametrize(("name", "last"), [("sunny", "fine_tune"), ("rainy", "train")])
    def test_what_mlflow_lacks_is_made_again_from_the_last_training(
        self, checkout: Path, name: str, last: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        restored: dict[str, set[str]] = {}

        def restore(_: Path, workspace: Path, experiment: str) -> None:
            paths = (path.relative_to(workspace).as_posix() for path in workspace.rglob("*") if path.is_file())
            restored[experiment] = set(paths)

        monkeypatch.setattr(runs_module.runs, "knows", lambda *_: False)
        monkeypatch.setattr(runs_module.runs, "restore", restore)
        runs_module.track(name, runs_module.experiments(checkout)[name], checkout)
        evaluated = {"results/evaluate/scores.json", "results/evaluate/statistics.parquet"}
        assert restored == {name: evaluated | {"models/captioner/model.json", f"results/{last}/run.json"}}

    def test_by_commit_even_if_it_could_begin_a_run(self, checkout: Path) -> None:
        commit = subprocess.run(
            ["git", "rev-parse", "--short=10", "HEAD"], cwd=checkout, capture_output=True, text=True, check=True
        ).stdout.strip()
        assert find(commit, checkout).attention == "dot"

    @pytest.mark.parametrize(
        "name", ["cloudy", "", "a b", "@{u}", "HEAD~9", "HEAD:dvc.yaml", "HEAD^{tree}", "main..HEAD"]
    )
    def test_nothing_of_the_name(
        self, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(CaptionerError, match=r"is no run: .* DVC experiments: (rainy, sunny|sunny, rainy)\. "):
            find(name, checkout)

    def test_a_commit_without_results(self, checkout: Path) -> None:
        with pytest.raises(CaptionerError, match="The results of 'HEAD~1' are not complete"):
            find("HEAD~1", checkout)

    def test_a_cache_that_is_gone(self, checkout: Path, tmp_path: Path) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(checkout, copy)
        shutil.rmtree(copy / ".dvc/cache")
        with pytest.raises(CaptionerError, match="`dvc exp apply sunny` and `dvc repro`"):
            find("sunny", copy)

    def test_a_name_of_two_experiments(self, checkout: Path, tmp_path: Path) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(checkout, copy)
        listed = subprocess.run(
            ["git", "for-each-ref", "--format=%(refname)", "refs/exps"],
            cwd=copy,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        sunny = next(each for each in listed if each.endswith("/sunny"))
        elsewhere = f"refs/exps/ab/{'cd' * 19}/sunny"
        subprocess.run(["git", "update-ref", elsewhere, sunny], cwd=copy, check=True)
        with pytest.raises(CaptionerError, match="a name of several experiments"):
            find("sunny", copy)

    def test_without_git(self, tmp_path: Path) -> None:
        (tmp_path / ".dvc").mkdir()
        (tmp_path / ".dvc/config").write_text("[core]\n    no_scm = true\n")
        with pytest.raises(CaptionerError, match="DVC experiments: none"):
            find("sunny", tmp_path)


def test_what_is_recorded_is_what_tracking_writes(tmp_path: Path) -> None:
    write(tmp_path, SCORES)
    record = record_module.Record("id", "name", {"attention": "dot"}, {})
    (tmp_path / "results/train").mkdir()
    record.write(tmp_path / "results/train")
    assert json.loads((tmp_path / "results/train/run.json").read_text())
    assert find(str(tmp_path), tmp_path).attention == "dot"


def test_an_earlier_run_of_no_finite_weights_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"CIDEr": values(50), "nll": [0.0] * 60})
    with pytest.raises(CaptionerError, match=r"cannot be compared: nll is not finite.* lower learning_rate"):
        find(str(tmp_path), tmp_path)
