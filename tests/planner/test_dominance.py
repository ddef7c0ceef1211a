"""Dropping dominated rows, against the definition."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from planner.candidates import Candidates
from planner.dominance import nondominated, reduce_decode
from planner.problem import Problem

ROWS = st.integers(1, 4).flatmap(
    lambda columns: st.integers(0, 40).flatmap(
        lambda rows: arrays(np.float64, (rows, columns), elements=st.integers(0, 4).map(float))
    )
)


@given(ROWS)
def test_kept_rows_are_exactly_those_that_none_beats(rows: np.ndarray) -> None:
    kept = nondominated(rows)
    assert list(kept) == sorted(set(kept.tolist()))
    for i, row in enumerate(rows):
        beaten = np.all(rows <= row, axis=1) & np.any(rows < row, axis=1)
        copies = [k for k in kept if np.array_equal(rows[k], row)]
        if beaten.any():
            assert i not in kept
        else:
            assert len(copies) == 1


@given(ROWS)
def test_every_dropped_row_has_one_at_least_as_good(rows: np.ndarray) -> None:
    kept = rows[nondominated(rows)]
    for row in rows:
        assert np.all(kept <= row, axis=1).any()


@given(st.integers(0, 2**32 - 1), st.integers(1, 400), st.sampled_from([1.0, 1e-3, -1.0]))
def test_of_many_pairs_the_same_are_kept(seed: int, distinct: int, scale: float) -> None:
    random = np.random.default_rng(seed)
    rows = random.integers(1, distinct + 1, size=(20_000, 2)) * np.array([scale, 1.0])
    kept = nondominated(rows)
    # The pairs that are unbeaten, once each: walk them by the first objective.
    expected, least = [], np.inf
    for first, second in np.unique(rows, axis=0):
        if second < least:
            expected.append((first, second))
            least = second
    assert sorted(map(tuple, rows[kept])) == expected


def test_decode_pools_keep_their_best_of_each_size(
    pools_of: Callable[..., list[Candidates]], problem_of: Callable[..., Problem]
) -> None:
    pool = next(c for c in pools_of() if c.role == "decode")
    kept = reduce_decode(problem_of(), pool)
    assert 0 < len(kept) < len(pool)
    for world in np.unique(pool.world):
        for tp in (1, 2, 4):
            before, after = (
                (c.world == world) & (c.layouts.tp_a[c.layout] == tp) for c in (pool, kept)
            )
            if before.any():
                assert kept.qps[after].max() == pool.qps[before].max()
                assert kept.slots[after].max() == pool.slots[before].max()


def test_with_an_end_to_end_objective_the_fastest_is_kept_too(
    pools_of: Callable[..., list[Candidates]], problem_of: Callable[..., Problem]
) -> None:
    changes = {"slo": {"e2e": "3s"}}
    pool = next(c for c in pools_of(**changes) if c.role == "decode")
    kept = reduce_decode(problem_of(**changes), pool)
    assert kept.ttit_s.min() == pool.ttit_s.min()
