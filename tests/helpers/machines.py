"""A Ray cluster of two machines of one core, on this machine, and workers for it."""

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from captioner.common.errors import CaptionerError

NODE = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 80 << 20}
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else it takes the machine's own address
    "RAY_health_check_period_ms": "500",  # how soon a dead machine is missed
    "RAY_health_check_failure_threshold": "3",
}


@contextmanager
def cluster() -> Iterator[Any]:
    """Start a cluster, and yield it with its address in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        directory = tempfile.mkdtemp(prefix="ray-")  # not below pytest's: the path of a socket is short
        path = f"{Path(__file__).parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        for name, value in (ENVIRONMENT | {"RAY_TMPDIR": directory, "PYTHONPATH": path}).items():
            patch.setenv(name, value)
        from ray.cluster_utils import Cluster

        machines = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
        try:
            machines.add_node(**NODE)
            machines.wait_for_nodes()
            patch.setenv("RAY_ADDRESS", machines.address)
            yield machines
        finally:
            machines.shutdown()
            shutil.rmtree(directory, ignore_errors=True)


class Noting:
    """Notes in a folder which parts it had, and squares them.

    Args:
        folder: has a file for each part, a line each time that it was begun.
        dies_at: the part at which its process is killed.
        seconds: that a part takes.
        times: how often its process is killed.
    """

    def __init__(self, folder: Path, dies_at: int | None = None, seconds: float = 0.0, times: int = 1):
        if dies_at is not None and dies_at < 0:
            raise CaptionerError("cannot begin: begin elsewhere")
        self.folder, self.dies_at, self.seconds, self.times = folder, dies_at, seconds, times

    def __call__(self, part: int) -> tuple[int, str]:
        """Return the square, and which machine has made it."""
        with (self.folder / str(part)).open("a") as file:
            file.write("begun\n")
        if part == self.dies_at and (self.folder / str(part)).read_text().count("begun") <= self.times:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.seconds)
        if part < 0:
            raise CaptionerError(f"received {part}: give what is positive")
        return part * part, _machine()


def _machine() -> str:
    # not imported before the cluster's environment is set, which it reads then
    ray = sys.modules.get("ray")
    return ray.get_runtime_context().get_node_id() if ray else "here"
