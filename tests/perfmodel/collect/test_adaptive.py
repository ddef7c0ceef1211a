"""Refinement puts points where interpolation fails, and tells the truth about the rest."""

import math
from collections.abc import Callable

import numpy as np

from perfmodel.collect.adaptive import Axis, Refinement, Slice
from perfmodel.collect.measure import Key, Sample, repeat, summarize
from perfmodel.database.grid import RatioTable, Rows

Timing = Callable[[float, float], float]
M = Axis("m", (1, 64, 4096))
N = Axis("n", (256, 4096, 65536), 64)
BOUND = 0.05


def ragged(m: float, n: float) -> float:
    """Ratio to the roofline: flat but for a steep, curved shoulder at small m."""
    return 1.3 + 4.0 / (1.0 + (m / 24.0) ** 2) + 0.1 * math.log2(n / 256)


def refine(timing: Timing, *, rounds: int = 400, spread: float = 0.0) -> tuple[Refinement, int]:
    asked: list[Key] = []

    def measure(key: Key) -> Sample:
        asked.append(key)
        return Sample(timing(float(key["m"]), float(key["n"])), spread, 3, "k")

    refinement = Refinement(
        Slice("gemm", {"dtype": "bf16"}, (M, N)), lambda key: 1.0, measure, BOUND
    )
    refinement.coarse()
    for _ in range(rounds):
        if refinement.done:
            break
        refinement.round()
    return refinement, len(asked)


def p90(points: dict[tuple[int, ...], float], timing: Timing) -> float:
    """The table's error at random places of the domain."""
    at = np.array(list(points), dtype=float)
    rows = Rows(np.zeros((len(at), 0)), at, np.array(list(points.values())))
    table = RatioTable.build(rows, [])
    draws = np.random.default_rng(1).random((400, 2))
    m, n = 4096 ** draws[:, 0], 256 * 256 ** draws[:, 1]
    ratio, _ = table.lookup(np.zeros(400, dtype=np.intp), [m, n])
    truth = np.array([timing(a, b) for a, b in zip(m, n, strict=True)])
    return float(np.quantile(np.abs(ratio / truth - 1.0), 0.9))


def test_reaches_the_bound_with_fewer_rows_than_a_uniform_grid() -> None:
    refinement, rows = refine(ragged)
    assert refinement.done
    assert p90(refinement.times, ragged) <= 1.3 * BOUND
    assert float(np.quantile(refinement.errors, 0.9)) <= BOUND
    uniform = next(
        len(points) for size in range(3, 60) if p90(points := grid(size, size), ragged) <= BOUND
    )
    assert rows < uniform


def grid(rows: int, columns: int) -> dict[tuple[int, ...], float]:
    m = np.unique(np.round(np.geomspace(1, 4096, rows)).astype(int))
    n = np.round(np.geomspace(256, 65536, columns)).astype(int)
    return {(int(a), int(b)): ragged(float(a), float(b)) for a in m for b in n}


def test_a_smooth_timing_needs_little_more_than_the_coarse_grid() -> None:
    refinement, rows = refine(lambda m, n: 1e-3)
    assert refinement.done
    assert rows <= 9 + 8
    assert max(refinement.errors) < 1e-9


def test_noise_is_not_chased() -> None:
    source = np.random.default_rng(0)
    refinement, rows = refine(
        lambda m, n: 1e-3 * float(source.uniform(0.9, 1.1)), rounds=20, spread=0.25
    )
    assert rows < 300
    assert refinement.errors
    assert max(refinement.errors) > BOUND  # and it is reported as it is


def test_same_draws_every_time() -> None:
    assert list(refine(ragged)[0].times) == list(refine(ragged)[0].times)


def test_shapes_that_cannot_be_measured_are_left_out() -> None:
    def measure(key: Key) -> Sample | None:
        return None if int(key["m"]) > 100 else Sample(1e-3, 0.0, 3, "k")

    part = Slice("gemm", {"dtype": "bf16"}, (M, N))
    refinement = Refinement(part, lambda key: 1e-4, measure, BOUND)
    refinement.coarse()
    for _ in range(50):
        if not refinement.done:
            refinement.round()
    assert refinement.done
    assert all(m <= 100 for m, _ in refinement.times)


def test_middles_are_multiples_and_apart() -> None:
    assert N.middle(256, 4096) == 1024
    assert N.middle(256, 320) is None
    assert M.middle(1, 2) is None
    assert M.middle(1, 4) == 2


def test_repeats_end_when_the_median_is_known() -> None:
    assert repeat(lambda: 1e-3, "k", at_least=3, at_most=50, seconds=9.0).repeats == 3
    noisy = iter([1.0, 2.0] * 50)
    sample = repeat(lambda: next(noisy), "k", at_least=3, at_most=50, seconds=1e9)
    assert sample.repeats == 50
    assert summarize([1.0, 2.0, 3.0, 4.0, 5.0], "k").spread == 1.0 / 3.0
