"""Work goes to the machines of a cluster, and to others when some die."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from machines import NODE, Noting

from captioner.common import interruption
from captioner.common.cluster import connected, each
from captioner.common.errors import CaptionerError
from captioner.common.interruption import Interrupted

PARTS = list(range(12))
SQUARES = [part * part for part in PARTS]


def begun(folder: Path) -> dict[int, int]:
    return {int(path.name): path.read_text().count("begun") for path in folder.iterdir()}


def test_without_an_address_it_is_done_here_in_order(tmp_path: Path) -> None:
    assert list(each(Noting, (tmp_path,), PARTS)) == [(square, "here") for square in SQUARES]
    with pytest.raises(CaptionerError, match="received -1: give what is positive"):
        list(each(Noting, (tmp_path,), [1, -1, 2]))
    assert not (tmp_path / "-2").exists()


def test_without_an_address_ray_is_not_imported() -> None:
    script = "import sys\nfrom captioner.common.cluster import each\nfrom operator import itemgetter\n"
    script += "assert list(each(itemgetter, (0,), [[5]])) == [5]\nsys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(CaptionerError, match=r"^RAY_ADDRESS is set and Ray is not installed: pip install"):
        next(each(Noting, (Path(),), [1]))


def test_without_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert list(each(Noting, (Path(),), [])) == []  # nobody is needed for nothing
    with pytest.raises(CaptionerError, match=r"^there is no cluster at RAY_ADDRESS=127.0.0.1:1 \(.*refused\): give"):
        next(each(Noting, (Path(),), [1]))


@pytest.mark.slow
class TestOnTwoMachines:
    def test_signals_end_what_they_would_end_without_a_cluster(self, machines: Any) -> None:
        with interruption.raising():
            before = [signal.getsignal(number) for number in interruption.SIGNALS]
            with pytest.raises(Interrupted) as caught, connected():
                assert [signal.getsignal(number) for number in interruption.SIGNALS] == before
                raise KeyboardInterrupt  # as Ray does
        assert caught.value.exit_code == 130

    def test_both_work(self, machines: Any, tmp_path: Path) -> None:
        made = list(each(Noting, (tmp_path, None, 0.5), PARTS))
        assert sorted(square for square, _ in made) == SQUARES
        assert len({machine for _, machine in made}) == 2
        assert begun(tmp_path) == dict.fromkeys(PARTS, 1)

    @pytest.mark.parametrize(
        ("dies_at", "part", "said"),
        [(-1, 1, "^cannot begin: begin elsewhere$"), (None, -1, "^received -1: give what is positive$")],
    )
    def test_a_users_error_comes_back(
        self, machines: Any, tmp_path: Path, dies_at: int | None, part: int, said: str
    ) -> None:
        with pytest.raises(CaptionerError, match=said):
            list(each(Noting, (tmp_path, dies_at), [part]))

    def test_a_worker_that_is_killed_loses_one_part(self, machines: Any, tmp_path: Path) -> None:
        made = list(each(Noting, (tmp_path, 5), PARTS))
        assert sorted(square for square, _ in made) == SQUARES
        assert begun(tmp_path) == dict.fromkeys(PARTS, 1) | {5: 2}

    def test_work_that_kills_its_worker_ends(self, machines: Any, tmp_path: Path) -> None:
        with pytest.raises(CaptionerError, match="workers of the cluster died 4 times at the same work"):
            list(each(Noting, (tmp_path, 5, 0.0, 99), PARTS))
        assert begun(tmp_path)[5] == 4

    def test_after_a_command_that_was_killed_the_next_one_goes_through(self, machines: Any, tmp_path: Path) -> None:
        script = "import sys\nfrom pathlib import Path\nfrom machines import Noting\n"
        script += "from captioner.common.cluster import each\n"
        script += "list(each(Noting, (Path(sys.argv[1]), None, 60.0), range(2)))"
        (tmp_path / "killed").mkdir()
        (tmp_path / "next").mkdir()
        killed = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "killed")])
        try:
            for _ in range(600):
                if begun(tmp_path / "killed"):
                    break
                time.sleep(0.05)
        finally:
            killed.kill()
            killed.wait()
        assert begun(tmp_path / "killed")
        made = list(each(Noting, (tmp_path / "next",), PARTS))
        assert sorted(square for square, _ in made) == SQUARES

    def test_a_machine_that_is_killed_loses_what_it_had(self, machines: Any, tmp_path: Path) -> None:
        def kill() -> None:
            while len(list(tmp_path.iterdir())) < 5:
                time.sleep(0.05)
            machines.remove_node(machines.list_all_nodes()[-1], allow_graceful=False)

        killing = threading.Thread(target=kill)
        killing.start()
        try:
            made = list(each(Noting, (tmp_path, None, 0.5), PARTS))
        finally:
            killing.join()
            machines.add_node(**NODE)
        assert sorted(square for square, _ in made) == SQUARES
        assert all(1 <= times <= 2 for times in begun(tmp_path).values())
