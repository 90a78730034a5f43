"""Every caption once an epoch, in batches of one shape."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner.common.errors import CaptionerError
from captioner.features.store import rows_of
from captioner.text.vocabulary import PAD, START, Vocabulary
from captioner.training.batches import VECTOR, CaptionBatches, balanced_order
from captioner.training.prefix_sharing import StepWidths

Seen = list[tuple[int, str]]  # row of the picture's features, and caption


def batches(
    by_image: dict[str, list[str]], size: int = 2, shared_steps: int = 2, seed: int | None = None
) -> CaptionBatches:
    return CaptionBatches(
        tiny.features(list(tiny.CAPTIONS)), tiny.captions(by_image), tiny.vocabulary(), size, shared_steps, 4, seed, 4
    )


def captions_of(epoch: CaptionBatches, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A batch put together again: the map of each caption's picture, its words and targets, `[captions, T]`."""
    inputs, targets = epoch[index]
    known = tiny.histories(epoch.step_widths, inputs)
    words, said = (np.full((epoch.step_widths.captions[0], len(epoch.step_widths.captions)), PAD) for _ in range(2))
    pictures = np.zeros(len(words), int)
    for step, caption, row, target in zip(*epoch.step_widths.target_rows, inputs["target_rows"], targets, strict=True):
        said[caption, step] = target
        if target != PAD:
            seen, read = zip(*known[row], strict=True)
            if step == 0:
                pictures[caption] = seen[0]
            assert set(seen) == {pictures[caption]} and len(read) == step + 1
            assert read[:step] == tuple(words[caption, :step]), "a caption goes on from another one's words"
            words[caption, step] = read[step]
    return inputs["features"][pictures], words, said


def seen(epoch: CaptionBatches) -> Seen:
    """What an epoch shows: batch by batch, of each the longest captions first."""
    vocabulary, grid = tiny.vocabulary(), tiny.features().grid
    found: Seen = []
    for index in range(len(epoch)):
        for picture, _, said in zip(*captions_of(epoch, index), strict=True):
            if said.any():
                [row] = [number for number, known in enumerate(grid) if np.array_equal(known, picture)]
                found.append((row, vocabulary.decode(said)))
    return found


def expected(by_image: dict[str, list[str]]) -> Seen:
    rows = tiny.features().rows
    return [(rows[image], text) for image, texts in by_image.items() for text in texts]


@settings(deadline=None, max_examples=30)
@given(
    counts=st.lists(st.integers(0, 7), min_size=4, max_size=4).filter(any),
    size=st.integers(1, 5),
    shared_steps=st.integers(1, 5),
    seed=st.none() | st.integers(0, 9),
)
def test_each_caption_once_an_epoch_with_its_picture(
    counts: list[int], size: int, shared_steps: int, seed: int | None
) -> None:
    words = tiny.vocabulary().tokens[4:]
    by_image = {
        image: [f"{words[number]} {words[-1]}" for number in range(count)]
        for image, count in zip(tiny.CAPTIONS, counts, strict=True)
        if count
    }
    epoch = batches(by_image, size, shared_steps, seed)
    for _ in range(2):
        assert Counter(seen(epoch)) == Counter(expected(by_image))
        epoch.on_epoch_end()


@pytest.mark.parametrize("shared_steps", [1, 2, 5])
def test_all_shapes_are_equal(shared_steps: int) -> None:
    epoch = batches(tiny.CAPTIONS, size=3, shared_steps=shared_steps)
    for index in range(len(epoch)):
        inputs, targets = epoch[index]
        assert inputs["features"].shape == (3, tiny.POSITIONS, tiny.CHANNELS)
        first, second = epoch.step_widths.phases
        assert inputs["pictures"].shape == inputs["parent_rows"].shape == (max(first, default=0) + second[0],)
        assert inputs["words"].shape == (sum(first) + sum(second),)
        assert inputs["target_rows"].shape == targets.shape == (sum(epoch.step_widths.captions),)
        assert inputs.pop("features").dtype == np.float16
        assert {each.dtype for each in (*inputs.values(), targets)} == {np.dtype(np.int32)}


def test_captions_of_a_picture_stand_together() -> None:
    epoch = batches(tiny.CAPTIONS, size=10, shared_steps=2)
    assert len(epoch) == 1
    inputs, _ = epoch[0]
    known = tiny.histories(epoch.step_widths, inputs)
    targets = captions_of(epoch, 0)[2]
    pictures = [known[row][0][0] for row in inputs["target_rows"][: len(targets)][targets.any(axis=1)]]
    # "two stars" and two more of the same picture are three captions, in two examples
    assert Counter(pictures) == {0: 1, 1: 2, 2: 2, 3: 1, 4: 1}


def test_the_longest_captions_come_first() -> None:
    lengths = (captions_of(batches(tiny.CAPTIONS, size=10), 0)[2] != PAD).sum(axis=1)
    assert lengths.tolist() == sorted(lengths, reverse=True) and len(set(lengths)) > 1


@pytest.mark.parametrize(("captions", "size"), [(1, 1), (7, 1), (30, 1), (30, 4)])
def test_as_many_captions_are_computed_as_go_on(captions: int, size: int) -> None:
    generator = np.random.default_rng(captions)
    words = tiny.vocabulary().tokens[4:]
    texts = [" ".join(words[: generator.integers(0, 5)]) for _ in range(captions)]
    epoch = batches(dict.fromkeys(tiny.CAPTIONS, texts), size, captions)
    ends = [min(len(text.split()) + 1, 5) for text in texts]
    going_on = [size * sum(end > place for end in ends) for place in range(max(ends))]
    assert len(epoch.step_widths.captions) == len(going_on) and epoch.step_widths.captions[0] == going_on[0]
    for width, least in zip(epoch.step_widths.captions, going_on, strict=True):
        assert least <= width <= min(least + VECTOR - 1, going_on[0])


def test_words_that_captions_share_are_computed_once() -> None:
    """Of three captions that begin with the same two words, and two of them with the same three."""
    a, b, c, d, e, f = tiny.vocabulary().tokens[4:10]
    texts = [f"{a} {b} {c} {d}", f"{a} {b} {c} {e}", f"{a} {b} {f}"]
    epoch = batches(dict.fromkeys(tiny.CAPTIONS, texts), size=4, shared_steps=3)
    # what is read: START, a, b, then c or f, then d, e or nothing
    assert epoch.step_widths.shared_steps == 4 and epoch.step_widths.phases == ((4, 4, 4, 8), (8,))
    assert Counter(seen(epoch)) == Counter(expected(dict.fromkeys(tiny.CAPTIONS, texts)))


@settings(deadline=None, max_examples=60)
@given(
    texts=st.lists(st.lists(st.lists(st.integers(4, 6), max_size=5), min_size=1, max_size=6), min_size=1, max_size=4),
    size=st.integers(1, 3),
    shared_steps=st.integers(1, 6),
    seed=st.none() | st.integers(0, 9),
    wider=st.lists(st.lists(st.integers(4, 6), max_size=5), min_size=1, max_size=6),
)
def test_captions_that_begin_alike_are_each_said_whole(
    texts: list[list[list[int]]], size: int, shared_steps: int, seed: int | None, wider: list[list[int]]
) -> None:
    words = tiny.vocabulary().tokens

    def said(captions: list[list[int]]) -> list[str]:
        return [" ".join(words[number] for number in caption) for caption in captions]

    by_image = {image: said(captions) for image, captions in zip(tiny.CAPTIONS, texts, strict=False)}
    epoch = batches(by_image, size, shared_steps, seed)
    other = batches({"sun.png": said(wider)}, size, shared_steps)
    wanted = Counter((row, " ".join(text.split()[:4])) for row, text in expected(by_image))
    for step_widths in (
        epoch.step_widths,
        epoch.step_widths.wider(other.step_widths),
        other.step_widths.wider(epoch.step_widths),
    ):
        epoch.step_widths = step_widths
        assert Counter(seen(epoch)) == wanted


def test_what_an_order_of_a_later_epoch_needs_is_known_before() -> None:
    words = tiny.vocabulary().tokens[4:]
    by_image = {image: [" ".join(words[: number % 5])] * 3 for number, image in enumerate(tiny.CAPTIONS)}
    epoch = CaptionBatches(tiny.features(), tiny.captions(by_image), tiny.vocabulary(), 3, 3, 4, seed=1, epochs=8)
    for _ in range(8):
        assert Counter(seen(epoch)) == Counter(expected(by_image))
        epoch.on_epoch_end()


@given(
    lengths=st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=3), min_size=1, max_size=40),
    size=st.integers(1, 7),
    seed=st.integers(0, 9),
)
def test_an_order_has_each_example_once(lengths: list[list[int]], size: int, seed: int) -> None:
    order = balanced_order(going_on(lengths), size, np.random.default_rng(seed))
    assert sorted(order) == list(range(len(lengths)))


def test_batches_have_about_as_many_captions_going_on_at_each_place() -> None:
    generator = np.random.default_rng(1)
    traits = going_on(generator.integers(1, 19, (800, 5)).tolist())
    size, count = 16, 50

    def spread(order: np.ndarray) -> float:
        return traits[order].reshape(count, size, -1).sum(axis=1).std(axis=0).mean()

    balanced = [spread(balanced_order(traits, size, generator)) for _ in range(5)]
    assert max(balanced) < 0.6 * min(spread(generator.permutation(800)) for _ in range(5))


def test_balanced_batches_stay_random() -> None:
    traits = going_on([[1, 2], [3, 4]] * 100)
    orders = [balanced_order(traits, 20, np.random.default_rng(seed)) for seed in range(200)]
    shared_steps = np.mean([set(order[:20]) >= {0, 2} or set(order[20:40]) >= {0, 2} for order in orders])
    assert 0.001 < shared_steps < 0.08  # by chance 2 x 0.1 x 0.095


def going_on(lengths: list[list[int]]) -> np.ndarray:
    places = np.arange(max(map(max, lengths)))
    return np.stack([(np.array(own)[:, None] > places).sum(axis=0) for own in lengths])


def test_more_width_is_padding() -> None:
    epoch = batches(tiny.CAPTIONS, size=4, seed=3)
    before = seen(epoch)
    step_widths = epoch.step_widths
    captions, prefixes = (
        tuple(width + 3 for width in widths) for widths in (step_widths.captions, step_widths.prefixes)
    )
    epoch.step_widths = StepWidths(captions, prefixes, step_widths.shared_steps)
    assert seen(epoch) == before


def test_empty_places_are_padding_in_words_and_targets() -> None:
    _, words, targets = captions_of(batches(tiny.CAPTIONS, size=10), 0)
    real = targets.any(axis=1)
    assert (words[~real] == PAD).all()
    assert (words[real][:, 0] == START).all()


def test_what_is_read_belongs_to_what_is_to_be_said() -> None:
    _, words, targets = captions_of(batches(tiny.CAPTIONS, size=10, seed=3), 0)
    for read, said in zip(words, targets, strict=True):
        count = int((said != PAD).sum())
        assert read[1:count].tolist() == said[: max(count - 1, 0)].tolist()


def test_order_differs_by_epoch_and_seed_and_is_equal_for_equal_seeds() -> None:
    def orders(seed: int | None) -> list[Seen]:
        epoch = batches(tiny.CAPTIONS, size=1, shared_steps=1, seed=seed)
        found = []
        for _ in range(4):
            found.append(seen(epoch))
            epoch.on_epoch_end()
        return found

    first = orders(1)
    assert first == orders(1)
    assert len({tuple(order) for order in first}) > 1
    assert first != orders(2)
    assert orders(None) == [expected(tiny.CAPTIONS)] * 4


def test_rows_of_an_index_with_gaps_are_found() -> None:
    captions = tiny.captions()
    part = captions[captions["image"] != "sun.png"]
    epoch = CaptionBatches(tiny.features(), part, tiny.vocabulary(), 2, 2, 4)
    others = {image: texts for image, texts in tiny.CAPTIONS.items() if image != "sun.png"}
    assert Counter(seen(epoch)) == Counter(expected(others))


def test_interleaved_captions_of_a_picture_are_gathered() -> None:
    captions = tiny.captions().sample(frac=1, random_state=1)
    epoch = CaptionBatches(tiny.features(), captions, tiny.vocabulary(), 2, 2, 4)
    assert sorted(seen(epoch)) == sorted(expected(tiny.CAPTIONS))
    assert len(epoch) == 3


def test_no_captions() -> None:
    with pytest.raises(CaptionerError, match="no captions"):
        batches({})


def test_a_picture_without_features() -> None:
    with pytest.raises(CaptionerError, match=r"'moon\.png' \(they have 4\).*dvc repro features"):
        batches({"moon.png": ["a red circle"]})
    with pytest.raises(CaptionerError, match=r"moon\.png"):
        rows_of(tiny.features(), ["sun.png", "moon.png"])


def test_rows() -> None:
    assert rows_of(tiny.features(), ["tree.png", "sun.png"]).tolist() == [3, 0]


def test_a_step_sees_one_view_of_each_picture_and_no_mirror_image_of_what_is_left_or_right() -> None:
    names = ["plain.png", "sided.png", "lonely.png"]
    captions = tiny.captions(
        {"plain.png": ["leftovers"], "sided.png": ["a dog", "a dog to the Left"], "lonely.png": ["a"]}
    )
    rows = np.arange(9, dtype=np.float16)  # a map that says which row it is
    grid = np.broadcast_to(rows[:, None, None], (9, tiny.POSITIONS, tiny.CHANNELS))
    views = {"plain.png": [0, 3, 4, 5], "sided.png": [1, 6, 7, 8]}
    features = dataclasses.replace(tiny.features(names), grid=grid, views=views)
    vocabulary = Vocabulary.build(captions["caption"])
    epochs = 60
    training = CaptionBatches(features, captions, vocabulary, 2, 2, 5, seed=1, epochs=epochs)
    shown: dict[str, list[int]] = {name: [] for name in names}
    for _ in range(epochs):
        for number in range(len(training)):
            inputs, _ = training[number]
            for place, example in enumerate(training.chosen(number)):
                shown[training.images[example]].append(int(inputs["features"][place, 0, 0]))
        training.on_epoch_end()
    assert [len(each) for each in shown.values()] == [epochs] * 3
    assert {name: set(each) for name, each in shown.items()} == {
        "plain.png": {0, 3, 4, 5},
        "sided.png": {1, 7},
        "lonely.png": {2},
    }
    again = CaptionBatches(features, captions, vocabulary, 2, 2, 5, seed=1, epochs=epochs)
    np.testing.assert_array_equal(np.stack(again.views), np.stack(training.views))

    validation = CaptionBatches(features, captions, vocabulary, 3, 2, 5)
    assert sorted(validation[0][0]["features"][:, 0, 0].tolist()) == [0, 1, 2]


def test_an_epoch_that_goes_on_has_the_batches_that_are_left() -> None:
    whole, rest = (batches(tiny.CAPTIONS, seed=3) for _ in range(2))
    for epoch in range(3):
        whole.on_epoch_end()
        for first in range(len(whole)):
            rest.go_on_at(epoch, first)
            assert len(rest) == len(whole) - first
            for index in range(len(rest)):
                np.testing.assert_array_equal(rest.chosen(index), whole.chosen(first + index))
    rest.on_epoch_end()
    whole.on_epoch_end()
    assert len(rest) == len(whole)
    np.testing.assert_array_equal(rest.chosen(0), whole.chosen(0))
