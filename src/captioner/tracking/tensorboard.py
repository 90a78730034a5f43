"""TensorBoard summaries of a training."""

import io
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from captioner.common.keras import keras
from captioner.reports.attention_figure import attention_figure
from captioner.search.caption import captions_of
from captioner.search.generators import Generator
from captioner.text.vocabulary import Vocabulary
from captioner.tracking import names


class TensorBoardLogger(keras.callbacks.Callback):
    """TensorBoard summaries: every value of the logs, and attention on some pictures, by epoch.

    Args:
        directory: where the event file goes.
        generator: shares the trained decoder.
        vocabulary: decodes.
        features: the map of all pictures, `[pictures, P, C]`.
        rows: the shown pictures' rows in it.
        pictures: their pixels, uint8 `[shown, S, S, 3]`.
    """

    def __init__(
        self,
        directory: Path,
        generator: Generator,
        vocabulary: Vocabulary,
        features: np.ndarray,
        rows: np.ndarray,
        pictures: np.ndarray,
    ):
        super().__init__()
        # TensorBoard's own writer of whole files has a thread, whose errors come late and as stack traces
        self.file: IO[bytes] | None = None
        with self._going_on():
            directory.mkdir(parents=True, exist_ok=True)
            name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
            self.file = (directory / name).open("wb")
            _write(self.file, Event(wall_time=time.time(), file_version="brain.Event:2"))
        self.generator = generator
        self.vocabulary = vocabulary
        self.features, self.rows, self.pictures = features, rows, pictures

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Write the summaries of an epoch; training goes on without them where they cannot be written."""
        if self.file is None:
            return
        values = [
            Summary.Value(tag=names.metric_name(name, "train"), simple_value=float(value))
            for name, value in (logs or {}).items()
        ]
        found = self.generator.generate(self.features, self.rows)
        captions = captions_of(found, self.vocabulary, self.generator.decoder.attention)
        for number, (picture, caption) in enumerate(zip(self.pictures, captions, strict=True)):
            figure = attention_figure(picture, caption.words, caption.attention_by_position)
            encoded = io.BytesIO()
            figure.save(encoded, "PNG")
            image = Summary.Image(height=figure.height, width=figure.width, encoded_image_string=encoded.getvalue())
            values.append(Summary.Value(tag=f"attention/{number}", image=image))
        with self._going_on():
            _write(self.file, Event(wall_time=time.time(), step=epoch, summary=Summary(value=values)))

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        """Close the event file."""
        if self.file is not None:
            with self._going_on():
                self.file.close()

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        """Have an error end the summaries, and say so, but not training."""
        try:
            yield
        except OSError as error:
            file, self.file = self.file, None
            with suppress(OSError):  # of what could not be written
                if file is not None:
                    file.close()
            print(f"TensorBoard gets no further summaries ({error.strerror or error}).", file=sys.stderr)


def _write(file: IO[bytes], event: Event) -> None:
    RecordWriter(file).write(event.SerializeToString())
    file.flush()
