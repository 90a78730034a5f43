"""What a model's directory says of itself, read without loading the model."""

import json
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass
from typing_extensions import TypedDict  # pydantic cannot check that of Python 3.11

from captioner.common.errors import CaptionerError, problem
from captioner.common.files import file_inside
from captioner.data import IMAGE_SIZE, Crop

FORMAT = 1
DESCRIPTION, VOCABULARY, DECODER = "model.json", "vocabulary.json", "decoder.keras"

_LEARNED = {"fine_tuned": "fine-tuned with the decoder", "random": "trained with the decoder from random weights"}


class _Encoder(TypedDict):
    __pydantic_config__ = ConfigDict(extra="allow", strict=True)  # type: ignore[misc]

    name: str
    weights: str
    weights_sha256: str
    image_size: NotRequired[Annotated[int, Field(ge=1, le=10_000)]]
    crop: NotRequired[Crop]
    preprocessing: NotRequired[str]
    file: NotRequired[str]


class _WordVectors(TypedDict):
    file: str
    covered: float


@dataclass(frozen=True, config=ConfigDict(strict=True))
class Description:
    """What stands in `model.json`.

    Attributes:
        encoder: `name`, `weights` and `weights_sha256` of the encoder whose features the model was trained on, and
            the `image_size`, `crop` and `preprocessing` of its pictures. Of one that has learned, `weights` says how:
            `fine_tuned` or `random`. It and a network of one's own also have their `file`, beside.
        maximum_words: the longest caption it was trained on.
        vocabulary_sha256: hash of the vocabulary's file.
        weights_sha256: hash of the decoder's weights.
        params: the experiment's parameters, by dotted name, for the record.
        word_vectors: name of the file that the embeddings began with, and `covered`, percent of the words that it has;
            None where there was none.
    """

    encoder: _Encoder
    maximum_words: Annotated[int, Field(ge=1, le=1000)]
    vocabulary_sha256: str
    weights_sha256: str
    params: dict[str, Any]
    word_vectors: _WordVectors | None = None

    def network(self, directory: Path) -> Path | None:
        """Return where in the model's directory a network of one's own lies, if that is the encoder.

        Raises:
            ValueError: it would lie elsewhere.
        """
        file = self.encoder.get("file")
        if file is None:
            return None
        return file_inside(directory, file)

    @classmethod
    def read(cls, directory: Path) -> "Description":
        """Read a model's description.

        Raises:
            CaptionerError: there is no model, its description is damaged, or it is of another version.
        """
        if not directory.is_dir():
            raise CaptionerError(f"There is no model in {directory}: make one with `dvc repro`.")
        try:
            described = json.loads((directory / DESCRIPTION).read_text("utf-8"))
            if described["format"] != FORMAT:
                raise CaptionerError(
                    f"The model in {directory} has the format {described['format']}, this version reads {FORMAT}: "
                    "train it again with `dvc repro`."
                )
            return cls(**{name: each for name, each in described.items() if name in cls.__annotations__})
        except ValidationError as error:
            raise no_model(directory, ValueError(f"{DESCRIPTION}, {problem(error)}")) from None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise no_model(directory, error) from None


def image_size_and_crop(encoder: dict[str, Any]) -> tuple[int, Crop]:
    """Return in which form an encoder gets pictures; models of before there was a choice do not say it."""
    return encoder.get("image_size", IMAGE_SIZE), encoder.get("crop", "stretch")


def learned(encoder: dict[str, Any]) -> str:
    """Return how an encoder has learned, in words; nothing of a frozen one."""
    return _LEARNED.get(encoder["weights"], "")


def other_keras(directory: Path, before: str = "") -> str:
    """Return which Keras saved a model and which is here, with `before` before it, where they differ, else nothing."""
    try:
        with zipfile.ZipFile(directory / DECODER) as file:
            saved = str(json.loads(file.read("metadata.json"))["keras_version"])
        here = metadata.version("keras")
    except Exception:  # of whatever is damaged something else is told
        return ""
    return "" if saved == here else f"{before}saved by Keras {saved[:20]}, here is {here}"


def no_model(directory: Path, error: Exception) -> CaptionerError:
    """Return what to say where a model's directory lacks something."""
    reason = " ".join(str(error).split())[:200]
    return CaptionerError(
        f"{directory} has no complete model ({type(error).__name__}: {reason}{other_keras(directory, '; ')}): make one "
        "with `dvc repro`."
    )
