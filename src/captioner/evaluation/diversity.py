"""How much of what is said was never said in training."""

from collections.abc import Iterable, Mapping, Sequence

from captioner.scoring.statistics import SufficientStatistics, mean

UNSEEN = (2, 3, 4)


class TrainingGrams:
    """The runs of 2, 3 and 4 words that stand in the training captions.

    Args:
        captions: their words.
    """

    def __init__(self, captions: Iterable[Sequence[str]]):
        self.seen = {run for words in captions for run in ngrams(words, UNSEEN)}

    def unseen(self, captions: Mapping[str, Sequence[Sequence[str]]]) -> SufficientStatistics:
        """Return, in percent of captions, how many have a run of words that training never showed.

        Args:
            captions: by picture, the words of its captions.

        Returns:
            `unseen-2-grams`, `unseen-3-grams` and `unseen-4-grams`.
        """
        rows = {}
        for n in UNSEEN:
            new = [sum(not self.seen.issuperset(ngrams(words, [n])) for words in many) for many in captions.values()]
            rows[f"unseen-{n}-grams"] = mean((100 * count for count in new), (len(many) for many in captions.values()))
        return SufficientStatistics(list(captions), rows)


def ngrams(words: Sequence[str], lengths: Iterable[int] = (1, 2, 3, 4)) -> list[tuple[str, ...]]:
    """Return the n-grams of these lengths, the shorter ones first."""
    return [tuple(words[start : start + n]) for n in lengths for start in range(len(words) - n + 1)]
