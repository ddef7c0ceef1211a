"""Choices of a query that are worth a name of their own: the model, images of a request."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from perfmodel.recipe import Recipe
from perfmodel.vision_shapes import MOST_PIXELS


class Strict(BaseModel):
    """Part of a query: no unknown fields, and not to be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SyntheticModel(Strict):
    """A model that does not exist yet."""

    recipe: Recipe


def _model_kind(value: Any) -> str:
    return "recipe" if isinstance(value, dict | SyntheticModel) else "str"


ModelChoice = Annotated[
    Annotated[str, Tag("str")] | Annotated[SyntheticModel, Tag("recipe")],
    Discriminator(_model_kind),
]


class ImagesChoice(Strict):
    """Images of a request; either their width and height, or their tokens."""

    per_request: float = Field(
        gt=0, le=10_000, allow_inf_nan=False, description="Images per request, a mean."
    )
    width: int | None = Field(
        default=None, ge=1, le=MOST_PIXELS, description="Pixels; the model's family resizes them."
    )
    height: int | None = Field(default=None, ge=1, le=MOST_PIXELS, description="Pixels.")
    tokens: int | None = Field(
        default=None,
        ge=1,
        le=10_000_000,
        description="Tokens that the language model reads of one image, in place of its size.",
    )

    @field_validator("per_request", "width", "height", "tokens", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError(f"expected a number, got {value!r}")
        return value

    @model_validator(mode="after")
    def _one_of_them(self) -> ImagesChoice:
        sized = (self.width is not None, self.height is not None)
        if sized not in ((True, True), (False, False)) or sized[0] == (self.tokens is not None):
            raise ValueError("expected width and height, or tokens")
        return self
