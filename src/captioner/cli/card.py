"""A model card: what a model is for, what it was made of, how it scores and where it fails, as Markdown.

Every number is read from the files of the run; see Mitchell et al. 2019, "Model Cards for Model Reporting".
"""

import json
from pathlib import Path, PureWindowsPath
from typing import Any

from captioner import __version__
from captioner.cli.about import HEADINGS, SCORES, about
from captioner.model.description import image_size_and_crop, learned
from captioner.reports.wording import counted, decimal, digits, interval

FAILINGS = 5  # captions that are shown
_AGAINST = {
    "BLEU-1": ("BLEU-1-constant", "one constant caption"),
    "BLEU-4": ("BLEU-4-constant", "one constant caption"),
    "METEOR": ("METEOR-constant", "one constant caption"),
    "ROUGE-L": ("ROUGE-L-constant", "one constant caption"),
    "CIDEr": ("CIDEr-constant", "one constant caption"),
    "CIDEr-leave-one-out": ("CIDEr-person", "people, on the same terms"),
    "nll": ("nll-picture-blind", "a decoder that never sees the picture"),
    "pointing-accuracy": ("pointing-chance", "pointing at random"),
}
"""What each score is held against, and what that is."""
_ROWS = (*HEADINGS, "CIDEr-leave-one-out", "distinct-captions", "unseen-4-grams")
_DATA = {
    "scenes": (
        "drawings of coloured shapes, with captions from a small grammar",
        "Comparing attentions, and looking at where they look. It knows shapes on pale grounds and nothing else: of a "
        "photograph it says a sentence about shapes.",
    ),
    "flickr8k": (
        "photographs of people and dogs in action, with captions that people wrote",
        "Comparing attentions, and captions of everyday photographs where a wrong one does no harm. It knows what is "
        "in its training photographs; of other subjects it speaks as if they were people or dogs.",
    ),
    "shards": (
        "shards of pictures and captions of the person who trained it",
        "Pictures like those it was trained on. Whoever shares this model should say here what they are, and how their "
        "captions came about: those of a web crawl are seldom written by people who describe a picture.",
    ),
    "folder": (
        "pictures and captions of the person who trained it",
        "Pictures like those it was trained on. Whoever shares this model should say here what they are.",
    ),
}


def card(directory: Path) -> str:
    """Return the card of a model, with the results that lie beside it, if they were measured with its weights.

    Raises:
        CaptionerError: there is no whole model in the directory.
    """
    known = about(directory)
    encoder, params, vectors = known["encoder"], known["params"], known["word_vectors"]
    size, crop = image_size_and_crop(encoder)
    weights = "its own weights" if "file" in encoder else f"`{_public(encoder['weights'])}`"
    weights += f" (`{encoder['weights_sha256'][:12]}`)"
    kind, use = _DATA.get(known["data"], ("unknown", "Unknown."))
    lines = [
        f"# Model card: {known['attention'] or 'unknown'} attention on {known['data'] or 'unknown'} data",
        "",
        f"Describes a picture in at most {known['maximum_words']} words, and says where it looked for each.",
        "",
        "| | |",
        "|---|---|",
        f"| encoder | `{_public(encoder['name'])}`, {learned(encoder) or 'frozen'}; {weights}; "
        f"pictures of {size} pixels, crop `{crop}` |",
        f"| attention | `{known['attention'] or 'unknown'}` |",
        f"| vocabulary | {known['vocabulary']} |",
        *([f"| word vectors | `{vectors['file']}`, of {vectors['covered']} % of the words |"] if vectors else []),
        f"| data | `{known['data'] or 'unknown'}`: {kind} |",
        f"| weights | `{known['weights_sha256'][:12]}` |",
        "",
        "## Intended use",
        "",
        use,
        "",
        "Not for decisions about people, and not for telling those who cannot see a picture what is in it without "
        "saying that a machine wrote it: a false caption reads like a true one.",
        "",
        *_results(directory, known["scores"]),
        "## Parameters",
        "",
        "```yaml",
        *(f"{name}: {json.dumps(_public(value), ensure_ascii=False)}" for name, value in params.items()),
        "```",
        "",
        f"Written by `captioner info --card`, Captioner {__version__}.",
    ]
    return "\n".join(lines)


def _results(directory: Path, own: dict[str, dict[str, Any]]) -> list[str]:
    if not own:
        return ["## Scores", "", "None lie beside this model; `dvc repro` measures them.", ""]
    file = directory.resolve().parents[1] / SCORES
    scores = json.loads(file.read_text("utf-8"))
    shown = [name for name in _ROWS if name in own]
    sure = any(interval(own[name]["low"], own[name]["high"]) for name in shown)
    lines = [
        "## Scores",
        "",
        "On pictures that it was not trained on, in percent (`nll`: nats per token, less is better)"
        + (", with 95 % intervals over these pictures:" if sure else ":"),
        "",
        "| score | | held against | |",
        "|---|---|---|---|",
    ]
    for name in shown:
        baseline, what = _AGAINST.get(name, ("", ""))
        against = f"| {what} | {_measured(scores[baseline])} |" if baseline in scores else "| | |"
        lines.append(f"| `{name}` | {_measured(own[name])} {against}")
    lines += ["", "```", *(own[name]["signature"] for name in shown), "```", "", "## Limits", "", *_limits(own, sure)]
    worst = _worst(file.with_name("captions.jsonl"))
    if worst:
        lines += [
            f"The {counted(len(worst), 'caption')} with the lowest CIDEr, each beside the first of its references:",
            "",
            "| picture | the model | a reference |",
            "|---|---|---|",
            *(f"| {_cell(row['image'])} | {_cell(row['caption'])} | {_cell(row['references'][0])} |" for row in worst),
            "",
        ]
    return lines


def _limits(own: dict[str, dict[str, Any]], sure: bool) -> list[str]:
    said = []
    if "true-captions" in own:
        said.append(f"- {_rest(own['true-captions'])} % of its captions are not true of their picture.")
    if "distinct-captions" in own:
        said.append(f"- {_rest(own['distinct-captions'])} % of the pictures share their caption with another.")
    if "unseen-4-grams" in own:
        said.append(
            f"- {_share(own['unseen-4-grams']['value'])} % of its captions have a run of four words that stands in no "
            "training caption; all others are put together from what it was shown."
        )
    said.append(
        "- The intervals say how far other pictures would move a score, not how far another training would."
        if sure
        else "- Nothing is known of how far other pictures, or another training, would move a score."
    )
    return [*said, ""]


def _rest(entry: dict[str, Any]) -> str:
    return _share(100 - entry["value"])


def _share(value: float) -> str:
    return decimal(value, digits(value, 1))


def _worst(file: Path) -> list[dict[str, Any]]:
    try:
        rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        return sorted(rows, key=lambda row: row["scores"]["CIDEr"])[:FAILINGS]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _public(value: Any) -> Any:
    """Return a parameter as others may see it: of a path only the last name."""
    return PureWindowsPath(value).name if isinstance(value, str) and set(value) & {"/", "\\"} else value


def _measured(entry: dict[str, Any]) -> str:
    return f"{entry['value']:.2f} {interval(entry['low'], entry['high'])}".rstrip()


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
