"""Two-dimensional sinusoids."""

import math

import numpy as np
import pytest

from captioner.model.spatial_encoding import sinusoids


def test_formula() -> None:
    found = sinusoids(9, 8)
    for row in range(3):
        for column in range(3):
            waves = [(wave, place) for place in (row, column) for wave in (math.sin, math.cos)]
            expected = [wave(place / 10_000 ** (2 * i / 4)) for wave, place in waves for i in (0, 1)]
            np.testing.assert_allclose(found[3 * row + column], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("positions", "size"), [(4, 4), (49, 256), (196, 12)])
def test_every_position_has_its_own(positions: int, size: int) -> None:
    found = sinusoids(positions, size)
    assert found.shape == (positions, size) and found.dtype == np.float32
    assert len(np.unique(found.round(5), axis=0)) == positions
    # all have one length: no position stands out
    np.testing.assert_allclose((found**2).sum(axis=1), size / 2, rtol=1e-5)


@pytest.mark.parametrize(("positions", "size"), [(8, 8), (9, 6)])
def test_what_has_no_grid_is_refused(positions: int, size: int) -> None:
    with pytest.raises(ValueError, match=f"received {positions} positions and the size {size}"):
        sinusoids(positions, size)
