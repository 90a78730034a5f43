"""Captions of a picture that begin alike, computed together for as long as they do.

What a decoder knows after some words follows from the picture and these words, its prefix, and the captions of a
picture mostly share the first ones. So there are two stretches of steps. In the first a row is a prefix, whichever
captions have it; rows are added where captions part. In the second a row is a caption, the longest first; rows end
where captions do. Between the two the rows are put in order once.

Legend: `N` captions a picture · `B_t` captions that go on at a step · `A_t` their prefixes · `T` steps · `A`, `B` the
most rows of either stretch · `R` rows of all steps · `S` words that must be said
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class Layout:
    """How many rows a decoder computes at each step, the same for all batches.

    Attributes:
        captions: `B_t`, not rising.
        prefixes: `A_t`, not falling.
        together: how many steps belong to the first stretch; fewer than `T`.
    """

    captions: tuple[int, ...]
    prefixes: tuple[int, ...] = ()
    together: int = 0

    @cached_property
    def stretches(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The rows of each step of the first stretch, and of the second."""
        return self.prefixes[: self.together], self.captions[self.together :]

    @cached_property
    def spoken(self) -> tuple[np.ndarray, np.ndarray]:
        """Step and caption of each word that must be said, step by step: int `[S]` each."""
        return _numbered(self.captions)

    @cached_property
    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Step of each row, step by step, and its number among all rows of either stretch, int `[R]` each."""
        first, second = self.stretches
        steps, numbers = _numbered(first + second)
        return steps, numbers + np.where(steps < self.together, 0, max(first, default=0))

    def wider(self, other: "Layout") -> "Layout":
        """Return a layout for the batches of both, with as many steps together as here."""
        captions, prefixes = (
            map(max, itertools.zip_longest(one, another, fillvalue=0))
            for one, another in ((self.captions, other.captions), (self.prefixes, other.prefixes))
        )
        # beyond the end of the shorter one its last prefixes still want their rows
        return Layout(tuple(captions), tuple(itertools.accumulate(prefixes, max)), self.together)


def steps_together(captions: np.ndarray, prefixes: np.ndarray) -> int:
    """Return how many steps prefixes should be computed, for the fewest rows.

    Args:
        captions: how many go on at each step, `[T]`, some at each.
        prefixes: how many different ones they have, `[T]`.
    """
    before = np.cumsum(prefixes) - prefixes
    return int(np.argmin(before + np.cumsum(captions[::-1])[::-1]))


def speakers(words: np.ndarray) -> np.ndarray:
    """Return for the prefixes of each caption which caption of the picture is the first to have them.

    Args:
        words: that are read, of pictures with equally many captions, `[pictures, N, T]`.

    Returns:
        Numbers below `N`, int `[pictures, N, T]`.
    """
    alike = np.logical_and.accumulate(words[:, :, None] == words[:, None], axis=-1)  # [pictures, N, N, T]
    return alike.argmax(axis=2)


def parting(speakers: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Return the step at which each caption goes its own way, `[captions]`, `T` where another one says all of it.

    Args:
        speakers: of the captions' prefixes, `[captions, T]`.
        own: the captions' own numbers among these.
    """
    return (speakers != own[:, None]).sum(axis=1)


class Arrangement(NamedTuple):
    """Which row computes what, of the captions of one batch."""

    captions: np.ndarray  # whose words each row of either stretch reads, -1 for an empty one, int [A + B]
    origins: np.ndarray  # the row of the step before that each goes on from when it is added, int [A + B]
    spoken: np.ndarray  # the row, of all steps, after which each word must be said, int [S]


def arrange(layout: Layout, lengths: np.ndarray, speakers: np.ndarray) -> Arrangement:
    """Distribute the captions of a batch over the rows of a layout that is wide enough for them.

    Args:
        layout: it.
        lengths: steps of each caption, not rising, int `[captions]`.
        speakers: the first caption of the batch to have each caption's prefix at each step, int `[captions, T]`.
    """
    (first, second), together, count = layout.stretches, layout.together, len(lengths)
    speakers = speakers[:, :together]
    parted = parting(speakers, np.arange(count))
    own = np.flatnonzero(parted < np.minimum(lengths, together))
    own = own[np.argsort(parted[own], kind="stable")]  # the caption of each row
    row = np.zeros(count, int)
    row[own] = np.arange(len(own))
    most, last = max(first, default=0), min(count, second[0])

    captions = np.full(most + second[0], -1)
    captions[: len(own)] = own
    captions[most : most + last] = np.arange(last)

    origins = np.zeros(most + second[0], int)
    # where there are more rows than prefixes, a caption has its own before it parts
    added = np.searchsorted(first, np.arange(len(own)), side="right")
    later = np.flatnonzero(added)
    origins[later] = row[speakers[own[later], added[later] - 1]]
    if together:
        origins[most : most + last] = row[speakers[:last, -1]]

    steps, said_by = layout.spoken
    shared = steps < together
    rows = np.where(shared, 0, said_by)
    shared &= said_by < count
    rows[shared] = row[speakers[said_by[shared], steps[shared]]]
    starts = np.cumsum([0, *first, *second[:-1]])
    return Arrangement(captions, origins, starts[steps] + rows)


def _numbered(rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return step, and number within the step, of each row, step by step."""
    return np.repeat(np.arange(len(rows)), rows), np.concatenate([np.arange(count) for count in rows])
