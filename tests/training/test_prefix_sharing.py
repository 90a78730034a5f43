"""Which captions begin alike, and how long it pays to compute them together.

What an arrangement makes of whole batches is tested with `captioner.training.batches`, and what a decoder does with it,
with `captioner.model.decoder`.
"""

from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioner.training.prefix_sharing import StepWidths, arrange, best_shared_steps, divergence_step, prefix_owners

WORDS = np.array([[[2, 4, 5, 6], [2, 4, 5, 7], [2, 8, 5, 6], [2, 4, 5, 7], [2, 4, 0, 0]]])  # the last one ends early


def test_the_first_to_have_a_prefix_speaks_for_all_who_have_it() -> None:
    [found] = prefix_owners(WORDS)
    assert found.tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 2, 2, 2], [0, 0, 0, 1], [0, 0, 4, 4]]
    assert divergence_step(found, np.arange(5)).tolist() == [0, 3, 1, 4, 2]


@given(st.lists(st.lists(st.integers(0, 2), min_size=4, max_size=4), min_size=1, max_size=7))
def test_speakers_are_those_that_a_search_finds(captions: list[list[int]]) -> None:
    [found] = prefix_owners(np.array([captions]))
    for own, speaks in zip(captions, found, strict=True):
        for step, speaker in enumerate(speaks):
            heads = [caption[: step + 1] for caption in captions]
            assert speaker == heads.index(own[: step + 1])


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=9))
def test_the_steps_together_are_those_with_the_fewest_rows(changes: list[tuple[int, int]]) -> None:
    captions = np.array([*accumulate(fewer for fewer, _ in changes)])[::-1] + 1
    prefixes = np.array([*accumulate(more for _, more in changes)]) + 1
    rows = [prefixes[:shared_steps].sum() + captions[shared_steps:].sum() for shared_steps in range(len(changes))]
    assert best_shared_steps(captions, prefixes) == rows.index(min(rows))


def test_a_wider_layout_has_room_for_both() -> None:
    one, other = StepWidths((6, 5, 2), (2, 4, 6), 1), StepWidths((5, 5, 3, 1), (3, 3, 4, 4), 2)
    assert one.wider(other) == StepWidths((6, 5, 3, 1), (3, 4, 6, 6), 1)
    assert other.wider(one) == StepWidths((6, 5, 3, 1), (3, 4, 6, 6), 2)


@pytest.mark.parametrize("step_widths", [StepWidths((2, 2, 1)), StepWidths((2, 2, 1), (1, 1, 2), 2)])
def test_numbers_of_rows_and_of_words_to_be_said(step_widths: StepWidths) -> None:
    steps, captions = step_widths.target_rows
    assert list(zip(steps, captions, strict=True)) == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]
    steps, numbers = step_widths.input_rows
    rows = [(0, 0), (1, 0), (2, 1)] if step_widths.shared_steps else [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]
    assert list(zip(steps, numbers, strict=True)) == rows


def test_an_arrangement() -> None:
    """Three captions, the first and the second alike for two steps, the third from another picture, and room for 4."""
    step_widths = StepWidths((4, 4, 4, 1), (2, 2, 4, 4), 3)
    found = arrange(step_widths, np.array([4, 3, 2]), np.array([[0, 0, 0, 0], [0, 0, 1, 1], [2, 2, 2, 2]]))
    assert found.captions.tolist() == [0, 2, 1, -1, 0]
    assert found.parent_rows.tolist() == [0, 0, 0, 0, 0]
    #                                  START       first word  second      third
    assert found.target_rows.tolist()[:3] == [0, 0, 1]
    assert found.target_rows.tolist()[4:7] == [2, 2, 3]
    assert found.target_rows.tolist()[8:10] == [4, 6]
    assert found.target_rows.tolist()[12:] == [8]


def test_the_example_of_the_module() -> None:
    # "a dog runs", "a dog", "a cat" with 4 = a, 5 = dog, 6 = runs, 7 = cat
    words = np.array([[[2, 4, 5, 6], [2, 4, 5, 0], [2, 4, 7, 0]]])
    lengths = np.array([4, 3, 3])
    [owners] = prefix_owners(words)
    assert owners.tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 2, 2]]
    captions, prefixes = np.array([3, 3, 3, 1]), np.array([1, 1, 2, 2])
    assert best_shared_steps(captions, prefixes) == 3
    widths = StepWidths((3, 3, 3, 1), (1, 1, 2, 2), 3)
    assert widths.phases == ((1, 1, 2), (1,)) and sum(map(sum, widths.phases)) == 5
    arranged = arrange(widths, lengths, owners)
    assert arranged.captions.tolist() == [0, 2, 0]  # two rows of the first phase, one of the second
    assert arranged.parent_rows.tolist() == [0, 0, 0]
    # the targets of each step, caption by caption: three at rows 0, 1 and 2 or 3, and the last at row 4
    assert arranged.target_rows.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 3, 4]
