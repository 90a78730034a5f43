"""Dropout whose random numbers cost little where XLA compiles for a CPU.

Keras leaves the choice of the generator to TensorFlow, and what XLA then makes on a CPU takes some hundred times longer
than needed: for the dropouts of this decoder as long as all the rest of a training step.
"""

import math
from typing import Any

from captioner.common.keras import Tensor, keras, ops

# The finalizer of MurmurHash3 (Appleby 2011): each bit of a number changes half of the result's bits.
_MULTIPLIERS = (0x85EBCA6B, 0xC2B2AE35)
_SHIFTS = (16, 13, 16)
_GOLDEN = 0x9E3779B9  # 2**32 divided by the golden ratio, odd: spreads counted numbers over the whole range


@keras.saving.register_keras_serializable("captioner")
class Dropout(keras.layers.Layer):
    """In training, sets a share of the values to 0 and scales the others so that their sum is kept in the mean.

    Source: Srivastava et al. 2014, "Dropout: A Simple Way to Prevent Neural Networks from Overfitting". Which values,
    is a hash of their number and of a seed that is drawn again at each call: the same on every backend.

    Args:
        rate: share of the values that are dropped, at least 0, less than 1.

    Attributes:
        stream: which of many independent choices a seed gives. Processes that share a batch have their numbers here, so
            that they drop other values though their seeds are equal.
    """

    def __init__(self, rate: float, **kwargs: Any):
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise ValueError(f"received the rate {rate}; a dropout takes a rate of at least 0 and less than 1")
        self.rate, self.stream = rate, 0
        if rate:
            self.seed_generator = keras.random.SeedGenerator()
        self.built = True

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        """Return `inputs`, in training with a share of their values dropped."""
        if not training or not self.rate:
            return inputs
        shape = ops.shape(inputs)
        numbers = ops.reshape(ops.arange(math.prod(shape), dtype="int32"), shape)
        kept = random_bits(numbers, self.seed_generator.next(), self.stream) >= _constant(round(self.rate * 2**32))
        return ops.where(kept, inputs / (1 - self.rate), ops.zeros_like(inputs))

    def get_config(self) -> dict:
        """Return what `__init__` was given."""
        return {**super().get_config(), "rate": self.rate}


def random_bits(numbers: Tensor, seed: Tensor, stream: int = 0) -> Tensor:
    """Return a number of 32 random bits, uint32, for each of `numbers`, from a seed of two integers.

    Each stream has others, of the same seed.
    """
    first, second = (ops.cast(seed[place], "uint32") for place in (0, 1))
    key = _mixed(first + _constant(_GOLDEN) * second)
    if stream:
        key = _mixed(key + _constant(stream))
    # mixed twice, or else two keys would give one sequence, begun at two places
    once = _mixed(ops.cast(numbers, "uint32") * _constant(_GOLDEN) + key)
    # what no number gives, or else that number would always have the same bits: only the largest of 32 bits does
    return _mixed(ops.bitwise_xor(once, _mixed(key - _constant(_GOLDEN))))


def _mixed(bits: Tensor) -> Tensor:
    for shift, multiplier in zip(_SHIFTS, _MULTIPLIERS, strict=False):
        bits = ops.bitwise_xor(bits, ops.right_shift(bits, _constant(shift))) * _constant(multiplier)
    return ops.bitwise_xor(bits, ops.right_shift(bits, _constant(_SHIFTS[-1])))


def _constant(value: int) -> Tensor:
    return ops.convert_to_tensor(value, "uint32")
