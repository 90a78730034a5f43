"""Captions from feature vectors: the decoder and the search, compiled together."""

import threading
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from captioner.common.keras import Tensor, keras
from captioner.model.decoder import Decoder
from captioner.search.beam import beam_search
from captioner.search.sampling import sample
from captioner.search.steps import SearchResult, Step, at_most_words
from captioner.text.vocabulary import Vocabulary

# on JAX Keras lends the weights' memory to a prediction until it has ended, and generators share a decoder
_ALONE = threading.Lock()


class _Search(keras.Model):
    """What generators of captions share: a decoder, and captions of at most so many words.

    Args:
        decoder: it is shared, not copied.
        captions: of a picture at a time, `K`.
        maximum: longest caption in words.
        batch_size: pictures at a time; the last batch is filled up.
        vocabulary: of the decoder; where there is none, each token is a word.
    """

    def __init__(
        self, decoder: Decoder, captions: int, maximum: int, batch_size: int, vocabulary: Vocabulary | None, name: str
    ):
        super().__init__(name=name)
        self.decoder = decoder
        self.captions = captions
        self.maximum = maximum
        self.most_tokens = maximum if vocabulary is None else vocabulary.most_tokens(maximum)
        self.batch_size = batch_size
        self._begins_word = None if vocabulary is None else vocabulary.begins_word
        self.built = True
        self.compile(jit_compile=True)

    def begin(self, features: Tensor) -> tuple[Step, Tensor]:
        """Return the step of `K` captions of each picture of the map `[B, P, C]`, and the state before the first."""
        picture, state = self.decoder.initialize(features, captions=self.captions)

        def step(words: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return self.decoder.next_word(words, state, picture)

        return at_most_words(step, state, features.shape[0] * self.captions, self._begins_word, self.maximum)

    def batches(self, features: np.ndarray, rows: np.ndarray | None) -> Iterator[tuple[np.ndarray, int, np.ndarray]]:
        """Yield which rows stand in a batch, how many of them are no filling, and their map `[B, P, C]`."""
        rows = np.arange(len(features)) if rows is None else rows
        for start in range(0, len(rows), self.batch_size):
            places = np.arange(start, min(start + self.batch_size, len(rows)))
            filled = np.pad(places, (0, self.batch_size - len(places)), mode="edge")
            yield filled, len(places), np.asarray(features[rows[filled]])

    def search(self, inputs: Any, real: int) -> SearchResult:
        """Return what is found for the first `real` captions of a batch, as arrays."""
        with _ALONE:
            found = self.predict_on_batch(inputs)
        return SearchResult(*(np.asarray(values)[:real] for values in found))


class Generator(_Search):
    """Generates captions with the weights that a decoder has at each call.

    Args:
        decoder: it is shared, not copied.
        beam: width of the beam, 1 for greedy search.
        maximum: longest caption in words.
        length_normalization: see `captioner.search.beam.beam_search`.
        batch_size: pictures searched at a time; the last batch is filled up.
        vocabulary: of the decoder; where there is none, each token is a word.
    """

    def __init__(
        self,
        decoder: Decoder,
        beam: int = 3,
        maximum: int = 20,
        length_normalization: float = 1.0,
        batch_size: int = 64,
        vocabulary: Vocabulary | None = None,
    ):
        super().__init__(decoder, beam, maximum, batch_size, vocabulary, "generator")
        self.length_normalization = length_normalization

    def call(self, features: Tensor) -> SearchResult:
        """Search captions for the map `[B, P, C]`."""
        pictures, positions = features.shape[:2]
        step, state = self.begin(features)
        size = self.decoder.weights_size(positions)
        return beam_search(step, state, pictures, size, self.captions, self.most_tokens, self.length_normalization)

    def generate(self, features: np.ndarray, rows: np.ndarray | None = None) -> SearchResult:
        """Return captions, as arrays, for the rows (all, if not given) of a map `[pictures, P, C]`, read in batches."""
        return _joined(self.search(maps, real) for _, real, maps in self.batches(features, rows))


class Sampler(_Search):
    """Draws several captions of each picture with the weights that a decoder has at each call.

    Args:
        decoder: it is shared, not copied.
        samples: captions of a picture drawn at a time.
        maximum: longest caption in words.
        batch_size: pictures at a time; the last batch is filled up.
        vocabulary: of the decoder; where there is none, each token is a word.
    """

    def __init__(
        self,
        decoder: Decoder,
        samples: int = 5,
        maximum: int = 20,
        batch_size: int = 1,
        vocabulary: Vocabulary | None = None,
    ):
        super().__init__(decoder, samples, maximum, batch_size, vocabulary, "sampler")

    def call(self, inputs: tuple) -> SearchResult:
        """Draw captions for the map `[B, P, C]` with draws `[B*samples, T]`, temperature `[1]` and top_p `[1]`."""
        features, draws, temperature, top_p = inputs
        step, state = self.begin(features)
        return sample(step, state, draws, self.decoder.weights_size(features.shape[1]), temperature, top_p)

    def draw(
        self,
        features: np.ndarray,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int | None = None,
        rows: np.ndarray | None = None,
    ) -> SearchResult:
        """Return captions, as arrays, for the rows (all, if not given) of a map `[pictures, P, C]`.

        Those of a picture stand side by side. For `temperature` and `top_p` see `captioner.search.sampling.sample`.
        """
        pictures = len(features) if rows is None else len(rows)
        draws = np.random.default_rng(seed).random((pictures, self.captions, self.most_tokens + 1), np.float32)
        settings = [np.array([value], np.float32) for value in (temperature, top_p)]
        return _joined(
            self.search((maps, draws[places].reshape(-1, draws.shape[-1]), *settings), real * self.captions)
            for places, real, maps in self.batches(features, rows)
        )


def _joined(found: Iterable[SearchResult]) -> SearchResult:
    return SearchResult(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
