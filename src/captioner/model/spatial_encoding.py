"""Vectors that tell a decoder where on the picture each feature vector stands."""

import math

import numpy as np


def sinusoids(positions: int, size: int) -> np.ndarray:
    """Return two-dimensional sinusoids, float32 `[P, E]`: half of each vector tells the row, half the column.

    Each half is the encoding of Vaswani et al. 2017, "Attention Is All You Need", section 3.5, of size `D = E/2`:
    `sin(n / 10000^(2i/D))` and `cos(n / 10000^(2i/D))` for `i = 0 ... D/2 - 1`, here all sines before all cosines; so
    for pictures: Parmar et al. 2018, "Image Transformer", section 3.1.

    Args:
        positions: `P` of a square grid, row by row.
        size: `E`, which 4 divides.
    """
    side = math.isqrt(positions)
    if side**2 != positions or size % 4:
        raise ValueError(
            f"received {positions} positions and the size {size}; give a square number, and a multiple of 4"
        )
    frequencies = 10_000 ** (-np.arange(size // 4) / (size // 4))
    angles = np.arange(side)[:, None] * frequencies  # [side, E/4]
    line = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)  # [side, E/2]
    grid = np.concatenate([np.repeat(line, side, axis=0), np.tile(line, (side, 1))], axis=1)
    return grid.astype(np.float32)
