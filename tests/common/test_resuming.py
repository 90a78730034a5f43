"""What an interrupted stage has left is found again by the same work alone."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from captioner.common.resuming import ABOUT, GONE, KEPT, Work, resumable

WORK = Work("train", {"train.scenes.epochs": 4, "seed": 1}, {"data/features": "12ab", "src/captioner/model": "34cd"})


@contextmanager
def going_on(root: Path, work: Work = WORK) -> Iterator[Path]:
    with resumable(root, work) as place:
        assert place is not None
        yield place


def interrupt(root: Path, work: Work = WORK) -> Path:
    with pytest.raises(ConnectionError), going_on(root, work) as place:
        (place / "state").write_text("half", "utf-8")
        raise ConnectionError
    return place


def test_the_same_work_goes_on_and_nothing_is_left(tmp_path: Path) -> None:
    place = interrupt(tmp_path)
    with going_on(tmp_path) as again:
        assert again == place
        assert (again / "state").read_text("utf-8") == "half"
    assert [path.name for path in (tmp_path / "train").iterdir()] == [f"{WORK.key}.lock"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"params": {**WORK.params, "train.scenes.epochs": 5}}, "train.scenes.epochs was 4 and is 5"),
        ({"params": {"seed": 1}}, "train.scenes.epochs was 4 and is None"),
        ({"others": {**WORK.others, "data/features": "56ef"}}, "data/features has changed"),
        (
            {"params": {"train.scenes.epochs": 5, "seed": 2}, "others": {}},
            "train.scenes.epochs was 4 and is 5, seed was 1 and is 2, data/features has changed and 1 more",
        ),
    ],
)
def test_other_work_starts_afresh_and_says_so(
    changes: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = interrupt(tmp_path)
    other = Work(**{"stage": "train", "params": WORK.params, "others": WORK.others} | changes)
    with going_on(tmp_path, other) as found:
        assert found != place and not (found / "state").exists()
    assert capsys.readouterr().out == f"train starts afresh: since it was interrupted, {said}.\n"
    # and the first can still go on
    with going_on(tmp_path) as again:
        assert (again / "state").exists()


def test_other_stages_have_places_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    interrupt(tmp_path)
    with going_on(tmp_path, Work("blind", WORK.params, WORK.others)) as found:
        assert not (found / "state").exists()
    assert capsys.readouterr().out == ""


def test_what_is_old_damaged_or_half_removed_is_swept_up(tmp_path: Path) -> None:
    old, damaged, nameless, removed = (interrupt(tmp_path, Work("train", {"seed": seed}, {})) for seed in range(4))
    long_ago = time.time() - KEPT - 60
    os.utime(old / ABOUT, (long_ago, long_ago))
    (damaged / ABOUT).write_text("{", "utf-8")
    (nameless / ABOUT).unlink()
    removed.rename(removed.with_suffix(GONE))
    place = interrupt(tmp_path)
    assert [path for path in place.parent.iterdir() if path.is_dir()] == [place]


def test_what_another_process_is_at_was_not_interrupted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = Work("train", {"seed": 2}, {})
    with going_on(tmp_path, other) as theirs:
        long_ago = time.time() - KEPT - 60
        os.utime(theirs / ABOUT, (long_ago, long_ago))
        with going_on(tmp_path):
            assert theirs.exists()
    assert capsys.readouterr().out == ""


def test_a_kill_while_a_directory_goes_leaves_nothing_that_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, going_on(tmp_path) as place:
        (place / "state").touch()
        patch.setattr("shutil.rmtree", lambda *_, **__: None)
    with going_on(tmp_path) as again:
        assert not (again / "state").exists()
    assert not place.with_suffix(GONE).exists()


def test_two_processes_at_the_same_work_do_not_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    interrupt(tmp_path)
    script = "import sys, time, pathlib\nfrom captioner.common.resuming import Work, resumable\n"
    script += f"with resumable(pathlib.Path(sys.argv[1]), {WORK!r}):\n    print('has it', flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None and other.stdout.readline() == "has it\n"
    with resumable(tmp_path, WORK) as place:
        assert place is None
    assert capsys.readouterr().out == "Another process does the same train, so this one keeps nothing to go on from.\n"
    assert list((tmp_path / "train").glob("*/state"))
    other.kill()  # which gives the lock back
    other.communicate()
    with going_on(tmp_path) as again:
        assert (again / "state").exists()
