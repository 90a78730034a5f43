"""The experiment, as typed and validated objects. `params.yaml` says what each value is for."""

import difflib
import re
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, Field, ValidationError, ValidationInfo, field_validator, model_validator
from ruamel.yaml import YAML, YAMLError

from captioner.common.errors import CaptionerError, quoted, reason
from captioner.common.files import read_text
from captioner.common.sections import PathText, Section, one_of, within
from captioner.data import IMAGE_SIZE, Crop
from captioner.datasets import DATASETS
from captioner.encoders.registry import (
    ENCODER_TRAININGS,
    ENCODERS,
    FINE_TUNED,
    FROZEN,
    PREPROCESSINGS,
    RANDOM,
    choices,
    is_path,
    runs_only,
)
from captioner.model.attention import ATTENTIONS, SEVERAL_HEADS
from captioner.model.hyperparameters import ModelParams
from captioner.scoring import METRICS
from captioner.text import FEWEST_SUBWORDS

# Bounds are where what a value feeds stops working, or stops making sense: docs/parameters.md#bounds says why.
SEEDS = 2**32
Seed = Annotated[int, Field(ge=0, lt=SEEDS)]
Drawn = Annotated[int, Field(ge=1, le=100_000)]
Passes = Annotated[int, Field(ge=1, le=100_000)]
Pictures = Annotated[int, Field(ge=1, le=4096)]
LearningRate = Annotated[float, Field(gt=0), within(1e-10, 1000)]
Share = Annotated[float, Field(ge=0, lt=1), within(0, 0.99)]

WORDS_A_BATCH = 2**20
ROWS_OF_A_SEARCH = 2**16

LARGEST = 1 << 20  # bytes of the file
ALIASES = 50
PROBLEMS = 10  # said at once

UNREAD: dict[str, set[str]] = {
    FINE_TUNED: {"random_epochs"},
    RANDOM: {"layers", "epochs", "learning_rate", "encoder_learning_rate"},
}
"""By `encoder_training`, the values of `fine_tune` that have no say."""

AUGMENTATIONS = ("crop", "flip", "colour")

RENAMED = {
    "captions_a_picture": "captions_per_picture",
    "fewest_objects": "min_objects",
    "most_objects": "max_objects",
    "photographs": "flickr8k, or folder",
}
"""Former keys, and their names now."""


class Scenes(Section):
    """How many scenes are drawn, and what is in them."""

    seed: Seed
    train: Drawn
    validation: Drawn
    test: Drawn
    min_objects: Annotated[int, Field(ge=2)]
    max_objects: Annotated[int, Field(ge=2, le=6)]
    captions: Annotated[int, Field(ge=1, le=16)]
    image_size: Annotated[int, Field(ge=64, le=1024)] = IMAGE_SIZE

    @field_validator("max_objects")
    @classmethod
    def _at_least_the_minimum(cls, most: int, info: ValidationInfo) -> int:
        fewest = info.data.get("min_objects", most)
        if most < fewest:
            raise ValueError(f"allowed are numbers from min_objects ({fewest}) on")
        return most


class Folder(Section):
    """Where one's own pictures lie."""

    path: PathText
    captions: PathText


class Shards(Section):
    """Where shards lie, and which of their pictures are for validation and test."""

    path: PathText
    validation: Annotated[float, Field(gt=0), within(1e-6, 0.9)] = 0.1
    test: Annotated[float, Field(gt=0), within(1e-6, 0.9)] = 0.1
    split: Literal["pictures", "shards"] = "pictures"
    stream: bool = False

    @model_validator(mode="after")
    def _some_to_train_on(self) -> "Shards":
        if self.validation + self.test >= 1:
            raise ValueError(
                f"validation and test are {self.validation:g} and {self.test:g} of the pictures, which leaves none to "
                "train on: lower one of them"
            )
        return self


class Download(Section):
    """Stage `download`."""

    skip_unreadable: bool = False
    scenes: Scenes
    folder: Folder
    shards: Shards = Shards(path="shards")


class VocabularyParams(Section):
    """Stage `vocabulary`."""

    minimum_count: Annotated[int, Field(ge=1, le=1_000_000)]
    tokens: Literal["words", "bpe"] = "words"
    bpe_size: Annotated[int, Field(ge=FEWEST_SUBWORDS, le=65_000)] = 1000


def _encoder(name: str) -> str:
    if name not in ENCODERS and not is_path(name):
        raise ValueError(choices(name))
    return name


def _image_size(value: Any) -> Any:
    if value != "auto" and not (type(value) is int and 32 <= value <= 1024):
        raise ValueError("allowed are auto, and whole numbers from 32 to 1024")
    return value


class FeaturesParams(Section):
    """Stage `features`."""

    encoder: Annotated[PathText, AfterValidator(_encoder)]
    weights: PathText
    image_size: Annotated[Any, AfterValidator(_image_size)] = "auto"
    crop: Crop = "stretch"
    preprocessing: Annotated[str, one_of(("auto", *PREPROCESSINGS))] = "auto"
    views: Annotated[int, Field(ge=1, le=16)] = 1
    batch_size: Annotated[int, Field(ge=1, le=1024)]

    @model_validator(mode="after")
    def _what_fits_the_encoder(self) -> "FeaturesParams":
        own = is_path(self.encoder)
        if own and self.weights != "imagenet":
            raise ValueError(f"encoder {quoted(self.encoder)} has its weights in it: leave weights at imagenet")
        if not own and self.preprocessing != "auto":
            raise ValueError(
                f"encoder {self.encoder} has its preprocessing: leave preprocessing at auto, received "
                f"{self.preprocessing}"
            )
        return self


class Recipe(Section):
    """How a decoder is trained on one data set."""

    epochs: Passes
    blind_epochs: Passes
    patience: Passes
    minimum_steps: Annotated[int, Field(ge=1, le=10_000)] = 1
    batch_size: Pictures
    captions_per_picture: Annotated[int, Field(ge=1, le=1000)]
    maximum_words: Annotated[int, Field(ge=1, le=1000)]
    learning_rate: LearningRate
    blind_learning_rate: LearningRate = 0.001
    schedule: Literal["cosine", "constant"]
    gradient_norm: Annotated[float, Field(gt=0), within(1e-6, 1e30)]
    label_smoothing: Share
    attention_penalty: Annotated[float, Field(ge=0, le=1000)] = 0.0
    feature_dropout: Share
    word_dropout: Share
    output_dropout: Share
    workers: Annotated[int, Field(ge=1, le=1024)] = 1

    @model_validator(mode="after")
    def _a_picture_for_each_worker(self) -> "Recipe":
        if self.workers > self.batch_size:
            raise ValueError(
                f"workers is {self.workers:,} and batch_size {self.batch_size:,}, of which each of them needs a "
                "picture: lower workers, or raise batch_size"
            )
        return self

    @model_validator(mode="after")
    def _batches_that_memory_holds(self) -> "Recipe":
        words = self.batch_size * self.captions_per_picture * (self.maximum_words + 1)
        if words > WORDS_A_BATCH:
            raise ValueError(
                f"batch_size × captions_per_picture × (maximum_words + 1) is {words:,} words a batch, allowed are "
                f"{WORDS_A_BATCH:,}: lower one of them"
            )
        return self


class Train(Section):
    """Stages `train` and `blind`: a recipe for each data set."""

    scenes: Recipe
    flickr8k: Recipe
    folder: Recipe
    shards: Recipe | None = None  # as in files of before there were shards


class FineTuning(Section):
    """How an encoder learns on one data set; what is not here is as in the recipe."""

    layers: Literal["last_blocks", "all"]
    epochs: Passes
    random_epochs: Passes
    learning_rate: LearningRate
    encoder_learning_rate: LearningRate
    augmentation: list[str]

    @field_validator("augmentation")
    @classmethod
    def _some_of_the_kinds(cls, names: list[str]) -> list[str]:
        if not set(names).issubset(AUGMENTATIONS) or len(set(names)) < len(names):
            raise ValueError(f"allowed are any of {', '.join(AUGMENTATIONS)}, each once, and [] for none")
        return [name for name in AUGMENTATIONS if name in names]  # as for the metrics


class FineTune(Section):
    """Stage `fine_tune`: a recipe for each data set."""

    scenes: FineTuning
    flickr8k: FineTuning
    folder: FineTuning
    shards: FineTuning | None = None


class Evaluate(Section):
    """Stage `evaluate`."""

    beam: Annotated[int, Field(ge=1, le=50)]
    length_normalization: Annotated[float, Field(ge=0, le=10)]
    batch_size: Pictures
    samples: Annotated[int, Field(ge=0, le=100)] = 5
    attention_pictures: Annotated[int, Field(ge=0, le=10_000)]
    metrics: list[str]

    @model_validator(mode="after")
    def _searches_that_memory_holds(self) -> "Evaluate":
        for name in ("beam", "samples"):
            rows = getattr(self, name) * self.batch_size
            if rows > ROWS_OF_A_SEARCH:
                raise ValueError(
                    f"{name} × batch_size is {rows:,} captions searched at a time, allowed are {ROWS_OF_A_SEARCH:,}: "
                    "lower one of them"
                )
        return self

    @field_validator("samples")
    @classmethod
    def _none_or_several(cls, samples: int) -> int:
        if samples == 1:
            raise ValueError("allowed are 0, for none, and 2 to 100: one caption cannot differ from others")
        return samples

    @field_validator("metrics")
    @classmethod
    def _some_of_the_metrics(cls, names: list[str]) -> list[str]:
        if not names or not set(names).issubset(METRICS) or len(set(names)) < len(names):
            raise ValueError(f"allowed are one or more of {', '.join(METRICS)}, each once")
        return [name for name in METRICS if name in names]  # the order says nothing: equal choices are equal


class Params(Section):
    """The whole of an experiment."""

    dataset: Annotated[str, one_of(DATASETS)]
    attention: Annotated[str, one_of(ATTENTIONS)]
    encoder_training: Annotated[str, one_of(ENCODER_TRAININGS)] = FROZEN
    seed: Seed
    download: Download
    vocabulary: VocabularyParams
    features: FeaturesParams
    model: ModelParams
    train: Train
    fine_tune: FineTune
    evaluate: Evaluate

    @model_validator(mode="after")
    def _recipes_for_the_data(self) -> "Params":
        for name, section in {"train": self.train, "fine_tune": self.fine_tune}.items():
            if getattr(section, self.dataset) is None:
                raise ValueError(f"{name}.{self.dataset} is missing: give it the keys that {name}.folder has")
        return self

    @model_validator(mode="after")
    def _encoder_that_can_learn(self) -> "Params":
        if self.encoder_training != FROZEN and runs_only(self.features.encoder):
            raise ValueError(
                f"encoder_training is {self.encoder_training}, and features.encoder {quoted(self.features.encoder)} is "
                "a network that only runs: set encoder_training to frozen, or give the network in Keras's format"
            )
        return self

    @model_validator(mode="after")
    def _penalty_that_can_change_something(self) -> "Params":
        if self.recipe.attention_penalty and self.attention == "uniform":
            raise ValueError(
                f"{section_of(self.dataset)}.attention_penalty is {self.recipe.attention_penalty:g}, and uniform "
                "attention has nothing to learn from it: set it to 0, or choose another attention"
            )
        return self

    @model_validator(mode="after")
    def _heads_that_the_attention_has(self) -> "Params":
        if self.model.heads > 1 and self.attention not in SEVERAL_HEADS:
            raise ValueError(
                f"model.heads is {self.model.heads}, and attention {self.attention} has one head: set model.heads to "
                f"1, or attention to {' or '.join(SEVERAL_HEADS)}"
            )
        return self

    @model_validator(mode="after")
    def _vectors_of_tokens_that_are_words(self) -> "Params":
        if self.model.word_vectors != "none" and self.vocabulary.tokens == "bpe":
            raise ValueError(
                "model.word_vectors is a file with vectors of words, and vocabulary.tokens is bpe, pieces of words: "
                "set model.word_vectors to none, or vocabulary.tokens to words"
            )
        return self

    @model_validator(mode="after")
    def _pictures_that_are_at_hand(self) -> "Params":
        if self.streamed and (self.encoder_training != FROZEN or self.features.views > 1):
            raise ValueError(
                f"download.shards.stream is true, encoder_training is {self.encoder_training} and features.views is "
                f"{self.features.views}: training pictures that stay in their shards are seen once, so set stream to "
                "false, or encoder_training to frozen and features.views to 1"
            )
        return self

    @property
    def streamed(self) -> bool:
        """Whether the training pictures stay in their shards."""
        return self.dataset == "shards" and self.download.shards.stream

    @property
    def recipe(self) -> Recipe:
        """The recipe for the data set."""
        return getattr(self.train, self.dataset)

    @property
    def fine_tuning(self) -> FineTuning:
        """How the encoder learns on the data set."""
        return getattr(self.fine_tune, self.dataset)

    def frozen(self) -> "Params":
        """Return the experiment as it is before the encoder learns."""
        return self.model_copy(update={"encoder_training": FROZEN})

    def flat(self) -> dict[str, Any]:
        """Return every value that has a say in this experiment, by its dotted name; a list as its items in one line."""
        values = self.model_dump()
        values["train"] = values["train"][self.dataset]
        download = values["download"]
        values["download"] = download.get(self.dataset, {})
        if self.dataset != "scenes":  # which are drawn, so that all can be read
            values["download"]["skip_unreadable"] = download["skip_unreadable"]
        fine_tuning, unread = values.pop("fine_tune")[self.dataset], UNREAD.get(self.encoder_training)
        if unread is not None:
            values["fine_tune"] = {name: value for name, value in fine_tuning.items() if name not in unread}
        return flattened(values)


def section_of(dataset: str) -> str:
    """Return the dotted name of the section that holds the recipe for a data set."""
    return f"train.{dataset}"


def load(path: Path, **changes: Any) -> Params:
    """Read and validate an experiment's YAML file.

    Args:
        path: the file.
        changes: values that take the place of those at its top level.

    Raises:
        CaptionerError: no file, no YAML, an unknown key or value; in one line that lists what is allowed.
    """
    try:
        text = read_text(path, LARGEST)
    except FileNotFoundError:
        raise CaptionerError(f"No file {path}: run in the checkout that has params.yaml.") from None
    except CaptionerError as error:
        raise CaptionerError(f"{path.name} is not YAML: {error}.") from None
    values = parse(text, str(path))
    if isinstance(values, dict):
        values |= changes
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        problems = error.errors()
        if any(str(name) in RENAMED for details in problems for name in details["loc"]):
            problems = [details for details in problems if details["type"] != "missing"]  # they are there by old names
        said = "; ".join(_problem(details) for details in problems[:PROBLEMS])
        more = f"; and {len(problems) - PROBLEMS:,} more" if len(problems) > PROBLEMS else ""
        raise CaptionerError(f"{path.name}: {said}{more}.") from None


def parse(text: str, name: str) -> Any:
    """Return the values of a YAML text as DVC reads them, by YAML 1.2: `5e-05` is a number, `yes` and `1:30` are text.

    Args:
        text: it.
        name: what messages call it.

    Raises:
        CaptionerError: it is no YAML, has a key twice, a tag, or more than can be read.
    """
    if len(re.findall(r"(?:^|[\s,:\[{])\*\w", text)) > ALIASES:
        raise CaptionerError(f"{name} has more than {ALIASES} aliases (`*name`): write the values themselves.")
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        line = mark.line if mark else text.count("\n", 0, getattr(error, "position", 0))
        raise CaptionerError(f"{name} is not YAML: line {line + 1}: {reason(problem or error)}.") from None
    except RecursionError:
        raise CaptionerError(f"{name} is not YAML that can be read: brackets within brackets without end.") from None
    # what the library raises for values such as 2024-13-45 or 5,000 digits is whatever it tripped over
    except Exception as error:
        raise CaptionerError(f"{name} has a value that cannot be read: {reason(error)}.") from None


def _problem(details: Any) -> str:
    key, received = quoted(".".join(map(str, details["loc"]))).strip("'\""), details["input"]
    if details["type"] == "extra_forbidden":
        if renamed := RENAMED.get(str(details["loc"][-1])):
            return f"the key {key} is called {renamed} now: docs/upgrading.md"
        allowed = _section(details["loc"][:-1]).model_fields
        near = difflib.get_close_matches(str(details["loc"][-1])[:100], allowed, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"unknown key {key}, allowed are {', '.join(allowed)}{hint}"
    if details["type"] == "missing":
        return f"{key} is missing"
    message = details["msg"].removeprefix("Value error, ")
    message = f"{message[0].lower()}{message[1:]}"
    if details["type"] == "value_error" and isinstance(received, dict):
        return f"{key}: {message}" if key else message
    if details["type"] == "string_type" and isinstance(received, (bool, int, float, date)):
        message += (
            "; text that looks like a number, a date or true stands between quotes: '2024', "
            f"""or with -S: '{key}="2024"'"""
        )
    return f"{key or 'the file'} is {quoted(received)}: {message}"


def _section(location: tuple) -> type[BaseModel]:
    section: type[BaseModel] = Params
    for name in location:
        annotation = section.model_fields[name].annotation
        section = next(kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type))
    return section


def flattened(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return values of sections within sections by dotted name; a list as its items in one line."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = ", ".join(value) or "none" if isinstance(value, list) else value
    return flat
