"""Families of real services: one configuration, sized by the planner at every demand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from perfmodel.database import PerfStore
from planner import sizing
from planner.catalog.demand import Demand
from planner.catalog.families import families_of
from planner.evaluated import Evaluated, evaluate
from planner.infeasible import InfeasibleError
from planner.pairing import best_continuous
from planner.query import Query

STORE = PerfStore()
DEMAND = Demand((5.0, 20.0, 60.0, 100.0), 3600.0)


@pytest.fixture(scope="module")
def evaluated(make_query: Callable[..., Query]) -> Evaluated:
    """Both runtimes on one device type."""
    query = make_query(workload={"qps": 100}, search={"max_replica_devices": 2})
    return evaluate(query, store=STORE)


@pytest.fixture(scope="module")
def found(evaluated: Evaluated) -> dict[str, Any]:
    return families_of(evaluated, DEMAND)


def test_a_family_keeps_its_configuration_and_has_replicas_for_every_demand(
    found: dict[str, Any],
) -> None:
    assert found["levels_qps"] == [5.0, 20.0, 60.0, 100.0]
    kinds = {family["fleet"]["kind"] for family in found["families"]}
    assert kinds == {"continuous", "disaggregated"}
    for family in found["families"]:
        pools = family["fleet"]["pools"]
        assert len(family["replicas"]) == 4
        assert [p["replicas"] for p in pools] == family["replicas"][-1]
        for qps, counts in zip(found["levels_qps"], family["replicas"], strict=True):
            for pool, count in zip(pools, counts, strict=True):
                assert count * pool["qps_per_replica"] >= qps


def test_the_cheapest_fleet_of_every_demand_tried_is_among_them(
    evaluated: Evaluated, found: dict[str, Any]
) -> None:
    """In hosts: at the peak and the trough no fleet of the planner has fewer."""
    for level, qps in ((0, 5.0), (3, 100.0)):
        hosts = [
            -(-sum(c * p["devices_per_replica"] for c, p in zip(counts, pools, strict=True)) // 8)
            for family in found["families"]
            for counts, pools in [(family["replicas"][level], family["fleet"]["pools"])]
        ]
        assert min(hosts) == min(n for f in evaluated.fleets(qps) for _, n in f.hosts)


def test_the_targets_hold_at_every_demand(evaluated: Evaluated, found: dict[str, Any]) -> None:
    """Of continuous families: the planner's own measure of first tokens in time."""
    problem = evaluated.problem
    pools = [c for c in evaluated.candidates if c.role == "continuous"]
    checked = 0
    for family in found["families"]:
        (plan, *others) = family["fleet"]["pools"]
        if others:
            continue
        for pool in pools:
            same = (pool.batch == plan["batch"]) & np.isclose(pool.qps, plan["qps_per_replica"])
            same &= pool.world == plan["devices_per_replica"]
            for row in np.flatnonzero(same)[:1]:
                one = pool.take(np.array([row]))
                handling = problem.handling_s(one.iteration_s, disaggregated=False)
                for qps, (count,) in zip(found["levels_qps"], family["replicas"], strict=True):
                    held = sizing.meets_ttft(
                        problem, one, np.array([float(count)]), qps, handling, problem.slo.ttft
                    )
                    assert held.all()
                    alone = best_continuous(problem, one, qps)
                    assert alone is not None
                    assert alone.pools[0].replicas == count
                    checked += 1
    assert checked >= 4


def test_a_demand_that_does_not_change_has_one_level(evaluated: Evaluated) -> None:
    found = families_of(evaluated, Demand((20.0,) * 24, 3600.0))
    assert found["levels_qps"] == [20.0]
    best = min(f.usd_per_hour for f in evaluated.fleets(20.0))
    assert best in {family["fleet"]["usd_per_hour"] for family in found["families"]}


def test_no_configuration_for_all_demands(make_query: Callable[..., Query]) -> None:
    """Of one host of eight devices, which serves little."""
    devices = [{"name": "h100_sxm", "inventory": 8}]
    query = make_query(workload={"qps": 20}, devices=devices, runtime="continuous")
    with pytest.raises(InfeasibleError, match="at all demands from 5 to 1e\\+05 requests/s"):
        families_of(evaluate(query, store=STORE), Demand((5.0, 100000.0), 3600.0))


def test_an_encoder_pool_follows_demand_too() -> None:
    """It stays on its device type, and is the last of the pools."""
    query = Query.model_validate(
        {
            "model": "Qwen/Qwen3-VL-8B-Instruct",
            "workload": {
                "qps": 40,
                "input_tokens": 200,
                "output_tokens": 20,
                "images": {"per_request": 4, "width": 1920, "height": 1080},
            },
            "slo": {"ttft": "2s", "ttit": "40ms"},
            "devices": [
                "h100_sxm",
                {"name": "l40s", "usd_per_device_hour": 0.5, "host_devices": 1},
            ],
            "runtime": "continuous",
            "encoder": "disaggregated",
            "search": {"max_replica_devices": 2},
        }
    )
    found = families_of(evaluate(query, store=STORE), Demand((4.0, 20.0, 40.0), 3600.0))
    for family in found["families"]:
        encoder = family["fleet"]["encoder"]
        counts = [replicas[-1] for replicas in family["replicas"]]
        assert counts == sorted(counts)
        assert counts[0] < counts[-1] == encoder["replicas"]
        for qps, count in zip(found["levels_qps"], counts, strict=True):
            assert count * encoder["qps_per_replica"] >= qps
