"""Notes: what a plan says of its own margins and prices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from perfmodel.database import PerfStore
from perfmodel.hardware import load_device
from perfmodel.units import format_time
from planner.estimator_error import first_token_error, time_error
from planner.notes import notes
from planner.plan import Plan
from planner.problem import resolve
from planner.query import Query
from planner.query_workload import Slo, Target

Solved = Callable[..., Plan]
OWN: dict[str, Any] = {"name": "h100_sxm", "usd_per_device_hour": 3.0}


def margin(plan: Plan, name: str = "TTIT") -> list[str]:
    return [note for note in plan.notes if note.startswith(f"{name} of ")]


def test_a_target_within_the_known_error_is_told(solved: Solved) -> None:
    base: dict[str, Any] = {"workload": {"qps": 200}, "devices": [OWN]}
    tight = solved(**base, slo={"ttft": "2s", "ttit": "10ms"})
    assert tight.best.ttit_at_load_s < 0.01
    (note,) = margin(tight)
    assert f"is {tight.best.ttit_at_load_s / 0.01:.0%} of its target" in note
    assert "deployments of h100_sxm" in note
    assert margin(solved(**base, slo={"ttft": "2s", "ttit": "200ms"})) == []
    assert margin(solved(**base, slo={"ttft": "2s"})) == []


def test_a_percentile_is_told_as_one_of_full_slots(solved: Solved) -> None:
    base: dict[str, Any] = {"workload": {"qps": 200}, "devices": [OWN]}
    plan = solved(**base, slo={"ttft": "2s", "ttit": {"p99": "10ms"}})
    (note,) = margin(plan)
    assert plan.best.ttit_slo_s is not None
    assert note.startswith(f"TTIT of {format_time(plan.best.ttit_slo_s)} (p99) with every slot")
    assert "at this load" not in note


def test_a_first_token_within_the_known_error_is_told(solved: Solved) -> None:
    base: dict[str, Any] = {"workload": {"qps": 20}, "devices": [OWN], "runtime": "continuous"}
    wide = solved(**base, slo={"ttft": {"p99": "60s"}})
    assert margin(wide, "TTFT") == []
    assert wide.best.ttft.slo_s is not None
    high = first_token_error(wide.best).high
    for factor, told in ((0.99, 1), (1.01, 0)):
        target = Target(seconds=wide.best.ttft.slo_s * high * factor, percentile=99.0)
        query = Query.model_validate(wide.query)
        query = query.model_copy(update={"slo": Slo(ttft=target)})
        found = notes(resolve(query), [wide.best], PerfStore())
        assert len([n for n in found if n.startswith("TTFT of ") and "(p99)" in n]) == told


def test_of_a_device_never_measured_an_engine_may_be_the_worst_known() -> None:
    device = load_device("l40s")
    worst = time_error(device, "sglang", "continuous", PerfStore())
    assert "sglang's continuous" in worst.origin
    assert worst.high > time_error(device, "trtllm", "continuous", PerfStore()).high


def test_a_default_price_is_held_against_the_list(solved: Solved) -> None:
    default = [note for note in solved().notes if "list price" in note]
    assert len(default) == 1
    assert default[0].startswith("h100_sxm at $10.00")
    assert not [note for note in solved(devices=[OWN]).notes if "list price" in note]


@pytest.mark.parametrize(
    ("layout", "told"),
    [("attn:TP1DP4 ffn:TP2DP2 PP1", True), ("attn:TP2 ffn:TP2 PP2", False)],
)
def test_a_layout_without_flags_is_told(solved: Solved, layout: str, told: bool) -> None:
    plan = solved()
    pools = tuple(replace(pool, layout=layout) for pool in plan.best.pools)
    problem = resolve(Query.model_validate(plan.query))
    found = notes(problem, [replace(plan.best, pools=pools)], PerfStore())
    said = f"has no flags for the layout {layout}: `planner solve --target trtllm`"
    assert any(said in note for note in found) == told
