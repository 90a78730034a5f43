"""What a trained model says of pictures.

Legend: `T` words of a caption · `P` positions of the picture's grid · `C` encoder channels · `V` vocabulary.
"""

import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, overload

import numpy as np

from captioner.common.errors import CaptionerError
from captioner.common.keras import keras
from captioner.data.images import UnreadableImage
from captioner.features.extract import Extractor
from captioner.inference import pictures
from captioner.inference.pictures import Picture
from captioner.model.description import image_size_and_crop
from captioner.model.saved_model import SavedModel
from captioner.search.alternatives import Alternative, alternatives
from captioner.search.caption import Caption, captions_of
from captioner.search.generators import Generator, Sampler
from captioner.text.vocabulary import UNKNOWN

BATCH = 32  # pictures


@dataclass
class Captioner(SavedModel):
    """A saved model with its encoder: what it says of pictures.

        captioner = Captioner.load("models/captioner")
        print(captioner.caption("dog.jpg").text)

    May be used from several threads; the network then serves them one after the other.
    """

    _compiled: dict[tuple, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    _network: threading.RLock = field(default_factory=threading.RLock, init=False, repr=False, compare=False)

    def generator(self, beam: int = 3, length_normalization: float = 1.0, batch_size: int = 64) -> Generator:
        """Return what generates captions from features with this model's weights, compiled for many pictures."""
        return Generator(
            self.decoder, beam, self.maximum_words, length_normalization, batch_size, vocabulary=self.vocabulary
        )

    def captions(self, generator: Generator, features: np.ndarray, rows: np.ndarray | None = None) -> list[Caption]:
        """Caption the rows (all, if not given) of a map `[pictures, P, C]`."""
        return captions_of(generator.generate(features, rows), self.vocabulary, self.decoder.attention)

    @overload
    def caption(  # type: ignore[overload-overlap]  # a path is one picture, though it is iterable
        self,
        images: Picture,
        beam: int = ...,
        *,
        maximum_words: int | None = ...,
        length_normalization: float = ...,
    ) -> Caption: ...

    @overload
    def caption(
        self,
        images: Iterable[Picture],
        beam: int = ...,
        *,
        maximum_words: int | None = ...,
        length_normalization: float = ...,
    ) -> list[Caption]: ...

    def caption(
        self,
        images: Picture | Iterable[Picture],
        beam: int = 3,
        *,
        maximum_words: int | None = None,
        length_normalization: float = 1.0,
    ) -> Caption | list[Caption]:
        """Say what a picture shows, or what each of several does.

        Args:
            images: one picture, or several in a list or any other iterable: paths, http and https addresses, encoded
                bytes (JPEG, PNG, ...), Pillow images, or uint8 arrays, RGB `[H, W, 3]` or grey `[H, W]`.
            beam: width of the search, 1 (greedy) to 50; a wider one is slower and finds likelier captions.
            maximum_words: longest caption; by default the longest that the model was trained on.
            length_normalization: captions compete by `log_probability / length ** length_normalization`, the end
                counted in; 0 favours short captions.

        Returns:
            One caption for one picture, a list for several.

        Raises:
            UnreadableImage: a picture cannot be read; the message names it. `stream` continues where this stops.
            CaptionerError: an argument is out of its bounds, or the encoder's weights cannot be obtained.
        """
        found = []
        given: Any = images if pictures.is_batch(images) else [images]
        for each in self.stream(given, beam, maximum_words=maximum_words, length_normalization=length_normalization):
            if isinstance(each, UnreadableImage):
                raise each
            found.append(each)
        return found if pictures.is_batch(images) else found[0]

    def stream(
        self,
        images: Iterable[Picture | UnreadableImage],
        beam: int = 3,
        *,
        maximum_words: int | None = None,
        length_normalization: float = 1.0,
        first: int = 1,
    ) -> Iterator[Caption | UnreadableImage]:
        """Caption any number of pictures as they come, in their order; memory does not grow with their number.

        Pictures are read and decoded in threads ahead of the network.

        Args:
            images: see `caption`; an `UnreadableImage` among them is passed on.
            beam: see `caption`.
            maximum_words: see `caption`.
            length_normalization: see `caption`.
            first: pictures of the first batch; 1, since somebody may wait for the first caption. The others have 32.

        Yields:
            For each picture its caption, or, where it cannot be read, the `UnreadableImage` that says why.

        Raises:
            CaptionerError: an argument is out of its bounds, or the encoder's weights cannot be obtained.
        """
        maximum = self._maximum(maximum_words)
        _check("beam", beam, 1, 50)
        if not length_normalization >= 0:
            raise CaptionerError(f"received length_normalization {length_normalization}; give 0 or more")
        _check("first", first, 1, BATCH)
        return self._stream(images, (beam, maximum, length_normalization), first)

    def compile(self) -> None:
        """Load and compile the encoder now, and not when pictures wait for it.

        Raises:
            CaptionerError: its weights cannot be obtained.
        """
        self._extractor.compile()

    def samples(
        self,
        image: Picture,
        samples: int = 5,
        *,
        temperature: float = 1.0,
        top_p: float = 0.9,
        maximum_words: int | None = None,
        seed: int | None = None,
    ) -> list[Caption]:
        """Say several things of one picture: captions drawn word by word, see `captioner.search.sampling.sample`.

        Args:
            image: see `caption`.
            samples: how many are drawn, 1 to 100.
            temperature: above 0; below 1 probable words become more probable yet, above 1 less.
            top_p: words are drawn from the fewest most probable ones that together reach this probability; above 0, at
                most 1.
            maximum_words: longest caption; by default the longest that the model was trained on.
            seed: the same seed draws the same captions; by default each call draws others.

        Returns:
            The different ones among those drawn, so perhaps fewer, the most probable first. `log_probability` is that
            by the model itself, whatever the temperature and `top_p`.

        Raises:
            UnreadableImage: the picture cannot be read.
            CaptionerError: an argument is out of its bounds, or the encoder's weights cannot be obtained.
        """
        maximum = self._maximum(maximum_words)
        _check("samples", samples, 1, 100)
        if not 0 < temperature < math.inf:
            raise CaptionerError(f"received temperature {temperature}; give a number above 0")
        if not 0 < top_p <= 1:
            raise CaptionerError(f"received top_p {top_p}; give a number above 0, at most 1")
        with self._network:
            sampler = self._once(Sampler, samples, maximum)
            found = sampler.draw(self._features(image), temperature, top_p, seed)
        different = {
            tuple(caption.words): caption for caption in captions_of(found, self.vocabulary, self.decoder.attention)
        }
        return sorted(different.values(), key=lambda caption: -caption.log_probability)

    def alternatives(self, image: Picture, words: Sequence[str], most: int = 5) -> list[list[Alternative]]:
        """Say what else the model could have said at each place of a caption, given the words before it.

        Args:
            image: see `caption`.
            words: of a caption; any in the model's vocabulary.
            most: how many alternatives a place has.

        Returns:
            For each word, and for the end after the last, the most probable words with their probabilities, the most
            probable first.

        Raises:
            UnreadableImage: the picture cannot be read.
            CaptionerError: the model does not know a word, or the encoder's weights cannot be obtained.
        """
        text = " ".join(words)
        tokens = self.vocabulary.encode_words(text)
        if self.vocabulary.split(text) != list(words) or [UNKNOWN] in tokens:
            known = self.vocabulary.split
            unknown = next(word for word in words if known(word) != [word] or UNKNOWN in self.vocabulary.encode(word))
            raise CaptionerError(f"received {unknown!r}, a word that the model does not know: see its vocabulary")
        with self._network:
            return alternatives(self.decoder, self.vocabulary, self._features(image), tokens, most)

    def _stream(
        self, images: Iterable[Picture | UnreadableImage], search: tuple[int, int, float], first: int
    ) -> Iterator[Caption | UnreadableImage]:
        for batch in pictures.prefetch(images, BATCH, *image_size_and_crop(self.encoder), first=first):
            read = [each for each in batch if not isinstance(each, UnreadableImage)]
            captions = iter(self._search(np.stack(read), search) if read else [])
            yield from (each if isinstance(each, UnreadableImage) else next(captions) for each in batch)

    def _search(self, pixels: np.ndarray, search: tuple[int, int, float]) -> list[Caption]:
        with self._network:
            # One picture alone must not wait for the search of a full batch.
            generator = self._once(Generator, *search, 1 if len(pixels) == 1 else BATCH)
            return self.captions(generator, self._extractor(pixels))

    def _features(self, image: Picture) -> np.ndarray:
        return self._extractor(self.pixels(image)[None])  # [1, P, C]

    def pixels(self, image: Picture, number: int = 1) -> np.ndarray:
        """Return a picture as the encoder sees it, uint8 `[S, S, 3]`; `number` is what an error calls it.

        Raises:
            UnreadableImage: the picture cannot be read.
        """
        return pictures.pixels(image, number, *image_size_and_crop(self.encoder))

    def _once(self, kind: type, *arguments: Any) -> Any:
        """Return a search of this kind, made and traced only once."""
        key = (kind, *arguments)
        if key not in self._compiled:
            made = kind(self.decoder, *arguments, vocabulary=self.vocabulary)
            # TensorFlow's graph is there at once, XLA takes seconds to save milliseconds; JAX has nothing else.
            made.compile(jit_compile=keras.backend.backend() == "jax")
            self._compiled[key] = made
        return self._compiled[key]

    def _maximum(self, words: int | None) -> int:
        return self.maximum_words if words is None else _check("maximum_words", words, 1, 1000)

    @cached_property
    def _extractor(self) -> Extractor:
        extractor = Extractor(**self.encoder_options, crop=image_size_and_crop(self.encoder)[1])
        self.check_encoder(extractor.weights_sha256)
        return extractor


def _check(name: str, value: int, least: int, most: int) -> int:
    if not least <= value <= most:
        raise CaptionerError(f"received {name} {value}; give {least} to {most}")
    return value
