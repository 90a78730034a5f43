"""An interrupted training goes on to the same bits as one that was never interrupted."""

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow
import tiny
from trial import PowerCut

from captioner.common import interruption
from captioner.common.interruption import Interrupted
from captioner.common.weights import weights_hash
from captioner.params import Recipe
from captioner.training import checkpoints as checkpoints_module
from captioner.training import fit as fit_module
from captioner.training.callbacks import Throughput
from captioner.training.checkpoints import ARRAYS, RESULTS, STATE, Checkpoints
from captioner.training.history import Kept

pytestmark = pytest.mark.slow


def recipe(**changes: Any) -> Recipe:
    dropouts = {"feature_dropout": 0.25, "word_dropout": 0.5, "output_dropout": 0.5}
    return tiny.recipe(
        **{"maximum_words": 1, "epochs": 3, "batch_size": 2, "schedule": "cosine", **dropouts, **changes}
    )


def train(
    directory: Path, chosen: Recipe, results: Path, *others: keras.callbacks.Callback, scores: list[float] | None = None
) -> tuple[str, Kept, str]:
    """Train, and return the hash of the weights, the epoch kept and the history."""
    keras.utils.set_random_seed(1)
    decoder = tiny.decoder("dot", chosen)
    training = tiny.batches(chosen)
    results.mkdir(exist_ok=True)
    checkpoints = Checkpoints(directory)
    checkpoints.follow(results)
    judge = tiny.Scores(scores or [1.0, 3.0, 2.0])
    history = keras.callbacks.CSVLogger(results / "history.csv", append=True)
    kept = fit_module.train(
        decoder, training, tiny.batches(chosen, None), chosen, [judge, history, *others], checkpoints=checkpoints
    )
    return weights_hash(decoder), kept, (results / "history.csv").read_text("utf-8")


@pytest.fixture
def at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruption, "INTERVAL", 0.0)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Recipe], tuple[str, Kept, str]]:
    found: dict[str, tuple[str, Kept, str]] = {}

    def of(chosen: Recipe) -> tuple[str, Kept, str]:
        place = tmp_path_factory.mktemp("undisturbed")
        key = f"{chosen.model_dump_json()} {tensorflow.config.functions_run_eagerly()}"
        if key not in found:
            found[key] = train(place, chosen, place / "results")
        return found[key]

    return of


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


@pytest.mark.usefixtures("at_every_step", "eager")
@pytest.mark.parametrize("steps", [2, 4, 8])
def test_goes_on_after_a_crash_at_any_step(steps: int, directory: Path, tmp_path: Path, undisturbed: Any) -> None:
    assert len(tiny.batches(recipe())) == 3
    with pytest.raises(ConnectionError):
        train(directory, recipe(), tmp_path / "lost", PowerCut(steps))
    assert train(directory, recipe(), tmp_path / "results") == undisturbed(recipe())


@pytest.mark.usefixtures("at_every_step")
def test_goes_on_without_xla(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As when an encoder learns on a CPU: what of a step needs no batch is then done once more than there are any."""
    monkeypatch.setattr(fit_module, "compile_model", partial(fit_module.compile_model, jit_compile=False))
    (tmp_path / "undisturbed").mkdir()
    expected = train(tmp_path / "undisturbed", recipe(), tmp_path / "whole")
    with pytest.raises(ConnectionError):
        train(directory, recipe(), tmp_path / "lost", PowerCut(3))
    assert train(directory, recipe(), tmp_path / "results") == expected
    assert "Goes on after 0 epochs and 2 batches" in capfd.readouterr().out


@pytest.mark.usefixtures("at_every_step")
def test_goes_on_after_several_crashes(directory: Path, tmp_path: Path, undisturbed: Any) -> None:
    for number in range(2):
        with pytest.raises(ConnectionError):
            train(directory, recipe(), tmp_path / f"lost {number}", PowerCut(3 + number))
    assert train(directory, recipe(), tmp_path / "results") == undisturbed(recipe())


@pytest.mark.usefixtures("eager")
def test_nothing_is_trained_again_after_early_stopping(
    directory: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    chosen, scores = recipe(patience=1), [2.0, 1.0, 3.0]
    first = train(directory, chosen, tmp_path / "first", scores=scores)
    capfd.readouterr()
    assert train(directory, chosen, tmp_path / "second", scores=scores) == first
    assert capfd.readouterr().out == "Goes on after the last epoch, where it was interrupted.\n"
    assert first[1].epoch == 0 and first[2].count("\n") == 3


@pytest.mark.parametrize("damage", ["cut", "emptied", "empty", "other", "missing", "no results"])
def test_a_damaged_checkpoint_is_passed_over(
    damage: str, directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)  # as when power fails before the older one goes
    for batch in (1, 2):
        Checkpoints(directory).save(0, batch, [], [np.full(5, batch)])
    older, place = sorted(directory.iterdir())
    data = (place / ARRAYS).read_bytes()
    if damage == "cut":
        (place / ARRAYS).write_bytes(data[: len(data) // 2])
    elif damage == "emptied":
        (place / ARRAYS).write_bytes(b"\0" * len(data))
    elif damage == "empty":
        (place / ARRAYS).write_bytes(b"")
    elif damage == "no results":
        (place / RESULTS).rmdir()
    elif damage == "other":
        (place / STATE).write_text("[]", "utf-8")
    else:
        (place / STATE).unlink()
    found = Checkpoints(directory)
    assert found.state is not None and found.state.batch == 1 and found.arrays[0].tolist() == [1] * 5
    said = f"The checkpoint {place} is damaged, and passed over.\n"
    assert capsys.readouterr().out == said
    (older / STATE).unlink()
    assert Checkpoints(directory).state is None


@pytest.mark.usefixtures("at_every_step", "eager")
def test_without_room_for_checkpoints_training_goes_on(
    directory: Path,
    tmp_path: Path,
    undisturbed: Any,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints_module.np, "savez", full)
    assert train(directory, recipe(), tmp_path / "results") == undisturbed(recipe())
    assert "No checkpoint was written (No space left on device); the training goes on.\n" in capfd.readouterr().out
    assert not list(directory.iterdir())
    with pytest.raises(Interrupted) as caught:
        train(directory, recipe(), tmp_path / "lost", Caller(signal.SIGTERM))
    assert caught.value.left == ""


class Caller(keras.callbacks.Callback):
    """Asks the process to end in the first step."""

    def __init__(self, number: int, times: int = 1):
        super().__init__()
        self.number, self.times = number, times

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        for _ in range(self.times):
            os.kill(os.getpid(), self.number)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_first(
    number: int, directory: Path, tmp_path: Path, undisturbed: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught:
        train(directory, recipe(), tmp_path / "lost", Caller(number))
    assert caught.value.exit_code == 128 + number
    assert caught.value.left == "what is learned is saved: `dvc repro` goes on from there."
    assert signal.getsignal(number) is before
    assert [place.name for place in directory.iterdir()] == ["000000-000000001"]
    assert "Saves what is learned, then ends; asked once more, ends at once.\n" in capfd.readouterr().out
    assert train(directory, recipe(), tmp_path / "results") == undisturbed(recipe())


@pytest.mark.usefixtures("eager")
def test_a_second_signal_ends_at_once(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(directory, recipe(), tmp_path / "lost", Caller(signal.SIGTERM, times=2))
    assert not list(directory.iterdir())


def test_seconds_add_up(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    first = Checkpoints(directory)
    first.follow(tmp_path / "results", {"run_id": "0123"})
    first.save(1, 0, [], [])
    second = Checkpoints(directory)
    assert second.state is not None and second.state.note == {"run_id": "0123"}
    second.save(2, 0, [], [])
    third = Checkpoints(directory)
    assert third.seconds_before > second.seconds_before > first.seconds_before == 0
    clock = Throughput(7)
    clock.restore({"seconds": 100.0}, [])
    clock.on_epoch_begin(0)
    assert 100 <= clock.state()[0]["seconds"] < 110
    clock.on_epoch_begin(1)
    assert clock.state()[0]["seconds"] < 10
