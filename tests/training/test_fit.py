"""Training lowers the loss, is repeatable, and keeps the best epoch."""

import csv
import errno
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tiny
from PIL import Image
from rounding import tolerance
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from captioner.common.errors import CaptionerError
from captioner.model.decoder import Decoder
from captioner.params import Recipe
from captioner.search.generators import Generator
from captioner.tracking import names, tensorboard
from captioner.training import callbacks as callbacks_module
from captioner.training import fit as fit_module
from captioner.training.history import Kept

pytestmark = pytest.mark.slow


def short(**changes: Any) -> Recipe:
    """A recipe for captions of one word, since all that is done word by word takes long uncompiled."""
    return tiny.recipe(maximum_words=1, **changes)


def fit(recipe: Recipe, *callbacks: keras.callbacks.Callback, scores: list[float] | None = None) -> Decoder:
    keras.utils.set_random_seed(1)
    decoder = tiny.decoder("dot", recipe)
    judge = tiny.Scores(scores or [float(epoch) for epoch in range(recipe.epochs)])
    fit_module.train(decoder, tiny.batches(recipe), tiny.batches(recipe, None), recipe, [judge, *callbacks])
    return decoder


class Recorder(keras.callbacks.Callback):
    """Notes each epoch's weights, logs and learning rate."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[list[np.ndarray]] = []
        self.logs: list[dict[str, float]] = []
        self.learning_rates: list[float] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.weights.append(self.model.get_weights())
        self.logs.append(dict(logs or {}))
        self.learning_rates.append(float(self.model.optimizer.learning_rate))


def assert_equal_weights(one: list[np.ndarray], other: list[np.ndarray]) -> None:
    for mine, yours in zip(one, other, strict=True):
        np.testing.assert_array_equal(mine, yours)


# --- compiled, as in use ---------------------------------------------------------------------------------------------


def test_the_same_twice_gives_equal_weights_and_captions(overfit: Decoder, generator: Generator) -> None:
    again = tiny.overfit()
    assert_equal_weights(again.get_weights(), overfit.get_weights())
    grid = tiny.features().grid
    other = Generator(again, generator.captions, generator.maximum, batch_size=generator.batch_size)
    for one, two in zip(generator.generate(grid), other.generate(grid), strict=True):
        np.testing.assert_array_equal(one, two)


# --- uncompiled, since the laws are the same -------------------------------------------------------------------------


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(("scores", "best"), [([1.0, 9.0, 2.0, 3.0], 1), ([1.0, 2.0, 3.0, 4.0], 3)])
def test_keeps_the_weights_of_the_best_epoch(scores: list[float], best: int) -> None:
    recorder = Recorder()
    decoder = fit(short(epochs=4), recorder, scores=scores)
    assert len(recorder.weights) == 4
    assert_equal_weights(decoder.get_weights(), recorder.weights[best])


@pytest.mark.usefixtures("eager")
def test_stops_when_patience_is_over() -> None:
    recorder = Recorder()
    decoder = fit(short(epochs=9, patience=2), recorder, scores=[1, 5, 4, 3, 9, 9, 9, 9, 9])
    assert len(recorder.logs) == 4
    assert_equal_weights(decoder.get_weights(), recorder.weights[1])


class Rehearsed:
    """Stands for a model in training: its only weight is the number of the epoch."""

    def __init__(self, monitor: str, scores: list[float], likelihoods: list[float], patience: int = 10):
        self.keep = callbacks_module.KeepBest(monitor, patience)
        self.keep.set_model(self)
        self.stop_training, self.epoch = False, -1
        for self.epoch, (cider, nll) in enumerate(zip(scores, likelihoods, strict=True)):
            self.keep.on_epoch_end(self.epoch, {"val_CIDEr": cider, "val_nll": nll})
            if self.stop_training:
                break
        self.epochs = self.epoch + 1
        self.keep.on_train_end()

    def get_weights(self) -> list[np.ndarray]:
        return [np.array(self.epoch)]

    def set_weights(self, weights: list[np.ndarray]) -> None:
        self.epoch = int(weights[0])


NAN = math.nan


@pytest.mark.parametrize(
    ("monitor", "scores", "likelihoods", "kept"),
    [
        ("val_CIDEr", [0, 0, 0, 0], [4, 2, 1, 3], (2, "val_CIDEr", 0)),
        ("val_CIDEr", [0, 5, 5, 5], [1, 4, 3, 4], (2, "val_CIDEr", 5)),
        ("val_CIDEr", [5, 5, 9, 5], [2, 1, 4, 1], (2, "val_CIDEr", 9)),
        ("val_CIDEr", [NAN] * 4, [4, 2, 3, 5], (1, "val_nll", 2)),
        ("val_nll", [1, 2, 3, 4], [4, 2, 3, 5], (1, "val_nll", 2)),
        ("val_nll", [NAN] * 4, [2, 2, 2, 2], (0, "val_nll", 2)),
    ],
)
def test_likelihood_decides_ties_and_what_is_undefined(
    monitor: str, scores: list[float], likelihoods: list[float], kept: tuple, tmp_path: Path
) -> None:
    rehearsed = Rehearsed(monitor, scores, likelihoods)
    assert rehearsed.keep.kept == Kept(*kept)
    assert rehearsed.epoch == kept[0]
    rehearsed.keep.kept.write(tmp_path)
    written = json.loads((tmp_path / "kept.json").read_text("utf-8"))
    assert written == dict(zip(("epoch", "metric", "value"), kept, strict=True))


def test_ties_that_get_likelier_go_on() -> None:
    rehearsed = Rehearsed("val_CIDEr", [0] * 6, [6, 5, 4, 7, 8, 9], patience=2)
    assert rehearsed.epoch == 2 and rehearsed.epochs == 5


@pytest.mark.parametrize(
    ("pictures", "metric", "said"),
    [
        (1, "val_nll", "validation has 1. Expect well-formed sentences"),
        (49, "val_nll", "highest validation likelihood"),
        (50, "val_CIDEr", "highest CIDEr on the 50 validation pictures"),
        (1000, "val_CIDEr", "highest CIDEr on the 1,000"),
    ],
)
def test_what_few_validation_pictures_are_judged_by_is_said(pictures: int, metric: str, said: str) -> None:
    assert callbacks_module.chosen_by(pictures) == metric
    line = fit_module.about_choice(8 * pictures, pictures)
    assert said in line and "\n" not in line


class Spoils(keras.callbacks.Callback):
    """Makes a weight what no weight may be, after a step."""

    def __init__(self, epoch: int, step: int, value: float):
        super().__init__()
        self.spoilt, self.value = (epoch, step), value
        self.epoch = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if (self.epoch, batch) == self.spoilt:
            weights = self.model.get_weights()
            weights[0] = np.full_like(weights[0], self.value)
            self.model.set_weights(weights)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("step", "said"),
    [(0, r"step 2 of epoch 2, since (loss|nll) is (nan|inf)"), (1, r"epoch 2, since .* (not finite|nan|inf)")],
)
def test_training_ends_at_the_first_value_that_is_not_finite(step: int, said: str, value: float) -> None:
    recipe, recorder = short(epochs=4, batch_size=3, learning_rate=0.0625), Recorder()
    told = [tiny.Scores(range(4)), recorder, Spoils(1, step, value)]
    data = tiny.batches(recipe)
    assert len(data) == 2
    with pytest.raises(CaptionerError) as caught:
        fit_module.train(
            tiny.decoder(used=recipe), data, tiny.batches(recipe, None), recipe, told, section="train.flickr8k"
        )
    line = str(caught.value)
    assert re.match(rf"training ended at {said}", line) and "\n" not in line
    assert line.endswith("; no model is kept: lower train.flickr8k.learning_rate, which is 0.0625")
    assert len(recorder.logs) == 1


def test_an_epoch_of_little_data_has_steps_enough() -> None:
    recipe = tiny.recipe(batch_size=2, minimum_steps=5)
    captions = tiny.captions().assign(split="train")
    validation = captions.assign(split="validation")

    def of(split: str, used: Recipe, seed: int | None) -> fit_module.CaptionBatches:
        table = captions if split == "train" else validation
        return fit_module.batches(tiny.features(), table, split, tiny.vocabulary(), used, seed)

    once = of("train", tiny.recipe(batch_size=2), 1)
    assert len(once) == 3 and once.passes == 1
    many = of("train", recipe, 1)
    assert (len(many), many.passes) == (6, 2)
    taken = np.concatenate([many.chosen(number) for number in range(6)])
    assert sorted(taken[:5]) == sorted(taken[5:]) == list(range(5))
    assert len(of("validation", recipe, None)) == 3
    # where an epoch has enough anyway, nothing changes
    same = of("train", tiny.recipe(batch_size=2, minimum_steps=3), 1)
    assert (len(same), same.step_widths) == (3, once.step_widths)
    np.testing.assert_array_equal(same.orders, once.orders)


@pytest.mark.usefixtures("eager")
def test_loss_falls_and_seeds_matter() -> None:
    recorder = Recorder()
    decoder = fit(short(epochs=4, word_dropout=0.3), recorder)
    losses = [logs["loss"] for logs in recorder.logs]
    assert losses[-1] < losses[0] and recorder.logs[-1]["val_loss"] < recorder.logs[0]["val_loss"]
    assert_equal_weights(fit(short(epochs=4, word_dropout=0.3)).get_weights(), decoder.get_weights())


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [0.05] * 4), ("cosine", [0.05 * (1 + np.cos(np.pi * done / 4)) / 2 for done in (1, 2, 3, 4)])],
)
def test_learning_rate(schedule: str, expected: list[float]) -> None:
    recorder = Recorder()
    fit(short(epochs=4, schedule=schedule), recorder)
    assert recorder.learning_rates == pytest.approx(expected, abs=1e-6)


@pytest.mark.usefixtures("eager")
def test_gradients_are_clipped(monkeypatch: pytest.MonkeyPatch) -> None:
    applied: list[float] = []
    original = keras.optimizers.Adam.update_step

    def noting(self: Any, gradient: Any, *rest: Any) -> Any:
        applied.append(float(np.sum(np.square(np.asarray(gradient)))))
        return original(self, gradient, *rest)

    monkeypatch.setattr(keras.optimizers.Adam, "update_step", noting)
    fit(short(epochs=1, gradient_norm=0.01))
    # Keras takes the norm of the embedding's gradient word by word, so a word that stands twice makes a difference
    assert np.sqrt(sum(applied)) == pytest.approx(0.01, rel=0.05)


def test_build_takes_sizes_and_dropouts() -> None:
    recipe = tiny.recipe(word_dropout=0.3, output_dropout=0.2, feature_dropout=0.1)
    decoder = tiny.decoder("uniform", recipe)
    assert decoder.config == {
        "vocabulary_size": len(tiny.vocabulary()),
        "attention_name": "uniform",
        **tiny.SIZES.model_dump(),
        "word_dropout": 0.3,
        "output_dropout": 0.2,
        "feature_dropout": 0.1,
        "word_vector_size": None,
    }


# --- callbacks -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("eager")
def test_callbacks_of_an_epoch(tmp_path: Path) -> None:
    recipe = short(epochs=2)
    decoder, features, vocabulary = tiny.decoder("dot", recipe), tiny.features(), tiny.vocabulary()
    generator = Generator(decoder, beam=1, maximum=2, batch_size=2)
    judged: list[dict[str, str]] = []

    def judge(captions: Any) -> dict[str, float]:
        judged.append(captions)
        return {"CIDEr": 10.0 * len(judged), "true-captions": 50.0}

    pictures = np.zeros((2, 8, 8, 3), np.uint8)
    fit_module.train(
        decoder,
        tiny.batches(recipe),
        tiny.batches(recipe, None),
        recipe,
        [
            callbacks_module.Throughput(7),
            callbacks_module.GeneratedValidation(
                generator, features.grid, np.array([3, 0]), ["tree.png", "sun.png"], vocabulary, judge
            ),
            keras.callbacks.CSVLogger(tmp_path / "history.csv"),
            tensorboard.TensorBoardLogger(
                tmp_path / "tensorboard", generator, vocabulary, features.grid, np.arange(2), pictures
            ),
        ],
    )

    assert [list(captions) for captions in judged] == [["tree.png", "sun.png"]] * 2
    rows = np.array([3, 0])
    final = [vocabulary.decode(words) for words in generator.generate(features.grid, rows).words]
    assert list(judged[-1].values()) == final and all(final)

    with (tmp_path / "history.csv").open(encoding="utf-8") as file:
        history = list(csv.DictReader(file))
    assert [row["val_CIDEr"] for row in history] == ["10.0", "20.0"]
    assert history[0].keys() == {
        *("epoch", "loss", "nll", "val_loss", "val_nll"),
        *("val_CIDEr", "val_true-captions", "seconds", "captions_per_second", "learning_rate"),
    }
    for row in history:
        assert float(row["seconds"]) > 0
        assert float(row["captions_per_second"]) == pytest.approx(7 / float(row["seconds"]))

    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {names.metric_name(name, "train") for name in history[0].keys() - {"epoch"}}
    assert [event.step for event in events.Scalars("val/CIDEr")] == [0, 1]
    assert [event.value for event in events.Scalars("val/CIDEr")] == [10, 20]
    assert events.Tags()["images"] == ["attention/0", "attention/1"]
    for shown in events.Images("attention/1"):
        assert Image.open(io.BytesIO(shown.encoded_image_string)).size == (shown.width, shown.height)


def test_training_goes_on_without_summaries(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tensorboard.RecordWriter, "write", full)
    decoder, vocabulary, features = tiny.decoder(), tiny.vocabulary(), tiny.features()
    generator = Generator(decoder, 1, 3)
    pictures = np.zeros((1, 8, 8, 3), np.uint8)
    logger = tensorboard.TensorBoardLogger(tmp_path, generator, vocabulary, features.grid, np.arange(1), pictures)
    for epoch in range(3):
        logger.on_epoch_end(epoch, {"nll": 1.0})
    logger.on_train_end()
    assert capsys.readouterr().err == "TensorBoard gets no further summaries (No space left on device).\n"


def test_the_best_epoch_by_likelihood(eager: None) -> None:
    recipe = tiny.recipe(epochs=3, learning_rate=3.0)  # far too fast: it gets worse
    decoder = tiny.decoder(used=recipe)
    history: list[float] = []

    def note(_: int, logs: dict[str, float]) -> None:
        history.append(logs["val_nll"])

    noting = keras.callbacks.LambdaCallback(on_epoch_end=note)
    fit_module.train(decoder, tiny.batches(recipe), tiny.batches(recipe, None), recipe, [noting], "val_nll")
    batches = tiny.batches(recipe, None)
    (loss, nll) = fit_module.compile_for_training(decoder, batches, recipe).evaluate(batches, verbose=0)
    assert min(history) < history[-1]
    assert nll == pytest.approx(min(history), rel=0, abs=tolerance(tiny.TERMS, tiny.LARGEST))
    assert loss == pytest.approx(nll, rel=0.1)
