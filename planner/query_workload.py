"""What a query asks to be served, and how fast: traffic, lengths and latency targets."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from perfmodel.traffic import Lengths
from perfmodel.units import parse_quantity
from planner.query_choices import (
    ImagesChoice,
    Strict,
)
from planner.query_costs import SHARE

_PERCENTILE = re.compile(r"p(\d{1,2}(?:\.\d+)?|100)")


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
