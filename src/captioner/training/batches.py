"""Training batches, read from the memory-mapped features.

Legend: `G` pictures · `N` captions per picture · `T` tokens · `P` positions · `C` channels · of the rows computed, `A`,
`B`, `R` and `S`, see `captioner.training.prefix_sharing`.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from captioner.common.errors import CaptionerError
from captioner.common.keras import keras
from captioner.features.store import Features, row_of
from captioner.text.vocabulary import PAD, Vocabulary, decoder_inputs
from captioner.training.prefix_sharing import StepWidths, arrange, best_shared_steps, divergence_step, prefix_owners

VECTOR = 4  # a product of matrices takes as long for fewer rows
SIDES = frozenset(("left", "right"))  # words of which a mirror image makes the opposite
BALANCED_TOGETHER = 128  # batches; the time of an assignment grows with the third power of their number


class Batches(keras.utils.PyDataset):
    """Batches that a training can go on in where it was interrupted.

    Attributes:
        first: the number of the batch with which this epoch begins.
        passes: how often each caption stands in an epoch.
        pictures: how many there are.
        captions: how many there are.
        step_widths: how many rows are computed at each step: as many as in the batch with the most, rounded up to full
            vectors of the processor. May be set to wider ones.
        targets_as_input: whether the inputs have `targets` too, for what a loss computes within the model.
        problem: why there is no further batch, since TensorFlow hides an error of its data in one of its own.
    """

    step_widths: StepWidths

    def __init__(self) -> None:
        # in Keras's own threads: those of tf.data, which it takes when there is to be one, may sleep at the end of an
        # epoch until it has lasted twice as long
        super().__init__(workers=2, max_queue_size=4)
        self.epoch = self.first = 0
        self.passes = 1
        self.pictures = self.captions = 0
        self.targets_as_input = False
        self.problem: CaptionerError | None = None

    @property
    def batches_a_pass(self) -> int:
        """How many batches show each caption once."""
        raise NotImplementedError

    def item(self, index: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return a batch, see `CaptionBatches`."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        try:
            return self.item(index)
        except CaptionerError as error:
            self.problem = error
            raise

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Raise why there was no further batch, in place of what TensorFlow makes of it."""
        try:
            yield
        except Exception:
            if self.problem is not None:
                raise self.problem from None
            raise

    def __len__(self) -> int:
        return self.passes * self.batches_a_pass - self.first

    def on_epoch_end(self) -> None:
        """Take the orders of the next epoch."""
        self.epoch += 1
        self.first = 0

    def go_on_at(self, epoch: int, first: int) -> None:
        """Leave out what an interrupted `fit` has had of an epoch; to be called when the next `fit` has begun.

        Args:
            epoch: counted from 0, as Keras counts.
            first: the batch with which that epoch now begins.
        """
        self.epoch = epoch + 1  # Keras ends an epoch before it begins the first one
        self.first = first


class CaptionBatches(Batches):
    """Pictures with their captions, for `captioner.training.teacher_forcing.TeacherForcing`.

    An item is `({features [G, P, C], pictures [A + B], parent_rows [A + B], words [R], target_rows [S]}, targets [S])`:
    the map of `G` pictures; of each row (see `captioner.training.prefix_sharing`) its picture, and the row before that
    it continues; the words that are read, step by step; and the targets, step by step, those of the longest captions
    first, with the row that tells each. Beyond a caption's own end stands padding, which neither costs nor counts. All
    batches have one shape.

    A picture's captions stand in one batch, since they share what is computed of the picture. One with more than `N`
    captions appears several times. Batches are drawn at random, yet so that about as many captions continue at a place
    in one as in another, and as many prefixes: what one has more, all compute. Where pictures have several views, each
    batch of training shows one of them, drawn at random.

    Args:
        features: of the data set.
        captions: columns `image` and `caption`.
        vocabulary: encodes them.
        batch_size: `G`.
        captions_per_picture: `N`.
        maximum_words: longer captions are cut; `T` is one more.
        seed: of the order, which is another one each epoch; none keeps the order.
        epochs: how many have an order of their own; the next one has that of the first again.
        passes: how often each caption stands in an epoch, with a seed each time in another order.
        share: which process of how many these are for, counted from 0: an item then has every so manieth picture of a
            batch, and `G` is the most that one of them gets. The last batch may have none for some.

    Attributes:
        images: the picture of each example, an example being up to `N` captions of one picture.
        lengths: tokens of each caption.

    Raises:
        CaptionerError: there are no captions, or a picture has no features.
    """

    def __init__(
        self,
        features: Features,
        captions: pd.DataFrame,
        vocabulary: Vocabulary,
        batch_size: int,
        captions_per_picture: int,
        maximum_words: int,
        seed: int | Sequence[int] | None = None,
        epochs: int = 1,
        passes: int = 1,
        share: tuple[int, int] = (0, 1),
    ):
        super().__init__()
        if captions.empty:
            raise CaptionerError("There are no captions to train or validate on: give some to each split.")
        self.grid = features.grid
        self.batch_size, self.share = batch_size, share
        targets = vocabulary.encode_batch(captions["caption"].tolist(), maximum_words)
        self.targets = targets.astype(np.min_scalar_type(len(vocabulary)))
        self.lengths = (self.targets != PAD).sum(axis=1)
        rows_by_image = captions.reset_index(drop=True).groupby("image", sort=False).indices
        chunks = [
            (str(image), rows[start : start + captions_per_picture])
            for image, rows in rows_by_image.items()
            for start in range(0, len(rows), captions_per_picture)
        ]
        self.images = [image for image, _ in chunks]
        self.examples = [(row_of(features, image), rows) for image, rows in chunks]
        self.prefix_owners = (
            self._prefix_owners()
        )  # of each caption's prefixes, among those of its example: [captions, T]
        going_on, prefixes = self._rows()
        shared_steps = best_shared_steps(going_on.sum(axis=0), prefixes.sum(axis=0))
        self.orders = [np.arange(len(chunks))]
        self.views: list[np.ndarray] = []  # for each order, the row that each example shows
        if seed is not None:
            traits = np.concatenate([prefixes[:, :shared_steps], going_on[:, shared_steps:]], axis=1)
            generator = np.random.default_rng(seed)
            self.orders = [balanced_order(traits, batch_size, generator) for _ in range(epochs * passes)]
            if share[1] > 1:
                self.orders = [balanced_shares(order, traits, batch_size, share[1]) for order in self.orders]
            if features.views:
                shown = self._views(features, captions["caption"].map(vocabulary.split).tolist())
                self.views = [self._drawn(shown, generator) for _ in self.orders]
        self.passes = passes
        self.pictures, self.captions = len(rows_by_image), len(captions)
        self.step_widths = StepWidths(self._most(going_on), self._most(prefixes), shared_steps)

    def _prefix_owners(self) -> np.ndarray:
        words = decoder_inputs(self.targets)
        found = np.empty(self.targets.shape, np.min_scalar_type(max(len(rows) for _, rows in self.examples)))
        counts = pd.Series([len(rows) for _, rows in self.examples])
        for alike in counts.groupby(counts).indices.values():
            rows = np.stack([self.examples[number][1] for number in alike])  # [pictures, N]
            found[rows] = prefix_owners(words[rows])
        return found

    def _rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Return how many captions of each example continue at each step, and how many prefixes they have, `[_, T]`."""
        rows = np.concatenate([rows for _, rows in self.examples])
        counts = [len(rows) for _, rows in self.examples]
        starts = np.cumsum([0, *counts[:-1]])
        divergence = divergence_step(self.prefix_owners[rows], np.arange(len(rows)) - np.repeat(starts, counts))[
            :, None
        ]
        lengths = self.lengths[rows][:, None]
        steps = np.arange(self.lengths.max())
        going_on, prefixes = lengths > steps, (divergence <= steps) & (divergence < lengths)
        return np.add.reduceat(going_on, starts, dtype=int), np.add.reduceat(prefixes, starts, dtype=int)

    def _most(self, rows: np.ndarray) -> tuple[int, ...]:
        """Return the most rows of a share of a batch at each step, of those of the examples, `[_, T]`."""
        places = np.arange(len(self.examples))
        processes = self.share[1]
        owners = places // self.batch_size * processes + places % self.batch_size % processes
        by_owner = np.argsort(owners, kind="stable")
        starts = np.unique(owners[by_owner], return_index=True)[1]
        most = np.max([np.add.reduceat(rows[order[by_owner]], starts).max(axis=0) for order in self.orders], axis=0)
        return tuple(min(-(-count // VECTOR) * VECTOR, max(most.tolist())) for count in most.tolist())

    def _views(self, features: Features, captions: list[list[str]]) -> list[list[int]]:
        """Return the rows that may stand for each example: no mirror image where a caption says left or right."""
        shown = []
        for image, (row, rows) in zip(self.images, self.examples, strict=True):
            several = features.views.get(image, [row])
            sided = any(not SIDES.isdisjoint(captions[each]) for each in rows)
            shown.append(several[::2] if sided else several)
        return shown

    @staticmethod
    def _drawn(shown: list[list[int]], generator: np.random.Generator) -> np.ndarray:
        """Return one row of those that may stand for each example."""
        return np.array([rows[generator.integers(len(rows))] for rows in shown])

    @property
    def batches_a_pass(self) -> int:
        """How many batches show each caption once."""
        return math.ceil(len(self.examples) / self.batch_size)

    def chosen(self, index: int) -> np.ndarray:
        """Return which examples stand in a batch, or in this share of it, in order."""
        number, batch = self._place(index)
        order = self.orders[number]
        process, processes = self.share
        return order[batch * self.batch_size : (batch + 1) * self.batch_size][process::processes]

    def _place(self, index: int) -> tuple[int, int]:
        """Return the number of the order that a batch is of, and its number in that."""
        done, batch = divmod(index + self.first, self.batches_a_pass)
        return (self.epoch * self.passes + done) % len(self.orders), batch

    def item(self, index: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return a batch, see the class."""
        chosen = self.chosen(index)
        examples = [self.examples[example] for example in chosen]
        maps = np.zeros(math.ceil(self.batch_size / self.share[1]), int)
        maps[: len(examples)] = [row for row, _ in examples]
        if self.views:
            maps[: len(examples)] = self.views[self._place(index)[0]][chosen]
        counts = np.array([len(rows) for _, rows in examples], int)
        captions = np.concatenate([np.zeros(0, int), *(rows for _, rows in examples)])  # of a share there may be none
        longest_first = np.argsort(-self.lengths[captions], kind="stable")
        firsts = np.repeat(np.cumsum(counts) - counts, counts)[longest_first]
        pictures = np.repeat(np.arange(len(examples)), counts)[longest_first]
        captions = captions[longest_first]
        prefix_owners = np.argsort(longest_first)[firsts[:, None] + self.prefix_owners[captions]]
        arranged = arrange(self.step_widths, self.lengths[captions], prefix_owners)

        places = self.step_widths.captions
        targets = np.full((places[0] + 1, len(places)), PAD, np.int32)  # the last row stays empty, for what has none
        targets[: len(captions)] = self.targets[captions, : len(places)]
        steps, rows = self.step_widths.input_rows
        inputs = {
            "features": self.grid[maps],
            "pictures": np.append(pictures, 0)[arranged.captions].astype(np.int32),
            "parent_rows": arranged.parent_rows.astype(np.int32),
            "words": decoder_inputs(targets)[arranged.captions[rows], steps],
            "target_rows": arranged.target_rows.astype(np.int32),
        }
        steps, target_captions = self.step_widths.target_rows
        targets = targets[target_captions, steps]
        if self.targets_as_input:
            inputs["targets"] = targets
        return inputs, targets


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
        _deal(rounds[:, first : first + BALANCED_TOGETHER], beyond)
    return np.concatenate([rounds.T.ravel(), order[whole:]])


def balanced_shares(order: np.ndarray, traits: np.ndarray, batch_size: int, shares: int) -> np.ndarray:
    """Return an order with the examples of each batch so that every so manieth makes a share like the others.

    They are dealt out in rounds, as in `balanced_order`.

    Args:
        order: of examples.
        traits: of each example, `[examples, traits]`.
        batch_size: examples a batch.
        shares: of a batch.
    """
    order = order.copy()
    beyond = traits - traits.mean(axis=0)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        _deal(batch[: len(batch) // shares * shares].reshape(-1, shares), beyond)
    return order


def _deal(rounds: np.ndarray, beyond: np.ndarray) -> None:
    """Put the examples of each round where they fit best, in place.

    Args:
        rounds: examples, `[rounds, batches]`.
        beyond: what each example has beyond the mean, `[examples, traits]`.
    """
    total = np.zeros((rounds.shape[1], beyond.shape[1]))
    for dealt in rounds:
        # |total + beyond|^2, less what does not depend on the assignment
        _, fitting = linear_sum_assignment(total @ beyond[dealt].T)
        dealt[:] = dealt[fitting]
        total += beyond[dealt]
