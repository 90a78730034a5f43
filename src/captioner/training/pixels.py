"""Training from pixels: the encoder learns together with the decoder.

Legend: `G` pictures, `S` their height and width in pixels, `P` positions of the grid, `C` channels of the encoder.
"""

import math
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np

from captioner.common import threads
from captioner.common.errors import CaptionerError
from captioner.common.keras import Tensor, keras, ops
from captioner.data import Crop
from captioner.data.archives import open_zip, read_member
from captioner.data.images import UnreadableImage
from captioner.data.store import IMAGES
from captioner.features.compiled import runs_on_litert
from captioner.features.extract import Extractor, FeatureOverflowError
from captioner.features.store import Features
from captioner.model.decoder import Decoder
from captioner.params import Recipe
from captioner.training import fit
from captioner.training.augmentation import augmented
from captioner.training.batches import CaptionBatches
from captioner.training.teacher_forcing import TeacherForcing

VIEWS = 1 << 16
"""Of a picture; each step draws one."""


class Pixels:
    """The pixels of pictures, as `captioner.training.batches.CaptionBatches` takes features: read when they are wanted.

    Rows are `pictures * view + picture`, see `captioner.training.augmentation.augmented`.

    Args:
        directory: which holds the data set, see `captioner.data.store`.
        names: of the pictures.
        size: `S`.
        crop: how pictures become squares.
        augmentation: in what the views of a picture differ: `crop`, `flip`, `colour`.
    """

    def __init__(
        self, directory: Path, names: Sequence[str], size: int, crop: Crop, augmentation: Collection[str] = ()
    ):
        self.names, self.size, self.crop = names, size, crop
        self.augmentation = augmentation
        self._archive = open_zip(directory / IMAGES, own=True)
        self._pool = ThreadPoolExecutor(threads.cores())

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Return pixels, uint8 `[G, S, S, 3]`, decoded on all cores."""
        return np.stack(list(self._pool.map(self._picture, rows.tolist())))

    def _picture(self, row: int) -> np.ndarray:
        view, number = divmod(row, len(self.names))
        name = self.names[number]
        data = read_member(self._archive, name)
        try:
            return augmented(data, name, view, self.size, self.crop, self.augmentation)
        except UnreadableImage as error:
            raise UnreadableImage(f"picture {name!r}: {error}") from error


def as_features(pixels: Pixels) -> Features:
    """Return what batches take in place of features, so that an item's `features` are pixels."""
    count = len(pixels.names)
    step = 1 if "flip" in pixels.augmentation else 2  # every second view is mirrored
    views: dict[str, Any] = {}
    if pixels.augmentation:
        views = {name: range(row, row + count * VIEWS, count * step) for row, name in enumerate(pixels.names)}
    return Features.at_hand(
        cast(np.ndarray, pixels), pixels.names, image_size=pixels.size, crop=pixels.crop, views=views
    )


class EndToEnd(keras.Model):
    """From pixels to the logits of each next word.

    Args:
        encoder: from pictures `[G, S, S, 3]` to a map `[G, R, R, C]`; it is shared, not copied.
        teacher: what runs the decoder.
        batch_statistics: whether, in training, batch normalization takes the statistics of the batch, and learns them.
            A batch is too small to tell them well; weights that were trained with those of a whole data set are better
            off with these.

    Call arguments:
        inputs: as `teacher` takes them, with pixels for `features`.

    Returns:
        Logits of the targets, float32 `[S, V]`.
    """

    def __init__(self, encoder: keras.Model, teacher: TeacherForcing, batch_statistics: bool):
        super().__init__(name="end_to_end")
        self.encoder, self.teacher = encoder, teacher
        self.batch_statistics = batch_statistics
        self.built = True

    @property
    def decoder(self) -> Decoder:
        """The decoder that learns."""
        return self.teacher.decoder

    def call(self, inputs: dict[str, Tensor], training: bool = False) -> Tensor:
        """Return the logits of each target; see the class."""
        grid = self.encoder(inputs["features"], training=training and self.batch_statistics)  # [G, R, R, C]
        features = ops.reshape(grid, (-1, math.prod(grid.shape[1:-1]), grid.shape[-1]))  # [G, P, C]
        return self.teacher({**inputs, "features": features}, training=training)


class AdamOfTwoRates(keras.optimizers.Adam):
    """Adam with a learning rate of its own for some of the variables.

    Args:
        share: of the learning rate, for those.
        slower: the variables.
        options: of Adam.
    """

    def __init__(self, share: float, slower: Sequence[Any], **options: Any):
        super().__init__(**options)
        self.share = share
        self._slower = {id(variable) for variable in slower}
        self._shares: list[float] = []

    def build(self, variables: list[Any]) -> None:
        """Note which variables are which."""
        super().build(variables)
        self._shares = [self.share if id(variable) in self._slower else 1.0 for variable in variables]

    def update_step(self, gradient: Tensor, variable: Any, learning_rate: Tensor) -> None:
        """Take a step with one variable."""
        share = self._shares[self._get_variable_index(variable)]
        super().update_step(gradient, variable, learning_rate * share)


def compile_end_to_end(
    encoder: keras.Model,
    decoder: Decoder,
    batches: CaptionBatches,
    recipe: Recipe,
    encoder_learning_rate: float,
    batch_statistics: bool,
) -> EndToEnd:
    """Return what fits an encoder and a decoder to batches of pixels, compiled.

    Args:
        encoder: with those weights trainable that are to learn, see `captioner.encoders.networks.set_trainable`.
        decoder: it learns with it.
        batches: of pixels, see `as_features`.
        recipe: its learning rate is the decoder's.
        encoder_learning_rate: the encoder's; it falls as the decoder's does.
        batch_statistics: see `EndToEnd`.
    """
    model = EndToEnd(encoder, fit.teacher(decoder, batches, recipe), batch_statistics)
    optimizer = AdamOfTwoRates(
        encoder_learning_rate / recipe.learning_rate,
        encoder.trainable_variables,
        learning_rate=fit.learning_rate(recipe, len(batches)),
        global_clipnorm=recipe.gradient_norm,
    )
    # on a CPU, XLA's convolutions are several times slower than TensorFlow's; JAX has no others
    fit.compile_model(model, recipe, decoder.config["vocabulary_size"], optimizer, jit_compile=not runs_on_litert())
    return model


class EncodeValidation(keras.callbacks.Callback):
    """After each epoch, encodes pictures anew with the encoder as it is then.

    Stands before the callbacks that read the map.

    Args:
        extractor: makes what encodes, with the weights of the moment.
        pixels: the pictures.
        grid: the map that is overwritten, float16 `[pictures, P, C]`.
        remedy: what an error says to do.

    Raises:
        CaptionerError: a feature is not finite.
    """

    def __init__(self, extractor: Callable[[], Extractor], pixels: Pixels, grid: np.ndarray, remedy: str):
        super().__init__()
        self.extractor, self.pixels, self.grid, self.remedy = extractor, pixels, grid, remedy

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        """Encode."""
        encode = self.extractor()
        try:
            for start in range(0, len(self.grid), encode.batch_size):
                rows = np.arange(start, min(start + encode.batch_size, len(self.grid)))
                self.grid[rows] = encode(self.pixels[rows])
        except FeatureOverflowError:
            raise CaptionerError(
                f"training ended after epoch {epoch + 1}, since the encoder gives values that float16 cannot hold; no "
                f"model is kept: {self.remedy}"
            ) from None
