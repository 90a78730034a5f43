"""A trained model's captions of pictures it never saw, and how good they are."""

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from captioner.common.files import file_names, json_of, replacing, write_json
from captioner.data import Crop, images
from captioner.evaluation.bootstrap import FEWEST, LEVEL, Difference, differences, intervals
from captioner.evaluation.signature import CAPTION_SCORES, Setting, Signature
from captioner.reports import curves, report
from captioner.reports.attention_figure import attention_figure
from captioner.reports.wording import decimal, digits, interval, probability
from captioner.scoring.statistics import SCORES, STATISTICS, SufficientStatistics
from captioner.search.caption import Caption

METRICS = "metrics.json"
CURVES = "curves"
_LARGEST_NLL = math.log(sys.float_info.max)  # its perplexity is the largest floating-point number
_SHARES = (
    *("distinct-captions", "true-captions", "true-colours", "true-shapes"),
    *("pointing-accuracy", "pointing-chance", "attention-mass", "box-share"),
)


def write_scores(
    own: SufficientStatistics, baselines: SufficientStatistics, setting: Setting, directory: Path
) -> dict[str, dict]:
    """Write what a model and its baselines reach on the test pictures.

    - `metrics.json`: a flat object, score by name;
    - `scores.json`: by name, `value`, the ends `low` and `high` of the 95 % bootstrap interval, null where there is
      none (one picture, or pictures that are all alike), and `signature`;
    - `statistics.parquet`: what the scores are made of, picture by picture, see `captioner.evaluation.bootstrap`.

    Beside each negative log-likelihood (`nll`, nats per token) is the same as `perplexity`, unless that is more than a
    floating-point number can be.

    Returns:
        What `scores.json` says.

    Raises:
        NotFiniteError: a score is not finite.
    """
    written: dict[str, dict] = {}
    for statistics, of_model in ((own.checked(), True), (baselines.checked(), False)):
        ends = intervals(statistics)
        for name, value in statistics.scores().items():
            entry = (value, *ends[name])
            _add(written, name, entry, setting.signature(name, of_model))
            if name.startswith("nll") and not any(number >= _LARGEST_NLL for number in entry):
                perplexity = f"perplexity{name.removeprefix('nll')}"
                _add(written, perplexity, tuple(map(math.exp, entry)), setting.signature(perplexity, of_model))
    (own | baselines).write(directory / STATISTICS)
    write_json(directory / SCORES, written)
    write_json(directory / METRICS, {name: entry["value"] for name, entry in written.items()})
    return written


def _add(written: dict[str, dict], name: str, entry: tuple[float, ...], signature: Signature) -> None:
    value, low, high = (None if math.isnan(number) else round(number, 4) for number in entry)
    written[name] = {"value": value, "low": low, "high": high, "signature": str(signature)}


def line(name: str, entry: Mapping[str, Any]) -> str:
    """Return a score of `scores.json` as a line to print."""
    return "  ".join(
        filter(None, [f"{name:32} {entry['value']:7.2f}", interval(entry["low"], entry["high"]), entry["signature"]])
    )


def remarks(own: SufficientStatistics, baselines: SufficientStatistics, copies: str = "") -> list[str]:
    """Say in words whether a model is better than its baselines, and how far people are.

    A model beats a baseline, or is worse, where a test says so (`p` below 0.05); else there is no verdict.

    Args:
        own: of the model.
        baselines: of the same pictures.
        copies: what is to be said of references that repeat others, see `Scorer.copies_in_words`.
    """
    pictures = len(own.images)
    said = []
    for name, baseline, title, unit, sign in (
        ("nll", "nll-picture-blind", "the decoder that never sees a picture", " nats per token", -1),
        ("CIDEr", "CIDEr-constant", "one constant caption for all pictures", " CIDEr", 1),
    ):
        if name in own.rows and baseline in baselines.rows and not (name == "CIDEr" and pictures == 1):
            model = SufficientStatistics(own.images, {name: own.rows[name]})
            against = SufficientStatistics(baselines.images, {name: baselines.rows[baseline]})
            said += [_remark(found, title, unit, sign) for found in differences(model, against).values()]
    if pictures == 1:
        zero = ", and CIDEr is 0 on a single picture, whatever the caption" if "CIDEr" in own.rows else ""
        said.append(f"One test picture allows neither intervals nor verdicts{zero}.")
    elif said and pictures < FEWEST:
        said.append(f"On {pictures} test pictures no difference can be significant: it takes {FEWEST} or more.")
    scores, of_baselines = own.scores(), baselines.scores()
    reached, person = scores.get("CIDEr-leave-one-out"), of_baselines.get("CIDEr-person")
    if reached is not None and person is not None and pictures > 1:
        said.append(
            f"Held against all references of a picture but one{' and its copies' if copies else ''}, the model reaches "
            f"{reached:.1f} CIDEr, and the reference left out {person:.1f}."
        )
    if "nll" in scores and "nll-samples" in scores:
        said.append(
            f"The references surprise the model by {scores['nll']:.2f} nats per token, captions that it draws itself "
            f"by {scores['nll-samples']:.2f}."
        )
    if "mBLEU-4" in scores and "mBLEU-4-person" in of_baselines:
        said.append(
            f"How much the captions of a picture repeat each other, mBLEU-4: {scores['mBLEU-4']:.1f} of those that the "
            f"model draws, {of_baselines['mBLEU-4-person']:.1f} of the references."
        )
    return said + ([copies] if copies else [])


def _remark(found: Difference, title: str, unit: str, sign: int) -> str:
    gain = sign * found.value
    decimals = digits(gain, 2)
    by = f"{decimal(abs(gain), decimals)}{unit}"
    if math.isnan(found.p):
        how = f"{'better' if gain > 0 else 'worse'} than {title} by {by}" if gain else f"equal to {title}"
        return f"On one picture, which allows no test, the model is {how}."
    if found.nothing:
        return f"The model and {title} are equal: the difference is 0{unit}."
    least, most = sorted((sign * found.low, sign * found.high))
    ends = "" if math.isnan(least) else f"95 % interval {decimal(least, decimals)} to {decimal(most, decimals)}, "
    sure = f"({ends}{probability(found.p, named=True)})"
    if found.p >= LEVEL:
        way = f"better by {by}" if gain > 0 else f"worse by {by}" if gain else "as good"
        return f"The model and {title} are not significantly different: on these pictures the model is {way} {sure}."
    if gain < 0:
        below, above = decimal(-most, decimals), decimal(-least, decimals)
        ends = f"95 % interval {below} to {above}, " if ends else ""
        return f"The model is worse than {title} by {by} ({ends}{probability(found.p, named=True)})."
    return f"The model beats {title}: better by {by} {sure}."


def write_curves(
    history: Path, scores: Mapping[str, Mapping[str, Any]], directory: Path, dropout: bool = False
) -> None:
    """Write training by epoch beside the baselines: `curves.csv`, and `curves.png` with both kinds of validation.

    A baseline that was not measured, as people are where a picture has one caption, stands as `nan` in the table: DVC
    draws no line for it, where it would warn of a missing column.

    Args:
        history: the table that training wrote.
        scores: by name, with their `value`.
        directory: where to.
        dropout: whether the training had any.
    """
    names = (*_CURVE_BASELINES["nll"], *_CURVE_BASELINES["CIDEr"])
    values = {name: scores[name]["value"] if name in scores else None for name in names}
    lines = {name: math.nan if value is None else value for name, value in values.items()}
    table = pd.read_csv(history).assign(**lines)
    with replacing(directory / f"{CURVES}.csv") as beside:
        table.to_csv(beside, index=False, na_rep="nan")
    with replacing(directory / f"{CURVES}.png") as beside:
        curves.learning_curves(table, _CURVE_BASELINES, dropout).save(beside, "PNG")


_CURVE_BASELINES = {
    "nll": ("nll-unigram", "nll-unigram-by-position", "nll-picture-blind"),
    "CIDEr": ("CIDEr-constant", "CIDEr-person"),
}


@dataclass(frozen=True)
class Evaluated:
    """What was found of the test pictures, by picture.

    Attributes:
        captions: by the search.
        references: what people wrote.
        scores: of the caption alone, one row a picture (the index).
        samples: captions drawn as the model's probabilities have it, if any were.
        nll: how surprised the model is, in nats per token: by the `references`, each word after the true words before
            it, and by its own `samples`, each after its own words, if there are any.
        teacher_forced: the words that the model finds most probable after each beginning of the first reference.
    """

    captions: Mapping[str, Caption]
    references: Mapping[str, Sequence[str]]
    scores: pd.DataFrame
    samples: Mapping[str, Sequence[str]] = field(default_factory=dict)
    nll: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    teacher_forced: Mapping[str, str] = field(default_factory=dict)


def nll_by_image(own: SufficientStatistics) -> dict[str, dict[str, float]]:
    """Return, by picture, the means of `nll` and `nll-samples`, as far as they were measured."""
    names = {"nll": "references", "nll-samples": "samples"}
    means = {names[name]: rows[:, 0] / rows[:, 1] for name, rows in own.rows.items() if name in names}
    return {
        image: {name: round(float(values[row]), 4) for name, values in means.items()}
        for row, image in enumerate(own.images)
    }


def write_captions(found: Evaluated, path: Path) -> None:
    """Write a JSON object a line and picture: `image`, `caption`, `references`, `log_probability`, `scores`.

    With `nll`, `samples` and `teacher_forced`, as far as there are any, see `Evaluated`. Of an attention that need not
    look there is also `grounding`, how much it looked at each word, 0 to 1.
    """
    own = found.scores.round(4).to_dict("index")
    with replacing(path) as beside, beside.open("w", encoding="utf-8") as file:
        for image, caption in found.captions.items():
            row = {
                "image": image,
                "caption": caption.text,
                "references": found.references[image],
                "log_probability": round(caption.log_probability, 4),
                "scores": own[image],
            }
            if nll := found.nll.get(image):
                row["nll"] = nll
            if forced := found.teacher_forced.get(image):
                row["teacher_forced"] = forced
            if samples := found.samples.get(image):
                row["samples"] = samples
            if caption.grounding is not None:
                row["grounding"] = caption.grounding.astype(float).round(4).tolist()
            file.write(json_of(row) + "\n")


def write_report(
    title: str,
    scores: Mapping[str, Mapping[str, Any]],
    said: Sequence[str],
    pictures: Iterable[bytes],
    found: Evaluated,
    path: Path,
    crop: Crop = "stretch",
) -> None:
    """Write the page that shows every picture as the encoder sees it; they come in the order of `found.scores`."""
    own: dict[Any, dict[Any, float]] = found.scores.to_dict("index")
    rows = (
        report.Row(
            image,
            picture,
            found.captions[image].words,
            found.captions[image].attention_by_position,
            found.references[image],
            scored,
            found.captions[image].heads,
            found.captions[image].grounding,
            found.samples.get(image, ()),
            found.nll.get(image, {}),
            found.teacher_forced.get(image, ""),
        )
        for (image, scored), picture in zip(own.items(), pictures, strict=True)
    )
    shown = {name: entry for name, entry in scores.items() if name in CAPTION_SCORES or name in _SHARES}
    report.write(path, title, shown, rows, said, crop)


def write_attention(
    pictures: Mapping[str, bytes],
    captions: Mapping[str, Caption],
    references: Mapping[str, Sequence[str]],
    path: Path,
    crop: Crop = "stretch",
) -> None:
    """Write, for each of the pictures, a PNG of where in it the model looked for each word."""
    with replacing(path) as beside:
        beside.mkdir()
        # the whole name, since a/dog.jpg and b/dog.gif are two pictures; in MLflow they lie beside the curves
        plain = (image.removesuffix(".png") for image in pictures)
        names = file_names(plain, ".png", taken=[f"{CURVES}.png"])
        for (image, data), name in zip(pictures.items(), names, strict=True):
            caption = captions[image]
            lines = f"{caption.text}\n{references[image][0]}"
            seen = images.decode(data, crop=crop)
            figure = attention_figure(seen, caption.words, caption.attention_by_position, lines)
            figure.save(beside / name)
