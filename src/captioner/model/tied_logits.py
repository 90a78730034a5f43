"""A vocabulary layer without a matrix of its own."""

from typing import Any

from captioner.common.keras import Tensor, keras, ops


@keras.saving.register_keras_serializable("captioner")
class TiedLogits(keras.layers.Layer):
    """The logits of words, by the matrix of the word embeddings: `x W^T + b`.

    Source: Press, Wolf 2017, "Using the Output Embedding to Improve Language Models".

    Call arguments:
        inputs: `x`, `[..., E]`.
        embeddings: `W`, `[V, E]`.
    """

    def build(self, inputs_shape: tuple, embeddings_shape: tuple) -> None:  # noqa: ARG002
        """Make b."""
        self.bias = self.add_weight(name="bias", shape=embeddings_shape[:1], initializer="zeros")

    def call(self, inputs: Tensor, embeddings: Tensor) -> Tensor:
        """Return the logits, `[..., V]`."""
        return ops.matmul(inputs, ops.transpose(embeddings)) + self.bias

    def compute_output_shape(self, inputs_shape: tuple, embeddings_shape: tuple) -> Any:
        """Return the shape of the logits."""
        return (*inputs_shape[:-1], embeddings_shape[0])
