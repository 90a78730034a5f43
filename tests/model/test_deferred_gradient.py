"""A product whose gradient is put off gives the values and gradients of one that is not."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow
from keras import ops
from rounding import assert_same

from captioner.model.deferred_gradient import DeferredGradientMatmul, multiply

SIZE = 6


def unrolled(matrix: Any, start: Any, rows: list[int], put_off: bool, transposed: bool) -> Any:
    """A recurrence whose rows end or are added, and a number made of all its states."""
    product = DeferredGradientMatmul(matrix, rows, transposed) if put_off else None
    state, total = start, 0.0
    for count in rows:
        plain = matrix if len(matrix.shape) == 2 else matrix[:count]
        state = ops.concatenate([state, start])[:count]
        state = ops.tanh(multiply(state, product or plain, transposed) + 0.1)
        total = total + ops.sum(state**2)
    return total


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("own", [False, True], ids=["one matrix", "a matrix a row"])
@pytest.mark.parametrize(
    ("rows", "compiled"),
    [
        *((rows, False) for rows in ([1], [5], [5, 5, 3, 1], [4, 4, 4], [2, 2, 3, 5])),
        ([3, 3, 1, 2], True),  # rows that stay, end and are added: compiling takes long
    ],
)
@pytest.mark.usefixtures("double")
def test_values_and_gradients_are_those_of_the_plain_product(
    rows: list[int], compiled: bool, own: bool, transposed: bool
) -> None:
    keras.utils.set_random_seed(1)
    matrix = tensorflow.Variable(keras.random.normal((max(rows), SIZE, SIZE) if own else (SIZE, SIZE)))
    start = tensorflow.Variable(keras.random.normal((max(rows), SIZE)))

    def value_and_gradients(put_off: bool) -> tuple:
        with tensorflow.GradientTape() as tape:
            value = unrolled(matrix.value(), start, rows, put_off, transposed)
        return value, *tape.gradient(value, (matrix, start))

    run = tensorflow.function(value_and_gradients, jit_compile=True) if compiled else value_and_gradients
    for plain, put_off in zip(run(False), run(True), strict=True):
        assert_same(put_off, plain, 2 * len(rows) * SIZE * max(rows))  # of a gradient: back through each step
        assert np.any(plain)


@pytest.mark.usefixtures("double")
def test_multiply_is_the_product_that_it_says(rng: np.random.Generator) -> None:
    rows, matrices = rng.normal(size=(3, 4)), rng.normal(size=(3, 4, 5))
    own = np.stack([row @ matrix for row, matrix in zip(rows, matrices, strict=True)])
    assert_same(multiply(rows, matrices), own, 4)
    assert_same(multiply(rows, matrices.swapaxes(1, 2), transposed=True), own, 4)
    assert_same(multiply(rows, matrices[0]), rows @ matrices[0], 4)
    assert_same(multiply(rows, matrices[0].T, transposed=True), rows @ matrices[0], 4)


def test_one_step_more_than_announced_is_an_error() -> None:
    product = DeferredGradientMatmul(ops.ones((2, 2)), [1])
    product(ops.ones((1, 2)))
    with pytest.raises(StopIteration):
        product(ops.ones((1, 2)))
