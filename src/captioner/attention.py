"""Attention mechanisms: from the places of a picture and a decoder's state to one context vector.

All of them compute a context `z_t = sum_j p_tj x_j` with weights `p_t = softmax_j(alpha_tj)`; they differ in `alpha`.

Any Keras model can use them; `feature_vectors` are what there is to look at, `state` is what the model knows so far:

    attention = BahdanauAttention(128)
    context, weights = attention(feature_vectors, state)  # [B, P, E], [B, H] -> [B, E], [B, P]

and where the same vectors are looked at again and again, as a decoder does before each word, what depends on them
alone is computed once:

    keys = attention.prepare(feature_vectors)
    for ...:
        context, weights = attention(feature_vectors, state, keys=keys)

Legend: `B` captions · `P` positions of the picture's grid · `E` size of a feature vector · `H` size of the decoder's
state · `A` size of the space in which state and positions are compared.
"""

from collections.abc import Sequence
from typing import Any

from captioner.configured import keras, ops
from captioner.names import ATTENTIONS
from captioner.recurrence import RecurrentProduct, multiply


class Attention(keras.layers.Layer):
    """What every attention has in common: its interface, and how weights become a context.

    Args:
        units: `A`, the size of the space in which state and positions are compared.

    Call arguments:
        feature_vectors: the places of a picture, `x_j`, `[B, P, E]`.
        state_output: the output of the decoder's state before this word, `s_t`, `[B, H]`.
        keys: what `prepare` returned for these feature vectors. Without them they are computed in the call; the
            result is the same, at the cost of computing them again for each word.

    Returns:
        context_vector: `z_t`, `[B, E]`.
        attention_weights: `p_t`, not negative, each row sums to 1, `[B, P]`.
    """

    def __init__(self, units: int = 256, **kwargs: Any):
        super().__init__(**kwargs)
        self.units = units

    def prepare(self, feature_vectors: Any) -> Any:
        """Return what depends on the picture alone, to be computed once a picture and not once a word."""
        raise NotImplementedError

    def attention_scores(self, keys: Any, state_output: Any) -> Any:
        """Return `alpha_t`, `[B, P]`, from what `prepare` returned and the state `[B, H]`."""
        raise NotImplementedError

    def call(self, feature_vectors: Any, state_output: Any, keys: Any = None) -> tuple[Any, Any]:
        """Return the context vector and the attention weights; see the class."""
        if keys is None:
            keys = self.prepare(feature_vectors)
        weights = ops.softmax(self.attention_scores(keys, state_output), axis=-1)  # [B, P]
        return multiply(weights, feature_vectors), weights  # [B, E], [B, P]

    def recurrent(self, feature_vectors: Any, keys: Any, rows: Sequence[int]) -> tuple[Any, Any]:
        """Return both for the steps of a recurrence, as they are or as `RecurrentProduct`, whose gradient is faster.

        That is no tensor: it can be used by `multiply` alone, once a step.

        Args:
            feature_vectors: of all captions.
            keys: what `prepare` returned for them.
            rows: how many captions each step has: the first ones.
        """
        if type(self).call is Attention.call:  # another may do more with them than multiply
            feature_vectors = RecurrentProduct(feature_vectors, rows)
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


@keras.saving.register_keras_serializable("captioner")
class UniformAttention(Attention):
    """The same weight everywhere: `p_tj = 1/P` exactly. The baseline that looking has to beat. No weights of its own.

    Args:
        units: taken so that all attentions are made alike; without effect.
    """

    def build(self, feature_vectors_shape: tuple, state_output_shape: tuple, keys_shape: Any = None) -> None:
        """Make no weights."""

    def prepare(self, feature_vectors: Any) -> Any:
        """Return the context vector, which no state changes: the mean of the feature vectors, `[B, E]`."""
        return ops.mean(feature_vectors, axis=1)

    def call(self, feature_vectors: Any, state_output: Any, keys: Any = None) -> tuple[Any, Any]:  # noqa: ARG002
        """Return the mean and even weights."""
        weights = ops.full_like(feature_vectors[:, :, 0], 1 / feature_vectors.shape[1])  # [B, P]
        return self.prepare(feature_vectors) if keys is None else keys, weights


@keras.saving.register_keras_serializable("captioner")
class BahdanauAttention(Attention):
    """Additive attention: `alpha_tj = W tanh(U s_t + V x_j + b) + c`.

    A small network of one hidden layer looks at state and position together and says how well they fit. The state's
    part `U s_t` and the position's part `V x_j + b` are added in a space of their own, so that neither needs the
    other's size, and `tanh` lets a position matter for some states and not for others. `c` shifts all scores alike,
    which the softmax does not see.

    Source: Bahdanau, Cho, Bengio 2015, "Neural Machine Translation by Jointly Learning to Align and Translate",
    appendix A.1.2; for pictures: Xu et al. 2015, "Show, Attend and Tell", equations 4 to 6.

    Args:
        units: `A`, the size of the space in which state and positions are compared.
    """

    def __init__(self, units: int = 256, **kwargs: Any):
        super().__init__(units, **kwargs)
        self.state_projection = keras.layers.Dense(units, use_bias=False, name="U")
        self.feature_projection = keras.layers.Dense(units, name="V")  # its bias is b
        self.score = keras.layers.Dense(1, name="W")  # its bias is c

    def build(
        self,
        feature_vectors_shape: tuple,
        state_output_shape: tuple,
        keys_shape: Any = None,  # noqa: ARG002
    ) -> None:
        """Make U, V, b, W and c."""
        self.feature_projection.build(feature_vectors_shape)
        self.state_projection.build(state_output_shape)
        self.score.build((None, None, self.units))

    def prepare(self, feature_vectors: Any) -> Any:
        """Return `V x_j + b`, `[B, P, A]`."""
        return self.feature_projection(feature_vectors)

    def attention_scores(self, keys: Any, state_output: Any) -> Any:
        """Return `W tanh(U s_t + keys_j) + c`, `[B, P]`."""
        query = ops.expand_dims(self.state_projection(state_output), 1)  # [B, 1, A]
        return ops.squeeze(self.score(ops.tanh(query + keys)), -1)  # [B, P]


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

    def build(
        self,
        feature_vectors_shape: tuple,
        state_output_shape: tuple,
        keys_shape: Any = None,  # noqa: ARG002
    ) -> None:
        """Make Q and K."""
        self.key_projection.build(feature_vectors_shape)
        self.query_projection.build(state_output_shape)

    def prepare(self, feature_vectors: Any) -> Any:
        """Return `K x_j`, `[B, P, A]`."""
        return self.key_projection(feature_vectors)

    def attention_scores(self, keys: Any, state_output: Any) -> Any:
        """Return `(Q s_t)^T keys_j`, `[B, P]`."""
        return multiply(self.query_projection(state_output), keys, transposed=True)

    def recurrent(self, feature_vectors: Any, keys: Any, rows: Sequence[int]) -> tuple[Any, Any]:
        """Return both for the steps of a recurrence; see the base class."""
        feature_vectors, keys = super().recurrent(feature_vectors, keys, rows)
        own = (type(self).call, type(self).attention_scores)
        if own == (Attention.call, DotProductAttention.attention_scores):
            keys = RecurrentProduct(keys, rows, transposed=True)
        return feature_vectors, keys


def create(name: str, units: int = 256) -> Attention:
    """Return the attention that `params.yaml` calls `name`."""
    return globals()[ATTENTIONS[name]](units=units, name="attention")
