"""A caption, and captions of many pictures from their features.

Legend: `T` words of a caption · `P` positions of the picture's grid, `R x R` · `N` heads.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from captioner.model.attention.base import Attention
from captioner.search.steps import SearchResult
from captioner.text.vocabulary import Vocabulary


@dataclass(frozen=True)
class Caption:
    """What a model says of a picture.

    Attributes:
        words: the caption's words.
        log_probability: of the words and the end, in nats.
        attention: the weights at each word, over rows and columns of the picture, `[T, R, R]` (7 x 7 of the encoders
            here); each word's sum to 1. Of several heads, and of the pieces of a word, it is their mean.
        heads: the weights of each head, `[T, N, R, R]`; None where there is one.
        grounding: how much the model looked at each word, 0 (all by the words before) to 1, `[T]`; None where the
            attention always looks.
    """

    words: list[str]
    log_probability: float
    attention: np.ndarray
    heads: np.ndarray | None = None
    grounding: np.ndarray | None = None

    @property
    def text(self) -> str:
        """The words, joined by spaces."""
        return " ".join(self.words)

    @property
    def attention_by_position(self) -> np.ndarray:
        """The attention with the grid's rows one behind the other, `[T, P]`."""
        return self.attention.reshape(len(self.attention), math.prod(self.attention.shape[1:]))

    @property
    def described(self) -> dict[str, Any]:
        """What JSON says of it: `words`, `log_probability`, `weights`, and if there are any `heads`, `grounding`."""
        parts = {"weights": self.attention, "heads": self.heads, "grounding": self.grounding}
        return {"words": self.words, "log_probability": round(self.log_probability, 4)} | {
            name: np.round(part.astype(float), 6).tolist() for name, part in parts.items() if part is not None
        }


def captions_of(found: SearchResult, vocabulary: Vocabulary, attention: Attention) -> list[Caption]:
    """Return what a search found, in words.

    Args:
        found: by the search.
        vocabulary: of the decoder.
        attention: of the decoder, which knows what its weights say.
    """
    looks = attention.looks(found.weights)
    positions, heads, grounding = (None if part is None else np.asarray(part) for part in looks)
    assert positions is not None
    side = math.isqrt(positions.shape[-1])
    captions = []
    for number, tokens in enumerate(found.words):
        words = vocabulary.decode_places(tokens)

        def of_words(part: np.ndarray | None, shape: tuple[int, ...], number: int = number, words: Any = words) -> Any:
            """Return the mean of what stands at the tokens of each word, `[T, *shape]`."""
            if part is None:
                return None
            means = [part[number, places].mean(axis=0) for _, places in words]
            return np.reshape(means, (len(words), *shape)).astype(part.dtype)

        captions.append(
            Caption(
                [word for word, _ in words],
                float(found.log_probability[number]),
                of_words(positions, (side, side)),
                of_words(heads, (0 if heads is None else heads.shape[2], side, side)),
                of_words(grounding, ()),
            )
        )
    return captions
