"""Captions from feature vectors: the decoder and the search, compiled together."""

import threading
from collections.abc import Iterator

import numpy as np

from captioner.common.keras import Tensor, keras
from captioner.model.decoder import Decoder
from captioner.search.beam import beam_search
from captioner.search.sampling import sample
from captioner.search.steps import SearchResult

# on JAX Keras lends the weights' memory to a prediction until it has ended, and generators share a decoder
_ALONE = threading.Lock()


class Generator(keras.Model):
    """Generates captions with the weights that a decoder has at each call.

    Args:
        decoder: it is shared, not copied.
        beam: width of the beam, 1 for greedy search.
        maximum: longest caption in words.
        length_normalization: see `captioner.search.beam.beam_search`.
        batch_size: pictures searched at a time; the last batch is filled up.
    """

    def __init__(
        self,
        decoder: Decoder,
        beam: int = 3,
        maximum: int = 20,
        length_normalization: float = 1.0,
        batch_size: int = 64,
    ):
        super().__init__(name="generator")
        self.decoder = decoder
        self.beam = beam
        self.maximum = maximum
        self.length_normalization = length_normalization
        self.batch_size = batch_size
        self.built = True
        self.compile(jit_compile=True)

    def call(self, features: Tensor) -> SearchResult:
        """Search captions for the map `[B, P, C]`."""
        pictures, positions = features.shape[:2]
        size = self.decoder.weights_size(positions)
        picture, state = self.decoder.initialize(features, captions=self.beam)

        def step(words: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return self.decoder.next_word(words, state, picture)

        return beam_search(step, state, pictures, size, self.beam, self.maximum, self.length_normalization)

    def generate(self, features: np.ndarray, rows: np.ndarray | None = None) -> SearchResult:
        """Return captions, as arrays, for the rows (all, if not given) of a map `[pictures, P, C]`, read in batches."""
        rows = np.arange(len(features)) if rows is None else rows
        batches = list(self._generate(features, rows))
        return SearchResult(*(np.concatenate(parts) for parts in zip(*batches, strict=True)))

    def _generate(self, features: np.ndarray, rows: np.ndarray) -> Iterator[SearchResult]:
        for start in range(0, len(rows), self.batch_size):
            part = rows[start : start + self.batch_size]
            filled = np.pad(part, (0, self.batch_size - len(part)), mode="edge")
            with _ALONE:
                found = self.predict_on_batch(np.asarray(features[filled]))
            yield SearchResult(*(np.asarray(values)[: len(part)] for values in found))


class Sampler(keras.Model):
    """Draws several captions of one picture with the weights that a decoder has at each call.

    Args:
        decoder: it is shared, not copied.
        samples: captions drawn at a time.
        maximum: longest caption in words.
    """

    def __init__(self, decoder: Decoder, samples: int = 5, maximum: int = 20):
        super().__init__(name="sampler")
        self.decoder = decoder
        self.samples = samples
        self.maximum = maximum
        self.built = True
        self.compile(jit_compile=True)

    def call(self, inputs: tuple) -> SearchResult:
        """Draw captions for the map `[1, P, C]` with draws `[samples, T]`, temperature `[1]` and top_p `[1]`."""
        features, draws, temperature, top_p = inputs
        picture, state = self.decoder.initialize(features, captions=self.samples)

        def step(words: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return self.decoder.next_word(words, state, picture)

        return sample(step, state, draws, self.decoder.weights_size(features.shape[1]), temperature, top_p)

    def draw(
        self, features: np.ndarray, temperature: float = 1.0, top_p: float = 1.0, seed: int | None = None
    ) -> SearchResult:
        """Return captions, as arrays, for the map `[1, P, C]`; see `captioner.search.sampling.sample`."""
        draws = np.random.default_rng(seed).random((self.samples, self.maximum + 1), np.float32)
        settings = (np.array([value], np.float32) for value in (temperature, top_p))
        return SearchResult(*map(np.asarray, self.predict_on_batch((features, draws, *settings))))
