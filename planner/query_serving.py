"""How a query lets models be served: formats, drafts, engine options, caches, the search."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    ValidationInfo,
    field_validator,
)

from perfmodel.precision import FORMATS
from perfmodel.traffic import TIERS
from planner.query_choices import (
    Strict,
    resolve_path,
)
from planner.query_workload import Tokens

MOST_DRAFTS = 8
"""Tokens drafted per step, at most."""


class PrecisionChoice(Strict):
    """Number formats to choose among; several values are all searched."""

    weights: tuple[str, ...] = Field(
        default=("native",),
        min_length=1,
        description="`native` (the checkpoint's own) or of: " + ", ".join(FORMATS),
    )
    attention: tuple[str, ...] | None = Field(
        default=None,
        description="Attention's projections, in the same formats; as `weights` if not given. "
        "A format `..._weight_only` is expanded and multiplied in bf16.",
    )
    ffn: tuple[str, ...] | None = Field(
        default=None, description="Dense FFN and shared experts; as `weights` if not given."
    )
    experts: tuple[str, ...] | None = Field(
        default=None, description="Routed experts; as `weights` if not given."
    )
    lm_head: tuple[str, ...] = Field(
        default=("native",), min_length=1, description="LM head; `native` is bf16."
    )
    activations: tuple[Literal["auto", "bf16"], ...] = Field(
        default=("auto",),
        min_length=1,
        description="`auto`: as the weight format multiplies; `bf16`: fp8 or int8 weights are "
        "expanded and multiplied in bf16.",
    )
    kv: tuple[Literal["native", "bf16", "fp8"], ...] = Field(
        default=("native",),
        min_length=1,
        description="KV cache: `native` (the checkpoint's own), bf16, fp8.",
    )

    @field_validator(
        "weights", "attention", "ffn", "experts", "lm_head", "activations", "kv", mode="before"
    )
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("weights", "attention", "ffn", "experts", "lm_head")
    @classmethod
    def _known(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value == ():
            raise ValueError("expected at least one value")
        known = ("native", *FORMATS)
        for name in value or ():
            if name not in known:
                raise ValueError(f"unknown format {name!r}; expected one of {', '.join(known)}")
        return value


class SpeculationChoice(Strict):
    """Speculative decoding by the checkpoint's multi-token-prediction module or a draft model."""

    draft_model: str | None = Field(
        default=None,
        description="A model that drafts, of the catalog or by path to a config.json, with the "
        "target's vocabulary; the checkpoint's own module if not given.",
    )
    draft_tp: Literal["target", 1] = Field(
        default="target",
        description="Tensor parallelism of a draft model: the target's, as far as its heads go, "
        "or 1.",
    )

    draft_tokens: tuple[Annotated[int, Field(ge=0, le=MOST_DRAFTS)], ...] = Field(
        min_length=1,
        description="Tokens drafted per sequence and step: a number from 0 (none) to "
        f"{MOST_DRAFTS}, or a list of them, which are all searched.",
    )
    acceptance: float = Field(
        ge=0,
        lt=1,
        description="Chance that a drafted token is accepted, given that those before it were.",
    )

    @field_validator("draft_model")
    @classmethod
    def _beside_query(cls, value: str | None, info: ValidationInfo) -> str | None:
        return value and resolve_path(value, info, (".json",))

    @field_validator("draft_tokens", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        listed = value if isinstance(value, list | tuple) else [value]
        for count in listed:
            if isinstance(count, bool) or not isinstance(count, int):
                raise ValueError(f"expected whole numbers of tokens, got {count!r}")
        return listed

    @field_validator("draft_tokens")
    @classmethod
    def _ascending(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(value)))

    @field_validator("acceptance", mode="before")
    @classmethod
    def _share(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError(f"expected a number, got {value!r}")
        return value


class ExecutionChoice(Strict):
    """How the engine executes a step."""

    two_batch_overlap: bool = Field(
        default=True,
        description="Where tokens travel to experts on other devices, half a batch computes "
        "while the other half's tokens travel, whenever that is faster and the engine can do "
        "it (SGLang, vLLM); `false`: never.",
    )
    sequence_parallelism: bool = Field(
        default=False,
        description="In steps with prompts, an all-reduce becomes a reduce-scatter and an "
        "all-gather with the norm between them split over the group, whenever that is faster "
        "(vLLM's `enable_sp`, of versions before 0.33, off by default); plans mark such "
        "layouts `SP`.",
    )
    cuda_graphs: bool = Field(
        default=True,
        description="Decode steps replay captured CUDA graphs; without, they too are launched "
        "kernel by kernel.",
    )


class KvTransferChoice(Strict):
    """How a disaggregated fleet moves KV caches from prefill to decode."""

    overlap: Literal["none", "layerwise"] | None = Field(
        default=None,
        description="`none`: a cache is sent when its prompt is computed; `layerwise`: each "
        "layer's as soon as it is, while later ones are computed; what the engine does by "
        "default (none, all of them) if not given.",
    )


class PrefixCacheChoice(Strict):
    """Where the prompt prefixes lie that `workload.prefix_cache_hit` finds."""

    tier: tuple[Literal["device", "host", "none"], ...] = Field(
        default=("device",),
        min_length=1,
        description="`device`: in device memory; `host`: in the host's memory, loaded over the "
        "host link for each prompt; `none`: computed anew. A list of them, or `auto` (all): the "
        "cheapest is taken.",
    )
    tokens: Tokens | None = Field(
        default=None,
        description="Tokens that each attention rank must keep to find that many; on the device "
        "they take memory from the sequences in flight. Not counted if not given.",
    )

    @field_validator("tier", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        if value == "auto":
            return list(TIERS)
        return [value] if isinstance(value, str) else value

    @field_validator("tier")
    @classmethod
    def _once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(value))


class SearchChoice(Strict):
    """Limits of the search."""

    max_replica_devices: int = Field(
        default=256,
        ge=1,
        le=256,
        description="Devices of one replica, at most: a power of two, as replicas are.",
    )
    max_utilization: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Load over capacity of any pool, at most; 0.95 for Poisson arrivals, "
        "1 for steady ones if not given.",
    )

    @field_validator("max_replica_devices")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if value & (value - 1):
            less = 1 << (value.bit_length() - 1)
            raise ValueError(
                f"expected a power of two, as replicas have devices: {less} or {2 * less}, "
                f"got {value}"
            )
        return value


Runtime = Literal["continuous", "disaggregated"]
