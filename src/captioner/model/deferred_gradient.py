"""Products of a recurrence with a matrix, whose gradient is computed at once, when all steps have been made.

Backward through a recurrence usually adds up a matrix's gradient step by step: as many small products as there are
steps, and as many sums of the matrix's size. What each step adds is the product of its input with the gradient of its
output; kept until all are there, they make one large product, which takes half the time.

Legend: `B` rows · `I` size of what goes in · `O` size of what comes out · `T` steps.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from captioner.common.keras import Tensor, keras, ops

Function = TypeVar("Function", bound=Callable[..., Any])


class DeferredGradientMatmul:
    """`x_t W` for rows `x_t` that become known one step after the other.

    To be called once a step. Where the steps' gradients are kept, are tensors of zeros that no value depends on.

    Args:
        matrix: `W`: one for all rows, `[I, O]`, or each row's own, `[B, I, O]`.
        rows: of each step, in the order of the calls; those of a step are the first ones.
        transposed: the matrices given are `W^T`.

    Call arguments:
        inputs: `x_t`, `[rows_t, I]`.

    Returns:
        `x_t W`, `[rows_t, O]`.
    """

    def __init__(self, matrix: Tensor, rows: Sequence[int], transposed: bool = False):
        size, out = reversed(matrix.shape[-2:]) if transposed else matrix.shape[-2:]
        steps = len(rows)

        def together(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Tensor:
            if len(matrix.shape) == 2:
                # transposed first and not afterwards, which XLA would leave to the product: a third slower on a CPU
                return ops.matmul(ops.concatenate([ops.transpose(x) for x in inputs], axis=1), ops.concatenate(outputs))
            return ops.matmul(ops.transpose(_by_row(inputs, rows), (0, 2, 1)), _by_row(outputs, rows))

        @ops.custom_gradient
        def deferred(matrix: Tensor) -> tuple:
            kept_inputs = [ops.zeros((count, size), matrix.dtype) for count in rows]
            kept_outputs = [ops.zeros((count, out), matrix.dtype) for count in rows]

            def gradient(*gradients: Tensor) -> Tensor:
                kept = keras.tree.flatten(gradients)  # JAX gives them in one tuple
                inputs, outputs = kept[:steps], kept[steps:]
                return together(outputs, inputs) if transposed else together(inputs, outputs)

            return (*kept_inputs, *kept_outputs), gradient

        @ops.custom_gradient
        def product(inputs: Tensor, matrix: Tensor, kept_input: Tensor, kept_output: Tensor) -> tuple:  # noqa: ARG001 - for their gradients
            def gradient(output: Tensor) -> tuple:
                return multiply(output, matrix, not transposed), ops.zeros_like(matrix), inputs, output

            return multiply(inputs, matrix, transposed), gradient

        matrix = ops.convert_to_tensor(matrix)
        kept = deferred(matrix)
        self.matrix = ops.stop_gradient(matrix)
        self._kept = zip(rows, kept[:steps], kept[steps:], strict=True)
        self._product = product

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the next step's product; see the class."""
        count, *kept = next(self._kept)
        matrix = self.matrix if len(self.matrix.shape) == 2 else self.matrix[:count]
        return self._product(inputs, matrix, *kept)


def multiply(rows: Tensor, matrix: Tensor, transposed: bool = False) -> Tensor:
    """Return `x W`, `[B, O]`, for rows `x`, `[B, I]`.

    Args:
        rows: `x`.
        matrix: `W`: one for all rows, `[I, O]`, or each row's own, `[B, I, O]`; or a `DeferredGradientMatmul` with it.
        transposed: the matrices given are `W^T`.
    """
    if isinstance(matrix, DeferredGradientMatmul):
        return matrix(rows)
    if len(matrix.shape) == 2:
        return ops.matmul(rows, ops.transpose(matrix) if transposed else matrix)
    if transposed:
        return ops.squeeze(ops.matmul(matrix, ops.expand_dims(rows, 2)), 2)
    return ops.squeeze(ops.matmul(ops.expand_dims(rows, 1), matrix), 1)


def only_multiplies(function: Function) -> Function:
    """Mark a method that uses what may be a `DeferredGradientMatmul` by `multiply` alone, once a step.

    The mark belongs to this very method: one that overrides it has none.
    """
    function.only_multiplies = True  # type: ignore[attr-defined]
    return function


def is_only_multiplying(method: Callable[..., Any]) -> bool:
    """Return whether a method is marked by `only_multiplies`."""
    return getattr(method, "only_multiplies", False)


def _by_row(steps: Sequence[Tensor], rows: Sequence[int]) -> Tensor:
    """Return the steps' rows, `[rows_t, X]` each, as `[B, T, X]`, filled up with zeros."""
    filled = [ops.pad(step, ((0, max(rows) - count), (0, 0))) for step, count in zip(steps, rows, strict=True)]
    return ops.stack(filled, axis=1)
