"""How a score was made, in one line beside it: `CIDEr|references:5|split:test|pictures:500|beam:3`, say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata

from captioner.scoring import METRICS as CAPTION_METRICS

CAPTION_SCORES = frozenset(column for columns in CAPTION_METRICS.values() for column in columns)


@dataclass(frozen=True)
class Signature:
    """How a score was made; scores can be compared where their parts are equal.

    Attributes:
        score: its name.
        parts: by name, in their order.
    """

    score: str
    parts: dict[str, str]

    def __str__(self) -> str:
        return "|".join([self.score, *(f"{name}:{value}" for name, value in self.parts.items())])

    @classmethod
    def parse(cls, text: str) -> "Signature":
        """Return what `str` gave the text of."""
        score, *parts = text.split("|")
        return cls(score, {name: value for name, _, value in (part.partition(":") for part in parts)})

    def is_of(self, weights_sha256: str) -> bool:
        """Whether the score is that of a model with these weights."""
        return self.parts.get("weights") == _short(weights_sha256)


@dataclass(frozen=True)
class Setting:
    """How scores came about: what stands in their signatures.

    Attributes:
        references: how many a picture has, `5` or `4-6`.
        pictures: how many.
        beam: width of the search.
        length_normalization: of the search.
        weights_sha256: hash of the values of the model's weights.
        split: which pictures.
        copies: whether references repeat others of their picture, which are then left out along with them.
        samples: how many captions of a picture the scores of several were drawn for.
        skipped: how many pictures of the data set were left out, since they could not be read.
        subwords: how many subwords the vocabulary has, which likelihoods count; 0 where they count words.
    """

    references: str
    pictures: int
    beam: int
    length_normalization: float
    weights_sha256: str
    split: str = "test"
    copies: bool = False
    samples: int = 0
    skipped: int = 0
    subwords: int = 0

    def signature(self, name: str, of_model: bool = True) -> Signature:
        """Return how a score was made; those of baselines name no model."""
        caption_metric = any(name == metric or name.startswith(f"{metric}-") for metric in CAPTION_SCORES)
        if caption_metric:
            parts = {"pycocoevalcap": metadata.version("pycocoevalcap"), "tokenizer": "PTB-3.4.1"}
        else:
            parts = {"captioner": metadata.version("captioner")}
        one_out = caption_metric and name.endswith(("-person", "-leave-one-out"))
        left_out = f",one-left-out{',copies-left-out' if self.copies else ''}" if one_out else ""
        parts |= {"references": f"{self.references}{left_out}", "split": self.split, "pictures": str(self.pictures)}
        if self.skipped:
            parts["skipped"] = str(self.skipped)
        likelihood = name.startswith(("nll", "perplexity"))
        if likelihood and self.subwords:
            parts["subwords"] = str(self.subwords)
        if of_model:
            if _of_samples(name):
                parts["samples"] = str(self.samples)
            elif not likelihood:
                parts |= {"beam": str(self.beam), "length-normalization": f"{self.length_normalization:g}"}
            parts["weights"] = _short(self.weights_sha256)
        return Signature(name, parts)


def _of_samples(name: str) -> bool:
    return (name.startswith(("mBLEU", "distinct-")) and name != "distinct-captions") or name.endswith("-samples")


def number_of_references(references: Mapping[str, Sequence[str]]) -> str:
    """Return how many references a picture has, as a signature says it: `5`, or `4-6`."""
    counts = {len(many) for many in references.values()}
    return "-".join(map(str, sorted({min(counts), max(counts)})))


def _short(sha256: str) -> str:
    return sha256[:12]
