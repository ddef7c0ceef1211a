"""Notes: what a plan says of its own margins and prices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from planner.plan import Plan

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
