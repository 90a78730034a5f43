import os
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioner.common.threads import cores, prefetch


@given(st.lists(st.integers(), max_size=20), st.integers(0, 8), st.integers(1, 4))
def test_order_is_that_of_the_items(items: list[int], most: int, workers: int) -> None:
    assert list(prefetch(lambda item: 2 * item, items, most, workers)) == [2 * item for item in items]


def test_items_are_taken_as_they_are_needed() -> None:
    taken = 0

    def endless() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    with closing(prefetch(str, endless(), 3, 2)) as made:
        for number in range(1, 10):
            assert next(made) == str(number)
            assert taken == number + 3


def test_several_threads_work() -> None:
    both = threading.Barrier(2, timeout=10)
    assert sorted(prefetch(lambda _: both.wait(), range(2), 2, 2)) == [0, 1]


def test_an_error_of_the_work_ends_it() -> None:
    made = prefetch(lambda item: 1 // item, [2, 1, 0, 1, 1], 2, 1)
    assert [next(made), next(made)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(made)
    assert list(made) == []


def test_who_stops_waits_for_nothing_more() -> None:
    begun, go_on = [], threading.Event()

    def work(item: int) -> int:
        begun.append(item)
        if item:
            go_on.wait(10)
        return item

    with closing(prefetch(work, range(1000), 500, 1)) as made:
        assert next(made) == 0
        threading.Timer(0.1, go_on.set).start()
    assert len(begun) < 500


def test_an_error_of_the_items_is_passed_on() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("torn")

    with pytest.raises(OSError, match="torn"):
        list(prefetch(str, broken(), 1, 1))


@pytest.mark.parametrize(
    ("asked", "bound", "expected"),
    [(None, 4, 4), ("1", 4, 1), ("8", 4, 4), ("0", 4, 4), ("", 4, 4), ("2,3", 4, 4), ("-1", 4, 4)],
)
def test_cores_are_those_that_the_process_may_use(
    monkeypatch: pytest.MonkeyPatch, asked: str | None, bound: int, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(bound)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert cores() == expected
