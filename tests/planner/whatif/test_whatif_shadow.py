"""Shadow prices, held against a scan of targets and inventories."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from perfmodel.database import PerfStore
from perfmodel.errors import ConfigError, InputError
from planner.query import Query
from planner.whatif.fields import with_values
from planner.whatif.shadow import ShadowPrices, shadow_prices

Cost = Callable[..., float]
CAPPED = [("slo.ttit", "9ms"), ("slo.ttft", "200ms"), ("devices.h100_sxm.inventory", 8)]
"""Changes under which both targets and the inventory matter."""


@pytest.fixture(scope="module")
def query(two: Query) -> Query:
    return with_values(two, [*CAPPED, ("workload.qps", 300)])


@pytest.fixture(scope="module")
def found(query: Query, store: PerfStore) -> ShadowPrices:
    return shadow_prices(query, within=3.0, store=store)


def _cost(cost: Cost, **changes: object) -> float:
    named = {name.replace("__", "."): value for name, value in changes.items()}
    return cost({**dict(CAPPED), "workload.qps": 300, **named})


def test_today_is_the_planners_answer(found: ShadowPrices, cost: Cost) -> None:
    assert found.today.usd_per_hour == _cost(cost)


def test_the_next_cheaper_fleet_begins_where_it_says(found: ShadowPrices, cost: Cost) -> None:
    priced = 0
    for price in found.targets:
        field = f"slo__{price.name}"
        if price.cheaper is None:
            loosest = _cost(cost, **{field: f"{price.loosest_s}s"})
            assert loosest == price.today.usd_per_hour
            assert price.usd_per_hour_per_ms is None
            continue
        priced += 1
        at, usd = price.cheaper.value, price.cheaper.usd_per_hour
        assert _cost(cost, **{field: f"{at}s"}) == usd < price.today.usd_per_hour
        before = at - 1.01 * max(1e-3 * (at - price.today.value), 1e-5 * price.today.value)
        assert _cost(cost, **{field: f"{before}s"}) == price.today.usd_per_hour
        saved = price.today.usd_per_hour - usd
        per_ms = saved / ((at - price.today.value) * 1e3)
        assert price.usd_per_hour_per_ms == pytest.approx(per_ms)
        assert per_ms > 0
    assert priced


def test_a_tighter_target_costs_nothing_down_to_where_it_says(
    found: ShadowPrices, cost: Cost
) -> None:
    for price in found.targets:
        field, at = f"slo__{price.name}", price.tightest.value
        assert _cost(cost, **{field: f"{at}s"}) == price.today.usd_per_hour
        if price.dearer is not None:
            assert price.dearer.value < at
            beyond = _cost(cost, **{field: f"{price.dearer.value}s"})
            assert beyond == price.dearer.usd_per_hour > price.today.usd_per_hour


def test_hosts_save_what_a_scan_finds(found: ShadowPrices, cost: Cost) -> None:
    (price,) = found.hosts
    today = price.today.usd_per_hour
    scan = [_cost(cost, devices__h100_sxm__inventory=8 * (1 + k)) for k in range(1, 12)]
    fewer = [k for k, usd in enumerate(scan, start=1) if usd < today]
    if price.cheaper is None:
        assert fewer == []
        return
    assert price.further_hosts == fewer[0]
    saved = (today - scan[fewer[0] - 1]) / fewer[0]
    assert price.usd_per_hour_per_host == pytest.approx(saved)


def test_where_nothing_serves_it_says_from_when_on(two: Query, store: PerfStore) -> None:
    few = with_values(
        two,
        [("devices.h100_sxm.inventory", 8), ("devices.l40s.inventory", 0), ("workload.qps", 2000)],
    )
    found = shadow_prices(few, store=store)
    assert found.today.choice is None
    (host,) = found.hosts
    assert host.cheaper is not None
    assert host.further_hosts > 0
    assert host.usd_per_hour_per_host is None
    assert found.to_dict()["usd_per_hour"] is None


def test_bad_questions(make_query: Callable[..., Query], two: Query, store: PerfStore) -> None:
    with pytest.raises(InputError, match="latency target, or an inventory"):
        shadow_prices(make_query(slo={}), store=store)
    with pytest.raises(InputError, match=r"--within: .*above 1, got 1"):
        shadow_prices(two, within=1.0, store=store)
    with pytest.raises(ConfigError, match="below one host"):
        shadow_prices(with_values(two, [("devices.h100_sxm.inventory", 4)]), store=store)
