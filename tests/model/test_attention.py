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

EVERY = pytest.mark.parametrize("name", ATTENTIONS)
DOUBLE = pytest.mark.usefixtures("double")
TRAINABLE = pytest.mark.parametrize("name", ["bahdanau", "dot"])
B, P, E, H, A = 3, 4, 6, 8, 5
TERMS = 10 * (E + H + A + P + P)  # of a score and its share, ten times as large in some test, and of a context

Weights = dict[str, np.ndarray]


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores)
    return powers / powers.sum()


def uniform(x: np.ndarray, s: np.ndarray, weights: Weights) -> np.ndarray:
    return np.zeros(len(x))


def bahdanau(x: np.ndarray, s: np.ndarray, weights: Weights) -> np.ndarray:
    hidden = [np.tanh(weights["U/kernel"].T @ s + weights["V/kernel"].T @ x_j + weights["V/bias"]) for x_j in x]
    return np.array([weights["W/kernel"][:, 0] @ h + weights["W/bias"][0] for h in hidden])


def dot(x: np.ndarray, s: np.ndarray, weights: Weights) -> np.ndarray:
    return np.array([(weights["Q/kernel"].T @ s) @ (weights["K/kernel"].T @ x_j) for x_j in x])


EQUATIONS: dict[str, Callable[[np.ndarray, np.ndarray, Weights], np.ndarray]] = {
    "uniform": uniform,
    "bahdanau": bahdanau,
    "dot": dot,
}


def built(name: str, rng: np.random.Generator, units: int = A) -> Attention:
    """An attention with random weights, biases included."""
    layer = attention.create(name, units)
    layer.build((None, P, E), (None, H))
    layer.set_weights([rng.normal(size=weight.shape) for weight in layer.weights])
    return layer


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
    weights = {"/".join(weight.path.split("/")[-2:]): np.asarray(weight) for weight in layer.weights}
    alpha = [EQUATIONS[name](x[row], s[row], weights) for row in range(B)]
    p = np.stack([softmax(scores) for scores in alpha])
    z = np.stack([sum(p[row, j] * x[row, j] for j in range(P)) for row in range(B)])
    found_z, found_p = results(layer, x, s)
    assert_same(found_p, p, TERMS)
    assert_same(found_z, z, TERMS)


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("uniform", {}),
        ("bahdanau", {"U/kernel": (H, A), "V/kernel": (E, A), "V/bias": (A,), "W/kernel": (A, 1), "W/bias": (1,)}),
        ("dot", {"Q/kernel": (H, A), "K/kernel": (E, A)}),
    ],
)
def test_weights_of_the_layer(name: str, shapes: dict[str, tuple], rng: np.random.Generator) -> None:
    layer = built(name, rng)
    found = {"/".join(weight.path.split("/")[-2:]): tuple(weight.shape) for weight in layer.trainable_weights}
    assert found == shapes


@EVERY
@DOUBLE
def test_attention_weights_are_distributions(name: str, x: np.ndarray, s: np.ndarray, rng: np.random.Generator) -> None:
    _, weights = results(built(name, rng), 10 * x, 10 * s)
    assert (weights >= 0).all()
    assert_same(weights.sum(axis=1), np.ones(B), TERMS)


@pytest.mark.parametrize("positions", [2, 4, 49])
def test_uniform_is_exactly_even(positions: int, rng: np.random.Generator) -> None:
    x = rng.normal(size=(2, positions, E)).astype(np.float32)
    context, weights = results(uniform_module.UniformAttention(), x, np.full((2, H), 1e9, np.float32))
    assert (weights == np.float32(1) / np.float32(positions)).all()
    assert_same(context, x.mean(axis=1), TERMS)


@TRAINABLE
def test_weights_move_with_the_state(name: str, x: np.ndarray, s: np.ndarray, rng: np.random.Generator) -> None:
    layer = built(name, rng)
    _, before = results(layer, x, s)
    _, after = results(layer, x, s + 1)
    assert np.abs(after - before).max(axis=1).min() > 0.01


@TRAINABLE
def test_weights_move_with_the_state_of_a_new_layer(name: str, rng: np.random.Generator) -> None:
    layer = attention.create(name)
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
    assert_same(turned_weights, weights[:, order], TERMS)


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
    layer = attention.create(name)
    assert layer.units == 256
    context, weights = layer(np.zeros((2, 49, 256), np.float32), np.zeros((2, 512), np.float32))
    assert (context.shape, weights.shape) == ((2, 256), (2, 49))
    assert layer.compute_output_shape((None, 49, 256), (None, 512)) == ((None, 256), (None, 49))


@EVERY
def test_config_round_trip(name: str) -> None:
    layer = attention.create(name, A)
    again = type(layer).from_config(layer.get_config())
    assert type(again) is type(layer) and again.get_config() == layer.get_config()
    assert again.get_config()["units"] == A


@EVERY
def test_in_a_functional_model_saved_and_loaded(
    name: str, x: np.ndarray, s: np.ndarray, tmp_path: Path, rng: np.random.Generator
) -> None:
    inputs = [keras.Input((P, E)), keras.Input((H,))]
    context, weights = attention.create(name, A)(*inputs)
    assert (context.shape, weights.shape) == ((None, E), (None, P))
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
        layer = attention.create(name, A)
        assert type(layer).__name__ == place.partition(":")[2] and layer.units == A


def test_every_attention_has_an_equation_here() -> None:
    assert EQUATIONS.keys() == ATTENTIONS.keys()


@pytest.mark.parametrize("name", ATTENTIONS)
def test_in_anybody_elses_model(name: str) -> None:
    """A decoder that is not ours: a GRU cell that looks before each of three steps, trained for a moment."""
    places, start = keras.Input((9, 6)), keras.Input((5,))
    looking = attention.create(name, 4)
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
    assert seen[0].shape == (None, 9)
