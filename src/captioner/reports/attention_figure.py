"""Pictures of attention: where the model looked for each word, laid out as papers print them.

Source of the form: Xu et al., Show, Attend and Tell, 2015, figures 3 and 5. The scale differs from theirs, see
`attention_figure`. Legend: `S` side of the picture in pixels, `T` words, `P` positions of the grid (49, row by row).
"""

from bisect import bisect_right
from collections.abc import Sequence
from functools import cache
from math import isqrt

import numpy as np
from PIL import Image, ImageDraw

from captioner.reports import lettering
from captioner.reports.lettering import Colour, length

TILE = 160  # pixels; all sizes suit a figure shown at half of its pixels on a fine screen
COLUMNS = 6
GAP = 14
MARGIN = 20
TITLE = 34  # height of the line above a tile
WORD_SIZE = 21
SMALLEST_WORD_SIZE = 14
CAPTION_SIZE = 24
SCALE_SIZE = 16

INK = (26, 26, 26)
GREY = (110, 110, 110)
PAPER = (255, 255, 255)
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
DARKEST, PLAIN, TINT = 0.3, 0.75, 0.6
AMBER = np.array([255, 170, 0], np.float32)  # over grey it stands out, whatever the photograph's colours


def attention_figure(
    picture: np.ndarray, words: Sequence[str], weights: np.ndarray, caption: str | None = None
) -> Image.Image:
    """The photograph, then one tile a word with that word's attention laid over the photograph.

    The photograph turns grey; it darkens where there is less attention than the even weight `1/P`, and turns amber
    where there is more. The scale is the same for all words, captions and models, and stands below the tiles: a
    position of weight `w` has the light `w / (w + 1/P)`, which depends only on how many times the even weight it has:
    0 without attention, 1/2 for the even weight (plain grey), 4/5 for four times as much, at most 1. So even attention
    looks even, and slight noise looks slight; scaling each map to its own largest weight, as is often done, would show
    noise as if it were looking. Light is interpolated between the centres of the positions, and never lies above or
    below that of the positions around.

    Args:
        picture: `[S, S, 3]`, uint8.
        words: `T` words, the titles of the tiles.
        weights: `[T, P]`, attention of each word, rows sum to 1; position `j` is row `j // sqrt(P)`, column
            `j % sqrt(P)` of the grid.
        caption: lines to print above the tiles, the first in black, further ones (a reference, say) in grey.

    Returns:
        An RGB picture, 1070 pixels wide, six tiles a row; as PNG about 35 kB a word.

    Raises:
        ValueError: shapes that do not fit, `P` no square number, or rows that are no distributions.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape != (picture.shape[0],) * 2 + (3,):
        raise ValueError(f"received a picture {picture.dtype}{list(picture.shape)}; give uint8[S, S, 3]")
    weights = checked(weights, words)
    photograph = np.asarray(Image.fromarray(picture).resize((TILE, TILE), Image.Resampling.LANCZOS), np.float32)
    width = 2 * MARGIN + COLUMNS * TILE + (COLUMNS - 1) * GAP
    lines = _wrapped(caption or "", width - 2 * MARGIN)
    top = MARGIN + len(lines) * round(1.4 * CAPTION_SIZE) + (GAP if lines else 0)
    rows = 1 + len(words) // COLUMNS
    height = top + rows * (TITLE + TILE + GAP) + SCALE_SIZE + 2 * MARGIN
    figure = Image.new("RGB", (width, height), PAPER)
    ascent, _ = lettering.plain(CAPTION_SIZE).getmetrics()
    for number, (line, colour) in enumerate(lines):
        baseline = MARGIN + number * round(1.4 * CAPTION_SIZE) + ascent
        lettering.write(figure, (MARGIN, baseline), line, colour, CAPTION_SIZE)
    tiles = [photograph, *(_lit(photograph, _light(one)) for one in weights)]
    for number, (tile, word) in enumerate(zip(tiles, ["", *words], strict=True)):
        row, column = divmod(number, COLUMNS)
        left = MARGIN + column * (TILE + GAP)
        upper = top + row * (TITLE + TILE + GAP) + TITLE
        figure.paste(Image.fromarray(tile.round().astype(np.uint8)), (left, upper))
        lettering.write(figure, (left + TILE // 2, upper - 9), *_fitted(word), centred=True)
    _draw_scale(figure, height - MARGIN - SCALE_SIZE)
    return figure


def checked(weights: np.ndarray, words: Sequence[str], of: str = "") -> np.ndarray:
    """Return attention weights as float64 `[T, P]`.

    Args:
        weights: of each word.
        words: `T` words.
        of: how the error calls the picture.

    Raises:
        ValueError: another shape, `P` no square number, or rows that are no distributions.
    """
    weights = np.asarray(weights, np.float64)
    if weights.ndim != 2 or len(weights) != len(words):
        raise ValueError(
            f"received weights {list(weights.shape)} for {len(words)} words{of}; give [T, P], one row a word"
        )
    positions = weights.shape[1]
    if not positions or isqrt(positions) ** 2 != positions:
        raise ValueError(
            f"received weights of {positions} positions{of}; give those of a square grid, such as 49 for 7 × 7"
        )
    if not (weights >= 0).all() or not np.allclose(weights.sum(axis=1), 1, atol=0.01):
        raise ValueError(
            f"received weights that are no distributions{of}; give rows of numbers from 0 on with the sum 1"
        )
    return weights


def light(weights: np.ndarray) -> np.ndarray:
    """Return the light of weights `[..., P]`: `w / (w + 1/P)`, 0 without attention and 1/2 for the even weight."""
    return weights / (weights + 1 / weights.shape[-1])


def _light(weights: np.ndarray) -> np.ndarray:
    """Light, 0 to 1, of one word's weights `[P]`, for every pixel of a tile: `[TILE, TILE]`."""
    side = isqrt(len(weights))
    spread = _interpolation(side)
    return (spread @ light(weights).reshape(side, side) @ spread.T).astype(np.float32)


@cache
def _interpolation(side: int) -> np.ndarray:
    """`[TILE, side]`: the share of each grid line in each line of pixels; rows sum to 1.

    Smooth, without edges at the centres; no share is negative, so that nothing rings around a bright place.
    """
    pixels = ((np.arange(TILE) + 0.5) / TILE * side - 0.5).clip(0, side - 1)
    near = (1 - np.abs(pixels[:, None] - np.arange(side))).clip(0, 1)
    return near**2 * (3 - 2 * near)


def _lit(photograph: np.ndarray, light: np.ndarray) -> np.ndarray:
    """The photograph `[..., 3]` under `light` `[...]`: grey, from dark at 0 to plain at 1/2, then amber up to 1."""
    grey = (photograph @ LUMINANCE)[..., None]
    plain = grey * (DARKEST + (PLAIN - DARKEST) * np.minimum(2 * light, 1)[..., None])
    above_even = np.clip(2 * light - 1, 0, 1)[..., None]
    return plain + above_even * ((1 - TINT) * grey + TINT * AMBER - plain)


def _draw_scale(figure: Image.Image, top: int) -> None:
    """A strip from no attention to 32 times the even weight, on a middle grey, right below the tiles."""
    draw = ImageDraw.Draw(figure)
    font = lettering.plain(SCALE_SIZE)
    length = 2 * TILE + GAP
    left = figure.width - MARGIN - length
    ratios = 2 ** np.linspace(-5, 5, length)
    strip = _lit(np.full((SCALE_SIZE, length, 3), 150, np.float32), np.tile(ratios / (ratios + 1), (SCALE_SIZE, 1)))
    figure.paste(Image.fromarray(strip.round().astype(np.uint8)), (left, top - SCALE_SIZE))
    for exponent, label in {-4: "1/16", -2: "1/4", 0: "1", 2: "4", 4: "16"}.items():
        draw.text((left + length * (exponent + 5) / 10, top + 4), label, GREY, font, anchor="ma")
    draw.text((left - GAP, top - SCALE_SIZE // 2), "attention, times the even weight", GREY, font, anchor="rm")


def _fitted(word: str) -> tuple[str, Colour, int]:
    """The word, ink and size with which it is no wider than its tile: smaller first, then cut."""
    word = " ".join(word.split())
    size = WORD_SIZE
    while length(word, size) > TILE and size > SMALLEST_WORD_SIZE:
        size -= 1
    shown = word
    while length(shown, size) > TILE:
        word = word[:-1]
        shown = f"{word}…"
    return shown, INK, size


def _wrapped(caption: str, width: int) -> list[tuple[str, Colour]]:
    """Lines no wider than `width` pixels, with their ink; what has no spaces is broken where the line ends."""
    lines = []
    for number, paragraph in enumerate(caption.splitlines()):
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if line and length(longer, CAPTION_SIZE) > width:
                lines.append((line, GREY if number else INK))
                longer = word
            while length(longer, CAPTION_SIZE) > width:
                end = max(1, bisect_right([length(longer[:n], CAPTION_SIZE) for n in range(1, len(longer))], width))
                lines.append((longer[:end], GREY if number else INK))
                longer = longer[end:]
            line = longer
        lines.append((line, GREY if number else INK))
    return lines
