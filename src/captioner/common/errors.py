"""The one exception for what a user can cause and fix, and how its messages quote what was received."""

import reprlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

QUOTED = 100
"""The most characters of what a message quotes."""
LONGEST = 4000
"""The most characters of a message."""


class CaptionerError(Exception):
    """Says in one line what was received, what is allowed and how to fix it.

    Stages and commands print the message without a stack trace and exit with 1. Line breaks become spaces, and what
    would fill a screen loses its middle.
    """

    def __str__(self) -> str:
        return _cut(" ".join(super().__str__().splitlines()), LONGEST)


class _Quoting(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = QUOTED
        self.maxlevel = 2
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = 4

    def repr_int(self, x: int, level: int) -> str:
        try:
            return super().repr_int(x, level)
        except ValueError:  # beyond Python's limit
            return f"a number of {x.bit_length():,} bits"


_QUOTING = _Quoting()


def quoted(value: object) -> str:
    """Return how a message quotes what was received: its `repr`, cut where it is long, large or deep."""
    return _cut(_QUOTING.repr(value), 2 * QUOTED)


def reason(error: Exception) -> str:
    """Return what a library's error says, in one short line."""
    return _cut(" ".join(str(error).split()) or type(error).__name__, 2 * QUOTED)


def problem(error: "ValidationError") -> str:
    """Return the first thing that is wrong with values that were checked, in one short line."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))[:QUOTED] or "it"
    said = first["msg"]
    received = "" if first["type"] == "missing" else f", received {quoted(first['input'])}"
    return f"{place}: {said[0].lower()}{said[1:]}{received}"


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    return f"{text[: most * 2 // 3]} … {text[len(text) - most // 3 + 3 :]}"
