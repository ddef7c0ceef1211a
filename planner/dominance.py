"""Dropping candidates that another is at least as good as, in everything that counts.

Pools are separable: how good a prefill pool is does not depend on which decode pool it
feeds, except through the cache transfer. So each role is reduced by itself, and the
optimum over all pairs is still found.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from planner.problem import Problem
from planner.sweep import Candidates

FloatArray = NDArray[np.float64]


def nondominated(objectives: FloatArray) -> NDArray[np.intp]:
    """Indices of rows (N, K), all to be minimized, that no other row matches or beats.

    Of equal rows one is kept.
    """
    n = len(objectives)
    if n == 0:
        return np.zeros(0, dtype=np.intp)
    # A row that is good everywhere discards most others at once, so such rows come first.
    ranks = np.argsort(np.argsort(objectives, axis=0, kind="stable"), axis=0, kind="stable")
    alive = np.argsort(ranks.sum(axis=1), kind="stable")
    kept: list[int] = []
    while len(alive):
        best = alive[0]
        kept.append(int(best))
        rows = objectives[alive]
        alive = alive[~np.all(rows >= objectives[best], axis=1)]
    front = np.array(kept, dtype=np.intp)
    # An early row may yet be beaten by a later one that is worse in rank only.
    values = objectives[front]
    beaten = np.zeros(len(front), dtype=bool)
    for i in range(len(front)):
        other = np.all(values <= values[i], axis=1) & np.any(values < values[i], axis=1)
        beaten[i] = bool(other.any())
    return np.sort(front[~beaten])


def reduce(problem: Problem, pool: Candidates) -> Candidates:
    """The prefill or decode candidates of each world size that no other of it dominates.

    Capacity, idle first-token latency (mean and longest prompt), batching delay, servers,
    slots, and the cache shards that set the transfer time all count; with an end-to-end
    objective the time between tokens does as well.
    """
    if len(pool) == 0:
        return pool
    weights = np.array(problem.traffic.inputs.weights)
    columns = [-pool.qps, -pool.shards]
    if pool.role == "prefill":
        columns += [pool.latency_s @ weights, pool.batch.astype(float), -pool.servers]
        if len(weights) > 1:
            columns += [pool.latency_s[:, -1], pool.pace_cv2]
    else:
        columns += [-pool.slots]
        if problem.slo.e2e is not None:
            columns += [pool.ttit_s]
    objectives = np.stack(columns, axis=1)
    kept = [
        np.flatnonzero(rows)[nondominated(objectives[rows])]
        for world in np.unique(pool.world)
        for rows in [pool.world == world]
    ]
    return pool.take(np.concatenate(kept))
