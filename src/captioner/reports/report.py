"""One evaluation as one page: its scores, and every picture with its caption and where the model looked for each word.

The page is one file of HTML. It opens from a disk and asks no network for anything; a Content Security Policy forbids
it to. Everything that came from a model, a data set or a user is text to it, never markup. `report.html` is its
template; this module fills in the data. Equal data gives equal bytes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, isfinite
from pathlib import Path
from typing import Any

import numpy as np

from captioner.common.errors import CaptionerError
from captioner.common.files import replacing
from captioner.data import Crop
from captioner.data.images import UnreadableImage
from captioner.reports import pages
from captioner.reports.attention_figure import checked, light
from captioner.reports.wording import NONE

SIDE = 224  # longest side of a photograph in the page, in pixels
FULL_LIGHT = 254  # an even number, so that the even weight, light 1/2, is one of the steps
SCALE_ENDS = (100, 200, 500, 1000)  # of the bars: percent; CIDEr goes up to 1000


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
        heads: the weights of each of several heads, `[T, N, P]` or `[T, N, R, R]`.
        grounding: how much the model looked at each word, 0 to 1, `[T]`, where it need not look.
        samples: captions that the model drew.
        nll: how surprised it is in nats per token, by what: `references`, `samples`.
        teacher_forced: the words that it finds most probable after each beginning of the first reference.
    """

    image: str
    picture: bytes
    words: Sequence[str]
    attention: np.ndarray
    references: Sequence[str]
    scores: Mapping[str, float]
    heads: np.ndarray | None = None
    grounding: np.ndarray | None = None
    samples: Sequence[str] = ()
    nll: Mapping[str, float] = field(default_factory=dict)
    teacher_forced: str = ""


def write(
    path: Path,
    title: str,
    scores: Mapping[str, Mapping[str, Any]],
    rows: Iterable[Row],
    remarks: Sequence[str] = (),
    crop: Crop = "stretch",
) -> None:
    """Write the page. A thousand photographs make some 15 MB.

    Rows are written as they come, so no more than one picture is held. Photographs are scaled down to `SIDE`. Weights
    are stored as their light, see `quantized_light`. A score that is no finite number counts as lacking.

    Args:
        path: the page; the end of its name should be `.html`.
        title: its headline, and the name of the browser's tab.
        scores: by name, the score of all captions: `value`, in percent; `low` and `high`, the ends of its 95 %
            interval, which may be None or lack; `signature`, how it was computed, which may lack.
        rows: the pictures, at least one.
        remarks: sentences to print above the scores.
        crop: how the model's encoder sees pictures.

    Raises:
        CaptionerError: no rows, or a picture that cannot be decoded.
        ValueError: attention that does not fit the words, is not of a square grid, or is no distribution.
    """
    template = pages.template("reports/report.html")
    chunks = template.generate(
        title=title,
        program_sha256=pages.program_sha256(template),
        remarks=remarks,
        scores=[_shown(name, score) for name, score in scores.items()],
        banded=any(_number(score.get("low")) is not None for score in scores.values()),
        settings={"fullLight": FULL_LIGHT} | pages.LIGHT,
        rows=_contents(rows, crop),
    )
    # a name that is no valid Unicode, as files may have, must not break the page
    with (
        replacing(path) as beside,
        beside.open("w", encoding="utf-8", errors="xmlcharrefreplace", newline="\n") as file,
    ):
        file.writelines(chunks)


def quantized_light(attention: np.ndarray) -> np.ndarray:
    """Weights as the page stores them: as light, in `FULL_LIGHT` even steps.

    The light is what `attention_figure` draws, so the error in what is seen is at most half a step, 1/508, whatever the
    weight. The even weight is met exactly, and a weight counts as none only below 1/507 of the even one.

    Args:
        attention: `[T, P]`, rows sum to 1.

    Returns:
        uint8 `[T, P]`, 0 for no attention, `FULL_LIGHT / 2` for the even weight.
    """
    return np.rint(FULL_LIGHT * light(np.asarray(attention, np.float64))).astype(np.uint8)


def _contents(rows: Iterable[Row], crop: Crop) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield each row's data, and its photograph apart, which is read only when its card is shown."""
    row = None
    for row in rows:
        try:
            photograph, size = pages.photograph(row.picture, SIDE, crop)
        except UnreadableImage as error:
            raise CaptionerError(f"received a picture {row.image!r} that cannot be shown: {error}") from error
        weights = checked(row.attention, row.words, f" of {row.image!r}") if row.words else np.zeros((0, 1))
        content = {
            "image": row.image,
            "size": size,
            "words": list(row.words),
            "light": pages.base64_of(quantized_light(weights).tobytes()),
            "references": list(row.references),
            **_more(row),
            "scores": {name: round(float(value), 2) for name, value in row.scores.items() if isfinite(value)},
        }
        yield content, pages.base64_of(photograph)
    if row is None:
        raise CaptionerError("received no rows; a report needs at least one picture with a caption")


def _more(row: Row) -> dict[str, Any]:
    """Return the light of each head, how much was looked, samples and likelihoods, of a row that has them."""
    more: dict[str, Any] = {}
    if row.samples:
        more["samples"] = list(row.samples)
    if row.teacher_forced:
        more["teacherForced"] = row.teacher_forced
    if row.nll:
        more["nll"] = {name: round(float(value), 2) for name, value in row.nll.items() if isfinite(value)}
    if row.heads is not None and row.words:
        by_head = np.moveaxis(row.heads.reshape(*row.heads.shape[:2], -1), 1, 0)  # [N, T, P]
        more["heads"] = [pages.base64_of(quantized_light(weights).tobytes()) for weights in by_head]
    if row.grounding is not None:
        more["grounding"] = [round(float(share), 3) for share in row.grounding]
    return more


def _shown(name: str, score: Mapping[str, Any]) -> dict[str, Any]:
    """Return a line of the table of scores."""
    value, low, high = (_number(score.get(key)) for key in ("value", "low", "high"))
    return {
        "name": name,
        "value": NONE if value is None else f"{value:.1f}",
        "interval": NONE if low is None or high is None else f"{low:.1f} to {high:.1f}",
        "bar": None if value is None else _bar([number for number in (value, low, high) if number is not None]),
        "signature": score.get("signature"),
    }


def _bar(numbers: Sequence[float]) -> dict[str, Any]:
    """Return where a value and, if they are given, both ends of its interval lie.

    The scale, of 100, goes from 0 to the least of `SCALE_ENDS` that holds them.
    """
    end = next((end for end in SCALE_ENDS if max(numbers) <= end), ceil(max(numbers)))
    at = [100 * min(max(number, 0), end) / end for number in numbers]
    band = (f"{at[1]:.2f}", f"{max(at[2] - at[1], 0):.2f}") if len(at) == 3 else None
    return {"end": end, "at": f"{at[0]:.2f}", "band": band}


def _number(value: Any) -> float | None:
    return float(value) if value is not None and isfinite(value) else None
