"""The price of owned devices: by hand, its properties, and against renting."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from planner.costs import Costs
from planner.tco import (
    break_even_reserved,
    break_even_utilization,
    device_power_w,
    payback_years,
    usd_per_device_hour,
    usd_per_w_hour,
)

TDP_W = 1000.0

BY_HAND = Costs(
    capex_usd=43_800.0,
    amortization_years=5.0,
    residual_share=0.0,
    interest_per_year=0.0,
    maintenance_per_year=0.10,
    staff_usd_per_year=876.0,
    hosting_usd_per_kw_month=73.0,
    electricity_usd_per_kwh=0.10,
    pue=1.5,
    carbon_g_per_kwh=400.0,
    availability=1.0,
    utilization=1.0,
    load=1.0,
    host_power_factor=1.0,
    idle_power_share=0.2,
    prefill_power_share=1.0,
    decode_power_share=0.8,
)


def price(costs: Costs, tdp_w: float = TDP_W) -> float:
    return sum(usd_per_device_hour(costs, tdp_w).values())


def test_by_hand() -> None:
    assert usd_per_device_hour(BY_HAND, TDP_W) == pytest.approx(
        {
            "depreciation": 1.0,  # 43,800 / 5 years / 8,760 h
            "interest": 0.0,
            "maintenance": 0.5,  # 4,380 / 8,760
            "staff": 0.1,  # 876 / 8,760
            "hosting": 0.1,  # 1 kW x 73 x 12 / 8,760
            "electricity": 0.15,  # 1 kW x 1.5 x 0.10
        }
    )


def test_an_hour_of_every_two_by_hand() -> None:
    terms = usd_per_device_hour(replace(BY_HAND, availability=0.8, utilization=0.625), TDP_W)
    assert terms["depreciation"] == pytest.approx(2.0)
    assert terms["hosting"] == pytest.approx(0.2)
    # An hour at 1 kW, and another idle at 0.2 kW.
    assert terms["electricity"] == pytest.approx(1.2 * 1.5 * 0.10)


def test_interest_and_residual_by_hand() -> None:
    """Two years at 10 %: 1,000 is paid back by 576.19 a year, a residual of 500 earns 50."""
    costs = replace(
        BY_HAND,
        capex_usd=1000.0,
        amortization_years=2.0,
        interest_per_year=0.1,
        residual_share=0.5,
    )
    terms = usd_per_device_hour(costs, TDP_W)
    assert terms["depreciation"] * 8760 == pytest.approx(250.0)
    capital = 500 * 0.1 / (1 - 1.1**-2) + 500 * 0.1
    assert (terms["depreciation"] + terms["interest"]) * 8760 == pytest.approx(capital)
    # Paid in and sold, the present value is what was paid.
    assert capital / 1.1 + (capital + 500) / 1.21 == pytest.approx(1000.0)


def test_power_by_hand() -> None:
    costs = replace(BY_HAND, host_power_factor=1.4)
    assert device_power_w(costs, TDP_W, 0.0) == pytest.approx(280.0)
    assert device_power_w(costs, TDP_W, 0.5, 0.8) == pytest.approx(1400 * 0.5)
    assert device_power_w(costs, TDP_W, 1.0) == pytest.approx(1400.0)


SHARES = st.floats(0.0, 1.0)
USED = st.floats(0.05, 1.0)
COSTS = st.builds(
    Costs,
    capex_usd=st.floats(0.0, 1e6),
    amortization_years=st.floats(0.5, 20.0),
    residual_share=SHARES,
    interest_per_year=SHARES,
    maintenance_per_year=SHARES,
    staff_usd_per_year=st.floats(0.0, 1e5),
    hosting_usd_per_kw_month=st.floats(0.0, 1e3),
    electricity_usd_per_kwh=st.floats(0.0, 2.0),
    pue=st.floats(1.0, 3.0),
    carbon_g_per_kwh=st.floats(0.0, 1e3),
    availability=USED,
    utilization=USED,
    load=SHARES,
    host_power_factor=st.floats(1.0, 3.0),
    idle_power_share=st.floats(0.0, 0.5),
    prefill_power_share=st.floats(0.5, 1.0),
    decode_power_share=st.floats(0.5, 1.0),
)

DEARER = (
    "capex_usd",
    "interest_per_year",
    "maintenance_per_year",
    "staff_usd_per_year",
    "hosting_usd_per_kw_month",
    "electricity_usd_per_kwh",
    "pue",
    "load",
    "host_power_factor",
    "idle_power_share",
)
CHEAPER = ("amortization_years", "residual_share", "availability", "utilization")


@given(COSTS, COSTS, st.sampled_from([*DEARER, *CHEAPER]))
def test_the_price_is_monotone_in_every_term(one: Costs, other: Costs, name: str) -> None:
    low, high = sorted([getattr(one, name), getattr(other, name)])
    less, more = (price(replace(one, **{name: value})) for value in (low, high))
    if name in CHEAPER:
        less, more = more, less
    assert less <= more * (1 + 1e-9) + 1e-12


@given(COSTS, st.floats(0.5, 20.0))
def test_without_interest_a_longer_time_is_never_dearer(costs: Costs, years: float) -> None:
    free = replace(costs, interest_per_year=0.0)
    longer = replace(free, amortization_years=free.amortization_years + years)
    assert price(longer) <= price(free) * (1 + 1e-12)
    assert usd_per_device_hour(free, TDP_W)["interest"] <= 1e-9 * price(free)


@given(COSTS)
def test_without_capex_and_electricity_hosting_and_staff_remain(costs: Costs) -> None:
    terms = usd_per_device_hour(replace(costs, capex_usd=0.0, electricity_usd_per_kwh=0.0), TDP_W)
    assert {name for name, usd in terms.items() if usd > 0} <= {"staff", "hosting"}
    used = costs.availability * costs.utilization
    kw = TDP_W * costs.host_power_factor / 1e3
    yearly = costs.staff_usd_per_year + 12 * kw * costs.hosting_usd_per_kw_month
    assert sum(terms.values()) == pytest.approx(yearly / 8760 / used)


@given(COSTS)
def test_a_tiny_rate_of_interest_is_like_none(costs: Costs) -> None:
    none, tiny = (price(replace(costs, interest_per_year=rate)) for rate in (0.0, 2e-9))
    assert tiny == pytest.approx(none, rel=1e-6, abs=1e-9)


@given(COSTS, st.floats(0.01, 100.0))
def test_owning_costs_the_rent_at_the_utilization_of_break_even(costs: Costs, rent: float) -> None:
    found = break_even_utilization(costs, TDP_W, rent)
    if found is None:
        assert price(replace(costs, utilization=1.0)) > rent * (1 - 1e-9)
        return
    assume(found > 1e-6)
    assert price(replace(costs, utilization=found)) == pytest.approx(rent)


@given(COSTS, st.floats(0.01, 100.0))
def test_a_device_pays_back_by_what_it_saves(costs: Costs, rent: float) -> None:
    """Discounted to today, the savings until then are the capex."""
    years = payback_years(costs, TDP_W, rent)
    used = costs.availability * costs.utilization
    terms = usd_per_device_hour(costs, TDP_W)
    running = sum(terms.values()) - terms["depreciation"] - terms["interest"]
    saved = (rent - running) * used * 8760
    rate = costs.interest_per_year
    if years == inf:
        assert saved <= costs.capex_usd * rate + 1e-9 or costs.capex_usd == 0
        return
    assume(years < 500 and costs.capex_usd > 1.0)
    worth = saved * years if rate < 1e-9 else saved * (1 - (1 + rate) ** -years) / rate
    assert worth == pytest.approx(costs.capex_usd, rel=1e-5)


@given(COSTS, st.floats(0.01, 100.0))
def test_a_reserved_device_is_paid_without_work_too(costs: Costs, rent: float) -> None:
    """An hour of it costs the same used or not; one owned costs its price in the used share."""
    most = break_even_reserved(costs, TDP_W, rent)
    for utilization in (0.01, 0.3, 1.0):
        owned = price(replace(costs, utilization=utilization)) * utilization
        if abs(owned - rent) > 1e-6 * rent:
            assert (owned < rent) == (most is not None and utilization <= most)


def test_against_renting_by_hand() -> None:
    # 1.85 an hour in all; of it 1.70 by the calendar, 0.15 of electricity (idle 0.03).
    assert break_even_utilization(BY_HAND, TDP_W, 1.85) == pytest.approx(1.0)
    assert break_even_utilization(BY_HAND, TDP_W, 1.84) is None
    assert break_even_utilization(BY_HAND, TDP_W, 0.1) is None
    assert break_even_utilization(BY_HAND, TDP_W, 3.58) == pytest.approx(0.5)
    # Renting at 5.85 costs 5 an hour more than running an owned device does.
    assert payback_years(BY_HAND, TDP_W, 5.85) == pytest.approx(43_800 / (5 * 8760))
    assert payback_years(BY_HAND, TDP_W, 0.85) == inf
    # Of two hours of rent one would have no work; in it the owned device draws 0.03.
    half = replace(BY_HAND, utilization=0.5)
    saved = payback_years(half, TDP_W, 2.925, reserved=True)
    assert saved == pytest.approx(payback_years(half, TDP_W, 5.85))
    assert break_even_reserved(BY_HAND, TDP_W, 1.85) == pytest.approx(1.0)
    assert break_even_reserved(BY_HAND, TDP_W, 1.72) is None
    gift = replace(BY_HAND, capex_usd=0.0)
    assert payback_years(gift, TDP_W, 0.36) == 0.0
    assert payback_years(gift, TDP_W, 0.34) == inf


def test_electricity_of_a_site() -> None:
    assert usd_per_w_hour(BY_HAND) * 1e3 == pytest.approx(0.15)
