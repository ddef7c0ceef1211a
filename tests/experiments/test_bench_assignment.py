"""The heuristics beside the assignment: within the inventory, and never below the optimum."""

from __future__ import annotations

import importlib
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planner.catalog.assignment import Option, Supply

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    return importlib.import_module("bench_assignment")


def drawn(rng: np.random.Generator, bench: Any) -> Any:
    kinds = 3
    supplies = [
        Supply(f"{k}", 8, float(rng.integers(10, 50)), int(rng.integers(1, 5)))
        for k in range(kinds)
    ]
    options = [
        [
            Option(tuple(map(int, h)), tuple(map(int, d)))
            for h, d in zip(
                rng.integers(0, 2, (4, kinds)), rng.choice([0, 1, 2, 4], (4, kinds)), strict=True
            )
        ]
        for _ in range(4)
    ]
    return bench.Instance.of(supplies, options)


def least(problem: Any) -> float | None:
    """By trying everything."""
    services = [np.flatnonzero(problem.owner == s) for s in range(len(problem.options))]
    usd = []
    for rows in product(*services):
        hosts = problem.chosen_hosts(np.array(rows))
        if problem.excess_usd(hosts) == 0:
            usd.append(float(problem.usd(hosts)))
    return min(usd, default=None)


@pytest.mark.parametrize("seed", range(12))
def test_solvers_agree_with_trying_everything_and_heuristics_are_no_better(
    bench: Any, seed: int
) -> None:
    problem = drawn(np.random.default_rng(seed), bench)
    best = least(problem)
    cp_sat = bench.by_cp_sat(problem, 0.0, 1)
    highs = bench.by_highs(problem, 0.0)
    assert cp_sat.usd == pytest.approx(best)
    assert highs.usd == pytest.approx(best)
    fixed = bench.repaired(problem, problem.alone())
    rows = [fixed, bench.first_come(problem)]
    rows += [] if fixed is None else [bench.improved(problem, fixed)]
    for found in rows:
        if found is not None:
            hosts = problem.chosen_hosts(found)
            assert problem.excess_usd(hosts) == 0
            assert best is not None
            assert problem.usd(hosts) >= best - 1e-9
    if fixed is not None:
        assert problem.usd(problem.chosen_hosts(rows[2])) <= problem.usd(
            problem.chosen_hosts(fixed)
        )
