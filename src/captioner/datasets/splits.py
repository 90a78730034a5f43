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
    hashes = sorted((int.from_bytes(hashlib.sha256(name.encode()).digest()) / 2**256, name) for name in set(names))
    first = sum(value < train for value, _ in hashes)
    second = sum(value < train + validation for value, _ in hashes)
    count = len(hashes)
    if count < 3:
        first = second = count
    else:
        first = min(max(first, 1), count - 2)
        second = min(max(second, first + 1), count - 1)
    splits = ["train"] * first + ["validation"] * (second - first) + ["test"] * (count - second)
    return {name: split for (_, name), split in zip(hashes, splits, strict=True)}
