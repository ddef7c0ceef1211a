"""Prices at which a fleet of two device types beats the best fleet of one.

All prices of a fleet scale with the prices of its devices, so that the saving depends on the
ratio of the two devices' prices alone: in the plane of both prices its contours are rays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfmodel.errors import InputError
from planner.candidates import Candidates
from planner.evaluated import Evaluated
from planner.large_fleet import devices_per_qps, found_by_tier
from planner.problem import Problem
from planner.transfer import least_sending_s, receiving_s
from planner.whatif.market import Line, Market, envelope, hosts_name

FloatArray = NDArray[np.float64]

LEVELS = (0.0, 0.05, 0.10, 0.15, 0.25)
"""Savings whose regions of prices are reported."""

HIGHEST_RATIO = 32.0
"""Ratios of the two prices from its inverse to this are looked at."""


@dataclass(frozen=True)
class Costs:
    """Prices of fleets at a ratio `r` of the first device's price to the second's.

    In device-hours of the second device: a fleet of `a` and `b` devices costs `a r + b`.

    Attributes:
        first, second: devices of the cheapest fleet of one type; infinite where none serves.
        mixed: (first, second) devices of fleets of both types, each the cheapest somewhere, and
            what they are.
    """

    first: float
    second: float
    mixed: tuple[tuple[float, float, str], ...]

    def single(self, ratio: ArrayLike) -> FloatArray:
        """The best fleet of one type."""
        return np.minimum(self.first * np.asarray(ratio, dtype=float), self.second)

    def both(self, ratio: ArrayLike) -> FloatArray:
        """The best fleet of both types; infinite where there is none."""
        r = np.asarray(ratio, dtype=float)
        least = np.full(r.shape, np.inf)
        for a, b, _ in self.mixed:
            least = np.minimum(least, a * r + b)
        return least

    def saving(self, ratio: ArrayLike) -> FloatArray:
        """Share of the best single-type fleet's price that pairing saves; negative: it costs."""
        single = self.single(ratio)
        return np.asarray(1.0 - self.both(ratio) / np.where(np.isinf(single), np.nan, single))

    @property
    def best_ratio(self) -> float | None:
        """At which the saving is greatest: where both single types cost the same.

        None where only one serves alone: the dearer that is, the more pairing saves.
        Below it the best fleet of one type costs `first r`, and no mixed fleet's price rises as
        fast; above, that price stays while mixed ones rise.
        """
        finite = np.isfinite([self.first, self.second]).all()
        return self.second / self.first if finite and self.mixed else None

    def region(self, saving: float) -> tuple[float, float] | None:
        """Ratios between which pairing saves more than a share; None where it never does.

        With `k = 1 - saving`, a mixed fleet of `a` and `b` devices is cheap enough for
        `a r + b < k first r` and `a r + b < k second`.
        """
        share = 1.0 - saving
        spans = []
        for a, b, _ in self.mixed:
            gained = share * self.first - a
            low = b / gained if gained > 0 else np.inf
            high = (share * self.second - b) / a if a > 0 else np.inf
            if low < high:
                spans.append((low, high))
        # Every span holds the ratio of the greatest saving: together they are one.
        return (min(s[0] for s in spans), max(s[1] for s in spans)) if spans else None

    def to_dict(self, ratio: float, levels: Sequence[float]) -> dict[str, Any]:
        """Plain data; savings at a ratio, and ratios at which they exceed levels.

        None: no saving to tell, or (the upper end of ratios) no end.
        """
        best, today = self.best_ratio, float(self.saving(ratio)) if self.mixed else np.nan
        return {
            "devices_alone": [None if np.isinf(n) else n for n in (self.first, self.second)],
            "mixed": [{"devices": [a, b], "fleet": name} for a, b, name in self.mixed],
            "saving_today": today if np.isfinite(today) else None,
            "best_ratio": best,
            "largest_saving": float(self.saving(best)) if best else None,
            "ratios_by_saving": {
                f"{level:g}": region and [end if np.isfinite(end) else None for end in region]
                for level in levels
                for region in [self.region(level)]
            },
        }

    def fleet(self, ratio: float) -> str:
        """What the best fleet of both types is at a ratio."""
        return min(self.mixed, key=lambda m: m[0] * ratio + m[1])[2] if self.mixed else ""


@dataclass(frozen=True)
class Pairing:
    """Two device types, together against each alone.

    Attributes:
        today: the query's prices of both, USD per device-hour.
        hosts: at the query's demand, in whole hosts.
        scale: per request/s, in a fleet so large that hosts, replicas and queues no longer count:
            `c_p / p + c_d / d`.
    """

    first: str
    second: str
    today: tuple[float, float]
    qps: float
    hosts: Costs
    scale: Costs

    def to_dict(self) -> dict[str, Any]:
        """Plain data; ratios are of the first device's price to the second's."""
        return {
            "devices": [self.first, self.second],
            "today_usd_per_device_hour": list(self.today),
            "qps": self.qps,
            "whole_hosts": self.hosts.to_dict(self.today_ratio, LEVELS),
            "at_scale": self.scale.to_dict(self.today_ratio, LEVELS),
        }

    @property
    def today_ratio(self) -> float:
        """Of the first price to the second's."""
        return self.today[0] / self.today[1]


def pairing(evaluated: Evaluated, first: str, second: str) -> Pairing:
    """Savings of fleets of two device types over those of one, at any prices of both.

    Raises:
        InputError: the query has no such device, no demand, or not both runtimes' pools.
    """
    market = Market(evaluated)
    for device in (first, second):
        market.offer_name(device)
    if first == second:
        raise InputError(f"expected two device types, got {first} twice")
    if "disaggregated" not in market.query.runtime:
        raise InputError("runtime: pools of two device types need `disaggregated`")
    today = (market.prices[first], market.prices[second])
    return Pairing(
        first=first,
        second=second,
        today=today,
        qps=market.qps,
        hosts=_in_hosts(market, first, second),
        scale=_at_scale(market, first, second),
    )


def _in_hosts(market: Market, first: str, second: str) -> Costs:
    others = [name for name in market.offers if name not in (first, second)]
    alone: list[float] = []
    for other in (second, first):
        choice = market.best(without=[*others, other])
        alone.append(np.inf if choice is None else float(choice.devices))
    base = market.prices[second]

    def mixed(ratio: float) -> Line | None:
        prices = {first: ratio * base, second: base}
        choice = market.best(prices, kinds=("heterogeneous",), without=others)
        if choice is None:
            return None
        line = market.line(choice, first)
        return Line(choice, line.fixed / base, line.devices)

    if mixed(1.0) is None:
        return Costs(alone[0], alone[1], ())

    def best(ratio: float) -> Line:
        line = mixed(ratio)
        assert line is not None, "what serves at one price serves at all"
        return line

    found = envelope(best, 1.0 / HIGHEST_RATIO, HIGHEST_RATIO)
    return Costs(
        alone[0], alone[1], tuple((s.line.devices, s.line.fixed, _named(s.line)) for s in found)
    )


def _named(line: Line) -> str:
    """The pools of a fleet, prefill first, in hosts."""
    pools = " and ".join(f"{p.candidates.role} on {p.offer.device.name}" for p in line.choice.pools)
    return f"{hosts_name(line.choice)}: {pools}"


_Cache = tuple[int, str]
"""Where prefixes lie, of the places that are tried, and the format: both pools' are the same."""


def _at_scale(market: Market, first: str, second: str) -> Costs:
    """Devices per request/s of single-type and mixed fleets, whole replicas and hosts apart.

    Each phase's latency targets are met on an idle system, transfers apart, and a cache is sent
    once, which makes the phases separable (`planner.large_fleet` counts first tokens and links in
    full). An encoder pool of its own is not counted.
    """
    names = {market.offer_name(first): 0, market.offer_name(second): 1}
    least: dict[tuple[str, int, _Cache], float] = {}
    for tier, (space, block) in enumerate(found_by_tier(market.evaluated)):
        for found in block:
            place = names.get(found.offer.device.name)
            if place is None or len(found) == 0:
                continue
            key = (found.role, place, (tier, found.precision.kv))
            least[key] = min(least.get(key, np.inf), _devices_per_qps(space.problem, found))
    caches = sorted({cache for _, _, cache in least})

    def of(role: str, place: int, cache: _Cache) -> float:
        return least.get((role, place, cache), np.inf)

    def pools(prefill: int, decode: int) -> list[tuple[float, float]]:
        """Devices of both pools, whose caches are alike, by cache."""
        both = [(of("prefill", prefill, cache), of("decode", decode, cache)) for cache in caches]
        return [pair for pair in both if np.isfinite(pair).all()]

    alone = [
        min(
            [p + d for p, d in pools(place, place)]
            + [of("continuous", place, cache) for cache in caches],
            default=np.inf,
        )
        for place in (0, 1)
    ]
    mixed = [(p, d, f"prefill on {first}, decode on {second}") for p, d in pools(0, 1)]
    mixed += [(d, p, f"prefill on {second}, decode on {first}") for p, d in pools(1, 0)]
    return Costs(alone[0], alone[1], tuple(mixed))


def _devices_per_qps(problem: Problem, found: Candidates) -> float:
    """The fewest, whichever the other pool; its links count as far as it can't help."""
    link_s: FloatArray | float = 0.0
    if found.role != "continuous":
        link_s = (least_sending_s if found.role == "prefill" else receiving_s)(problem, found)
    return float(devices_per_qps(found, link_s).min())


def ratios(count: int = 200) -> FloatArray:
    """Ratios of prices for a curve, evenly spaced in their logarithms."""
    return np.geomspace(1.0 / HIGHEST_RATIO, HIGHEST_RATIO, count)


def bands(costs: Costs, levels: Sequence[float]) -> list[tuple[float, float, float, float]]:
    """Ratios between neighbouring contours: (from, to, least saving, most saving).

    Args:
        levels: shares saved, ascending; each band lies between two of them.
    """
    found = []
    for low, high in pairwise([*levels, 1.0]):
        outer, inner = costs.region(low), costs.region(high)
        if outer is None:
            continue
        if inner is None:
            found.append((*outer, low, high))
        else:
            found += [(outer[0], inner[0], low, high), (inner[1], outer[1], low, high)]
    return found
