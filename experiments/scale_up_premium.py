"""Throughput over time between tokens on two platforms, and their ratio: `insight5_scale_up.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from planner.evaluated import Evaluated
from planner.fronts import configurations, front

Curve = NDArray[np.float64]
SHOWN_MS = (20, 25, 30, 40, 50, 70, 100, 150, 200)
TTIT_S = np.unique([*np.geomspace(0.010, 0.200, 131), *(t / 1e3 for t in SHOWN_MS)])


@dataclass(frozen=True)
class Comparison:
    """One model on one pair of platforms; throughput by TTIT, requests/s per device.

    Attributes:
        decode: of decode alone, (scale-out, scale-up).
        fleet: prefill included.
        fastest_s: time between tokens of one sequence.
    """

    model: str
    pair: str
    decode: tuple[Curve, Curve]
    fleet: tuple[Curve, Curve]
    fastest_s: tuple[float, float]

    @property
    def premium(self) -> Curve:
        """Of decode; infinite where scale-up alone serves, nan where neither does."""
        return quotient(*self.decode)

    @property
    def fleet_premium(self) -> Curve:
        """Of the whole fleet."""
        return quotient(*self.fleet)


def quotient(out: Curve, up: Curve) -> Curve:
    """Scale-up over scale-out."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(up / out)


def envelope(frame: pl.DataFrame) -> Curve:
    """The most requests/s per device at each of `TTIT_S`; zero where none is so fast."""
    ordered = frame.sort("ttit_s")
    best = np.concatenate([[0.0], ordered["qps_per_device"].cum_max().to_numpy()])
    return np.asarray(best[np.searchsorted(ordered["ttit_s"].to_numpy(), TTIT_S, side="right")])


def compare(model: str, found: Evaluated, pairs: Mapping[str, tuple[str, str]]) -> list[Comparison]:
    """Every pair of platforms that was evaluated; names of devices (scale-out, scale-up)."""
    decode = configurations(found).filter(pl.col("role") == "decode")
    fleets = front(found, "ttit", ("disaggregated",))
    own = {
        name: decode.filter(pl.col("device") == name) for pair in pairs.values() for name in pair
    }
    whole = {name: fleets.filter(pl.col("devices") == name) for name in own}
    return [
        Comparison(
            model,
            title,
            decode=(envelope(own[a]), envelope(own[b])),
            fleet=(envelope(whole[a]), envelope(whole[b])),
            fastest_s=(own[a]["ttit_s"].min(), own[b]["ttit_s"].min()),  # type: ignore[arg-type]
        )
        for title, (a, b) in pairs.items()
    ]


def at(curve: Curve, ttit_ms: float) -> float | None:
    """A curve's value at a target; None where nothing serves, or scale-up alone."""
    value = float(curve[np.searchsorted(TTIT_S, ttit_ms / 1e3 * (1 + 1e-9)) - 1])
    return value if np.isfinite(value) and value > 0 else None


def pays_to(premium: Curve, price: float) -> float | None:
    """The loosest target, ms, at which scale-up is worth a price ratio; None: nowhere."""
    worth = np.flatnonzero(premium >= price)
    return float(1e3 * TTIT_S[worth[-1]]) if len(worth) else None


def less_needed(dense: Comparison, mixture: Comparison) -> tuple[NDArray[np.bool_], float]:
    """Where the mixture's premium is no larger, of targets that both reach on hosts; the first."""
    both = np.isfinite(dense.premium) & np.isfinite(mixture.premium)
    less = mixture.premium[both] <= dense.premium[both] * 1.02
    return np.asarray(less), float(1e3 * TTIT_S[both][0])
