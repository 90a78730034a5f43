"""A decoder run along given captions, as training does.

Legend: `G` pictures · `P` positions · `C` encoder channels · `E` size of feature vectors and word embeddings · `H` size
of the state · `V` vocabulary · of the rows computed, `A`, `B`, `R` and `S`, see `captioner.training.prefix_sharing`.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence

from captioner.common.keras import Tensor, keras, ops
from captioner.model.decoder import Decoder, Picture, State
from captioner.model.deferred_gradient import DeferredGradientMatmul
from captioner.training.losses import attention_penalty
from captioner.training.prefix_sharing import StepWidths


class TeacherForcing(keras.Model):
    """Runs a decoder along captions that are given: what training spends its time on.

    Each caption is computed only as far as it goes, and its first words together with those captions of the picture
    that begin alike; see `captioner.training.prefix_sharing`. The number of rows at each step is fixed for the
    compiler's sake.

    Args:
        decoder: it is shared, not copied.
        step_widths: how many rows each step has.
        attention_penalty: in training, how much `captioner.training.losses.attention_penalty` adds to the loss; the
            inputs then need the `targets` too.
        validation_widths: the rows where nothing is learned; by default as many.

    Call arguments:
        inputs: `features`, the encoder's map, float `[G, P, C]`; `pictures`, int `[A + B]`: the picture of each row of
            either phase; `parent_rows`, int `[A + B]`: the row of the step before that each continues when it is
            added; `words`, int `[R]`: what each row reads, step by step; `target_rows`, int `[S]`: the row that tells
            each target.

    Returns:
        Logits of the targets, float32 `[S, V]`.
    """

    def __init__(
        self,
        decoder: Decoder,
        step_widths: StepWidths,
        attention_penalty: float = 0.0,
        validation_widths: StepWidths | None = None,
    ):
        super().__init__(name="teacher_forcing")
        self.decoder = decoder
        self.step_widths = step_widths
        self.validation_widths = validation_widths or step_widths
        self.attention_penalty = attention_penalty
        self.built = True

    def call(self, inputs: dict[str, Tensor], training: bool = False) -> Tensor:
        """Return the logits of each target; see the class."""
        step_widths = self.step_widths if training else self.validation_widths
        decoder, phases = self.decoder, [phase for phase in step_widths.phases if phase]
        rows = list(itertools.chain(*phases))
        most = [max(phase) for phase in phases]  # A and B
        pictures, parent_rows = (_split(inputs[name], most) for name in ("pictures", "parent_rows"))
        # under `fit` the number is not known by itself
        embedded, gates = self._read(ops.reshape(inputs["words"], (sum(rows),)), training)  # [R, E], [R, 4H]
        # split and not sliced: the gradients of slices would each be as long as the whole
        parts = iter(_split(gates, rows))  # [rows_t, 4H] each
        recurrent_gates = DeferredGradientMatmul(decoder.recurrent_gates.kernel, rows)
        once, begun = decoder.initialize(inputs["features"], training=training)
        outputs, contexts, weights, state = [], [], [], None
        for phase, picture, parent_row in zip(phases, pictures, parent_rows, strict=True):
            whole = Picture(*_rows(once, picture))
            whole = Picture(*decoder.attention.with_deferred_gradients(whole.feature_vectors, whole.keys, phase))
            rows_before = picture[: phase[0]] if state is None else parent_row[: phase[0]]
            state = State(*_rows(begun if state is None else state, rows_before))
            for before, width in itertools.pairwise((phase[0], *phase)):
                if width > before:
                    goes_on = ops.arange(before, dtype=parent_row.dtype)
                    state = State(*_rows(state, ops.concatenate([goes_on, parent_row[before:width]])))
                elif width < before:
                    state, whole = State(*_first(state, width)), Picture(*_first(whole, width))
                seen = Picture(*_first(whole, width))
                state, context, looked = decoder.step(next(parts), state, seen, recurrent_gates)
                outputs.append(state.output)
                contexts.append(context)
                weights.append(looked)
        deep = decoder.deep_output(ops.concatenate(outputs), ops.concatenate(contexts), embedded)  # [R, E]
        target_rows = ops.reshape(inputs["target_rows"], (sum(step_widths.captions),))
        if training and self.attention_penalty:
            looks = decoder.attention.looks(
                ops.take(ops.concatenate(weights), target_rows, axis=0)
            )  # of each target, [S, P]
            _, captions = step_widths.target_rows
            spent = looks.positions if looks.grounding is None else looks.positions * looks.grounding[..., None]
            penalty = attention_penalty(spent, inputs["targets"], captions)
            self.add_loss(self.attention_penalty * penalty)
        return decoder.logits(ops.take(deep, target_rows, axis=0), training)

    def _read(self, words: Tensor, training: bool) -> tuple[Tensor, Tensor]:
        """Return embeddings `[R, E]` of words `[R]`, and their part of the gates, `[R, 4H]`."""
        decoder, length = self.decoder, words.shape[0]
        vocabulary, size = decoder.config["vocabulary_size"], decoder.config["embedding_size"]
        dropped = training and decoder.config["word_dropout"]
        # multiplications for each gate, forward and backward, in the three ways below that involve words
        if dropped or vocabulary * (3 * size + 2 * length) > 3 * length * size:
            embedded = decoder.word_dropout(decoder.embed(words), training=training)
            return embedded, decoder.word_gates(embedded)
        # of few words the gates are computed once each; they are picked by a product, since so is its gradient then
        every = decoder.embed(ops.arange(vocabulary))  # [V, E]
        picked = ops.one_hot(words, vocabulary, dtype=every.dtype)  # [R, V]
        return ops.matmul(picked, every), ops.matmul(picked, decoder.word_gates(every))


def _split(values: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Return as many of the values as each size says, one after the other."""
    *ends, number = itertools.accumulate(sizes)
    values = ops.reshape(values, (number, *values.shape[1:]))
    return ops.split(values, ends) if ends else [values]


def _rows(values: Iterable[Tensor], rows: Tensor) -> Iterator[Tensor]:
    return (ops.take(each, rows, axis=0) for each in values)


def _first(values: Iterable[Tensor], count: int) -> Iterator[Tensor]:
    """Return the first rows of each; a `DeferredGradientMatmul` takes no more than it needs by itself."""
    return (each if isinstance(each, DeferredGradientMatmul) else each[:count] for each in values)
