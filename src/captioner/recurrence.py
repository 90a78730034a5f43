"""Products of a recurrence with one matrix, whose gradient is computed at once, when all steps have been made.

Backward through a recurrence usually adds up a matrix's gradient step by step: as many small products as there are
steps, and as many sums of the matrix's size. What each step adds is the product of its input with the gradient of its
output; kept until all are there, they make one large product, which takes half the time.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops


class RecurrentProduct:
    """`x_t W` for rows `x_t` that become known one step after the other.

    To be called once a step. Where the steps' gradients are kept, are tensors of zeros that no value depends on.

    Args:
        matrix: `W`, `[I, O]`.
        rows: of each step, in the order of the calls.

    Call arguments:
        inputs: `x_t`, `[rows_t, I]`.

    Returns:
        `x_t W`, `[rows_t, O]`.
    """

    def __init__(self, matrix: Any, rows: Sequence[int]):
        size, out = matrix.shape
        steps = len(rows)

        @ops.custom_gradient
        def put_off(matrix: Any) -> tuple:
            kept_inputs = [ops.zeros((count, size), matrix.dtype) for count in rows]
            kept_outputs = [ops.zeros((count, out), matrix.dtype) for count in rows]

            def gradient(*gradients: Any) -> Any:
                _, *kept = keras.tree.flatten(gradients)  # JAX gives them in one tuple
                return ops.matmul(ops.transpose(ops.concatenate(kept[:steps])), ops.concatenate(kept[steps:]))

            return (matrix, *kept_inputs, *kept_outputs), gradient

        self.matrix, *kept = put_off(ops.convert_to_tensor(matrix))
        self.kept = zip(kept[:steps], kept[steps:], strict=True)

    def __call__(self, inputs: Any) -> Any:
        """Return the next step's product; see the class."""
        return _product(inputs, self.matrix, *next(self.kept))


@ops.custom_gradient
def _product(inputs: Any, matrix: Any, kept_input: Any, kept_output: Any) -> tuple:  # noqa: ARG001 - for their gradients
    def gradient(output: Any) -> tuple:
        return ops.matmul(output, ops.transpose(matrix)), ops.zeros_like(matrix), inputs, output

    return ops.matmul(inputs, matrix), gradient
