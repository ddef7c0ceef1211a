"""Assignments: known answers, brute force on small ones, and what each limit does."""

from __future__ import annotations

from itertools import product
from math import ceil, inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.catalog.assignment import Option, Supply, assign
from planner.catalog.inventories import Total

A, B = Supply("a", 8, 80.0), Supply("b", 8, 100.0)


def whole(a: int, b: int = 0) -> Option:
    return Option((a, b), (0, 0))


def shared(a: int, b: int = 0) -> Option:
    return Option((0, 0), (a, b))


def test_each_service_takes_its_cheapest_where_there_is_enough() -> None:
    found = assign([A, B], [[whole(2), whole(0, 1)], [whole(1), whole(0, 1)]])
    assert found is not None
    assert found.chosen == (1, 0)
    assert found.hosts == (1, 1)
    assert found.usd_per_hour == 180.0
    assert found.gap == pytest.approx(0.0, abs=1e-6)


def test_services_share_a_host_where_they_may() -> None:
    found = assign([A, B], [[shared(4)], [shared(3)], [shared(1)]])
    assert found is not None
    assert found.hosts == (1, 0)
    alone = assign([A, B], [[whole(1)], [whole(1)], [whole(1)]])
    assert alone is not None
    assert alone.hosts == (3, 0)


def test_scarce_hosts_go_to_who_gains_most_by_them() -> None:
    """Two hosts of `a`: the first service would need five of `b` instead, the second three."""
    short = Supply("a", 8, 80.0, inventory=2)
    found = assign([short, B], [[whole(2), whole(0, 5)], [whole(2), whole(0, 3)]])
    assert found is not None
    assert found.chosen == (0, 1)
    assert found.usd_per_hour == 2 * 80 + 3 * 100


def test_spare_hosts_are_paid_where_anything_runs() -> None:
    spare = [Supply("a", 8, 80.0, spare=2), Supply("b", 8, 100.0, spare=2)]
    found = assign(spare, [[whole(3)], [whole(1), whole(0, 1)]])
    assert found is not None
    # Beside `a`'s, `b`'s spare hosts would be paid too.
    assert found.hosts == (6, 0)
    assert found.usd_per_hour == 480.0


def test_services_that_belong_together() -> None:
    options = [[whole(1), whole(0, 2)], [whole(9), whole(0, 1)]]
    apart, together = assign([A, B], options), assign([A, B], options, [[0, 1]])
    assert apart is not None
    assert together is not None
    assert apart.chosen == (0, 1)
    assert together.chosen == (1, 1)
    assert together.usd_per_hour == 300.0 > apart.usd_per_hour


def test_moving_has_its_price() -> None:
    stay = Option((2, 0), (0, 0))
    move = Option((0, 1), (0, 0), usd_per_hour=70.0)
    found = assign([A, B], [[stay, move]])
    assert found is not None
    assert found.chosen == (0,)


def test_too_little_of_everything() -> None:
    short = [Supply("a", 8, 80.0, inventory=1), Supply("b", 8, 100.0, inventory=0)]
    options = [[whole(2), whole(0, 2)], [whole(1)]]
    assert assign(short, options) is None
    beyond = assign(short, options, beyond_inventory=True)
    assert beyond is not None
    # Two hosts of `a` (160) are missing rather than two of `b` (200).
    assert beyond.hosts == (3, 0)


def test_what_regions_have_together_goes_to_who_gains_most_by_it() -> None:
    """Two hosts of 8 in whichever region; beside them `b` costs one service more than the other."""
    eu, us, b = Supply("a in eu", 8, 80.0), Supply("a in us", 8, 80.0), Supply("b", 8, 100.0)
    total = [Total("a", (0, 1), 16)]
    services = [
        [Option((2, 0, 0), (0, 0, 0)), Option((0, 0, 5), (0, 0, 0))],
        [Option((0, 2, 0), (0, 0, 0)), Option((0, 0, 3), (0, 0, 0))],
    ]
    found = assign([eu, us, b], services, totals=total)
    assert found is not None
    assert found.hosts == (2, 0, 3)
    # One host more of all regions, for which nothing else is cheap enough, rather than three of b.
    short = [eu, us, Supply("b", 8, 100.0, inventory=0)]
    assert assign(short, services, totals=total) is None
    beyond = assign(short, services, totals=total, beyond_inventory=True)
    assert beyond is not None
    assert beyond.hosts == (2, 2, 0)
    # A host that a region lacks is one that all lack, and paid for once: the other region's fits.
    capped = [Supply("a in eu", 8, 80.0, inventory=1), us, short[2]]
    both = assign(capped, services[:1], totals=[Total("a", (0, 1), 8)], beyond_inventory=True)
    assert both is not None
    assert both.hosts == (2, 0, 0)


def test_a_service_without_options() -> None:
    with pytest.raises(ValueError, match="without options"):
        assign([A], [[]])


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[Supply], list[list[Option]], list[Total]]:
    kinds = draw(st.integers(1, 3))
    supplies = [
        Supply(
            str(k),
            draw(st.sampled_from([2, 4, 8])),
            float(draw(st.integers(1, 20))),
            draw(st.none() | st.integers(0, 6)),
            draw(st.integers(0, 1)),
        )
        for k in range(kinds)
    ]
    few = st.integers(0, 3)
    options = st.builds(
        Option,
        st.tuples(*[few] * kinds),
        st.tuples(*[st.integers(0, 6)] * kinds),
        st.integers(0, 10).map(float),
    )
    services = draw(st.lists(st.lists(options, min_size=1, max_size=3), min_size=1, max_size=4))
    totals = st.builds(Total, st.just("all"), st.just(tuple(range(kinds))), st.integers(0, 60))
    return supplies, services, draw(st.lists(totals, max_size=1))


def price(supplies: list[Supply], chosen: tuple[Option, ...], totals: list[Total]) -> float:
    total = sum(o.usd_per_hour for o in chosen)
    devices = 0
    for k, supply in enumerate(supplies):
        hosts = sum(o.hosts[k] for o in chosen)
        hosts += ceil(sum(o.devices[k] for o in chosen) / supply.host_devices)
        hosts += supply.spare if hosts else 0
        if supply.inventory is not None and hosts > supply.inventory:
            return inf
        total += hosts * supply.usd_per_host_hour
        devices += hosts * supply.host_devices
    return inf if totals and devices > totals[0].devices else total


@settings(max_examples=60)
@given(problem=problems())
def test_nothing_is_cheaper_than_what_is_found(
    problem: tuple[list[Supply], list[list[Option]], list[Total]],
) -> None:
    supplies, services, totals = problem
    best = min(price(supplies, chosen, totals) for chosen in product(*services))
    found = assign(supplies, services, totals=totals, gap=0.0)
    if found is None:
        assert best == inf
        return
    taken = tuple(options[i] for options, i in zip(services, found.chosen, strict=True))
    assert found.usd_per_hour == pytest.approx(best, abs=1e-6)
    assert price(supplies, taken, totals) == pytest.approx(best, abs=1e-6)
    assert found.bound_usd_per_hour <= best + 1e-6
