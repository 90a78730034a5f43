"""A comparison of runs on the terminal, as JSON, and as a page."""

from collections.abc import Sequence
from html import escape
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
from captioner.reports.wording import NONE, counted, decimal, digits, probability

_HEADINGS = {
    "scores": "Scores, with their 95 % intervals",
    "plain": "Scores",
    "baselines": "What the data gives, whatever the run",
    "differences": "Differences",
    "words": "In words",
    "notes": "To know",
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
    title = f"{', '.join(comparison.short[:-1])} and {comparison.short[-1]}, compared"
    parts = [
        f"<header><h1>{escape(title)}</h1><p class=quiet>{len(comparison.names)} runs on the same "
        f"{counted(comparison.pictures, 'test picture')}{_resampled(comparison)}.</p></header>",
        _section(_scores_key(comparison), _scores_table(comparison)),
        _section("baselines", _baselines_table(comparison)) if comparison.baselines else "",
        _section("differences", _drawn(comparison)),
        _section("notes", "".join(f"<p>{escape(note)}</p>" for note in comparison.notes)),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )


def _baseline(name: str) -> tuple[str, str]:
    """Return the score that a baseline is of, and what it is: CIDEr, and a person, of CIDEr-person."""
    return next((name.removesuffix(f"-{end}"), what) for end, what in BASELINES.items() if name.endswith(f"-{end}"))


def _plain(measured: Score | Difference) -> dict[str, float | None]:
    return {name: None if isnan(value) else value for name, value in vars(measured).items()}


def _scores_key(comparison: Comparison) -> str:
    bare = all(isnan(each.low) for many in comparison.scores.values() for each in many)
    return "plain" if bare else "scores"


def _resampled(comparison: Comparison) -> str:
    return f", {comparison.resamples:,} resamples" if comparison.pictures > 1 else ""


def _cell(score: str, each: Score) -> str:
    return f"{number(score, each.value)} {interval(score, each.low, each.high)}".rstrip()


def _baseline_rows(comparison: Comparison) -> list[tuple[str, str, str]]:
    rows = []
    for name, score in comparison.baselines.items():
        base, what = _baseline(name)
        rows.append((name, _cell(base, score), what))
    return rows


def _difference(pair: Pair) -> tuple[str, str]:
    value, ends = differing(pair.score, pair.difference)
    return value, ends or NONE


# --- on the terminal -------------------------------------------------------------------------------------------------


def _print(comparison: Comparison, console: Console, width: int) -> None:
    _heading(console, _scores_key(comparison))
    labels = comparison.labels
    columns = {score: [_cell(score, each) for each in many] for score, many in comparison.scores.items()}
    for place, block in enumerate(_blocks(columns, max(map(len, ["run", *labels])) + _GAP, width)):
        if place:
            console.print()
        header = ["run", *(_titled(score) for score in block)]
        _table(console, header, zip(labels, *(columns[score] for score in block), strict=True))
    if comparison.baselines:
        _heading(console, "baselines")
        _table(console, ["score", "value", "what it is"], _baseline_rows(comparison))
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


def _section(key: str, content: str) -> str:
    return f"<section class={key}><h2>{escape(_HEADINGS[key])}</h2>{content}</section>"


def _scores_table(comparison: Comparison) -> str:
    head = "".join(f"<th scope=col>{escape(_titled(score))}</th>" for score in comparison.scores)
    rows = []
    for place, (name, attention) in enumerate(zip(comparison.names, comparison.attentions, strict=True)):
        second = f"<small>{escape(attention)}</small>" if attention and attention != name else ""
        cells = [
            f'<td data-label="{escape(_titled(score))}">{_measured(score, many[place])}</td>'
            for score, many in comparison.scores.items()
        ]
        rows.append(f"<tr><th scope=row>{_breakable(name)} {second}</th>{''.join(cells)}</tr>")
    head = f"<thead><tr><th scope=col>run</th>{head}</tr></thead>"
    return f"<table class=runs>{head}<tbody>{''.join(rows)}</tbody></table>"


def _baselines_table(comparison: Comparison) -> str:
    rows = []
    for name, score in comparison.baselines.items():
        base, what = _baseline(name)
        rows.append(
            f"<tr><th scope=row>{escape(name)}</th><td>{_measured(base, score)}</td><td>{escape(what)}</td></tr>"
        )
    head = "<thead><tr><th scope=col>score</th><th scope=col>value</th><th scope=col>what it is</th></tr></thead>"
    return f"<table>{head}<tbody>{''.join(rows)}</tbody></table>"


def _measured(score: str, each: Score) -> str:
    ends = interval(score, each.low, each.high)
    return f"<span>{number(score, each.value)}</span>" + (f" <small>{ends}</small>" if ends else "")


def _breakable(name: str) -> str:
    return escape(name).replace("/", "/<wbr>")


def _drawn(comparison: Comparison) -> str:
    sentences = dict(zip(comparison.pairs, comparison.sentences(), strict=True))
    parts = [
        "<p class=quiet>The circle is the difference, the line its 95 % interval. Filled: it stands at 0.05 after "
        "correction. Hollow: the runs cannot be told apart, or there was no test.</p>"
    ]
    for score, many in groupby(comparison.pairs, key=lambda pair: pair.score):
        pairs = list(many)
        # 0 in the middle, so that the line of no difference runs through all scores
        reach = max(abs(end) for pair in pairs for end in _ends(pair)) * 1.1 or 1.0
        decimals = digits(reach / 1.1, decimals_of(score))
        which = "lower is better" if score in LOWER_IS_BETTER else "higher is better"
        ticks = "".join(
            f"<text x={_across(end, reach)} y=80%>{decimal(end, decimals, signed=True) if end else 0}</text>"
            for end in (-reach / 1.1, 0, reach / 1.1)
        )
        head = (
            f"<div class=pair><h3>{escape(score)} <small>{which}</small></h3><svg aria-hidden=true>{ticks}</svg>"
            "<div class='figures quiet'><small>difference</small><small>interval</small><small>corrected</small></div>"
            "</div>"
        )
        rows = "".join(_pair(comparison, pair, sentences[pair], reach) for pair in pairs)
        parts.append(f"<div class=score>{head}{rows}</div>")
    return "".join(parts)


def _ends(pair: Pair) -> tuple[float, ...]:
    """Return the value and, where there are such, the ends of its interval."""
    found = pair.difference
    return tuple(each for each in (found.value, found.low, found.high) if not isnan(each))


def _across(value: float, reach: float) -> str:
    return f"{50 + 50 * value / reach:.2f}%"


def _pair(comparison: Comparison, pair: Pair, sentence: str, reach: float) -> str:
    found = pair.difference
    value, ends = _difference(pair)
    runs = f"{_breakable(comparison.short[pair.one])} − {_breakable(comparison.short[pair.other])}"
    span = f"x1={_across(found.low, reach)} x2={_across(found.high, reach)}"
    svg = (
        f'<svg role=img aria-label="{escape(f"{value} {ends}")}"><line class=zero x1=50% x2=50% y1=0 y2=100% />'
        + ("" if isnan(found.low) else f"<line class=span {span} y1=50% y2=50% />")
        + f"<circle cx={_across(found.value, reach)} cy=50% r=5 /></svg>"
    )
    return (
        f'<div class="pair{" stands" if pair.significant else ""}"><div class=who>{runs}</div>{svg}'
        f"<div class=figures><span>{value}</span> "
        f"<small>{ends}</small> <small>{escape(probability(pair.p, named=True))}</small></div>"
        f"<p>{escape(sentence)}</p></div>"
    )


STYLE = """
:root { color-scheme: light dark; --page: #f7f5f1; --card: #fff; --ink: #1e1c19; --quiet: #625d55; --line: #e2ddd4;
  --mark: #8c5000; --zero: #8a8479; }
@media (prefers-color-scheme: dark) {
  :root { --page: #151412; --card: #1e1c1a; --ink: #ece8e1; --quiet: #aaa397; --line: #35322d; --mark: #ffbe4d;
    --zero: #7d766b; }
}
* { box-sizing: border-box; margin: 0; }
body { background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main { max-width: 88rem; margin: 0 auto; padding: clamp(1rem, 4vw, 3rem) clamp(.75rem, 3vw, 2rem);
  display: grid; gap: 1.25rem; grid-template-columns: minmax(0, 1fr); }
h1 { font-size: clamp(1.4rem, 1.1rem + 1.6vw, 2.1rem); line-height: 1.2; overflow-wrap: anywhere; text-wrap: balance; }
h2 { font-size: 1.15rem; margin-bottom: .75rem; }
h3 { font-size: 1rem; }
section > .quiet { margin-bottom: 1rem; }
.quiet, small, h3 small { color: var(--quiet); font-weight: 400; }
small { font-size: .8125rem; }
h3 small { white-space: nowrap; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 1.1rem 1.25rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .5rem .75rem .5rem 0; border-top: 1px solid var(--line); vertical-align: top; }
thead th { border-top: 0; padding-top: 0; color: var(--quiet); font-size: .8125rem; font-weight: 400; }
.runs th { overflow-wrap: anywhere; }
td span { font-weight: 650; }
td small, th small { white-space: nowrap; }
.runs td span, .runs td small, .runs th small { display: block; }
.runs thead th:first-child { width: 16%; }
.score { border-top: 1px solid var(--line); padding: .9rem 0 .5rem; }
.pair { display: grid; grid-template-columns: 13rem minmax(8rem, 1fr) 17rem; gap: .1rem 1.25rem; align-items: center;
  padding: .35rem 0; }
.pair svg { width: 100%; height: 1.6rem; overflow: visible; }
.pair p { grid-column: 1 / -1; color: var(--quiet); font-size: .875rem; }
.who, .pair p, section p { overflow-wrap: anywhere; }
.figures { font-variant-numeric: tabular-nums; display: grid; grid-template-columns: 4rem 1fr auto; gap: .5rem;
  align-items: baseline; }
.figures > :first-child { text-align: right; }
svg text { fill: var(--quiet); font-size: .75rem; text-anchor: middle; }
.stands .figures span, .stands p { font-weight: 650; color: var(--ink); }
.zero { stroke: var(--zero); stroke-dasharray: 2 3; }
.span { stroke: var(--quiet); stroke-width: 2; }
circle { fill: var(--card); stroke: var(--quiet); stroke-width: 2; }
.stands .span { stroke: var(--mark); stroke-width: 3; }
.stands circle { fill: var(--mark); stroke: var(--mark); }
.notes p + p { margin-top: .5rem; }
@media (max-width: 70rem) {
  .runs thead { position: absolute; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden; }
  .runs tbody, .runs tr, .runs th, .runs td { display: block; padding-right: 0; }
  .runs tr { display: grid; grid-template-columns: repeat(auto-fill, minmax(7.5rem, 1fr)); gap: 0 1rem;
    padding-bottom: .75rem; }
  .runs tr > th { grid-column: 1 / -1; font-weight: 650; }
  .runs td { border-top: 0; }
  .runs td::before { content: attr(data-label); display: block; color: var(--quiet); font-size: .8125rem; }
}
@media (max-width: 52rem) {
  td small { display: block; }
  .pair { grid-template-columns: minmax(0, 1fr); gap: .15rem; padding: .6rem 0; }
  .pair h3 + svg + .figures { display: none; }
  .figures { grid-template-columns: auto auto 1fr; justify-content: start; }
}
@media (max-width: 32rem) {
  .baselines thead { position: absolute; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden; }
  .baselines tr { display: grid; grid-template-columns: minmax(0, 1fr) auto; border-top: 1px solid var(--line); }
  .baselines th, .baselines td { border: 0; padding: .4rem 0 0; }
  .baselines td:last-child { grid-column: 1 / -1; padding: 0 0 .5rem; color: var(--quiet); font-size: .875rem; }
}
"""
