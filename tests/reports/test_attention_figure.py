"""Pictures of attention show the weights, and hold any caption."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from captioner.reports import attention_figure as attention_figure_module
from captioner.reports import curves
from captioner.reports.attention_figure import attention_figure

POSITIONS = 49
EVEN = np.full(POSITIONS, 1 / POSITIONS)


def photograph(side: int = 224) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)


def grey(side: int = 224) -> np.ndarray:
    return np.full((side, side, 3), 120, np.uint8)


def one_hot(position: int, positions: int = POSITIONS) -> np.ndarray:
    return np.eye(positions)[position]


def tile(figure: Image.Image, number: int) -> np.ndarray:
    """Pixels of one tile (0: the photograph) of a figure without caption, `[TILE, TILE, 3]`."""
    row, column = divmod(number, attention_figure_module.COLUMNS)
    left = attention_figure_module.MARGIN + column * (attention_figure_module.TILE + attention_figure_module.GAP)
    upper = (
        attention_figure_module.MARGIN
        + row * (attention_figure_module.TITLE + attention_figure_module.TILE + attention_figure_module.GAP)
        + attention_figure_module.TITLE
    )
    return np.asarray(
        figure.crop((left, upper, left + attention_figure_module.TILE, upper + attention_figure_module.TILE)),
        np.float64,
    )


@pytest.mark.parametrize("positions", [1, 4, POSITIONS, 196])
def test_brightest_where_the_weight_is(positions: int) -> None:
    side = int(positions**0.5)
    for position in {0, side - 1, positions // 2, positions - 1}:
        figure = attention_figure(grey(), ["dog"], one_hot(position, positions)[None])
        red = tile(figure, 1)[..., 0]
        row, column = np.argwhere(red == red.max()).mean(axis=0) * side / attention_figure_module.TILE
        assert abs(row - position // side - 0.5) < 0.6 and abs(column - position % side - 0.5) < 0.6


def test_nothing_rings_around_a_bright_place() -> None:
    centre = tile(attention_figure(grey(), ["dog"], one_hot(24)[None]), 1)[attention_figure_module.TILE // 2, :, 0]
    steps = np.diff(centre)
    middle = len(steps) // 2
    assert (steps[: middle - 1] >= 0).all() and (steps[middle + 1 :] <= 0).all()


def test_even_attention_looks_even() -> None:
    pixels = tile(attention_figure(grey(), ["dog"], EVEN[None]), 1)
    assert np.ptp(pixels) == 0


def test_slight_noise_looks_slight_and_looking_does_not() -> None:
    noise = EVEN * np.random.default_rng(0).uniform(0.9, 1.1, POSITIONS)
    figure = attention_figure(grey(), ["noise", "looks"], np.stack([noise / noise.sum(), one_hot(24)]))
    assert np.ptp(tile(figure, 1)[..., 0]) < 15 < 100 < np.ptp(tile(figure, 2)[..., 0])


def test_scale_is_the_same_for_every_word() -> None:
    alone = attention_figure(photograph(), ["a"], EVEN[None])
    beside = attention_figure(photograph(), ["a", "dog"], np.stack([EVEN, one_hot(3)]))
    assert np.array_equal(tile(alone, 1), tile(beside, 1))


@pytest.mark.parametrize("side", [32, 160, 224, 500])
def test_first_tile_is_the_photograph(side: int) -> None:
    picture = np.zeros((side, side, 3), np.uint8)
    picture[: side // 2] = (250, 10, 30)
    shown = tile(attention_figure(picture, ["dog"], EVEN[None]), 0)
    assert shown[20, 20].tolist() == [250, 10, 30] and shown[-20, -20].tolist() == [0, 0, 0]


def test_rows_of_six_tiles() -> None:
    heights = [attention_figure(grey(), ["a"] * n, np.stack([EVEN] * n)).height for n in (1, 5, 6, 11, 12, 20)]
    row = attention_figure_module.TITLE + attention_figure_module.TILE + attention_figure_module.GAP
    assert np.diff(heights).tolist() == [0, row, 0, row, row]


def test_float16_weights() -> None:
    assert attention_figure(grey(), ["dog"], EVEN[None].astype(np.float16)).mode == "RGB"


@pytest.mark.parametrize(
    "word", ["", "a", "counterrevolutionaries", "W" * 300, "犬が走る", "🐕", "naïve\ncafé", "\x00", "a" + "\u0301" * 50]
)
def test_titles_stay_above_their_tile(word: str) -> None:
    figure = attention_figure(grey(), [word] * 4, np.stack([EVEN] * 4))
    titles = np.asarray(
        figure.crop(
            (
                0,
                attention_figure_module.MARGIN,
                figure.width,
                attention_figure_module.MARGIN + attention_figure_module.TITLE,
            )
        )
    )
    step = attention_figure_module.TILE + attention_figure_module.GAP
    for column in range(attention_figure_module.COLUMNS - 1):
        end = attention_figure_module.MARGIN + column * step + attention_figure_module.TILE
        assert (titles[:, end + 3 : end + attention_figure_module.GAP - 3] == 255).all()


def test_caption_lines_are_wrapped_into_the_page() -> None:
    words = ["word"] * 20
    plain = attention_figure(grey(), words, np.stack([EVEN] * 20))
    captioned = attention_figure(grey(), words, np.stack([EVEN] * 20), "a long caption " * 20 + "\nReference: a dog")
    assert captioned.width == plain.width and captioned.height > plain.height + 3 * attention_figure_module.CAPTION_SIZE
    assert (np.asarray(captioned)[:, : attention_figure_module.MARGIN // 2] == 255).all()
    assert (np.asarray(captioned)[:, -attention_figure_module.MARGIN // 2 :] == 255).all()


@pytest.mark.parametrize(
    ("picture", "words", "weights", "told"),
    [
        (grey()[:100], ["a"], EVEN[None], "uint8"),
        (grey() / 255, ["a"], EVEN[None], "uint8"),
        (grey()[..., 0], ["a"], EVEN[None], "uint8"),
        (grey(), ["a", "dog"], EVEN[None], "one row a word"),
        (grey(), ["a"], EVEN, "one row a word"),
        (grey(), ["a"], np.full((1, 50), 1 / 50), "square"),
        (grey(), ["a"], np.zeros((1, 0)), "square"),
        (grey(), ["a"], np.full((1, 49), 1.0), "distributions"),
        (grey(), ["a"], np.full((1, 49), np.nan), "distributions"),
        (grey(), ["a"], (2 * EVEN - one_hot(3))[None], "distributions"),
    ],
)
def test_wrong_input_is_refused(picture: np.ndarray, words: list[str], weights: np.ndarray, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        attention_figure(picture, words, weights)


@pytest.mark.parametrize(("dropout", "label"), [(True, "training, with dropout"), (False, "training")])
def test_curves_say_of_dropout_what_is_so(dropout: bool, label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(curves, "_drawn", lambda figure: drawn.append(figure))
    table = pd.DataFrame({"epoch": [0, 1], "nll": [4, 3], "val_nll": [4, 3.5], "val_CIDEr": [10, 20]})
    table["CIDEr-person"] = np.nan  # not measured, as of one caption a picture
    curves.learning_curves(table, {"nll": ["nll-unigram"], "CIDEr": ["CIDEr-person"]}, dropout)
    above, below = drawn[0].axes
    assert [line.get_label() for line in above.lines] == [label, "validation"]
    assert [line.get_label() for line in below.lines] == ["validation"]
