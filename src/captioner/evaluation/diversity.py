"""How much of what is said was never said in training, and how varied several captions of a picture are."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from captioner.scoring.ngrams import bleu_rows
from captioner.scoring.statistics import MUTUAL_BLEU, SufficientStatistics, columns, mean
from captioner.text.vocabulary import PAD

UNSEEN = (2, 3, 4)
DISTINCT = (1, 2)


def unseen(captions: Mapping[str, Sequence[Sequence[str]]], training: Iterable[Sequence[str]]) -> SufficientStatistics:
    """Return, in percent of captions, how many have a run of 2, 3 or 4 words that training never showed.

    Args:
        captions: by picture, the words of its captions.
        training: the words of the training captions; one of them is in memory at a time.

    Returns:
        `unseen-2-grams`, `unseen-3-grams` and `unseen-4-grams`.
    """
    left = {run for many in captions.values() for words in many for run in ngrams(words, UNSEEN)}
    for words in training:
        left.difference_update(ngrams(words, UNSEEN))
    rows = {}
    for n in UNSEEN:
        new = [sum(not left.isdisjoint(ngrams(words, [n])) for words in many) for many in captions.values()]
        rows[f"unseen-{n}-grams"] = mean((100 * count for count in new), (len(many) for many in captions.values()))
    return SufficientStatistics(list(captions), rows)


def variety(captions: Mapping[str, Sequence[Sequence[str]]]) -> SufficientStatistics:
    """Return how much the captions of a picture differ, as Shetty et al. 2017, section 5.3, measure it.

    Args:
        captions: by picture, the words of its captions.

    Returns:
        `mBLEU-1` to `mBLEU-4`, where a picture has two captions or more: the BLEU of each against the others of its
        picture, of the whole corpus; less is more varied. `distinct-1-grams` and `distinct-2-grams` (Div-1, Div-2): how
        many different n-grams the captions of a picture have, in percent of their words; more is more varied.
    """
    sets = list(captions.values())
    words = [sum(map(len, many)) for many in sets]
    rows = {
        f"distinct-{n}-grams": mean(
            (100 * len({run for one in many for run in ngrams(one, [n])}) for many in sets), words
        )
        for n in DISTINCT
    }
    texts = [[" ".join(one) for one in many] for many in sets]
    mutual = np.zeros((len(texts), len(columns(MUTUAL_BLEU))))
    for place in range(max(map(len, texts), default=0)):
        here = [number for number, many in enumerate(texts) if place < len(many) > 1]
        others = [[*texts[number][:place], *texts[number][place + 1 :]] for number in here]
        if here:
            mutual[here] += bleu_rows([texts[number][place] for number in here], others)
    return SufficientStatistics(list(captions), rows | ({MUTUAL_BLEU: mutual} if mutual.any() else {}))


def nll_of_samples(images: Sequence[str], words: np.ndarray, log_probability: np.ndarray) -> SufficientStatistics:
    """Return `nll-samples`: how surprised a model is by what it draws itself, in nats per token, by picture.

    Its expectation is the entropy of the model's captions under its own prefixes. A model whose probabilities are right
    has the same on what people wrote (Braverman et al. 2020, "Calibration, Entropy Rates, and Memory in Language
    Models", section 3).

    Args:
        images: the pictures.
        words: tokens of captions drawn at temperature 1 from all words, `PAD` behind the end, `[K * pictures, T]`:
            those of a picture side by side.
        log_probability: of each, in nats, `[K * pictures]`.
    """
    tokens = (words != PAD).sum(axis=1).reshape(len(images), -1).sum(axis=1)
    nats = -np.asarray(log_probability, float).reshape(len(images), -1).sum(axis=1)
    return SufficientStatistics(list(images), {"nll-samples": mean(nats, tokens)})


def ngrams(words: Sequence[str], lengths: Iterable[int] = (1, 2, 3, 4)) -> list[tuple[str, ...]]:
    """Return the n-grams of these lengths, the shorter ones first."""
    return [tuple(words[start : start + n]) for n in lengths for start in range(len(words) - n + 1)]
