"""What beam search and sampling share: their result, finished captions, and tokens that may not follow.

Legend: `B` pictures · `T` longest caption in tokens, `END` included · `V` vocabulary ·
`W` attention weights at a word.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

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


def at_most_words(
    step: Step, state: Tensor, rows: Tensor, begins_word: np.ndarray | None, words: int
) -> tuple[Step, Tensor]:
    """Return a step and its state with which captions of subwords have at most so many words, and begin with one.

    What may not follow gives its probability to `PAD`, which is never chosen: the others keep theirs.

    Args:
        step: the step.
        state: its state.
        rows: how many captions are searched.
        begins_word: which tokens begin a word, bool `[V]`; None where each is one, and nothing is to be done.
        words: the most.
    """
    if begins_word is None:
        return step, state
    begins = ops.expand_dims(ops.convert_to_tensor(begins_word), 0)  # [1, V]
    token = ops.expand_dims(ops.arange(begins.shape[-1]), 0)  # [1, V]

    def limited(last: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        state, begun = state
        begun = begun + ops.cast(ops.take(begins[0], last), "int32")
        logits, state, weights = step(last, state)
        scores = ops.log_softmax(ops.cast(logits, "float32"))  # [rows, V]
        full, first = ops.expand_dims(begun >= words, 1), ops.expand_dims(last == START, 1)
        barred = (full & begins) | (first & ops.logical_not(begins))
        lost = ops.logsumexp(ops.where(barred | (token == PAD), scores, LARGE_NEGATIVE), axis=-1, keepdims=True)
        scores = ops.where(token == PAD, lost, ops.where(barred, LARGE_NEGATIVE, scores))
        return scores, (state, begun), weights

    return limited, (state, ops.zeros((rows,), "int32"))


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
