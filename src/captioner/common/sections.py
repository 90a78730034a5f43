"""What the sections of `params.yaml` are made of: their base class, and bounds of values."""

import unicodedata
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A section of `params.yaml`: no unknown key, no value that has to be converted, no change afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def one_of(names: Any) -> AfterValidator:
    """Return what allows only some names."""

    def check(name: str) -> str:
        if name not in names:
            raise ValueError(f"allowed are {', '.join(names)}")
        return name

    return AfterValidator(check)


def within(low: float, high: float) -> AfterValidator:
    """Return what allows only numbers from `low` to `high`."""

    def check(value: float) -> float:
        if not low <= value <= high:
            raise ValueError(f"allowed are numbers from {low:g} to {high:g}")
        return value

    return AfterValidator(check)


def _path(text: str) -> str:
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise ValueError("allowed is text without line breaks and control characters")
    return text


PathText = Annotated[str, Field(min_length=1, max_length=4000), AfterValidator(_path)]
Size = Annotated[int, Field(ge=1, le=4096)]
