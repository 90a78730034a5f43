"""Additive attention with a gate on the context."""

from typing import Any

from captioner.common.keras import Tensor, keras
from captioner.model.attention.bahdanau import BahdanauAttention
from captioner.model.deferred_gradient import only_multiplies


@keras.saving.register_keras_serializable("captioner")
class GatedAttention(BahdanauAttention):
    """Additive attention whose context has a gate: `z_t = beta_t sum_j p_tj x_j`, `beta_t = sigmoid(f s_t + d)`.

    The gate is one number between 0 and 1. By it the decoder decides at each word how much what it sees counts beside
    the words before.

    Source: Xu et al. 2015, "Show, Attend and Tell", section 4.2.1. Their second loss is `attention_penalty` in the
    training parameters, for any attention.

    Args:
        units: `A`, the size of the space in which state and positions are compared.
    """

    def __init__(self, units: int = 256, **kwargs: Any):
        super().__init__(units, **kwargs)
        self.gate = keras.layers.Dense(1, activation="sigmoid", name="gate")  # f and d

    def build(self, feature_vectors_shape: tuple, state_output_shape: tuple, **_: Any) -> None:
        """Make the weights of additive attention, and those of the gate."""
        super().build(feature_vectors_shape, state_output_shape)
        self.gate.build(state_output_shape)

    @only_multiplies
    def call(self, feature_vectors: Tensor, state_output: Tensor, keys: Tensor = None) -> tuple[Tensor, Tensor]:
        """Return the context vector behind its gate, and the attention weights."""
        context, weights = super().call(feature_vectors, state_output, keys)
        return self.gate(state_output) * context, weights
