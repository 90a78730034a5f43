"""Which captions begin alike, and how long it pays to compute them together.

What an arrangement makes of whole batches is tested with `captioner.training.batches`, and what a decoder does with it,
with `captioner.model.decoder`.
"""

from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioner.training.prefix_sharing import Layout, arrange, parting, speakers, steps_together

WORDS = np.array([[[2, 4, 5, 6], [2, 4, 5, 7], [2, 8, 5, 6], [2, 4, 5, 7], [2, 4, 0, 0]]])  # the last one ends early


def test_the_first_to_have_a_prefix_speaks_for_all_who_have_it() -> None:
    [found] = speakers(WORDS)
    assert found.tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 2, 2, 2], [0, 0, 0, 1], [0, 0, 4, 4]]
    assert parting(found, np.arange(5)).tolist() == [0, 3, 1, 4, 2]


@given(st.lists(st.lists(st.integers(0, 2), min_size=4, max_size=4), min_size=1, max_size=7))
def test_speakers_are_those_that_a_search_finds(captions: list[list[int]]) -> None:
    [found] = speakers(np.array([captions]))
    for own, speaks in zip(captions, found, strict=True):
        for step, speaker in enumerate(speaks):
            heads = [caption[: step + 1] for caption in captions]
            assert speaker == heads.index(own[: step + 1])


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=9))
def test_the_steps_together_are_those_with_the_fewest_rows(changes: list[tuple[int, int]]) -> None:
    captions = np.array([*accumulate(fewer for fewer, _ in changes)])[::-1] + 1
    prefixes = np.array([*accumulate(more for _, more in changes)]) + 1
    rows = [prefixes[:together].sum() + captions[together:].sum() for together in range(len(changes))]
    assert steps_together(captions, prefixes) == rows.index(min(rows))


def test_a_wider_layout_has_room_for_both() -> None:
    one, other = Layout((6, 5, 2), (2, 4, 6), 1), Layout((5, 5, 3, 1), (3, 3, 4, 4), 2)
    assert one.wider(other) == Layout((6, 5, 3, 1), (3, 4, 6, 6), 1)
    assert other.wider(one) == Layout((6, 5, 3, 1), (3, 4, 6, 6), 2)


@pytest.mark.parametrize("layout", [Layout((2, 2, 1)), Layout((2, 2, 1), (1, 1, 2), 2)])
def test_numbers_of_rows_and_of_words_to_be_said(layout: Layout) -> None:
    steps, captions = layout.spoken
    assert list(zip(steps, captions, strict=True)) == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]
    steps, numbers = layout.read
    rows = [(0, 0), (1, 0), (2, 1)] if layout.together else [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]
    assert list(zip(steps, numbers, strict=True)) == rows


def test_an_arrangement() -> None:
    """Three captions, the first and the second alike for two steps, the third from another picture, and room for 4."""
    layout = Layout((4, 4, 4, 1), (2, 2, 4, 4), 3)
    found = arrange(layout, np.array([4, 3, 2]), np.array([[0, 0, 0, 0], [0, 0, 1, 1], [2, 2, 2, 2]]))
    assert found.captions.tolist() == [0, 2, 1, -1, 0]
    assert found.origins.tolist() == [0, 0, 0, 0, 0]
    #                                  START       first word  second      third
    assert found.spoken.tolist()[:3] == [0, 0, 1]
    assert found.spoken.tolist()[4:7] == [2, 2, 3]
    assert found.spoken.tolist()[8:10] == [4, 6]
    assert found.spoken.tolist()[12:] == [8]
