"""Data of the shape that Flickr8k has, drawn from a seed: what the benchmarks run on without photographs."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from captioner.features.store import Features
from captioner.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from captioner.training.batches import Batches

# Measured on the 40,460 captions of Flickr8k.token.txt, words as `captioner.text.vocabulary` splits them.
LONGEST = 36  # words
LOG_LENGTH = (2.317, 0.358)  # mean and standard deviation of the logarithm of the words a caption; mean 10.8 words
WORDS = 2994  # in at least five captions
CAPTIONS = 5  # a picture
POSITIONS, CHANNELS = 49, 1280  # of EfficientNet-Lite0's map


def captions(pictures: int, words: int = WORDS, seed: int = 1) -> pd.DataFrame:
    """Return `image` and `caption`: lengths as in Flickr8k, words by Zipf's law; one caption has the longest length."""
    generator = np.random.default_rng(seed)
    lengths = np.exp(generator.normal(*LOG_LENGTH, pictures * CAPTIONS)).round().astype(int).clip(2, LONGEST)
    lengths[0] = LONGEST
    frequency = 1 / np.arange(1, words + 1)
    drawn = generator.choice(words, lengths.sum(), p=frequency / frequency.sum())
    said = [" ".join(f"w{word}" for word in part) for part in np.split(drawn, np.cumsum(lengths)[:-1])]
    names = np.repeat([f"{number}.jpg" for number in range(pictures)], CAPTIONS)
    return pd.DataFrame({"image": names, "caption": said})


def vocabulary(words: int = WORDS) -> Vocabulary:
    """Return a vocabulary of all words that `captions` draws from."""
    return Vocabulary.build([f"w{word}" for word in range(words)])


def features(pictures: int, directory: Path, positions: int = POSITIONS, channels: int = CHANNELS) -> Features:
    """Write a map of random values, half of them 0 as behind a ReLU, and open it as the pipeline does."""
    generator = np.random.default_rng(2)
    path = directory / f"{pictures}x{positions}x{channels}.npy"
    grid = np.lib.format.open_memmap(path, "w+", np.float16, (pictures, positions, channels))
    for start in range(0, pictures, 256):
        part = grid[start : start + 256]
        part[:] = generator.standard_normal(part.shape, np.float32).clip(0)
    grid.flush()
    rows = {f"{number}.jpg": number for number in range(pictures)}
    return Features(np.load(path, mmap_mode="r"), rows, "synthetic", "none", "none")


def shorten(batches: "Batches", steps: int) -> None:
    """Let an epoch end after its first steps; the order over all examples, and all else, stay the pipeline's."""
    kind = type(batches)

    class Few(kind):  # type: ignore[valid-type, misc]
        def __len__(self) -> int:
            return min(steps, super().__len__())

    batches.__class__ = Few
