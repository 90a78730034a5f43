"""Splits drawn by a hash of names: the same whatever else is there, and in whatever order."""

import hashlib
from collections.abc import Iterable


def draw(names: Iterable[str], train: float, validation: float) -> dict[str, str]:
    """Return the split of each name; none is empty when there are three names or more, all are `train` of fewer.

    Args:
        names: of pictures, or of shards.
        train: share of the names that are for training.
        validation: share of them that are for validation; the others are for test.
    """
    hashes = sorted((_hash(name), name) for name in set(names))
    drawn = [split_of(name, train, validation) for _, name in hashes]
    first = drawn.count("train")
    second = first + drawn.count("validation")
    count = len(hashes)
    if count < 3:
        first = second = count
    else:
        first = min(max(first, 1), count - 2)
        second = min(max(second, first + 1), count - 1)
    drawn = ["train"] * first + ["validation"] * (second - first) + ["test"] * (count - second)
    return {name: split for (_, name), split in zip(hashes, drawn, strict=True)}


def split_of(name: str, train: float, validation: float) -> str:
    """Return the split of a name, whatever others there are."""
    value = _hash(name)
    return "train" if value < train else "validation" if value < train + validation else "test"


def _hash(name: str) -> float:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()) / 2**256
