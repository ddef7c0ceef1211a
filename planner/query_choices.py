"""Choices of a query that are worth a name of their own: the model, images, load of experts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
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


class RoutingChoice(Strict):
    """A stated distribution of tokens over experts, and their placement."""

    distribution: Literal["uniform", "power_law", "histogram"] = Field(
        description="`uniform`; `power_law`: the i-th most popular expert has a share in "
        "proportion to 1 / i ** exponent; `histogram`: counts of a file."
    )
    exponent: float | None = Field(
        default=None,
        ge=0,
        le=10,
        description="Of the power law; 0 is uniform. Not the exponent in a table's name, which is "
        "of the density of loads.",
    )
    file: str | None = Field(
        default=None,
        description="Tokens by expert of a histogram: CSV (a line per layer, or one for all) or "
        "JSON (a list, or a list of lists).",
    )
    placement: Literal["contiguous", "balanced"] = Field(
        default="contiguous",
        description="`contiguous`: neighbours share a device; `balanced`: the busiest first, each "
        "to the device with least to do (as by an expert-parallelism load balancer).",
    )
    redundant_experts: int = Field(
        default=0,
        ge=0,
        le=4096,
        description="Further copies of the busiest experts per layer, with balanced placement; "
        "they take memory.",
    )

    @field_validator("exponent", "redundant_experts", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError(f"expected a number, got {value!r}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> RoutingChoice:
        for field, owner in (("exponent", "power_law"), ("file", "histogram")):
            given, needed = getattr(self, field) is not None, self.distribution == owner
            if given != needed:
                what = "a value" if needed else "none"
                raise ValueError(f"{field}: expected {what} with distribution {self.distribution}")
        if self.redundant_experts and self.placement != "balanced":
            raise ValueError("redundant_experts: expected 0 unless placement is balanced")
        return self


MeasuredRouting = Literal[
    "balanced", "power_law_1.01", "power_law_1.2", "power_law_1.01_eplb", "power_law_1.2_eplb"
]


def _routing_kind(value: Any) -> str:
    return "dict" if isinstance(value, dict | RoutingChoice) else "literal"


Routing = Annotated[
    Annotated[MeasuredRouting, Tag("literal")] | Annotated[RoutingChoice, Tag("dict")],
    Discriminator(_routing_kind),
]


def resolve_path(value: str, info: ValidationInfo, suffixes: tuple[str, ...]) -> str:
    """Paths in a query file are relative to the file."""
    folder = (info.context or {}).get("folder")
    if folder is not None and (value.endswith(suffixes) or value.startswith((".", "/", "~"))):
        return str((Path(folder) / Path(value).expanduser()).resolve())
    return value
