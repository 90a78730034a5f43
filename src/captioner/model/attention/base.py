"""What every attention has in common. Legend: see `captioner.model.attention`."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

from captioner.common.keras import Tensor, keras, ops
from captioner.model.deferred_gradient import DeferredGradientMatmul, is_only_multiplying, multiply, only_multiplies
from captioner.model.hyperparameters import ModelParams


class Looks(NamedTuple):
    """Where an attention looked, in a form that is the same for all of them.

    Attributes:
        positions: the weight of each position, sums to 1, `[..., P]`.
        heads: the same of each of several heads, `[..., heads, P]`; None where there is one.
        grounding: how much it looked at all, 0 to 1, `[...]`; None where it always does.
    """

    positions: Tensor
    heads: Tensor | None = None
    grounding: Tensor | None = None


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
        attention_weights: `p_t`, not negative, each row sums to 1, `[B, P]`; of some attentions there is more than one
            weight for each position, see `weights_shape`.
    """

    reads_cell = False
    """Whether `call` takes `state_cell` too, the memory cell of an LSTM before this word, `[B, H]`."""

    def __init__(self, units: int = 256, **kwargs: Any):
        super().__init__(**kwargs)
        self.units = units

    @classmethod
    def of(cls, options: ModelParams) -> Self:
        """Return a decoder's attention, with the hyper-parameters that concern it."""
        return cls(units=options.attention_size, name="attention")

    def weights_shape(self, positions: int) -> tuple[int, ...]:
        """Return the shape of one caption's weights at one word, for `P` positions."""
        return (positions,)

    def looks(self, weights: Tensor) -> Looks:
        """Return what weights say, given as `[..., W]`: all of a word in one row."""
        return Looks(weights)

    def project_keys(self, feature_vectors: Tensor) -> Tensor:
        """Return what depends on the picture alone, to be computed once a picture and not once a word."""
        raise NotImplementedError

    def attention_scores(self, keys: Tensor, state_output: Tensor) -> Tensor:
        """Return `alpha_t`, `[B, P]`, from what `project_keys` returned and the state `[B, H]`."""
        raise NotImplementedError

    @only_multiplies
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
        if is_only_multiplying(type(self).call):
            feature_vectors = DeferredGradientMatmul(feature_vectors, rows)
        return feature_vectors, keys

    def compute_output_shape(
        self,
        feature_vectors_shape: tuple,
        *_: Any,
        **__: Any,
    ) -> tuple[tuple, tuple]:
        """Return the shapes of context vector and attention weights."""
        batch, positions, size = feature_vectors_shape
        return (batch, size), (batch, *self.weights_shape(positions))

    def get_config(self) -> dict:
        """Return what `__init__` was given."""
        return {**super().get_config(), "units": self.units}
