"""Encoder pools: how they are sized, what they cost, and when they are chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from planner.choice import Pool, make_choice
from planner.encoder import (
    ADMISSION_SHARE,
    apart,
    beside,
    encoder_pool,
    encoder_pools,
    fleets_with_encoder,
)
from planner.encoder_pool import EncoderPool
from planner.plan import Plan
from planner.sweep import Space

SpaceOf = Callable[..., Space]
Solved = Callable[..., Plan]

IMAGES = {"per_request": 4, "width": 1920, "height": 1080}
VISUAL: dict[str, Any] = {
    "model": "Qwen/Qwen3-VL-8B-Instruct",
    "workload": {"qps": 40, "input_tokens": 200, "output_tokens": 20, "images": IMAGES},
    "slo": {"ttft": "2s", "ttit": "40ms"},
    "devices": ["h100_sxm", {"name": "l40s", "usd_per_device_hour": 0.5, "host_devices": 1}],
    "runtime": "continuous",
    "search": {"max_replica_devices": 2},
}


def pools(space: Space, qps: float) -> dict[str, EncoderPool]:
    receiver = space.problem.offers[0]
    return {pool.offer.device.name: pool for pool in encoder_pools(space, receiver, qps)}


def test_pools_meet_the_demand_promptly(space_of: SpaceOf) -> None:
    space = space_of(**VISUAL)
    small, large = pools(space, 4.0), pools(space, 40.0)
    assert set(small) == {"h100_sxm", "l40s"}
    for name, pool in large.items():
        assert pool.replicas > small[name].replicas
        assert pool.service_s == small[name].service_s
        assert pool.qps * space.problem.max_utilization >= 40.0
        assert pool.waiting_s <= ADMISSION_SHARE * 2.0
        fewer = encoder_pool(space, name, "h100_sxm", pool.replicas - 1, 40.0)
        assert fewer is not None
        late = fewer.waiting_s > ADMISSION_SHARE * 2.0
        assert late or fewer.qps * space.problem.max_utilization < 40.0
        assert sum(pool.kinds.values()) == pytest.approx(pool.service_s)
    # Less arithmetic, slower; the network of the slower side carries the embeddings.
    assert large["l40s"].service_s > large["h100_sxm"].service_s
    assert large["l40s"].transfer_s > large["h100_sxm"].transfer_s
    assert encoder_pool(space, "unheard_of", "h100_sxm", 1, 1.0) is None


def test_the_space_apart_has_no_encoder(space_of: SpaceOf) -> None:
    space = space_of(**VISUAL)
    bare = apart(space)
    assert bare.problem.traffic.vision is None
    assert bare.problem.traffic.inputs == space.problem.traffic.inputs
    assert space.problem.traffic.vision is not None, "the space itself is left alone"
    pool = pools(space, 40.0)["l40s"]
    handled = beside(bare, pool).problem.least_handling_s - bare.problem.least_handling_s
    assert handled == pytest.approx(pool.delay_s)
    offer, precision = next(iter(space.pairs()))
    layouts = space.layouts
    with_encoder = space.evaluate("continuous", offer, precision, layouts)
    without = bare.evaluate("continuous", offer, precision, layouts)
    assert len(without) >= len(with_encoder)
    assert without.qps.max() > with_encoder.qps.max()


def test_only_the_devices_named_encode(space_of: SpaceOf) -> None:
    space = space_of(**VISUAL)
    bare = apart(space)
    found = [bare.evaluate("continuous", *pair, bare.layouts) for pair in bare.pairs()]
    for name in ("h100_sxm", "l40s"):
        fleets = fleets_with_encoder(space, found, 40.0, encoders=(name,))
        assert fleets
        assert {f.encoder.offer.device.name for f in fleets if f.encoder} == {name}
    assert fleets_with_encoder(space, found, 40.0, encoders=()) == []


def test_encoders_share_hosts_with_their_own_kind(space_of: SpaceOf) -> None:
    space = space_of(**VISUAL)
    offer, precision = next(iter(space.pairs()))
    bare = apart(space)
    found = bare.evaluate("continuous", offer, precision, bare.layouts)
    main = [Pool(found, 0, 2)]
    same, other = pools(space, 4.0)["h100_sxm"], pools(space, 4.0)["l40s"]
    assert main[0].world * 2 + same.replicas <= 8
    alone, shared = make_choice(main), make_choice(main, encoder=same)
    assert alone is not None
    assert shared is not None
    assert shared.usd_per_hour == alone.usd_per_hour
    mixed = make_choice(main, encoder=other)
    assert mixed is not None
    assert mixed.usd_per_hour == alone.usd_per_hour + 0.5 * other.replicas


def test_a_pool_is_chosen_only_if_cheaper(solved: Solved) -> None:
    either = {
        where: solved(**VISUAL, encoder=where).best for where in ("colocated", "disaggregated")
    }
    chosen = solved(**VISUAL, encoder="auto")
    assert chosen.best.usd_per_hour == min(fleet.usd_per_hour for fleet in either.values())
    # With devices as cheap as these for the encoder, one pays.
    assert either["disaggregated"].usd_per_hour < either["colocated"].usd_per_hour
    assert chosen.best.encoder is not None
    assert chosen.best.encoder.device == "l40s"
    assert not chosen.search.proven
    # Two requests per second leave a host idle anyway: then the encoder stays where it is.
    few = {**VISUAL, "workload": {**VISUAL["workload"], "qps": 2}, "devices": ["h100_sxm"]}
    assert solved(**few, encoder="auto").best.encoder is None


def test_the_parts_of_a_fleet_with_an_encoder_pool(solved: Solved) -> None:
    best = solved(**VISUAL, encoder="disaggregated").best
    encoder, ttft = best.encoder, best.ttft
    assert encoder is not None
    assert ttft.encoder_s == 0
    assert ttft.encoder_pool_s == pytest.approx(
        encoder.service_s + encoder.waiting_s + encoder.transfer_s
    )
    parts = ttft.service_s + ttft.waiting_s + ttft.admission_s + ttft.handling_s + ttft.transfer_s
    assert ttft.mean_s == pytest.approx(parts + ttft.encoder_pool_s)
    assert ttft.mean_s <= 2.0
    assert sum(encoder.time_by_kind.values()) == pytest.approx(1.0)
    used = {host.device: host.used_devices for host in best.hosts}
    main = sum(pool.replicas * pool.devices_per_replica for pool in best.pools)
    assert sum(used.values()) == main + encoder.replicas
    assert best.capacity_qps <= encoder.replicas * encoder.qps_per_replica
    spent = sum(host.devices * host.usd_per_device_hour for host in best.hosts)
    assert best.usd_per_hour == pytest.approx(spent)


def test_inventory_bounds_the_pool(space_of: SpaceOf) -> None:
    devices = [{"name": "h100_sxm", "inventory": 8}, {"name": "l40s", "inventory": 8}]
    space = space_of(**{**VISUAL, "devices": devices})
    assert "l40s" not in pools(space, 40.0)
    assert set(pools(space, 1.0)) == {"h100_sxm", "l40s"}


def test_an_encoder_joins_the_hosts_of_the_pools_beside_it(solved: Solved) -> None:
    """Among equal prices the pools that leave it room: its device costs no host of its own."""
    query = {
        "model": "Qwen/Qwen3-VL-8B-Instruct",
        "workload": {"qps": 5, "input_tokens": 500, "output_tokens": 50, "images": IMAGES},
        "slo": {"ttft": "2s", "ttit": "40ms"},
        "devices": ["h100_sxm"],
        "encoder": "disaggregated",
        "search": {"max_replica_devices": 4},
    }
    best = solved(**query).best
    assert best.encoder is not None
    used = sum(pool.replicas * pool.devices_per_replica for pool in best.pools)
    assert used + best.encoder.replicas <= 8
    assert [host.hosts for host in best.hosts] == [1]
