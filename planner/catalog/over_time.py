"""The fleet of a catalog over time: who runs on what, and which hosts are had when."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import InputError
from planner.catalog.batch import Result
from planner.catalog.fleet import NOTHING, Current
from planner.catalog.inventories import taken_of
from planner.catalog.placing import devices_of, pool_plans
from planner.catalog.question import (
    Question,
    apart_usd_per_hour,
    ask,
    at_scale_usd_per_hour,
    missing,
    static_usd_per_hour,
    used_devices,
)
from planner.catalog.schedule_plan import (
    HostsSchedule,
    PoolSchedule,
    ScheduledFleet,
    ServiceSchedule,
)
from planner.catalog.scheduling import Schedule, schedule
from planner.catalog.services import Catalog

FloatArray = NDArray[np.float64]

HOURS_PER_DAY, HOURS_PER_MONTH, HOURS_PER_YEAR = 24.0, 730.0, 8760.0


def plan_over_time(
    catalog: Catalog,
    results: Sequence[Result],
    *,
    current: Current = NOTHING,
    search_path: Sequence[Path] = (),
    gap: float = 1e-3,
    limit_s: float = 60.0,
) -> ScheduledFleet:
    """A configuration for every service that has a plan, and the hosts of every slot.

    Raises:
        ConfigError: services disagree on a device, or a price is of none that any may use.
        InputError: the inventories do not suffice; the message says what is missing.
    """
    plans = {r.name: r for r in results}
    served = [s for s in catalog.services if plans[s.name].plan is not None]
    left_out = {r.name: r.error for r in results if r.plan is None}
    if not served:
        raise InputError("no service has a plan\n" + "\n".join(left_out.values()))
    hours = max(s.demand.hours if s.demand else 24 for s in served)
    asked = ask(catalog, served, plans, hours, current, search_path)
    found = schedule(
        asked.supplies,
        asked.rentals,
        asked.families,
        asked.together,
        totals=asked.totals,
        gap=gap,
        limit_s=limit_s,
    )
    if found is None:
        raise InputError(missing(asked, limit_s))
    scaling = catalog.autoscaling
    moving = sum(mine[i].usd_per_hour for mine, i in zip(asked.families, found.chosen, strict=True))

    def usd_in(period_h: float) -> float:
        """What is paid in the first so many hours: for moving once, over its own."""
        over_h = min(period_h, current.hours)
        return (found.usd_per_hour - moving) * period_h + moving * over_h

    apart, apart_bound = apart_usd_per_hour(asked, gap)
    return ScheduledFleet(
        hours=hours,
        slot_s=scaling.slot,
        start_up_s=scaling.start_up,
        hold_s=scaling.hold,
        granularity=scaling.granularity,
        usd_per_hour=found.usd_per_hour,
        usd_per_day=usd_in(HOURS_PER_DAY),
        usd_per_month=usd_in(HOURS_PER_MONTH),
        usd_per_year=usd_in(HOURS_PER_YEAR),
        bound_usd_per_hour=found.bound_usd_per_hour,
        gap=found.gap,
        static_usd_per_hour=static_usd_per_hour(asked, gap, limit_s),
        apart_usd_per_hour=apart,
        apart_bound_usd_per_hour=apart_bound,
        at_scale_usd_per_hour=at_scale_usd_per_hour(asked),
        families=sum(len(families) for families in asked.families),
        services=_services(asked, found, current),
        hosts=_hosts(asked, found),
        totals=taken_of(asked.totals, asked.supplies, found.reserved + found.on_demand),
        left_out=left_out,
        seconds=found.seconds,
    )


def _services(asked: Question, found: Schedule, current: Current) -> tuple[ServiceSchedule, ...]:
    chosen = [mine[i] for mine, i in zip(asked.followings, found.chosen, strict=True)]
    paid = _parts(asked, found)
    plans = []
    for i, (service, following) in enumerate(zip(asked.services, chosen, strict=True)):
        devices = devices_of(following.peak)
        mean = following.replicas.mean(axis=0)
        per_day: dict[str, float] = {}
        for (device, world), count in zip(following.pools, mean, strict=True):
            per_day[device] = per_day.get(device, 0.0) + 24.0 * world * float(count)
        plans.append(
            ServiceSchedule(
                name=service.name,
                region=service.region,
                kind=following.fleet["kind"],
                qps=following.qps,
                pools=tuple(
                    PoolSchedule(
                        role=pool["role"],
                        device=pool["device"],
                        devices_per_replica=pool["devices_per_replica"],
                        layout=pool["layout"],
                        replicas=tuple(following.replicas[:, p].tolist()),
                    )
                    for p, pool in enumerate(pool_plans(following.fleet))
                ),
                devices=devices,
                device_hours_per_day=per_day,
                usd_per_hour=float(paid[i]),
                moved_devices=current.moved(service.name, devices),
                fleet=following.fleet,
                note=service.demand.note if service.demand else "",
            )
        )
    return tuple(plans)


def _usd_per_hour(asked: Question, found: Schedule) -> FloatArray:
    """Of the hosts of each supply, mean over the slots."""
    reserved = np.array([s.usd_per_host_hour for s in asked.supplies])
    rented = np.array([r.usd_per_host_hour or 0.0 for r in asked.rentals])
    return np.asarray(found.reserved * reserved + found.on_demand.mean(axis=0) * rented)


def _parts(asked: Question, found: Schedule) -> FloatArray:
    """What each service pays of the hosts: by the devices that it takes over all slots."""
    used = used_devices(asked, found).sum(axis=0)
    total = used.sum(axis=0)
    share = used / np.where(total > 0, total, 1.0)
    return np.asarray(share @ _usd_per_hour(asked, found))


def _hosts(asked: Question, found: Schedule) -> tuple[HostsSchedule, ...]:
    used = used_devices(asked, found).sum(axis=1)
    price = _usd_per_hour(asked, found)
    plans = []
    for k, (key, supply, rental) in enumerate(
        zip(asked.keys, asked.supplies, asked.rentals, strict=True)
    ):
        if not found.reserved[k] and not found.on_demand[:, k].any():
            continue
        size, rented = supply.host_devices, rental.usd_per_host_hour
        plans.append(
            HostsSchedule(
                device=key[0],
                region=key[1],
                devices_per_host=size,
                reserved=int(found.reserved[k]),
                on_demand=tuple(found.on_demand[:, k].tolist()),
                used_devices=tuple(used[:, k].astype(int).tolist()),
                spare_hosts=supply.spare,
                inventory_hosts=supply.inventory,
                reserved_usd_per_device_hour=supply.usd_per_host_hour / size,
                on_demand_usd_per_device_hour=None if rented is None else rented / size,
                usd_per_hour=float(price[k]),
            )
        )
    return tuple(plans)
