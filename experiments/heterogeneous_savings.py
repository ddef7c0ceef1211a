"""What fleets of two device types save, from the rates of each: `insight3_heterogeneous.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Any

import numpy as np
from heterogeneous_cases import Rates

from planner.mixture import cheapest_mixture, pairing_saving
from planner.whatif.pairing import Costs

SAVED = (0.15, 0.25)
"""The claim."""
RATIOS = np.geomspace(0.125, 8.0, 385)


@dataclass(frozen=True)
class Curve:
    """What pairing two devices saves at `RATIOS` of the second's price to the first's.

    Attributes:
        most, even: the largest saving, and the ratio at which it occurs.
    """

    first: str
    second: str
    saving: np.ndarray[Any, np.dtype[np.float64]]
    most: float
    even: float

    @property
    def region(self) -> str:
        """Ratios at which it saves 15 to 25 %, in words."""
        inside = (self.saving >= SAVED[0]) & (self.saving <= SAVED[1])
        edges = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]]).astype(int)))
        spans = [f"{RATIOS[a]:.2f}-{RATIOS[b - 1]:.2f}" for a, b in edges.reshape(-1, 2)]
        return " and ".join(spans) or "none"


def curve(rates: Rates, first: str, second: str) -> Curve | None:
    """The saving over the better of the two alone; None where one of them can't serve."""
    p, d = np.array([rates[first], rates[second]]).T
    if (p == 0).any() or (d == 0).any():
        return None
    p, d = 1.0 / p, 1.0 / d
    alone = p + d
    pairs = ((p[0], d[1], f"{first} to {second}"), (d[0], p[1], f"{second} to {first}"))
    costs = Costs(alone[0], alone[1], pairs)
    best = costs.best_ratio
    assert best is not None, "both serve alone"
    return Curve(first, second, costs.saving(1.0 / RATIOS), float(costs.saving(best)), 1.0 / best)


def curves(rates: Rates) -> list[Curve]:
    """Of every pair of devices."""
    return [c for pair in combinations(rates, 2) if (c := curve(rates, *pair)) is not None]


def saving_at(rates: Rates, usd: Mapping[str, float]) -> float:
    """What the best pair saves over the best single type at a list's prices."""
    names = [n for n in rates if n in usd]
    prices = np.array([usd[n] for n in names])
    p, d = np.array([rates[n] for n in names]).T
    with np.errstate(divide="ignore"):
        return float(pairing_saving(prices / p, prices / d))


def slowed(rates: Rates, device: str, times: float) -> Rates:
    """The rates with one device so many times slower in both phases."""
    return {n: (p / times, d / times) if n == device else (p, d) for n, (p, d) in rates.items()}


def scarce_rows(
    rates: Rates, usd: Mapping[str, float], scarce: str, qps: float, steps: int
) -> list[dict[str, Any]]:
    """Costs as more of one device is at hand: of any mixture, the best pair, the best type alone.

    From none of it to as many as would serve the demand alone.
    """
    names = list(rates)
    p, d = np.array([rates[n] for n in names]).T
    prices, place = np.array([usd[n] for n in names]), names.index(scarce)
    needed = qps / p + qps / d  # devices of one type that serve the demand
    rows = []
    for share in np.linspace(0.0, 1.0, steps):
        limit = np.full(len(names), np.inf)
        limit[place] = share * needed[place]
        best = cheapest_mixture(qps, p, d, prices, limit)
        fits = needed <= limit * (1 + 1e-9)
        alone = float((prices * needed)[fits].min())
        spans = [
            (prices[i] * qps / p[i] + prices[j] * qps / d[j], qps / p[i], qps / d[j], i, j)
            for i, j in permutations(range(len(names)), 2)
        ]
        pairs = [
            usd
            for usd, first, second, i, j in spans
            if first <= limit[i] * (1 + 1e-9) and second <= limit[j] * (1 + 1e-9)
        ]
        rows.append(
            {
                "at hand": float(share),
                "one type, USD/h": alone,
                "best pair": min(pairs),
                "pair saves": 1 - min(pairs) / alone,
                "any mixture": best.usd_per_hour,
                "saves": 1 - best.usd_per_hour / alone,
                "in prefill": abs(float(best.prefill[place] / needed[place])),
                "in decode": abs(float(best.decode[place] / needed[place])),
            }
        )
    return rows
