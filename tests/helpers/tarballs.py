"""Shards for tests."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path


def pack(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """Write a tar archive with these members, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path
