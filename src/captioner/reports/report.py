"""One evaluation as one page: its scores, and every picture with its caption and where the model looked for each word.

The page is one file of HTML. It opens from a disk and asks no network for anything; a Content Security Policy forbids
it to. Everything that came from a model, a data set or a user is text to it, never markup. `report.html` is its form;
this module fills in the data. Equal data gives equal bytes.
"""

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, isfinite, isqrt
from pathlib import Path
from typing import Any

import numpy as np

from captioner.common.errors import CaptionerError
from captioner.common.files import replacing
from captioner.data.images import UnreadableImage
from captioner.reports import pages

SIDE = 224  # longest side of a photograph in the page, in pixels
FULL_LIGHT = 254  # an even number, so that the even weight, light 1/2, is one of the steps
SCALE_ENDS = (100, 200, 500, 1000)  # of the bars: percent; CIDEr goes up to 1000

_BLOCK = '<script type="application/json" data-row>{row}</script><script type="text/plain">{photograph}</script>\n'


@dataclass(frozen=True)
class Row:
    """One picture of the evaluation.

    Attributes:
        image: its name.
        picture: the picture as it is in the data set, in one of `images.FORMATS`, of any size.
        words: the generated caption, `T` words, none for an empty one.
        attention: `[T, P]`, the weights of each word; rows sum to 1. Position `j` is row `j // sqrt(P)`, column
            `j % sqrt(P)` of the grid, which covers the whole picture.
        references: what people wrote.
        scores: the caption's own, in percent, by name; some may lack.
    """

    image: str
    picture: bytes
    words: Sequence[str]
    attention: np.ndarray
    references: Sequence[str]
    scores: Mapping[str, float]


def write(
    path: Path, title: str, scores: Mapping[str, Mapping[str, Any]], rows: Iterable[Row], remarks: Sequence[str] = ()
) -> None:
    """Write the page. A thousand photographs make some 15 MB.

    Rows are written as they come, so no more than one picture is held. Photographs are scaled down to `SIDE`. Weights
    are stored as their light, see `light`. A score that is no finite number counts as lacking.

    Args:
        path: the page; the end of its name should be `.html`.
        title: its headline, and the name of the browser's tab.
        scores: by name, the score of all captions: `value`, in percent; `low` and `high`, the ends of its 95 %
            interval, which may be None or lack; `signature`, how it was computed, which may lack.
        rows: the pictures, at least one.
        remarks: sentences to print above the scores.

    Raises:
        CaptionerError: no rows, or a picture that cannot be decoded.
        ValueError: attention that does not fit the words, is not of a square grid, or is no distribution.
    """
    form = pages.form("report.html")
    parts = {
        "title": html.escape(title),
        "program-sha256": pages.program_sha256(form),
        "remarks": "".join(f"<p>{html.escape(remark)}</p>\n" for remark in remarks),
        "scores": _score_table(scores),
        "settings": pages.as_json({"fullLight": FULL_LIGHT} | pages.LIGHT),
    }
    before, after = (pages.filled(half, parts) for half in form.split("{{rows}}\n"))
    # a name that is no valid Unicode, as files may have, must not break the page
    with (
        replacing(path) as beside,
        beside.open("w", encoding="utf-8", errors="xmlcharrefreplace", newline="\n") as file,
    ):
        file.write(before)
        written = 0
        for row in rows:
            file.write(_block(row))
            written += 1
        if not written:
            raise CaptionerError("received no rows; a report needs at least one picture with a caption")
        file.write(after)


def light(attention: np.ndarray) -> np.ndarray:
    """Weights as the page stores them: as light, in `FULL_LIGHT` even steps.

    The light of weight `w` is `w / (w + 1/P)`, what `figures.attention_figure` draws, so the error in what is seen is
    at most half a step, 1/508, whatever the weight. The even weight is met exactly, and a weight counts as none only
    below 1/507 of the even one.

    Args:
        attention: `[T, P]`, rows sum to 1.

    Returns:
        uint8 `[T, P]`, 0 for no attention, `FULL_LIGHT / 2` for the even weight.
    """
    weights = np.asarray(attention, np.float64)
    return np.rint(FULL_LIGHT * weights / (weights + 1 / weights.shape[1])).astype(np.uint8)


def _block(row: Row) -> str:
    """Return the row's data, and its photograph apart, which is read only when its card is shown."""
    try:
        photograph, size = pages.photograph(row.picture, SIDE)
    except UnreadableImage as error:
        raise CaptionerError(f"received a picture {row.image!r} that cannot be shown: {error}") from error
    content = {
        "image": row.image,
        "size": size,
        "words": list(row.words),
        "light": pages.base64_of(light(_checked(row)).tobytes()) if row.words else "",
        "references": list(row.references),
        "scores": {name: round(float(value), 2) for name, value in row.scores.items() if isfinite(value)},
    }
    return _BLOCK.format(row=pages.as_json(content), photograph=pages.base64_of(photograph))


def _checked(row: Row) -> np.ndarray:
    attention = np.asarray(row.attention, np.float64)
    if attention.ndim != 2 or len(attention) != len(row.words):
        raise ValueError(
            f"received attention {list(attention.shape)} for {len(row.words)} words of {row.image!r}; "
            "give [T, P], one row a word"
        )
    positions = attention.shape[1]
    if not positions or isqrt(positions) ** 2 != positions:
        raise ValueError(
            f"received attention to {positions} positions of {row.image!r}; "
            "give that to a square grid, such as 49 for 7 × 7"
        )
    if not (attention >= 0).all() or not np.allclose(attention.sum(axis=1), 1, atol=0.01):
        raise ValueError(
            f"received attention to {row.image!r} that is no distribution; "
            "give rows of numbers from 0 on with the sum 1"
        )
    return attention


def _score_table(scores: Mapping[str, Mapping[str, Any]]) -> str:
    if not scores:
        return "<p class=quiet>No scores of the whole were given.</p>\n"
    lines = "".join(_score_line(name, score) for name, score in scores.items())
    signatures = "".join(
        f"<dt>{html.escape(name)}</dt><dd><code>{html.escape(str(score['signature']))}</code></dd>\n"
        for name, score in scores.items()
        if score.get("signature")
    )
    some = any(_number(score.get("low")) is not None for score in scores.values())
    table = (
        f"<table>\n<caption>In percent{'; the band is the 95 % interval' if some else ''}.</caption>\n"
        '<thead><tr><th scope="col">Score</th><th scope="col" class=number>Value</th>'
        '<th scope="col" class=number>95 % interval</th><td></td></tr></thead>\n'
        f"<tbody>\n{lines}</tbody>\n</table>\n"
    )
    if signatures:
        table += f"<details><summary>How they were computed</summary><dl>\n{signatures}</dl></details>\n"
    return table


def _score_line(name: str, score: Mapping[str, Any]) -> str:
    value, low, high = (_number(score.get(key)) for key in ("value", "low", "high"))
    interval = "–" if low is None or high is None else f"{low:.1f} to {high:.1f}"
    return (
        f'<tr><th scope="row">{html.escape(name)}</th>'
        f"<td class=number>{'–' if value is None else f'{value:.1f}'}</td>"
        f"<td class=number>{interval}</td><td class=bar>{_bar(value, low, high)}</td></tr>\n"
    )


def _bar(value: float | None, low: float | None, high: float | None) -> str:
    """Value and interval as a drawing, from 0 to the least of `SCALE_ENDS` that holds them."""
    given = [number for number in (value, low, high) if number is not None]
    if value is None:
        return ""
    end = next((end for end in SCALE_ENDS if max(given) <= end), ceil(max(given)))
    at = [100 * min(max(number, 0), end) / end for number in given]
    band = f'<rect class=band x="{at[1]:.2f}" width="{max(at[2] - at[1], 0):.2f}" height="10"/>' if len(at) == 3 else ""
    return (
        '<svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class=track y="4" width="100" height="2"/>'
        f'<rect class=filled y="4" width="{at[0]:.2f}" height="2"/>{band}'
        f'<path class=tick d="M{at[0]:.2f} 0V10"/></svg><span aria-hidden="true">{end}</span>'
    )


def _number(value: Any) -> float | None:
    return float(value) if value is not None and isfinite(value) else None
