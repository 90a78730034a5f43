"""TensorBoard summaries of a training."""

import io
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from captioner.common.errors import reason
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
        self.writer: EventFileWriter | None = None
        with self._going_on():
            self.writer = EventFileWriter(str(directory))
        self.generator = generator
        self.vocabulary = vocabulary
        self.features, self.rows, self.pictures = features, rows, pictures

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Write the summaries of an epoch; training goes on without them where they cannot be written."""
        if self.writer is None:
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
            self.writer.add_event(Event(wall_time=time.time(), step=epoch, summary=Summary(value=values)))
            self.writer.flush()

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        """Close the event file."""
        if self.writer is not None:
            with self._going_on():
                self.writer.close()

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        """Have an error end the summaries, and say so, but not training."""
        try:
            yield
        except Exception as error:  # the writer has errors of TensorFlow, where that is there
            self.writer = None
            print(f"TensorBoard gets no further summaries ({reason(error)}).", file=sys.stderr)
