"""Placing: what shared hosts are counted to hold can be packed into them, and no more can."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.catalog import combinations
from planner.catalog.assignment import Option, Supply, assign
from planner.catalog.hosts_over_time import Family, Rental
from planner.catalog.placing import supply_of, taken
from planner.catalog.scheduling import schedule
from planner.catalog.services import Catalog
from planner.fleet import hosts_needed

KEY = ("d", "")
POOL = st.tuples(st.just("d"), st.sampled_from((1, 4, 8, 16, 32, 64)), st.integers(1, 5))


def supply(size: int, spare: int) -> tuple[Supply, dict[Any, Any]]:
    offer: Any = SimpleNamespace(host_devices=size, usd_per_device_hour=1.0)
    catalog = Catalog((), {}, spare_hosts=spare)
    return supply_of(catalog, KEY, offer, [KEY]), {KEY: offer}


@given(
    services=st.lists(st.lists(POOL, min_size=1, max_size=2), min_size=1, max_size=3),
    size=st.sampled_from((4, 8, 12, 24, 72)),
    spare=st.integers(0, 1),
)
@settings(max_examples=100, deadline=None)
def test_hosts_are_as_many_as_replicas_pack_into(
    services: list[list[tuple[str, int, int]]], size: int, spare: int
) -> None:
    """Counted in whole hosts by the assignment, and by both ways of the schedule."""
    services = [[pool for pool in pools if pool[1] <= size] for pools in services]
    services = [pools for pools in services if pools]
    replicas: Counter[int] = Counter()
    for _, world, count in (pool for pools in services for pool in pools):
        replicas[world] += count
    if not replicas:
        return
    kind, offers = supply(size, spare)
    parts = [taken(pools, "", [KEY], offers, True) for pools in services]
    expected = hosts_needed(replicas, size) + spare
    found = assign([kind], [[Option(h, d, 0.0, large)] for h, d, large in parts])
    assert found is not None
    assert found.hosts == (expected,)
    families = [[Family(*(np.array([x]) for x in p[:2]), large=np.array([p[2]]))] for p in parts]
    for cells in (combinations.MOST_CELLS, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(combinations, "MOST_CELLS", cells)
            planned = schedule([kind], [Rental(None)], families)
        assert planned is not None
        assert planned.reserved.tolist() == [expected]
