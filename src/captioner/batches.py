"""Training batches, read from the memory-mapped features.

Legend: `G` pictures · `N` captions a picture · `T` tokens · `P` positions · `C` channels.
"""

import math
from collections.abc import Sequence

import keras
import numpy as np
import pandas as pd

from captioner.errors import CaptionerError
from captioner.features import Features
from captioner.vocabulary import PAD, Vocabulary


class CaptionBatches(keras.utils.PyDataset):
    """Pictures with their captions: `({features [G, P, C], words [G, N, T]}, targets [G, N, T])`.

    A picture's captions stand in one batch, since they share what is computed of the picture. One with more than `N`
    captions appears several times; empty places are captions of padding alone, which neither cost nor count. All
    batches have one shape.

    Args:
        features: of the data set.
        captions: columns `image` and `caption`.
        vocabulary: encodes them.
        batch_size: `G`.
        captions_a_picture: `N`.
        maximum_words: longer captions are cut; `T` is one more.
        seed: of the order, which is another one each epoch; none keeps the order.

    Attributes:
        images: the picture of each example, an example being up to `N` captions of one picture.

    Raises:
        CaptionerError: there are no captions, or a picture has no features.
    """

    def __init__(
        self,
        features: Features,
        captions: pd.DataFrame,
        vocabulary: Vocabulary,
        batch_size: int,
        captions_a_picture: int,
        maximum_words: int,
        seed: int | None = None,
    ):
        super().__init__()
        if captions.empty:
            raise CaptionerError("There are no captions to train or validate on: give some to each split.")
        self.grid = features.grid
        self.batch_size = batch_size
        self.shape = (captions_a_picture, maximum_words + 1)
        self.words, self.targets = vocabulary.encode_batch(captions["caption"].tolist(), maximum_words)
        rows_by_image = captions.reset_index(drop=True).groupby("image", sort=False).indices
        chunks = [
            (str(image), rows[start : start + captions_a_picture])
            for image, rows in rows_by_image.items()
            for start in range(0, len(rows), captions_a_picture)
        ]
        self.images = [image for image, _ in chunks]
        self.examples = [(row_of(features, image), rows) for image, rows in chunks]
        self.generator = None if seed is None else np.random.default_rng(seed)
        self.order = np.arange(len(self.examples))
        self.shuffle()

    def shuffle(self) -> None:
        """Take another order."""
        if self.generator is not None:
            self.order = self.generator.permutation(len(self.examples))

    def on_epoch_end(self) -> None:
        """Take another order for the next epoch."""
        self.shuffle()

    def __len__(self) -> int:
        return math.ceil(len(self.examples) / self.batch_size)

    def chosen(self, index: int) -> np.ndarray:
        """Return which examples stand in a batch, in order."""
        return self.order[index * self.batch_size : (index + 1) * self.batch_size]

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        words = np.full((self.batch_size, *self.shape), PAD, np.int32)  # [G, N, T]
        targets = words.copy()
        rows = np.zeros(self.batch_size, int)
        for place, example in enumerate(self.chosen(index)):
            rows[place], captions = self.examples[example]
            words[place, : len(captions)] = self.words[captions]
            targets[place, : len(captions)] = self.targets[captions]
        return {"features": self.grid[rows], "words": words}, targets


def row_of(features: Features, image: str) -> int:
    """Return the row of a picture's features.

    Raises:
        CaptionerError: it has none.
    """
    try:
        return features.rows[image]
    except KeyError:
        raise CaptionerError(
            f"The features lack the picture {image!r} (they have {len(features.rows):,}): "
            "make them again with `dvc repro features`."
        ) from None


def rows_of(features: Features, images: Sequence[str]) -> np.ndarray:
    """Return the rows of pictures' features, int `[pictures]`."""
    return np.array([row_of(features, image) for image in images], int)
