"""Dropping decode candidates that another is at least as good as, in everything that counts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from planner.candidates import Candidates
from planner.problem import Problem

FloatArray = NDArray[np.float64]


def nondominated(objectives: FloatArray) -> NDArray[np.intp]:
    """Indices of rows (N, K), all to be minimized, that no other row matches or beats.

    Of equal rows one is kept.
    """
    if len(objectives) == 0:
        return np.zeros(0, dtype=np.intp)
    if objectives.shape[1] == 2:
        return _nondominated_pairs(objectives)
    # In this order no row is dominated by a later one, so that each survivor is final.
    alive = np.lexsort(objectives.T[::-1])
    kept: list[int] = []
    # None of those behind has less of the first objective.
    columns = [objectives[alive, k] for k in range(1, objectives.shape[1])]
    while len(alive):
        kept.append(int(alive[0]))
        less = np.zeros(len(alive), dtype=bool)
        for column in columns:
            less |= column < column[0]
        alive, columns = alive[less], [column[less] for column in columns]
    return np.sort(np.array(kept, dtype=np.intp))


def _nondominated_pairs(objectives: FloatArray) -> NDArray[np.intp]:
    """The same for two objectives: a row survives where the second falls below all before it."""
    possible = _below_lower_bins(objectives[:, 0], objectives[:, 1])
    first, second = objectives[possible].T
    order = np.lexsort((second, first))
    lowest = np.minimum.accumulate(second[order])
    falls = np.concatenate([[True], second[order][1:] < lowest[:-1]])
    return np.sort(possible[order[falls]])


BINS = 4096
"""Of the first objective; rows of a lower bin have strictly less of it."""


def _below_lower_bins(first: FloatArray, second: FloatArray) -> NDArray[np.intp]:
    """Rows with less of the second objective than all rows of lower bins of the first.

    The others are dominated; to tell so takes no sorting, and few of millions are left.
    """
    low, high = float(first.min()), float(first.max())
    if len(first) <= BINS or not 0 < low < high < np.inf:
        return np.arange(len(first))
    scaled = np.log(first / low) * (BINS / np.log(high / low))
    bins = np.minimum(scaled.astype(np.int64), BINS - 1)
    least = np.full(BINS, np.inf)
    np.minimum.at(least, bins, second)
    before = np.concatenate([[np.inf], np.minimum.accumulate(least)[:-1]])
    return np.flatnonzero(second < before[bins])


def reduce_decode(problem: Problem, pool: Candidates) -> Candidates:
    """The decode candidates of each world size and split of the cache that none other dominates.

    A decode pool serves a demand by its capacity and admits by its slots; how it splits a cache
    sets the transfer time, its time between tokens matters to an end-to-end objective, and its
    iteration to how late an engine sends a first token.
    """
    # Slots over the time between tokens are the capacity: with both, it need not be compared.
    timed = problem.slo.e2e is not None or problem.slo.ttft is not None
    columns = [-pool.slots, pool.ttit_s if timed else -pool.qps]
    if problem.slo.ttft is not None and np.any(pool.iteration_s != pool.ttit_s):
        columns.append(pool.iteration_s)
    objectives = np.stack(columns, axis=1)
    layouts = pool.layouts[pool.layout]
    group = pool.world
    for degree in (layouts.pp, layouts.cp_a, layouts.tp_a):
        group = group * 4096 + degree
    order = np.argsort(group, kind="stable")
    ends = np.flatnonzero(np.diff(group[order])) + 1
    kept = [rows[nondominated(objectives[rows])] for rows in np.split(order, ends)]
    return pool.take(np.concatenate(kept)) if kept else pool
