"""Attention mechanisms, which compute a context vector from the positions of a picture and a decoder's state.

Most of them compute a context `z_t = sum_j p_tj x_j` with weights `p_t = softmax_j(alpha_tj)`, and differ in `alpha`.
Some have several heads, a gate on the context, or a sentinel beside the positions. A new one needs a class in its own
module, and a line in `ATTENTIONS`.

Any Keras model can use them; `feature_vectors` are the vectors to attend to, `state` is the decoder's state:

    from captioner.model.attention.bahdanau import BahdanauAttention

    attention = BahdanauAttention(128)
    context, weights = attention(feature_vectors, state)  # [B, P, E], [B, H] -> [B, E], [B, P]

If the same vectors are used repeatedly, as by a decoder before each word, what depends on them alone can be computed
once:

    keys = attention.project_keys(feature_vectors)
    for ...:
        context, weights = attention(feature_vectors, state, keys=keys)

Legend: `B` captions · `P` positions of the picture's grid · `E` size of a feature vector · `H` size of the decoder's
state · `A` size of the space in which state and positions are compared.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from captioner.model.hyperparameters import ModelParams

if TYPE_CHECKING:
    from captioner.model.attention.base import Attention

ATTENTIONS = {
    "uniform": "uniform:UniformAttention",
    "bahdanau": "bahdanau:BahdanauAttention",
    "dot": "dot:DotProductAttention",
    "scaled_dot": "scaled_dot:ScaledDotProductAttention",
    "gated": "gated:GatedAttention",
    "adaptive": "adaptive:AdaptiveAttention",
}
"""By name in `params.yaml`: the module in this package and its class."""

SEVERAL_HEADS = ("scaled_dot",)
"""Those that may have several heads."""


def create(name: str, options: ModelParams) -> "Attention":
    """Return the attention with a `name` of `ATTENTIONS`. This imports its module, and Keras."""
    module, _, kind = ATTENTIONS[name].partition(":")
    return getattr(import_module(f"{__name__}.{module}"), kind).of(options)
