"""How many replicas a pool takes: the fewest that meet the target, by a plain count upwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from planner import sizing
from planner.candidates import Candidates
from planner.problem import Problem

PoolsOf = Callable[..., list[Candidates]]
ProblemOf = Callable[..., Problem]

LENGTHS = {"input_tokens": {"p50": 1000, "p99": 3000}}
SMALL = {"max_replica_devices": 2}
CASES: list[dict[str, Any]] = [
    {"slo": {"ttft": "120ms", "ttit": "30ms"}, "workload": {**LENGTHS, "qps": 200}},
    {"slo": {"ttft": {"p99": "300ms"}, "ttit": "30ms"}, "workload": {**LENGTHS, "qps": 200}},
    {"slo": {"ttft": {"p50": "100ms"}}, "workload": {**LENGTHS, "qps": 20}},
    {"slo": {"ttft": "200ms", "e2e": "3s"}, "workload": {**LENGTHS, "qps": 5}},
    {"slo": {}, "workload": {**LENGTHS, "qps": 50}},
    {"slo": {"ttft": "120ms"}, "workload": {**LENGTHS, "qps": 50, "arrivals": "steady"}},
]


def some(pool: Candidates, count: int = 150) -> Candidates:
    """Some candidates of a pool, always the same."""
    rng = np.random.default_rng(1)
    return pool.take(np.sort(rng.permutation(len(pool))[:count]))


def pools(pools_of: PoolsOf, role: str, changes: dict[str, Any]) -> Candidates:
    return some(next(c for c in pools_of(**changes) if c.role == role))


@pytest.mark.parametrize("role", ["prefill", "continuous"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_fewest_replicas_in_time_are_taken(
    pools_of: PoolsOf, problem_of: ProblemOf, role: str, case: dict[str, Any]
) -> None:
    changes = {**case, "search": SMALL}
    problem, pool = problem_of(**changes), pools(pools_of, role, changes)
    qps = problem.qps
    assert qps is not None
    found = sizing.replicas_for_ttft(problem, pool, qps, 0.0)
    least = sizing.least_replicas(problem, pool, qps)
    first = np.full(len(pool), sizing.UNREACHABLE)
    for more in range(120):
        count = least + more
        meets = sizing.meets_ttft(problem, pool, count.astype(float), qps, 0.0, problem.slo.ttft)
        first = np.where((first == sizing.UNREACHABLE) & meets, count, first)
    assert np.array_equal(found, first)
    assert (found != sizing.UNREACHABLE).any()


WHOLE_REQUESTS = {"slo": {"e2e": "3s"}, "workload": {**LENGTHS, "qps": 400}}


@pytest.mark.parametrize("case", [*CASES[:4], WHOLE_REQUESTS], ids=str)
def test_the_fewest_decode_replicas_that_admit_promptly(
    pools_of: PoolsOf, problem_of: ProblemOf, case: dict[str, Any]
) -> None:
    changes = {**case, "search": SMALL}
    problem, pool = problem_of(**changes), pools(pools_of, "decode", changes)
    qps = problem.qps
    assert qps is not None
    targets = [target.seconds for target in (problem.slo.ttft, problem.slo.e2e) if target]
    found = sizing.prompt_admission(problem, pool, qps).astype(float)
    # What is left is as good as none: another replica could save no prefill replica.
    limit = 1e-3 * min(targets)
    assert np.all(sizing.slot_waiting(problem, pool, found, qps).mean_s <= limit)
    assert np.all(qps <= pool.qps * found * problem.max_utilization * (1 + 1e-9))
    fewer = found - 1
    more_than_least = fewer >= sizing.least_replicas(problem, pool, qps)
    waits = sizing.slot_waiting(problem, pool, np.maximum(fewer, 1), qps).mean_s
    assert np.all(waits[more_than_least] > limit)


def test_capacity_alone(pools_of: PoolsOf, problem_of: ProblemOf) -> None:
    problem, pool = problem_of(), some(pools_of()[0])
    for qps in (0.01, 1.0, 20.0, 3000.0):
        least = sizing.least_replicas(problem, pool, qps)
        assert least.min() >= 1
        assert np.all(pool.qps * least * 0.95 >= qps * (1 - 1e-9))
        spare = least > 1
        assert np.all(pool.qps[spare] * (least[spare] - 1) * 0.95 < qps)


@pytest.mark.parametrize("role", ["prefill", "continuous"])
@pytest.mark.parametrize("target", ["120ms", {"p99": "200ms"}], ids=str)
def test_more_demand_never_takes_fewer_replicas(
    pools_of: PoolsOf, problem_of: ProblemOf, role: str, target: Any
) -> None:
    changes = {"slo": {"ttft": target}, "search": SMALL}
    problem, pool = problem_of(**changes), pools(pools_of, role, changes)
    counts = [
        sizing.replicas_for_ttft(problem, pool, qps, 0.0) for qps in np.geomspace(10, 500, 25)
    ]
    # From one request in flight on: below it a batch waits longer to fill, the less arrives.
    alone = pool.batch == 1
    assert alone.any()
    assert np.all(np.diff(np.stack(counts)[:, alone], axis=0) >= 0)


@pytest.mark.parametrize("role", ["prefill", "continuous"])
def test_a_looser_target_never_takes_more_replicas(
    pools_of: PoolsOf, problem_of: ProblemOf, role: str
) -> None:
    strict = {"slo": {"ttft": "40ms"}, "search": SMALL}
    pool = pools(pools_of, role, strict)
    last = None
    for target in ("40ms", "50ms", "80ms", "200ms", "2s"):
        problem = problem_of(slo={"ttft": target}, search=SMALL)
        count = sizing.replicas_for_ttft(problem, pool, 150.0, 0.0)
        assert last is None or np.all(count <= last)
        last = count


@pytest.mark.parametrize("role", ["prefill", "continuous"])
def test_a_percentile_takes_at_least_the_replicas_of_the_mean(
    pools_of: PoolsOf, problem_of: ProblemOf, role: str
) -> None:
    mean = {"slo": {"ttft": "100ms"}, "search": SMALL}
    tail = {"slo": {"ttft": {"p99": "100ms"}}, "search": SMALL}
    pool = pools(pools_of, role, mean)
    by_mean = sizing.replicas_for_ttft(problem_of(**mean), pool, 150.0, 0.0)
    by_tail = sizing.replicas_for_ttft(problem_of(**tail), pool, 150.0, 0.0)
    assert np.all(by_tail >= by_mean)
    assert (by_tail > by_mean).any()


@pytest.mark.parametrize("role", ["prefill", "decode", "continuous"])
def test_steady_arrivals_of_equal_requests_wait_for_nothing(
    pools_of: PoolsOf, problem_of: ProblemOf, role: str
) -> None:
    steady = {"workload": {"arrivals": "steady"}, "search": SMALL}
    problem, pool = problem_of(**steady), pools(pools_of, role, steady)
    replicas = sizing.least_replicas(problem, pool, 50.0).astype(float)
    busy = 50.0 / (pool.qps * replicas) < 1.0
    if role != "decode":
        waiting = sizing.first_token_waiting(problem, pool, replicas, 50.0)
        assert np.all(waiting.mean_s[busy] == 0.0)
    else:
        held = sizing.slot_waiting(problem, pool, replicas, 50.0)
        assert np.all(held.mean_s[busy] == 0.0)
    poisson = problem_of(search=SMALL)
    if role != "decode":
        waiting = sizing.first_token_waiting(poisson, pool, replicas, 50.0)
        assert np.all(waiting.mean_s[busy] > 0.0)


@pytest.mark.parametrize("role", ["prefill", "continuous"])
def test_waiting_falls_with_every_replica(
    pools_of: PoolsOf, problem_of: ProblemOf, role: str
) -> None:
    problem, pool = problem_of(search=SMALL), pools(pools_of, role, {"search": SMALL})
    least = sizing.least_replicas(problem, pool, 200.0).astype(float)
    waits = np.stack(
        [
            sizing.first_token_waiting(problem, pool, least + more, 200.0).mean_s
            for more in range(60)
        ]
    )
    assert np.all(np.diff(waits, axis=0) <= 1e-15)


@pytest.mark.parametrize("percentile", [50.0, 90.0, 99.0])
def test_the_percentile_is_where_the_late_share_says(
    pools_of: PoolsOf, problem_of: ProblemOf, percentile: float
) -> None:
    changes = {"workload": LENGTHS, "search": SMALL}
    problem, pool = problem_of(**changes), pools(pools_of, "prefill", changes)
    one = pool.take(np.array([0]))
    replicas = sizing.least_replicas(problem, one, 20.0).astype(float)
    waiting = sizing.first_token_waiting(problem, one, replicas, 20.0)
    at = sizing.ttft_percentile_s(problem, one, waiting, 0.01, percentile)
    late = [
        float(sizing.late_share(problem, one, waiting, 0.01, at * factor)[0])
        for factor in (0.999999, 1.000001)
    ]
    assert late[1] <= 1.0 - percentile / 100.0 <= late[0]


@pytest.mark.parametrize("target", ["600ms", {"p90": "600ms"}, {"p99": "600ms"}])
def test_more_demand_never_needs_fewer_replicas(
    pools_of: PoolsOf, problem_of: ProblemOf, target: Any
) -> None:
    problem = problem_of(slo={"ttft": target}, search=SMALL)
    pool = pools(pools_of, "continuous", {"search": SMALL})
    handling = problem.handling_s(pool.iteration_s, disaggregated=False)
    counts = [
        sizing.replicas_for_ttft(problem, pool, qps, handling)
        for qps in (1e-4, 0.1, 0.5, 2.0, 10.0, 50.0, 250.0, 1250.0)
    ]
    assert np.all(np.diff(np.array(counts), axis=0) >= 0)
    assert (counts[-1] < sizing.UNREACHABLE).any()
    # At next to no demand, one replica serves wherever any number does.
    assert np.all((counts[0] == 1) | (counts[0] == sizing.UNREACHABLE))


def test_an_impossible_target_is_out_of_reach(pools_of: PoolsOf, problem_of: ProblemOf) -> None:
    pool = pools(pools_of, "prefill", {"search": SMALL})
    problem = problem_of(slo={"ttft": "1us"}, search=SMALL)
    assert np.all(sizing.replicas_for_ttft(problem, pool, 20.0, 0.0) == sizing.UNREACHABLE)


def test_time_spent_elsewhere_counts(pools_of: PoolsOf, problem_of: ProblemOf) -> None:
    problem, pool = problem_of(search=SMALL), pools(pools_of, "prefill", {"search": SMALL})
    extra = np.array([[0.0], [0.3], [0.499], [0.6]])
    count = sizing.replicas_for_ttft(problem, pool, 100.0, extra)
    assert count.shape == (4, len(pool))
    assert np.all(np.diff(count, axis=0) >= 0)
    assert np.all(count[3] == sizing.UNREACHABLE)
    limited = sizing.replicas_for_ttft(problem, pool, 100.0, 0.0, np.full(len(pool), 1e-6))
    assert np.all(limited == sizing.UNREACHABLE)
