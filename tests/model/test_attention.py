"""Each attention is the equation that its name stands for."""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from checkout import ROOT
from rounding import assert_same

from captioner.model import attention
from captioner.model.attention import ATTENTIONS
from captioner.model.attention import uniform as uniform_module
from captioner.model.attention.base import Attention
from captioner.model.hyperparameters import ModelParams

HEADS = {"scaled_dot of two heads": ("scaled_dot", 2)}
EVERY = pytest.mark.parametrize("name", [*ATTENTIONS, *HEADS])
DOUBLE = pytest.mark.usefixtures("double")
TRAINABLE = pytest.mark.parametrize("name", [name for name in (*ATTENTIONS, *HEADS) if name != "uniform"])
B, P, E, H, A = 3, 4, 6, 8, 10
TERMS = 10 * (E + H + A + P + P)  # of a score and its share, ten times as large in some test, and of a context

ADDITIVE = {"U/kernel": (H, A), "V/kernel": (E, A), "V/bias": (A,), "W/kernel": (A, 1), "W/bias": (1,)}

Weights = dict[str, np.ndarray]


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores)
    return powers / powers.sum()


def sigmoid(value: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-value))


def attend(scores: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Context and weights of most attentions, which differ in their scores."""
    p = softmax(scores)
    return np.asarray(sum(p[j] * x[j] for j in range(len(x)))), p


def additive(x: np.ndarray, s: np.ndarray, weights: Weights) -> np.ndarray:
    hidden = [np.tanh(weights["U/kernel"].T @ s + weights["V/kernel"].T @ x_j + weights["V/bias"]) for x_j in x]
    return np.array([weights["W/kernel"][:, 0] @ h + weights["W/bias"][0] for h in hidden])


def uniform(x: np.ndarray, s: np.ndarray, m: np.ndarray, weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    return attend(np.zeros(len(x)), x)


def bahdanau(x: np.ndarray, s: np.ndarray, m: np.ndarray, weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    return attend(additive(x, s, weights), x)


def dot(x: np.ndarray, s: np.ndarray, m: np.ndarray, weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    return attend(np.array([(weights["Q/kernel"].T @ s) @ (weights["K/kernel"].T @ x_j) for x_j in x]), x)


def scaled_dot(x: np.ndarray, s: np.ndarray, m: np.ndarray, weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    scores = [(weights["Q/kernel"].T @ s) @ (weights["K/kernel"].T @ x_j) / A**0.5 for x_j in x]
    return attend(np.array(scores), x)


def two_heads(x: np.ndarray, s: np.ndarray, m: np.ndarray, weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    contexts, looks = [], []
    for head in range(2):
        own, seen = slice(head * A // 2, (head + 1) * A // 2), slice(head * E // 2, (head + 1) * E // 2)
        q, k = weights["Q/kernel"][:, own], weights["K/kernel"][:, own]
        scores = np.array([(q.T @ s) @ (k.T @ x_j) / (A / 2) ** 0.5 for x_j in x])
        context, p = attend(scores, x[:, seen])
        contexts.append(context)
        looks.append(p)
    return np.concatenate(contexts), np.stack(looks)


def gated(x: np.ndarray, s: np.ndarray, m: np.ndarray, weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    z, p = attend(additive(x, s, weights), x)
    return sigmoid(weights["gate/kernel"][:, 0] @ s + weights["gate/bias"][0]) * z, p


def adaptive(x: np.ndarray, s: np.ndarray, m: np.ndarray, weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    gate = sigmoid(weights["G/kernel"].T @ s + weights["G/bias"])
    sentinel = weights["F/kernel"].T @ (gate * np.tanh(m))
    hidden = np.tanh(weights["U/kernel"].T @ s + weights["S/kernel"].T @ sentinel)
    score = weights["W/kernel"][:, 0] @ hidden + weights["W/bias"][0]
    return attend(np.append(additive(x, s, weights), score), np.vstack([x, sentinel]))


Equation = Callable[[np.ndarray, np.ndarray, np.ndarray, Weights], tuple[np.ndarray, np.ndarray]]
EQUATIONS: dict[str, Equation] = {
    "uniform": uniform,
    "bahdanau": bahdanau,
    "dot": dot,
    "scaled_dot": scaled_dot,
    "scaled_dot of two heads": two_heads,
    "gated": gated,
    "adaptive": adaptive,
}
"""Context and weights, from a picture `[P, E]`, the state's output `[H]` and its cell `[H]`."""


def created(name: str, units: int = A) -> Attention:
    name, heads = HEADS.get(name, (name, 1))
    return attention.create(
        name,
        ModelParams(embedding_size=E, state_size=H, attention_size=units, spatial_encoding="none", heads=heads),
    )


def built(name: str, rng: np.random.Generator, units: int = A) -> Attention:
    """An attention with random weights, biases included."""
    layer = created(name, units)
    layer.build((None, P, E), (None, H))
    layer.set_weights([rng.normal(size=weight.shape) for weight in layer.weights])
    return layer


def named_weights(layer: Attention) -> Weights:
    return {"/".join(weight.path.split("/")[-2:]): np.asarray(weight) for weight in layer.weights}


@pytest.fixture
def x(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(B, P, E))


@pytest.fixture
def s(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(B, H))


def results(layer: Attention, *inputs: np.ndarray, **options: object) -> tuple[np.ndarray, np.ndarray]:
    context, weights = layer(*inputs, **options)
    return np.asarray(context), np.asarray(weights)


@EVERY
@DOUBLE
def test_equation(name: str, x: np.ndarray, s: np.ndarray, rng: np.random.Generator) -> None:
    layer = built(name, rng)
    m = rng.normal(size=(B, H))
    expected = [EQUATIONS[name](x[row], s[row], m[row], named_weights(layer)) for row in range(B)]
    found_z, found_p = results(layer, x, s, **{"state_cell": m} if layer.reads_cell else {})
    assert_same(found_p, np.stack([p for _, p in expected]), TERMS)
    assert_same(found_z, np.stack([z for z, _ in expected]), TERMS)


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("uniform", {}),
        ("bahdanau", ADDITIVE),
        ("dot", {"Q/kernel": (H, A), "K/kernel": (E, A)}),
        ("scaled_dot", {"Q/kernel": (H, A), "K/kernel": (E, A)}),
        ("scaled_dot of two heads", {"Q/kernel": (H, A), "K/kernel": (E, A)}),
        ("gated", ADDITIVE | {"gate/kernel": (H, 1), "gate/bias": (1,)}),
        ("adaptive", ADDITIVE | {"S/kernel": (E, A), "G/kernel": (H, H), "G/bias": (H,), "F/kernel": (H, E)}),
    ],
)
def test_weights_of_the_layer(name: str, shapes: dict[str, tuple], rng: np.random.Generator) -> None:
    layer = built(name, rng)
    assert {weight: values.shape for weight, values in named_weights(layer).items()} == shapes


@EVERY
@DOUBLE
def test_attention_weights_are_distributions(name: str, x: np.ndarray, s: np.ndarray, rng: np.random.Generator) -> None:
    layer = built(name, rng)
    _, weights = results(layer, 10 * x, 10 * s)
    assert (weights >= 0).all()
    assert_same(weights.sum(axis=-1), np.ones(weights.shape[:-1]), TERMS)
    looks = np.asarray(layer.looks(weights.reshape(B, -1)).positions)
    assert looks.shape == (B, P)
    assert_same(looks.sum(axis=-1), np.ones(B), TERMS)


@pytest.mark.parametrize("positions", [2, 4, 49])
def test_uniform_is_exactly_even(positions: int, rng: np.random.Generator) -> None:
    x = rng.normal(size=(2, positions, E)).astype(np.float32)
    context, weights = results(uniform_module.UniformAttention(), x, np.full((2, H), 1e9, np.float32))
    assert (weights == np.float32(1) / np.float32(positions)).all()
    assert_same(context, x.mean(axis=1), TERMS)


@TRAINABLE
def test_weights_move_with_the_state(name: str, x: np.ndarray, s: np.ndarray, rng: np.random.Generator) -> None:
    layer = built(name, rng)
    x = x / A  # else some weights are 0 or 1 before and after
    _, before = results(layer, x, s)
    _, after = results(layer, x, s + 1)
    assert np.abs(after - before).max(axis=-1).min() > 0.01


@TRAINABLE
def test_weights_move_with_the_state_of_a_new_layer(name: str, rng: np.random.Generator) -> None:
    layer = created(name, 256)
    x, s = rng.normal(size=(1, 49, 256)), np.tanh(rng.normal(size=(2, 1, 512)))
    _, one = results(layer, x, s[0])
    _, other = results(layer, x, s[1])
    assert np.abs(one - other).max() > 1e-3


def test_uniform_does_not_move(x: np.ndarray, s: np.ndarray) -> None:
    layer = uniform_module.UniformAttention()
    for one, other in zip(results(layer, x, s), results(layer, x, s + 1), strict=True):
        np.testing.assert_array_equal(one, other)


@EVERY
@DOUBLE
def test_each_row_for_itself(name: str, x: np.ndarray, s: np.ndarray, rng: np.random.Generator) -> None:
    layer = built(name, rng)
    context, weights = results(layer, x, s)
    for row in range(B):
        alone_context, alone_weights = results(layer, x[row : row + 1], s[row : row + 1])
        assert_same(alone_context[0], context[row], TERMS)
        assert_same(alone_weights[0], weights[row], TERMS)


@EVERY
@DOUBLE
def test_the_order_of_the_positions_is_no_information(
    name: str, x: np.ndarray, s: np.ndarray, rng: np.random.Generator
) -> None:
    layer = built(name, rng)
    order = np.array([2, 0, 3, 1])
    context, weights = results(layer, x, s)
    turned_context, turned_weights = results(layer, x[:, order], s)
    assert_same(turned_context, context, TERMS)
    before, after = (layer.looks(each.reshape(B, -1)) for each in (weights, turned_weights))
    for one, other in zip(after, before, strict=True):
        if one is not None:
            turned = np.asarray(other) if one.shape[-1] != P else np.asarray(other)[..., order]
            assert_same(np.asarray(one), turned, TERMS)


@EVERY
@DOUBLE
def test_keys_change_nothing(name: str, x: np.ndarray, s: np.ndarray, rng: np.random.Generator) -> None:
    layer = built(name, rng)
    keys = layer.project_keys(x)
    for one, other in zip(results(layer, x, s), results(layer, x, s, keys=keys), strict=True):
        assert_same(one, other, TERMS)


@EVERY
@DOUBLE
def test_keys_of_a_picture_serve_each_of_its_captions(
    name: str, x: np.ndarray, s: np.ndarray, rng: np.random.Generator
) -> None:
    layer = built(name, rng)
    keys = np.repeat(np.asarray(layer.project_keys(x[:1])), B, axis=0)
    repeated = np.repeat(x[:1], B, axis=0)
    for one, other in zip(results(layer, repeated, s), results(layer, repeated, s, keys=keys), strict=True):
        assert_same(one, other, TERMS)


@EVERY
def test_shapes_of_the_design(name: str) -> None:
    layer = created(name, 256)
    context, weights = layer(np.zeros((2, 49, 256), np.float32), np.zeros((2, 512), np.float32))
    shape = layer.weights_shape(49)
    assert shape == {"scaled_dot of two heads": (2, 49), "adaptive": (50,)}.get(name, (49,))
    assert (context.shape, weights.shape) == ((2, 256), (2, *shape))
    assert layer.compute_output_shape((None, 49, 256), (None, 512)) == ((None, 256), (None, *shape))


@EVERY
def test_config_round_trip(name: str) -> None:
    layer = created(name)
    again = type(layer).from_config(layer.get_config())
    assert type(again) is type(layer) and again.get_config() == layer.get_config()
    assert again.get_config()["units"] == A


@EVERY
def test_in_a_functional_model_saved_and_loaded(
    name: str, x: np.ndarray, s: np.ndarray, tmp_path: Path, rng: np.random.Generator
) -> None:
    inputs = [keras.Input((P, E)), keras.Input((H,))]
    layer = created(name)
    context, weights = layer(*inputs)
    assert (context.shape, weights.shape) == ((None, E), (None, *layer.weights_shape(P)))
    model = keras.Model(inputs, [context, weights])
    model.set_weights([rng.normal(size=weight.shape) for weight in model.weights])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for one, other in zip(model([x, s]), loaded([x, s]), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_registry() -> None:
    modules = {path.stem for path in (ROOT / "src/captioner/model/attention").glob("*.py")} - {"__init__", "base"}
    assert {place.partition(":")[0] for place in ATTENTIONS.values()} == modules
    assert len(set(ATTENTIONS.values())) == len(ATTENTIONS)
    for name, place in ATTENTIONS.items():
        layer = created(name)
        assert type(layer).__name__ == place.partition(":")[2] and layer.units == A


def test_every_attention_has_an_equation_here() -> None:
    assert EQUATIONS.keys() == {*ATTENTIONS, *HEADS}


@EVERY
def test_in_anybody_elses_model(name: str) -> None:
    """A decoder that is not ours: a GRU cell that looks before each of three steps, trained for a moment."""
    places, start = keras.Input((9, 6)), keras.Input((5,))
    looking = created(name, 4)
    cell, state, seen = keras.layers.GRUCell(5), start, []
    for _ in range(3):
        context, weights = looking(places, state)
        _, [state] = cell(context, [state])
        seen.append(weights)
    model = keras.Model([places, start], keras.layers.Dense(1)(state))
    model.compile("sgd", "mse", jit_compile=False)
    rng = np.random.default_rng(0)
    data = [rng.normal(size=(8, 9, 6)), rng.normal(size=(8, 5))]
    target = rng.normal(size=(8, 1))
    before = model.evaluate(data, target, verbose=0)
    model.fit(data, target, epochs=5, verbose=0)
    assert model.evaluate(data, target, verbose=0) < before
    assert seen[0].shape == (None, *looking.weights_shape(9))


@DOUBLE
def test_one_head_is_dot_but_for_its_scale(x: np.ndarray, s: np.ndarray, rng: np.random.Generator) -> None:
    scaled, plain = built("scaled_dot", rng), built("dot", rng)
    queries, keys = (np.asarray(weight) for weight in scaled.weights)
    plain.set_weights([queries / A**0.5, keys])
    for one, other in zip(results(scaled, x, s), results(plain, x, s), strict=True):
        assert_same(one, other, TERMS)


def test_looks_of_several_heads(rng: np.random.Generator) -> None:
    layer = built("scaled_dot of two heads", rng)
    weights = rng.dirichlet(np.ones(P), (B, 5, 2))  # of words, and of heads
    looks = layer.looks(weights.reshape(B, 5, -1))
    np.testing.assert_allclose(np.asarray(looks.positions), weights.mean(axis=2), rtol=1e-6)
    np.testing.assert_allclose(np.asarray(looks.heads), weights, rtol=1e-6)
    assert looks.grounding is None


@pytest.mark.parametrize(
    ("weights", "positions", "grounding"),
    [
        ([0.2, 0.2, 0.1, 0.5], [0.4, 0.4, 0.2], 0.5),
        ([0.5, 0.5, 0.0, 0.0], [0.5, 0.5, 0.0], 1.0),
        ([0.0, 0.0, 0.0, 1.0], [1 / 3, 1 / 3, 1 / 3], 0.0),
    ],
)
def test_looks_of_an_attention_that_need_not_look(
    weights: list[float], positions: list[float], grounding: float, rng: np.random.Generator
) -> None:
    looks = built("adaptive", rng).looks(np.array([[weights]]))
    np.testing.assert_allclose(np.asarray(looks.positions), [[positions]], rtol=1e-6)
    np.testing.assert_allclose(np.asarray(looks.grounding), [[grounding]], rtol=1e-6)


def test_without_a_cell_the_state_is_the_memory(x: np.ndarray, s: np.ndarray, rng: np.random.Generator) -> None:
    layer = built("adaptive", rng)
    for one, other in zip(results(layer, x, s), results(layer, x, s, state_cell=s), strict=True):
        np.testing.assert_array_equal(one, other)
