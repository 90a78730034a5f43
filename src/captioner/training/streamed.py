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

WINDOW = 8  # parts, so 4,000 pictures
WINDOW_BYTES = 2**29  # of maps in a window; two windows are in memory
SETTLED = 8  # batches of a window, after which nobody asks for one of the window before


def batches_of(
    data: Path, features: Features | None, vocabulary: Vocabulary, recipe: Recipe, seed: int
) -> tuple[Batches, CaptionBatches, pd.DataFrame]:
    """Return batches of training and of validation, and the captions of validation.

    Args:
        data: the data set's directory.
        features: of the data set; none for a decoder that never sees a picture.
        vocabulary: encodes the captions.
        recipe: sizes of the batches.
        seed: of the order of training.
    """
    captions, training_captions = store.read_captions(data, "validation"), TrainingCaptions(data)
    validation = fit.batches(features or Features.blank(captions["image"]), captions, "validation", vocabulary, recipe)
    if training_captions.shards:
        windows = Windows(training_captions, features.training if features else None, seed)
        return StreamedBatches(windows, vocabulary, recipe, seed), validation, captions
    whole = store.read_captions(data, "train")
    training = fit.batches(features or Features.blank(whole["image"]), whole, "train", vocabulary, recipe, seed)
    return training, validation, captions


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
        self._captions, self._features = captions, features
        most = WINDOW
        if features is not None:
            most = min(most, max(1, WINDOW_BYTES // (PART * features.map_bytes)))
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
        read = [self._features.read(part) for part in self._windows[number]]
        if [name for names, _ in read for name in names] != images:
            raise CaptionerError(
                "The features of training pictures are not those of the captions: make them again with "
                "`dvc repro features`."
            )
        return Features.at_hand(np.concatenate([maps for _, maps in read]), images)


class StreamedBatches(Batches):
    """Batches of windows of training pictures, for `captioner.training.teacher_forcing.TeacherForcing`.

    An item is as `captioner.training.batches.CaptionBatches` has it, which makes those of a window. Two windows are in
    memory: that which is trained on, and the next one. All captions are read once at the beginning, since all batches
    have one shape.

    Args:
        windows: the pictures.
        vocabulary: encodes the captions.
        recipe: sizes of a batch, and how many epochs have an order of their own.
        seed: of the orders.
    """

    def __init__(self, windows: Windows, vocabulary: Vocabulary, recipe: Recipe, seed: int):
        super().__init__()
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
        self._loaded: dict[tuple[int, int], Future[CaptionBatches]] = {}

    @property
    def batches_a_pass(self) -> int:
        """How many batches show each caption once."""
        return int(self._counts.sum())

    def _step_widths(self) -> Iterator[StepWidths]:
        windows = tqdm(range(len(self._windows)), "arranging", unit=" windows", disable=None, leave=False)
        for window in windows:
            captions = self._windows.captions(window)
            blank = Features.blank(captions["image"])
            yield from (self._batches(number, window, blank, captions).step_widths for number in range(self._orders))

    def _batches(self, number: int, window: int, features: Features, captions: pd.DataFrame) -> CaptionBatches:
        """Return the batches of a window in the order that it has in a pass."""
        sizes = (self._recipe.batch_size, self._recipe.captions_per_picture, self._recipe.maximum_words)
        return CaptionBatches(features, captions, self._vocabulary, *sizes, (self._seed, number, window))

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        done, batch = divmod(index + self.first, self.batches_a_pass)
        number = (self.epoch * self.passes + done) % self._orders
        counts = self._counts[self._order(number)]  # of batches, in this order
        ends = np.cumsum(counts)
        place = int(np.searchsorted(ends, batch, side="right"))
        within = int(batch - ends[place] + counts[place])
        batches = self._at(number, place).result()
        if within == min(SETTLED, counts[place] - 1):
            self._prepare_next(number, place)
        return batches[within]

    def _order(self, number: int) -> np.ndarray:
        """Return the order of the windows in a pass."""
        return np.random.default_rng((self._seed, number)).permutation(len(self._windows))

    def _at(self, number: int, place: int) -> Future[CaptionBatches]:
        """Return the window at a place of a pass, which may be being read."""
        with self._lock:
            if (number, place) not in self._loaded:
                self._loaded[number, place] = self._pool.submit(self._read, number, int(self._order(number)[place]))
            return self._loaded[number, place]

    def _prepare_next(self, number: int, place: int) -> None:
        """Read the next window, and leave the ones before."""
        following = (number, place + 1) if place + 1 < len(self._windows) else ((number + 1) % self._orders, 0)
        self._at(*following)
        with self._lock:
            self._loaded = {key: self._loaded[key] for key in ((number, place), following) if key in self._loaded}

    def _read(self, number: int, window: int) -> CaptionBatches:
        captions = self._windows.captions(window)
        batches = self._batches(number, window, self._windows.features(window, captions), captions)
        batches.step_widths, batches.targets_as_input = self.step_widths, self.targets_as_input
        return batches
