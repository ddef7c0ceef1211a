"""How far measured tables disagree with themselves: a bound on what any prediction of them can do.

Some things were timed twice: bf16 products under each engine, which all call a library's kernel
for them, copies between devices of the same bytes in two number formats, and all-reduces that
take as long under two engines, for one took the other's kernel. What two timings of one thing
differ by, level apart, is neither shape nor engine. Two equally noisy timings differ by sqrt(2)
times what each is off by.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import polars as pl

from perfmodel.database import PerfStore
from perfmodel.engine import ENGINES

AGREE = 0.03
"""Two timings that differ by at most this share agree."""

PRODUCTS = {"gemm": ("m", "n", "k"), "mla_bmm": ("stage", "heads", "tokens")}
"""Families whose bf16 rows every engine times of the same product, and their shape."""

COPIES = ("all_gather", "alltoall")
"""Collectives that move bytes without regard to their format."""

GROUP = ("devices", "message_bytes")
"""What says all of a collective's shape."""


@dataclass(frozen=True)
class Repeat:
    """How far two timings of the same calls are apart, level apart.

    Attributes:
        first, second: which timings; the second may be the mean of two that agree.
        rows: calls that both timed.
        median, p90: of what one is off by, as a relative error: of the difference over sqrt(2)
            for two timings, of the whole difference from two that agree.
    """

    device: str
    family: str
    first: str
    second: str
    rows: int
    median: float
    p90: float


def repeats(store: PerfStore, device: str) -> Iterator[Repeat]:
    """All repeated timings of a device's tables."""
    for family, shape in PRODUCTS.items():
        timed = {}
        for engine in ENGINES:
            frame = store.table(device, engine, family)
            if frame is not None:
                timed[engine] = _logs(frame, shape, engine)
        for a, b in combinations(timed, 2):
            both = timed[a].join(timed[b], on=shape)
            apart = _level_apart(both, pl.col(a) - pl.col(b), shape)
            yield _repeat(device, family, a, b, apart / np.sqrt(2.0))
        if len(timed) == 3:
            yield from _against_two(device, family, timed, shape)
    yield from _same_all_reduces(store, device)
    frame = store.table(device, "nccl", "collective")
    if frame is None:
        return
    for operation in COPIES:
        rows = frame.filter(pl.col("operation") == operation)
        rows = rows.with_columns(pl.col("time_s").cast(pl.Float64).log())
        a, b = (rows.filter(pl.col("dtype") == dtype) for dtype in ("bf16", "int8"))
        both = a.join(b, on=GROUP, suffix="_b")
        apart = (both["time_s"] - both["time_s_b"]).to_numpy() / np.sqrt(2.0)
        yield _repeat(device, "collective", f"{operation} bf16", f"{operation} int8", apart)


def _same_all_reduces(store: PerfStore, device: str) -> Iterator[Repeat]:
    """Those of two engines that agree at the median."""
    frames = {engine: store.table(device, engine, "all_reduce") for engine in ENGINES}
    timed = {e: _logs(frame, GROUP, e) for e, frame in frames.items() if frame is not None}
    for a, b in combinations(timed, 2):
        both = timed[a].join(timed[b], on=GROUP)
        difference = pl.col(a) - pl.col(b)
        if np.median(np.abs(both.select(difference).to_series().to_numpy())) < AGREE:
            apart = _level_apart(both, difference, GROUP[:1])
            yield _repeat(device, "all_reduce", a, b, apart / np.sqrt(2.0))


def _logs(frame: pl.DataFrame, shape: tuple[str, ...], name: str) -> pl.DataFrame:
    """Logarithms of the bf16 rows' times, so named, by shape."""
    time = pl.col("time_s").cast(pl.Float64).log().alias(name)
    return frame.filter(pl.col("dtype") == "bf16").select(*shape, time)


def _against_two(
    device: str, family: str, timed: dict[str, pl.DataFrame], shape: tuple[str, ...]
) -> Iterator[Repeat]:
    """Each timing against the mean of the other two, where these agree."""
    for engine in timed:
        a, b = (other for other in timed if other != engine)
        rows = timed[engine].join(timed[a], on=shape).join(timed[b], on=shape)
        agree = np.abs(_level_apart(rows, pl.col(a) - pl.col(b), shape)) < AGREE
        apart = _level_apart(rows, pl.col(engine) - (pl.col(a) + pl.col(b)) / 2.0, shape)
        if agree.any():
            yield _repeat(device, family, engine, f"{a} and {b} agreeing", apart[agree])


def _level_apart(rows: pl.DataFrame, difference: pl.Expr, shape: tuple[str, ...]) -> np.ndarray:
    """A difference less its medians along each coordinate, taken in turn three times."""
    rows = rows.with_columns(d=difference)
    for name in 3 * shape:
        rows = rows.with_columns(d=pl.col("d") - pl.col("d").median().over(name))
    return rows["d"].to_numpy()


def _repeat(device: str, family: str, first: str, second: str, apart: np.ndarray) -> Repeat:
    errors = np.abs(np.expm1(-apart))  # of a prediction that knew the second, of the first
    median, p90 = np.quantile(errors, [0.5, 0.9])
    return Repeat(device, family, first, second, len(errors), float(median), float(p90))
