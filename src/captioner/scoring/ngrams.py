"""BLEU, ROUGE-L and CIDEr of tokenized captions, by pycocoevalcap."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from pycocoevalcap.bleu import bleu_scorer
from pycocoevalcap.cider import cider_scorer
from pycocoevalcap.rouge.rouge import Rouge

from captioner.scoring.statistics import mean

_Counts = Mapping[tuple[str, ...], int]  # of the n-grams of one caption
Values = tuple[list[float], list[list[float]], np.ndarray]  # of each column: the corpus's, each picture's; rows [I, S]


class _Counted:
    """How often each n-gram stands in the captions of each picture, counted again in each pass over them.

    Kept, the counts of a large validation split would take as much memory as a model.
    """

    def __init__(self, tokenized: list[list[str]]):
        self._tokenized = tokenized

    def __len__(self) -> int:
        return len(self._tokenized)

    def __iter__(self) -> Iterator[list[_Counts]]:
        return map(cider_scorer.cook_refs, self._tokenized)


class References:
    """The tokenized captions of some pictures, prepared for BLEU, ROUGE-L and CIDEr."""

    def __init__(self, tokenized: list[list[str]]):
        self.tokenized = tokenized
        self._counts = _Counted(tokenized)
        counting = cider_scorer.CiderScorer()
        counting.crefs = self._counts
        counting.compute_doc_freq()
        # an n-gram of one picture counts as one of none does; and a Counter does not grow when it is asked for one
        self._document_frequency = Counter(
            {ngram: pictures for ngram, pictures in counting.document_frequency.items() if pictures > 1}
        )

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
        scorer.crefs = self._counts
        scorer.document_frequency = self._document_frequency
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
