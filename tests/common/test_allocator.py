"""What is freed is there for the next one, without the system's doing."""

import platform
import subprocess
import sys

import pytest

from captioner.common import startup

ALLOCATOR = "TF_CPU_ALLOCATOR_USE_BFC"
FAULTS = """
import resource
import numpy as np
from captioner.common.startup import keep_freed_memory

{}
for number in range(60):
    if number == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    parts = [np.ones(2**20 * size // 8) for size in (8, 24, 40, 64)]
    del parts
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(call: str) -> int:
    """Pages that the system handed out while 50 times 136 megabytes were taken and freed."""
    finished = subprocess.run([sys.executable, "-c", FAULTS.format(call)], capture_output=True, text=True, check=True)
    return int(finished.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc's allocator that is told")
def test_freed_memory_is_kept() -> None:
    assert faults("keep_freed_memory()") < 100 < 10_000 < faults("")


@pytest.mark.parametrize(("chosen", "used"), [(None, "true"), ("false", "false")])
def test_tensorflow_is_told_unless_the_user_has(monkeypatch: pytest.MonkeyPatch, chosen: str | None, used: str) -> None:
    environment = {} if chosen is None else {ALLOCATOR: chosen}
    monkeypatch.setattr("os.environ", environment)
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())  # another C library, which is left alone
    startup.keep_freed_memory()
    assert environment == {ALLOCATOR: used}
