"""The set-up of `insight3_heterogeneous.py`: services, the rates of every device, price lists."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from planner.evaluated import Evaluated
from planner.fronts import configurations
from planner.prices import listed_prices
from planner.query import Query

Rates = Mapping[str, tuple[float, float]]
"""Requests/s by device: of one device, or one budget, in prefill and in decode."""

DEVICES = ("h100_sxm", "h200_sxm", "mi300x", "b200_sxm")
SHORT = {"h100_sxm": "H100", "h200_sxm": "H200", "mi300x": "MI300X", "b200_sxm": "B200"}


@dataclass(frozen=True)
class Service:
    """A workload and its latency targets; several targets of TTIT, the last the loosest."""

    name: str
    input_tokens: int
    output_tokens: int
    ttft: str
    ttit_ms: Sequence[float]


SERVICES = (
    Service("text agent", 2000, 150, "500ms", (25, 40, 80)),
    Service("text agent, long answers", 2000, 500, "500ms", (25, 40, 80)),
    Service("text agent, short prompts", 500, 500, "500ms", (25, 40, 80)),
    Service("data augmentation", 8000, 1000, "3s", (300,)),
)


@dataclass(frozen=True)
class Case:
    """Rates of one service at one TTIT target with one format of the cache."""

    service: Service
    ttit_ms: float
    kv: str
    rates: Rates

    @property
    def name(self) -> str:
        """Lengths, target and cache format."""
        service = self.service
        lengths = f"{service.input_tokens}/{service.output_tokens}"
        return f"{lengths}, TTIT {self.ttit_ms:g} ms, {self.kv} cache"


def query(service: Service, usd: Mapping[str, float] | None = None, **workload: Any) -> Query:
    """Llama-3.1-405B on all devices, or those with a price."""
    devices: list[Any] = list(DEVICES)
    if usd is not None:
        devices = [{"name": n, "usd_per_device_hour": usd[n]} for n in DEVICES if n in usd]
    lengths = {"input_tokens": service.input_tokens, "output_tokens": service.output_tokens}
    return Query.model_validate(
        {
            "model": "meta-llama/Llama-3.1-405B",
            "workload": {"qps": 100, **lengths, **workload},
            "slo": {"ttft": service.ttft, "ttit": f"{service.ttit_ms[-1]}ms"},
            "devices": devices,
            "runtime": "both",
            "precision": {"weights": "fp8", "kv": ["bf16", "fp8"]},
        }
    )


def tighter(asked: Query, ttit_ms: float) -> Query:
    """The query at a TTIT target."""
    assert asked.slo.ttit is not None
    target = asked.slo.ttit.model_copy(update={"seconds": ttit_ms / 1e3})
    return asked.model_copy(update={"slo": asked.slo.model_copy(update={"ttit": target})})


def cases_of(service: Service, found: Evaluated) -> list[Case]:
    """Rates per device at every TTIT target, by format of the cache."""
    frame = configurations(found).with_columns(
        kv=pl.col("precision").cast(pl.String).str.split("kv:").list.last()
    )
    cases = []
    for ttit_ms in service.ttit_ms:
        meets = frame.filter(pl.col("ttit_s") <= ttit_ms / 1e3)
        best = meets.group_by("kv", "role", "device").agg(pl.col("qps_per_device").max())
        known = {(kv, role, device): qps for kv, role, device, qps in best.iter_rows()}
        for kv in ("bf16", "fp8"):
            rates = {
                n: (known.get((kv, "prefill", n), 0.0), known.get((kv, "decode", n), 0.0))
                for n in DEVICES
            }
            cases.append(Case(service, ttit_ms, kv, rates))
    return cases


def price_lists() -> dict[str, dict[str, float]]:
    """On-demand prices by provider with at least three of the devices, and the lowest of all."""
    lists: dict[str, dict[str, float]] = defaultdict(dict)
    for name in DEVICES:
        for entry in listed_prices()[name]:
            if entry["kind"] == "on-demand":
                usd = entry["usd_per_device_hour"]
                lists[entry["provider"]][name] = usd
                lowest = lists["lowest of any"]
                lowest[name] = min(usd, lowest.get(name, usd))
    return {name: usd for name, usd in lists.items() if len(usd) >= 3}
