"""Llama-3.1 70B and 405B on H100, H200 and MI300X: the setting of insights 1 and 2.

Lengths are those of the reference's example of a query's cost, targets those of its text agent; it
gives neither for these insights, nor the size of the fleet.
"""

from __future__ import annotations

from typing import Any

from perfmodel.database import PerfStore
from planner.evaluated import Evaluated, evaluate
from planner.query import Query

MODELS = {"70B": "meta-llama/Llama-3.1-70B", "405B": "meta-llama/Llama-3.1-405B"}
DEVICES = {"H100": "h100_sxm", "H200": "h200_sxm", "MI300X": "mi300x"}
FLEET, MOST = 128, 256
INPUT, OUTPUT = 2000, 150
TTFT_S, TTIT_S = 0.5, 0.04
NEVER = 1e6
"""A target that excludes nothing, seconds."""

STORE = PerfStore()


def query(
    size: str,
    device: str,
    lengths: tuple[int, int] = (INPUT, OUTPUT),
    ttft: Any = TTFT_S,
    ttit: Any = TTIT_S,
    fleet: int = FLEET,
    weights: str = "fp8",
    arrivals: str = "steady",
) -> Query:
    """As many requests as a fleet serves; targets in seconds, or by statistic."""

    def target(value: Any) -> Any:
        return {k: f"{v}s" for k, v in value.items()} if isinstance(value, dict) else f"{value}s"

    return Query.model_validate(
        {
            "model": MODELS[size],
            "workload": {
                "qps": "max",
                "input_tokens": lengths[0],
                "output_tokens": lengths[1],
                "arrivals": arrivals,
            },
            "slo": {"ttft": target(ttft), "ttit": target(ttit)},
            "devices": [{"name": DEVICES[device], "inventory": fleet}],
            "precision": {"weights": weights, "kv": weights},
            "search": {"max_replica_devices": 64},
        }
    )


def searched(size: str, device: str, **changes: Any) -> Evaluated:
    """A search that answers all targets of the same statistics, and all fleets up to 256."""
    loose = {"ttft": NEVER, "ttit": NEVER, "fleet": MOST} | changes
    return evaluate(query(size, device, **loose), store=STORE)
