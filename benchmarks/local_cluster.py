"""A Ray cluster on this machine for benchmarks, and workers that sleep. It imports little, as they do not need more."""

import os
import time
from typing import Any

from measure import CHECKOUT

NODE = {"node_ip_address": "127.0.0.1", "object_store_memory": 100 << 20, "include_dashboard": False}
ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else Ray replaces 127.0.0.1
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}


def start(cores: int) -> Any:
    """Start a cluster that has so many cores, or says so, and note where it is."""
    paths = (CHECKOUT / "src", CHECKOUT / "benchmarks")
    os.environ |= ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    from ray.cluster_utils import Cluster

    machine = Cluster(initialize_head=True, head_node_args=NODE | {"num_cpus": cores})
    os.environ["RAY_ADDRESS"] = machine.address
    return machine


class Sleeper:
    """Sleeps in place of work.

    Args:
        seconds: for each shard.
    """

    def __init__(self, seconds: float):
        self._seconds = seconds

    def __call__(self, shard: int) -> int:
        """Sleep."""
        time.sleep(self._seconds)
        return shard
