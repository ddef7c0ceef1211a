"""Inventories: what hosts keep within, and what they lack where that does not suffice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from planner.catalog.assignment import Supply

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


OUT_OF_TIME = "nothing within the inventories was found in the time given; expected more --seconds"
"""Where what is found beyond them keeps within them after all."""


@dataclass(frozen=True)
class Total:
    """What several supplies have together: a device type's inventory over all regions.

    Attributes:
        supplies: their places.
        devices: of all their hosts, at most.
    """

    name: str
    supplies: tuple[int, ...]
    devices: int


@dataclass(frozen=True)
class TotalPlan:
    """What a fleet takes of an inventory over all regions.

    Attributes:
        devices: of all hosts, at the busiest.
    """

    device: str
    devices: int
    inventory_devices: int


def limits(supplies: Sequence[Supply], totals: Sequence[Total]) -> tuple[FloatArray, FloatArray]:
    """Rows over hosts by supply, (L, K), and the most that each may come to, (L,).

    Those of single supplies count hosts, those of several devices.
    """
    own = [i for i, supply in enumerate(supplies) if supply.inventory is not None]
    rows = np.zeros((len(own) + len(totals), len(supplies)))
    rows[np.arange(len(own)), own] = 1
    for row, total in zip(rows[len(own) :], totals, strict=True):
        for k in total.supplies:
            row[k] = supplies[k].host_devices
    most = [supplies[i].inventory for i in own] + [total.devices for total in totals]
    return rows, np.array(most, dtype=float)


def taken_of(
    totals: Sequence[Total], supplies: Sequence[Supply], hosts: IntArray
) -> tuple[TotalPlan, ...]:
    """What hosts, (T, K) by slot and supply, take of each total."""
    size = np.array([s.host_devices for s in supplies])
    devices = hosts * size
    return tuple(
        TotalPlan(t.name, int(devices[:, t.supplies].sum(axis=1).max()), t.devices) for t in totals
    )


def lacking(
    supplies: Sequence[Supply],
    totals: Sequence[Total],
    hosts: IntArray,
    used: FloatArray,
    names: Sequence[str],
) -> str:
    """What is missing in the slot that lacks most of it, and who uses it then.

    A host that its region lacks is one that all regions lack too, and said once.

    Args:
        hosts: (T, K) by slot and supply, beyond the inventories.
        used: (T, S, K) devices, by slot, service and supply.
        names: of the services.
    """
    busiest, then = (" at the busiest", " then") if len(hosts) > 1 else ("", "")
    within = hosts.copy()
    lines = ["inventory: the services do not fit; the cheapest way out:"]

    def users(slot: int, where: Sequence[int]) -> str:
        busy = used[slot][:, where].sum(axis=1) > 0
        return f"used{then} by " + ", ".join(n for n, b in zip(names, busy, strict=True) if b)

    for k, supply in enumerate(supplies):
        slot = int(hosts[:, k].argmax())
        most = int(hosts[slot, k])
        if supply.inventory is None or most <= supply.inventory:
            continue
        within[:, k] = np.minimum(within[:, k], supply.inventory)
        more = most - supply.inventory
        # Over time the price depends on how they are had.
        price = f", {more * supply.usd_per_host_hour:,.2f} USD per hour" if not then else ""
        lines.append(
            f"  {more} more host{'s' if more > 1 else ''} of {supply.host_devices} x "
            f"{supply.name} (inventory {supply.inventory}, needed {most}{busiest}){price}; "
            f"{users(slot, [k])}"
        )
    size = np.array([s.host_devices for s in supplies])
    spare = ", spare ones included" if any(s.spare for s in supplies) else ""
    for total in totals:
        devices = (within * size)[:, total.supplies].sum(axis=1)
        slot = int(devices.argmax())
        most = int(devices[slot])
        if most > total.devices:
            more = most - total.devices
            usd = min(supplies[k].usd_per_host_hour / size[k] for k in total.supplies)
            price = f", from {more * usd:,.2f} USD per hour" if not then else ""
            lines.append(
                f"  {more} more {total.name} over all regions (inventory {total.devices} devices, "
                f"needed {most} on whole hosts{spare}{busiest}){price}; "
                f"{users(slot, total.supplies)}"
            )
    return "\n".join(lines) if len(lines) > 1 else OUT_OF_TIME
