"""A caption, and captions of many pictures from their features.

Legend: `T` words of a caption · `P` positions of the picture's grid, `R x R` · `C` encoder channels.
"""

import math
from dataclasses import dataclass

import numpy as np

from captioner.search.steps import SearchResult
from captioner.text.vocabulary import Vocabulary


@dataclass(frozen=True)
class Caption:
    """What a model says of a picture.

    Attributes:
        words: the caption's words.
        log_probability: of the words and the end, in nats.
        attention: the weights at each word, over rows and columns of the picture, `[T, R, R]` (7 x 7 of the encoders
            here); each word's sum to 1.
    """

    words: list[str]
    log_probability: float
    attention: np.ndarray

    @property
    def text(self) -> str:
        """The words, joined by spaces."""
        return " ".join(self.words)

    @property
    def attention_by_position(self) -> np.ndarray:
        """The attention with the grid's rows one behind the other, `[T, P]`."""
        return self.attention.reshape(len(self.attention), math.prod(self.attention.shape[1:]))


def captions_of(found: SearchResult, vocabulary: Vocabulary) -> list[Caption]:
    """Return what a search found, in words."""
    side = math.isqrt(found.weights.shape[-1])
    words = [vocabulary.decode_words(numbers) for numbers in found.words]
    return [
        Caption(said, float(log_probability), weights[: len(said)].reshape(len(said), side, side))
        for said, log_probability, weights in zip(words, found.log_probability, found.weights, strict=True)
    ]
