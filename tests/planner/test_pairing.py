"""The cheapest pools, against a plain loop over every candidate and every pair of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from planner import sizing
from planner.candidates import Candidates
from planner.choice import Choice, Pool, make_choice, rank
from planner.pairing import best_continuous, cheapest_fleets
from planner.problem import Problem
from planner.transfer import receiver_replicas, sender_replicas, transfer_s

PoolsOf = Callable[..., list[Candidates]]
ProblemOf = Callable[..., Problem]

TWO: dict[str, Any] = {"devices": ["h100_sxm", {"name": "a100_sxm", "inventory": 32}]}
ODD_HOSTS: dict[str, Any] = {
    "devices": [
        {"name": "h100_sxm", "host_devices": 12},
        {"name": "a100_sxm", "host_devices": 5, "usd_per_device_hour": 6.5},
    ],
    "search": {"max_replica_devices": 8},
}
SPREAD = {"input_tokens": {"p50": 1000, "p99": 4000}}
CASES: dict[str, dict[str, Any]] = {
    "means": TWO,
    "percentiles": {
        **TWO,
        "slo": {"ttft": {"p99": "400ms"}, "ttit": {"p90": "25ms"}},
        "workload": SPREAD,
    },
    "end to end": {**TWO, "slo": {"ttft": "300ms", "e2e": "2s"}},
    "tight": {
        "devices": [{"name": "h100_sxm", "host_devices": 1}],
        "slo": {"ttft": "200ms", "ttit": "20ms"},
        "runtime": "disaggregated",
    },
    "no objectives": {**TWO, "slo": {}},
    "steady": {**TWO, "workload": {"arrivals": "steady"}},
    "hosts with gaps": ODD_HOSTS,
    "hosts with gaps, end to end": {**ODD_HOSTS, "slo": {"ttft": "300ms", "e2e": "2s"}},
    "two cache formats": {"precision": {"kv": ["bf16", "fp8"]}, "slo": {"ttft": "100ms"}},
    "one device at a time": {
        "devices": [
            {"name": "h100_sxm", "host_devices": 1},
            {"name": "l40s", "host_devices": 1, "inventory": 40},
        ]
    },
}


def sample(pools: Sequence[Candidates], seed: int, count: int = 45) -> list[Candidates]:
    """Some candidates of each pool, drawn evenly over the sizes of a replica."""
    rng = np.random.default_rng(seed)
    found = []
    for pool in pools:
        rows = [
            rng.permutation(np.flatnonzero(pool.world == w))[: count // 4]
            for w in np.unique(pool.world)
        ]
        found.append(pool.take(np.sort(np.concatenate(rows))) if rows else pool)
    return found


def slack(problem: Problem, pool: Candidates) -> np.ndarray:
    e2e = problem.slo.e2e
    if e2e is None:
        return np.full(len(pool), np.inf)
    return np.asarray(e2e.seconds - problem.traffic.outputs.mean * pool.ttit_s)


def every_continuous(problem: Problem, pool: Candidates, qps: float) -> list[Choice]:
    handling = problem.handling_s(pool.ttit_s, disaggregated=False)
    counts = sizing.replicas_for_ttft(problem, pool, qps, handling, slack(problem, pool))
    made = [
        make_choice([Pool(pool, i, int(n))])
        for i, n in enumerate(counts)
        if n != sizing.UNREACHABLE
    ]
    return [choice for choice in made if choice]


def every_pair(problem: Problem, p: Candidates, d: Candidates, qps: float) -> list[Choice]:
    """Each prefill candidate with each decode candidate, sized by the same functions."""
    least = np.maximum(sizing.least_replicas(problem, d, qps), receiver_replicas(problem, d, qps))
    most = sizing.prompt_admission(problem, d, qps)
    by_links = sender_replicas(problem, p, d, qps)
    moving = transfer_s(problem, p, d)
    choices = []
    for j in range(len(d)):
        one = d.take(np.array([j]))
        last = least[j] if most[j] == sizing.UNREACHABLE else max(most[j], least[j])
        for n_decode in range(int(least[j]), int(last) + 1):
            count = np.array([float(n_decode)])
            admission = sizing.slot_waiting(problem, one, count, qps).mean_s[0]
            handling = problem.handling_s(one.ttit_s, disaggregated=True)[0]
            extra = moving[:, j] + admission + handling
            left = np.full(len(p), slack(problem, one)[0])
            prefill = sizing.replicas_for_ttft(problem, p, qps, extra, left, moving[:, j])
            for i, n_prefill in enumerate(prefill):
                if n_prefill != sizing.UNREACHABLE:
                    enough = max(int(n_prefill), int(by_links[i, j]))
                    pools = [Pool(p, i, enough), Pool(d, j, n_decode)]
                    choice = make_choice(pools, float(moving[i, j]))
                    if choice:
                        choices.append(choice)
    return choices


def combination(choice: Choice) -> tuple[str, ...]:
    return tuple(pool.offer.device.name for pool in choice.pools)


@pytest.mark.parametrize(("qps", "seed"), [(3.0, 0), (100.0, 1), (900.0, 2)])
@pytest.mark.parametrize("case", CASES)
def test_nothing_is_cheaper_than_what_is_found(
    pools_of: PoolsOf, problem_of: ProblemOf, case: str, qps: float, seed: int
) -> None:
    changes = CASES[case]
    problem = problem_of(**changes)
    candidates = sample(pools_of(**changes), seed, count=24)
    by_role = {r: [c for c in candidates if c.role == r] for r in ("prefill", "decode")}
    cheapest: dict[tuple[str, ...], float] = {}
    for choice in [
        *(
            choice
            for c in candidates
            if c.role == "continuous"
            for choice in every_continuous(problem, c, qps)
        ),
        *(
            choice
            for p in by_role["prefill"]
            for d in by_role["decode"]
            if p.precision.kv == d.precision.kv
            for choice in every_pair(problem, p, d, qps)
        ),
    ]:
        key = combination(choice)
        cheapest[key] = min(cheapest.get(key, np.inf), choice.usd_per_hour)
    found: dict[tuple[str, ...], float] = {}
    for choice in cheapest_fleets(problem, candidates, qps):
        key = combination(choice)
        found[key] = min(found.get(key, np.inf), choice.usd_per_hour)
    assert found == pytest.approx(cheapest)
    assert found


@pytest.mark.parametrize("case", ["means", "hosts with gaps", "end to end"])
def test_the_best_continuous_pool_of_a_whole_space(
    pools_of: PoolsOf, problem_of: ProblemOf, case: str
) -> None:
    problem = problem_of(**CASES[case])
    for pool in pools_of(**CASES[case]):
        if pool.role == "continuous":
            pool = pool.take(np.arange(0, len(pool), 7))
            for qps in (20.0, 400.0):
                best = best_continuous(problem, pool, qps)
                prices = [c.usd_per_hour for c in every_continuous(problem, pool, qps)]
                assert (best.usd_per_hour if best else None) == min(prices, default=None)


@pytest.mark.parametrize("case", CASES)
def test_what_is_found_meets_the_objectives(
    pools_of: PoolsOf, problem_of: ProblemOf, case: str
) -> None:
    changes = CASES[case]
    problem = problem_of(**changes)
    for choice, qps in [
        (choice, demand)
        for demand in (60.0, 200.0, 350.0)
        for choice in cheapest_fleets(problem, pools_of(**changes), demand)
    ]:
        first, last = choice.pools[0], choice.pools[-1]
        for pool in choice.pools:
            assert pool.qps * problem.max_utilization >= qps * (1 - 1e-9)
        count = np.array([float(first.replicas)])
        handling = problem.handling_s(last.one.ttit_s, disaggregated=first is not last)
        extra = choice.transfer_s + float(handling[0])
        if first is not last:
            count_last = np.array([float(last.replicas)])
            extra += float(sizing.slot_waiting(problem, last.one, count_last, qps).mean_s[0])
        limit = slack(problem, last.one)
        assert sizing.meets_ttft(
            problem, first.one, count, qps, extra, problem.slo.ttft, limit
        ).all()
        for offer, hosts in choice.hosts:
            assert offer.inventory is None or hosts * offer.host_devices <= offer.inventory
            used = sum(
                p.world * p.replicas
                for p in choice.pools
                if p.offer.device.name == offer.device.name
            )
            assert 0 < used <= hosts * offer.host_devices


def price(problem: Problem, pools: list[Candidates], qps: float) -> float:
    choices = cheapest_fleets(problem, pools, qps)
    return min((c.usd_per_hour for c in choices), default=np.inf)


@pytest.mark.parametrize("runtime", ["continuous", "disaggregated"])
def test_more_demand_never_costs_less(
    pools_of: PoolsOf, problem_of: ProblemOf, runtime: str
) -> None:
    changes = {"devices": [{"name": "h100_sxm", "host_devices": 1}], "runtime": runtime}
    problem, pools = problem_of(**changes), pools_of(**changes)
    prices = [price(problem, pools, qps) for qps in np.geomspace(2.0, 500.0, 16)]
    assert np.all(np.diff(prices) >= 0)
    assert prices[0] < prices[-1]


@pytest.mark.parametrize("runtime", ["continuous", "disaggregated"])
@pytest.mark.parametrize(
    "ladder",
    [
        [{"ttft": t} for t in ("20ms", "25ms", "40ms", "100ms", "1s")],
        [{"ttft": "300ms", "ttit": t} for t in ("5ms", "7ms", "15ms", "100ms")],
        [{"ttft": {"p99": t}} for t in ("60ms", "80ms", "150ms", "1s")],
        [{"ttft": "500ms", "e2e": t} for t in ("500ms", "800ms", "2s", "5s")],
    ],
    ids=["ttft", "ttit", "p99", "e2e"],
)
def test_a_looser_objective_never_costs_more(
    pools_of: PoolsOf, problem_of: ProblemOf, ladder: list[dict[str, Any]], runtime: str
) -> None:
    prices = []
    for slo in ladder:
        changes = {
            "devices": [{"name": "h100_sxm", "host_devices": 1}],
            "runtime": runtime,
            "slo": slo,
        }
        prices.append(price(problem_of(**changes), pools_of(**changes), 150.0))
    assert np.all(np.diff(np.minimum(prices, 1e12)) <= 0), prices
    assert prices[-1] < prices[0]


def test_another_device_never_costs_more(pools_of: PoolsOf, problem_of: ProblemOf) -> None:
    names = ["h100_sxm", "l40s", "a100_sxm"]
    for qps in (20.0, 300.0):
        prices = [
            price(problem_of(devices=names[:n]), pools_of(devices=names[:n]), qps)
            for n in (1, 2, 3)
        ]
        assert prices[0] >= prices[1] >= prices[2]


def test_more_inventory_never_costs_more(pools_of: PoolsOf, problem_of: ProblemOf) -> None:
    problem, pools = problem_of(**TWO), pools_of(**TWO)

    def stocked(devices: int | None) -> list[Candidates]:
        return [replace(c, offer=replace(c.offer, inventory=devices)) for c in pools]

    prices = [price(problem, stocked(n), 900.0) for n in (8, 16, 24, 32, 64, None)]
    assert np.all(np.diff(np.minimum(prices, 1e12)) <= 0)
    assert prices[0] == np.inf
    assert np.isfinite(prices[-1])


def test_fleets_of_one_device_share_hosts(pools_of: PoolsOf) -> None:
    prefill, decode = (next(c for c in pools_of() if c.role == r) for r in ("prefill", "decode"))
    p, d = (int(np.flatnonzero(c.world == 2)[0]) for c in (prefill, decode))
    choice = make_choice([Pool(prefill, p, 1), Pool(decode, d, 3)])
    assert choice is not None
    assert [count for _, count in choice.hosts] == [1]
    assert choice.kind == "disaggregated"
    assert choice.devices == 8
    assert choice.usd_per_hour == 8 * prefill.offer.usd_per_device_hour
    apart = make_choice([Pool(prefill, p, 1), Pool(decode, d, 4)])
    assert apart is not None
    assert [count for _, count in apart.hosts] == [2]


def test_pools_of_two_devices_take_hosts_of_their_own(pools_of: PoolsOf) -> None:
    pools = pools_of(**TWO)
    prefill = next(c for c in pools if c.role == "prefill" and c.offer.device.name == "h100_sxm")
    decode = next(c for c in pools if c.role == "decode" and c.offer.device.name == "a100_sxm")
    choice = make_choice([Pool(prefill, 0, 1), Pool(decode, 0, 1)])
    assert choice is not None
    assert choice.kind == "heterogeneous"
    assert {o.device.name: n for o, n in choice.hosts} == {"h100_sxm": 1, "a100_sxm": 1}
    none_left = replace(decode, offer=replace(decode.offer, inventory=7))
    assert make_choice([Pool(prefill, 0, 1), Pool(none_left, 0, 1)]) is None


def test_the_simpler_of_equal_prices_comes_first(pools_of: PoolsOf, problem_of: ProblemOf) -> None:
    ranked = rank(cheapest_fleets(problem_of(**TWO), pools_of(**TWO), 20.0))
    prices = [choice.usd_per_hour for choice in ranked]
    assert prices == sorted(prices)
    kinds = ("continuous", "disaggregated", "heterogeneous")
    for a, b in pairwise(ranked):
        if a.usd_per_hour == b.usd_per_hour:
            assert kinds.index(a.kind) <= kinds.index(b.kind)
    assert {choice.kind for choice in ranked} == set(kinds)


def test_only_the_kinds_asked_for(pools_of: PoolsOf, problem_of: ProblemOf) -> None:
    for kind in ("continuous", "disaggregated", "heterogeneous"):
        found = cheapest_fleets(problem_of(**TWO), pools_of(**TWO), 20.0, kinds=(kind,))
        assert {choice.kind for choice in found} == {kind}
