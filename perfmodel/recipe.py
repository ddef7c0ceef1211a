"""Recipes: a model that does not exist yet, by its size and a few choices.

A recipe states a number of parameters; `from_recipe` solves for a decoder that has it within
1 %, near the proportions of published models, with widths that tile and heads that divide.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from perfmodel.precision import FORMATS
from perfmodel.units import parse_quantity

MOST_EXPERTS = 4096
MOST_LAYERS = 1024
LARGEST_HIDDEN = 2**17
LEAST_PARAMETERS, MOST_PARAMETERS = 1e8, 1e15


def _read_parameters(value: Any) -> Any:
    if value is None:
        return None
    count = parse_quantity(value, "parameters")
    if not LEAST_PARAMETERS <= count <= MOST_PARAMETERS:
        raise ValueError(f"expected from 100M to 1000T parameters, got {value!r}")
    return count


def _read_whole(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | None):
        raise ValueError(f"expected a whole number, got {value!r}")
    return value


def _read_number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        raise ValueError(f"expected a number, got {value!r}")
    return value


def _read_format(value: Any) -> Any:
    if value not in FORMATS:
        raise ValueError(f"unknown format {value!r}; expected one of {', '.join(FORMATS)}")
    return value


Parameters = Annotated[
    float,
    BeforeValidator(_read_parameters),
    Field(json_schema_extra={"anyOf": [{"type": "number"}, {"type": "string"}]}),
]
Whole = Annotated[int, BeforeValidator(_read_whole)]
Ratio = Annotated[float, BeforeValidator(_read_number), Field(gt=0, allow_inf_nan=False)]


class Recipe(BaseModel):
    """A synthetic architecture: what is not given is solved for, or has the default stated."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(
        default="", max_length=100, description="What reports call it; by its size if not given."
    )
    parameters: Parameters = Field(description="All weights, such as 405B or 1.8T; met within 1 %.")
    active_parameters: Parameters | None = Field(
        default=None,
        description="Weights that one token is multiplied with, embedding apart; met within 1 % "
        "by the experts' width. Follows from the other fields if not given.",
    )
    experts: Whole = Field(
        default=0, ge=0, le=MOST_EXPERTS, description="Routed experts per layer; 0: dense."
    )
    top_k: Whole | None = Field(
        default=None,
        ge=1,
        le=MOST_EXPERTS,
        description="Routed experts that a token visits; 2 if there are experts.",
    )
    shared_experts: Whole = Field(
        default=0, ge=0, le=64, description="Experts of the same width that every token visits."
    )
    dense_layers: Whole = Field(
        default=0,
        ge=0,
        lt=MOST_LAYERS,
        description="First layers that have a dense network in place of experts, as wide as the "
        "experts that a token visits together (as in DeepSeek-V3).",
    )
    layers: Whole | None = Field(
        default=None, ge=1, le=MOST_LAYERS, description="Layers; by `aspect` if not given."
    )
    hidden_size: Whole | None = Field(
        default=None,
        ge=128,
        le=LARGEST_HIDDEN,
        description="Width of the residual stream; by `parameters` and `aspect` if not given.",
    )
    aspect: Ratio = Field(
        default=128.0,
        description="Hidden size per layer aimed at: 128 in GPT-3 175B (arXiv:2005.14165, table "
        "2.1), 102 to 130 in Llama 3 (arXiv:2407.21783, table 3).",
    )
    ffn_ratio: Ratio = Field(
        default=3.5,
        description="Width of a dense network per hidden size aimed at: 3.5 in Llama 3 8B and "
        "70B (arXiv:2407.21783, table 3), gated.",
    )
    expert_ratio: Ratio | None = Field(
        default=None,
        description="The same of one expert: if not given, `ffn_ratio` up to 16 experts (Mixtral "
        "8x7B), else 3 / (top_k + shared_experts) (Qwen3-235B; DeepSeek-V3 has 2.6).",
    )
    attention: Literal["gqa", "mla"] = Field(
        default="gqa",
        description="`gqa`: grouped queries; `mla`: latent, with the latents of DeepSeek-V3 "
        "(arXiv:2412.19437, section 4.2).",
    )
    head_dim: Whole = Field(
        default=128, ge=32, le=512, multiple_of=16, description="Width of a head."
    )
    heads: Whole | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Query heads; hidden size / head_dim, to the nearest 8 (16 from 48 on), if "
        "not given.",
    )
    kv_heads: Whole = Field(
        default=8, ge=1, le=1024, description="Key/value heads of grouped queries."
    )
    vocabulary: Whole = Field(
        default=128_256, ge=256, le=2**24, description="Rows of the embedding (Llama 3's)."
    )
    tied_embeddings: bool = Field(
        default=False, description="The LM head reuses the embedding table."
    )
    max_context_tokens: Whole = Field(
        default=131_072, ge=1, le=2**31 - 1, description="Longest sequence."
    )
    precision: Annotated[str, BeforeValidator(_read_format)] = Field(
        default="bf16",
        description="The checkpoint's weight format, of: " + ", ".join(FORMATS) + ".",
    )


def read_recipe(path: Path) -> Recipe:
    """Read and validate a recipe file.

    Raises:
        ConfigError: file, line, field and what was expected, one line per mistake.
    """
    from perfmodel.documents import Document, read_yaml, validate

    document = read_yaml(path)
    if isinstance(document.data, dict) and set(document.data) == {"recipe"}:
        # As a query holds it.
        inside = {at[1:]: line for at, line in document.lines.items() if at[:1] == ("recipe",)}
        document = Document(path, document.data["recipe"], inside)
    return validate(document, Recipe)
