"""The decoder's hyper-parameters: the section `model` of `params.yaml`, which says what each value is for.

A new one is a field here, with the value that changes nothing as its default, and a line in `params.yaml`.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from captioner.common.sections import PathText, Section, Size


class ModelParams(Section):
    """Sizes and parts of the decoder; the attention itself is a key of its own."""

    embedding_size: Size
    state_size: Size
    attention_size: Size
    spatial_encoding: Literal["none", "learned", "sinusoidal"]
    heads: Annotated[int, Field(ge=1, le=64)] = 1
    tie_embeddings: bool = False
    word_vectors: PathText = "none"
    word_vectors_trainable: bool = True

    @model_validator(mode="after")
    def _values_that_fit_together(self) -> "ModelParams":
        for name in ("embedding_size", "attention_size"):
            if getattr(self, name) % self.heads:
                raise ValueError(
                    f"{self.heads} heads do not divide {name}, which is {getattr(self, name)}: each needs an equal part"
                )
        if self.spatial_encoding == "sinusoidal" and self.embedding_size % 4:
            raise ValueError(
                f"spatial_encoding sinusoidal needs an embedding_size that 4 divides, received {self.embedding_size}: "
                "sine and cosine of rows and columns each take a quarter"
            )
        if self.word_vectors == "none" and not self.word_vectors_trainable:
            raise ValueError("word_vectors_trainable is false and word_vectors none: set it to true, or give a file")
        return self
