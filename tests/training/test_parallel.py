"""Processes that share each batch learn what one process does."""

import os
from pathlib import Path
from typing import Any

import keras
import learners
import numpy as np
import pytest
import tiny
from checkout import ROOT
from learners import learn
from trial import PowerCut

from captioner.common import interruption
from captioner.common.errors import CaptionerError
from captioner.params import Recipe
from captioner.training import fit
from captioner.training.batches import CaptionBatches
from captioner.training.checkpoints import Checkpoints
from captioner.training.workers import together

DROPOUTS = {"feature_dropout": 0.25, "word_dropout": 0.5, "output_dropout": 0.5}
ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(Path(learners.__file__).parent)]),
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # how soon a death is noticed
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "5",  # how long it waits for cores that another training leaves just now
}
COUNTS = pytest.mark.parametrize("count", [2, 3, 4])


class Alone:
    """Peers of whom one knows no other: what it has is taken for the sum."""

    def __init__(self, rank: int = 0, count: int = 1):
        self.rank, self.count = rank, count

    def summed(self, values: Any) -> Any:
        return values

    def from_first(self, value: Any) -> Any:
        return value


def shares(used: Recipe, count: int) -> list[CaptionBatches]:
    return [tiny.batches(used, share=(rank, count)) for rank in range(count)]


def sums(used: Recipe, part: CaptionBatches, rank: int = 0) -> np.ndarray:
    keras.utils.set_random_seed(1)
    model = fit.compile_shared(tiny.decoder("dot", used), part, used, Alone(rank))
    return np.sum([np.asarray(model.share_sums(*part[number])) for number in range(len(part))], axis=0)


@COUNTS
def test_each_example_is_in_one_share_of_its_batch(count: int) -> None:
    used = tiny.recipe(batch_size=4)
    whole, parts = tiny.batches(used), shares(used, count)
    assert [len(part) for part in parts] == [len(whole)] * count == [2] * count
    assert len({part.step_widths for part in parts}) == 1
    for number in range(len(whole)):
        taken = np.concatenate([part.chosen(number) for part in parts])
        assert sorted(taken) == sorted(whole.chosen(number))
        assert {part[number][0]["features"].shape[0] for part in parts} == {-(-4 // count)}


@COUNTS
@pytest.mark.parametrize("changes", [{}, {"label_smoothing": 0.1, "attention_penalty": 0.5}], ids=str)
@pytest.mark.usefixtures("eager", "double")
def test_the_sums_of_shares_are_those_of_the_whole(count: int, changes: dict[str, float]) -> None:
    used = tiny.recipe(batch_size=4, **changes)  # the second batch has one picture: some shares have none
    whole = sums(used, tiny.batches(used))
    assert whole[-1] == tiny.batches(used).lengths.sum()
    of_shares = [sums(used, part, rank) for rank, part in enumerate(shares(used, count))]
    np.testing.assert_allclose(sum(of_shares), whole, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("eager")
def test_dropout_differs_by_process_and_not_by_time() -> None:
    used = tiny.recipe(batch_size=4, **DROPOUTS)
    found = [sums(used, tiny.batches(used), rank) for rank in (0, 1, 2, 1)]
    np.testing.assert_array_equal(found[1], found[3])
    assert all(np.abs(found[one] - found[other]).max() > 0.1 for one, other in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("step", [2, 4])
def test_goes_on_to_the_same_bits(step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruption, "INTERVAL", 0.0)
    used = tiny.recipe(batch_size=2, **DROPOUTS)

    def weights(name: str, *others: keras.callbacks.Callback) -> list[np.ndarray]:
        keras.utils.set_random_seed(1)
        decoder = tiny.decoder("dot", used)
        data, validation = tiny.batches(used, share=(1, 2)), tiny.batches(used, None)
        checkpoints = Checkpoints(tmp_path / name)
        fit.train(
            decoder, data, validation, used, [tiny.Scores([1, 2]), *others], checkpoints=checkpoints, peers=Alone(1, 2)
        )
        return decoder.get_weights()

    with pytest.raises(ConnectionError):
        weights("interrupted", PowerCut(step))
    for one, other in zip(weights("interrupted"), weights("whole"), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.usefixtures("eager")
def test_a_batch_that_cannot_be_read_is_told_by_any_process(monkeypatch: pytest.MonkeyPatch) -> None:
    used = tiny.recipe(batch_size=2)
    training = tiny.batches(used, share=(1, 2))

    def item(index: int) -> Any:
        raise CaptionerError(f"no batch {index}")

    monkeypatch.setattr(training, "item", item)
    peers = Alone(1, 2)
    monkeypatch.setattr(peers, "from_first", lambda _: (0, 0))
    with pytest.raises(CaptionerError, match=r"^no batch 0$"):
        fit.follow(tiny.decoder("dot", used), training, used, peers)


@pytest.mark.slow
@pytest.mark.usefixtures("machines")
class TestOnTwoMachines:
    @pytest.mark.usefixtures("eager")
    def test_they_learn_what_one_does_though_one_dies(self, tmp_path: Path) -> None:
        used = tiny.recipe(batch_size=2, epochs=3, label_smoothing=0.1, attention_penalty=0.5)
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
        one = learn(None, used, tmp_path / "one")
        two = together(learn, (used, tmp_path / "two", 1), 2, ENVIRONMENT)
        assert one is not None and two is not None
        assert sorted(path.name for path in (tmp_path / "two").glob("* of *")) == ["0 of 2", "1 of 2"]
        assert (tmp_path / "two/died").exists()
        assert (one[0].epoch, two[0].epoch) == (1, 1)
        for weights, weights_of_two in zip(one[1], two[1], strict=True):
            np.testing.assert_allclose(weights_of_two, weights, atol=1e-5)
        history, history_of_two = (np.loadtxt(each[2].splitlines()[1:], delimiter=",") for each in (one, two))
        np.testing.assert_allclose(history_of_two, history, atol=1e-5)

    @pytest.mark.exhaustive
    def test_a_users_error_comes_back(self) -> None:
        with pytest.raises(CaptionerError, match=r"^received 1 of 2: give what is even$"):
            together(learners.refuse, (), 2, ENVIRONMENT)
