"""Multiplicative attention, scaled, with one head or several."""

from typing import Any, Self

from captioner.common.keras import Tensor, keras, ops
from captioner.model.attention.base import Attention, Looks
from captioner.model.hyperparameters import ModelParams


@keras.saving.register_keras_serializable("captioner")
class ScaledDotProductAttention(Attention):
    """Multiplicative attention, scaled: `alpha_tj = (Q s_t)^T K x_j / sqrt(A)`; of `N` heads each by `sqrt(A/N)`.

    The division keeps the variance of the scores independent of the number of products that are summed, so that the
    softmax does not begin saturated. Each head has its own part of the query and of the keys, of size `A/N`, its own
    weights, and gives its own part of the context, of size `E/N`: the weighted sum of that part of the feature vectors.

    Source: Vaswani et al. 2017, "Attention Is All You Need", sections 3.2.1 and 3.2.2. Their projections of values and
    output are left out: the feature vectors and the layers that read the context are learned projections already.

    Args:
        units: `A`, the size of the space in which state and positions are compared; `heads` divides it.
        heads: `N`, which divides `E` too.
    """

    def __init__(self, units: int = 256, heads: int = 1, **kwargs: Any):
        super().__init__(units, **kwargs)
        self.heads = heads
        self.query_projection = keras.layers.Dense(units, use_bias=False, name="Q")
        self.key_projection = keras.layers.Dense(units, use_bias=False, name="K")

    @classmethod
    def of(cls, options: ModelParams) -> Self:
        """Return a decoder's attention, with the hyper-parameters that concern it."""
        return cls(units=options.attention_size, heads=options.heads, name="attention")

    def build(self, feature_vectors_shape: tuple, state_output_shape: tuple, **_: Any) -> None:
        """Make Q and K."""
        self.key_projection.build(feature_vectors_shape)
        self.query_projection.build(state_output_shape)

    def weights_shape(self, positions: int) -> tuple[int, ...]:
        """Return the shape of one caption's weights at one word: those of several heads side by side."""
        return (positions,) if self.heads == 1 else (self.heads, positions)

    def looks(self, weights: Tensor) -> Looks:
        """Return the mean of the heads, and each of them."""
        if self.heads == 1:
            return Looks(weights)
        heads = ops.reshape(weights, (*weights.shape[:-1], self.heads, weights.shape[-1] // self.heads))
        return Looks(ops.mean(heads, axis=-2), heads=heads)

    def project_keys(self, feature_vectors: Tensor) -> Tensor:
        """Return `K x_j / sqrt(A/N)`, of each head its part, `[B, P, N, A/N]`."""
        keys = self.key_projection(feature_vectors) / (self.units / self.heads) ** 0.5
        return self._parts(keys)

    def attention_scores(self, keys: Tensor, state_output: Tensor) -> Tensor:
        """Return `(Q s_t)^T keys_j` of each head, `[B, N, P]`."""
        query = self._parts(self.query_projection(state_output))  # [B, N, A/N]
        return ops.einsum("bna,bpna->bnp", query, keys)

    def call(self, feature_vectors: Tensor, state_output: Tensor, keys: Tensor = None) -> tuple[Tensor, Tensor]:
        """Return the context vector and the attention weights; see the class."""
        if keys is None:
            keys = self.project_keys(feature_vectors)
        weights = ops.softmax(self.attention_scores(keys, state_output), axis=-1)  # [B, N, P]
        context = ops.einsum("bnp,bpne->bne", weights, self._parts(feature_vectors))  # [B, N, E/N]
        context = ops.reshape(context, (-1, feature_vectors.shape[-1]))
        return context, ops.squeeze(weights, 1) if self.heads == 1 else weights

    def _parts(self, values: Tensor) -> Tensor:
        """Return the heads' parts of values `[..., X]`, `[..., N, X/N]`."""
        size = values.shape[-1] // self.heads
        return ops.reshape(values, (-1, *values.shape[1:-1], self.heads, size))

    def get_config(self) -> dict:
        """Return what `__init__` was given."""
        return {**super().get_config(), "heads": self.heads}
