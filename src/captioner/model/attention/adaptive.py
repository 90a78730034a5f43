"""Additive attention that may also not look."""

from typing import Any

from captioner.common.keras import Tensor, keras, ops
from captioner.model.attention.bahdanau import BahdanauAttention
from captioner.model.attention.base import Looks
from captioner.model.deferred_gradient import multiply, only_multiplies


@keras.saving.register_keras_serializable("captioner")
class AdaptiveAttention(BahdanauAttention):
    """Additive attention over the positions and a sentinel, which stands for not looking.

    The visual sentinel is what the decoder's memory can say by itself: `v_t = F (sigmoid(G s_t + g) * tanh(m_t))`, with
    the memory cell `m_t`. It is weighed as a position is: `z_t = beta_t v_t + sum_j p_tj x_j` with
    `[p_t, beta_t] = softmax([alpha_t, W tanh(U s_t + S v_t) + c])`. Words such as "of" need no look: there `beta_t` may
    come near 1.

    Source: Lu, Xiong, Parikh, Socher 2017, "Knowing When to Look: Adaptive Attention via a Visual Sentinel for Image
    Captioning", equations 9 to 13. Three things differ. Every attention here looks before the previous word enters the
    state, so `s_t` and `m_t` are one word older than theirs. The gate reads the state's output alone, not the word as
    well, and has a bias. And `F` maps the sentinel to the size of a feature vector, which is another than the state's.

    Args:
        units: `A`, the size of the space in which state, positions and sentinel are compared.

    Call arguments, beside those of every attention:
        state_cell: `m_t`, the memory cell of an LSTM before this word, `[B, H]`. By default it is `state_output`, since
            other recurrent cells have no other memory.

    Returns:
        The attention weights are `[B, P + 1]`, the last is the sentinel's.
    """

    reads_cell = True

    def __init__(self, units: int = 256, **kwargs: Any):
        super().__init__(units, **kwargs)
        self.sentinel_projection = keras.layers.Dense(units, use_bias=False, name="S")

    def build(self, feature_vectors_shape: tuple, state_output_shape: tuple, **_: Any) -> None:
        """Make the weights of additive attention, and those of the sentinel."""
        super().build(feature_vectors_shape, state_output_shape)
        size, state = feature_vectors_shape[-1], state_output_shape[-1]
        self.sentinel_gate = keras.layers.Dense(state, activation="sigmoid", name="G", dtype=self.dtype_policy)
        self.sentinel = keras.layers.Dense(size, use_bias=False, name="F", dtype=self.dtype_policy)
        self.sentinel_gate.build(state_output_shape)
        self.sentinel.build(state_output_shape)
        self.sentinel_projection.build(feature_vectors_shape)

    def weights_shape(self, positions: int) -> tuple[int, ...]:
        """Return the shape of one caption's weights at one word: those of the positions, then the sentinel's."""
        return (positions + 1,)

    def looks(self, weights: Tensor) -> Looks:
        """Return where it looked as far as it did, and how far that was: `1 - beta_t`."""
        positions = weights[..., :-1]
        grounding = ops.sum(positions, axis=-1)
        # where so little weight is left, the positions cannot be told apart in float32
        looked = ops.expand_dims(grounding > 1e-12, -1)
        whole = ops.where(looked, ops.expand_dims(grounding, -1), 1.0)
        return Looks(ops.where(looked, positions / whole, 1 / positions.shape[-1]), grounding=grounding)

    @only_multiplies
    def call(
        self,
        feature_vectors: Tensor,
        state_output: Tensor,
        keys: Tensor = None,
        state_cell: Tensor = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the context vector, with the sentinel's part, and the weights of positions and sentinel."""
        if keys is None:
            keys = self.project_keys(feature_vectors)
        memory = state_output if state_cell is None else state_cell
        sentinel = self.sentinel(self.sentinel_gate(state_output) * ops.tanh(memory))  # [B, E]
        key = ops.expand_dims(self.sentinel_projection(sentinel), 1)  # [B, 1, A]
        query = self.query(state_output)
        scores = [self.compared(query, each) for each in (keys, key)]  # [B, P], [B, 1]
        weights = ops.softmax(ops.concatenate(scores, axis=-1), axis=-1)
        return multiply(weights[:, :-1], feature_vectors) + weights[:, -1:] * sentinel, weights
