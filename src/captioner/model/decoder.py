"""The captioning model: a picture's feature map in, the probability of each next word out.

Legend: `G` pictures · `N` captions per picture · `B` captions (`G x N`) · `T` tokens · `P` positions of the grid ·
`C` encoder channels · `E` size of feature vectors and word embeddings · `H` size of the state · `V` vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from captioner.common.keras import Tensor, keras, ops
from captioner.model import attention
from captioner.model.dropout import Dropout


class State(NamedTuple):
    """What a recurrent cell carries from word to word."""

    output: Tensor  # [B, H]
    cell: Tensor  # [B, H]


class Picture(NamedTuple):
    """What the decoder needs of a picture, computed once a picture."""

    feature_vectors: Tensor  # [B, P, E]
    keys: Tensor  # what the attention prepared, [B, ...]


@keras.saving.register_keras_serializable("captioner")
class Decoder(keras.Model):
    """A recurrent decoder that looks at a picture's feature vectors before each word.

    A learned projection turns the encoder's map, each position normalized, into feature vectors, to which their
    positions are added; the mean gives the initial state. Before each word an attention turns feature vectors and state
    into a context vector, which enters an LSTM together with the previous word. State, context and previous word are
    summed before the vocabulary layer (a "deep output").

    Source: Xu et al. 2015, "Show, Attend and Tell", section 3.1; LSTM: Hochreiter, Schmidhuber 1997, with the forget
    gate's bias begun at 1 (Jozefowicz et al. 2015).

    Args:
        vocabulary_size: `V`, special tokens included.
        attention_name: which attention, by its name in `params.yaml`.
        embedding_size: `E`.
        state_size: `H`.
        attention_size: size of the space in which the attention compares state and positions.
        spatial_encoding: `learned` adds to each feature vector one that tells its position, so that a decoder knows
            where it looks; `none` leaves that to what the encoder lets through.
        feature_dropout: share of the projected map's values dropped in training.
        word_dropout: share of the word embeddings' values dropped in training.
        output_dropout: share of the vocabulary layer's inputs dropped in training.

    Call arguments:
        inputs: `features`, the encoder's map, float `[G, P, C]`; `words`, int `[G, N, T]`: `START` and the caption.

    Returns:
        Logits of the word that follows each word, float32 `[G, N, T, V]`.
    """

    def __init__(
        self,
        vocabulary_size: int,
        attention_name: str,
        embedding_size: int = 256,
        state_size: int = 512,
        attention_size: int = 256,
        spatial_encoding: str = "learned",
        feature_dropout: float = 0.25,
        word_dropout: float = 0.5,
        output_dropout: float = 0.5,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.config: dict[str, Any] = {
            "vocabulary_size": vocabulary_size,
            "attention_name": attention_name,
            "embedding_size": embedding_size,
            "state_size": state_size,
            "attention_size": attention_size,
            "spatial_encoding": spatial_encoding,
            "feature_dropout": feature_dropout,
            "word_dropout": word_dropout,
            "output_dropout": output_dropout,
        }
        dense = keras.layers.Dense
        # without it, attention flees to empty ground, whose features are near zero, and never comes back to the objects
        # begun small, since one step of Adam moves a projection of C values by C times the learning rate
        self.normalization = keras.layers.LayerNormalization(
            gamma_initializer=keras.initializers.Constant(0.1), name="normalization"
        )
        self.projection = dense(embedding_size, name="projection")
        self.feature_dropout = Dropout(feature_dropout)
        self.attention = attention.create(attention_name, attention_size)
        self.initial_output = dense(state_size, activation="tanh", name="initial_output")
        self.initial_cell = dense(state_size, activation="tanh", name="initial_cell")
        self.embedding = keras.layers.Embedding(vocabulary_size, embedding_size, name="embedding")
        self.word_dropout = Dropout(word_dropout)
        self.word_gates = dense(4 * state_size, bias_initializer=_forget_gate_bias, name="word_gates")
        self.recurrent_gates = dense(4 * state_size, use_bias=False, name="recurrent_gates")
        self.state_to_output = dense(embedding_size, name="state_to_output")
        self.context_to_output = dense(embedding_size, use_bias=False, name="context_to_output")
        self.output_dropout = Dropout(output_dropout)
        self.vocabulary_logits = dense(vocabulary_size, dtype="float32", name="vocabulary_logits")

    def build(self, input_shape: dict[str, tuple]) -> None:
        """Make the weights for a map of `C` channels."""
        embedding, state = self.config["embedding_size"], self.config["state_size"]
        self.normalization.build(input_shape["features"])
        self.projection.build(input_shape["features"])
        if self.config["spatial_encoding"] == "learned":
            self.positions = self.add_weight(
                name="positions", shape=(input_shape["features"][1], embedding), initializer="random_normal"
            )
        self.attention.build((None, input_shape["features"][1], embedding), (None, state))
        self.initial_output.build((None, embedding))
        self.initial_cell.build((None, embedding))
        self.embedding.build((None,))
        self.word_gates.build((None, embedding))
        self.recurrent_gates.build((None, embedding + state))
        self.state_to_output.build((None, state))
        self.context_to_output.build((None, embedding))
        self.vocabulary_logits.build((None, embedding))

    def call(self, inputs: dict[str, Tensor], training: bool = False) -> Tensor:
        """Return the logits of each next word, given the true words before it; see the class."""
        features, words = inputs["features"], inputs["words"]
        captions, length = words.shape[1:]
        picture, state = self.initialize(features, captions, training)
        words = ops.reshape(words, (-1, length))  # [B, T]
        embedded = self.word_dropout(self.embedding(words), training=training)  # [B, T, E]
        gates = self.word_gates(embedded)  # [B, T, 4H]
        outputs, contexts = [], []
        for step in range(length):
            state, context, _ = self.step(gates[:, step], state, picture)
            outputs.append(state.output)
            contexts.append(context)
        deep = self.deep_output(ops.stack(outputs, 1), ops.stack(contexts, 1), embedded)  # [B, T, E]
        logits = self.logits(deep, training)  # [B, T, V]
        return ops.reshape(logits, (-1, captions, length, logits.shape[-1]))

    def initialize(self, features: Tensor, captions: int = 1, training: bool = False) -> tuple[Picture, State]:
        """Return what the steps need of pictures `[G, P, C]`, and the initial state, for each of their captions."""
        # stored in float16, in which Keras on JAX would normalize if left to itself
        features = ops.cast(features, self.compute_dtype)
        vectors = self.projection(self.normalization(features))  # [G, P, E]
        if self.config["spatial_encoding"] == "learned":
            vectors = vectors + self.positions
        vectors = self.feature_dropout(vectors, training=training)
        keys = self.attention.project_keys(vectors)
        mean = ops.mean(vectors, axis=1)  # [G, E]
        once = (vectors, keys, self.initial_output(mean), self.initial_cell(mean))
        vectors, keys, output, cell = (ops.repeat(x, captions, axis=0) for x in once)  # [B, ...]
        return Picture(vectors, keys), State(output, cell)

    def step(
        self,
        word_gates: Tensor,
        state: State,
        picture: Picture,
        recurrent_gates: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[State, Tensor, Tensor]:
        """Advance by one word.

        Args:
            word_gates: the previous word's part of the gates, `[B, 4H]`.
            state: before the word.
            picture: what `initialize` returned.
            recurrent_gates: what takes the place of the layer of this name, from `[B, E + H]` to `[B, 4H]`.

        Returns:
            The new state, the context vector `[B, E]` and the attention weights `[B, P]`.
        """
        # by name, since Keras takes by place nothing but tensors
        context, weights = self.attention(
            feature_vectors=picture.feature_vectors, state_output=state.output, keys=picture.keys
        )
        recurrent_gates = recurrent_gates or self.recurrent_gates
        gates = word_gates + recurrent_gates(ops.concatenate([context, state.output], axis=-1))
        input_gate, forget_gate, candidate, output_gate = ops.split(gates, 4, axis=-1)  # [B, H] each
        cell = ops.sigmoid(forget_gate) * state.cell + ops.sigmoid(input_gate) * ops.tanh(candidate)
        return State(ops.sigmoid(output_gate) * ops.tanh(cell), cell), context, weights

    def deep_output(self, output: Tensor, context: Tensor, embedded: Tensor) -> Tensor:
        """Return what the next word is told by, `[..., E]`: state `[..., H]`, context and word `[..., E]`, summed."""
        return self.state_to_output(output) + self.context_to_output(context) + embedded

    def logits(self, deep: Tensor, training: bool = False) -> Tensor:
        """Return the logits of the next word, `[..., V]`, from what `deep_output` returned."""
        return self.vocabulary_logits(self.output_dropout(deep, training=training))

    def next_word(self, words: Tensor, state: State, picture: Picture) -> tuple[Tensor, State, Tensor]:
        """Generate: return logits `[B, V]`, new state and attention weights `[B, P]` after the words `[B]`."""
        embedded = self.embedding(words)  # [B, E]
        state, context, weights = self.step(self.word_gates(embedded), state, picture)
        return self.logits(self.deep_output(state.output, context, embedded)), state, weights

    def get_config(self) -> dict:
        """Return what `__init__` was given."""
        return {**super().get_config(), **self.config}


def _forget_gate_bias(shape: tuple[int], dtype: Any = None) -> Tensor:
    size = shape[0] // 4
    return ops.concatenate([ops.zeros(size, dtype), ops.ones(size, dtype), ops.zeros(2 * size, dtype)])
