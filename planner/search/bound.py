"""What any fleet costs at least, some of whose layouts were not evaluated.

The cheapest fleet is either made of layouts that were evaluated, and then known, or one of
its pools has another layout. Of those the bounds on capacity say how many replicas each takes
at least, and so how many devices; waiting only adds to them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from planner.candidates import Role
from planner.choice import pair_usd_per_hour, pool_usd_per_hour
from planner.problem import Problem
from planner.search.parts import Part

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

Parts = Mapping[Role, Sequence[Part]]
Unseen = Mapping[Role, Sequence[BoolArray]]
"""By role and part: layouts that were not evaluated, (L,)."""


def least_fleet_usd_per_hour(problem: Problem, parts: Parts, unseen: Unseen, qps: float) -> float:
    """Lower bound on the price of fleets in which some layout was not evaluated."""
    least = np.inf
    for part, open_ in zip(parts.get("continuous", ()), unseen.get("continuous", ()), strict=True):
        if open_.any():
            least = min(least, float(fleet_usd_per_hour(problem, part, parts, qps)[open_].min()))
    for role in ("prefill", "decode"):
        for part, open_ in zip(parts.get(role, ()), unseen.get(role, ()), strict=True):
            if open_.any():
                price = fleet_usd_per_hour(problem, part, parts, qps)[open_]
                least = min(least, float(price.min()))
    return least


def fleet_usd_per_hour(problem: Problem, part: Part, parts: Parts, qps: float) -> FloatArray:
    """Lower bound on the price of any fleet that has a pool of each layout, (L,)."""
    replicas = part.least_replicas(problem, qps)
    finite = np.isfinite(replicas)
    counts = np.where(finite, replicas, 1.0)
    if part.role == "continuous":
        price = pool_usd_per_hour(part.offer, part.layouts.world, counts)
        return np.where(finite, price, np.inf)
    devices = counts * part.layouts.world
    price = np.full(len(devices), np.inf)
    for other in parts["decode" if part.role == "prefill" else "prefill"]:
        if other.precision.kv != part.precision.kv or not len(other.layouts):
            continue
        beside = other.least_devices(problem, qps).min()
        if np.isfinite(beside):
            pair = pair_usd_per_hour(part.offer, other.offer, devices, np.asarray(beside))
            price = np.minimum(price, pair)
    return np.where(finite, price, np.inf)


def most_fleet_qps(problem: Problem, parts: Parts, unseen: Unseen) -> float:
    """Upper bound on the demand that fleets serve in which some layout was not evaluated.

    Of an inventory of every device; whole hosts and waiting only take from it.
    """
    most = 0.0
    for role, of_role in parts.items():
        for part, open_ in zip(of_role, unseen[role], strict=True):
            if not open_.any():
                continue
            rate = _device_qps(problem, part)[open_].max()
            count = part.offer.most_devices or np.inf
            if role == "continuous":
                most = max(most, rate * count)
                continue
            for other in parts["decode" if role == "prefill" else "prefill"]:
                if other.precision.kv != part.precision.kv or not len(other.layouts):
                    continue
                beside = _device_qps(problem, other).max()
                if rate <= 0 or beside <= 0:
                    continue
                if other.offer.device.name == part.offer.device.name:
                    most = max(most, count / (1.0 / rate + 1.0 / beside))
                else:
                    most = max(most, min(rate * count, beside * (other.offer.most_devices or 0)))
    return most


def _device_qps(problem: Problem, part: Part) -> FloatArray:
    return part.most_qps * problem.max_utilization * (1.0 + 1e-9) / part.layouts.world
