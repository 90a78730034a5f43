"""Asks the web page and the model server from many sides at once, and compares each answer with the one given alone."""

import base64
import json
import os
import random
import signal
import socket
import subprocess
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib import error, request

import numpy as np
import psutil
from kills import Checkout

PICTURES = 40
AT_ONCE = 10
BEYOND = 150  # at once: more than may wait
WARM = 100  # requests, after which memory is expected to stay
GROWTH = 1.05  # of memory, at most
TIMEOUT = 180.0  # seconds for an answer


@dataclass
class Load:
    """What came of many requests.

    Attributes:
        what: was asked.
        requests: that were answered.
        errors: those that were answered by an error, by status, or not at all.
        differing: answers that are not those given alone.
        seconds: median and 95th percentile of a request.
        growth: resident memory after all requests, over that after the first `WARM`.
        memory: that after all, in MiB.
    """

    what: str
    requests: int
    errors: dict[str, int]
    differing: int
    seconds: tuple[float, float]
    growth: float
    memory: int
    allowed: frozenset[str] = frozenset()
    """Statuses that have to come, though not for all: beyond the limits, 503."""

    @property
    def is_well(self) -> bool:
        """Whether nothing failed, differed or grew."""
        answered = self.requests - sum(self.errors.values())
        return set(self.errors) == self.allowed and bool(answered) and not self.differing and self.growth <= GROWTH


Ask = Callable[[Any], tuple[int, Any]]


def run(checkout: Checkout, full: bool, seed: int) -> Iterator[Load]:
    """Ask both servers of a checkout that has a trained model: some two minutes, or as much as is promised.

    Args:
        checkout: it.
        full: ten minutes of the page and at least 1,000 requests; 5,000 requests of one picture to the server and 200
            of 64.
        seed: of which picture is asked when.
    """
    with zipfile.ZipFile(checkout.path / "data/images.zip") as archive:
        pictures = [archive.read(name) for name in sorted(archive.namelist())[:PICTURES]]
    with _serving(checkout, ["captioner", "demo"], "") as (address, process):

        def page(picture: bytes) -> tuple[int, Any]:
            return _asked(f"{address}/caption?beam=3", picture, "application/octet-stream")

        seconds, least = (600.0, 1000) if full else (40.0, 100)
        yield _hammer("web page", page, pictures, process, random.Random(seed), least, seconds)
        yield _beyond("web page, too many at once", page, pictures, process)
    subprocess.run(
        ["captioner", "promote"], cwd=checkout.path, env=checkout.environment, check=True, capture_output=True
    )
    command = ["mlflow", "models", "serve", "-m", "models:/captioner-scenes@champion", "--env-manager", "local"]
    with _serving(checkout, command, "/ping") as (address, process):

        def server(given: Sequence[bytes]) -> tuple[int, Any]:
            body = json.dumps({"inputs": [base64.b64encode(each).decode() for each in given]}).encode()
            return _asked(f"{address}/invocations", body, "application/json")

        generator = random.Random(seed)
        ones = [[each] for each in pictures]
        many = [generator.choices(pictures, k=64) for _ in range(8)]
        yield _hammer("model server, 1 picture", server, ones, process, generator, 5000 if full else 400)
        yield _hammer("model server, 64 pictures", server, many, process, generator, 200 if full else 20)
        yield _beyond("model server, too many at once", server, ones, process)


class _Tally:
    """What comes of requests that many threads make."""

    def __init__(self, ask: Ask):
        self._ask = ask
        self.lock = threading.Lock()
        self.took: list[float] = []
        self.errors: Counter[str] = Counter()
        self.differing = 0

    def ask(self, given: Any, alone: Any) -> None:
        """Ask, and compare the answer with the one that was given alone."""
        began = time.perf_counter()
        status, answer = self._ask(given)
        with self.lock:
            self.took.append(time.perf_counter() - began)
            if status != 200:
                self.errors[str(status)] += 1
            elif answer != alone:
                self.differing += 1

    def load(self, what: str, process: psutil.Process, before: int, allowed: frozenset[str] = frozenset()) -> Load:
        """Return all of it; `before` is the memory that the process had, in bytes."""
        after = _memory(process)
        middle, high = np.percentile(self.took, [50, 95])
        errors, growth = dict(self.errors), after / before
        return Load(what, len(self.took), errors, self.differing, (middle, high), growth, after >> 20, allowed)


def _hammer(
    what: str,
    ask: Ask,
    inputs: Sequence[Any],
    process: psutil.Process,
    generator: random.Random,
    least: int,
    seconds: float = 0.0,
) -> Load:
    """Ask `AT_ONCE` times at once, until so many requests and so many seconds have passed."""
    alone = [ask(each)[1] for each in inputs]
    if any(each is None for each in alone):
        raise RuntimeError(f"{what}: no answer alone")
    tally, before, end = _Tally(ask), 0, time.monotonic() + seconds

    def go_on() -> None:
        nonlocal before
        while True:
            with tally.lock:
                if len(tally.took) >= least and time.monotonic() >= end:
                    return
                if not before and len(tally.took) >= min(WARM, least // 2):
                    before = _memory(process)
                number = generator.randrange(len(inputs))
            tally.ask(inputs[number], alone[number])

    _at_once([go_on] * AT_ONCE)
    return tally.load(what, process, before)


def _beyond(what: str, ask: Ask, inputs: Sequence[Any], process: psutil.Process) -> Load:
    """Ask far more often at once than is allowed: each has to be answered, or told to come again."""
    alone, before, tally = ask(inputs[0])[1], _memory(process), _Tally(ask)
    _at_once([lambda: tally.ask(inputs[0], alone)] * BEYOND)
    return tally.load(what, process, before, frozenset({"503"}))


def _at_once(work: Sequence[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=each) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _asked(address: str, body: bytes, kind: str) -> tuple[int, Any]:
    """Return status and answer; where there is none, 0 and nothing."""
    try:
        with request.urlopen(request.Request(address, body, {"Content-Type": kind}), timeout=TIMEOUT) as response:
            return response.status, json.load(response)
    except error.HTTPError as refused:
        refused.read()
        return refused.code, None
    except (OSError, ValueError):
        return 0, None


@contextmanager
def _serving(checkout: Checkout, command: Sequence[str], ready: str) -> Iterator[tuple[str, psutil.Process]]:
    """Yield the address of a server, and its process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = checkout.path.parent / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            cwd=checkout.path,
            env=checkout.environment | {"NO_PROXY": "127.0.0.1"},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        while True:
            if process.poll() is not None:
                raise RuntimeError(log.read_text("utf-8", "replace")[-2000:])
            try:
                request.urlopen(f"{address}{ready}", timeout=60).close()
                break
            except OSError:
                time.sleep(0.5)
        yield address, psutil.Process(process.pid)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def _memory(process: psutil.Process) -> int:
    """Return the resident bytes of a process and of those that it has started."""
    return sum(each.memory_info().rss for each in [process, *process.children(recursive=True)])
