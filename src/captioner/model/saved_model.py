"""A trained model as one directory, which needs nothing beside it.

`model.json` (format, encoder with the hash of its weights, longest caption, hashes of the vocabulary's file and of the
decoder's weights, the experiment's parameters), `vocabulary.json` and `decoder.keras`; with an encoder that has learned
or is one's own also that, as `encoder` with its ending.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from captioner.common import files, weights
from captioner.common.errors import CaptionerError
from captioner.common.keras import keras
from captioner.features.store import Features, kept_name
from captioner.model.decoder import Decoder
from captioner.model.description import (
    DECODER,
    DESCRIPTION,
    FORMAT,
    VOCABULARY,
    Description,
    image_size_and_crop,
    no_model,
    other_keras,
)
from captioner.text.vocabulary import Vocabulary


@dataclass
class SavedModel:
    """A decoder, the words it knows, and the encoder that it needs.

    Attributes:
        decoder: the trained decoder.
        vocabulary: its words.
        encoder: what made the features that it was trained on, see `Features.made_by`.
        maximum_words: the longest caption it was trained on.
        params: the experiment's parameters, by dotted name, for the record.
        word_vectors: see `Description`.
        network: file or folder of an encoder that has learned or is one's own, which is saved with the model.
    """

    decoder: Decoder
    vocabulary: Vocabulary
    encoder: dict[str, Any]
    maximum_words: int
    params: dict[str, Any]
    word_vectors: dict[str, Any] | None = None
    network: Path | None = None

    def save(self, directory: Path) -> None:
        """Write the model to a directory, whole or not at all."""
        with files.replacing(directory) as beside:
            beside.mkdir()
            self.vocabulary.save(beside / VOCABULARY)
            self.decoder.save(beside / DECODER)
            encoder = self.encoder
            if self.network:
                encoder = encoder | {"file": kept_name(self.network)}
                files.copy(self.network, beside / encoder["file"])
            described = {
                "format": FORMAT,
                "encoder": encoder,
                "maximum_words": self.maximum_words,
                "vocabulary_sha256": files.sha256(beside / VOCABULARY),
                "weights_sha256": self.weights_sha256,
                "params": self.params,
            } | ({} if self.word_vectors is None else {"word_vectors": self.word_vectors})
            (beside / DESCRIPTION).write_text(files.json_of(described, indent=2) + "\n", "utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a model from its directory.

        Raises:
            CaptionerError: a file is missing or damaged, it is of another version, its parts do not fit together, or
                its weights are not finite.
        """
        directory = Path(path)
        described = Description.read(directory)
        try:
            vocabulary = Vocabulary.load(directory / VOCABULARY)
            decoder = keras.saving.load_model(directory / DECODER, compile=False)
            model = cls(
                decoder,
                vocabulary,
                dict(described.encoder),
                described.maximum_words,
                described.params,
                dict(described.word_vectors) if described.word_vectors else None,
                network=described.network(directory),
            )
            expected = {VOCABULARY: described.vocabulary_sha256, DECODER: described.weights_sha256}
        except (CaptionerError, MemoryError):
            raise
        except Exception as error:  # whatever Keras, HDF5 and zipfile trip over in damaged bytes
            raise no_model(directory, error) from None
        found = {VOCABULARY: files.sha256(directory / VOCABULARY), DECODER: model.weights_sha256}
        for file, identity in expected.items():
            if found[file] != identity:
                raise CaptionerError(
                    f"{directory / file} is of another model than {DESCRIPTION} beside it ({found[file][:8]}, not "
                    f"{identity[:8]}{other_keras(directory, '; ')}): make one with `dvc repro`."
                )
        if weight := weights.not_finite(decoder):
            raise CaptionerError(
                f"{directory / DECODER} has weights that are not finite ({weight}) and says nothing: train again with "
                "a lower learning_rate."
            )
        return model

    @property
    def weights_sha256(self) -> str:
        """Hash of the decoder's weights: equal models have equal hashes, whatever their files' bytes."""
        return weights.weights_hash(self.decoder)

    @property
    def encoder_options(self) -> dict[str, Any]:
        """What `captioner.encoders.networks.build` and `captioner.features.extract.Extractor` make the encoder from.

        Raises:
            CaptionerError: it lay in the model's directory, and does so no more.
        """
        if self.network and not self.network.exists():
            raise CaptionerError(f"The model lacks its encoder, {self.network}: copy the whole directory again.")
        return {
            "encoder": str(self.network.absolute()) if self.network else self.encoder["name"],
            "weights": "imagenet" if self.network else self.encoder["weights"],
            "image_size": image_size_and_crop(self.encoder)[0],
            "preprocessing": self.encoder.get("preprocessing", "auto"),
        }

    def check_encoder(self, weights_sha256: str) -> None:
        """Make sure that an encoder has the weights that this model was trained with.

        Raises:
            CaptionerError: it has others.
        """
        name, weights, expected = (self.encoder[key] for key in ("name", "weights", "weights_sha256"))
        if weights_sha256 != expected:
            what = f"network {self.network.absolute()} is" if self.network else f"weights {weights!r} of {name} are"
            raise CaptionerError(
                f"The {what} not what the model was trained with ({weights_sha256[:8]}, not {expected[:8]}): put that "
                "there."
            )

    def check_features(self, features: Features) -> None:
        """Make sure that features come from this model's encoder.

        Raises:
            CaptionerError: they do not.
        """
        own, given = (_told_apart(each) for each in (self.encoder, features.made_by))
        if own != given:
            raise CaptionerError(f"The model was trained on features of {own}, these are of {given}: run `dvc repro`.")


def _told_apart(encoder: dict[str, Any]) -> str:
    size, crop = image_size_and_crop(encoder)
    own = f", preprocessing {encoder['preprocessing']}" if encoder.get("preprocessing", "auto") != "auto" else ""
    return f"{encoder['name']} ({encoder['weights_sha256'][:8]}, pictures of {size} pixels, crop {crop}{own})"
