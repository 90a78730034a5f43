"""Work done in threads before their results are needed, on the cores that a process may use."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def cores() -> int:
    """Return how many cores this process may use: those that it is bound to, at most `OMP_NUM_THREADS`."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(bound, int(asked)) if asked.isdecimal() and int(asked) else bound


def prefetch(
    work: Callable[[Item], Made], items: Iterable[Item], most: int, threads: int | None
) -> Generator[Made, None, None]:
    """Yield what `work` makes of items, in their order, while threads do the next ones.

    An error of `work` or of the items ends it; what was not begun by then, or when it is closed, is not done.

    Args:
        work: is called in the threads.
        items: taken one at a time as they are needed, so memory does not grow with their number.
        most: of them that are being done or are done before they are wanted.
        threads: how many; `None`: Python's choice.
    """
    waiting: deque[Future[Made]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
