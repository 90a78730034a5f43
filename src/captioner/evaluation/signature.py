"""How a score was made, in one line beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata

from captioner.scoring import METRICS as CAPTION_METRICS

CAPTION_SCORES = frozenset(column for columns in CAPTION_METRICS.values() for column in columns)


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
    """

    references: str
    pictures: int
    beam: int
    length_normalization: float
    weights_sha256: str
    split: str = "test"
    copies: bool = False

    def signature(self, name: str, of_model: bool = True) -> str:
        """Return in one line how a score was made, so that it can be held against others; baselines have no model."""
        parts = [name]
        caption_metric = any(name == metric or name.startswith(f"{metric}-") for metric in CAPTION_SCORES)
        if caption_metric:
            parts += [f"pycocoevalcap:{metadata.version('pycocoevalcap')}", "tokenizer:PTB-3.4.1"]
        else:
            parts += [f"captioner:{metadata.version('captioner')}"]
        one_out = caption_metric and name.endswith(("-person", "-leave-one-out"))
        left_out = f",one-left-out{',copies-left-out' if self.copies else ''}" if one_out else ""
        parts += [f"references:{self.references}{left_out}", f"split:{self.split}", f"pictures:{self.pictures}"]
        if of_model:
            if not name.startswith(("nll", "perplexity")):
                parts += [f"beam:{self.beam}", f"length-normalization:{self.length_normalization:g}"]
            parts.append(f"weights:{self.weights_sha256[:12]}")
        return "|".join(parts)


def number_of_references(references: Mapping[str, Sequence[str]]) -> str:
    """Return how many references a picture has, as a signature says it: `5`, or `4-6`."""
    counts = {len(many) for many in references.values()}
    return "-".join(map(str, sorted({min(counts), max(counts)})))
