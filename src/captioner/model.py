"""A trained model as one directory, which needs nothing beside it.

`model.json` (format, encoder with the hash of its weights, longest caption, hashes of the vocabulary's file and of the
decoder's weights, the experiment's parameters), `vocabulary.json` and `decoder.keras`.
"""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np

from captioner import encoders, files, images
from captioner.decoder import Decoder
from captioner.errors import CaptionerError
from captioner.features import Extractor, Features
from captioner.generation import Generator
from captioner.vocabulary import Vocabulary

FORMAT = 1
DESCRIPTION, VOCABULARY, DECODER = "model.json", "vocabulary.json", "decoder.keras"


@dataclass(frozen=True)
class Caption:
    """What a model says of a picture.

    Attributes:
        words: the caption's words.
        log_probability: of the words and the end, in nats.
        attention: the weights at each word, `[words, P]`.
    """

    words: list[str]
    log_probability: float
    attention: np.ndarray

    @property
    def text(self) -> str:
        """The words, joined by spaces."""
        return " ".join(self.words)


@dataclass
class Captioner:
    """An encoder, a decoder and the words it knows.

    Attributes:
        decoder: the trained decoder.
        vocabulary: its words.
        encoder: name, `weights` and `weights_sha256` of the encoder whose features it was trained on.
        maximum_words: the longest caption it was trained on.
        params: the experiment's parameters, by dotted name, for the record.
    """

    decoder: Decoder
    vocabulary: Vocabulary
    encoder: dict[str, str]
    maximum_words: int
    params: dict[str, Any]

    def save(self, directory: Path) -> None:
        """Write the model to a directory, whole or not at all."""
        with files.replacing(directory) as beside:
            beside.mkdir()
            self.vocabulary.save(beside / VOCABULARY)
            self.decoder.save(beside / DECODER)
            described = {
                "format": FORMAT,
                "encoder": self.encoder,
                "maximum_words": self.maximum_words,
                "vocabulary_sha256": files.sha256(beside / VOCABULARY),
                "weights_sha256": self.weights_sha256,
                "params": self.params,
            }
            (beside / DESCRIPTION).write_text(json.dumps(described, indent=2) + "\n", "utf-8")

    @classmethod
    def load(cls, directory: Path) -> "Captioner":
        """Read a model.

        Raises:
            CaptionerError: a file is missing or damaged, it is of another version, or its parts do not fit together.
        """
        try:
            described = json.loads((directory / DESCRIPTION).read_text("utf-8"))
            if described["format"] != FORMAT:
                raise CaptionerError(
                    f"The model in {directory} has the format {described['format']}, this version reads {FORMAT}: "
                    "train it again with `dvc repro`."
                )
            vocabulary = Vocabulary.load(directory / VOCABULARY)
            decoder = keras.saving.load_model(directory / DECODER, compile=False)
            model = cls(decoder, vocabulary, described["encoder"], described["maximum_words"], described["params"])
            expected = {VOCABULARY: described["vocabulary_sha256"], DECODER: described["weights_sha256"]}
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            reason = " ".join(str(error).split())[:200]
            raise CaptionerError(
                f"{directory} holds no whole model ({type(error).__name__}: {reason}): make one with `dvc repro`."
            ) from None
        found = {VOCABULARY: files.sha256(directory / VOCABULARY), DECODER: model.weights_sha256}
        for file, identity in expected.items():
            if found[file] != identity:
                raise CaptionerError(
                    f"{directory / file} is of another model than {DESCRIPTION} beside it ({found[file][:8]}, not "
                    f"{identity[:8]}): make one with `dvc repro`."
                )
        return model

    @property
    def weights_sha256(self) -> str:
        """Hash of the decoder's weights: equal models have equal hashes, whatever their files' bytes."""
        return encoders.weights_hash(self.decoder)

    def check_features(self, features: Features) -> None:
        """Make sure that features come from this model's encoder.

        Raises:
            CaptionerError: they do not.
        """
        if features.weights_sha256 != self.encoder["weights_sha256"]:
            raise CaptionerError(
                f"The model was trained on features of {self.encoder['name']} ({self.encoder['weights_sha256'][:8]}), "
                f"these are of {features.encoder} ({features.weights_sha256[:8]}): run `dvc repro`."
            )

    def generator(self, beam: int = 3, length_normalization: float = 1.0, batch_size: int = 64) -> Generator:
        """Return what generates captions from features with this model's weights."""
        return Generator(self.decoder, beam, self.maximum_words, length_normalization, batch_size)

    def captions(self, generator: Generator, features: np.ndarray, rows: np.ndarray | None = None) -> list[Caption]:
        """Caption the rows (all, if not given) of a map `[pictures, P, C]`."""
        found = generator.generate(features, rows)
        words = [self.vocabulary.decode_words(numbers) for numbers in found.words]
        return [
            Caption(said, float(log_probability), weights[: len(said)])
            for said, log_probability, weights in zip(words, found.log_probability, found.weights, strict=True)
        ]

    def caption(self, pictures: Sequence[bytes], beam: int = 3) -> list[Caption]:
        """Caption encoded pictures (JPEG, PNG, ...).

        Raises:
            CaptionerError: one cannot be decoded, or the encoder's weights cannot be had.
        """
        if not pictures:
            return []
        decoded = np.stack([images.decode(picture, encoders.IMAGE_SIZE) for picture in pictures])
        return self.captions(self.generator(beam, batch_size=min(len(pictures), 64)), self._extractor(decoded))

    @cached_property
    def _extractor(self) -> Extractor:
        extractor = Extractor(self.encoder["name"], self.encoder["weights"])
        if extractor.weights_sha256 != self.encoder["weights_sha256"]:
            raise CaptionerError(
                f"The weights {self.encoder['weights']!r} of {self.encoder['name']} are not those the model was "
                f"trained with ({extractor.weights_sha256[:8]}, not {self.encoder['weights_sha256'][:8]})."
            )
        return extractor
