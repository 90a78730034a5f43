"""Captions drawn word by word. Legend: `B` captions · `T` longest caption in tokens, `END` included · `V` vocabulary ·
`W` attention weights at a word.
"""

from captioner.common.keras import Tensor, ops
from captioner.search.steps import LARGE_NEGATIVE, SearchResult, Step, finished, forbidden, start, unfinished
from captioner.text.vocabulary import PAD


def sample(
    step: Step,
    state: Tensor,
    draws: Tensor,
    size: int,
    temperature: Tensor = 1.0,
    top_p: Tensor = 1.0,
) -> SearchResult:
    """Draw captions word by word, from the nucleus of the most probable words.

    The nucleus is the fewest words, most probable first, that together reach the probability `top_p`; what lies outside
    is where a model errs (Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", section 3.1). The
    logits are divided by the temperature before. Toward temperature 0, or `top_p` 0, this is greedy search.

    Args:
        step: `(words [B], state) -> (logits [B, V], state, weights [B, W])`.
        state: tensors in any nest, `[B, ...]`.
        draws: evenly distributed numbers from 0 to below 1, one a word, float `[B, T]`; they decide what is drawn.
        size: `W`.
        temperature: above 0.
        top_p: above 0, at most 1.

    Returns:
        A caption for each row. Its log-probability is that by the logits as they are. The special tokens other than
        `END` are never drawn, nor is an empty caption.
    """
    rows, length = draws.shape

    def extend(
        position: Tensor, last: Tensor, log_probability: Tensor, words: Tensor, weights: Tensor, state: Tensor
    ) -> tuple:
        logits, state, new_weights = step(last, state)
        closed = finished(last)  # [B]
        token = ops.expand_dims(ops.arange(logits.shape[-1]), 0)  # [1, V]
        scores = ops.log_softmax(ops.cast(logits, "float32"))  # [B, V]
        allowed = ops.where(forbidden(token, position, length), LARGE_NEGATIVE, scores)
        order = ops.argsort(-allowed, axis=-1)  # [B, V], the most probable first
        # the largest is made 0 before the division, which so makes no number that float32 cannot hold
        falling = ops.take_along_axis(allowed, order, axis=-1)
        probabilities = ops.softmax(ops.maximum((falling - falling[:, :1]) / temperature, LARGE_NEGATIVE))
        reached = ops.cumsum(probabilities, axis=-1)
        nucleus = ops.where(reached - probabilities < top_p, probabilities, 0.0)
        nucleus = ops.concatenate([probabilities[:, :1], nucleus[:, 1:]], axis=-1)  # never empty
        upto = ops.cumsum(nucleus, axis=-1)
        draw = ops.take(draws, ops.expand_dims(position, 0), axis=1)  # [B, 1]
        drawn = ops.sum(ops.cast((upto <= draw * upto[:, -1:]) & (nucleus > 0), "int32"), axis=-1, keepdims=True)
        # rounding may put the draw at the very end of the nucleus
        drawn = ops.minimum(drawn, ops.sum(ops.cast(nucleus > 0, "int32"), axis=-1, keepdims=True) - 1)
        chosen = ops.take_along_axis(order, drawn, axis=-1)  # [B, 1]
        gained = ops.squeeze(ops.take_along_axis(scores, chosen, axis=-1), -1)
        log_probability = log_probability + ops.where(closed, 0.0, gained)
        last = ops.where(closed, PAD, ops.cast(ops.squeeze(chosen, -1), "int32"))
        now = ops.expand_dims(ops.arange(length) == position, 0)  # [1, T]
        words = ops.where(now, ops.expand_dims(last, 1), words)
        new_weights = ops.where(ops.expand_dims(closed, 1), 0.0, ops.cast(new_weights, "float32"))
        weights = ops.where(ops.expand_dims(now, -1), ops.expand_dims(new_weights, 1), weights)
        return position + 1, last, log_probability, words, weights, state

    begun = start(rows, length, size, ops.zeros((rows,)), state)
    _, _, log_probability, words, weights, _ = ops.while_loop(unfinished(length), extend, begun)
    return SearchResult(words, log_probability, weights)
