"""Training batches of more pictures than memory holds.

The parts of the training captions (see `captioner.data.streamed`) are drawn into windows once. Each epoch has the
windows in another order, and the pictures of a window, which are in memory together, in another one as well.
"""

import functools
import math
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from captioner.common.errors import CaptionerError
from captioner.data import store
from captioner.data.streamed import PART, TrainingCaptions
from captioner.features.shard_files import FeatureShards
from captioner.features.store import Features
from captioner.params import Recipe
from captioner.text.vocabulary import Vocabulary
from captioner.training import fit
from captioner.training.batches import Batches, CaptionBatches
from captioner.training.prefix_sharing import StepWidths

WINDOW = 8  # parts, so 4,000 pictures, or fewer
WINDOW_BYTES = 2**29  # of maps in a window, or a part if that has more; two windows are in memory
SETTLED = 8  # batches of a window, after which nobody asks for one of the window before


def training_batches(
    data: Path,
    features: Features | None,
    vocabulary: Vocabulary,
    recipe: Recipe,
    seed: int,
    share: tuple[int, int] = (0, 1),
) -> Batches:
    """Return the batches of training, of pictures that stay in their shards or not.

    Args:
        data: the data set's directory.
        features: of the data set; none for a decoder that never sees a picture.
        vocabulary: encodes the captions.
        recipe: sizes of the batches.
        seed: of their order.
        share: see `CaptionBatches`.
    """
    captions = TrainingCaptions(data)
    if captions.shards:
        files = None
        if features:
            if features.training is None:
                raise CaptionerError("There are no features of training pictures: `dvc repro features` makes them.")
            files = FeatureShards(features.training, features.positions, features.channels)
        return StreamedBatches(Windows(captions, files, seed), vocabulary, recipe, seed, share)
    whole = store.read_captions(data, "train")
    return fit.batches(features or Features.blank(whole["image"]), whole, "train", vocabulary, recipe, seed, share)


class Windows:
    """The training pictures of a data set, some thousand at a time.

    Args:
        captions: of the data set.
        features: of the training pictures; none for a decoder that never sees a picture.
        seed: of which parts share a window.

    Raises:
        CaptionerError: there are no captions.
    """

    def __init__(self, captions: TrainingCaptions, features: FeatureShards | None, seed: int):
        parts = captions.parts
        if not parts:
            raise CaptionerError("There are no captions to train on: give some to the split train.")
        if features is not None and (missing := [name for name in captions.shards if not features.has(name, captions)]):
            raise CaptionerError(
                f"The features of the training pictures in the shard {missing[0]} are missing or damaged: "
                "`dvc repro features` makes them again."
            )
        self._captions, self._features = captions, features
        most = WINDOW
        if features is not None:
            most = min(most, max(1, WINDOW_BYTES // (PART * 2 * math.prod(features.shape))))
        order = np.random.default_rng(seed).permutation(len(parts))
        self._windows = [
            tuple(parts[number] for number in some.tolist()) for some in np.array_split(order, -(-len(order) // most))
        ]

    def __len__(self) -> int:
        return len(self._windows)

    def captions(self, number: int) -> pd.DataFrame:
        """Return the captions of a window: columns `image`, `split`, `caption`."""
        return pd.concat([self._captions.of(part) for part in self._windows[number]], ignore_index=True)

    def features(self, number: int, captions: pd.DataFrame) -> Features:
        """Return the features of a window, in memory.

        Args:
            number: of the window.
            captions: its captions.

        Raises:
            CaptionerError: they are missing or damaged, or of other pictures.
        """
        images = captions["image"].drop_duplicates().tolist()
        if self._features is None:
            return Features.blank(images)
        grid = np.empty((len(images), *self._features.shape), np.float16)
        names: list[str] = []
        for part in self._windows[number]:
            read, maps = self._features.read(part)
            names += read
            if names != images[: len(names)]:
                raise CaptionerError(
                    "The features of training pictures are not those of the captions: make them again with "
                    "`dvc repro features`."
                )
            grid[len(names) - len(read) : len(names)] = maps
        return Features.at_hand(grid, images)


class StreamedBatches(Batches):
    """Batches of windows of training pictures, for `captioner.training.teacher_forcing.TeacherForcing`.

    An item is as `captioner.training.batches.CaptionBatches` has it, which makes those of a window. Two windows are in
    memory: that which is trained on, and the next one. All captions are arranged once at the beginning, since all
    batches have one shape.

    Args:
        windows: the pictures.
        vocabulary: encodes the captions.
        recipe: sizes of a batch, and how many epochs have an order of their own.
        seed: of the orders.
        share: see `CaptionBatches`.
    """

    def __init__(
        self, windows: Windows, vocabulary: Vocabulary, recipe: Recipe, seed: int, share: tuple[int, int] = (0, 1)
    ):
        super().__init__()
        self._share = share
        self._windows, self._vocabulary, self._recipe, self._seed = windows, vocabulary, recipe, seed
        examples = []
        for window in range(len(windows)):
            captions = windows.captions(window).groupby("image").size()
            examples.append(int(np.ceil(captions / recipe.captions_per_picture).sum()))
            self.pictures += len(captions)
            self.captions += int(captions.sum())
        self._counts = -(-np.array(examples) // recipe.batch_size)  # batches of each window
        self.passes = math.ceil(recipe.minimum_steps / self.batches_a_pass)
        self._orders = recipe.epochs * self.passes
        self.step_widths = functools.reduce(StepWidths.wider, self._step_widths())
        self._pool = ThreadPoolExecutor(1)
        self._lock = threading.Lock()
        self._loaded: dict[int, Future[CaptionBatches]] = {}  # by turn, which windows have one after the other
        self._prepared = 0

    @property
    def batches_a_pass(self) -> int:
        """How many batches show each caption once."""
        return int(self._counts.sum())

    def _step_widths(self) -> Iterator[StepWidths]:
        windows = tqdm(range(len(self._windows)), "arranging", unit=" windows", disable=None, leave=False)
        for window in windows:
            captions = self._windows.captions(window)
            yield self._batches(window, Features.blank(captions["image"]), captions).step_widths

    def _batches(self, window: int, features: Features, captions: pd.DataFrame) -> CaptionBatches:
        """Return the batches of a window; its epochs are the passes."""
        sizes = (self._recipe.batch_size, self._recipe.captions_per_picture, self._recipe.maximum_words)
        return CaptionBatches(
            features, captions, self._vocabulary, *sizes, (self._seed, window), self._orders, 1, self._share
        )

    def item(self, index: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return a batch, see the class."""
        done, batch = divmod(index + self.first, self.batches_a_pass)
        number = self.epoch * self.passes + done
        counts = self._counts[self._order(number)]  # of batches, in this order
        ends = np.cumsum(counts)
        place = int(np.searchsorted(ends, batch, side="right"))
        within = int(batch - ends[place] + counts[place])
        turn = number * len(self._windows) + place
        batches = self._at(turn).result()
        if within >= min(SETTLED, counts[place] - 1):
            self._prepare(turn + 1)
        return batches[within]

    def _order(self, number: int) -> np.ndarray:
        """Return the order of the windows in a pass."""
        return np.random.default_rng((self._seed, number)).permutation(len(self._windows))

    def _at(self, turn: int) -> Future[CaptionBatches]:
        """Return the window whose turn it is, which may be being read."""
        with self._lock:
            if turn not in self._loaded:
                self._loaded[turn] = self._pool.submit(self._read, turn)
            return self._loaded[turn]

    def _prepare(self, turn: int) -> None:
        """Read a window before its turn, and leave those before the last one, once."""
        with self._lock:
            if turn <= self._prepared:
                return
            self._prepared = turn
            self._loaded = {key: window for key, window in self._loaded.items() if key >= turn - 1}
        self._at(turn)

    def _read(self, turn: int) -> CaptionBatches:
        number, place = divmod(turn, len(self._windows))
        window = int(self._order(number)[place])
        captions = self._windows.captions(window)
        batches = self._batches(window, self._windows.features(window, captions), captions)
        batches.epoch = number
        batches.step_widths, batches.targets_as_input = self.step_widths, self.targets_as_input
        return batches
