"""What no optimum may do: get dearer with a better device, a looser target or a lower price.

The devices are drawn and have no operator tables, so that a figure changed is the only
difference between two queries: a measured table belongs to one device, not to its what-ifs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perfmodel.database import PerfStore
from perfmodel.errors import InputError
from planner.query import Query
from planner.solve import solve

STORE = PerfStore()
NUMBERS = itertools.count()
EXAMPLES = settings(
    deadline=None,
    max_examples=3,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

factor = st.sampled_from([1.1, 1.5, 2.0, 4.0])
MODELS = [
    "Qwen/Qwen3-8B",
    "meta-llama/Llama-3.1-70B",
    "mistralai/Mixtral-8x7B-v0.1",
    "openai/gpt-oss-120b",
    "Qwen/Qwen3-30B-A3B",
]
FIGURES = ("memory", "memory_bandwidth", "peak", "links")

devices = st.fixed_dictionaries(
    {
        "memory": st.sampled_from([24e9, 48e9, 80e9, 192e9]),
        "memory_bandwidth": st.sampled_from([0.8e12, 2e12, 3.35e12, 8e12]),
        "peak": st.sampled_from([2e14, 9e14, 2.5e15]),
        "links": st.sampled_from([(25e9, 5e9), (450e9, 50e9), (900e9, 100e9)]),
    }
)
tokens = st.one_of(
    st.integers(20, 8000),
    st.builds(lambda a, f: {"p50": a, "p99": int(a * f)}, st.integers(50, 2000), st.integers(2, 5)),
)
statistic = st.sampled_from(["mean", "p90", "p99"])
targets = st.fixed_dictionaries(
    {},
    optional={
        "ttft": st.tuples(statistic, st.sampled_from([0.2, 0.5, 1.0, 3.0])),
        "ttit": st.tuples(statistic, st.sampled_from([0.015, 0.03, 0.06, 0.2])),
        "e2e": st.tuples(st.just("mean"), st.sampled_from([2.0, 8.0, 40.0])),
    },
)
queries = st.fixed_dictionaries(
    {
        "model": st.sampled_from(MODELS),
        "qps": st.sampled_from([0.5, 7.0, 60.0]),
        "input_tokens": tokens,
        "output_tokens": st.integers(1, 800),
        "arrivals": st.sampled_from(["poisson", "steady"]),
        "slo": targets,
        "device": devices,
        "usd": st.sampled_from([1.0, 2.5]),
        "host": st.sampled_from([1, 4, 8]),
        "engine": st.sampled_from(["trtllm", "sglang"]),
    }
)


def device_file(folder: Path, figures: dict[str, Any], host: int) -> str:
    """A device of these figures, as a user would write it; each is a file of its own."""
    number = next(NUMBERS)
    inner, outer = figures["links"]
    links = [{"name": "nic", "span": "unlimited", "bandwidth": f"{outer}B/s", "latency": "5us"}]
    if host > 1:
        fast = {"name": "fast", "span": host, "bandwidth": f"{inner}B/s", "latency": "2us"}
        links.insert(0, fast)
    path = folder / f"drawn{number}.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "name": f"drawn{number}",
                "title": "drawn",
                "memory": f"{figures['memory']}B",
                "memory_bandwidth": f"{figures['memory_bandwidth']}B/s",
                "peak": {
                    "bf16": f"{figures['peak']}FLOP/s",
                    "fp8": f"{2 * figures['peak']}FLOP/s",
                },
                "tdp": "700W",
                "host": {"devices": host},
                "platform": "strong-scale-out",
                "links": links,
            }
        )
    )
    return str(path)


def price(folder: Path, drawn: dict[str, Any], *more: dict[str, Any]) -> float:
    """USD per hour of the optimum; infinite where nothing serves the query."""
    offers = [{"figures": drawn["device"], "usd": drawn["usd"]}, *more]
    query = {
        "model": drawn["model"],
        "workload": {
            "qps": drawn["qps"],
            "input_tokens": drawn["input_tokens"],
            "output_tokens": drawn["output_tokens"],
            "arrivals": drawn["arrivals"],
        },
        "slo": {name: {at: f"{s}s"} for name, (at, s) in drawn["slo"].items()},
        "devices": [
            {
                "name": device_file(folder, offer["figures"], drawn["host"]),
                "usd_per_device_hour": offer["usd"],
            }
            for offer in offers
        ],
        "engine": drawn["engine"],
        "search": {"max_replica_devices": 4},
    }
    try:
        return solve(Query.model_validate(query), store=STORE).best.usd_per_hour
    except InputError:
        return math.inf


def scaled(figures: dict[str, Any], name: str, by: float) -> dict[str, Any]:
    value = figures[name]
    return figures | {name: tuple(by * v for v in value) if name == "links" else by * value}


def never_dearer(better: float, base: float) -> None:
    assert better <= base * (1 + 1e-9)


@pytest.mark.parametrize("figure", FIGURES)
def test_a_better_device_never_costs_more(tmp_path: Path, figure: str) -> None:
    @EXAMPLES
    @given(queries, factor)
    def check(drawn: dict[str, Any], by: float) -> None:
        better = drawn | {"device": scaled(drawn["device"], figure, by)}
        never_dearer(price(tmp_path, better), price(tmp_path, drawn))

    check()


def _looser(drawn: dict[str, Any], by: float) -> dict[str, Any]:
    return drawn | {"slo": {name: (at, by * s) for name, (at, s) in drawn["slo"].items()}}


def _without_targets(drawn: dict[str, Any], by: float) -> dict[str, Any]:
    return drawn | {"slo": {}}


def _cheaper(drawn: dict[str, Any], by: float) -> dict[str, Any]:
    return drawn | {"usd": drawn["usd"] / by}


def _less_demand(drawn: dict[str, Any], by: float) -> dict[str, Any]:
    return drawn | {"qps": drawn["qps"] / by}


@pytest.mark.parametrize("easier", [_looser, _without_targets, _cheaper, _less_demand])
def test_an_easier_query_never_costs_more(
    tmp_path: Path, easier: Callable[[dict[str, Any], float], dict[str, Any]]
) -> None:
    @EXAMPLES
    @given(queries, factor)
    def check(drawn: dict[str, Any], by: float) -> None:
        never_dearer(price(tmp_path, easier(drawn, by)), price(tmp_path, drawn))

    check()


def test_more_candidates_never_cost_more(tmp_path: Path) -> None:
    @EXAMPLES
    @given(queries, devices, st.sampled_from([0.5, 3.0]))
    def check(drawn: dict[str, Any], other: dict[str, Any], usd: float) -> None:
        more = price(tmp_path, drawn, {"figures": other, "usd": usd})
        never_dearer(more, price(tmp_path, drawn))

    check()
