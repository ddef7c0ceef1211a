"""Sampling: its bounds, what it draws, and what it says of the distance to the optimum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from planner.candidates import Funnel
from planner.evaluated import choose
from planner.plan import Plan
from planner.query import Query
from planner.search import SearchResult, tpe
from planner.solve import solve
from planner.sweep import Space

Solved = Callable[..., Plan]

PAIRED: dict[str, Any] = {
    "workload": {"qps": 200},
    "devices": ["h100_sxm", "l40s"],
    "runtime": "disaggregated",
}
MIXTURE: dict[str, Any] = {
    "model": "Qwen/Qwen3-30B-A3B",
    "search": {"max_replica_devices": 16},
    "slo": {"ttft": "2s", "ttit": "60ms"},
}


def quietly(_what: str, _share: float) -> None:
    pass


@pytest.mark.parametrize(
    "changes",
    [
        PAIRED,
        {"slo": {"ttft": {"p90": "500ms"}, "ttit": {"p99": "30ms"}, "e2e": "4s"}},
        {"workload": {"input_tokens": {"p50": 800, "p99": 4000}, "prefix_cache_hit": 0.4}},
        {**MIXTURE, "engine": "sglang"},
        {
            **MIXTURE,
            "model": "Qwen/Qwen3.5-35B-A3B",
            "speculation": {"draft_tokens": [0, 2], "acceptance": 0.7},
        },
    ],
    ids=["two devices", "percentiles", "lengths", "half batches", "speculation"],
)
def test_no_configuration_beats_its_layouts_bound(
    space_of: Callable[..., Space], changes: dict[str, Any]
) -> None:
    space = space_of(**changes)
    seen = 0
    for offer, precision in space.pairs():
        for role in space.roles:
            layouts = space.feasible_layouts(role, offer, precision, Funnel(role, "", ""))
            most = space.most_qps(role, offer, precision, layouts)
            found = space.evaluate(role, offer, precision, layouts)
            actual = np.zeros(len(layouts))
            np.maximum.at(actual, found.layout, found.qps)
            assert np.all(actual <= most)
            # And it is of use: most are within half of what is reached.
            reached = actual > 0
            assert np.median(most[reached] / actual[reached]) < 1.6
            seen += int(reached.sum())
    assert seen > 10


def drawn(space: Space, monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[tuple[Any, ...]]:
    """(role, device, degrees) of every layout evaluated, in their order."""
    seen = []
    evaluate = Space.evaluate

    def watched(self: Space, role: Any, offer: Any, p: Any, layouts: Any, *a: Any, **k: Any) -> Any:
        seen.extend((role, offer.device.name, *row) for row in layouts.rows()[k["rows"]])
        return evaluate(self, role, offer, p, layouts, *a, **k)

    with monkeypatch.context() as patch:
        patch.setattr(Space, "evaluate", watched)
        tpe(space, quietly, **options)
    return seen


@pytest.mark.parametrize("startup_share", [0.0, 0.5])
def test_sampling_draws_feasible_layouts_only_and_none_twice(
    space_of: Callable[..., Space], monkeypatch: pytest.MonkeyPatch, startup_share: float
) -> None:
    space = space_of(**PAIRED)
    allowed = {
        (role, offer.device.name, *row)
        for offer, p in space.pairs()
        for role in space.roles
        for row in space.feasible_layouts(role, offer, p, Funnel(role, "", "")).rows()
    }
    seen = drawn(space, monkeypatch, trials=12, startup_share=startup_share)
    assert set(seen) <= allowed
    assert len(seen) == len(set(seen)) >= 4


def test_sampling_is_reproducible_by_its_seed(
    space_of: Callable[..., Space], monkeypatch: pytest.MonkeyPatch
) -> None:
    space = space_of(**PAIRED)
    options = {"trials": 8, "startup_share": 0.0}
    first, second, other = (drawn(space, monkeypatch, seed=seed, **options) for seed in (3, 3, 4))
    assert first == second
    assert first != other


def test_sampling_never_beats_the_exhaustive_search(solved: Solved) -> None:
    proven = solved(**PAIRED)
    for trials in (1, 3, 22):
        plan = solved({"search": "tpe", "trials": trials}, **PAIRED)
        assert plan.best.usd_per_hour >= proven.best.usd_per_hour - 1e-9
        assert plan.best.usd_per_hour <= proven.best.usd_per_hour * (1 + plan.search.gap) + 1e-9
        assert plan.search.proven == (plan.search.gap == 0.0)
        assert plan.search.evaluated < proven.search.evaluated
    assert plan.best.usd_per_hour == proven.best.usd_per_hour


def test_the_gap_is_valid_for_any_layouts(space_of: Callable[..., Space]) -> None:
    """Whatever is evaluated, by a sampler that knows no bounds: the optimum is in the gap."""
    space = space_of(**PAIRED)
    problem = space.problem
    optimum = min(
        c.usd_per_hour
        for _, c in choose(
            problem,
            SearchResult(
                [space.sweep(role, *pair)[0] for pair in space.pairs() for role in space.roles],
                [], 0, True, "",
            ),
        )
    )  # fmt: skip
    gaps = []
    for seed in range(6):
        result = tpe(space, quietly, seed=seed, trials=2, startup_share=0.0)
        served = choose(problem, result)
        if served:
            usd = served[0][1].usd_per_hour
            gap = result.gap(problem.qps or 0.0, usd, most=False)
            assert usd / (1 + gap) <= optimum * (1 + 1e-9)
            gaps.append(gap)
    assert max(gaps) > 0


def test_the_gap_of_as_much_as_possible(solved: Solved) -> None:
    most: dict[str, Any] = {
        "workload": {"qps": "max"},
        "devices": [
            {"name": "h100_sxm", "inventory": 16},
            {"name": "h200_sxm", "inventory": 8},
        ],
    }
    proven = solved(**most)
    plan = solved({"search": "tpe", "trials": 12}, **most)
    assert plan.best.qps <= proven.best.qps * 1.001
    assert proven.best.qps <= plan.best.qps * (1 + plan.search.gap) * 1.001
    assert f"at most {plan.search.gap:.1%} above" in plan.search.statement


def test_another_demand_changes_what_is_left_out(make_query: Callable[..., Query]) -> None:
    """Bounds hold at every demand: the optimum is never left out."""
    for qps in (1, 40, 900):
        query = make_query(workload={"qps": qps})
        sampled = solve(query, search="tpe", trials=40)
        assert sampled.best.usd_per_hour == solve(query).best.usd_per_hour
