"""Several processes that train one decoder together: each computes a share of every batch (data parallelism).

A step is that of one process with the whole batch. Each process sums gradient, loss and negative log-likelihood over
the real tokens of its share, and counts them. The sums of all are added and divided by the count of all. Then each
process clips the gradient and takes the step of the optimizer: all have the same weights before and after.

The first process, whose rank is 0, does what is done once: it validates, keeps the best epoch, writes and saves. It
tells the others where to begin, with which values, and when to end. They have nothing else to go on from.

Dropout drops other values in each process: the layers have equal seeds, as one process has them, and the rank as
`captioner.model.dropout.Dropout.stream`. So a checkpoint has what all need.

On TensorFlow only.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from captioner.common.keras import Tensor, keras, ops
from captioner.model.decoder import Decoder
from captioner.training.losses import TokenNegativeLogLikelihood, token_nll, tokens_of
from captioner.training.prefix_sharing import StepWidths
from captioner.training.teacher_forcing import TeacherForcing

if TYPE_CHECKING:
    from captioner.training.batches import Batches
    from captioner.training.checkpoints import State


class Peers(Protocol):
    """The processes that train together, as one of them sees them. All call the same methods in the same order.

    Attributes:
        rank: which of them this is, counted from 0.
        count: how many there are.
    """

    rank: int
    count: int

    def summed(self, values: Tensor) -> Tensor:
        """Return the sum of the values `[...]` of all; within a compiled function."""

    def from_first(self, value: Any) -> Any:
        """Return what the first process has given, small."""


class SharedTeacherForcing(TeacherForcing):
    """`TeacherForcing` that learns from a share of each batch, and takes the steps of the whole batches.

    Args:
        decoder: see `TeacherForcing`; the streams of its dropout layers become the rank.
        step_widths: see `TeacherForcing`.
        attention_penalty: see `TeacherForcing`.
        validation_widths: see `TeacherForcing`: batches of validation are whole.
        peers: who has the other shares.
    """

    def __init__(
        self,
        decoder: Decoder,
        step_widths: StepWidths,
        attention_penalty: float,
        validation_widths: StepWidths | None,
        peers: Peers,
    ):
        super().__init__(decoder, step_widths, attention_penalty, validation_widths)
        self.peers = peers
        self.train_function: Callable[[Iterator], dict[str, Tensor]] | None
        for layer in (decoder.feature_dropout, decoder.word_dropout, decoder.output_dropout):
            layer.stream = peers.rank

    def make_train_function(self, force: bool = False) -> Callable[[Iterator], dict[str, Tensor]]:
        """Return what takes a step with the next share; its logs are those of the whole batches."""
        import tensorflow

        if self.train_function is None or force:
            share, update = (
                tensorflow.function(each, jit_compile=self.jit_compile, autograph=False)
                for each in (self.share_sums, self.update)
            )

            @partial(tensorflow.function, autograph=False)
            def step(inputs: dict[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
                return update(self.peers.summed(share(inputs, targets)))

            # the share is taken before the step begins, so that nothing of a step is done where there is none left
            self.train_function = lambda iterator: step(*next(iterator))
        return self.train_function

    def share_sums(self, inputs: dict[str, Tensor], targets: Tensor) -> Tensor:
        """Return sums over the real tokens of a share, `[weights + 3]`.

        They are the gradient of each trainable weight, the loss, the negative log-likelihood, and the tokens.
        """
        import tensorflow

        with tensorflow.GradientTape() as tape:
            logits = self(inputs, training=True)
            tokens = tokens_of(targets, logits.dtype)
            # each part of the loss is a sum that is divided by this number
            loss = self.compute_loss(inputs, targets, logits) * ops.maximum(tokens, 1)
        gradients = tape.gradient(loss, self.trainable_weights, unconnected_gradients="zero")
        sums = ops.stack([loss, ops.sum(token_nll(logits, targets)), tokens])
        return _joined([*gradients, sums])

    def update(self, sums: Tensor) -> dict[str, Tensor]:
        """Take the step of a whole batch, given the sums of all its shares; return the metrics so far."""
        *gradients, others = _parted(sums, [*(weight.shape for weight in self.trainable_weights), (3,)])
        loss, nll, tokens = ops.unstack(others)
        count = ops.maximum(tokens, 1)
        self.optimizer.apply_gradients(
            (gradient / count, weight) for gradient, weight in zip(gradients, self.trainable_weights, strict=True)
        )
        losses, compiled = self.metrics
        losses.update_state(loss / count)
        [likelihood] = compiled.metrics
        assert isinstance(likelihood, TokenNegativeLogLikelihood)
        likelihood.add(nll, tokens)
        return self.get_metrics_result()

    def take_from_first(self) -> None:
        """Take the values that model and optimizer have in the first process."""
        import tensorflow

        variables = [*self.variables, *self.optimizer.variables]
        # which holds each value of those that there are: float32, counters and seeds of 32 bits
        values = _joined([ops.cast(each, "float64") for each in variables])
        values = values if self.peers.rank == 0 else ops.zeros_like(values)
        values = tensorflow.function(self.peers.summed, autograph=False)(values)
        for variable, value in zip(variables, _parted(values, [each.shape for each in variables]), strict=True):
            variable.assign(ops.cast(value, variable.dtype))


class Leading(keras.callbacks.Callback):
    """In the first process: tells the others with which values to begin, and after each epoch whether to end.

    Stands last in the list of callbacks.

    Args:
        state: of the checkpoint that it goes on from, if there is one.
    """

    def __init__(self, state: "State | None"):
        super().__init__()
        self.place = (state.epoch, state.batch) if state else (0, 0)

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        """Tell where to begin, and with which values."""
        self.model.peers.from_first(self.place)
        self.model.take_from_first()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        """Tell whether this was the last epoch."""
        self.model.peers.from_first(self.model.stop_training)


class _Following(keras.callbacks.Callback):
    """In another process: does as the first one says."""

    def __init__(self, training: "Batches", epoch: int, batch: int):
        super().__init__()
        self.training, self.epoch, self.batch = training, epoch, batch

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        self.model.take_from_first()
        self.training.go_on_at(self.epoch, self.batch)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        self.model.stop_training = self.model.peers.from_first(None)


def follow(model: SharedTeacherForcing, training: "Batches", epochs: int) -> None:
    """Compute the shares of a process that is not the first, until that one ends.

    Args:
        model: compiled.
        training: its shares of the batches.
        epochs: the most passes.
    """
    epoch, batch = model.peers.from_first(None)
    with training.telling():
        model.fit(
            training,
            epochs=epochs,
            initial_epoch=epoch,
            callbacks=[_Following(training, epoch, batch)],
            shuffle=False,
            verbose=0,
        )


def _joined(values: Iterable[Tensor]) -> Tensor:
    """Return the numbers of all values, one behind the other."""
    return ops.concatenate([ops.reshape(ops.convert_to_tensor(each), (-1,)) for each in values])


def _parted(numbers: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Return values of such shapes from their numbers, see `_joined`."""
    *ends, _ = itertools.accumulate(map(math.prod, shapes))
    return [ops.reshape(part, shape) for part, shape in zip(ops.split(numbers, ends), shapes, strict=True)]
