"""Uniform attention: the baseline."""

from typing import Any

from captioner.common.keras import Tensor, keras, ops
from captioner.model.attention.base import Attention


@keras.saving.register_keras_serializable("captioner")
class UniformAttention(Attention):
    """The same weight everywhere: `p_tj = 1/P` exactly. The baseline that looking has to beat. No weights of its own.

    Args:
        units: taken so that all attentions are made alike; without effect.
    """

    def build(self, feature_vectors_shape: tuple, state_output_shape: tuple, **_: Any) -> None:
        """Make no weights."""

    def project_keys(self, feature_vectors: Tensor) -> Tensor:
        """Return the context vector, which no state changes: the mean of the feature vectors, `[B, E]`."""
        return ops.mean(feature_vectors, axis=1)

    def call(self, feature_vectors: Tensor, state_output: Tensor, keys: Tensor = None) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return the mean and even weights."""
        weights = ops.full_like(feature_vectors[:, :, 0], 1 / feature_vectors.shape[1])  # [B, P]
        return self.project_keys(feature_vectors) if keys is None else keys, weights
