"""One set of weights, stepped or run over whole captions, alone or in groups."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow
import tiny
from keras import ops
from rounding import assert_same

from captioner.model.attention import ATTENTIONS
from captioner.model.attention.base import Attention
from captioner.model.attention.dot import DotProductAttention
from captioner.model.attention.uniform import UniformAttention
from captioner.model.decoder import Decoder, State
from captioner.model.hyperparameters import ModelParams
from captioner.text.vocabulary import END, PAD, START, decoder_inputs
from captioner.training import fit
from captioner.training.losses import TokenCrossEntropy, attention_penalty
from captioner.training.prefix_sharing import StepWidths
from captioner.training.teacher_forcing import TeacherForcing

EVERY = pytest.mark.parametrize("attention", ATTENTIONS)
LOOKING = pytest.mark.parametrize("attention", [name for name in ATTENTIONS if name != "uniform"])
DOUBLE = pytest.mark.usefixtures("double")
G, N, T, V = 3, 2, 4, 12
P, C, E, H = tiny.POSITIONS, tiny.CHANNELS, 6, 8
SIZES: dict[str, Any] = {"embedding_size": E, "state_size": H, "attention_size": 5, "spatial_encoding": "learned"}
SWITCHES: list[dict[str, Any]] = [
    {"tie_embeddings": True},
    {"spatial_encoding": "none"},
    {"spatial_encoding": "sinusoidal", "embedding_size": 8},
    {"attention": "scaled_dot", "heads": 2, "attention_size": 4},
]
# what is added up for the loss of a batch, with embeddings as long as there are here: in each step what the gates, the
# attention, the output and the vocabulary have for inputs; then the tokens
TERMS = T * (2 * 10 * E + H + 5 + P + 10 * E + H + V) + G * N * T


def decoder(attention: str = "bahdanau", dropout: float = 0.0, **options: Any) -> Decoder:
    """A decoder with large random weights, biases included, so that everything has a say."""
    dropouts: dict[str, Any] = dict.fromkeys(("feature_dropout", "word_dropout", "output_dropout"), dropout)
    model = Decoder(V, attention, ModelParams(**SIZES | options), **dropouts)
    model.build({"features": (None, P, C), "words": (None, N, T)})
    return with_random_weights(model)


def with_random_weights(model: Decoder, scale: float = 0.7) -> Decoder:
    random = np.random.default_rng(0)
    model.set_weights([random.normal(scale=scale, size=weight.shape) for weight in model.weights])
    return model


@pytest.fixture
def features(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(G, P, C)).astype(np.float32)


@pytest.fixture
def words(rng: np.random.Generator) -> np.ndarray:
    drawn = rng.integers(END + 1, V, (G, N, T)).astype(np.int32)
    drawn[:, :, 0] = START
    return drawn


@pytest.fixture
def targets(words: np.ndarray) -> np.ndarray:
    """The captions of `words`, some of them shorter than `T`."""
    shifted = np.concatenate([words[:, :, 1:], np.full((G, N, 1), END, np.int32)], axis=2)
    shifted[0, 0, 2:] = [END, PAD]
    shifted[1, 1, 1:] = [END, PAD, PAD]
    return shifted


def logits_of(model: Decoder, features: np.ndarray, words: np.ndarray, **options: Any) -> np.ndarray:
    return np.asarray(model({"features": features, "words": words}, **options))


def loss_and_gradients(
    model: Decoder, features: np.ndarray, words: np.ndarray, targets: np.ndarray
) -> tuple[float, list[np.ndarray]]:
    inputs = {"features": features, "words": words}
    return _differentiated(lambda: TokenCrossEntropy(0.1)(targets, model(inputs, training=True)), model)


def inputs_of_rows(step_widths: StepWidths, features: np.ndarray, pictures: np.ndarray, words: np.ndarray) -> dict:
    """What `TeacherForcing` takes, of captions `[captions, T]` of which none shares a row."""
    count = step_widths.captions[0]
    return {
        "features": features,
        "pictures": pictures,
        "parent_rows": np.arange(count),
        "words": np.concatenate([words[:width, step] for step, width in enumerate(step_widths.captions)]),
        "target_rows": np.arange(sum(step_widths.captions)),
    }


def taught(
    model: Decoder, step_widths: StepWidths, inputs: dict[str, np.ndarray], targets: np.ndarray
) -> tuple[float, list[np.ndarray]]:
    teacher = TeacherForcing(model, step_widths)
    return _differentiated(lambda: TokenCrossEntropy(0.1)(targets, teacher(inputs, training=True)), model)


def assert_same_gradients(found: tuple[float, list[np.ndarray]], expected: tuple[float, list[np.ndarray]]) -> None:
    """Compare losses and gradients; one weight's gradient may be small beside what it is the difference of."""
    assert_same(found[0], expected[0], TERMS)
    largest = max(float(np.abs(gradient).max()) for gradient in expected[1])
    for one, other in zip(found[1], expected[1], strict=True):
        assert_same(one, other, 2 * TERMS, largest)  # forward and backward


def _differentiated(compute: Callable[[], Any], model: Decoder) -> tuple[float, list[np.ndarray]]:
    with tensorflow.GradientTape() as tape:
        loss = compute()
    gradients = tape.gradient(loss, model.trainable_weights, unconnected_gradients="zero")
    return float(loss), [np.asarray(tensorflow.convert_to_tensor(gradient)) for gradient in gradients]


# --- forms of the recurrence -----------------------------------------------------------------------------------------


@EVERY
@DOUBLE
def test_stepped_form_gives_the_logits_of_the_whole_sequence(
    attention: str, features: np.ndarray, words: np.ndarray
) -> None:
    model = decoder(attention)
    whole = logits_of(model, features, words)
    picture, state = model.initialize(features, captions=N)
    for step in range(T):
        logits, state, weights = model.next_word(words[:, :, step].reshape(-1), state, picture)
        assert_same(np.asarray(logits).reshape(G, N, V), whole[:, :, step], TERMS)
        assert weights.shape == (G * N, model.weights_size(P))


@DOUBLE
def test_the_cell_is_keras_own(rng: np.random.Generator) -> None:
    model = decoder()
    word, output, cell = (rng.normal(size=(2, size)).astype(np.float32) for size in (E, H, H))
    features = rng.normal(size=(2, P, C)).astype(np.float32)
    picture, _ = model.initialize(features)
    after, looked, _ = model.step(model.word_gates(word), State(output, cell), picture)

    reference = keras.layers.LSTMCell(H)
    reference.build((None, 2 * E))
    recurrent = np.asarray(model.recurrent_gates.kernel)
    kernel = np.concatenate([np.asarray(model.word_gates.kernel), recurrent[:E]])
    reference.set_weights([kernel, recurrent[E:], np.asarray(model.word_gates.bias)])
    _, [expected_output, expected_cell] = reference(np.concatenate([word, np.asarray(looked)], axis=1), [output, cell])
    assert_same(after.output, expected_output, TERMS)
    assert_same(after.cell, expected_cell, TERMS)


@EVERY
@DOUBLE
def test_captions_of_a_picture_together_are_as_each_alone(
    attention: str, features: np.ndarray, words: np.ndarray
) -> None:
    model = decoder(attention)
    together = logits_of(model, features, words)
    assert together.shape == (G, N, T, V)
    apart = logits_of(model, np.repeat(features, N, axis=0), words.reshape(G * N, 1, T))
    assert_same(apart.reshape(together.shape), together, TERMS)


@pytest.mark.parametrize(
    ("attention", "widths", "embedding_size"),
    [
        *((attention, (6, 6, 5, 4), E) for attention in ATTENTIONS),
        # one caption ends after two words, one after three; wider steps and one more are padding
        *(("dot", widths, E) for widths in ((6, 6, 6, 6), (6, 6, 5, 5, 3))),
        # of many words each is looked up, of few, measured by the embeddings' size, all are computed once
        *(("dot", widths, 10 * E) for widths in ((6, 6, 5, 4), (6, 6, 5, 5, 3))),
    ],
)
@DOUBLE
def test_computing_captions_only_as_far_as_they_go_changes_neither_loss_nor_gradients(
    attention: str,
    widths: tuple[int, ...],
    embedding_size: int,
    features: np.ndarray,
    words: np.ndarray,
    targets: np.ndarray,
) -> None:
    model = decoder(attention, embedding_size=embedding_size)
    expected = loss_and_gradients(model, features, words, targets)
    longest_first = np.argsort(-(targets != PAD).sum(axis=2).ravel(), kind="stable")
    more = ((0, 0), (0, len(widths) - T))
    read, said = (np.pad(x.reshape(-1, T)[longest_first], more, constant_values=PAD) for x in (words, targets))
    step_widths = StepWidths(widths)
    inputs = inputs_of_rows(step_widths, features, longest_first // N, read)
    wanted = np.concatenate([said[:width, step] for step, width in enumerate(widths)])
    loss, gradients = taught(model, step_widths, inputs, wanted)
    assert_same_gradients((loss, gradients), expected)


@pytest.mark.parametrize(
    ("attention", "shared_steps", "more", "embedding_size"),
    [
        *((attention, None, 0, E) for attention in ATTENTIONS),
        # as many shared steps as give the fewest rows, fewer, and as many as there can be; then with room to spare
        *(("dot", shared_steps, more, E) for shared_steps, more in ((0, 0), (1, 0), (3, 0), (None, 2), (3, 2))),
        *(("dot", shared_steps, more, 10 * E) for shared_steps, more in ((None, 0), (0, 0), (3, 2))),
    ],
)
@DOUBLE
def test_computing_together_what_captions_share_changes_neither_loss_nor_gradients(
    attention: str, shared_steps: int | None, more: int, embedding_size: int
) -> None:
    texts = {
        "sun.png": ["a red circle", "a red square", "a"],
        "sea.png": ["the blue square", "the blue square", "a blue square"],
        "sky.png": ["two stars", "two small stars"],
    }
    used = tiny.recipe(batch_size=3, captions_per_picture=3)
    batches = tiny.batches(used, None, texts)
    step_widths = batches.step_widths
    assert step_widths.shared_steps and sum(sum(phase) for phase in step_widths.phases) < sum(step_widths.captions)
    captions, prefixes = (
        tuple(width + more for width in widths) for widths in (step_widths.captions, step_widths.prefixes)
    )
    batches.step_widths = StepWidths(
        captions, prefixes, step_widths.shared_steps if shared_steps is None else shared_steps
    )
    inputs, targets = batches[0]
    sizes = tiny.SIZES.model_copy(update={"embedding_size": embedding_size})
    model = with_random_weights(tiny.decoder(attention, sizes=sizes), 0.3)

    rows = [tiny.captions(texts)["caption"].tolist()[start:end] for start, end in ((0, 3), (3, 6), (6, 8))]
    said = np.full((3, 3, 4), PAD, np.int32)
    for picture, own in enumerate(rows):
        said[picture, : len(own)] = tiny.vocabulary().encode_batch(own, 3)
    read = decoder_inputs(said.reshape(9, 4)).reshape(said.shape)
    expected = loss_and_gradients(model, inputs["features"].astype(np.float32), read, said)
    loss, gradients = taught(model, batches.step_widths, inputs, targets)
    assert_same_gradients((loss, gradients), expected)


@pytest.mark.parametrize(
    ("embedding_size", "dropout", "expected"), [(E, 0.0, G * N * T), (10 * E, 0.0, V), (10 * E, 0.5, G * N * T)]
)
def test_the_gates_of_few_words_are_computed_once(
    embedding_size: int,
    dropout: float,
    expected: int,
    features: np.ndarray,
    words: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = decoder(dropout=dropout, embedding_size=embedding_size)
    computed, layer = [], model.word_gates

    def counted(embedded: Any) -> Any:
        computed.append(len(embedded))
        return layer(embedded)

    monkeypatch.setattr(model, "word_gates", counted)
    step_widths = StepWidths((G * N,) * T)
    TeacherForcing(model, step_widths)(
        inputs_of_rows(step_widths, features, np.arange(G * N) // N, words.reshape(-1, T)), training=True
    )
    assert computed == [expected]


class Sharper(DotProductAttention):
    """Does more with the keys than multiply."""

    def attention_scores(self, keys: Any, state_output: Any) -> Any:
        return super().attention_scores(2.0 * keys, state_output)


class Gated(UniformAttention):
    """Does more with the feature vectors than multiply."""

    def call(self, feature_vectors: Any, state_output: Any, keys: Any = None) -> tuple[Any, Any]:
        context, weights = super().call(feature_vectors, state_output, keys)
        return context * ops.max(feature_vectors, axis=1), weights


class Twice(DotProductAttention):
    """Looks a second time, from where the first look led."""

    def call(self, feature_vectors: Any, state_output: Any, keys: Any = None) -> tuple[Any, Any]:
        context, _ = super().call(feature_vectors, state_output, keys)
        return super().call(feature_vectors, state_output + ops.max(context), keys)


@pytest.mark.parametrize("kind", [Sharper, Gated, Twice])
@DOUBLE
def test_an_attention_of_ones_own_is_trained_as_it_generates(
    kind: type[Attention], monkeypatch: pytest.MonkeyPatch, features: np.ndarray, words: np.ndarray
) -> None:
    plain = logits_of(decoder("uniform" if kind is Gated else "dot"), features, words)
    monkeypatch.setattr("captioner.model.attention.create", lambda _, options: kind.of(options))
    model = decoder()
    whole = logits_of(model, features, words)
    assert np.abs(whole - plain).max() > 1e-2
    step_widths = StepWidths((G * N,) * T)
    inputs = inputs_of_rows(step_widths, features, np.arange(G * N) // N, words.reshape(-1, T))
    step_by_step = np.asarray(TeacherForcing(model, step_widths)(inputs)).reshape(T, G, N, V)
    assert_same(step_by_step, np.moveaxis(whole, 2, 0), TERMS)


def test_look_repeats_each_picture_for_its_captions(features: np.ndarray) -> None:
    model = decoder()
    once, repeated = model.initialize(features), model.initialize(features, captions=3)
    for one, many in zip(keras.tree.flatten(once), keras.tree.flatten(repeated), strict=True):
        np.testing.assert_array_equal(np.repeat(np.asarray(one), 3, axis=0), np.asarray(many))


@DOUBLE
def test_initial_state_is_that_of_the_mean_feature_vector(features: np.ndarray) -> None:
    model = decoder()
    picture, state = model.initialize(features)
    mean = np.asarray(picture.feature_vectors).mean(axis=1)
    for layer, found in ((model.initial_output, state.output), (model.initial_cell, state.cell)):
        expected = np.tanh(mean @ np.asarray(layer.kernel) + np.asarray(layer.bias))
        assert_same(found, expected, TERMS)


# --- what has a say, and what has not --------------------------------------------------------------------------------


@EVERY
def test_later_words_have_no_say(attention: str, features: np.ndarray, words: np.ndarray) -> None:
    model = decoder(attention)
    changed = words.copy()
    changed[:, :, 2:] = END + 1 + (changed[:, :, 2:] - END) % (V - END - 1)
    assert (changed[:, :, 2:] != words[:, :, 2:]).all()
    before, after = logits_of(model, features, words), logits_of(model, features, changed)
    np.testing.assert_array_equal(before[:, :, :2], after[:, :, :2])
    assert (before[:, :, 2:] != after[:, :, 2:]).any(axis=(1, 2, 3)).all()


@EVERY
def test_an_untrained_decoder_hears_earlier_words_and_sees_the_picture(
    attention: str, features: np.ndarray, words: np.ndarray
) -> None:
    model = tiny.decoder(attention)
    words = words % len(tiny.vocabulary())
    logits = logits_of(model, features, words)
    decoder_inputs = words.copy()
    decoder_inputs[:, :, 1] = (decoder_inputs[:, :, 1] + 1) % len(tiny.vocabulary())
    assert np.abs(logits_of(model, features, decoder_inputs) - logits)[:, :, 2:].max() > 1e-5
    assert np.abs(logits_of(model, features[::-1], words) - logits)[0].max() > 1e-5


@LOOKING
def test_an_untrained_decoder_looks_elsewhere_in_another_state(attention: str, features: np.ndarray) -> None:
    model = tiny.decoder(attention)
    picture, state = model.initialize(features)
    looks = [
        np.asarray(model.next_word(np.full(G, 5), State(output, state.cell), picture)[2])
        for output in (state.output, -state.output)
    ]
    assert np.abs(looks[0] - looks[1]).max() > 1e-4


@EVERY
def test_every_weight_learns(attention: str, features: np.ndarray, words: np.ndarray, targets: np.ndarray) -> None:
    model = decoder(attention)
    _, gradients = loss_and_gradients(model, features, words, targets)
    for weight, gradient in zip(model.trainable_weights, gradients, strict=True):
        # a constant added to all scores changes no softmax: c of the additive attention has nothing to learn
        if not weight.path.endswith("W/bias"):
            assert np.abs(gradient).max() > 0, weight.path


@EVERY
@DOUBLE
def test_padding_changes_neither_loss_nor_gradients(
    attention: str, features: np.ndarray, words: np.ndarray, targets: np.ndarray
) -> None:
    model = decoder(attention)
    loss, gradients = loss_and_gradients(model, features, words, targets)
    wider = ((0, 1), (0, 2), (0, 3))  # a picture without captions, captions of padding alone, longer captions
    padded = loss_and_gradients(
        model,
        np.concatenate([features, features[:1]]),
        np.pad(words, wider, constant_values=PAD),
        np.pad(targets, wider, constant_values=PAD),
    )
    assert_same_gradients(padded, (loss, gradients))


@DOUBLE
def test_words_read_behind_the_caption_have_no_say(
    features: np.ndarray, words: np.ndarray, targets: np.ndarray
) -> None:
    model = decoder()
    hidden = np.where(targets == PAD, PAD, words)
    assert (hidden != words).any()
    one = loss_and_gradients(model, features, words, targets)
    other = loss_and_gradients(model, features, hidden, targets)
    assert_same_gradients(other, one)


@EVERY
@pytest.mark.parametrize("encoding", ["learned", "sinusoidal", "none"])
def test_where_a_feature_stands_is_known_by_looking_at_its_spatial_encoding(
    attention: str, encoding: str, features: np.ndarray, words: np.ndarray
) -> None:
    model = decoder(attention, spatial_encoding=encoding, embedding_size=8)
    moved = logits_of(model, features[:, [2, 0, 3, 1]], words) - logits_of(model, features, words)
    # what is added to a position stays the same in the mean, whatever feature stands there
    knows = encoding != "none" and attention != "uniform"
    assert bool(np.abs(moved).max() > 0.01) is knows


@DOUBLE
def test_dropout_in_training_only(features: np.ndarray, words: np.ndarray) -> None:
    dropping, plain = decoder(dropout=0.5), decoder(dropout=0.0)
    expected = logits_of(plain, features, words)
    np.testing.assert_array_equal(logits_of(dropping, features, words), expected)
    assert_same(logits_of(plain, features, words, training=True), expected, TERMS)
    one, other = (logits_of(dropping, features, words, training=True) for _ in range(2))
    assert np.abs(one - other).max() > 0.1


@pytest.mark.parametrize("place", ["feature_dropout", "word_dropout", "output_dropout"])
def test_each_dropout_has_its_place(place: str, features: np.ndarray, words: np.ndarray) -> None:
    dropouts: dict[str, Any] = {"feature_dropout": 0.0, "word_dropout": 0.0, "output_dropout": 0.0, place: 0.5}
    model = Decoder(V, "dot", ModelParams(**SIZES), **dropouts)
    still = logits_of(model, features, words)
    assert np.abs(logits_of(model, features, words, training=True) - still).max() > 1e-4


def test_the_forget_gate_begins_open() -> None:
    bias = np.asarray(tiny.decoder().word_gates.bias)
    assert bias.tolist() == [0] * H + [1] * H + [0] * 2 * H


# --- saving ----------------------------------------------------------------------------------------------------------


@EVERY
def test_a_saved_decoder_gives_the_same_logits(
    attention: str, features: np.ndarray, words: np.ndarray, tmp_path: Path
) -> None:
    model = decoder(attention, dropout=0.3)
    model.save(tmp_path / "decoder.keras")
    loaded = keras.saving.load_model(tmp_path / "decoder.keras")
    assert loaded.get_config() == model.get_config()
    np.testing.assert_array_equal(logits_of(loaded, features, words), logits_of(model, features, words))


def test_config_has_every_argument() -> None:
    model = decoder("dot", dropout=0.3)
    again = Decoder.from_config(model.get_config())
    assert again.config == model.config
    names = {"feature_dropout", "word_dropout", "output_dropout", "attention_name", *ModelParams.model_fields}
    assert names < again.config.keys() and again.options == model.options


def test_a_config_of_before_has_the_defaults_of_what_came_later() -> None:
    before = {"vocabulary_size": V, "attention_name": "dot", **SIZES}
    assert Decoder.from_config(before).options == ModelParams(**SIZES, heads=1, tie_embeddings=False)


# --- switches --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("switches", SWITCHES)
@DOUBLE
def test_with_each_switch_all_forms_of_the_recurrence_are_the_same(
    switches: dict[str, Any], features: np.ndarray, words: np.ndarray, targets: np.ndarray
) -> None:
    model = decoder(**switches)
    whole = logits_of(model, features, words)
    picture, state = model.initialize(features, captions=N)
    for step in range(T):
        logits, state, _ = model.next_word(words[:, :, step].reshape(-1), state, picture)
        assert_same(np.asarray(logits).reshape(G, N, V), whole[:, :, step], TERMS)
    step_widths = StepWidths((G * N,) * T)
    inputs = inputs_of_rows(step_widths, features, np.arange(G * N) // N, words.reshape(-1, T))
    wanted = targets.reshape(-1, T).T.ravel()
    expected = loss_and_gradients(model, features, words, targets)
    assert_same_gradients(taught(model, step_widths, inputs, wanted), expected)
    assert all(np.abs(gradient).max() > 0 for gradient in expected[1])


@pytest.mark.parametrize("switches", SWITCHES)
def test_with_each_switch_a_saved_decoder_gives_the_same_logits(
    switches: dict[str, Any], features: np.ndarray, words: np.ndarray, tmp_path: Path
) -> None:
    model = decoder(**switches)
    model.save(tmp_path / "decoder.keras")
    loaded = keras.saving.load_model(tmp_path / "decoder.keras")
    np.testing.assert_array_equal(logits_of(loaded, features, words), logits_of(model, features, words))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("trainable", [False, True])
def test_word_vectors_of_another_size(
    trainable: bool, tied: bool, features: np.ndarray, words: np.ndarray, targets: np.ndarray, tmp_path: Path
) -> None:
    options = ModelParams(**SIZES, word_vectors="v.txt", word_vectors_trainable=trainable, tie_embeddings=tied)
    vectors = np.random.default_rng(5).normal(size=(V, 3)).astype("f")
    model = fit.build(options, tiny.recipe(), "dot", V, C, P, vectors)
    np.testing.assert_array_equal(np.asarray(model.embedding.embeddings), vectors)
    assert any(weight is model.embedding.embeddings for weight in model.trainable_weights) is trainable
    _, gradients = loss_and_gradients(model, features, words, targets)
    assert all(np.abs(gradient).max() > 0 for gradient in gradients)
    model.save(tmp_path / "decoder.keras")
    loaded = keras.saving.load_model(tmp_path / "decoder.keras")
    np.testing.assert_array_equal(logits_of(loaded, features, words), logits_of(model, features, words))
    assert [weight.path for weight in loaded.trainable_weights] == [weight.path for weight in model.trainable_weights]


@DOUBLE
def test_tied_embeddings_are_one_matrix(features: np.ndarray, words: np.ndarray) -> None:
    model = decoder(tie_embeddings=True)
    assert sorted(tuple(weight.shape) for weight in model.weights if V in weight.shape) == [(V,), (V, E)]
    apart = decoder()
    deep = np.asarray(model.deep_output(*(np.ones((1, size)) for size in (H, E, E))))
    apart.vocabulary_logits.set_weights(
        [np.asarray(model.embedding.embeddings).T, np.asarray(model.vocabulary_logits.bias)]
    )
    assert_same(model.logits(deep), apart.logits(deep), TERMS)


@pytest.mark.parametrize("attention", ["bahdanau", "scaled_dot", "adaptive"])
@DOUBLE
def test_the_penalty_is_that_of_each_captions_own_weights(
    attention: str, features: np.ndarray, words: np.ndarray, targets: np.ndarray
) -> None:
    model = decoder(attention)
    picture, state = model.initialize(features, captions=N)
    looked = []
    for step in range(T):
        _, state, weights = model.next_word(words[:, :, step].reshape(-1), state, picture)
        looked.append(np.asarray(weights)[:, :P])  # of adaptive attention, what the sentinel leaves
    real = (targets != PAD).reshape(-1, T)
    sums = np.einsum("tbp,bt->bp", np.stack(looked), real)
    step_widths = StepWidths((G * N,) * T)
    inputs = inputs_of_rows(step_widths, features, np.arange(G * N) // N, words.reshape(-1, T))
    teacher = TeacherForcing(model, step_widths, attention_penalty=0.5)
    teacher(inputs | {"targets": targets.reshape(-1, T).T.ravel()}, training=True)
    assert_same(teacher.losses[0], 0.5 * ((1 - sums) ** 2).sum() / real.sum(), TERMS)
    teacher(inputs, training=False)
    assert not teacher.losses


# --- the loss --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@DOUBLE
def test_loss_is_the_mean_cross_entropy_of_real_tokens(
    smoothing: float, targets: np.ndarray, rng: np.random.Generator
) -> None:
    logits = rng.normal(scale=3, size=(G, N, T, V)).astype(np.float32)
    costs = []
    for place in np.argwhere(targets != PAD):
        row = logits[tuple(place)].astype(float)
        log_probabilities = row - np.log(np.exp(row).sum())
        wanted = np.full(V, smoothing / V)
        wanted[targets[tuple(place)]] += 1 - smoothing
        costs.append(-(wanted * log_probabilities).sum())
    assert len(costs) < targets.size
    assert_same(TokenCrossEntropy(smoothing)(targets, logits), np.mean(costs), TERMS)


def test_loss_of_padding_alone_is_nothing() -> None:
    assert float(TokenCrossEntropy()(np.zeros((1, 1, T), np.int32), np.ones((1, 1, T, V), np.float32))) == 0


def test_loss_of_large_logits_is_finite(targets: np.ndarray) -> None:
    logits = np.zeros((G, N, T, V), np.float32)
    logits[..., PAD] = 1e4
    assert_same(TokenCrossEntropy(0.1)(targets, logits), 1e4 * (0.9 + 0.1 * 11 / 12), TERMS)


@pytest.mark.parametrize(
    ("weights", "targets", "expected"),
    [
        ([[1, 0], [0, 1]], [5, END], 0.0),  # each position once
        ([[1, 0], [1, 0]], [5, END], 1.0),  # (1 - 2)^2 + (1 - 0)^2, of two tokens
        ([[0.5, 0.5], [0.5, 0.5]], [5, END], 0.0),
        ([[0.5, 0.5], [1, 0]], [END, PAD], 0.5),  # padding looks at nothing
        ([[1, 0], [1, 0]], [PAD, PAD], 0.0),  # no caption
    ],
)
def test_penalty_of_one_caption(weights: list[list[float]], targets: list[int], expected: float) -> None:
    found = attention_penalty(np.array(weights, np.float32), np.array(targets), np.zeros(2, int))
    assert float(found) == pytest.approx(expected)


def test_penalty_is_that_of_the_captions_that_there_are() -> None:
    weights = np.array([[1, 0], [0.5, 0.5], [0, 1], [1, 0], [0, 1]], np.float32)
    # captions 0 and 1 in turn, then 2, which is padding
    found = attention_penalty(weights, np.array([5, 5, END, END, PAD]), np.array([0, 1, 0, 1, 2]))
    assert float(found) == pytest.approx((0 + (0.5**2 + 0.5**2)) / 4)  # per token


def test_loss_config_round_trip() -> None:
    loss = TokenCrossEntropy(0.2)
    assert TokenCrossEntropy.from_config(loss.get_config()).get_config() == loss.get_config()
