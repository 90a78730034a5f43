"""Training batches, read from the memory-mapped features.

Legend: `G` pictures · `N` captions a picture · `T` tokens · `P` positions · `C` channels.
"""

import math
from collections.abc import Sequence

import keras
import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from captioner.errors import CaptionerError
from captioner.features import Features
from captioner.vocabulary import PAD, Vocabulary, heard

VECTOR = 4  # a product of matrices takes as long for fewer rows
BALANCED_TOGETHER = 128  # batches; the time of an assignment grows with the third power of their number


class CaptionBatches(keras.utils.PyDataset):
    """Pictures with their captions, for `captioner.decoder.TeacherForcing`.

    An item is `({features [G, P, C], pictures [B], words [S]}, targets [S])`: the map of `G` pictures, the picture of
    each caption, and the captions, the longest first, word by word: at the place `t` the first `widths[t]` of them.
    Beyond a caption's own end stands padding, which neither costs nor counts. All batches have one shape.

    A picture's captions stand in one batch, since they share what is computed of the picture. One with more than `N`
    captions appears several times. Batches are drawn at random, yet so that about as many captions go on at a place in
    one as in another: what one has more, all compute.

    Args:
        features: of the data set.
        captions: columns `image` and `caption`.
        vocabulary: encodes them.
        batch_size: `G`.
        captions_a_picture: `N`.
        maximum_words: longer captions are cut; `T` is one more.
        seed: of the order, which is another one each epoch; none keeps the order.
        epochs: how many orders there are; the next epoch has the first one again.

    Attributes:
        images: the picture of each example, an example being up to `N` captions of one picture.
        lengths: tokens of each caption.
        widths: how many captions are computed at each place, `B_t`: as many as go on there in the batch with the most,
            rounded up to full vectors of the processor. May be set to more.

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
        epochs: int = 1,
    ):
        # in Keras's own threads: those of tf.data, which it takes when there is to be one, may sleep at the end of an
        # epoch until it has lasted twice as long
        super().__init__(workers=2, max_queue_size=4)
        if captions.empty:
            raise CaptionerError("There are no captions to train or validate on: give some to each split.")
        self.grid = features.grid
        self.batch_size = batch_size
        targets = vocabulary.encode_batch(captions["caption"].tolist(), maximum_words)
        self.targets = targets.astype(np.min_scalar_type(len(vocabulary)))
        self.lengths = (self.targets != PAD).sum(axis=1)
        rows_by_image = captions.reset_index(drop=True).groupby("image", sort=False).indices
        chunks = [
            (str(image), rows[start : start + captions_a_picture])
            for image, rows in rows_by_image.items()
            for start in range(0, len(rows), captions_a_picture)
        ]
        self.images = [image for image, _ in chunks]
        self.examples = [(row_of(features, image), rows) for image, rows in chunks]
        self.orders = [np.arange(len(chunks))]
        places = np.arange(self.targets.shape[1])
        going_on = np.stack([(self.lengths[rows, None] > places).sum(axis=0) for _, rows in self.examples])  # [_, T]
        if seed is not None:
            generator = np.random.default_rng(seed)
            self.orders = [balanced_order(going_on, batch_size, generator) for _ in range(epochs)]
        self.epoch = 0
        self.widths = self._widths(going_on)

    def _widths(self, going_on: np.ndarray) -> tuple[int, ...]:
        starts = np.arange(0, len(self.examples), self.batch_size)
        most = np.max([np.add.reduceat(going_on[order], starts).max(axis=0) for order in self.orders], axis=0)  # [T]
        return tuple(min(-(-width // VECTOR) * VECTOR, most[0]) for width in most.tolist() if width)

    def on_epoch_end(self) -> None:
        """Take the order of the next epoch."""
        self.epoch += 1

    def __len__(self) -> int:
        return math.ceil(len(self.examples) / self.batch_size)

    def chosen(self, index: int) -> np.ndarray:
        """Return which examples stand in a batch, in order."""
        order = self.orders[self.epoch % len(self.orders)]
        return order[index * self.batch_size : (index + 1) * self.batch_size]

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        examples = [self.examples[example] for example in self.chosen(index)]
        rows = np.zeros(self.batch_size, int)
        rows[: len(examples)] = [row for row, _ in examples]
        captions = np.concatenate([captions for _, captions in examples])
        longest_first = np.argsort(-self.lengths[captions], kind="stable")
        pictures = np.zeros(self.widths[0], np.int32)
        owners = np.repeat(np.arange(len(examples)), [len(own) for _, own in examples])
        pictures[: len(captions)] = owners[longest_first]
        steps, places = self.layout()
        targets = np.full((len(pictures), self.targets.shape[1]), PAD, np.int32)
        targets[: len(captions)] = self.targets[captions[longest_first]]
        words = heard(targets)
        return (
            {"features": self.grid[rows], "pictures": pictures, "words": words[places, steps]},
            targets[places, steps],
        )

    def layout(self) -> tuple[np.ndarray, np.ndarray]:
        """Return of each element of `words` the step, and the place of its caption in the batch; int `[S]` each."""
        steps = np.repeat(np.arange(len(self.widths)), self.widths)
        return steps, np.concatenate([np.arange(width) for width in self.widths])


def balanced_order(traits: np.ndarray, batch_size: int, generator: np.random.Generator) -> np.ndarray:
    """Return a random order of examples whose successive batches have about the same sums of traits.

    The examples are dealt out at random in rounds, one to each batch. Within a round each goes where it fits best: the
    assignment has the least sum of squares of what the batches then have beyond the mean.

    Args:
        traits: of each example, `[examples, traits]`.
        batch_size: examples a batch; what is left over stands at the end, as drawn.
        generator: draws.
    """
    order = generator.permutation(len(traits))
    whole = len(order) // batch_size * batch_size
    beyond = traits - traits.mean(axis=0)
    rounds = order[:whole].reshape(batch_size, -1)  # [rounds, batches]
    for first in range(0, rounds.shape[1], BALANCED_TOGETHER):
        together = rounds[:, first : first + BALANCED_TOGETHER]
        total = np.zeros((together.shape[1], traits.shape[1]))
        for dealt in together:
            # |total + beyond|^2, less what does not depend on the assignment
            _, fitting = linear_sum_assignment(total @ beyond[dealt].T)
            dealt[:] = dealt[fitting]
            total += beyond[dealt]
    return np.concatenate([rounds.T.ravel(), order[whole:]])


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
