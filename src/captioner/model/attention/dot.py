"""Multiplicative attention."""

from collections.abc import Sequence
from typing import Any

from captioner.common.keras import Tensor, keras
from captioner.model.attention.base import Attention
from captioner.model.deferred_gradient import DeferredGradientMatmul, is_only_multiplying, multiply, only_multiplies


@keras.saving.register_keras_serializable("captioner")
class DotProductAttention(Attention):
    """Multiplicative attention: `alpha_tj = (Q s_t)^T K x_j`, unscaled.

    The state asks a question, `Q s_t`; each position has a key, `K x_j`; the score is how far they point the same way.
    Cheaper than additive attention, one product of matrices for all positions, and with no bound on the scores: the
    weights can become sharp. "Scaled" attention divides by the root of `A`; here that is left to the first weights.

    Source: Luong, Pham, Manning 2015, "Effective Approaches to Attention-based Neural Machine Translation",
    equation 8 ("general"), its matrix written as the product of a query's and a key's projection.

    Args:
        units: `A`, the size of the space in which state and positions are compared.
    """

    def __init__(self, units: int = 256, **kwargs: Any):
        super().__init__(units, **kwargs)
        # the equation has no 1/sqrt(A); begun that much smaller, Q does not saturate the softmax before it has learnt
        small = keras.initializers.VarianceScaling(1 / units, mode="fan_avg", distribution="uniform")
        self.query_projection = keras.layers.Dense(units, use_bias=False, kernel_initializer=small, name="Q")
        self.key_projection = keras.layers.Dense(units, use_bias=False, name="K")

    def build(self, feature_vectors_shape: tuple, state_output_shape: tuple, **_: Any) -> None:
        """Make Q and K."""
        self.key_projection.build(feature_vectors_shape)
        self.query_projection.build(state_output_shape)

    def project_keys(self, feature_vectors: Tensor) -> Tensor:
        """Return `K x_j`, `[B, P, A]`."""
        return self.key_projection(feature_vectors)

    @only_multiplies
    def attention_scores(self, keys: Tensor, state_output: Tensor) -> Tensor:
        """Return `(Q s_t)^T keys_j`, `[B, P]`."""
        return multiply(self.query_projection(state_output), keys, transposed=True)

    def with_deferred_gradients(
        self, feature_vectors: Tensor, keys: Tensor, rows: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Return both for the steps of a recurrence; see the base class."""
        feature_vectors, keys = super().with_deferred_gradients(feature_vectors, keys, rows)
        if is_only_multiplying(type(self).call) and is_only_multiplying(type(self).attention_scores):
            keys = DeferredGradientMatmul(keys, rows, transposed=True)
        return feature_vectors, keys
