"""Where pairing pays: closed forms against brute force, and real fleets against the form."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from perfmodel.database import PerfStore
from perfmodel.errors import InputError
from planner.evaluated import Evaluated, evaluate
from planner.large_fleet import large_fleets
from planner.query import Query
from planner.rates import matched_qps
from planner.whatif.fields import with_values
from planner.whatif.pairing import Costs, Pairing, bands, pairing
from planner.whatif.report import print_pairing

DEVICES = st.floats(1.0, 50.0)
COSTS = st.builds(
    lambda first, second, mixed: Costs(first, second, tuple((a, b, "") for a, b in mixed)),
    DEVICES,
    DEVICES,
    st.lists(st.tuples(DEVICES, DEVICES), min_size=1, max_size=4),
)
RATIOS = np.geomspace(1e-3, 1e3, 4001)


@given(COSTS, st.sampled_from([0.0, 0.05, 0.15, 0.25]))
def test_regions_are_where_the_saving_exceeds_the_level(costs: Costs, level: float) -> None:
    inside = costs.saving(RATIOS) > level
    region = costs.region(level)
    if region is None:
        assert not inside.any()
        return
    low, high = region
    clear = (np.abs(np.log(RATIOS / low)) > 1e-6) & (np.abs(np.log(RATIOS / high)) > 1e-6)
    expected = (low < RATIOS) & (high > RATIOS)
    assert np.array_equal(inside[clear], expected[clear])


@given(COSTS)
def test_the_greatest_saving_is_where_single_types_cost_the_same(costs: Costs) -> None:
    best = costs.best_ratio
    assert best is not None
    assert costs.first * best == pytest.approx(costs.second)
    assert np.all(costs.saving(RATIOS) <= costs.saving(best) + 1e-9)


@given(COSTS)
def test_bands_lie_side_by_side(costs: Costs) -> None:
    levels = [0.0, 0.05, 0.15, 0.25]
    found = sorted(bands(costs, levels))
    whole = costs.region(0.0)
    if whole is None:
        assert found == []
        return
    assert (found[0][0], found[-1][1]) == pytest.approx(whole)
    for one, other in pairwise(found):
        assert one[1] == pytest.approx(other[0])
    for low, high, least, most in found:
        saving = float(costs.saving((low * high) ** 0.5))
        assert least - 1e-9 <= saving <= most + 1e-9


def test_the_references_pairing() -> None:
    """88 + 77 on A, 85 + 277 on C at equal prices: 88 + 277 serves 67 where A and C do 41, 65."""
    a, c = 1 / matched_qps(88, 77), 1 / matched_qps(85, 277)
    costs = Costs(float(a), float(c), ((1 / 88, 1 / 277, "A to C"), (1 / 77, 1 / 85, "C to A")))
    assert float(costs.saving(1.0)) == pytest.approx(1 - 65.04 / 66.78, rel=2e-2)
    best = costs.best_ratio
    assert best == pytest.approx(41.07 / 65.04, rel=1e-3)
    # A's price is then 0.6315 of C's: (0.6315 / 88 + 1 / 277) * 65.04 = 0.7015.
    assert float(costs.saving(best)) == pytest.approx(1 - 0.7015, abs=2e-4)


@pytest.fixture(scope="module")
def found(evaluated: Evaluated) -> Pairing:
    return pairing(evaluated, "h100_sxm", "l40s")


def test_whole_hosts_are_those_of_the_planner(
    evaluated: Evaluated, two: Query, found: Pairing
) -> None:
    for ratio in (0.5, found.today_ratio, 8.0):
        prices = {"h100_sxm": 2.0 * ratio, "l40s": 2.0}
        query = with_values(
            two, [(f"devices.{d}.usd_per_device_hour", usd) for d, usd in prices.items()]
        )
        fleets = evaluated.under(query).fleets(100)
        mixed = min(f.usd_per_hour for f in fleets if f.kind == "heterogeneous")
        single = min(f.usd_per_hour for f in fleets if f.kind != "heterogeneous")
        assert 2.0 * float(found.hosts.both(ratio)) == pytest.approx(mixed)
        assert 2.0 * float(found.hosts.single(ratio)) == pytest.approx(single)
        assert float(found.hosts.saving(ratio)) == pytest.approx(1 - mixed / single)


def test_at_scale_a_fleet_takes_no_more_than_in_hosts(found: Pairing) -> None:
    """Whole hosts, replicas and waiting only add devices."""
    assert found.scale.first * found.qps <= found.hosts.first
    assert found.scale.second * found.qps <= found.hosts.second
    for ratio in (0.1, 1.0, 10.0):
        assert found.scale.both(ratio) * found.qps <= found.hosts.both(ratio)


def test_at_scale_pairs_are_the_best_of_each_phase(evaluated: Evaluated, found: Pairing) -> None:
    least = {
        (c.role, c.offer.device.name): float((c.world / c.qps).min()) for c in evaluated.candidates
    }
    a, b = "h100_sxm", "l40s"
    pairs = {(round(m[0], 9), round(m[1], 9)) for m in found.scale.mixed}
    assert pairs == {
        (round(least["prefill", a], 9), round(least["decode", b], 9)),
        (round(least["decode", a], 9), round(least["prefill", b], 9)),
    }
    split = least["prefill", a] + least["decode", a]
    assert found.scale.first == pytest.approx(min(split, least["continuous", a]))


def test_plain_data_says_where_it_pays(found: Pairing) -> None:
    data = found.to_dict()
    assert data["devices"] == ["h100_sxm", "l40s"]
    for basis in ("whole_hosts", "at_scale"):
        assert data[basis]["largest_saving"] >= data[basis]["saving_today"]


def test_where_one_type_alone_serves_pairing_may_still_save() -> None:
    """Of 24 first devices alone, or 16 with 8 of the second: it saves from equal prices on."""
    costs = Costs(24.0, np.inf, ((16.0, 8.0, "both"),))
    data = costs.to_dict(3.0, [0.0])
    assert data["saving_today"] == pytest.approx(1 - 56 / 72)
    assert data["ratios_by_saving"] == {"0": [1.0, None]}
    assert costs.best_ratio is None
    json.dumps(data, allow_nan=False)
    hosts = Pairing("a", "b", (3.0, 1.0), 60.0, costs, Costs(24.0, np.inf, ()))
    console = Console(file=io.StringIO(), width=100)
    print_pairing(hosts, console)
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    assert "only a serves alone; pairing saves 22.2% today" in said
    assert "no pairing to compare: served by a alone" in said


def test_bad_questions(evaluated: Evaluated, make_query: Callable[..., Query]) -> None:
    with pytest.raises(InputError, match="h100_sxm twice"):
        pairing(evaluated, "h100_sxm", "h100_sxm")
    with pytest.raises(InputError, match="no device 'mi300x' in the query"):
        pairing(evaluated, "h100_sxm", "mi300x")
    one = make_query(devices=["h100_sxm", "l40s"], workload={"qps": 100}, runtime="continuous")
    with pytest.raises(InputError, match=r"runtime: .*disaggregated"):
        pairing(evaluated.under(one), "h100_sxm", "l40s")


def test_pools_at_scale_have_their_prefixes_in_one_place(
    make_query: Callable[..., Query], store: PerfStore
) -> None:
    """As fleets have them: without a target for first tokens both say the same."""
    query = make_query(
        devices=["h100_sxm", "l40s"],
        workload={"qps": 100, "prefix_cache_hit": 0.5},
        slo={"ttit": "30ms"},
        prefix_cache={"tier": "auto", "tokens": "400k"},
    )
    both = evaluate(query, store=store)
    assert len(both.runs) > 1
    scale = pairing(both, "h100_sxm", "l40s").scale
    fleets = large_fleets(both)
    for name, devices in (("h100_sxm", scale.first), ("l40s", scale.second)):
        alone = [1.0 / f.qps_per_device for f in fleets if set(f.devices) == {name}]
        assert devices == pytest.approx(min(alone))
