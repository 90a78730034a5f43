"""The captioning model: a picture's feature map in, the probability of each next word out.

Legend: `G` pictures · `N` captions per picture · `B` captions (`G x N`) · `T` tokens · `P` positions of the grid ·
`C` encoder channels · `E` size of feature vectors and word embeddings · `H` size of the state · `V` vocabulary ·
`W` attention weights at a word: `P` of most attentions, else see `captioner.model.attention.base.Attention.looks`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Self

from captioner.common.keras import Tensor, keras, ops
from captioner.model import attention
from captioner.model.dropout import Dropout
from captioner.model.hyperparameters import ModelParams
from captioner.model.spatial_encoding import sinusoids
from captioner.model.tied_logits import TiedLogits


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
        options: its hyper-parameters.
        feature_dropout: share of the projected map's values dropped in training.
        word_dropout: share of the word embeddings' values dropped in training.
        output_dropout: share of the vocabulary layer's inputs dropped in training.
        word_vector_size: of pretrained word vectors, which a learned projection turns into embeddings; `E` by default.

    Call arguments:
        inputs: `features`, the encoder's map, float `[G, P, C]`; `words`, int `[G, N, T]`: `START` and the caption.

    Returns:
        Logits of the word that follows each word, float32 `[G, N, T, V]`.
    """

    def __init__(
        self,
        vocabulary_size: int,
        attention_name: str,
        options: ModelParams,
        feature_dropout: float = 0.25,
        word_dropout: float = 0.5,
        output_dropout: float = 0.5,
        word_vector_size: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        embedding_size, state_size = options.embedding_size, options.state_size
        self.options = options
        self.config: dict[str, Any] = {
            "vocabulary_size": vocabulary_size,
            "attention_name": attention_name,
            **options.model_dump(),
            "feature_dropout": feature_dropout,
            "word_dropout": word_dropout,
            "output_dropout": output_dropout,
            "word_vector_size": word_vector_size,
        }
        dense = keras.layers.Dense
        # without it, attention flees to empty ground, whose features are near zero, and never comes back to the objects
        # begun small, since one step of Adam moves a projection of C values by C times the learning rate
        self.normalization = keras.layers.LayerNormalization(
            gamma_initializer=keras.initializers.Constant(0.1), name="normalization"
        )
        self.projection = dense(embedding_size, name="projection")
        self.feature_dropout = Dropout(feature_dropout)
        self.attention = attention.create(attention_name, options)
        self.initial_output = dense(state_size, activation="tanh", name="initial_output")
        self.initial_cell = dense(state_size, activation="tanh", name="initial_cell")
        self.embedding = keras.layers.Embedding(vocabulary_size, word_vector_size or embedding_size, name="embedding")
        if word_vector_size:
            self.embedding.trainable = options.word_vectors_trainable
            self.word_projection = dense(embedding_size, use_bias=False, name="word_projection")
        self.word_dropout = Dropout(word_dropout)
        self.word_gates = dense(4 * state_size, bias_initializer=_forget_gate_bias, name="word_gates")
        self.recurrent_gates = dense(4 * state_size, use_bias=False, name="recurrent_gates")
        self.state_to_output = dense(embedding_size, name="state_to_output")
        self.context_to_output = dense(embedding_size, use_bias=False, name="context_to_output")
        self.output_dropout = Dropout(output_dropout)
        last: dict[str, Any] = {"dtype": "float32", "name": "vocabulary_logits"}
        self.vocabulary_logits: Any = TiedLogits(**last) if options.tie_embeddings else dense(vocabulary_size, **last)

    def build(self, input_shape: dict[str, tuple]) -> None:
        """Make the weights for a map of `C` channels."""
        embedding, state, positions = self.options.embedding_size, self.options.state_size, input_shape["features"][1]
        self.normalization.build(input_shape["features"])
        self.projection.build(input_shape["features"])
        if self.options.spatial_encoding == "learned":
            self.positions = self.add_weight(
                name="positions", shape=(positions, embedding), initializer="random_normal"
            )
        elif self.options.spatial_encoding == "sinusoidal":
            # feature vectors begin small, and sinusoids as they are would drown them
            small = keras.initializers.Constant(0.1)
            self.position_gain = self.add_weight(name="position_gain", shape=(), initializer=small)
            self.sinusoids = sinusoids(positions, embedding)
        self.attention.build((None, positions, embedding), (None, state))
        self.initial_output.build((None, embedding))
        self.initial_cell.build((None, embedding))
        self.embedding.build((None,))
        if size := self.config["word_vector_size"]:
            self.word_projection.build((None, size))
        self.word_gates.build((None, embedding))
        self.recurrent_gates.build((None, embedding + state))
        self.state_to_output.build((None, state))
        self.context_to_output.build((None, embedding))
        if self.options.tie_embeddings:
            size = self.config["word_vector_size"] or embedding
            self.vocabulary_logits.build((None, size), (self.config["vocabulary_size"], size))
        else:
            self.vocabulary_logits.build((None, embedding))

    def call(self, inputs: dict[str, Tensor], training: bool = False) -> Tensor:
        """Return the logits of each next word, given the true words before it; see the class."""
        features, words = inputs["features"], inputs["words"]
        captions, length = words.shape[1:]
        picture, state = self.initialize(features, captions, training)
        words = ops.reshape(words, (-1, length))  # [B, T]
        embedded = self.word_dropout(self.embed(words), training=training)  # [B, T, E]
        gates = self.word_gates(embedded)  # [B, T, 4H]
        outputs, contexts = [], []
        for step in range(length):
            state, context, _ = self.step(gates[:, step], state, picture)
            outputs.append(state.output)
            contexts.append(context)
        deep = self.deep_output(ops.stack(outputs, 1), ops.stack(contexts, 1), embedded)  # [B, T, E]
        logits = self.logits(deep, training)  # [B, T, V]
        return ops.reshape(logits, (-1, captions, length, logits.shape[-1]))

    def embed(self, words: Tensor) -> Tensor:
        """Return the embeddings of words `[...]`, `[..., E]`."""
        embedded = self.embedding(words)
        return self.word_projection(embedded) if self.config["word_vector_size"] else embedded

    def initialize(self, features: Tensor, captions: int = 1, training: bool = False) -> tuple[Picture, State]:
        """Return what the steps need of pictures `[G, P, C]`, and the initial state, for each of their captions."""
        # stored in float16, in which Keras on JAX would normalize if left to itself
        features = ops.cast(features, self.compute_dtype)
        vectors = self.projection(self.normalization(features))  # [G, P, E]
        if self.options.spatial_encoding == "learned":
            vectors = vectors + self.positions
        elif self.options.spatial_encoding == "sinusoidal":
            vectors = vectors + self.position_gain * ops.cast(self.sinusoids, vectors.dtype)
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
            The new state, the context vector `[B, E]` and the attention weights `[B, W]`.
        """
        # by name, since Keras takes by place nothing but tensors
        inputs = {"feature_vectors": picture.feature_vectors, "state_output": state.output, "keys": picture.keys}
        if self.attention.reads_cell:
            inputs["state_cell"] = state.cell
        context, weights = self.attention(**inputs)
        weights = ops.reshape(weights, (-1, math.prod(weights.shape[1:])))
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
        deep = self.output_dropout(deep, training=training)
        if not self.options.tie_embeddings:
            return self.vocabulary_logits(deep)
        if self.config["word_vector_size"]:
            deep = ops.matmul(deep, ops.transpose(self.word_projection.kernel))  # [..., D]
        return self.vocabulary_logits(deep, ops.convert_to_tensor(self.embedding.embeddings))

    def next_word(self, words: Tensor, state: State, picture: Picture) -> tuple[Tensor, State, Tensor]:
        """Generate: return logits `[B, V]`, new state and attention weights `[B, W]` after the words `[B]`."""
        embedded = self.embed(words)  # [B, E]
        state, context, weights = self.step(self.word_gates(embedded), state, picture)
        return self.logits(self.deep_output(state.output, context, embedded)), state, weights

    def weights_size(self, positions: int) -> int:
        """Return `W` for a grid of `P` positions."""
        return math.prod(self.attention.weights_shape(positions))

    def get_config(self) -> dict:
        """Return what `__init__` was given."""
        return {**super().get_config(), **self.config}

    @classmethod
    def from_config(cls, config: dict, custom_objects: Any = None) -> Self:  # noqa: ARG003
        """Return a decoder as `get_config` describes it; hyper-parameters that it lacks have their defaults."""
        options = {name: config[name] for name in ModelParams.model_fields if name in config}
        others = {name: value for name, value in config.items() if name not in options}
        return cls(options=ModelParams(**options), **others)


def _forget_gate_bias(shape: tuple[int], dtype: Any = None) -> Tensor:
    size = shape[0] // 4
    return ops.concatenate([ops.zeros(size, dtype), ops.ones(size, dtype), ops.zeros(2 * size, dtype)])
