"""Messages are one line, and short whatever was received."""

from typing import Any

import pytest

from captioner.common.errors import LONGEST, QUOTED, CaptionerError, quoted, reason


def bomb() -> list:
    values: list[Any] = ["boom"] * 9
    for _ in range(9):
        values = [values] * 9
    return values


def itself() -> list:
    values: list[Any] = []
    values.append(values)
    return values


@pytest.mark.parametrize(
    "value", ["a dog", 5, 1.5, None, ["a", "b"], {"a": 1}, "it's", "a\nb", "x\0", "x" * (QUOTED - 2)]
)
def test_what_is_short_is_quoted_as_it_is(value: object) -> None:
    assert quoted(value) == repr(value)


LARGE: dict[str, object] = {
    "text": "x" * 100_000,
    "texts": ["x" * 100_000] * 50,
    "lines": "\U0001f600\n" * 1000,
    "bytes": b"x" * 100_000,
    "digits": 10**4000,
    "more digits than Python writes": 1 << 100_000,
    "list": list(range(100_000)),
    "key": {"x" * 100_000: 1},
    "keys": {str(number): number for number in range(100_000)},
    "deep": bomb(),
    "itself": itself(),
}


@pytest.mark.parametrize("value", LARGE.values(), ids=LARGE)
def test_what_is_long_large_or_deep_is_cut(value: object) -> None:
    assert len(quoted(value)) <= 2 * QUOTED and "\n" not in quoted(value)


def test_beginning_and_end_stay() -> None:
    assert quoted("begin" + "x" * 1000 + "end").startswith("'begin") and quoted("begin" + "x" * 1000 + "end").endswith(
        "end'"
    )


def test_a_librarys_error_is_one_short_line() -> None:
    assert reason(ValueError("a\n  b")) == "a b"
    assert reason(ValueError()) == "ValueError"
    assert len(reason(ValueError("x" * 100_000))) <= 2 * QUOTED


def test_a_message_is_one_line_that_ends_with_how_to_fix_it() -> None:
    message = str(CaptionerError(f"received {'x' * 100_000}\nand  two spaces: fix\r\nthat"))
    assert message.startswith("received xxx") and message.endswith("and  two spaces: fix that")
    assert len(message) <= LONGEST
