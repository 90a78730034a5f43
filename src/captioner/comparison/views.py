"""A comparison of runs on the terminal, as JSON, and as a page."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from math import isnan
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from captioner.comparison.compare import (
    LOWER_IS_BETTER,
    Comparison,
    Pair,
    Score,
    decimals_of,
    differing,
    interval,
    number,
)
from captioner.evaluation import BASELINES
from captioner.evaluation.bootstrap import CONFIDENCE, Difference
from captioner.reports import pages
from captioner.reports.wording import NONE, counted, decimal, digits, probability

_HEADINGS = {
    "scores": "Scores, with their 95 % intervals",
    "plain": "Scores",
    "baselines": "Baselines, the same for all runs",
    "differences": "Differences",
    "words": "Summary",
    "notes": "Notes",
}
_GAP = 2  # columns between the cells of a table
_UNBOUNDED = 100_000  # columns of what is no terminal


def show(comparison: Comparison, console: Console) -> None:
    """Print tables, then sentences; on a terminal in its width, elsewhere one line a row and sentence."""
    if console.is_terminal:
        _print(comparison, console, console.width)
        return
    wide = Console(width=_UNBOUNDED, color_system=None, force_terminal=False)
    with wide.capture() as captured:
        _print(comparison, wide, _UNBOUNDED)
    for line in captured.get().splitlines():
        console.file.write(f"{line.rstrip()}\n")


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return what can be written as JSON.

    The keys:

    - `pictures`, `resamples`, `confidence` (of the intervals, 0.95);
    - `runs`, a list: `name`, `attention` (null where it is not known), and `scores`: by name, `value`, `low`, `high`
      (null, here and below, where there is no interval);
    - `baselines`: by name, `value`, `low`, `high`, and `what` it is;
    - `differences`, a list, by score and then by pair: `score`, `one` and `other` (names of runs), `value` (of `one`
      less that of `other`), `low`, `high`, `p` (of this pair by itself; null where one picture allows no test),
      `corrected_p` (for all pairs of this score), `stands` (whether that is below 0.05), `better` (the name of a run;
      null where nothing stands), `words`;
    - `notes`, a list of sentences.
    """
    names = comparison.names
    return {
        "pictures": comparison.pictures,
        "resamples": comparison.resamples,
        "confidence": CONFIDENCE,
        "runs": [
            {
                "name": name,
                "attention": attention or None,
                "scores": {score: _plain(each[place]) for score, each in comparison.scores.items()},
            }
            for place, (name, attention) in enumerate(zip(names, comparison.attentions, strict=True))
        ],
        "baselines": {
            name: _plain(score) | {"what": _baseline(name)[1]} for name, score in comparison.baselines.items()
        },
        "differences": [
            {
                "score": pair.score,
                "one": names[pair.one],
                "other": names[pair.other],
                **_plain(pair.difference),
                "corrected_p": None if isnan(pair.p) else pair.p,
                "stands": pair.significant,
                "better": None if pair.better is None else names[pair.better],
                "words": words,
            }
            for pair, words in zip(comparison.pairs, comparison.sentences(), strict=True)
        ],
        "notes": comparison.notes,
    }


def page(comparison: Comparison) -> str:
    """Return a self-contained HTML page: the table, the differences drawn as intervals, and the sentences."""
    resamples = f", {comparison.resamples:,} resamples" if comparison.pictures > 1 else ""
    labels = [_titled(score) for score in comparison.scores]
    runs = []
    for place, (name, attention) in enumerate(zip(comparison.names, comparison.attentions, strict=True)):
        cells = [_measured(score, many[place]) for score, many in comparison.scores.items()]
        attention = "" if attention == name else attention
        runs.append((name, attention, [(label, *cell) for label, cell in zip(labels, cells, strict=True)]))
    return pages.template("comparison/comparison.html").render(
        title=f"{', '.join(comparison.short[:-1])} and {comparison.short[-1]}, compared",
        subtitle=f"{len(runs)} runs on the same {counted(comparison.pictures, 'test picture')}{resamples}.",
        headings=_HEADINGS,
        key=_scores_key(comparison),
        header=["run", *labels],
        runs=runs,
        baselines=list(_baseline_rows(comparison)),
        differences=list(_drawn(comparison)),
        notes=comparison.notes,
    )


def _baseline(name: str) -> tuple[str, str]:
    """Return the score that a baseline is of, and what it is: CIDEr, and a person, of CIDEr-person."""
    return next((name.removesuffix(f"-{end}"), what) for end, what in BASELINES.items() if name.endswith(f"-{end}"))


def _plain(measured: Score | Difference) -> dict[str, float | None]:
    return {name: None if isnan(value) else value for name, value in vars(measured).items()}


def _scores_key(comparison: Comparison) -> str:
    bare = all(isnan(each.low) for many in comparison.scores.values() for each in many)
    return "plain" if bare else "scores"


def _measured(score: str, each: Score) -> tuple[str, str]:
    """Return a score's value and its interval, which may be empty."""
    return number(score, each.value), interval(score, each.low, each.high)


def _baseline_rows(comparison: Comparison) -> Iterator[tuple[str, tuple[str, str], str]]:
    for name, score in comparison.baselines.items():
        base, what = _baseline(name)
        yield name, _measured(base, score), what


def _difference(pair: Pair) -> tuple[str, str]:
    value, ends = differing(pair.score, pair.difference)
    return value, ends or NONE


# --- on the terminal -------------------------------------------------------------------------------------------------


def _print(comparison: Comparison, console: Console, width: int) -> None:
    _heading(console, _scores_key(comparison))
    labels = comparison.labels
    columns = {score: [_cell(_measured(score, each)) for each in many] for score, many in comparison.scores.items()}
    for place, block in enumerate(_blocks(columns, max(map(len, ["run", *labels])) + _GAP, width)):
        if place:
            console.print()
        header = ["run", *(_titled(score) for score in block)]
        _table(console, header, zip(labels, *(columns[score] for score in block), strict=True))
    if comparison.baselines:
        _heading(console, "baselines")
        baselines = [(name, _cell(measured), what) for name, measured, what in _baseline_rows(comparison)]
        _table(console, ["score", "value", "what it is"], baselines)
    _heading(console, "differences")
    rows = [
        (
            pair.score,
            f"{comparison.short[pair.one]} − {comparison.short[pair.other]}",
            *_difference(pair),
            probability(pair.difference.p),
            probability(pair.p),
        )
        for pair in comparison.pairs
    ]
    _table(
        console,
        ["score", "runs", "difference", "95 % interval", "p", "p (Holm)"],
        rows,
        bold=[pair.significant for pair in comparison.pairs],
    )
    _heading(console, "words")
    for sentence, pair in zip(comparison.sentences(), comparison.pairs, strict=True):
        console.print(Text(sentence, style="bold" if pair.significant else ""))
    _heading(console, "notes")
    for note in comparison.notes:
        console.print(Text(note))


def _cell(measured: tuple[str, str]) -> str:
    return " ".join(measured).rstrip()


def _heading(console: Console, key: str) -> None:
    console.print(Text(f"\n{_HEADINGS[key]}\n", style="bold underline"))


def _titled(score: str) -> str:
    return f"{score} (lower is better)" if score in LOWER_IS_BETTER else score


def _blocks(columns: dict[str, list[str]], taken: int, width: int) -> list[list[str]]:
    """Share columns out among tables that are no wider than `width`, each with at least one of them."""
    blocks: list[list[str]] = [[]]
    used = taken
    for name, cells in columns.items():
        wide = max(map(len, [_titled(name), *cells])) + _GAP
        if blocks[-1] and used + wide > width:
            blocks.append([])
            used = taken
        blocks[-1].append(name)
        used += wide
    return blocks


def _table(console: Console, header: Sequence[str], rows: Any, bold: Sequence[bool] = ()) -> None:
    boxed = console.is_terminal
    # the box, invisible but for a line below the header, takes one of the columns between cells
    padding = (0, _GAP - 1 if boxed else _GAP, 0, 0)
    table = Table(box=box.SIMPLE_HEAD if boxed else None, show_edge=False, pad_edge=False, padding=padding)
    for name in header:
        table.add_column(Text(name), overflow="fold")
    for place, row in enumerate(rows):
        # Text, since a name in brackets is no markup
        table.add_row(*map(Text, row), style="bold" if bold and bold[place] else "")
    console.print(table)


# --- the page --------------------------------------------------------------------------------------------------------


def _drawn(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """Yield for each score how its differences are drawn."""
    sentences = dict(zip(comparison.pairs, comparison.sentences(), strict=True))
    for score, many in groupby(comparison.pairs, key=lambda pair: pair.score):
        pairs = list(many)
        # 0 in the middle, so that the line of no difference runs through all scores
        reach = max(abs(end) for pair in pairs for end in _ends(pair)) * 1.1 or 1.0
        decimals = digits(reach / 1.1, decimals_of(score))
        yield {
            "score": score,
            "which": "lower is better" if score in LOWER_IS_BETTER else "higher is better",
            "ticks": [
                (_across(end, reach), decimal(end, decimals, signed=True) if end else 0)
                for end in (-reach / 1.1, 0, reach / 1.1)
            ],
            "pairs": [_pair(comparison, pair, sentences[pair], reach) for pair in pairs],
        }


def _ends(pair: Pair) -> tuple[float, ...]:
    """Return the value and, where there are such, the ends of its interval."""
    found = pair.difference
    return tuple(each for each in (found.value, found.low, found.high) if not isnan(each))


def _across(value: float, reach: float) -> str:
    return f"{50 + 50 * value / reach:.2f}%"


def _pair(comparison: Comparison, pair: Pair, sentence: str, reach: float) -> dict[str, Any]:
    value, ends = _difference(pair)
    return {
        "stands": pair.significant,
        "one": comparison.short[pair.one],
        "other": comparison.short[pair.other],
        # where the circle lies and, where there are such, the ends of the line
        "at": [_across(end, reach) for end in _ends(pair)],
        "value": value,
        "interval": ends,
        "p": probability(pair.p, named=True),
        "sentence": sentence,
    }
