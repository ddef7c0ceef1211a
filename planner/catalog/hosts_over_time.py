"""Hosts that are reserved and hosts on demand: how they are had, and how many of each are best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.catalog.assignment import Supply

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Rental:
    """How hosts of a supply are had on demand, beside reserved ones.

    Attributes:
        usd_per_host_hour: None: not to be had.
        least_slots: for which one is rented at least.
    """

    usd_per_host_hour: float | None
    least_slots: int = 1


@dataclass(frozen=True, eq=False)
class Family:
    """One configuration of a service, with as many replicas in each slot as it needs.

    Attributes:
        hosts: (T, K) whole hosts that it fills, by slot and supply.
        devices: (T, K) devices on hosts that other services may share.
        usd_per_hour: what it costs besides hosts.
        large: (T, K) of those devices, those of replicas that do not divide a host; None: none.
    """

    hosts: IntArray
    devices: IntArray
    usd_per_hour: float = 0.0
    large: IntArray | None = None

    def used(self, sizes: IntArray) -> IntArray:
        """(T, K, 2) devices of all replicas, and of those that do not divide a host.

        Args:
            sizes: (K, 2) of hosts, as `planner.catalog.assignment.Supply`.
        """
        large = np.zeros_like(self.devices) if self.large is None else self.large
        devices = np.stack([self.devices, large], axis=2)[..., : sizes.shape[1]]
        return np.asarray(self.hosts[:, :, None] * sizes + devices)


def cheapest_hosts(
    supplies: Sequence[Supply],
    rentals: Sequence[Rental],
    needed: IntArray,
    weights: FloatArray,
) -> tuple[IntArray, IntArray]:
    """How many hosts to reserve and have on demand, where these have no least time.

    A host reserved saves its price on demand in every slot that needs it: the price is convex
    in their number and bends at the counts that slots need. Of equal ones the fewest.

    Args:
        needed: (T, K) hosts, by slot and supply.
        weights: (T,) share of time of each slot.

    Returns:
        (K,) hosts reserved and (T, K) on demand.
    """
    reserved = np.zeros(len(supplies), dtype=np.int64)
    for k, (supply, rental) in enumerate(zip(supplies, rentals, strict=True)):
        counts = np.unique(np.append(needed[:, k], 0))
        if rental.usd_per_host_hour is None:
            reserved[k] = counts[-1]
            continue
        rented = weights @ np.maximum(needed[:, k, None] - counts, 0)
        price = supply.usd_per_host_hour * counts + rental.usd_per_host_hour * rented
        cheapest = price <= price.min() * (1 + 1e-12)
        reserved[k] = counts[cheapest.argmax()]
    return reserved, np.maximum(needed - reserved, 0)


def usd_per_hour(
    supplies: Sequence[Supply],
    rentals: Sequence[Rental],
    reserved: IntArray,
    on_demand: IntArray,
    weights: FloatArray,
) -> float:
    """Price of hosts reserved (K,) and on demand (T, K), mean over the slots."""
    price = np.array([s.usd_per_host_hour for s in supplies])
    rented = np.array([r.usd_per_host_hour or 0.0 for r in rentals])
    return float(reserved @ price + weights @ on_demand @ rented)
