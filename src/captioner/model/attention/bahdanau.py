"""Additive attention."""

from typing import Any

from captioner.common.keras import Tensor, keras, ops
from captioner.model.attention.base import Attention


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

    def build(self, feature_vectors_shape: tuple, state_output_shape: tuple, **_: Any) -> None:
        """Make U, V, b, W and c."""
        self.feature_projection.build(feature_vectors_shape)
        self.state_projection.build(state_output_shape)
        self.score.build((None, None, self.units))

    def project_keys(self, feature_vectors: Tensor) -> Tensor:
        """Return `V x_j + b`, `[B, P, A]`."""
        return self.feature_projection(feature_vectors)

    def attention_scores(self, keys: Tensor, state_output: Tensor) -> Tensor:
        """Return `W tanh(U s_t + keys_j) + c`, `[B, P]`."""
        return self.compared(self.query(state_output), keys)

    def query(self, state_output: Tensor) -> Tensor:
        """Return `U s_t`, `[B, 1, A]`."""
        return ops.expand_dims(self.state_projection(state_output), 1)

    def compared(self, query: Tensor, keys: Tensor) -> Tensor:
        """Return `W tanh(query + keys_j) + c`, `[B, P]`."""
        return ops.squeeze(self.score(ops.tanh(query + keys)), -1)
