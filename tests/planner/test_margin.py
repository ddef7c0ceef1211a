"""Of fleets of one price the one that stays furthest within its limits, against plain loops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from planner import sizing
from planner.candidates import Candidates
from planner.choice import Choice, Pool, make_choice, rank
from planner.pairing import best_continuous, cheapest_fleets
from planner.plan import Plan
from planner.problem import Problem
from planner.transfer import receiver_replicas, sender_replicas, transfer_s

PoolsOf = Callable[..., list[Candidates]]
ProblemOf = Callable[..., Problem]

CASES: dict[str, dict[str, Any]] = {
    "means": {},
    "percentiles": {
        "slo": {"ttft": {"p99": "400ms"}, "ttit": {"p90": "25ms"}},
        "workload": {"input_tokens": {"p50": 1000, "p99": 4000}},
    },
    "end to end": {"slo": {"ttft": "300ms", "e2e": "2s"}},
    "no targets": {"slo": {}},
}
PERCENT = 0.011
"""Margins that differ by less than one are alike."""


def margin(problem: Problem, choice: Choice, qps: float) -> list[float]:
    """What is left of each limit, the least first, by the scalar functions."""
    first, last = choice.pools[0], choice.pools[-1]
    slo, two = problem.slo, first is not last
    waiting = sizing.first_token_waiting(problem, first.one, np.array([float(first.replicas)]), qps)
    extra = choice.transfer_s + problem.handling_s(last.one.iteration_s, disaggregated=two)[0]
    if two:
        count = np.array([float(last.replicas)])
        extra += sizing.slot_waiting(problem, last.one, count, qps).mean_s[0]
    ttft = mean = float(sizing.ttft_s(problem, first.one, waiting, extra)[0])
    capacity = min(float(pool.one.qps[0]) * pool.replicas for pool in choice.pools)
    left = [1 - qps / (capacity * problem.max_utilization)]
    if slo.ttit is not None:
        left.append(1 - float(last.one.ttit_slo_s[0]) / slo.ttit.seconds)
    if slo.ttft is not None:
        if slo.ttft.percentile is not None:
            at = slo.ttft.percentile
            ttft = sizing.ttft_percentile_s(
                problem, first.one, waiting, extra, at, choice.transfer_s
            )
        left.append(1 - ttft / slo.ttft.seconds)
    if slo.e2e is not None:
        decoding = problem.traffic.outputs.mean * float(last.one.ttit_s[0])
        left.append(1 - (mean + decoding) / slo.e2e.seconds)
    return sorted(left)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("qps", [20.0, 150.0])
def test_no_continuous_fleet_of_its_price_has_more_margin(
    pools_of: PoolsOf, problem_of: ProblemOf, case: str, qps: float
) -> None:
    problem = problem_of(**CASES[case])
    pool = next(c for c in pools_of(**CASES[case]) if c.role == "continuous")
    pool = pool.take(np.arange(0, len(pool), 9))
    best = best_continuous(problem, pool, qps)
    assert best is not None
    assert best.margin == pytest.approx(margin(problem, best, qps), abs=2e-3)
    handling = problem.handling_s(pool.iteration_s, disaggregated=False)
    e2e = problem.slo.e2e
    slack = np.inf if e2e is None else e2e.seconds - problem.traffic.outputs.mean * pool.ttit_s
    counts = sizing.replicas_for_ttft(problem, pool, qps, handling, slack)
    others = [make_choice([Pool(pool, i, int(n))]) for i, n in enumerate(counts) if n < 1000]
    alike = [c for c in others if c and c.usd_per_hour == best.usd_per_hour]
    assert len(alike) > 1
    assert min(c.usd_per_hour for c in others if c) == best.usd_per_hour
    assert best.margin[0] >= max(margin(problem, c, qps)[0] for c in alike) - PERCENT


@pytest.mark.parametrize("case", CASES)
def test_no_decode_candidate_on_as_many_devices_leaves_more_margin(
    pools_of: PoolsOf, problem_of: ProblemOf, case: str
) -> None:
    """The batch is not the largest that the target admits where a smaller one serves as much."""
    qps, problem = 60.0, problem_of(**CASES[case])
    pools = [c for c in pools_of(**CASES[case]) if c.role != "continuous"]
    (best,) = cheapest_fleets(problem, pools, qps)
    assert best.margin == pytest.approx(margin(problem, best, qps), abs=2e-3)
    prefill, decode = best.pools
    block = next(c for c in pools if c.role == "decode")
    block = block.take(np.arange(0, len(block), 3))
    devices = decode.world * decode.replicas
    tried = 0
    for i in np.flatnonzero(block.world <= devices):
        count = devices // int(block.world[i])
        one = block.take(np.array([i]))
        if (
            count < sizing.least_replicas(problem, one, qps)[0]
            or count < receiver_replicas(problem, one, qps)[0]
            or prefill.replicas < sender_replicas(problem, prefill.one, one, qps)[0, 0]
        ):
            continue
        moving = float(transfer_s(problem, prefill.one, one)[0, 0])
        other = make_choice([prefill, Pool(block, int(i), count)], moving)
        assert other is not None
        tried += 1
        assert margin(problem, other, qps)[0] <= best.margin[0] + PERCENT
    assert tried


def test_the_order_of_candidates_does_not_matter(pools_of: PoolsOf, problem_of: ProblemOf) -> None:
    problem, pools = problem_of(), pools_of()

    def configurations(candidates: list[Candidates]) -> set[tuple[Any, ...]]:
        return {
            tuple((int(p.one.layout[0]), int(p.one.column[0]), p.replicas) for p in choice.pools)
            for choice in cheapest_fleets(problem, candidates, 60.0)
        }

    rng = np.random.default_rng(0)
    shuffled = [c.take(rng.permutation(len(c))) for c in pools]
    assert configurations(shuffled) == configurations(pools)


def test_the_greater_margin_comes_first_among_equals(
    pools_of: PoolsOf, problem_of: ProblemOf
) -> None:
    mixed = next(c for c in pools_of() if c.role == "continuous")
    choice = make_choice([Pool(mixed, 0, 1)])
    assert choice is not None
    tight, wide = (replace(choice, margin=left) for left in ((0.1, 0.9), (0.2, 0.3)))
    even = replace(choice, margin=(0.1, 0.5))
    assert rank([tight, even, wide]) == [wide, tight, even]
    # Which sum of the same prices is a little more says nothing.
    offer, hosts = choice.hosts[0]
    more = replace(offer, usd_per_device_hour=offer.usd_per_device_hour * (1 + 1e-13))
    assert rank([tight, replace(wide, hosts=((more, hosts),))])[0].margin == wide.margin


def test_a_plan_leaves_what_its_price_allows(solved: Callable[..., Plan]) -> None:
    """One H100 host decodes 20 requests/s at any time between tokens down to a third of 30 ms."""
    best = solved(runtime="disaggregated").best
    assert best.usd_per_hour == 8 * best.hosts[0].usd_per_device_hour
    assert best.ttit_mean_s < 0.01
