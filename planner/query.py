"""The query: what a user asks, as a YAML file validated by pydantic.

`planner schema` prints these fields; their descriptions are the documentation.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from perfmodel.documents import read_yaml, validate
from perfmodel.engine import ENGINES, PYTORCH, QUERY_ENGINES
from perfmodel.precision import FORMATS
from perfmodel.traffic import TIERS, Lengths
from perfmodel.units import parse_quantity
from planner.query_choices import (
    ImagesChoice,
    ModelChoice,
    Routing,
    Strict,
    SyntheticModel,
)
from planner.query_costs import PRICE, SHARE, CostChoice, OwnedChoice
from planner.target import OWN_ENGINE, RuntimeTarget, engine_of

_PERCENTILE = re.compile(r"p(\d{1,2}(?:\.\d+)?|100)")


MOST_DRAFTS = 8
"""Tokens drafted per step, at most."""


def _percentile(key: object) -> float:
    match = _PERCENTILE.fullmatch(str(key))
    if match is None:
        raise ValueError(f"expected percentiles such as p50 or p99, got {key!r}")
    return float(match.group(1))


class Target(Strict):
    """A bound on a latency, at a percentile or (without one) on the steady-state mean."""

    seconds: float = Field(gt=0)
    percentile: float | None = Field(default=None, gt=0, lt=100)

    @property
    def statistic(self) -> str:
        """`mean`, `p99`, ..."""
        return "mean" if self.percentile is None else f"p{self.percentile:g}"


def _read_target(value: Any) -> Any:
    """`500ms`, `{p99: 500ms}` or `{mean: 500ms}` as a target's fields."""
    if isinstance(value, Target):
        return value
    percentile: float | None = None
    if isinstance(value, dict) and "seconds" in value:
        return value
    if isinstance(value, dict):
        if len(value) != 1:
            raise ValueError("expected one statistic, such as {p99: 500ms} or {mean: 500ms}")
        key, value = next(iter(value.items()))
        percentile = None if key == "mean" else _percentile(key)
        if percentile is not None and not 0 < percentile < 100:
            raise ValueError(f"expected a percentile above 0 and below 100, got {key}")
    seconds = parse_quantity(value, "time")
    if seconds <= 0:
        raise ValueError(f"expected a latency above zero, got {value!r}")
    return {"seconds": seconds, "percentile": percentile}


def _read_lengths(value: Any) -> Any:
    """A number of tokens, percentiles, or a histogram."""
    if isinstance(value, Lengths):
        return value
    if isinstance(value, dict) and set(value) == {"tokens", "weights"}:
        return _read_histogram(value["tokens"], value["weights"])
    if isinstance(value, dict):
        points = {_percentile(k): parse_quantity(v, "tokens") for k, v in value.items()}
        return Lengths.from_percentiles(points)
    tokens = parse_quantity(value, "tokens")
    if tokens < 1:
        raise ValueError(f"expected at least one token, got {value!r}")
    return Lengths.fixed(tokens)


def _read_histogram(tokens: Any, weights: Any) -> Lengths:
    if not (isinstance(tokens, list) and isinstance(weights, list)):
        raise ValueError("expected lists, such as {tokens: [500, 2000], weights: [0.7, 0.3]}")
    for weight in weights:
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not (number and 0 <= weight < float("inf")):
            raise ValueError(f"expected weights as numbers from zero up, got {weight!r}")
    return Lengths.from_histogram([parse_quantity(t, "tokens") for t in tokens], weights)


LatencyTarget = Annotated[Target, BeforeValidator(_read_target)]
TokenLengths = Annotated[
    Lengths,
    BeforeValidator(_read_lengths),
    Field(json_schema_extra={"anyOf": [{"type": "number"}, {"type": "object"}]}),
]


def _read_tokens(value: Any) -> float:
    tokens = parse_quantity(value, "tokens")
    if tokens < 1:
        raise ValueError(f"expected at least one token, got {value!r}")
    return tokens


Tokens = Annotated[float, BeforeValidator(_read_tokens)]


class Workload(Strict):
    """The requests to serve."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    qps: float | Literal["max"] = Field(
        description="Requests per second to serve; `max`: as many as the inventory allows."
    )
    input_tokens: TokenLengths = Field(
        description="Prompt length: a number, percentiles such as {p50: 800, p99: 4000} (between "
        "them the logarithm of the length is linear in the percentile, a longer mean than a "
        "lognormal's: give several), or a "
        "histogram {tokens: [500, 2000], weights: [0.7, 0.3]}; text alone where `images` are given."
    )
    output_tokens: TokenLengths = Field(description="Output length, in the same forms.")
    images: ImagesChoice | None = Field(
        default=None,
        description="Images in a prompt: their tokens are added to it, and the model's vision "
        "encoder is loaded and run.",
    )
    prefix_cache_hit: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of prompt tokens found in the prefix cache: `0.3` or `30%`.",
        json_schema_extra={"type": ["number", "string"]},
    )
    arrivals: Literal["poisson", "steady"] = Field(
        default="poisson",
        description="`poisson` requests queue; `steady` ones (batch jobs) are paced.",
    )

    @field_validator("prefix_cache_hit", mode="before")
    @classmethod
    def _share(cls, value: Any) -> Any:
        return SHARE.read(value)

    @field_validator("qps", mode="before")
    @classmethod
    def _positive(cls, value: Any) -> Any:
        if value == "max":
            return value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"expected requests per second or `max`, got {value!r}")
        if not 0 < value < float("inf"):
            raise ValueError(f"expected more than zero requests per second, got {value}")
        return value


class Slo(Strict):
    """Latency objectives; each a time (`200ms`: the mean) or one statistic (`{p99: 200ms}`)."""

    ttft: LatencyTarget | None = Field(
        default=None,
        description="Time to first token: a time with its unit (`200ms`: the mean) or one "
        "statistic (`{p99: 200ms}`).",
    )
    ttit: LatencyTarget | None = Field(
        default=None,
        description="Time to incremental token (TPOT, ITL), in the same forms.",
    )
    e2e: LatencyTarget | None = Field(
        default=None, description="Whole request: TTFT and all output tokens; a mean."
    )

    @model_validator(mode="after")
    def _mean_end_to_end(self) -> Slo:
        if self.e2e is not None and self.e2e.percentile is not None:
            raise ValueError("e2e: expected a mean; percentiles of it are not modelled")
        return self


class DeviceChoice(Strict):
    """A candidate device."""

    name: str = Field(description="Shipped name, or path to a device YAML file.")
    usd_per_device_hour: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="USD per device-hour; the shipped price list's default if not given.",
    )
    cost: OwnedChoice | None = Field(
        default=None,
        description="The device is owned: its price is built from these costs; `{}` for the "
        "shipped figures.",
    )
    inventory: int | None = Field(
        default=None, ge=1, description="Devices at hand at most; unlimited if not given."
    )
    host_devices: int | None = Field(
        default=None,
        ge=1,
        description="Devices rented together; the device file's host if not given.",
    )

    time_factor: float = Field(
        default=1.0,
        gt=0,
        le=100,
        description="What the estimated times of its steps are multiplied by, where they are known "
        "to be off: 1.8 for a device that takes 1.8 times as long. No operator falls below its "
        "roofline.",
    )

    @field_validator(
        "usd_per_device_hour", "inventory", "host_devices", "time_factor", mode="before"
    )
    @classmethod
    def _number(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError(f"expected a number, got {value!r}")
        return value

    @field_validator("usd_per_device_hour", mode="before")
    @classmethod
    def _price(cls, value: Any) -> Any:
        return PRICE.read(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_price(self) -> DeviceChoice:
        if self.cost is not None and self.usd_per_device_hour is not None:
            raise ValueError("expected usd_per_device_hour (rented) or cost (owned), got both")
        return self


def _read_device(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


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
        return value and _resolve_path(value, info, (".json",))

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


class Query(Strict):
    """The cheapest fleet that serves this model under this SLO: the question."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    model: ModelChoice = Field(
        description="A model of the catalog (`planner models`), path to a config.json or to a "
        "recipe (.yaml), or {recipe: {parameters: 1.8T, experts: 16}}: a synthetic one."
    )
    workload: Workload
    slo: Slo = Field(default=Slo(), description="Latency objectives; none for offline work.")
    devices: tuple[Annotated[DeviceChoice, BeforeValidator(_read_device)], ...] = Field(
        min_length=1, description="Candidate devices: names, or mappings with price and limits."
    )
    costs: CostChoice = Field(
        default=CostChoice(),
        description="What owning and powering devices costs: of owned ones the price, of all "
        "energy and carbon.",
    )
    runtime: tuple[Runtime, ...] = Field(
        default=("continuous", "disaggregated"),
        min_length=1,
        description="`continuous`, `disaggregated`, or both (a list, or `both`).",
    )
    encoder: Literal["colocated", "disaggregated", "auto"] = Field(
        default="auto",
        description="Where `images` are encoded: `colocated` on the devices that take the prompt, "
        "`disaggregated` on a pool of their own, `auto` on whichever is cheaper.",
    )
    engine: str = Field(
        default="trtllm",
        description=f"Whose operator tables to use: {', '.join(ENGINES)}, or {PYTORCH.name} for "
        "tables of `planner perfdb collect`.",
    )
    target: RuntimeTarget | None = Field(
        default=None,
        description="Where the plan will be deployed (`planner deploy`): only what this runtime "
        "can express is searched, and `engine` is its own if not given.",
    )
    corrections: str | None = Field(
        default=None,
        description="Engines' constants fitted to your own measurements (`planner calibrate`); "
        "the shipped ones if not given.",
    )
    routing: Routing = Field(
        default="power_law_1.01",
        description="How tokens spread over experts: as in a measured table (`power_law_1.01`, "
        "`power_law_1.2`; with `_eplb`, after a load balancer placed the busy ones; `balanced`, "
        "its ideal), or a stated distribution.",
    )
    precision: PrecisionChoice = PrecisionChoice()
    speculation: SpeculationChoice | None = Field(
        default=None,
        description="Drafting tokens with the checkpoint's multi-token-prediction module or a "
        "draft model; none if not given.",
    )
    execution: ExecutionChoice = ExecutionChoice()
    prefix_cache: PrefixCacheChoice = PrefixCacheChoice()
    kv_transfer: KvTransferChoice = KvTransferChoice()
    search: SearchChoice = SearchChoice()

    @model_validator(mode="before")
    @classmethod
    def _of_target(cls, data: Any) -> Any:
        """What a target implies where the query does not say."""
        if not isinstance(data, dict) or data.get("target") is None:
            return data
        implied = {}
        if data["target"] in OWN_ENGINE and data.get("engine") is None:
            implied["engine"] = OWN_ENGINE[data["target"]]
        if data.get("encoder", "auto") == "auto":
            implied["encoder"] = "colocated"
        return {**data, **implied}

    @field_validator("runtime", mode="before")
    @classmethod
    def _runtimes(cls, value: Any) -> Any:
        if value == "both":
            return ["continuous", "disaggregated"]
        return [value] if isinstance(value, str) else value

    @field_validator("engine")
    @classmethod
    def _known_engine(cls, value: str) -> str:
        if value not in QUERY_ENGINES:
            known = ", ".join(QUERY_ENGINES)
            raise ValueError(f"unknown engine {value!r}; expected one of {known}")
        return value

    @field_validator("model")
    @classmethod
    def _beside_query(cls, value: ModelChoice, info: ValidationInfo) -> ModelChoice:
        if isinstance(value, SyntheticModel):
            return value
        return _resolve_path(value, info, (".json", ".yaml", ".yml"))

    @field_validator("corrections")
    @classmethod
    def _corrections_beside_query(cls, value: str | None, info: ValidationInfo) -> str | None:
        return value and _resolve_path(value, info, (".yaml", ".yml"))

    @field_validator("routing")
    @classmethod
    def _counts_beside_query(cls, value: Routing, info: ValidationInfo) -> Routing:
        if isinstance(value, str) or value.file is None:
            return value
        return value.model_copy(update={"file": _resolve_path(value.file, info, (".csv", ".json"))})

    @field_validator("devices")
    @classmethod
    def _distinct(
        cls, value: tuple[DeviceChoice, ...], info: ValidationInfo
    ) -> tuple[DeviceChoice, ...]:
        names = [device.name for device in value]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"given twice: {', '.join(repeated)}")
        return tuple(
            device.model_copy(update={"name": _resolve_path(device.name, info, (".yaml", ".yml"))})
            for device in value
        )

    @model_validator(mode="after")
    def _bounded(self) -> Query:
        if self.workload.qps == "max" and any(d.inventory is None for d in self.devices):
            raise ValueError("workload.qps: `max` needs an inventory for every device")
        if self.prefix_cache != PrefixCacheChoice() and not self.workload.prefix_cache_hit:
            raise ValueError("prefix_cache: expected a workload.prefix_cache_hit above zero")
        return self

    @model_validator(mode="after")
    def _expressible(self) -> Query:
        if self.target is None:
            return self
        engine = engine_of(self.target, self.engine)
        if engine == PYTORCH.name:
            raise ValueError(f"target: {self.target} runs {', '.join(ENGINES)}, not {engine}")
        if self.encoder == "disaggregated":
            raise ValueError(f"encoder: pools that encode images are not written for {self.target}")
        if self.execution.sequence_parallelism:
            raise ValueError("execution.sequence_parallelism: no engine written for has it still")
        if self.kv_transfer.overlap == "layerwise" and engine != "trtllm":
            raise ValueError(f"kv_transfer.overlap: {ENGINES[engine].title} sends no single layers")
        return self


def _resolve_path(value: str, info: ValidationInfo, suffixes: tuple[str, ...]) -> str:
    """Paths in a query file are relative to the file."""
    folder = (info.context or {}).get("folder")
    if folder is not None and (value.endswith(suffixes) or value.startswith((".", "/", "~"))):
        return str((Path(folder) / Path(value).expanduser()).resolve())
    return value


def load_query(path: Path | str, *, target: str | None = None) -> Query:
    """Read and validate a query file.

    Args:
        target: in place of the file's own.

    Raises:
        ConfigError: file, line, field and what was expected, one line per mistake.
    """
    document = read_yaml(Path(path))
    if target is not None and isinstance(document.data, dict):
        document = replace(document, data={**document.data, "target": target})
    return validate(document, Query)
