"""Negative log-likelihood of tokens, as loss and as metric, and what a loss may ask of attention.

Legend: `V` vocabulary · `S` targets · `P` positions of the grid.
"""

from typing import Any

import numpy as np

from captioner.common.keras import Tensor, keras, ops
from captioner.text.vocabulary import PAD


def token_nll(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the negative log-likelihood, in nats, of targets `[...]` given logits `[..., V]`; of padding, 0."""
    targets = ops.cast(targets, "int32")
    chosen = ops.squeeze(ops.take_along_axis(logits, ops.expand_dims(targets, -1), axis=-1), -1)
    return ops.where(ops.equal(targets, PAD), 0.0, ops.logsumexp(logits, axis=-1) - chosen)


def tokens_of(targets: Tensor, dtype: str = "float32") -> Tensor:
    """Return how many of the targets `[...]` are real tokens, a scalar."""
    return ops.sum(ops.cast(ops.not_equal(targets, PAD), dtype))


def attention_penalty(weights: Tensor, targets: Tensor, captions: np.ndarray) -> Tensor:
    """Return how far captions are from having looked at each position as much as at any other, a scalar.

    It is `sum_j (1 - sum_t p_tj)^2` of each caption, with the sum over its words and its end, divided by the number of
    real tokens, as the cross-entropy is: so the two have the proportion of the source. `T` words have the weight `T` to
    spend on `P` positions: even attention comes to `(P - T)^2 / P`, and nothing comes lower.

    Source: Xu et al. 2015, "Show, Attend and Tell", section 4.2.1 ("doubly stochastic attention"), equation 14.

    Args:
        weights: of the positions at each target, `[S, P]`.
        targets: the words, int `[S]`, `PAD` where there is none.
        captions: whose each target is, int `[S]`, from 0 on.
    """
    real = ops.cast(ops.not_equal(targets, PAD), weights.dtype)[:, None]  # [S, 1]
    number = int(captions.max()) + 1
    looked = ops.segment_sum(ops.concatenate([weights * real, real], axis=1), captions, num_segments=number)
    exists = ops.cast(looked[:, -1] > 0, weights.dtype)  # [captions]
    missing = ops.sum((1 - looked[:, :-1]) ** 2, axis=1)
    return ops.sum(missing * exists) / ops.maximum(ops.sum(real), 1)


@keras.saving.register_keras_serializable("captioner")
class TokenCrossEntropy(keras.losses.Loss):
    """Mean cross-entropy in nats a real token; padding neither costs nor counts.

    Args:
        label_smoothing: share of the target's probability that is spread over all words (Szegedy et al. 2016).

    Call arguments:
        y_true: the words, int `[...]`, `PAD` where there is none.
        y_pred: logits `[..., V]`.
    """

    def __init__(
        self, label_smoothing: float = 0.0, name: str = "token_cross_entropy", reduction: None = None, **kwargs: Any
    ):
        super().__init__(name=name, reduction=reduction, **kwargs)
        self.label_smoothing = label_smoothing

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the mean, a scalar."""
        real = ops.cast(ops.not_equal(y_true, PAD), y_pred.dtype)
        loss = (1 - self.label_smoothing) * token_nll(y_pred, y_true)
        if self.label_smoothing:
            even = ops.logsumexp(y_pred, axis=-1) - ops.mean(y_pred, axis=-1)
            loss = loss + self.label_smoothing * even * real
        return ops.sum(loss) / ops.maximum(ops.sum(real), 1)

    def get_config(self) -> dict:
        """Return what `__init__` was given."""
        return {**super().get_config(), "label_smoothing": self.label_smoothing}


@keras.saving.register_keras_serializable("captioner")
class TokenNegativeLogLikelihood(keras.metrics.Metric):
    """Mean negative log-likelihood in nats a real token, over all batches: what label smoothing leaves of the loss."""

    def __init__(self, name: str = "nll", **kwargs: Any):
        super().__init__(name=name, **kwargs)
        self.total = self.add_weight(shape=(), initializer="zeros", name="total")
        self.tokens = self.add_weight(shape=(), initializer="zeros", name="tokens")

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: None = None) -> None:  # noqa: ARG002
        """Add a batch: words int `[...]`, logits `[..., V]`."""
        self.add(ops.sum(token_nll(y_pred, y_true)), tokens_of(y_true))

    def add(self, total: Tensor, tokens: Tensor) -> None:
        """Add a negative log-likelihood, in nats, of so many real tokens."""
        self.total.assign_add(total)
        self.tokens.assign_add(tokens)

    def result(self) -> Tensor:
        """Return the mean, a scalar."""
        return self.total / ops.maximum(self.tokens, 1)
