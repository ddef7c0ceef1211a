"""How a service's replicas follow its demand, slot by slot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.catalog.batch import OVER_TIME, Result
from planner.catalog.demand import Demand
from planner.catalog.hosts_over_time import Family
from planner.catalog.placing import Key, PoolUse, pools_of, taken
from planner.catalog.renting import Autoscaling
from planner.catalog.services import Service
from planner.problem import Offer

IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Following:
    """A service's configuration, and the replicas that it has in each slot.

    Attributes:
        fleet: at the peak, as `planner solve` writes one.
        pools: device type and devices of a replica, of each pool.
        replicas: (T, P) by slot and pool.
        qps: the demand that it follows, requests/s by slot.
    """

    fleet: Mapping[str, Any]
    pools: tuple[tuple[str, int], ...]
    replicas: IntArray
    qps: tuple[float, ...]

    def uses(self, replicas: Sequence[int] | IntArray) -> list[PoolUse]:
        """The pools with so many replicas each."""
        return [(*pool, int(count)) for pool, count in zip(self.pools, replicas, strict=True)]

    @property
    def peak(self) -> list[PoolUse]:
        """The pools with the most replicas that each ever has."""
        return self.uses(self.replicas.max(axis=0))

    def taken(
        self, region: str, keys: Sequence[Key], offers: Mapping[Key, Offer], share: bool
    ) -> Family:
        """What it takes of every supply, by slot."""
        distinct, slot_of = np.unique(self.replicas, axis=0, return_inverse=True)
        found = [taken(self.uses(row), region, keys, offers, share) for row in distinct]
        hosts, devices, large = (np.array(part)[slot_of] for part in zip(*found, strict=True))
        return Family(hosts, devices, large=large)


def followings(
    service: Service, result: Result, autoscaling: Autoscaling, slots: int
) -> list[Following]:
    """All configurations of a service, each following its demand over so many slots.

    A service whose demand does not change has the replicas of its plans at all times.
    """
    assert result.plan is not None
    if service.demand is None:
        fleets = [result.plan["best"], *result.plan["alternatives"]]
        return [
            _following(fleet, np.tile(_counts(fleet), (slots, 1)), (fleet["qps"],) * slots)
            for fleet in fleets
        ]
    known = result.plan[OVER_TIME]
    demand = service.demand.repeated(round(slots * service.demand.slot_s / 3600))
    return [
        _following(
            family["fleet"],
            around(
                at_levels(demand, known["levels_qps"], family["replicas"]),
                before=autoscaling.slots(autoscaling.start_up),
                after=autoscaling.slots(autoscaling.hold),
            ),
            demand.qps,
        )
        for family in known["families"]
    ]


def _following(fleet: Mapping[str, Any], replicas: IntArray, qps: tuple[float, ...]) -> Following:
    pools = tuple((device, world) for device, world, _ in pools_of(fleet))
    return Following(fleet, pools, replicas, qps)


def _counts(fleet: Mapping[str, Any]) -> list[int]:
    return [replicas for _, _, replicas in pools_of(fleet)]


def at_levels(
    demand: Demand, levels: Sequence[float], replicas: Sequence[Sequence[int]]
) -> IntArray:
    """Replicas of each slot, (T, P): those of the least level that holds its demand; 0 for none.

    Args:
        levels: ascending, the last no less than the peak.
        replicas: by level and pool.
    """
    qps = np.array(demand.qps)
    level = np.searchsorted(levels, qps * (1 - 1e-9))
    return np.where(qps[:, None] > 0, np.array(replicas, dtype=np.int64)[level], 0)


def around(needed: IntArray, *, before: int, after: int) -> IntArray:
    """What runs so that what is needed runs some slots before and after, going round, (T, P)."""
    shifts = [np.roll(needed, shift, axis=0) for shift in range(-before, after + 1)]
    return np.asarray(np.max(shifts, axis=0))
