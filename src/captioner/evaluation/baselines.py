"""What a model has to beat: word frequencies, and one caption for all pictures.

Legend: `L` captions · `T` tokens · `V` vocabulary.
"""

import functools
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from captioner.evaluation.diversity import ngrams
from captioner.scoring.scorer import Scorer
from captioner.scoring.statistics import SufficientStatistics, mean
from captioner.text.vocabulary import PAD, Vocabulary

CANDIDATES = 4
AT_A_TIME = 10_000  # captions that are counted together


class WordFrequencies:
    """A model that knows how often each word stands in the training captions, and no more.

    No word has the probability 0: each distribution is as if `V` more tokens had been seen, which the frequencies of
    all words share evenly, and those by position in proportion to the frequencies of all.

    Args:
        targets: what a decoder must say in training, some captions at a time, int `[L, T]`: words, the end, `PAD`
            behind.
        vocabulary: `V`.
    """

    def __init__(self, targets: Iterable[np.ndarray], vocabulary: int):
        counts = (np.stack([np.bincount(column, minlength=vocabulary) for column in some.T]) for some in targets)
        by_position = functools.reduce(np.add, counts).astype(float)
        by_position[:, PAD] = 0
        counts = by_position.sum(axis=0)
        self.everywhere = (counts + 1) / (counts.sum() + vocabulary)  # [V]
        smoothed = by_position + vocabulary * self.everywhere
        self.by_position = smoothed / smoothed.sum(axis=1, keepdims=True)  # [T, V]

    def nll(self, targets: np.ndarray) -> dict[str, np.ndarray]:
        """Return the negative log-likelihood of captions `[L, T]`, in nats, `[L]`: `unigram`, `unigram-by-position`."""
        real = targets != PAD
        positions = np.broadcast_to(np.arange(targets.shape[1]), targets.shape)
        chosen = {"unigram": self.everywhere[targets], "unigram-by-position": self.by_position[positions, targets]}
        return {name: -(np.log(each) * real).sum(axis=1) for name, each in chosen.items()}


def nll_of_frequencies(
    training: Iterable[str], references: Mapping[str, Sequence[str]], vocabulary: Vocabulary, maximum_words: int
) -> SufficientStatistics:
    """Return `nll-unigram` and `nll-unigram-by-position`, in nats per token, on the references of pictures.

    Args:
        training: captions that the frequencies are counted in.
        references: by picture, the captions that are predicted.
        vocabulary: makes tokens of both.
        maximum_words: longer captions are cut, as they are for a decoder.
    """
    rest = iter(training)
    some = iter(lambda: list(itertools.islice(rest, AT_A_TIME)), [])
    frequencies = WordFrequencies((vocabulary.encode_batch(each, maximum_words) for each in some), len(vocabulary))
    captions = [caption for many in references.values() for caption in many]
    targets = vocabulary.encode_batch(captions, maximum_words)
    starts = np.cumsum([0, *(len(many) for many in references.values())][:-1])
    tokens = np.add.reduceat((targets != PAD).sum(axis=1), starts)
    return SufficientStatistics(
        list(references),
        {f"nll-{name}": mean(np.add.reduceat(nll, starts), tokens) for name, nll in frequencies.nll(targets).items()},
    )


def best_constant(candidates: Iterable[str], references: Mapping[str, Sequence[str]], vocabulary: Vocabulary) -> str:
    """Return the candidate with the highest CIDEr, given as the caption of every picture.

    CIDEr is computed for the few candidates that are nearest to all references: by the sum of cosines between runs of
    up to 4 words, weighted by how few pictures have them, which is CIDEr but for its penalties.
    """
    pictures = [[Counter(ngrams(vocabulary.split(caption))) for caption in many] for many in references.values()]
    having = Counter(run for many in pictures for run in set().union(*many))
    rarity = {run: math.log(len(pictures) / count) for run, count in having.items()}

    def weighted(runs: Counter[tuple[str, ...]]) -> dict[tuple[str, ...], float]:
        weights = {run: count * rarity.get(run, math.log(len(pictures))) for run, count in runs.items()}
        lengths = [math.hypot(*(weight for run, weight in weights.items() if len(run) == n)) for n in range(5)]
        return {run: weight / lengths[len(run)] for run, weight in weights.items() if weight}

    together = Counter[tuple[str, ...]]()
    for caption in (caption for many in pictures for caption in many):
        for run, weight in weighted(caption).items():
            together[run] += weight  # type: ignore[assignment]  # counts may be fractions

    @functools.lru_cache(100_000)
    def likeness(caption: str) -> float:
        weights = weighted(Counter(ngrams(vocabulary.split(caption))))
        return sum(weight * together[run] for run, weight in weights.items())

    scorer = Scorer(references)

    def cider(caption: str) -> float:
        everywhere: dict[str, str] = dict.fromkeys(references, caption)
        return scorer.score(everywhere, ["CIDEr"]).corpus["CIDEr"]

    nearest: dict[str, float] = {}  # the nearest first; of equally near ones, that which came first
    for one in candidates:
        if one not in nearest:
            near = sorted({**nearest, one: likeness(one)}.items(), key=lambda pair: pair[1], reverse=True)
            nearest = dict(near[:CANDIDATES])
    return max(nearest, key=cider)
