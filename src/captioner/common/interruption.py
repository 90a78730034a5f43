"""Ctrl-C and requests to terminate: what ends a process in order."""

import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

INTERVAL = float(os.environ.get("CAPTIONER_CHECKPOINT_SECONDS", "30"))
"""Seconds of work that an interruption may cost, but for what is at the end of an epoch."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG, of prctl(2)


class Interrupted(KeyboardInterrupt):
    """A signal asked the process to end.

    Attributes:
        number: of the signal.
        left: what the interrupted work has left, for whoever tells the user.
    """

    def __init__(self, number: int, left: str = ""):
        super().__init__()
        self.number = number
        self.left = left

    @property
    def exit_code(self) -> int:
        """What a shell says of a process that a signal ended."""
        return 128 + self.number


def end_with_parent() -> None:
    """Have this process asked to terminate when the one ends that has started it, where the system is Linux."""
    try:
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)
    except (AttributeError, OSError, TypeError):
        return


@contextmanager
def raising() -> Iterator[None]:
    """Let Ctrl-C and a request to terminate raise `Interrupted` meanwhile, so that blocks are left in order."""

    def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        raise Interrupted(number)

    with _handling(interrupt):
        yield


class Deferred:
    """Holds back the first signal until there is something to go on from; the second one raises.

    Attributes:
        number: of the signal that came; none yet.
        left: what `Interrupted` will say is left.
    """

    def __init__(self, notice: str):
        self.number: int | None = None
        self.left = ""
        self._notice = notice

    @contextmanager
    def handling(self) -> Iterator[None]:
        """Hold back signals meanwhile; one that nobody has asked about raises at the end."""
        with _handling(self._note):
            yield
        if self.number is not None:
            raise Interrupted(self.number, self.left)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.number is not None:
            raise Interrupted(number)
        self.number = number
        with suppress(OSError, RuntimeError):  # whoever reads it may be gone, or it is being written to just now
            print(self._notice, flush=True)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Give signals back the handlers that they had before, whoever sets others meanwhile."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handled in before.items():
            signal.signal(number, handled)


@contextmanager
def _handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # which alone may handle signals
        yield
        return
    with handlers_kept():
        for number in SIGNALS:
            signal.signal(number, handler)
        yield
