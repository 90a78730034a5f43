"""Beam search over a whole batch of pictures at once.

Legend: `B` pictures · `K` width of the beam · `T` longest caption in tokens, `END` included · `V` vocabulary ·
`W` attention weights at a word.

Nothing here knows the decoder: `step` is any function that says how likely each next word is.
"""

from captioner.common.keras import Tensor, keras, ops
from captioner.search.steps import LARGE_NEGATIVE, SearchResult, Step, finished, forbidden, start, unfinished
from captioner.text.vocabulary import PAD

BLOCK = 32  # a largest value of so many is found in the time of reading them


def beam_search(
    step: Step,
    state: Tensor,
    pictures: Tensor,
    size: int,
    beam: int = 3,
    maximum: int = 20,
    length_normalization: float = 1.0,
) -> SearchResult:
    """Find probable captions; of width 1 this is greedy search.

    Candidates in the beam are compared by log-probability, finished captions by log-probability divided by
    `length ** length_normalization` (Wu et al. 2016, "Google's Neural Machine Translation System", section 7, in its
    plain form): without it, the shortest captions win.

    Args:
        step: `(words [B*K], state) -> (logits [B*K, V], state, weights [B*K, W])`.
        state: tensors in any nest, `[B*K, ...]`, the rows of a picture side by side and equal.
        pictures: `B`.
        size: `W`.
        beam: `K`.
        maximum: longest caption in words.
        length_normalization: 0 for none, 1 for the mean log-probability of a word.

    Returns:
        The best captions. The special tokens other than `END` are never chosen, nor is an empty caption.
    """
    length = maximum + 1
    first_in_beam = ops.concatenate([ops.zeros((1, 1)), ops.full((1, beam - 1), LARGE_NEGATIVE)], axis=1)  # [1, K]
    row = ops.expand_dims(ops.arange(pictures) * beam, 1)  # [B, 1]

    def chosen(values: Tensor, parents: Tensor) -> Tensor:
        """Return `values [B*K, ...]` of the candidates that `parents [B, K]` name."""
        return ops.take(values, ops.reshape(row + parents, (-1,)), axis=0)

    def extend(
        position: Tensor, last: Tensor, log_probability: Tensor, words: Tensor, weights: Tensor, state: Tensor
    ) -> tuple:
        logits, new_state, new_weights = step(last, state)
        vocabulary = logits.shape[-1]
        closed = finished(last)  # [B*K]
        token = ops.expand_dims(ops.arange(vocabulary), 0)  # [1, V]
        scores = ops.log_softmax(ops.cast(logits, "float32")) + ops.where(
            forbidden(token, position, length), LARGE_NEGATIVE, 0.0
        )
        # a finished candidate continues in one way only, by padding, at no cost
        scores = ops.where(ops.expand_dims(closed, 1), ops.where(token == PAD, 0.0, 2 * LARGE_NEGATIVE), scores)
        total = ops.reshape(log_probability, (-1, 1)) + scores  # [B*K, V]
        most = min(beam, vocabulary)  # extensions of one candidate that may stay in the beam, `M`
        each, tokens = top_k(total, most)  # [B*K, M]
        log_probability, best = ops.top_k(ops.reshape(each, (-1, beam * most)), beam)  # [B, K]
        parents = best // most
        last = ops.take_along_axis(ops.reshape(tokens, (-1, beam * most)), best, axis=1)
        last = ops.cast(ops.reshape(last, (-1,)), "int32")  # [B*K]
        now = ops.expand_dims(ops.arange(length) == position, 0)  # [1, T]
        words = ops.where(now, ops.expand_dims(last, 1), chosen(words, parents))
        new_weights = ops.where(ops.expand_dims(closed, 1), 0.0, ops.cast(new_weights, "float32"))
        here = ops.expand_dims(now, -1)
        weights = ops.where(here, ops.expand_dims(chosen(new_weights, parents), 1), chosen(weights, parents))
        state = keras.tree.map_structure(lambda x: chosen(x, parents), new_state)
        return position + 1, last, log_probability, words, weights, state

    begun = start(pictures * beam, length, size, ops.tile(first_in_beam, (pictures, 1)), state)
    _, _, log_probability, words, weights, _ = ops.while_loop(unfinished(length), extend, begun)
    lengths = ops.sum(ops.cast(ops.not_equal(words, PAD), "float32"), axis=-1)  # [B*K]
    objective = log_probability / ops.reshape(lengths, (-1, beam)) ** length_normalization  # [B, K]
    best = ops.expand_dims(ops.argmax(objective, axis=-1), 1)  # [B, 1]
    log_probability = ops.squeeze(ops.take_along_axis(log_probability, best, axis=1), 1)
    return SearchResult(chosen(words, best), log_probability, chosen(weights, best))


def top_k(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the `k` largest of each row of `values [rows, n]` and their places, as `ops.top_k` does, but faster.

    On a CPU it takes a tenth of a search to sort rows of some thousand values. The largest stand in the `k` blocks
    whose largest values are the largest: only those are sorted, and what fills no block.
    """
    rows, size = values.shape
    if size <= BLOCK * (k + 1):
        return ops.top_k(values, k)
    end = size // BLOCK * BLOCK
    blocks = ops.reshape(values[:, :end], (rows, -1, BLOCK))
    _, chosen = ops.top_k(ops.max(blocks, axis=-1), k)  # [rows, k]
    starts = ops.sort(chosen) * BLOCK  # of equal values, the first one counts
    places = ops.reshape(ops.expand_dims(starts, -1) + ops.arange(BLOCK), (rows, -1))
    rest = ops.broadcast_to(ops.arange(end, size), (rows, size - end))
    places = ops.concatenate([places, rest], axis=1)
    largest, found = ops.top_k(ops.take_along_axis(values, places, axis=1), k)
    return largest, ops.take_along_axis(places, found, axis=1)
