"""What a model is, in words and numbers, without loading it."""

import json
from pathlib import Path
from typing import Any

from captioner.common.workspace import EVALUATED
from captioner.evaluation.signature import Signature
from captioner.model.description import VOCABULARY, Description, image_size_and_crop, learned, no_model
from captioner.reports.wording import interval
from captioner.text.vocabulary import SPECIAL_TOKENS, Vocabulary

SCORES = EVALUATED / "scores.json"
HEADINGS = ("BLEU-1", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr", "nll", "true-captions", "pointing-accuracy")
"""The scores that the table shows; `as_json` has all."""


def about(directory: Path) -> dict[str, Any]:
    """Return what is known of a model: a JSON object.

    `scores` are those that lie beside a model in its checkout, by name, each with value, the ends of its 95 % interval
    and its signature; empty, unless they were measured with these very weights.

    Raises:
        CaptionerError: there is no whole model in the directory.
    """
    described = Description.read(directory)
    try:
        vocabulary = Vocabulary.load(directory / VOCABULARY)
        return {
            "model": str(directory),
            "data": described.params.get("dataset"),
            "attention": described.params.get("attention"),
            "encoder": dict(described.encoder),
            "words": len(vocabulary) - len(SPECIAL_TOKENS),
            "vocabulary": vocabulary.described(),
            "word_vectors": described.word_vectors,
            "maximum_words": described.maximum_words,
            "weights_sha256": described.weights_sha256,
            "scores": _scores(directory, described.weights_sha256),
            "params": described.params,
        }
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise no_model(directory, error) from None


def _scores(directory: Path, weights_sha256: str) -> dict[str, dict[str, Any]]:
    """Return the scores of these weights in the checkout that has the model as `models/captioner`."""
    try:
        scores = json.loads((directory.resolve().parents[1] / SCORES).read_text("utf-8"))
        return {
            name: entry for name, entry in scores.items() if Signature.parse(entry["signature"]).is_of(weights_sha256)
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return {}


def table(known: dict[str, Any]) -> list[str]:
    """Return the lines that tell a person the same."""
    encoder = known["encoder"]
    size, crop = image_size_and_crop(encoder)
    weights = learned(encoder) or ("its own weights" if "file" in encoder else f"weights {encoder['weights']}")
    rows = [
        ("model", known["model"]),
        ("data", known["data"] or "unknown"),
        ("attention", known["attention"] or "unknown"),
        ("encoder", f"{encoder['name']}, {weights} ({encoder['weights_sha256'][:12]})"),
        ("pictures", f"{size} pixels, crop {crop}"),
        ("vocabulary", known["vocabulary"]),
        ("captions", f"at most {known['maximum_words']} words long"),
        ("weights", known["weights_sha256"][:12]),
    ]
    if vectors := known["word_vectors"]:
        rows.insert(7, ("vectors", f"{vectors['file']}, of {vectors['covered']} % of the words"))
    lines = [f"{name:12}{value}" for name, value in rows]
    shown = {name: known["scores"][name] for name in HEADINGS if name in known["scores"]}
    if shown:
        ends = {name: interval(entry["low"], entry["high"]) for name, entry in shown.items()}
        lines += ["", "scores, with 95 % intervals:" if any(ends.values()) else "scores:"]
        lines += [
            "  ".join(filter(None, [f"  {name:18}{entry['value']:8.2f}", ends[name], entry["signature"]]))
            for name, entry in shown.items()
        ]
    else:
        lines += ["", "scores: none beside this model; `dvc repro` measures them."]
    lines += ["", "parameters:"]
    lines += [f"  {name} = {json.dumps(value, ensure_ascii=False)}" for name, value in known["params"].items()]
    return lines
