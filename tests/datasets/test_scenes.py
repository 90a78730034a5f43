"""Drawn scenes are what their captions and boxes say."""

import io
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from captioner.data.dataset import SPLITS, Dataset
from captioner.datasets.scenes import drawing, grammar
from captioner.datasets.scenes.grammar import COLOURS, RELATIONS, SHAPES, SIZE, SceneObject
from captioner.text.vocabulary import Vocabulary

COUNTS = {"train": 30, "validation": 4, "test": 4}

# the colours and shapes of this file's examples stand for the first of the grammar, whichever these are
WORDS = dict(zip(("red", "blue", "orange", "green"), COLOURS, strict=False)) | dict(
    zip(("circle", "square", "star", "heart"), SHAPES, strict=False)
)
SCENE = [
    SceneObject(WORDS["circle"], WORDS["red"], "large", (80, 80, 140, 140)),
    SceneObject(WORDS["square"], WORDS["blue"], "small", (10, 100, 42, 132)),  # to the left
    SceneObject(WORDS["star"], WORDS["orange"], "small", (90, 10, 122, 42)),  # above
    SceneObject(WORDS["heart"], WORDS["blue"], "small", (170, 170, 202, 202)),  # below and to the right
]


def example(text: str) -> str:
    """A caption in the words of the grammar."""
    relations = {relation: wordings[0] for relation, wordings in RELATIONS.items()}
    translated = re.sub(r"\w+", lambda word: WORDS.get(word[0], word[0]), text)
    return translated.format(**relations)


def load(seed: int = 1, counts: dict[str, int] = COUNTS, **options: Any) -> Dataset:
    return drawing.load(counts, **{"objects": (2, 4), "captions": 5, "seed": seed, **options})


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    loaded = load()
    return Dataset(loaded.captions, list(loaded.pictures), loaded.objects)


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data))).astype(int)


# --- captions and truth ----------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), fewest=st.integers(2, 4), more=st.integers(0, 2), captions=st.integers(1, 16))
def test_every_caption_is_different_and_true(seed: int, fewest: int, more: int, captions: int) -> None:
    generator = np.random.default_rng(seed)
    things = drawing.compose(generator, (fewest, fewest + more))
    assert fewest <= len(things) <= fewest + more
    texts = drawing.describe(things, captions, generator)
    assert len(texts) == len(set(texts)) == captions
    assert [text for text in texts if not grammar.is_true(text, things)] == []


def test_captions_are_true_of_their_own_picture_and_seldom_of_another(dataset: Dataset) -> None:
    things = grammar.objects_by_image(dataset.objects)
    images = list(things)
    assert all(grammar.is_true(text, things[image]) for image, text in _texts(dataset))
    another = dict(zip(images, images[1:] + images[:1], strict=True))
    assert np.mean([grammar.is_true(text, things[another[image]]) for image, text in _texts(dataset)]) < 0.1


@pytest.mark.parametrize(
    ("caption", "true"),
    [
        ("a red circle {right} a blue square", True),
        ("a red circle {left} a blue square", False),
        ("a blue square {left} a red circle", True),
        ("a blue square {right} a red circle", False),
        ("a red circle {below} an orange star", True),
        ("a red circle {above} an orange star", False),
        ("an orange star {above} a red circle", True),
        ("an orange star is {above} a red circle", True),
        ("a red circle is {left} a blue heart", True),
        ("a red circle is {above} a blue heart", True),
        ("a red circle {right} a blue heart", False),
        ("a blue square {above} a red circle", False),  # beside it, but no higher
        ("a red circle {above} a blue square", False),
        ("a large red circle {right} a small blue square", True),
        ("a small red circle {right} a blue square", False),
        ("a red circle {right} a large blue square", False),
        ("a red square {right} a blue square", False),
        ("a green circle {right} a blue square", False),
        ("a red circle {right} a red circle", False),
        ("a blue square {left} a blue heart", True),
        ("a blue heart {left} a blue square", False),
        ("A red circle {right} A blue square .", True),
        (" a red circle {right} a blue square.", True),
        ("an red circle {right} a blue square", True),  # articles are nobody's business
        ("red circle {right} a blue square", False),
        ("a red circle {right}", False),
        ("a red circle a blue square", False),
        ("a red circle {right} {right} a blue square", False),
        ("a red circle {right} a blue square {right} a blue square", False),
        ("a red large circle {right} a blue square", False),
        ("a scarlet circle {right} a blue square", False),
        ("a red oval {right} a blue square", False),
        ("a red circle near a blue square", False),
        ("a a red circle {right} a blue square", False),
        ("a red circle {right} a blue square and so on", False),
        ("{right}", False),
        ("<unk> red circle {right} a blue square", False),
        ("a man rides a horse", False),
        ("a red circle", False),
        ("", False),
        (" .", False),
        ("\n", False),
        ("犬 ((", False),
        ("a red circle {right} a blue square\x00", False),
        ("a " * 5000, False),
    ],
)
def test_truth(caption: str, true: bool) -> None:
    assert grammar.is_true(example(caption), SCENE) is true


@pytest.mark.parametrize("relation", RELATIONS)
def test_every_wording_means_its_relation(relation: str) -> None:
    opposite = {"left": "right", "right": "left", "above": "below", "below": "above"}[relation]
    [other] = {"left": SCENE[1:2], "right": SCENE[3:4], "above": SCENE[2:3], "below": SCENE[3:4]}[relation]
    large, noun = example("a red circle"), f"a {other.colour} {other.shape}"
    for words in RELATIONS[relation]:
        assert grammar.is_true(f"{noun} {words} {large}", SCENE)
        assert not grammar.is_true(f"{large} {words} {noun}", SCENE)
    for words in RELATIONS[opposite]:
        assert not grammar.is_true(f"{noun} {words} {large}", SCENE)


def test_wordings_are_of_one_relation_each() -> None:
    every = [words for wordings in RELATIONS.values() for words in wordings]
    assert len(every) == len(set(every))


def test_nothing_is_true_of_an_empty_scene() -> None:
    assert not grammar.is_true(example("a red circle {left} a blue square"), [])


@given(text=st.text(st.sampled_from("a red circle left of above, blue.\n"), max_size=60))
def test_any_text_is_true_or_false(text: str) -> None:
    assert grammar.is_true(text, SCENE) in (True, False)


def test_captions_survive_the_vocabulary(dataset: Dataset) -> None:
    vocabulary = Vocabulary.build(dataset.captions["caption"])
    things = grammar.objects_by_image(dataset.objects)
    for image, text in _texts(dataset):
        assert vocabulary.decode(vocabulary.encode(text)) == text
        assert grammar.is_true(vocabulary.decode(vocabulary.encode(text.upper() + " .")), things[image])


def _texts(dataset: Dataset) -> list[tuple[str, str]]:
    return list(dataset.captions[["image", "caption"]].itertuples(index=False, name=None))


# --- the data set ----------------------------------------------------------------------------------------------------


def test_splits_and_tables(dataset: Dataset) -> None:
    assert dataset.captions.groupby("split")["image"].nunique().to_dict() == COUNTS
    assert (dataset.captions.groupby("image").size() == 5).all()
    assert set(dataset.captions["split"]) == set(SPLITS)
    names = [name for name, _ in dataset.pictures]
    assert names == dataset.captions["image"].drop_duplicates().tolist()
    assert set(dataset.objects["image"]) == set(names)
    assert dataset.objects.groupby("image").size().between(2, 4).all()


def test_things_survive_the_table(dataset: Dataset) -> None:
    generator = np.random.default_rng([1, 0])
    first = dataset.captions["image"][0]
    assert grammar.objects_by_image(dataset.objects)[first] == drawing.compose(generator, (2, 4))


def test_equal_seeds_give_equal_bytes(dataset: Dataset) -> None:
    again = load()
    assert again.captions.equals(dataset.captions) and again.objects.equals(dataset.objects)
    assert list(again.pictures) == list(dataset.pictures)


def test_other_seeds_give_other_scenes(dataset: Dataset) -> None:
    other = load(seed=2)
    assert not other.captions.equals(dataset.captions) and not other.objects.equals(dataset.objects)
    assert not {data for _, data in other.pictures} & {data for _, data in dataset.pictures}


def test_no_two_pictures_are_alike(dataset: Dataset) -> None:
    assert len({data for _, data in dataset.pictures}) == sum(COUNTS.values())


@pytest.mark.parametrize("objects", [(2, 2), (2, 3), (6, 6)])
def test_fewest_and_most_objects(objects: tuple[int, int]) -> None:
    drawn = load(counts=dict.fromkeys(SPLITS, 10), objects=objects).objects.groupby("image").size()
    assert set(drawn) == set(range(objects[0], objects[1] + 1))


def test_all_shapes_and_colours_occur() -> None:
    objects = load(counts={"train": 300, "validation": 1, "test": 1}).objects
    assert set(objects["word"]) == set(SHAPES) and set(objects["colour"]) == set(COLOURS)
    counts = objects["word"].value_counts()
    assert counts.max() < 2 * counts.min()


# --- boxes and pixels ------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_boxes_lie_in_the_picture_and_apart(seed: int) -> None:
    things = drawing.compose(np.random.default_rng(seed), (2, 6))
    for number, one in enumerate(things):
        left, top, right, bottom = one.box
        assert 0 <= left < right <= SIZE and 0 <= top < bottom <= SIZE
        for other in things[:number]:
            assert any(one.is_related(relation, other) for relation in RELATIONS)
            assert (one.colour, one.shape) != (other.colour, other.shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("colour", COLOURS)
def test_an_object_fills_its_box_to_the_sides(shape: str, colour: str) -> None:
    thing = SceneObject(shape, colour, "large", (60, 90, 121, 150))
    ground, drawn = (pixels(drawing.draw(things, np.random.default_rng(5))) for things in ([], [thing]))
    rows, columns = np.nonzero(np.abs(drawn - ground).max(axis=2) > 4)
    found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    assert np.abs(found - thing.box).max() <= 1
    assert len(rows) > 0.3 * 61 * 60


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_all_pixels_outside_the_boxes_are_ground(seed: int) -> None:
    things = drawing.compose(np.random.default_rng(seed), (2, 6))
    ground, drawn = (pixels(drawing.draw(shown, np.random.default_rng(seed))) for shown in ([], things))
    for left, top, right, bottom in (thing.box for thing in things):
        inside = drawn[top:bottom, left:right] != ground[top:bottom, left:right]
        assert inside.any()
        drawn[top - 1 : bottom + 1, left - 1 : right + 1] = ground[top - 1 : bottom + 1, left - 1 : right + 1]
    np.testing.assert_array_equal(drawn, ground)


def test_objects_have_their_colours() -> None:
    for name, colour in COLOURS.items():
        thing = SceneObject("square", name, "large", (60, 90, 120, 150))
        middle = pixels(drawing.draw([thing], np.random.default_rng(0)))[120, 90]
        distances = {other: np.abs(middle - value).sum() for other, value in COLOURS.items()}
        assert min(distances, key=distances.__getitem__) == name
        assert np.abs(middle - colour).max() < 40


def test_grounds_vary(dataset: Dataset) -> None:
    corners = [pixels(data)[0, 0].mean() for _, data in dataset.pictures]
    assert np.std(corners) > 10


def test_pictures_have_the_size_that_encoders_take(dataset: Dataset) -> None:
    for _, data in dataset.pictures:
        image = Image.open(io.BytesIO(data))
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (SIZE, SIZE))
