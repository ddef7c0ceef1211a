"""Notes: what a plan says of its own margins and prices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from perfmodel.database import PerfStore
from planner.notes import notes
from planner.plan import Plan
from planner.problem import resolve
from planner.query import Query

Solved = Callable[..., Plan]
OWN: dict[str, Any] = {"name": "h100_sxm", "usd_per_device_hour": 3.0}


def margin(plan: Plan) -> list[str]:
    return [note for note in plan.notes if note.startswith("TTIT of ")]


def test_a_target_within_the_known_error_is_told(solved: Solved) -> None:
    base: dict[str, Any] = {"workload": {"qps": 200}, "devices": [OWN]}
    tight = solved(**base, slo={"ttft": "2s", "ttit": "10ms"})
    assert tight.best.ttit_at_load_s < 0.01
    (note,) = margin(tight)
    assert f"is {tight.best.ttit_at_load_s / 0.01:.0%} of its target" in note
    assert "deployments of h100_sxm" in note
    assert margin(solved(**base, slo={"ttft": "2s", "ttit": "200ms"})) == []
    assert margin(solved(**base, slo={"ttft": "2s"})) == []


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
