"""METEOR's program: asked, watched and ended."""

import io
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from textwrap import shorten
from threading import Event, Timer
from typing import IO

import numpy as np
from pycocoevalcap.meteor import meteor

from captioner.common.errors import CaptionerError
from captioner.scoring.java import JAVA_OPTIONS, find_java, time_limit
from captioner.scoring.ngrams import Values

LONGEST = 500
"""Words up to which METEOR was seen to align a caption and a reference in time and memory, whatever their words."""


class Meteor:
    """METEOR's program, which takes some nine seconds to load its paraphrases.

    Args:
        keep: whether it runs on between questions, until `close`; else each question starts one of its own.
    """

    def __init__(self, keep: bool = False):
        self._keep = keep
        self._process: subprocess.Popen[str] | None = None
        self._complaints: IO[bytes] = io.BytesIO()

    def prepare(self) -> None:
        """Start the program, if it is to run on between questions and does not run yet."""
        if self._keep and self._process is None:
            self._process = self._start()

    @contextmanager
    def asked(self, wanted: bool, hypotheses: list[str], references: list[list[str]]) -> Iterator[Callable[[], Values]]:
        """Ask in a thread, if wanted, while the block does something else; yields what waits for the answer.

        Should the block fail, the program is ended, so that nobody waits for it.
        """
        pool = ThreadPoolExecutor(1)
        try:
            asked = pool.submit(self.ask, hypotheses, references) if wanted else Future[Values]()
            yield asked.result
        except BaseException:
            self.close()
            raise
        finally:
            pool.shutdown()

    def ask(self, hypotheses: list[str], references: list[list[str]]) -> Values:
        """Score tokenized captions: one question a picture, then one for the score of their joined statistics."""
        limit = time_limit(len(hypotheses))
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
) -> Values:
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
