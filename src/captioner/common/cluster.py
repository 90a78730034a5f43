"""Work on parts of a data set: in this process, or on the machines of a Ray cluster.

Where processes work together step by step, see `captioner.training.workers`.

`RAY_ADDRESS` says where the cluster is: `host:port` of its head, `auto` for that which this machine belongs to, `local`
for this machine's cores alone. Without it nothing of Ray is imported.
"""

import importlib.util
import logging
import os
import re
import signal
import socket
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from captioner.common.errors import CaptionerError, reason
from captioner.common.interruption import Interrupted, handlers_kept
from captioner.common.startup import backend, silence_stderr

ADDRESS = "RAY_ADDRESS"
STORE = 200 << 20  # bytes of the object store of a cluster that is started here: only small things pass through it
REACHED_WITHIN = 10.0  # seconds
TRIES = 4  # of a part, before its workers' deaths count as its fault

Part = TypeVar("Part")
Made = TypeVar("Made")


def on_cluster() -> bool:
    """Whether work goes to a cluster."""
    return bool(os.environ.get(ADDRESS))


def each(worker: Callable[..., Callable[[Part], Made]], given: tuple, parts: Sequence[Part]) -> Iterator[Made]:
    """Yield what a worker makes of each part, here in their order, on a cluster as they are ready.

    On a cluster each core has a worker, with one thread. A part whose worker or machine dies is given to another one, a
    few times.

    Args:
        worker: a class that can be imported on all machines. Each process makes one, which may be given a part again.
            It returns what is small, and writes files of what is large.
        given: what it is made with; sent to each machine once.
        parts: small.

    Raises:
        CaptionerError: a worker raises it or dies again and again, Ray is not installed, there is no cluster, or a
            machine lacks a package.
    """
    if not on_cluster():
        work = worker(*given)
        yield from map(work, parts)
        return
    if not parts:
        return
    yield from _on_ray(worker, given, parts)


@contextmanager
def connected(environment: Mapping[str, str] | None = None) -> Iterator[Any]:
    """Be connected with the cluster, and yield the module `ray`; what was begun there ends with the block.

    Args:
        environment: variables of all processes that work there.

    Raises:
        CaptionerError: Ray is not installed, there is no cluster, a machine lacks a package, or workers have died.
    """
    if importlib.util.find_spec("ray") is None:
        raise CaptionerError(
            f"{ADDRESS} is set and Ray is not installed: pip install -e '.[ray]' in the checkout, or unset it"
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what matters is raised as well
    _connect({"env_vars": dict(environment)} if environment else None)
    import ray

    try:
        yield ray
    except ray.exceptions.RayError as error:
        if lacking := re.search(r"No module named '[\w.]+'", str(error)):
            raise CaptionerError(
                f"a machine of the cluster lacks a package ({lacking.group()}): install the same on all of them"
            ) from None
        if isinstance(error, ray.exceptions.RayTaskError):  # a fault of the program's
            raise
        raise CaptionerError(
            f"workers of the cluster died {TRIES} times at the same work ({reason(error)}): do they have the memory "
            "that they need?"
        ) from None
    except KeyboardInterrupt as interrupt:
        if isinstance(interrupt, Interrupted):
            raise
        raise Interrupted(signal.SIGINT) from None  # which Ray has put in its place
    finally:
        ray.shutdown()


def worker_environment() -> dict[str, str]:
    """Return variables for a process that computes with Keras on one core, like this one; Ray sets OMP_NUM_THREADS."""
    return {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "KERAS_BACKEND": backend()}


class _Actor:
    """A worker in a process of the cluster, made when it is needed first, so that its errors come back as values."""

    def __init__(self, worker: Callable[..., Callable], given: list, parts: list, environment: dict[str, str]):
        os.environ |= environment  # before Keras and TensorFlow are imported
        self._worker, self._given, self._parts = worker, given, parts
        self._work: Callable | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        import numpy as np
        import ray

        made = np.empty(1, object)
        try:
            if self._work is None:
                self._work = self._worker(*ray.get(self._given))
                [self._parts] = ray.get(self._parts)
            made[0] = self._work(self._parts[batch["id"].item()])
        except CaptionerError as error:
            made[0] = error
        return {"made": made}


def _on_ray(worker: Callable[..., Callable[[Part], Made]], given: tuple, parts: Sequence[Part]) -> Iterator[Made]:
    with connected() as ray:
        from ray import data

        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what it logs as an error is raised as well
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        cores = int(ray.cluster_resources().get("CPU", 1))
        with warnings.catch_warnings():
            # Ray has no other way yet to say how often a part is tried
            warnings.filterwarnings("ignore", message="`ray_remote_args_fn` is deprecated")
            # not `range`, whose tasks would wait for a core that a single worker has already
            numbers = data.from_items([{"id": number} for number in range(len(parts))], override_num_blocks=len(parts))
            made = numbers.map_batches(
                _Actor,
                batch_size=1,
                num_cpus=1,
                fn_constructor_args=(
                    *(worker, [ray.put(one) for one in given], [ray.put(parts)]),
                    worker_environment(),
                ),
                compute=data.ActorPoolStrategy(
                    min_size=1, max_size=max(1, min(cores, len(parts))), max_tasks_in_flight_per_actor=2
                ),
                ray_remote_args_fn=lambda: {"max_restarts": -1, "max_task_retries": TRIES - 1},
            )
        for row in made.iter_rows():
            if isinstance(row["made"], CaptionerError):
                raise row["made"]
            yield row["made"]


def _connect(environment: dict[str, Any] | None) -> None:
    address = os.environ[ADDRESS]
    host, _, port = address.rpartition(":")
    try:
        if port.isdecimal():  # Ray itself tries for minutes
            socket.create_connection((host.rpartition("/")[2], int(port)), REACHED_WITHIN).close()
        import ray

        local = {"object_store_memory": STORE} if address == "local" else {}
        # Ray takes a handler for itself, and its C++ part writes which log level it was given
        with handlers_kept(), silence_stderr():
            ray.init(logging_level="error", log_to_driver=False, runtime_env=environment, **local)
    except (OSError, ValueError, RuntimeError) as error:
        raise CaptionerError(
            f"there is no cluster at {ADDRESS}={address} ({reason(error)}): give the address of its head, or unset it"
        ) from None
