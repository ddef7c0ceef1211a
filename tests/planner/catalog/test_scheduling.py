"""Schedules: known answers, what every price and limit does, brute force on small ones."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import ceil, inf
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.catalog import combinations
from planner.catalog.assignment import Option, Supply, assign
from planner.catalog.hosts_over_time import Family, Rental, cheapest_hosts
from planner.catalog.inventories import Total
from planner.catalog.program import Program
from planner.catalog.scheduling import Schedule, schedule

A = Supply("a", 8, 10.0)
DAY = Rental(20.0)
ONLY_RESERVED = Rental(None)


def devices(*by_slot: int) -> Family:
    """Of one supply, on hosts that may be shared."""
    counts = np.array(by_slot)[:, None]
    return Family(np.zeros_like(counts), counts)


def hosts(*by_slot: int) -> Family:
    counts = np.array(by_slot)[:, None]
    return Family(counts, np.zeros_like(counts))


def solved(*services: list[Family], supply: Supply = A, rental: Rental = DAY) -> Schedule:
    """By both ways, which agree."""
    found, other = both([supply], [rental], list(services))
    assert found is not None
    assert other is not None
    assert found.gap == pytest.approx(0.0, abs=1e-6)
    assert other.usd_per_hour == pytest.approx(found.usd_per_hour)
    return found


def both(*arguments: Any, **options: Any) -> tuple[Schedule | None, Schedule | None]:
    """The schedule of all combinations, and that of the integer program."""
    found = schedule(*arguments, gap=0.0, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(combinations, "MOST_CELLS", 0)
        return found, schedule(*arguments, gap=0.0, **options)


def test_a_host_is_reserved_from_the_share_of_slots_at_which_that_is_cheaper() -> None:
    """At half the price on demand: hosts that more than half of the slots need."""
    found = solved([hosts(1, 2, 3, 3)], supply=replace(A, usd_per_host_hour=11.0))
    assert found.reserved.tolist() == [2]
    assert found.on_demand[:, 0].tolist() == [0, 0, 1, 1]
    assert found.usd_per_hour == pytest.approx(2 * 11 + 20 * 2 / 4)


def test_services_whose_peaks_are_opposite_share_what_is_reserved() -> None:
    day, night = hosts(4, 4, 1, 1), hosts(1, 1, 4, 4)
    assert solved([day], [night]).usd_per_hour == pytest.approx(5 * 10)
    assert solved([day], [day]).usd_per_hour == pytest.approx(2 * 10 + 6 * 20 / 2)


def test_small_replicas_share_a_host_in_the_slots_in_which_they_fit() -> None:
    found = solved([devices(4, 8)], [devices(4, 4)], rental=Rental(10.0))
    assert (found.reserved + found.on_demand[:, 0]).tolist() == [1, 2]


def test_on_demand_at_the_reserved_price_reserves_nothing_and_costs_the_sum_over_slots() -> None:
    found = solved([hosts(1, 2, 3, 6)], rental=Rental(10.0))
    assert found.reserved.tolist() == [0]
    assert found.usd_per_hour == pytest.approx(10.0 * 12 / 4)


def test_reserved_hosts_alone_are_those_of_the_peak() -> None:
    found = solved([hosts(1, 2, 3, 6)], rental=ONLY_RESERVED)
    assert found.reserved.tolist() == [6]
    assert not found.on_demand.any()
    assert found.usd_per_hour == pytest.approx(60.0)


def test_reserving_at_more_than_the_price_on_demand_is_never_worth_it() -> None:
    found = solved([hosts(2, 2, 2, 2)], rental=Rental(9.0))
    assert found.reserved.tolist() == [0]
    assert found.usd_per_hour == pytest.approx(18.0)


def test_a_family_is_chosen_for_all_slots() -> None:
    """The first is cheaper by day, the second by night, and over both."""
    by_day, by_night = hosts(2, 2, 2, 2), hosts(4, 1, 1, 1)
    found = solved([by_day, by_night], rental=Rental(10.0))
    assert found.chosen == (1,)
    assert found.usd_per_hour == pytest.approx(10.0 * 7 / 4)


def test_hosts_on_demand_have_a_least_time() -> None:
    spikes = hosts(0, 1, 0, 0, 0, 1, 0, 0)
    dear = replace(A, usd_per_host_hour=100.0)
    prices = [
        solved([spikes], supply=dear, rental=Rental(20.0, least)).usd_per_hour
        for least in (1, 2, 4, 8)
    ]
    assert prices == pytest.approx([20 * 2 / 8, 20 * 4 / 8, 20 * 5 / 8, 20.0])


def test_inventories_hold_in_every_slot() -> None:
    short = replace(A, inventory=4)
    much, little = [[hosts(4, 1)], [hosts(1, 4)]], [[hosts(3, 1)], [hosts(1, 3)]]
    assert both([short], [DAY], much) == (None, None)
    assert None not in both([short], [DAY], little)
    for beyond in both([short], [DAY], [*much, [hosts(9, 9), hosts(1, 1)]], beyond_inventory=True):
        assert beyond is not None
        assert beyond.chosen == (0, 0, 1)
        assert (beyond.reserved + beyond.on_demand).max() == 6


def test_spare_hosts_stand_beside_work_alone() -> None:
    spare = replace(A, spare=1)
    found = solved([hosts(2, 0)], supply=spare, rental=Rental(10.0))
    assert (found.reserved + found.on_demand[:, 0]).tolist() == [3, 0]


def test_services_that_belong_together() -> None:
    two = [A, replace(A, name="b")]
    here = Family(np.array([[1, 0]]), np.zeros((1, 2), dtype=int))
    there = Family(np.array([[0, 2]]), np.zeros((1, 2), dtype=int))
    for group, chosen in ([], (0, 0)), ([[0, 1]], (1, 0)):
        for found in both(two, [DAY, DAY], [[here, there], [there]], group):
            assert found is not None
            assert found.chosen == chosen


def test_a_service_without_families() -> None:
    with pytest.raises(ValueError, match="without families"):
        schedule([A], [DAY], [[]])


Case = tuple[list[Supply], list[Rental], list[list[Family]]]


@st.composite
def cases(draw: st.DrawFn, least: int = 1) -> Case:
    kinds, slots = draw(st.integers(1, 2)), draw(st.integers(1, 4))
    price = st.integers(1, 20).map(float)
    supplies = [
        Supply(
            str(k),
            draw(st.sampled_from([2, 4])),
            draw(price),
            draw(st.none() | st.integers(0, 6)),
            draw(st.integers(0, 1)),
        )
        for k in range(kinds)
    ]
    rentals = [Rental(draw(st.none() | price), draw(st.integers(1, least))) for _ in range(kinds)]

    def table(most: int) -> st.SearchStrategy[np.ndarray]:
        cells = st.lists(st.integers(0, most), min_size=slots * kinds, max_size=slots * kinds)
        return cells.map(lambda values: np.array(values).reshape(slots, kinds))

    families = st.builds(Family, table(2), table(3), st.integers(0, 5).map(float))
    services = st.lists(st.lists(families, min_size=1, max_size=2), min_size=1, max_size=3)
    return supplies, rentals, draw(services)


def may_stop(on_demand: tuple[int, ...], least: int) -> bool:
    """Whether hosts, the oldest stopped first, have all run for their least time; day by day."""
    ages = [least] * on_demand[-1]
    for count in on_demand * 4:
        ages = sorted((age + 1 for age in ages), reverse=True)
        while len(ages) > count:
            if ages.pop(0) < least:
                return False
        ages += [0] * (count - len(ages))
    return True


def least_price(supply: Supply, rental: Rental, taken: list[int]) -> float:
    needed = [ceil(t / supply.host_devices) + (supply.spare if t else 0) for t in taken]
    if supply.inventory is not None and max(needed) > supply.inventory:
        return inf
    best = supply.usd_per_host_hour * max(needed)
    if rental.usd_per_host_hour is None:
        return best
    most = max(needed) if supply.inventory is None else supply.inventory
    for reserved in range(max(needed) + 1):
        for rented in product(*[range(max(needed) + 1)] * len(needed)):
            enough = all(reserved + o >= n for o, n in zip(rented, needed, strict=True))
            if not enough or reserved + max(rented) > most:
                continue
            if rental.least_slots > 1 and not may_stop(rented, rental.least_slots):
                continue
            price = reserved * supply.usd_per_host_hour
            best = min(best, price + rental.usd_per_host_hour * sum(rented) / len(rented))
    return best


def brute_force(case: Case) -> float:
    supplies, rentals, services = case
    best = inf
    for chosen in product(*services):
        price = sum(f.usd_per_hour for f in chosen)
        for k, (supply, rental) in enumerate(zip(supplies, rentals, strict=True)):
            taken = sum(f.hosts[:, k] * supply.host_devices + f.devices[:, k] for f in chosen)
            price += least_price(supply, rental, np.asarray(taken).tolist())
        best = min(best, price)
    return best


@settings(max_examples=40)
@given(case=cases())
def test_nothing_is_cheaper_than_what_is_found(case: Case) -> None:
    _check(case)


@settings(max_examples=25)
@given(case=cases(least=3))
def test_nor_where_hosts_on_demand_have_a_least_time(case: Case) -> None:
    _check(case)


def test_what_is_reserved_in_one_region_is_lacking_in_another() -> None:
    """Day in one region and night in the other: five hosts in all, of which one each is idle."""
    two = [replace(A, usd_per_host_hour=10.0), replace(A, name="b", usd_per_host_hour=10.0)]
    services = [
        [Family(np.array([[4, 0], [1, 0]]), np.zeros((2, 2), dtype=int))],
        [Family(np.array([[0, 1], [0, 4]]), np.zeros((2, 2), dtype=int))],
    ]
    rentals = [Rental(24.0), Rental(24.0)]
    free, _ = both(two, rentals, services)
    assert free is not None
    assert free.reserved.tolist() == [4, 4]
    for found in both(two, rentals, services, totals=[Total("a", (0, 1), 40)]):
        assert found is not None
        assert found.reserved.tolist() == [1, 1]
        assert found.usd_per_hour == pytest.approx(2 * 10 + 2 * 3 * 24 / 2)
        assert found.gap == pytest.approx(0.0, abs=1e-6)
    assert both(two, rentals, services, totals=[Total("a", (0, 1), 39)]) == (None, None)


def hosts_and_prices(supply: Supply, rental: Rental, taken: Any) -> list[tuple[Any, float]]:
    """For every number reserved: hosts by slot, and their price."""
    needed = -(-taken // supply.host_devices) + np.where(taken > 0, supply.spare, 0)
    rented = rental.usd_per_host_hour
    least = int(needed.max()) if rented is None else 0
    found = []
    for reserved in range(least, int(needed.max()) + 1):
        had = np.maximum(needed, reserved)
        price = reserved * supply.usd_per_host_hour + (rented or 0.0) * (had - reserved).mean()
        if supply.inventory is None or had.max() <= supply.inventory:
            found.append((had, float(price)))
    return found


@settings(max_examples=40)
@given(case=cases(), devices=st.integers(0, 24))
def test_nothing_is_cheaper_within_what_regions_have_together(case: Case, devices: int) -> None:
    supplies, rentals, services = case
    total = Total("all", tuple(range(len(supplies))), devices)
    best = inf
    for chosen in product(*services):
        ways = [
            hosts_and_prices(
                supply,
                rental,
                sum(f.hosts[:, k] * supply.host_devices + f.devices[:, k] for f in chosen),
            )
            for k, (supply, rental) in enumerate(zip(supplies, rentals, strict=True))
        ]
        for way in product(*ways):
            used = sum(had * s.host_devices for (had, _), s in zip(way, supplies, strict=True))
            if np.max(used) <= devices:
                price = sum(p for _, p in way) + sum(f.usd_per_hour for f in chosen)
                best = min(best, price)
    for found in both(*case, totals=[total]):
        if found is None:
            assert best == inf
        else:
            _check_schedule(case, found, best)
            hosts = found.reserved + found.on_demand
            assert (hosts @ [s.host_devices for s in supplies]).max() <= devices


def _check(case: Case) -> None:
    best = brute_force(case)
    for found in both(*case):
        if found is None:
            assert best == inf
        else:
            _check_schedule(case, found, best)


def _check_schedule(case: Case, found: Schedule, best: float) -> None:
    supplies, _, services = case
    assert found.usd_per_hour == pytest.approx(best, abs=1e-6)
    assert found.bound_usd_per_hour <= best + 1e-6
    hosts = found.reserved + found.on_demand
    chosen = [families[i] for families, i in zip(services, found.chosen, strict=True)]
    for k, supply in enumerate(supplies):
        taken = sum(f.hosts[:, k] * supply.host_devices + f.devices[:, k] for f in chosen)
        spare = np.where(taken > 0, supply.spare, 0)
        assert np.all((hosts[:, k] - spare) * supply.host_devices >= taken)
        assert supply.inventory is None or hosts[:, k].max() <= supply.inventory


@settings(max_examples=30)
@given(case=cases(), seed=st.integers(0, 9))
def test_what_is_improved_costs_no_less_with_another_family_of_one_service(
    case: Case, seed: int
) -> None:
    supplies, rentals, services = case
    program = Program([replace(s, inventory=None) for s in supplies], rentals, services)

    def price(chosen: np.ndarray) -> float:
        taken = program.used[:, chosen].sum(axis=1)[:, :, None]
        hosts = sum(program.prices(taken[:, k], k)[0] for k in range(taken.shape[1]))
        return float(hosts + program.besides[chosen].sum())

    rng = np.random.default_rng(seed)
    of_service = [np.flatnonzero(program.owner == i) for i in range(len(services))]
    start = np.array([rng.choice(own) for own in of_service])
    found = program.improved(start, (), 60.0)
    assert price(found) <= price(start) + 1e-9
    for own in of_service:
        for family in own:
            other = np.where(np.isin(found, own), family, found)
            assert price(other) >= price(found) * (1 - 1e-8)
    together = program.improved(start, [list(range(len(services)))], 60.0)
    assert together.tolist() == start.tolist()


@settings(max_examples=30)
@given(case=cases(), slots=st.integers(1, 3))
def test_demand_that_does_not_change_is_an_assignment(case: Case, slots: int) -> None:
    supplies, _, services = case
    first = [
        [Option(tuple(f.hosts[0]), tuple(f.devices[0]), f.usd_per_hour) for f in families]
        for families in services
    ]
    same = [
        [
            Family(
                np.tile(f.hosts[:1], (slots, 1)), np.tile(f.devices[:1], (slots, 1)), f.usd_per_hour
            )
            for f in families
        ]
        for families in services
    ]
    dear = [Rental(s.usd_per_host_hour * 1.5) for s in supplies]
    found = schedule(supplies, dear, same, gap=0.0)
    known = assign(supplies, first, gap=0.0)
    assert (found is None) == (known is None)
    if found is None or known is None:
        return
    assert found.usd_per_hour == pytest.approx(known.usd_per_hour, abs=1e-6)
    assert not found.on_demand.any()


@given(
    needed=st.lists(st.integers(0, 9), min_size=1, max_size=12),
    reserved=st.integers(1, 20),
    on_demand=st.integers(1, 20),
)
def test_the_hosts_to_reserve_are_the_best_of_all_counts(
    needed: list[int], reserved: int, on_demand: int
) -> None:
    supply, rental = Supply("a", 8, float(reserved)), Rental(float(on_demand))
    weights = np.full(len(needed), 1 / len(needed))
    found, rented = cheapest_hosts([supply], [rental], np.array(needed)[:, None], weights)
    prices = [
        reserved * r + on_demand * sum(max(n - r, 0) for n in needed) / len(needed)
        for r in range(11)
    ]
    assert found[0] * reserved + on_demand * rented.mean() == pytest.approx(min(prices))
