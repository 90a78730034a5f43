"""Checkpoints: from one, an interrupted training goes on as if nothing had happened, to the same bits.

A checkpoint is a directory, named by the epochs and batches that are done, with

- `arrays.npz`: the variables of the model (states of random generators included), of the optimizer and of the metrics,
  and the best weights so far,
- `state.json`: the rest,
- `results/`: what the training has written to its results.

It is written beside and renamed, and only then is the one before removed.
"""

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from captioner.common import files, interruption
from captioner.common.interruption import Deferred, Interrupted
from captioner.common.keras import keras, ops
from captioner.training.batches import Batches

ARRAYS, STATE, RESULTS = "arrays.npz", "state.json", "results"
SOON = 5.0
"""Seconds since the last checkpoint after which there is one before an epoch's last step: validation may take long."""
SAVED = "what is learned is saved: `dvc repro` goes on from there."


@runtime_checkable
class Stateful(Protocol):
    """A callback that a checkpoint has something of."""

    def state(self) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Return what JSON can hold, and arrays."""

    def restore(self, values: Mapping[str, Any], arrays: list[np.ndarray]) -> None:
        """Take what `state` has returned."""


@dataclass(frozen=True)
class State:
    """What `state.json` holds.

    Attributes:
        epoch: to go on with, counted from 0.
        batch: of that epoch, to go on with.
        seconds: that the stage took so far.
        callbacks: values of the callbacks, in their order.
        note: what the stage adds.
    """

    epoch: int
    batch: int
    seconds: float
    callbacks: list[dict[str, Any]]
    note: dict[str, str]

    def about(self, epochs: int) -> str:
        """Say in a line where a training of so many epochs goes on."""
        done = f"{self.epoch} epochs" + (f" and {self.batch:,} batches" if self.batch else "")
        return f"Goes on after {'the last epoch' if self.epoch == epochs else done}, where it was interrupted."


class Checkpoints:
    """The checkpoints of a training.

    Args:
        directory: where they lie; none: nothing is kept.

    Attributes:
        state: of the last one that is whole; none if there is none.
        note: what each checkpoint holds besides.
        seconds_before: that the stage took before it was interrupted.
    """

    def __init__(self, directory: Path | None):
        self.directory = directory
        self.state: State | None = None
        self.arrays: list[np.ndarray] = []
        self._place: Path | None = None
        self._results: Path | None = None
        self.note: dict[str, str] = {}
        self._failed = False
        for place in reversed(self._places()):
            try:
                state = State(**json.loads((place / STATE).read_text("utf-8")))
                with np.load(place / ARRAYS) as arrays:
                    self.arrays = [arrays[f"arr_{number}"] for number in range(len(arrays.files))]
                if not (place / RESULTS).is_dir():
                    raise FileNotFoundError(place / RESULTS)
            except MemoryError:  # which says nothing about the checkpoint
                raise
            except Exception:  # whatever the readers of damaged bytes trip over
                print(f"The checkpoint {place} is damaged, and passed over.", flush=True)
                continue
            self.state, self._place = state, place
            break
        self.seconds_before = self.state.seconds if self.state else 0.0
        self._began = time.perf_counter()

    def _places(self) -> list[Path]:
        if self.directory is None:
            return []
        return sorted(path for path in self.directory.glob("[0-9]*-[0-9]*") if path.is_dir())

    def any(self) -> bool:
        """Whether there are checkpoints by now, of this process or another."""
        return bool(self._places())

    def follow(self, results: Path, note: Mapping[str, str] | None = None) -> None:
        """Take the results of the interrupted training, and have each checkpoint keep what they become.

        Args:
            results: an empty directory, which the training writes to.
            note: what each checkpoint is to hold besides.
        """
        self._results, self.note = results, dict(note or {})
        if self._place is not None:
            shutil.copytree(self._place / RESULTS, results, dirs_exist_ok=True)

    def save(self, epoch: int, batch: int, callbacks: list[dict[str, Any]], arrays: Sequence[np.ndarray]) -> bool:
        """Write a checkpoint, and remove those before it; without room for it, the training goes on all the same.

        Returns:
            Whether it was written.
        """
        if self.directory is None:
            return False
        state = State(epoch, batch, self.seconds_before + time.perf_counter() - self._began, callbacks, self.note)
        place = self.directory / f"{epoch:06}-{batch:09}"
        try:
            with files.replacing(place) as beside:
                beside.mkdir()
                np.savez(beside / ARRAYS, *arrays)
                (beside / STATE).write_text(json.dumps(asdict(state)), "utf-8")
                if self._results is None:
                    (beside / RESULTS).mkdir()
                else:
                    shutil.copytree(self._results, beside / RESULTS)
        except OSError as error:
            if not self._failed:  # and not every half minute
                print(f"No checkpoint was written ({error.strerror or error}); the training goes on.", flush=True)
            self._failed = True
            return False
        self._failed = False
        for other in self._places():
            if other != place:
                shutil.rmtree(other)
        return True


class SaveCheckpoints(keras.callbacks.Callback):
    """Saves a checkpoint every `interruption.INTERVAL` seconds, after each epoch, and when a signal asks it to end.

    Stands last in the list of callbacks. Goes on from the last checkpoint, if there is one.

    Args:
        checkpoints: where they go.
        training: the batches that are trained on.
        callbacks: those that have a state.

    Raises:
        Interrupted: once it has saved what a signal has interrupted.
    """

    def __init__(self, checkpoints: Checkpoints, training: Batches, callbacks: Sequence[Stateful]):
        super().__init__()
        self.checkpoints, self.training, self.callbacks = checkpoints, training, callbacks
        self.first_epoch = checkpoints.state.epoch if checkpoints.state else 0
        self.signals = Deferred("Saves what is learned, then ends; asked once more, ends at once.")
        self._metrics: list[np.ndarray] = []
        self._last: list[np.ndarray] = []
        self._epoch = 0
        self._saved = time.monotonic()

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        """Take everything from the last checkpoint."""
        state, arrays = self.checkpoints.state, iter(self.checkpoints.arrays)
        if state is None:
            return
        lasting, metrics = self._variables()
        for variable in lasting:
            variable.assign(next(arrays))
        of_epoch = [next(arrays) for _ in metrics]
        self._metrics = of_epoch if state.batch else []
        rest = list(arrays)
        for callback, values in zip(self.callbacks, state.callbacks, strict=True):
            count = values["arrays"]
            callback.restore(values, rest[:count])
            rest = rest[count:]
        self.checkpoints.arrays = []  # which are in the variables now
        self.training.go_on_at(state.epoch, state.batch)
        print(state.about(self.params["epochs"]), flush=True)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        """Take the metrics of an epoch that was interrupted, after Keras has reset them."""
        self._epoch = epoch
        for variable, value in zip(self._variables()[1], self._metrics, strict=False):
            variable.assign(value)
        self._metrics = []

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        """Save when it is time to."""
        left = len(self.training) - batch - 1
        if left == 0:  # the epoch's end follows
            if self.training.first:
                self._last = self._values(self._variables()[0])
            return
        since = time.monotonic() - self._saved
        if since >= interruption.INTERVAL or (left == 1 and since >= SOON) or self.signals.number is not None:
            self.save(self._epoch, self.training.first + batch + 1)

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        """Undo what TensorFlow does when it asks for one more batch, of an epoch that went on, and there is none.

        What of a step needs no batch is done by then: iterations and states of random generators are one too far.
        """
        for variable, value in zip(self._variables()[0], self._last, strict=False):
            variable.assign(value)
        self._last = []

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        """Save."""
        self.save(self.params["epochs"] if self.model.stop_training else epoch + 1, 0)

    def save(self, epoch: int, batch: int) -> None:
        """Save a checkpoint with which to go on at a batch of an epoch."""
        lasting, metrics = self._variables()
        arrays = self._values([*lasting, *metrics])
        states = [callback.state() for callback in self.callbacks]
        callbacks = [{**values, "arrays": len(own)} for values, own in states]
        arrays += [each for _, own in states for each in own]
        saved = self.checkpoints.save(epoch, batch, callbacks, arrays)
        self.signals.left = SAVED if saved else ""
        self._saved = time.monotonic()
        if self.signals.number is not None:
            raise Interrupted(self.signals.number, self.signals.left)

    def _values(self, variables: Sequence[Any]) -> list[np.ndarray]:
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        return [np.array(ops.convert_to_numpy(variable)) for variable in variables]

    def _variables(self) -> tuple[list[Any], list[Any]]:
        """Return what outlasts an epoch, and the metrics."""
        return [*self.model.variables, *self.model.optimizer.variables], list(self.model.metrics_variables)
