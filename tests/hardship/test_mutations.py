"""A sample of changed inputs at every door; and what tells that something went wrong does tell."""

import json
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import doors
import mutate
import mutations
import pytest
from doors import Door, Wrong, attempt

from captioner.common.errors import CaptionerError


@pytest.mark.slow
def test_a_sample_at_every_door(tmp_path: Path) -> None:
    """`make hardship` tries more."""
    found, most = mutations.run(450, 20261130, tmp_path, patience=60)
    assert {door: tried.faults for door, tried in found.items() if tried.faults} == {}
    assert len(found) == 9 and sum(tried.taken + tried.refused for tried in found.values()) == 450
    assert all(tried.taken and tried.refused for tried in found.values())
    assert most <= mutations.MEMORY


def refuse(message: str) -> Callable[[str, bytes, Path], object]:
    def enter(*_: object) -> object:
        raise CaptionerError(message)

    return enter


def outside(_: str, data: bytes, place: Path) -> object:
    return (place.parent.parent / "outside").write_bytes(data)


def inside(_: str, data: bytes, place: Path) -> object:
    return (place / "inside").write_bytes(data)


def unpickle(*_: object) -> object:
    return pickle.loads(pickle.dumps(Path))


@pytest.mark.parametrize(
    ("enter", "outcome", "said"),
    [
        (lambda *_: "well", "taken", "well"),
        (refuse("is no picture"), "refused", "is no picture"),
        (refuse("x" * 10_000), "refused", "x"),  # such messages are cut
        (lambda *_: 1 / 0, "fault", "ZeroDivisionError"),
        (lambda *_: (_ for _ in ()).throw(Wrong("other captions")), "fault", "Wrong: other captions"),
        (inside, "taken", "4"),
        (outside, "fault", "outside of its folder: open"),
        (unpickle, "fault", "outside of its folder: pickle.find_class"),
        (lambda *_: os.system("true"), "fault", "outside of its folder: os.system"),
    ],
)
def test_what_became_of_an_input(
    enter: Callable[[str, bytes, Path], object], outcome: str, said: str, tmp_path: Path, hooked: None
) -> None:
    place = tmp_path / "place/inside"
    place.mkdir(parents=True)
    found = attempt(Door("any", {}, enter), "a", b"data", place)
    assert found[0] == outcome and found[1].startswith(said)


def test_a_change_that_goes_unnoticed(tmp_path: Path, hooked: None) -> None:
    door = Door("any", {}, lambda _, data, __: data, frozenset({"sealed"}))
    assert attempt(door, "sealed", b"changed", tmp_path / "a", b"sound")[0] == "fault"
    assert attempt(door, "sealed", b"sound", tmp_path / "a", b"sound")[0] == "taken"
    assert attempt(door, "other", b"changed", tmp_path / "a", b"sound")[0] == "taken"


@pytest.fixture(scope="session")
def hooked() -> None:
    """Have `attempt` see what is done. A hook cannot be taken away again; outside of `attempt` it does nothing."""
    sys.addaudithook(doors._watch)


WORKER = """
import json, os, sys, time
first, count = int(sys.argv[2]), int(sys.argv[3])
for number in range(first, first + count):
    print(json.dumps({"number": number, "door": "any", "name": "a"}), flush=True)
    if number == 3:
        os.abort()
    if number == 5:
        time.sleep(60)
    print(json.dumps({"outcome": "taken", "said": "", "seconds": 0, "memory": 5000 if number == 7 else 1}), flush=True)
"""


def test_one_that_ends_or_stops_the_process_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "doors.py").write_text(WORKER)
    monkeypatch.setattr(mutations, "HERE", tmp_path)
    found, most = mutations.run(9, 1, tmp_path / "work", patience=2)
    dead, slow, large = found["any"].faults
    assert dead.startswith("input 3 of seed 1: the process ended with -6")
    assert slow == "input 5 of seed 1: more than 2 seconds"
    assert large == "input 7 of seed 1: 4,999 MiB" and most == 4999
    assert found["any"].taken == 7


def test_a_worker_that_does_not_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "doors.py").write_text("import nothing_of_this_name")
    monkeypatch.setattr(mutations, "HERE", tmp_path)
    with pytest.raises(RuntimeError, match="nothing_of_this_name"):
        mutations.run(9, 1, tmp_path / "work")


@pytest.mark.parametrize("name", ["a.json", "a.yaml", "a.csv", "a.png"])
def test_equal_seeds_make_equal_changes(name: str) -> None:
    data = json.dumps({"a": [1, 2, {"b": "c"}], "d": "e"}).encode()
    made = [mutate.mutated(name, data, mutate.Random(seed)) for seed in range(40)]
    assert made == [mutate.mutated(name, data, mutate.Random(seed)) for seed in range(40)]
    assert sum(each != data for each in made) > 30
    assert len(set(made)) > 20
