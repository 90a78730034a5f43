"""What every attention has in common. Legend: see `captioner.model.attention`."""

from collections.abc import Sequence
from typing import Any

from captioner.common.keras import Tensor, keras, ops
from captioner.model.deferred_gradient import DeferredGradientMatmul, multiply


class Attention(keras.layers.Layer):
    """What every attention has in common: its interface, and how weights become a context.

    Args:
        units: `A`, the size of the space in which state and positions are compared.

    Call arguments:
        feature_vectors: the places of a picture, `x_j`, `[B, P, E]`.
        state_output: the output of the decoder's state before this word, `s_t`, `[B, H]`.
        keys: what `project_keys` returned for these feature vectors. Without them they are computed in the call; the
            result is the same, at the cost of computing them again for each word.

    Returns:
        context_vector: `z_t`, `[B, E]`.
        attention_weights: `p_t`, not negative, each row sums to 1, `[B, P]`.
    """

    def __init__(self, units: int = 256, **kwargs: Any):
        super().__init__(**kwargs)
        self.units = units

    def project_keys(self, feature_vectors: Tensor) -> Tensor:
        """Return what depends on the picture alone, to be computed once a picture and not once a word."""
        raise NotImplementedError

    def attention_scores(self, keys: Tensor, state_output: Tensor) -> Tensor:
        """Return `alpha_t`, `[B, P]`, from what `project_keys` returned and the state `[B, H]`."""
        raise NotImplementedError

    def call(self, feature_vectors: Tensor, state_output: Tensor, keys: Tensor = None) -> tuple[Tensor, Tensor]:
        """Return the context vector and the attention weights; see the class."""
        if keys is None:
            keys = self.project_keys(feature_vectors)
        weights = ops.softmax(self.attention_scores(keys, state_output), axis=-1)  # [B, P]
        return multiply(weights, feature_vectors), weights  # [B, E], [B, P]

    def with_deferred_gradients(
        self, feature_vectors: Tensor, keys: Tensor, rows: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Return both for the steps of a recurrence, as they are or as a faster `DeferredGradientMatmul`.

        That is no tensor: it can be used by `multiply` alone, once a step.

        Args:
            feature_vectors: of all captions.
            keys: what `project_keys` returned for them.
            rows: how many captions each step has: the first ones.
        """
        if type(self).call is Attention.call:  # another may do more with them than multiply
            feature_vectors = DeferredGradientMatmul(feature_vectors, rows)
        return feature_vectors, keys

    def compute_output_shape(
        self,
        feature_vectors_shape: tuple,
        state_output_shape: tuple,  # noqa: ARG002
        keys_shape: Any = None,  # noqa: ARG002
    ) -> tuple[tuple, tuple]:
        """Return the shapes of context vector and attention weights."""
        batch, positions, size = feature_vectors_shape
        return (batch, size), (batch, positions)

    def get_config(self) -> dict:
        """Return what `__init__` was given."""
        return {**super().get_config(), "units": self.units}
