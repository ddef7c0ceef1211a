"""How far fleets stay within their limits of latency and load: decides among those of one price."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from planner import sizing
from planner.candidates import Candidates
from planner.problem import Problem

FloatArray = NDArray[np.float64]


def margins(
    problem: Problem,
    prompts: Candidates,
    replicas: FloatArray,
    qps: float,
    decode: Candidates,
    decode_replicas: FloatArray,
    extra_s: FloatArray,
    transfer_s: FloatArray | float = 0.0,
) -> FloatArray:
    """Shares of the limits that are left at a demand, the least first: (N, 1 + T) of T targets.

    The limits are what a fleet may be loaded with, and the latency targets. Negative where one is
    missed. A percentile's is known to a thousandth of the target.

    Args:
        prompts, decode: candidates of the pool that takes the prompts and of the one that decodes,
            N each or one; the same for a continuous pool.
        replicas, decode_replicas: of each, (N,) or (1,).
        extra_s, transfer_s: of `planner.sizing.late_share`, (N,) or (1,).
    """
    slo = problem.slo
    capacity = np.minimum(prompts.qps * replicas, decode.qps * decode_replicas)
    found = [1.0 - qps / (capacity * problem.max_utilization)]
    if slo.ttit is not None:
        found.append(1.0 - decode.ttit_slo_s / slo.ttit.seconds)
    if slo.ttft is not None or slo.e2e is not None:
        waiting = sizing.first_token_waiting(problem, prompts, replicas, qps)
        mean = sizing.ttft_s(problem, prompts, waiting, extra_s)
        if slo.ttft is not None:
            at = mean
            if slo.ttft.percentile is not None:
                within = slo.ttft.seconds, slo.ttft.percentile
                at = sizing.ttft_within_s(
                    problem, prompts, waiting, extra_s, *within, transfer_s, halvings=10
                )
            found.append(1.0 - at / slo.ttft.seconds)
        if slo.e2e is not None:
            outputs_s = problem.traffic.outputs.mean * decode.ttit_s
            found.append(1.0 - (mean + outputs_s) / slo.e2e.seconds)
    count = max(len(prompts), len(decode))
    return np.sort(np.stack([np.broadcast_to(f, count) for f in found], axis=1), axis=1)


def preferred(pool: Candidates, margin: FloatArray, devices: NDArray[np.int64]) -> NDArray[np.intp]:
    """Candidates of fleets of one price, the best first, (N,).

    The greater margin is, at the least of the limits' and then at the next; then fewer devices in
    use, and the simpler configuration.
    """
    columns = [*to_compare(margin).T, devices, *simplicity(pool).T]
    return np.lexsort(columns[::-1])


def to_compare(margin: FloatArray) -> FloatArray:
    """Margins as numbers to minimize: what differs by less than a percent is left to simplicity."""
    return -np.round(margin, 2)


def simplicity(pool: Candidates) -> NDArray[np.int64]:
    """Devices of a replica, kinds of parallelism, batch: the less the simpler, (N, 3)."""
    degrees = pool.layouts.rows()[pool.layout]
    return np.stack([pool.world, (degrees > 1).sum(axis=1), pool.batch], axis=1)
