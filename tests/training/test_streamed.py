"""Batches of more pictures than memory holds."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny

from captioner.common.errors import CaptionerError
from captioner.data import streamed
from captioner.data.shards import Shard
from captioner.data.streamed import Described, TrainingCaptions
from captioner.features.shard_files import FeatureShards
from captioner.features.store import Features
from captioner.params import Recipe
from captioner.text.vocabulary import Vocabulary
from captioner.training import fit
from captioner.training import streamed as training
from captioner.training.batches import CaptionBatches
from captioner.training.history import LIKELIHOOD
from captioner.training.streamed import StreamedBatches, Windows, training_batches

SHARDS, PICTURES, SHAPE = 4, 7, (4, 3)
WORDS = ["a", "dog", "cat", "runs", "over", "the", "red", "green", "grass", "slowly"]
Item = tuple[dict[str, np.ndarray], np.ndarray]


def captions_of(number: int, key: int) -> list[str]:
    draw = np.random.default_rng((number, key))
    return [" ".join(draw.choice(WORDS, draw.integers(1, 6))) for _ in range(1 + key % 3)]


@pytest.fixture(name="windows")
def _windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Windows:
    monkeypatch.setattr(streamed, "PART", 3)
    monkeypatch.setattr(training, "WINDOW", 3)
    monkeypatch.setattr(training, "SETTLED", 1)
    given = [
        (
            Shard(f"{number}.tar", 1),
            [
                Described(
                    f"{number}/{key}",
                    {0: "validation", 1: "test"}.get(key, "train") if number == 0 else "train",
                    captions_of(number, key),
                    tiny.photograph(0),
                )
                for key in range(PICTURES)
            ],
        )
        for number in range(SHARDS)
    ]
    streamed.write(given, tmp_path)
    captions = TrainingCaptions(tmp_path)
    files = FeatureShards(tmp_path / "train", *SHAPE)
    for shard, parts in captions.parts_of.items():
        images = [captions.images(part) for part in parts]
        maps = (map_of(name) for names in images for name in names)
        files.write(shard, images, maps)
    return Windows(captions, files, 1)


def map_of(name: str) -> np.ndarray:
    number, key = map(int, name.split("/"))
    return np.full(SHAPE, 100 * number + key, np.float16)


def recipe(**changes: int) -> Recipe:
    return tiny.recipe(**{"batch_size": 4, "captions_per_picture": 2, "maximum_words": 5, "epochs": 3, **changes})


VOCABULARY = Vocabulary.build([" ".join(WORDS)])


def epoch_of(batches: StreamedBatches) -> list[Item]:
    found = [batches[index] for index in range(len(batches))]
    batches.on_epoch_end()
    return found


def seen(items: list[Item]) -> Counter[str]:
    """The pictures that an epoch shows, each as often as it has examples."""
    maps = [each[0, 0] for inputs, _ in items for each in inputs["features"][np.unique(inputs["pictures"])]]
    return Counter(f"{int(each) // 100}/{int(each) % 100}" for each in maps)


def assert_same(items: list[Item], others: list[Item]) -> None:
    assert len(items) == len(others)
    for (inputs, targets), (other_inputs, other_targets) in zip(items, others, strict=True):
        np.testing.assert_array_equal(targets, other_targets)
        for name, values in inputs.items():
            np.testing.assert_array_equal(values, other_inputs[name])


def test_an_epoch_has_each_caption_once(windows: Windows) -> None:
    batches = StreamedBatches(windows, VOCABULARY, recipe(), 1)
    names = [(n, key) for n in range(SHARDS) for key in range(PICTURES) if n or key > 1]
    assert batches.pictures == len(names)
    assert batches.captions == sum(len(captions_of(*name)) for name in names)
    for _ in range(3):
        items = epoch_of(batches)
        assert seen(items) == Counter({f"{n}/{key}": -(-len(captions_of(n, key)) // 2) for n, key in names})
        assert sum((targets != 0).sum() for _, targets in items) == sum(
            len(text.split()) + 1 for name in names for text in captions_of(*name)
        )


def test_epochs_have_orders_of_their_own_which_a_seed_gives(windows: Windows) -> None:
    batches, again = (StreamedBatches(windows, VOCABULARY, recipe(), 1) for _ in range(2))
    first, second = epoch_of(batches), epoch_of(batches)
    assert [targets.tolist() for _, targets in first] != [targets.tolist() for _, targets in second]
    assert_same(first, epoch_of(again))
    assert_same(second, epoch_of(again))


def test_all_batches_have_one_shape(windows: Windows) -> None:
    batches = StreamedBatches(windows, VOCABULARY, recipe(), 1)
    shapes = {
        tuple((name, values.shape) for name, values in inputs.items())
        for _ in range(3)
        for inputs, _ in epoch_of(batches)
    }
    assert len(shapes) == 1


def test_an_epoch_goes_on_where_it_was_interrupted(windows: Windows) -> None:
    batches = StreamedBatches(windows, VOCABULARY, recipe(minimum_steps=20), 1)
    assert batches.passes > 1
    epoch_of(batches)
    second = epoch_of(batches)
    resumed = StreamedBatches(windows, VOCABULARY, recipe(minimum_steps=20), 1)
    resumed[0]  # as Keras does before it begins
    resumed.epoch, resumed.first = 1, 5
    assert len(resumed) == len(batches) - 5
    assert_same([resumed[index] for index in range(len(resumed))], second[5:])


@pytest.mark.parametrize("first", range(6))
def test_two_windows_are_in_memory(windows: Windows, first: int) -> None:
    assert len(windows) > 2
    batches = StreamedBatches(windows, VOCABULARY, recipe(), 1)
    batches[0]
    batches.epoch, batches.first = 1, first
    for _ in range(2):
        for index in range(len(batches)):
            batches[index]
            assert len(batches._loaded) <= 2 + (index == 0)
        batches.on_epoch_end()


def test_one_that_asks_late_takes_no_window_from_others(windows: Windows) -> None:
    batches = StreamedBatches(windows, VOCABULARY, recipe(), 1)
    items = [batches[index] for index in range(len(batches))]
    assert_same([batches[0]], items[:1])
    assert max(batches._loaded) == len(windows)


def test_a_window_has_the_batches_of_its_pictures(windows: Windows) -> None:
    batches = StreamedBatches(windows, VOCABULARY, recipe(epochs=1), 1)
    [first, *_] = epoch_of(batches)
    window = int(batches._order(0)[0])
    captions = windows.captions(window)
    own = CaptionBatches(windows.features(window, captions), captions, VOCABULARY, 4, 2, 5, (1, window))
    own.step_widths = batches.step_widths
    assert_same([first], [own[0]])


def test_a_decoder_that_sees_nothing_needs_no_features(windows: Windows, tmp_path: Path) -> None:
    found = training_batches(tmp_path, None, VOCABULARY, recipe(), 1)
    assert isinstance(found, StreamedBatches)
    inputs, _ = found[0]
    assert not inputs["features"].any() and inputs["features"].shape[1:] == (4, 1)


def test_features_of_other_pictures_are_refused(windows: Windows, tmp_path: Path) -> None:
    (tmp_path / "train/1.parquet").write_bytes((tmp_path / "train/2.parquet").read_bytes())
    batches = StreamedBatches(windows, VOCABULARY, recipe(), 1)
    with pytest.raises(CaptionerError, match="not those of the captions"):
        epoch_of(batches)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-9])])
def test_damaged_features_are_said_in_one_line(
    windows: Windows, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    batches = StreamedBatches(windows, VOCABULARY, recipe(minimum_steps=30), 1)
    captions = tiny.captions({"a": ["a dog"]})
    validation = CaptionBatches(
        Features.at_hand(np.zeros((1, *SHAPE), np.float16), ["a"]), captions, VOCABULARY, 4, 2, 5
    )
    damage(tmp_path / "train/1.parquet")
    with pytest.raises(CaptionerError, match=r"in the shard 1 are missing or damaged: .*dvc repro features"):
        Windows(TrainingCaptions(tmp_path), FeatureShards(tmp_path / "train", *SHAPE), 1)
    decoder = fit.build(tiny.SIZES, recipe(), "dot", len(VOCABULARY), SHAPE[1], SHAPE[0])
    with pytest.raises(CaptionerError, match=r"1\.parquet is missing or damaged .*dvc repro features"):
        fit.train(decoder, batches, validation, recipe(), [], LIKELIHOOD)


def test_maps_come_back_as_they_were(windows: Windows, tmp_path: Path) -> None:
    captions = TrainingCaptions(tmp_path)
    files = FeatureShards(tmp_path / "train", *SHAPE)
    for part in captions.parts:
        names, maps = files.read(part)
        np.testing.assert_array_equal(maps, np.stack([map_of(name) for name in names]))
