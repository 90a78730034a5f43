"""The processes that train together, on the machines of a Ray cluster, with Ray Train.

Ray Train starts them, one a core, and tells TensorFlow where the others are. TensorFlow adds up their sums. Where a
process or a machine dies, or more cores are there, Ray Train ends the others, and begins again with as many as there
are cores for, up to those that are wanted: from the last checkpoint, if the work has saved any.
"""

import json
import os
import re
import socket
import tempfile
import time
from collections.abc import Callable
from typing import Any, TypeVar

from captioner.common import cluster
from captioner.common.errors import CaptionerError, reason
from captioner.common.startup import keep_freed_memory

DEATHS = 10
"""Of workers, after which a training ends."""
ENDS_WITHIN = 10.0
"""Seconds that workers are waited for when the training is ended."""
FAULTS = ("InvalidArgumentError", "NotFoundError", "ResourceExhaustedError", "UnimplementedError")
"""Errors of TensorFlow that would come again, unlike those of a connection."""

Made = TypeVar("Made")

_TOLD = (CaptionerError, OSError, MemoryError)  # errors that a stage tells in a line


def together(
    work: Callable[..., Made],
    given: tuple,
    workers: int,
    environment: dict[str, str],
    meanwhile: Callable[[], None] = lambda: None,
) -> Made:
    """Have processes of the cluster do something together, and return what it returns in the first one.

    Args:
        work: a function that can be imported on all machines. It is called with `Peers` and with `given`, in each
            process, and again in all of them after one of them has died.
        given: small.
        workers: the most processes; fewer where there are no more cores.
        environment: variables of the processes.
        meanwhile: is called once a second here.

    Raises:
        CaptionerError: a process raises it, workers have died again and again, Ray is not installed, there is no
            cluster, or a machine lacks a package.
        OSError: a process raises it.
        MemoryError: likewise.
    """
    with (
        # Ray Train's own directory, in which nothing is left
        tempfile.TemporaryDirectory(prefix="captioner-", ignore_cleanup_errors=True) as directory,
        cluster.connected(cluster.worker_environment() | environment) as ray,
    ):
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        # in a process of its own: Ray Train takes over what Ctrl-C does in the one that asks it to train
        asking = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=here)(_train)
        asked = asking.remote([ray.put((work, given))], workers, directory)
        try:
            while not ray.wait([asked], timeout=0)[0]:
                time.sleep(1)  # here and not in Ray, which forgets which signal came
                meanwhile()
        except BaseException:
            ray.cancel(asked, force=True)  # and the workers with it, before what they write to is removed
            ray.wait([asked], timeout=ENDS_WITHIN)
            raise
        meanwhile()
        made = ray.get(asked)
    if isinstance(made, _TOLD):
        raise made
    return made


def _train(work: list, workers: int, directory: str) -> Any:
    """Ask Ray Train, and return what the first process has made, or what a user can put right."""
    import ray
    from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig, UserCallback, WorkerGroupError
    from ray.train.backend import Backend, BackendConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    class Addresses(Backend):
        """Tells each process where all of them are. Ray's own loads TensorFlow, also where nothing is computed."""

        def on_start(self, worker_group: Any, backend_config: Any) -> None:  # noqa: ARG002
            every = worker_group.execute(_address)
            telling = worker_group.execute_single_async
            ray.get([telling(rank, _tell_tensorflow, every, rank) for rank in range(len(worker_group))])

    class Connecting(BackendConfig):
        """Has the processes connected by their addresses."""

        @property
        def backend_cls(self) -> type[Backend]:
            return Addresses

    class EndAtFaults(UserCallback):
        """Ends at once what would fail again: all but deaths, and that others cannot be reached any more."""

        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:  # noqa: ARG002
            for error in worker_exceptions.values():
                kind = type(error)
                if kind.__module__.partition(".")[0] not in ("ray", "tensorflow") or kind.__name__ in FAULTS:
                    raise error

    def share() -> Any:
        return _as_peer(work)

    trainer = DataParallelTrainer(
        share,
        backend_config=Connecting(),
        scaling_config=ScalingConfig(num_workers=(1, workers)),
        run_config=RunConfig(
            storage_path=directory,
            failure_config=FailureConfig(max_failures=DEATHS - 1, controller_failure_limit=DEATHS - 1),
            callbacks=[EndAtFaults()],
        ),
    )
    try:
        return trainer.fit().return_value
    except ControllerError as error:
        failure = error.controller_failure
        if isinstance(failure, _TOLD):
            return failure
        if type(failure).__name__.startswith("WorkerGroupStartup"):
            return CaptionerError(
                f"no workers began on the cluster in {DEATHS} attempts ({reason(failure)}): are its cores free?"
            )
        raise
    except WorkerGroupError as error:
        cause = reason(next(iter(error.worker_failures.values())))
        return CaptionerError(
            f"workers of the cluster died {DEATHS} times in this training ({cause}): do they have the memory that they "
            "need?"
        )


def _address() -> str:
    """Return an address of this process that is free."""
    import ray

    host = ray.util.get_node_ip_address()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as free:
        free.bind((host, 0))
        port = free.getsockname()[1]
    return f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}"


def _tell_tensorflow(addresses: list[str], rank: int) -> None:
    """Note where TensorFlow looks which process this is, and where all are."""
    described = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}}
    os.environ["TF_CONFIG"] = json.dumps(described)


def _as_peer(work: list) -> Any:
    import ray

    keep_freed_memory()
    try:
        [(function, given)] = ray.get(work)
    except ray.exceptions.RaySystemError as error:
        if lacking := re.search(r"No module named '[\w.]+'", str(error)):
            raise CaptionerError(
                f"a machine of the cluster does not find the code ({lacking.group()}): the checkout has to lie where "
                "all machines find it, at the same path"
            ) from None
        raise
    return function(_Workers(), *given)


class _Workers:
    """The workers of Ray Train, as `captioner.training.parallel.Peers`."""

    def __init__(self) -> None:
        import tensorflow
        from ray.train import get_context

        self.rank, self.count = get_context().get_world_rank(), get_context().get_world_size()
        # before anything is computed, since TensorFlow then does not take others any more
        self._strategy = tensorflow.distribute.MultiWorkerMirroredStrategy() if self.count > 1 else None

    def summed(self, values: Any) -> Any:
        import tensorflow

        if self._strategy is None:
            return values

        def add(own: Any) -> Any:
            # a tensor of this function's, which has a device
            return tensorflow.distribute.get_replica_context().all_reduce("SUM", tensorflow.identity(own))

        return self._strategy.run(add, args=(values,))

    def from_first(self, value: Any) -> Any:
        from ray.train.collective import broadcast_from_rank_zero

        return broadcast_from_rank_zero(value)
