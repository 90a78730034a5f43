"""The experiment, as typed and validated objects. `params.yaml` says what each value is for."""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from captioner.errors import CaptionerError
from captioner.names import ATTENTIONS, DATASETS, ENCODERS, METRICS


def _one_of(names: Any) -> AfterValidator:
    def check(name: str) -> str:
        if name not in names:
            raise ValueError(f"allowed are {', '.join(names)}")
        return name

    return AfterValidator(check)


Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Scenes(_Section):
    """How many scenes are drawn, and what is in them."""

    seed: Annotated[int, Field(ge=0)]
    train: Positive
    validation: Positive
    test: Positive
    fewest_objects: Annotated[int, Field(ge=2)]
    most_objects: Annotated[int, Field(ge=2, le=6)]
    captions: Annotated[int, Field(ge=1, le=16)]

    @field_validator("most_objects")
    @classmethod
    def _not_fewer_than_the_fewest(cls, most: int, info: ValidationInfo) -> int:
        fewest = info.data.get("fewest_objects", most)
        if most < fewest:
            raise ValueError(f"allowed are numbers from fewest_objects ({fewest}) on")
        return most


class Folder(_Section):
    """Where one's own pictures lie."""

    path: str
    captions: str


class Download(_Section):
    """Stage `download`."""

    scenes: Scenes
    folder: Folder


class VocabularyParams(_Section):
    """Stage `vocabulary`."""

    minimum_count: Positive


class FeaturesParams(_Section):
    """Stage `features`."""

    encoder: Annotated[str, _one_of(ENCODERS)]
    weights: str
    batch_size: Positive


class ModelParams(_Section):
    """Sizes of the decoder."""

    embedding_size: Positive
    state_size: Positive
    attention_size: Positive
    spatial_encoding: Literal["none", "learned"]


class Recipe(_Section):
    """How a decoder is trained on one kind of data."""

    epochs: Positive
    blind_epochs: Positive
    patience: Positive
    batch_size: Positive
    captions_a_picture: Positive
    maximum_words: Positive
    learning_rate: Annotated[float, Field(gt=0)]
    schedule: Literal["cosine", "constant"]
    gradient_norm: Annotated[float, Field(gt=0)]
    label_smoothing: Share
    feature_dropout: Share
    word_dropout: Share
    output_dropout: Share


class Train(_Section):
    """Stage `train`: a recipe for each kind of data."""

    scenes: Recipe
    photographs: Recipe


class Evaluate(_Section):
    """Stage `evaluate`."""

    beam: Annotated[int, Field(ge=1, le=50)]
    length_normalization: Annotated[float, Field(ge=0)]
    batch_size: Positive
    attention_pictures: Annotated[int, Field(ge=0)]
    metrics: list[str]

    @field_validator("metrics")
    @classmethod
    def _some_of_the_metrics(cls, names: list[str]) -> list[str]:
        if not names or not set(names).issubset(METRICS) or len(set(names)) < len(names):
            raise ValueError(f"allowed are one or more of {', '.join(METRICS)}, each once")
        return [name for name in METRICS if name in names]  # the order says nothing: equal choices are equal


class Params(_Section):
    """The whole of an experiment."""

    dataset: Annotated[str, _one_of(DATASETS)]
    attention: Annotated[str, _one_of(ATTENTIONS)]
    seed: Annotated[int, Field(ge=0)]
    download: Download
    vocabulary: VocabularyParams
    features: FeaturesParams
    model: ModelParams
    train: Train
    evaluate: Evaluate

    @property
    def recipe(self) -> Recipe:
        """The recipe for the data set's kind of data."""
        return self.train.scenes if self.dataset == "scenes" else self.train.photographs

    def flat(self) -> dict[str, Any]:
        """Return every value that has a say in this experiment, by its dotted name; a list as its items in one line."""
        values = self.model_dump()
        values["train"] = values["train"]["scenes" if self.dataset == "scenes" else "photographs"]
        values["download"] = values["download"].get(self.dataset, {})
        return _flat(values)


def load(path: Path) -> Params:
    """Read and validate an experiment's YAML file.

    Raises:
        CaptionerError: no file, no YAML, an unknown key or value; in one line that lists what is allowed.
    """
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise CaptionerError(f"No file {path}: run from the checkout, where params.yaml lies.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CaptionerError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_problem(details) for details in error.errors())
        raise CaptionerError(f"{path.name}: {problems}.") from None


def _problem(details: Any) -> str:
    key = ".".join(map(str, details["loc"]))
    if details["type"] == "extra_forbidden":
        allowed = _section(details["loc"][:-1]).model_fields
        near = difflib.get_close_matches(str(details["loc"][-1]), allowed, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"unknown key {key}, allowed are {', '.join(allowed)}{hint}"
    if details["type"] == "missing":
        return f"{key} is missing"
    message = details["msg"].removeprefix("Value error, ")
    return f"{key or 'the file'} is {details['input']!r}: {message[0].lower()}{message[1:]}"


def _section(location: tuple) -> type[BaseModel]:
    section: type[BaseModel] = Params
    for name in location:
        annotation = section.model_fields[name].annotation
        assert isinstance(annotation, type)
        section = annotation
    return section


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = ", ".join(value) if isinstance(value, list) else value
    return flat
