"""A share of the values is dropped, each independently, and each time others."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow
from rounding import assert_same

from captioner.model.dropout import Dropout, random_bits

SHAPE = (4, 50, 500)
VALUES = int(np.prod(SHAPE))


def dropped(layer: Dropout, times: int) -> np.ndarray:
    """Which of 100,000 ones were dropped, `[times, values]`."""
    ones = tensorflow.ones(SHAPE)
    call: Callable[..., Any] = tensorflow.function(lambda x: layer(x, training=True), jit_compile=True)
    return np.stack([np.asarray(call(ones)).ravel() == 0 for _ in range(times)])


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_share_that_is_dropped(rate: float) -> None:
    found = dropped(Dropout(rate), 20)
    spread = np.sqrt(rate * (1 - rate))
    assert np.abs(found.mean(axis=1) - rate).max() < 5 * spread / np.sqrt(VALUES)
    # each value has the same chance: 20 draws spread as a coin would
    assert found.mean(axis=0).std() == pytest.approx(spread / np.sqrt(20), rel=0.05)


def test_values_are_dropped_independently_of_each_other_and_of_the_time_before() -> None:
    found = dropped(Dropout(0.5), 12) - 0.5
    bound = 5 * 0.25 / np.sqrt(VALUES)
    for one in range(12):
        for other in range(one):
            assert np.abs((found[one] * found[other]).mean()) < bound
    for lag in (1, 2, 3, 500, 25_000):  # neighbours, rows, captions
        assert np.abs((found[:, lag:] * found[:, :-lag]).mean()) < bound


def test_two_sequences_are_not_one_shifted() -> None:
    one, other = (np.asarray(random_bits(np.arange(5000), seed)) for seed in ([3, 0], [3, 1]))
    assert len(np.intersect1d(one, other)) < 5


def test_no_number_has_the_same_bits_with_every_seed() -> None:
    found = np.stack([np.asarray(random_bits(np.arange(100), [seed, 3 * seed])) for seed in range(20)])
    assert all(len(np.unique(bits)) == 20 for bits in found.T)


@pytest.mark.parametrize("bit", [0, 7, 16, 31])
def test_every_bit_is_even(bit: int) -> None:
    bits = np.asarray(random_bits(np.arange(VALUES), [5, 7])) >> bit & 1
    assert abs(bits.mean() - 0.5) < 2.5 / np.sqrt(VALUES)


def test_the_rest_is_scaled_so_that_the_mean_stays() -> None:
    x = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    found = np.asarray(Dropout(0.25)(x, training=True))
    kept = found != 0
    assert_same(found[kept], x[kept] / 0.75, 1)


def test_nothing_is_dropped_outside_of_training_nor_at_the_rate_0() -> None:
    x = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(Dropout(0.9)(x), x)
    np.testing.assert_array_equal(Dropout(0.0)(x, training=True), x)


def test_the_seed_decides() -> None:
    def drawn(seed: int) -> np.ndarray:
        keras.utils.set_random_seed(seed)
        return dropped(Dropout(0.5), 2)

    np.testing.assert_array_equal(drawn(1), drawn(1))
    assert (drawn(1) != drawn(2)).any()
    keras.utils.set_random_seed(1)
    assert (dropped(Dropout(0.5), 1) != dropped(Dropout(0.5), 1)).any()  # two layers of a model


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_rates_that_are_none(rate: float) -> None:
    with pytest.raises(ValueError, match="at least 0 and less than 1"):
        Dropout(rate)


def test_saved_and_loaded(tmp_path: Path) -> None:
    inputs = keras.Input((3,))
    keras.Model(inputs, Dropout(0.3)(inputs)).save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").layers[-1].rate == 0.3


def test_each_stream_of_a_seed_drops_others() -> None:
    layers = [Dropout(0.5) for _ in range(5)]
    for stream, layer in zip((0, 1, 2, 3, 1), layers, strict=True):
        layer.seed_generator.state.assign([3, 5])
        layer.stream = stream
    found = np.concatenate([dropped(layer, 1) for layer in layers]) - 0.5
    np.testing.assert_array_equal(found[1], found[4])
    for one in range(4):
        for other in range(one):
            assert np.abs((found[one] * found[other]).mean()) < 5 * 0.25 / np.sqrt(VALUES)
