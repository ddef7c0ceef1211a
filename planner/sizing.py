"""How many replicas a pool needs: whole ones, with queueing, within the latency targets.

All functions take arrays of candidates and search the smallest count that meets the
target; waiting falls with every replica added, so bisection finds it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perfmodel.queueing import exceedance, mean_wait_s, wait_probability
from planner.candidates import Candidates
from planner.problem import Problem
from planner.query_workload import Target

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
Cells = tuple[NDArray[np.intp], ...]
"""Indices of some entries of an array, by axis."""

Worth = Callable[[BoolArray], BoolArray]
"""From where capacity alone suffices, to where a pool of more replicas could still matter."""

PROMPT_SHARE = 1e-3
"""Waiting for a slot at most this share of the target of first tokens, or of whole requests, is
as good as none: a decode pool is not grown further."""

UNREACHABLE = np.iinfo(np.int64).max
"""Count of a pool that no number of replicas makes fast enough."""


@dataclass(frozen=True)
class Waiting:
    """Waiting of requests in front of a pool, per candidate.

    Attributes:
        mean_s: over all requests.
        probability: of waiting for a server or slot.
        step_s: length of the step whose end a request waits for besides, if one is running.
        running: probability that one is.
    """

    mean_s: FloatArray
    probability: FloatArray
    step_s: FloatArray | float = 0.0
    running: FloatArray | float = 0.0

    def exceeds(self, threshold_s: FloatArray) -> FloatArray:
        """Share of requests that wait longer."""
        queueing = self.mean_s - self.running * self.step_s / 2.0
        return exceedance(threshold_s, self.probability, queueing, self.step_s, self.running)


def first_token_waiting(
    problem: Problem, pool: Candidates, replicas: FloatArray, qps: float
) -> Waiting:
    """Waiting for prefill (and, under continuous batching, for a slot).

    Args:
        replicas: broadcastable against the candidates on its last axis.
    """
    load = qps / (pool.qps * replicas)
    servers = pool.servers * replicas
    if pool.role == "continuous":
        busy = load * pool.prefill_share
        mean = mean_wait_s(servers, busy, pool.pace_s, problem.arrival_cv2, pool.pace_cv2)
        chance = wait_probability(servers, busy)
        slot = slot_waiting(problem, pool, replicas, qps)
        # A prompt joins when the running iteration ends; steady ones are paced to find none.
        always, step = float(problem.arrival_cv2 > 0), pool.iteration_s
        waits = 1.0 - (1.0 - chance) * (1.0 - slot.probability)
        return Waiting(mean + slot.mean_s + always * step / 2.0, waits, step, always)
    # A batch waits in the one queue to be filled, and arrives as regularly as the sum of its
    # requests.
    filling = (pool.batch - 1) / 2.0 / qps if problem.arrival_cv2 else 0.0
    arrival_cv2 = problem.arrival_cv2 / pool.batch
    mean = mean_wait_s(servers, load, pool.pace_s, arrival_cv2, pool.pace_cv2)
    # Under light load a batch is not held back to be filled.
    filling = np.minimum(filling, pool.pace_s)
    chance = wait_probability(servers, load)
    chance = np.where(pool.batch > 1, 1.0, chance)
    # Data-parallel ranks step together: a free one waits for the others' step to end.
    running = np.where((pool.servers > 1) & (problem.arrival_cv2 > 0), load, 0.0)
    step = pool.pace_s
    return Waiting(mean + filling + running * step / 2.0, chance, step, running)


def slot_waiting(problem: Problem, pool: Candidates, replicas: FloatArray, qps: float) -> Waiting:
    """Waiting for one of a pool's decode slots; a slot is held for the whole output."""
    outputs = problem.traffic.outputs
    servers = pool.slots * replicas
    load = qps / (pool.qps * replicas)
    held_s = pool.ttit_s * outputs.mean
    cv2 = max(outputs.mean_square / outputs.mean**2 - 1.0, 0.0)
    mean = mean_wait_s(servers, load, held_s, problem.arrival_cv2, cv2)
    return Waiting(mean, wait_probability(servers, load))


def ttft_s(
    problem: Problem, pool: Candidates, waiting: Waiting, extra_s: FloatArray | float
) -> FloatArray:
    """Mean TTFT: service, waiting, and `extra_s` (KV transfer, admission)."""
    service = pool.service_s
    result: FloatArray = service + waiting.mean_s + extra_s
    return result


def late_share(
    problem: Problem,
    pool: Candidates,
    waiting: Waiting,
    extra_s: FloatArray | float,
    limit_s: FloatArray | float,
    transfer_s: FloatArray | float = 0.0,
) -> FloatArray:
    """Share of requests whose first token comes after `limit_s`.

    Args:
        extra_s: time besides service and waiting, the mean prompt's cache transfer included.
        transfer_s: that transfer; a longer prompt's takes proportionally longer.
    """
    longer = problem.traffic.new_tokens / problem.traffic.mean_new_tokens - 1.0
    share: FloatArray | float = 0.0
    latency_s = pool.latency_s
    for j, weight in enumerate(problem.traffic.inputs.weights):
        left = limit_s - latency_s[:, j] - extra_s - longer[j] * transfer_s
        share = share + weight * waiting.exceeds(left)
    return np.asarray(share)


def ttft_percentile_s(
    problem: Problem,
    pool: Candidates,
    waiting: Waiting,
    extra_s: float,
    percentile: float,
    transfer_s: float = 0.0,
) -> float:
    """TTFT that the given percentile of requests of one candidate stay within, seconds."""
    limit = 1.0
    args = (problem, pool, waiting, np.full(1, extra_s))
    while limit < 1e9:
        found = float(ttft_within_s(*args, limit, percentile, transfer_s)[0])
        if found <= limit:
            return found
        limit *= 2.0
    return limit


def ttft_within_s(
    problem: Problem,
    pool: Candidates,
    waiting: Waiting,
    extra_s: FloatArray,
    limit_s: float,
    percentile: float,
    transfer_s: FloatArray | float = 0.0,
    halvings: int = 60,
) -> FloatArray:
    """TTFT that a percentile of requests stay within, up to a limit: infinite beyond, (N,).

    Args:
        halvings: of the interval up to the limit in which it is sought.
    """
    late = 1.0 - percentile / 100.0

    def exceeds(limit: FloatArray | float) -> BoolArray:
        return late_share(problem, pool, waiting, extra_s, limit, transfer_s) > late

    beyond = exceeds(limit_s)
    low, high = np.zeros(beyond.shape), np.full(beyond.shape, limit_s)
    for _ in range(halvings):
        middle = (low + high) / 2.0
        over = exceeds(middle)
        low, high = np.where(over, middle, low), np.where(over, high, middle)
    return np.where(beyond, np.inf, high)


def meets_ttft(
    problem: Problem,
    pool: Candidates,
    replicas: FloatArray,
    qps: float,
    extra_s: FloatArray | float,
    target: Target | None,
    mean_limit_s: FloatArray | float = np.inf,
    transfer_s: FloatArray | float = 0.0,
) -> BoolArray:
    """Where the pool's first tokens meet the target, and their mean the limit, at this load."""
    stable = qps <= pool.qps * replicas * problem.max_utilization * (1 + 1e-9)
    if target is None and np.all(np.isinf(mean_limit_s)):
        return np.asarray(stable)
    waiting = first_token_waiting(problem, pool, replicas, qps)
    limit = np.asarray(mean_limit_s)
    if target is not None and target.percentile is None:
        limit = np.minimum(limit, target.seconds)
    meets = np.asarray(stable)
    if np.any(np.isfinite(limit)):
        meets = meets & (ttft_s(problem, pool, waiting, extra_s) <= limit)
    if target is not None and target.percentile is not None:
        late = late_share(problem, pool, waiting, extra_s, target.seconds, transfer_s)
        meets = meets & (late <= 1.0 - target.percentile / 100.0)
    return meets


def replicas_for_ttft(
    problem: Problem,
    pool: Candidates,
    qps: float,
    extra_s: FloatArray | float,
    mean_limit_s: FloatArray | float = np.inf,
    transfer_s: FloatArray | float = 0.0,
    worth: Worth | None = None,
) -> IntArray:
    """Fewest replicas with which the TTFT target holds; `UNREACHABLE` where none does.

    Args:
        extra_s: time besides service and waiting; broadcastable, candidates on the last axis.
        mean_limit_s: a further bound on the mean TTFT, broadcastable likewise.
        transfer_s: the part of `extra_s` that grows with the prompt (see `late_share`).
        worth: which of those that need more than capacity asks for are sized at all; the
            others are left `UNREACHABLE`.
    """
    shape = np.broadcast_shapes((len(pool),), np.shape(extra_s), np.shape(mean_limit_s))
    target = problem.slo.ttft
    extra, limit, transfer = (
        np.broadcast_to(np.asarray(v, dtype=float), shape)
        for v in (extra_s, mean_limit_s, transfer_s)
    )

    def holds(replicas: FloatArray, at: Cells | None) -> BoolArray:
        if at is None:
            return meets_ttft(
                problem, pool, replicas, qps, extra_s, target, mean_limit_s, transfer_s
            )
        part = pool.take(at[-1])
        return meets_ttft(problem, part, replicas, qps, extra[at], target, limit[at], transfer[at])

    return _fewest(holds, np.broadcast_to(least_replicas(problem, pool, qps), shape), worth)


def prompt_admission(problem: Problem, pool: Candidates, qps: float) -> IntArray:
    """Fewest decode replicas that admit requests promptly (see `PROMPT_SHARE`)."""
    targets = [t.seconds for t in (problem.slo.ttft, problem.slo.e2e) if t is not None]

    def admits(replicas: FloatArray, at: Cells | None) -> BoolArray:
        part = pool if at is None else pool.take(at[-1])
        stable = qps <= part.qps * replicas * problem.max_utilization * (1 + 1e-9)
        if not targets:
            return np.asarray(stable)
        mean = slot_waiting(problem, part, replicas, qps).mean_s
        return np.asarray(stable & (mean <= PROMPT_SHARE * min(targets)))

    return _fewest(admits, least_replicas(problem, pool, qps))


def least_replicas(problem: Problem, pool: Candidates, qps: float) -> IntArray:
    """Replicas that capacity alone asks for, whatever the latency."""
    needed = qps / (pool.qps * problem.max_utilization)
    return np.maximum(np.ceil(needed * (1 - 1e-9)), 1).astype(np.int64)


def _fewest(
    holds: Callable[[FloatArray, Cells | None], BoolArray],
    least: IntArray,
    worth: Worth | None = None,
) -> IntArray:
    """Smallest count from `least` on for which `holds`, which is monotone in the count.

    Args:
        holds: over counts, of all cells (None) or of those at some indices.
        worth: see `replicas_for_ttft`.
    """
    done = np.broadcast_to(holds(least.astype(float), None), least.shape)
    count = np.where(done, least, UNREACHABLE)
    # Few are left, each on its own: what is settled is not evaluated again.
    cells: Cells = np.nonzero(~done if worth is None else ~done & worth(done))
    low = least[cells].astype(float)
    # With this many replicas a queue has all but vanished; what still fails, fails idle too.
    high = np.ceil(low * 8.0 + 64.0)
    open_ = holds(high, cells) if len(low) else np.zeros(0, dtype=bool)
    while open_.any():
        cells, low, high = tuple(c[open_] for c in cells), low[open_], high[open_]
        middle = np.floor((low + high) / 2.0)
        good = holds(middle, cells)
        high, low = np.where(good, middle, high), np.where(good, low, middle)
        count[cells] = high.astype(np.int64)
        open_ = high - low > 1
    return np.asarray(count)
