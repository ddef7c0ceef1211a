"""Break-even prices, and the properties of the least price that they rest on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.database import PerfStore
from perfmodel.errors import InputError
from planner.evaluated import Evaluated, evaluate
from planner.query import Query
from planner.whatif.fields import with_values
from planner.whatif.price import PriceCurve, price_curve

Cost = Callable[..., float]
FEW = settings(max_examples=12, deadline=None)
H100, L40S = "devices.h100_sxm.usd_per_device_hour", "devices.l40s.usd_per_device_hour"
PRICES = st.floats(0.5, 40.0)


@pytest.fixture(scope="module")
def curve(evaluated: Evaluated) -> PriceCurve:
    return price_curve(evaluated, "l40s")


@FEW
@given(PRICES, PRICES, PRICES)
def test_the_least_price_rises_with_each_price(
    cost: Cost, a: float, b: float, other: float
) -> None:
    low, high = sorted((a, b))
    assert cost({L40S: low, H100: other}) <= cost({L40S: high, H100: other}) + 1e-9
    assert cost({H100: low, L40S: other}) <= cost({H100: high, L40S: other}) + 1e-9


@FEW
@given(PRICES, PRICES, st.floats(0.0, 1.0))
def test_the_least_price_is_concave_in_one_price(cost: Cost, a: float, b: float, t: float) -> None:
    between = cost({L40S: t * a + (1 - t) * b})
    chord = t * cost({L40S: a}) + (1 - t) * cost({L40S: b})
    assert between >= chord * (1 - 1e-9)


@FEW
@given(st.floats(5.0, 400.0), st.floats(5.0, 400.0))
def test_the_least_price_rises_with_demand(cost: Cost, a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert cost({"workload.qps": low}) <= cost({"workload.qps": high})


@FEW
@given(st.sampled_from([("ttft", 150.0, 2000.0), ("ttit", 6.0, 120.0)]), st.data())
def test_the_least_price_falls_with_a_looser_target(
    cost: Cost, target: tuple[str, float, float], data: st.DataObject
) -> None:
    name, least, most = target
    tight, loose = sorted(data.draw(st.floats(least, most)) for _ in range(2))
    assert cost({f"slo.{name}": f"{loose}ms"}) <= cost({f"slo.{name}": f"{tight}ms"})


@FEW
@given(st.floats(0.01, 20.0))
def test_the_curve_is_the_least_price_at_any_price(
    cost: Cost, curve: PriceCurve, price: float
) -> None:
    low, high = curve.segments[0].low, curve.segments[-1].high
    if low <= price <= high:
        assert curve.usd_per_hour(price) == pytest.approx(cost({L40S: price}), rel=1e-9)


def test_the_fleet_changes_across_the_break_even_price(
    evaluated: Evaluated, two: Query, curve: PriceCurve
) -> None:
    enters, alone = curve.enters_below, curve.alone_below
    assert enters is not None
    assert alone is not None
    assert alone <= enters

    def devices(price: float) -> set[str]:
        query = with_values(two, [(L40S, price)])
        return {o.device.name for o, _ in evaluated.under(query).fleets(100)[0].hosts}

    assert "l40s" in devices(enters * (1 - 1e-6))
    assert "l40s" not in devices(enters * (1 + 1e-6))
    assert devices(alone * (1 - 1e-6)) == {"l40s"}
    assert devices(alone * (1 + 1e-6)) != {"l40s"}


def test_without_the_device_its_price_no_longer_matters(curve: PriceCurve) -> None:
    assert curve.without is not None
    assert not curve.needed
    assert curve.segments[-1].line.devices == 0
    assert curve.segments[-1].line.fixed == curve.without.usd_per_hour


def test_a_device_that_nothing_replaces(make_query: Callable[..., Query], store: PerfStore) -> None:
    query = make_query(devices=["h100_sxm"])
    curve = price_curve(evaluate(query, store=store), "h100_sxm")
    assert curve.needed
    assert curve.enters_below is None
    assert curve.alone_below == curve.segments[-1].high
    assert curve.to_dict()["needed_at_any_price"]


def test_a_device_that_is_never_worth_it(
    make_query: Callable[..., Query], store: PerfStore
) -> None:
    # An L40S host cannot hold the target that an H100's bandwidth meets.
    query = make_query(
        devices=["h100_sxm", "l40s"], slo={"ttft": "500ms", "ttit": "5ms"}, runtime="continuous"
    )
    curve = price_curve(evaluate(query, store=store), "l40s")
    assert curve.enters_below is None
    assert curve.alone_below is None
    assert curve.today.devices == 0


def test_bad_questions(evaluated: Evaluated, make_query: Callable[..., Query]) -> None:
    with pytest.raises(InputError, match="no device 'b200_sxm' in the query"):
        price_curve(evaluated, "b200_sxm")
    most = make_query(
        devices=[{"name": "h100_sxm", "inventory": 8}, {"name": "l40s", "inventory": 8}],
        workload={"qps": "max"},
    )
    with pytest.raises(InputError, match=r"workload.qps: .*got max"):
        price_curve(evaluated.under(most), "l40s")
