"""Power, energy and carbon of plans, rented and owned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.traffic import Lengths, Traffic
from planner.choice import Choice, Pool
from planner.digest import question
from planner.energy import energy_plan
from planner.evaluated import evaluate
from planner.plan import FleetPlan, Plan
from planner.problem import resolve
from planner.query import Query
from planner.solve import answer

OWNED: dict[str, Any] = {
    "devices": [
        {"name": "h100_sxm", "cost": {"capex": 20000, "pue": 1.2}},
        {"name": "a100_sxm", "usd_per_device_hour": 1.0},
    ],
    "costs": {"carbon": "300 g/kWh", "pue": 1.4},
}


def everything(plan: Plan) -> tuple[FleetPlan, ...]:
    return (plan.best, *plan.alternatives)


def test_energy_per_token_times_tokens_is_power(solved: Callable[..., Plan]) -> None:
    fleets = everything(solved(**OWNED))
    assert {fleet.kind for fleet in fleets} >= {"continuous", "disaggregated"}
    for fleet in fleets:
        energy = fleet.energy
        inputs, outputs = (fleet.qps * 3600 * tokens / 1e6 for tokens in (1000, 100))
        site_kw = (
            energy.kwh_per_million_input_tokens * inputs
            + energy.kwh_per_million_output_tokens * outputs
        )
        assert site_kw * 1e3 == pytest.approx(energy.site_power_w)
        assert energy.wh_per_request * fleet.qps * 3600 == pytest.approx(energy.site_power_w)
        grams = (
            energy.gco2e_per_million_input_tokens * inputs
            + energy.gco2e_per_million_output_tokens * outputs
        )
        assert grams == pytest.approx(site_kw * 300.0)
        assert sum(power.power_w for power in energy.drawn) == pytest.approx(energy.it_power_w)
        assert sum(power.devices for power in energy.drawn) == fleet.devices
        assert fleet.usd_per_year == pytest.approx(8760 * fleet.usd_per_hour)


def test_a_plan_by_hand(solved: Callable[..., Plan]) -> None:
    """Every device of the best fleet: TDP x host x (idle + (busy - idle) x load)."""
    best = solved(
        devices=["h100_sxm"],
        runtime="continuous",
        costs={
            "host_power": 1.5,
            "idle_power": 0.2,
            "prefill_power": 1.0,
            "decode_power": 0.8,
            "pue": 1.25,
            "carbon": 400,
        },
    ).best
    (pool,) = best.pools
    busy = pool.prefill_time_share * 1.0 + (1 - pool.prefill_time_share) * 0.8
    load = 20 / (pool.replicas * pool.qps_per_replica)
    each = 700 * 1.5 * (0.2 + (busy - 0.2) * load)
    used = pool.replicas * pool.devices_per_replica
    it = used * each + (best.devices - used) * 700 * 1.5 * 0.2
    energy = best.energy
    assert energy.it_power_w == pytest.approx(it)
    assert energy.site_power_w == pytest.approx(1.25 * it)
    assert energy.wh_per_request == pytest.approx(1.25 * it / 72_000)
    prompts = pool.prefill_time_share * 1.0 / busy
    kwh = 1.25 * it / 1e3 * prompts / 72.0
    assert energy.kwh_per_million_input_tokens == pytest.approx(kwh)
    assert energy.gco2e_per_million_input_tokens == pytest.approx(400 * kwh)
    assert energy.owned_electricity_usd_per_hour == 0.0


def test_pools_of_one_phase_spend_on_it_alone(solved: Callable[..., Plan]) -> None:
    plan = solved(**OWNED)
    apart = [fleet for fleet in everything(plan) if fleet.kind != "continuous"]
    assert apart
    for fleet in apart:
        prefill, decode, *_ = fleet.energy.drawn
        assert (prefill.role, prefill.prompts_share, prefill.busy_share) == ("prefill", 1.0, 1.0)
        assert (decode.role, decode.prompts_share, decode.busy_share) == ("decode", 0.0, 0.86)


@given(low=st.floats(0.1, 1.0), high=st.floats(0.1, 1.0))
def test_power_rises_with_the_load_and_energy_per_request_falls(
    solved_choice: tuple[Choice, tuple[Any, ...]], low: float, high: float
) -> None:
    choice, pools = solved_choice
    traffic = Traffic(Lengths.fixed(1000), Lengths.fixed(100))
    capacity = min(pool.qps for pool in choice.pools)
    less, more = (
        energy_plan(choice, pools, share * capacity, traffic) for share in sorted((low, high))
    )
    assert less.site_power_w <= more.site_power_w * (1 + 1e-12)
    assert less.wh_per_request >= more.wh_per_request * (1 - 1e-12)


@pytest.fixture(scope="module")
def solved_choice(
    pools_of: Callable[..., Any], solved: Callable[..., Plan]
) -> tuple[Choice, tuple[Any, ...]]:
    """A fleet of three replicas on two hosts of four devices, with one idle."""
    found = next(c for c in pools_of() if c.role == "continuous" and (c.world == 2).any())
    pool = Pool(found, int((found.world == 2).argmax()), 3)
    (plan,) = solved(devices=["h100_sxm"], runtime="continuous").best.pools
    return Choice((pool,), ((replace(pool.offer, host_devices=4), 2),)), (plan,)


def test_a_price_that_is_built_up(solved: Callable[..., Plan]) -> None:
    plan = solved(**OWNED)
    owned = [f for f in everything(plan) if f.hosts[0].device == "h100_sxm" and len(f.hosts) == 1]
    host = owned[0].hosts[0]
    assert host.owned_usd_per_hour is not None
    assert sum(host.owned_usd_per_hour.values()) == pytest.approx(host.usd_per_device_hour)
    assert host.owned_usd_per_hour["depreciation"] == pytest.approx(20000 * 0.9 / 5 / 8760 / 0.95)
    watts = owned[0].energy.site_power_w
    assert owned[0].energy.owned_electricity_usd_per_hour == pytest.approx(watts / 1e3 * 0.086)
    assert plan.assumptions["h100_sxm"]["pue"] == {"value": 1.2, "unit": "", "source": "query"}
    assert plan.assumptions["a100_sxm"]["pue"]["value"] == 1.4
    assert "capex" not in plan.assumptions["a100_sxm"]
    assert Query.model_validate(plan.query).devices[0].cost is not None


def test_a_price_that_is_varied_stands_in_for_the_costs(make_query: Callable[..., Query]) -> None:
    query = make_query(**OWNED)
    owned = query.devices[0].model_copy(update={"usd_per_device_hour": 3.0})
    offer = resolve(query.model_copy(update={"devices": (owned, *query.devices[1:])})).offers[0]
    assert (offer.usd_per_device_hour, offer.owned_usd_per_hour) == (3.0, None)


def test_a_change_of_any_assumption_is_another_question(make_query: Callable[..., Query]) -> None:
    changes: list[dict[str, Any]] = [
        OWNED,
        {**OWNED, "costs": {"carbon": "301 g/kWh", "pue": 1.4}},
        {**OWNED, "costs": {"carbon": "300 g/kWh", "pue": 1.4, "staff": 1}},
        {"devices": ["h100_sxm"]},
        {"devices": ["h100_sxm"], "costs": {"decode_power": 0.7}},
        {"devices": [{"name": "h100_sxm", "cost": {}}]},
        {"devices": [{"name": "h100_sxm", "cost": {"interest": 0.05}}]},
    ]
    asked = {question(resolve(make_query(**change))) for change in changes}
    assert len(asked) == len(changes)


def test_a_shipped_assumption_is_part_of_the_question(
    make_query: Callable[..., Query], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = question(resolve(make_query()))
    from planner import costs

    assumptions, capex = costs.defaults()
    changed = {**assumptions, "carbon": (1.0, "elsewhere")}
    monkeypatch.setattr(costs, "defaults", lambda: (changed, capex))
    assert question(resolve(make_query())) != before


def test_one_evaluation_serves_other_costs(
    make_query: Callable[..., Query], solved: Callable[..., Plan]
) -> None:
    rented = evaluate(make_query(devices=["h100_sxm", "a100_sxm"]))
    owned = make_query(**OWNED)
    assert rented.covers(owned)
    assert answer(rented.under(owned)).best == solved(**OWNED).best
