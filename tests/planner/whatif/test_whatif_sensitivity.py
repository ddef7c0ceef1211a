"""Tornados: each case is the planner's own answer; errors are the known ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from perfmodel.database import PerfStore
from perfmodel.errors import InputError
from perfmodel.hardware import load_device
from planner.choice import Choice
from planner.estimator_error import _data, time_error
from planner.query import Query
from planner.solve import solve
from planner.whatif.fields import with_values
from planner.whatif.sensitivity import Case, Swing, Tornado, tornado

EXPERIMENT = Path(__file__).parents[3] / "experiments" / "results" / "accuracy_end_to_end.json"


L40S_USD = 2.0
"""With it, 190 requests/s cost $80 on one host of H100, $160 on two, $128 on eight of L40S."""


@pytest.fixture(scope="module")
def query(make_query: Callable[..., Query]) -> Query:
    return make_query(
        devices=["h100_sxm", {"name": "l40s", "usd_per_device_hour": L40S_USD}],
        workload={"qps": 190},
        runtime="continuous",
        search={"max_replica_devices": 2},
    )


@pytest.fixture(scope="module")
def found(query: Query, store: PerfStore) -> Tornado:
    return tornado(query, store=store)


def _case(found: Tornado, what: str, high: bool) -> Case:
    swing = next(s for s in found.swings if s.what == what)
    return swing.cases[high]


@pytest.mark.parametrize(
    ("what", "field", "value"),
    [
        ("price of h100_sxm", "devices.h100_sxm.usd_per_device_hour", "x1.1"),
        ("demand", "workload.qps", "x1.1"),
        ("TTIT target", "slo.ttit", "x1.1"),
        ("input length", "workload.input_tokens", "x1.1"),
    ],
)
def test_a_case_is_the_planners_answer(
    query: Query, found: Tornado, store: PerfStore, what: str, field: str, value: str
) -> None:
    plan = solve(with_values(query, [(field, value)]), store=store)
    assert _case(found, what, high=True).usd_per_hour == pytest.approx(plan.best.usd_per_hour)


@pytest.mark.parametrize("device", ["h100_sxm", "l40s"])
@pytest.mark.parametrize("high", [False, True])
def test_a_devices_times_alone_are_scaled(
    query: Query, found: Tornado, store: PerfStore, device: str, high: bool
) -> None:
    error = time_error(load_device(device), query.engine, "continuous", store)
    factor = error.high if high else error.low
    plan = solve(with_values(query, [(f"devices.{device}.time_factor", factor)]), store=store)
    case = _case(found, f"times of {device}", high)
    assert case.usd_per_hour == pytest.approx(plan.best.usd_per_hour)


def test_cases_come_widest_first_and_robust_means_no_regret(found: Tornado) -> None:
    today = found.today.usd_per_hour
    spans = [swing.span_usd_per_hour(today) for swing in found.swings]
    assert spans == sorted(spans, reverse=True)
    whats = {swing.what for swing in found.swings}
    assert {"TTFT target", "output length", "times of all devices"} <= whats
    for _, case in found.cases:
        regret = case.regret_usd_per_hour
        assert regret is None or regret >= -1e-9
        assert case.changes == (regret is None or regret > 1e-6)
    data = found.to_dict()
    assert data["robust"] == (not found.overturned)
    assert len(data["cases"]) == 2 * len(found.swings)


def test_an_error_that_turns_the_choice(found: Tornado) -> None:
    """If H100 takes 9 % longer one host no longer suffices, and L40S is cheaper than two."""
    assert found.devices == ("h100_sxm",)
    assert found.today.usd_per_hour == pytest.approx(80)
    case = _case(found, "times of h100_sxm", high=True)
    assert case.changes
    assert case.best is not None
    assert case.keeping is not None
    assert case.keeping.usd_per_hour == pytest.approx(160)
    assert case.best.usd_per_hour == pytest.approx(128)
    assert case.regret_usd_per_hour == pytest.approx(32)
    assert found.largest_regret == pytest.approx(32 / 128)
    assert ("times of h100_sxm", case.label) in [(s.what, c.label) for s, c in found.overturned]


def test_what_does_not_serve_has_no_price() -> None:
    nothing = Case("+10 %", None, None)
    assert not nothing.changes
    assert nothing.regret_usd_per_hour == 0.0
    lost = Case("+10 %", Choice((), ()), None)
    assert lost.changes
    assert lost.regret_usd_per_hour is None
    swing = Swing("demand", nothing, lost)
    assert swing.span_usd_per_hour(1.0) == float("inf")


def test_shipped_errors_are_those_of_the_experiment() -> None:
    measured = json.loads(EXPERIMENT.read_text())
    modes = {"continuous": "agg", "disaggregated": "disagg"}
    for kind in ("device", "engine"):
        for name, by_mode in _data()[f"{kind}s"].items():
            for mode, entry in by_mode.items():
                source = measured[f"{kind} {name} {modes[mode]}"]
                assert entry["rows"] == source["rows"]
                assert entry["error"] == pytest.approx(source["tpot"]["after"]["median"], abs=6e-4)
    for mode, entry in _data()["first_token"].items():
        source = measured[f"mode {modes[mode]}"]
        assert entry["rows"] == source["rows"]
        assert entry["error"] == pytest.approx(source["ttft"]["after"]["median"], abs=6e-4)


def test_errors_by_what_is_known_of_a_device(store: PerfStore) -> None:
    h100 = time_error(load_device("h100_sxm"), "trtllm", "continuous", store)
    error = _data()["devices"]["h100_sxm"]["continuous"]["error"]
    assert (h100.low, h100.high) == pytest.approx((1 / (1 + error), 1 / (1 - error)))
    sglang = time_error(load_device("h100_sxm"), "sglang", "continuous", store)
    assert sglang.high > h100.high
    assert "sglang" in sglang.origin
    unseen = time_error(load_device("l40s"), "trtllm", "continuous", store)
    assert "largest known" in unseen.origin
    assert unseen.high >= h100.high
    analytic = time_error(load_device("mi300x"), "vllm", "disaggregated", store)
    assert (analytic.low, analytic.high) == (1.6, 2.0)
    corrected = replace(load_device("mi300x"), time_factor=1.8)
    assert time_error(corrected, "vllm", "continuous", store).low < 1.0


def test_bad_questions(query: Query, store: PerfStore) -> None:
    for by in (0.0, 1.0, -0.1):
        with pytest.raises(InputError, match="--by"):
            tornado(query, by=by, store=store)
    with pytest.raises(InputError, match="no fleet serves"):
        tornado(with_values(query, [("slo.ttit", "0.1ms")]), store=store)
