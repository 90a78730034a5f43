"""Captions of a picture that begin alike, computed together for as long as they do.

The state of a decoder after some words follows from the picture and these words, the prefix. The captions of a picture
mostly share the first words, so the steps of a batch have two phases. In the first phase a row is a prefix, whichever
captions have it; rows are added where captions diverge. In the second phase a row is a caption, the longest first; rows
end where captions end. Between the phases the rows are put in order once.

An example of three captions. `-` stands for the start token, which the first step reads; each word is the target of the
step before it.

    caption 0: - a dog runs      4 steps: its targets are "a", "dog", "runs" and the end
    caption 1: - a dog           3 steps
    caption 2: - a cat           3 steps

    step                  0      1      2            3
    captions, B_t         3      3      3            1         10 rows without sharing
    prefixes, A_t         1      1      2            2
    rows with 3 shared steps
      phase 1             -      - a    - a dog
                                        - a cat
      phase 2                                        - a dog runs
    row widths            1      1      2            1          5 rows

Caption 0 owns the prefixes "-", "- a" and "- a dog" (`prefix_owners`), since it is the first that has them. Caption 2
diverges at step 2 (`divergence_step`): there its row is added, whose parent is row 0 of the step before. Caption 1
never diverges; its three targets are told by the rows of caption 0. With 3 shared steps there are 5 rows, the fewest
(`best_shared_steps`); with 2 there would be 6, with none 10.

Legend: `N` captions per picture · `B_t` captions that continue at a step · `A_t` their prefixes · `T` steps · `A`, `B`
the most rows of either phase · `R` rows of all steps · `S` targets
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class StepWidths:
    """How many rows a decoder computes at each step, the same for all batches.

    Attributes:
        captions: `B_t`, not rising.
        prefixes: `A_t`, not falling.
        shared_steps: how many steps belong to the first phase; fewer than `T`.
    """

    captions: tuple[int, ...]
    prefixes: tuple[int, ...] = ()
    shared_steps: int = 0

    @cached_property
    def phases(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The rows of each step of the first phase, and of the second."""
        return self.prefixes[: self.shared_steps], self.captions[self.shared_steps :]

    @cached_property
    def target_rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Step and caption of each target, step by step: int `[S]` each."""
        return _numbered(self.captions)

    @cached_property
    def input_rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Step of each row, step by step, and its number among all rows of either phase, int `[R]` each."""
        first, second = self.phases
        steps, numbers = _numbered(first + second)
        return steps, numbers + np.where(steps < self.shared_steps, 0, max(first, default=0))

    def wider(self, other: "StepWidths") -> "StepWidths":
        """Return widths for the batches of both, with as many shared steps as here."""
        captions, prefixes = (
            map(max, itertools.zip_longest(one, another, fillvalue=0))
            for one, another in ((self.captions, other.captions), (self.prefixes, other.prefixes))
        )
        # beyond the end of the shorter one its last prefixes still need their rows
        return StepWidths(tuple(captions), tuple(itertools.accumulate(prefixes, max)), self.shared_steps)


def best_shared_steps(captions: np.ndarray, prefixes: np.ndarray) -> int:
    """Return how many steps should be shared, for the fewest rows.

    Args:
        captions: how many continue at each step, `[T]`, some at each.
        prefixes: how many different ones they have, `[T]`.
    """
    before = np.cumsum(prefixes) - prefixes
    return int(np.argmin(before + np.cumsum(captions[::-1])[::-1]))


def prefix_owners(words: np.ndarray) -> np.ndarray:
    """Return for the prefixes of each caption the first caption of the picture that has them.

    Args:
        words: that are read, of pictures with equally many captions, `[pictures, N, T]`.

    Returns:
        Numbers below `N`, int `[pictures, N, T]`.
    """
    alike = np.logical_and.accumulate(words[:, :, None] == words[:, None], axis=-1)  # [pictures, N, N, T]
    return alike.argmax(axis=2)


def divergence_step(prefix_owners: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Return the step at which each caption diverges from all before it, `[captions]`, `T` where it never does.

    Args:
        prefix_owners: of the captions' prefixes, `[captions, T]`.
        own: the captions' own numbers among these.
    """
    return (prefix_owners != own[:, None]).sum(axis=1)


class Arrangement(NamedTuple):
    """Which row computes what, of the captions of one batch."""

    captions: np.ndarray  # whose words each row of either phase reads, -1 for an empty one, int [A + B]
    parent_rows: np.ndarray  # the row of the step before that each continues when it is added, int [A + B]
    target_rows: np.ndarray  # the row, of all steps, that tells each target, int [S]


def arrange(step_widths: StepWidths, lengths: np.ndarray, prefix_owners: np.ndarray) -> Arrangement:
    """Distribute the captions of a batch over rows that are enough for them.

    Args:
        step_widths: how many rows each step has.
        lengths: steps of each caption, not rising, int `[captions]`.
        prefix_owners: the first caption of the batch to have each caption's prefix at each step, int `[captions, T]`.
    """
    (first, second), shared_steps, count = step_widths.phases, step_widths.shared_steps, len(lengths)
    prefix_owners = prefix_owners[:, :shared_steps]
    divergence = divergence_step(prefix_owners, np.arange(count))
    own = np.flatnonzero(divergence < np.minimum(lengths, shared_steps))
    own = own[np.argsort(divergence[own], kind="stable")]  # the caption of each row
    row = np.zeros(count, int)
    row[own] = np.arange(len(own))
    most, last = max(first, default=0), min(count, second[0])

    captions = np.full(most + second[0], -1)
    captions[: len(own)] = own
    captions[most : most + last] = np.arange(last)

    parent_rows = np.zeros(most + second[0], int)
    # where there are more rows than prefixes, a caption has its own before it diverges
    added = np.searchsorted(first, np.arange(len(own)), side="right")
    later = np.flatnonzero(added)
    parent_rows[later] = row[prefix_owners[own[later], added[later] - 1]]
    if shared_steps:
        parent_rows[most : most + last] = row[prefix_owners[:last, -1]]

    steps, target_captions = step_widths.target_rows
    shared = steps < shared_steps
    rows = np.where(shared, 0, target_captions)
    shared &= target_captions < count
    rows[shared] = row[prefix_owners[target_captions[shared], steps[shared]]]
    starts = np.cumsum([0, *first, *second[:-1]])
    return Arrangement(captions, parent_rows, starts[steps] + rows)


def _numbered(rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return step, and number within the step, of each row, step by step."""
    return np.repeat(np.arange(len(rows)), rows), np.concatenate([np.arange(count) for count in rows])
