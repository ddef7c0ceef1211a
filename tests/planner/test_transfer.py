"""KV transfer in a fleet: what it adds to first tokens, and how it fills links."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from planner.candidates import Candidates
from planner.explain import explain_plan
from planner.plan import Plan
from planner.problem import Problem
from planner.report import print_plan
from planner.transfer import (
    least_sender_replicas,
    receiver_replicas,
    sender_replicas,
    transfer_s,
)

PoolsOf = Callable[..., list[Candidates]]
ProblemOf = Callable[..., Problem]
LAYERWISE = {"kv_transfer": {"overlap": "layerwise"}}
PAYLOAD = 36 * 8 * 128 * 2 * 2 * 1000
"""Cache of Qwen3 8B: 36 layers x 8 KV heads x 128 x (key and value) x 2 bytes, 1,000 tokens."""


def pair(pools: list[Candidates]) -> tuple[Candidates, Candidates]:
    p, d = (next(c for c in pools if c.role == role) for role in ("prefill", "decode"))
    return p, d


def test_moving_a_cache(pools_of: PoolsOf, problem_of: ProblemOf) -> None:
    p, d = pair(pools_of())
    moving = transfer_s(problem_of(), p, d)
    assert moving.shape == (len(p), len(d))
    alone = [np.flatnonzero((c.world == 1) & (c.batch == 1))[0] for c in (p, d)]
    assert moving[alone[0], alone[1]] == pytest.approx(PAYLOAD / 40e9 + 5e-6)
    batches = np.flatnonzero(p.world == 1)
    assert np.allclose(moving[batches, alone[1]] - 5e-6, p.batch[batches] * PAYLOAD / 40e9)


def test_layer_by_layer_is_never_slower(pools_of: PoolsOf, problem_of: ProblemOf) -> None:
    p, d = pair(pools_of())
    apart, overlapped = (transfer_s(problem_of(**c), p, d) for c in ({}, LAYERWISE))
    assert np.all(overlapped <= apart * (1 + 1e-12))
    assert np.median(overlapped / apart) < 0.1
    # The last layer of the mean prompt arrives after it is computed, in up to four parts.
    assert overlapped.min() >= PAYLOAD / 36 / 4 / 40e9


def test_a_cached_prefix_is_not_moved(pools_of: PoolsOf, problem_of: ProblemOf) -> None:
    p, d = pair(pools_of())
    cached = {"workload": {"prefix_cache_hit": 0.8}}
    times = [transfer_s(problem_of(**c), p, d) - 5e-6 for c in ({}, cached)]
    assert np.median(times[1] / times[0]) == pytest.approx(0.2, rel=0.02)


def test_links_bound_the_load(pools_of: PoolsOf, problem_of: ProblemOf) -> None:
    problem = problem_of()
    p, d = pair(pools_of())
    row, column = (np.flatnonzero(c.world == 1)[:1] for c in (p, d))
    p, d = p.take(row), d.take(column)
    qps = 1000.0
    needed = int(np.ceil(qps * PAYLOAD / 40e9 / 0.95))
    assert sender_replicas(problem, p, d, qps).tolist() == [[needed]]
    assert receiver_replicas(problem, d, qps).tolist() == [needed]
    assert least_sender_replicas(problem, p, qps).tolist() == [needed]


def test_the_least_senders_are_a_bound(pools_of: PoolsOf, problem_of: ProblemOf) -> None:
    p, d = pair(pools_of())
    exact = sender_replicas(problem_of(), p, d, 5000.0)
    bound = least_sender_replicas(problem_of(), p, 5000.0)
    assert np.all(bound[:, None] <= exact)
    assert np.any(bound[:, None] == exact)


def narrowed(pools: list[Candidates], factor: float) -> list[Candidates]:
    """The same candidates, on devices whose network has so much of its bandwidth."""
    found = []
    for c in pools:
        device = c.offer.device
        nic = device.network
        slow = replace(nic, bandwidth_bytes_per_s=nic.bandwidth_bytes_per_s * factor)
        device = replace(device, links=(*device.links[:-1], slow))
        found.append(replace(c, offer=replace(c.offer, device=device)))
    return found


def test_a_thin_link_asks_for_replicas(pools_of: PoolsOf, problem_of: ProblemOf) -> None:
    problem = problem_of()
    thick, thin = (pair(narrowed(pools_of(), f)) for f in (1.0, 0.01))
    for count, args in ((sender_replicas, (0, 1)), (receiver_replicas, (1,))):
        more, fewer = (
            count(problem, *(c[i] for i in args), 100.0)  # type: ignore[arg-type]
            for c in (thin, thick)
        )
        assert np.all(more >= fewer)
        assert np.any(more > fewer)


@pytest.mark.parametrize("changes", [{}, LAYERWISE], ids=["none", "layerwise"])
def test_a_plan_says_how_caches_move(solved: Callable[..., Plan], changes: dict[str, Any]) -> None:
    plan = solved(runtime="disaggregated", **changes)
    moved = plan.best.transfer
    assert moved is not None
    assert moved.overlap == ("layerwise" if changes else "none")
    assert moved.cache_bytes == PAYLOAD
    assert plan.best.ttft.transfer_s == moved.added_s
    assert moved.added_s < moved.alone_s if changes else moved.added_s == moved.alone_s
    # Every device of a rank sends its share, and ranks share the requests.
    pool = plan.best.pools[0]
    devices = pool.replicas * pool.devices_per_replica
    assert moved.sender_utilization == pytest.approx(20 * PAYLOAD / 40e9 / devices)
    console = Console(file=StringIO(), width=250)
    print_plan(plan, console)
    explain_plan(json.loads(json.dumps(plan.to_dict())), "plan.json", 0, console)
    assert isinstance(console.file, StringIO)
    said = console.file.getvalue()
    assert f"overlap {moved.overlap}" in said
    assert "KV cache 140.6 MiB per request: 73,728 cache elements per token" in said
    assert "DIFFERS" not in said
    assert solved(runtime="continuous").best.transfer is None


def test_an_unknown_overlap_is_refused(problem_of: ProblemOf) -> None:
    with pytest.raises(ValueError, match=r"none.*layerwise"):
        problem_of(kv_transfer={"overlap": "sometimes"})
