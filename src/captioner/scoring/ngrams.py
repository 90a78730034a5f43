"""BLEU, ROUGE-L and CIDEr of tokenized captions, by pycocoevalcap."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from pycocoevalcap.bleu import bleu_scorer
from pycocoevalcap.cider import cider_scorer
from pycocoevalcap.rouge.rouge import Rouge

from captioner.scoring.statistics import mean

Ngram = tuple[str, ...]
_Counts = Mapping[Ngram, int]  # of the n-grams of one caption
Values = tuple[list[float], list[list[float]], np.ndarray]  # of each column: the corpus's, each picture's; rows [I, S]


class _Counted:
    """How often each n-gram stands in the captions of each picture, counted again in each pass over them.

    Kept, the counts of a large validation split would take as much memory as a model.

    Args:
        tokenized: captions of each picture.
        pictures: how many there are in all, which is what CIDEr takes the length for.
    """

    def __init__(self, tokenized: Sequence[Sequence[str]], pictures: int):
        self._tokenized, self._pictures = tokenized, pictures

    def __len__(self) -> int:
        return self._pictures

    def __iter__(self) -> Iterator[list[_Counts]]:
        return map(cider_scorer.cook_refs, self._tokenized)


@dataclass(frozen=True)
class DocumentFrequencies:
    """How many pictures have an n-gram of one to four words in their references: what CIDEr weighs it by.

    Attributes:
        pictures: how many have references.
        counts: by n-gram. Those of one picture may be left out: CIDEr takes them for those of none. A Counter does not
            grow when it is asked for what it lacks.
    """

    pictures: int
    counts: Counter[Ngram]

    @classmethod
    def of(cls, tokenized: Sequence[Sequence[str]]) -> "DocumentFrequencies":
        """Count those of tokenized references, some for each picture."""
        counting = cider_scorer.CiderScorer()
        counting.crefs = _Counted(tokenized, len(tokenized))
        counting.compute_doc_freq()
        return cls(len(tokenized), Counter(counting.document_frequency))

    def common(self) -> "DocumentFrequencies":
        """Return the same without n-grams of one picture, of which there are the most."""
        return DocumentFrequencies(
            self.pictures, Counter({ngram: count for ngram, count in self.counts.items() if count > 1})
        )


def ngrams_in(tokenized: Sequence[str]) -> set[Ngram]:
    """Return the n-grams of one to four words that stand in some tokenized captions."""
    return {ngram for caption in tokenized for ngram in cider_scorer.cook_test(caption)}


class References:
    """The tokenized captions of some pictures, prepared for BLEU, ROUGE-L and CIDEr.

    Args:
        tokenized: captions of each picture.
        frequencies: those of the collection that the pictures are of; without it, they are the collection.
    """

    def __init__(self, tokenized: list[list[str]], frequencies: DocumentFrequencies | None = None):
        self.tokenized = tokenized
        self._given = frequencies

    @cached_property
    def _frequencies(self) -> DocumentFrequencies:
        return self._given or DocumentFrequencies.of(self.tokenized).common()

    def compute(self, metric: str, hypotheses: list[str]) -> Values:
        """Compute `BLEU`, `ROUGE-L` or `CIDEr` of tokenized captions, one a picture."""
        match metric:
            case "BLEU":
                return self._bleu(hypotheses)
            case "ROUGE-L":
                return self._rouge(hypotheses)
            case _:
                return self._cider(hypotheses)

    def _bleu(self, hypotheses: list[str]) -> Values:
        scorer = bleu_scorer.BleuScorer(n=4)
        scorer.ctest = _counted_matches(hypotheses, self.tokenized)
        return *scorer.compute_score(option="closest"), _rows_of_bleu(scorer.ctest)

    def _rouge(self, hypotheses: list[str]) -> Values:
        scorer = Rouge()
        values = [scorer.calc_score([one], many) for one, many in zip(hypotheses, self.tokenized, strict=True)]
        return [np.mean(values)], [values], rows_of_mean(values)

    def _cider(self, hypotheses: list[str]) -> Values:
        scorer = cider_scorer.CiderScorer()
        scorer.crefs = _Counted(self.tokenized, self._frequencies.pictures)
        scorer.document_frequency = self._frequencies.counts
        scorer.ctest = [cider_scorer.cook_test(hypothesis) for hypothesis in hypotheses]
        values = scorer.compute_cider()
        return [np.mean(values)], [values], rows_of_mean(values)


def bleu_rows(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """Return BLEU's rows `[I, 10]` of tokenized captions, one a picture, against the references of each."""
    return _rows_of_bleu(_counted_matches(hypotheses, references))


def _counted_matches(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    return [
        bleu_scorer.cook_test(hypothesis, bleu_scorer.cook_refs(captions))
        for hypothesis, captions in zip(hypotheses, references, strict=True)
    ]


def _rows_of_bleu(counted: list[dict[str, Any]]) -> np.ndarray:
    rows = [
        (
            one["testlen"],
            min((abs(length - one["testlen"]), length) for length in one["reflen"])[1],  # the closest
            *one["guess"],
            *one["correct"],
        )
        for one in counted
    ]
    return np.array(rows, float)


def rows_of_mean(values: Sequence[float]) -> np.ndarray:
    """Return the rows `[I, 2]` of a score that is a mean, in percent."""
    return mean(100 * float(value) for value in values)
