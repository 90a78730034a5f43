"""Views of a picture: parts of it, every second one mirrored, the same ones each time."""

import io

import numpy as np
import pytest
from PIL import Image

from captioner.data import images
from captioner.features.views import ENLARGED, is_mirrored, view

SIZE = 21


@pytest.fixture
def picture(rng: np.random.Generator) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_the_first_is_the_picture_itself(picture: bytes) -> None:
    np.testing.assert_array_equal(view(picture, "a", 0, SIZE, "center"), images.decode(picture, SIZE, "center"))


@pytest.mark.parametrize("number", range(1, 7))
def test_the_others_are_parts_of_the_enlarged_picture_some_mirrored(number: int, picture: bytes) -> None:
    larger = images.decode(picture, round(ENLARGED * SIZE), "stretch")
    found = view(picture, "a", number, SIZE, "stretch")
    seen = found[:, ::-1] if number % 2 else found
    windows = np.lib.stride_tricks.sliding_window_view(larger, (SIZE, SIZE, 3))[:, :, 0]
    assert (windows == seen).all(axis=(2, 3, 4)).sum() == 1
    assert is_mirrored(number) == bool(number % 2)


def test_they_are_the_same_each_time_and_differ_by_name_and_number(picture: bytes) -> None:
    ways = [(name, number) for name in ("a", "b", "c\udcff") for number in range(1, 9)]
    found = [view(picture, name, number, SIZE, "stretch").tobytes() for name, number in ways]
    assert found == [view(picture, name, number, SIZE, "stretch").tobytes() for name, number in ways]
    assert len(set(found)) > len(found) / 2
