"""One evaluation answers what a search of its own would."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perfmodel.database import PerfStore
from perfmodel.errors import ConfigError, InputError
from planner.evaluated import Evaluated, evaluate, loosest
from planner.infeasible import InfeasibleError
from planner.plan import Plan
from planner.query import Query
from planner.query_workload import Target
from planner.solve import answer, answers, solve

STORE = PerfStore()
TWO = ["h100_sxm", "l40s"]
BASE: dict[str, Any] = {
    "model": "Qwen/Qwen3-8B",
    "workload": {"qps": 20, "input_tokens": 1000, "output_tokens": 100},
    "slo": {"ttft": "500ms", "ttit": "30ms"},
    "devices": TWO,
    "search": {"max_replica_devices": 4},
}


def query(**changes: Any) -> Query:
    workload = {**BASE["workload"], **changes.pop("workload", {})}
    return Query.model_validate({**BASE, **changes, "workload": workload})


WIDE = query(slo={"ttft": "2s", "ttit": "80ms"})
TAILS = query(slo={"ttft": {"p99": "4s"}, "ttit": {"p95": "100ms"}, "e2e": "20s"})


@pytest.fixture(scope="module")
def wide() -> Evaluated:
    return evaluate(WIDE, store=STORE)


@pytest.fixture(scope="module")
def tails() -> Evaluated:
    return evaluate(TAILS, store=STORE)


def outcome(solved: Callable[[], Plan]) -> list[dict[str, Any]] | str:
    """All fleets, or the error's message."""
    try:
        return fleets(solved())
    except InputError as error:
        return str(error)


def fleets(plan: Plan) -> list[dict[str, Any]]:
    return [asdict(fleet) for fleet in (plan.best, *plan.alternatives)]


narrower = st.fixed_dictionaries(
    {
        "workload": st.fixed_dictionaries(
            {"qps": st.sampled_from([0.5, 20, 150, "max"])},
            optional={"arrivals": st.just("steady")},
        ),
        "devices": st.lists(
            st.tuples(
                st.sampled_from(TWO), st.sampled_from([None, 0.4, 9.0]), st.sampled_from([8, 24])
            ),
            min_size=1,
            max_size=2,
            unique_by=lambda item: item[0],
        ).map(
            lambda items: [
                {"name": n, "usd_per_device_hour": p, "inventory": i} for n, p, i in items
            ]
        ),
        "runtime": st.sampled_from(["both", "continuous", "disaggregated"]),
    }
)


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    changes=narrower,
    ttft=st.sampled_from(["300ms", "2s"]),
    ttit=st.sampled_from(["12ms", "25ms", "80ms"]),
)
def test_a_narrower_query_is_answered_as_by_a_search_of_its_own(
    wide: Evaluated, changes: dict[str, Any], ttft: str, ttit: str
) -> None:
    asked = query(**changes, slo={"ttft": ttft, "ttit": ttit})
    assert wide.covers(asked)
    assert outcome(lambda: answer(wide.under(asked))) == outcome(lambda: solve(asked, store=STORE))


def test_targets_at_percentiles_narrow_too(tails: Evaluated) -> None:
    asked = query(slo={"ttft": {"p99": "600ms"}, "ttit": {"p95": "25ms"}, "e2e": "3s"})
    assert fleets(answer(tails.under(asked))) == fleets(solve(asked, store=STORE))


@pytest.mark.parametrize(
    "changes",
    [
        {"slo": {"ttft": "2s", "ttit": "81ms"}},
        {"slo": {"ttft": "2s"}},
        {"slo": {"ttft": "2s", "ttit": {"p95": "20ms"}}},
        {"devices": [*TWO, "h200_sxm"]},
        {"devices": [{"name": "h100_sxm", "host_devices": 4}]},
        {"workload": {"input_tokens": 1001}},
        {"engine": "vllm"},
        {"search": {"max_replica_devices": 2}},
    ],
    ids=["looser", "none", "statistic", "device", "host", "lengths", "engine", "replica"],
)
def test_what_was_not_evaluated_is_not_covered(wide: Evaluated, changes: dict[str, Any]) -> None:
    slo = {"ttft": "2s", "ttit": "80ms"}
    asked = query(**{"slo": slo, **changes})
    assert not wide.covers(asked)
    with pytest.raises(ValueError, match="not evaluated"):
        wide.under(asked)


def test_more_inventory_is_not_covered() -> None:
    few = evaluate(query(devices=[{"name": "h100_sxm", "inventory": 8}]), store=STORE)
    assert few.covers(query(devices=[{"name": "h100_sxm", "inventory": 8}], runtime="continuous"))
    assert not few.covers(query(devices=[{"name": "h100_sxm", "inventory": 16}]))
    assert not few.covers(query(devices=["h100_sxm"]))


def test_a_sample_covers_itself_alone() -> None:
    asked = query(devices=["h100_sxm"])
    found = evaluate(asked, search="tpe", trials=5, store=STORE)
    assert found.covers(asked)
    assert not found.covers(query(devices=["h100_sxm"], workload={"qps": 21}))


def test_the_loosest_covers_all() -> None:
    asked = [
        query(slo={"ttft": "1s", "ttit": "20ms"}, runtime="continuous"),
        query(slo={"ttit": "40ms"}, devices=[{"name": "l40s", "inventory": 16}]),
        query(slo={"ttft": "300ms", "ttit": "30ms"}, devices=[{"name": "l40s", "inventory": 8}]),
    ]
    whole = loosest(asked)
    assert whole is not None
    found = evaluate(whole, store=STORE)
    assert all(found.covers(one) for one in asked)
    assert whole.slo.ttit == Target(seconds=0.04)
    assert loosest([*asked, query(slo={"ttft": {"p99": "1s"}})]) is None
    assert loosest([*asked, query(engine="sglang")]) is None


def test_many_queries_take_one_search_for_each_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    searches = []
    original = evaluate

    def counted(asked: Query, **options: Any) -> Evaluated:
        searches.append(asked)
        return original(asked, **options)

    monkeypatch.setattr(sys.modules["planner.solve"], "evaluate", counted)
    queries = [
        query(),
        query(workload={"qps": 90}),
        query(engine="vllm"),
        query(slo={"ttit": "1ms"}),
        query(devices=["no_such_device"]),
        query(slo={"ttft": "2s"}),
    ]
    found = answers(queries, store=STORE)
    assert len(searches) == 2
    kinds = [Plan, Plan, Plan, InfeasibleError, ConfigError, Plan]
    assert [type(plan) for plan in found] == kinds
    for asked, plan in list(zip(queries, found, strict=True))[1::4]:
        if isinstance(plan, Plan):
            assert fleets(plan) == fleets(solve(asked, store=STORE))


def test_progress_ends_whole() -> None:
    seen: list[float] = []
    asked = [query(), query(workload={"qps": 5})]
    answers(asked, store=STORE, progress=lambda _what, share: seen.append(share))
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
