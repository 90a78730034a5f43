"""What beam search and sampling share: their result, finished captions, and tokens that may not follow.

Legend: `B` pictures · `T` longest caption in tokens, `END` included · `V` vocabulary ·
`W` attention weights at a word.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from captioner.common.keras import Tensor, ops
from captioner.text.vocabulary import END, PAD, START, UNKNOWN

Step: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""From last words `[rows]` and state to logits `[rows, V]`, the new state and attention weights `[rows, W]`."""

LARGE_NEGATIVE = -1e9  # a log-probability that no sum of real ones reaches, and float32 still adds to


class SearchResult(NamedTuple):
    """The best caption of each picture.

    Attributes:
        words: int32 `[B, T]`, closed by `END`, then `PAD`.
        log_probability: of these words and `END`, in nats, `[B]`.
        weights: the attention weights at each word, 0 behind the last, `[B, T, W]`.
    """

    words: Tensor
    log_probability: Tensor
    weights: Tensor


def finished(last: Tensor) -> Tensor:
    """Return which captions have ended, by their last tokens."""
    return ops.logical_or(ops.equal(last, END), ops.equal(last, PAD))


def forbidden(token: Tensor, position: Tensor, length: int) -> Tensor:
    """Return which tokens may not stand at the place `position` of captions of at most `length` tokens."""
    never = (token == PAD) | (token == UNKNOWN) | (token == START) | ((token == END) & (position == 0))
    return never | ((token != END) & (position == length - 1))  # as long as allowed: it has to end here


def start(rows: Tensor, length: int, size: int, log_probability: Tensor, state: Tensor) -> tuple:
    """Return the loop variables before the first step: position, last words, log-probability, words, weights, state."""
    return (
        ops.convert_to_tensor(0, "int32"),
        ops.full((rows,), START, "int32"),
        log_probability,
        ops.full((rows, length), PAD, "int32"),
        ops.zeros((rows, length, size)),
        state,
    )


def unfinished(length: int) -> Callable[..., Tensor]:
    """Return whether a step is to be made, as a function of the loop variables that `start` returns."""

    def condition(position: Tensor, last: Tensor, *_: Tensor) -> Tensor:
        return ops.logical_and(position < length, ops.any(ops.logical_not(finished(last))))

    return condition
