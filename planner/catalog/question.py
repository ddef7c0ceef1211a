"""What the schedule of a catalog is asked, and the prices that it is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from planner.catalog.assignment import Option, Supply, assign
from planner.catalog.batch import Result
from planner.catalog.demand import HOUR_S
from planner.catalog.fleet import Current
from planner.catalog.following import Following, followings
from planner.catalog.hosts_over_time import Family, Rental
from planner.catalog.inventories import OUT_OF_TIME, Total, lacking
from planner.catalog.placing import (
    Key,
    devices_of,
    offers_of,
    pool_plans,
    supply_of,
    totals_of,
)
from planner.catalog.scheduling import Schedule, schedule
from planner.catalog.services import Catalog, Service
from planner.problem import Offer
from planner.tco import usd_per_device_hour

FloatArray = NDArray[np.float64]

ALONE_S = 10.0
"""Time of the solver for one service by itself."""


@dataclass(frozen=True, eq=False)
class Question:
    """What the integer program is asked, and what its rows and columns stand for."""

    services: Sequence[Service]
    keys: Sequence[Key]
    supplies: Sequence[Supply]
    rentals: Sequence[Rental]
    followings: Sequence[Sequence[Following]]
    families: Sequence[Sequence[Family]]
    together: Sequence[Sequence[int]]
    totals: Sequence[Total]


def ask(
    catalog: Catalog,
    served: Sequence[Service],
    plans: Mapping[str, Result],
    hours: int,
    current: Current,
    search_path: Sequence[Path],
) -> Question:
    """What services that have plans ask over so many hours.

    Raises:
        ConfigError: they disagree on a device.
    """
    offers = offers_of(catalog, served, search_path)
    keys = sorted(offers)
    scaling = catalog.autoscaling
    slots = round(hours * HOUR_S / scaling.slot)
    share = catalog.share_hosts and scaling.granularity == "replica"
    known = [followings(s, plans[s.name], scaling, slots) for s in served]
    families = []
    for service, mine in zip(served, known, strict=True):
        moved = [current.moved(service.name, devices_of(f.peak)) for f in mine]
        families.append(
            [
                replace(
                    f.taken(service.region, keys, offers, share),
                    usd_per_hour=current.usd_per_hour(m),
                )
                for f, m in zip(mine, moved, strict=True)
            ]
        )
    index = {service.name: i for i, service in enumerate(served)}
    together = [[index[n] for n in group if n in index] for group in catalog.together]
    hosts = [_rented(catalog, key, offers[key], keys) for key in keys]
    return Question(
        services=served,
        keys=keys,
        supplies=[supply for supply, _ in hosts],
        rentals=[rental for _, rental in hosts],
        followings=known,
        families=families,
        together=[group for group in together if len(group) > 1],
        totals=totals_of(catalog, keys),
    )


def _rented(catalog: Catalog, key: Key, offer: Offer, keys: Sequence[Key]) -> tuple[Supply, Rental]:
    """Hosts at the price of reserved ones, and how they are had on demand.

    Owned ones are paid round the clock, so that their price has no hours without work in it. What
    no price says of is rented by the slot.
    """
    supply = supply_of(catalog, key, offer, keys)
    prices = catalog.prices.get(key[0])
    size = supply.host_devices
    if prices is None:
        if offer.owned_usd_per_hour is None:
            return supply, Rental(supply.usd_per_host_hour)
        always = usd_per_device_hour(replace(offer.costs, utilization=1.0), offer.device.tdp_w)
        return replace(supply, usd_per_host_hour=size * sum(always.values())), Rental(None)
    on_demand = None if prices.on_demand is None else size * prices.on_demand
    least = max(catalog.autoscaling.slots(prices.minimum), 1)
    return replace(supply, usd_per_host_hour=size * prices.reserved), Rental(on_demand, least)


def _least(supply: Supply, rental: Rental) -> float:
    """USD per hour of a host that runs round the clock."""
    rented = rental.usd_per_host_hour
    return supply.usd_per_host_hour if rented is None else min(supply.usd_per_host_hour, rented)


def static_usd_per_hour(asked: Question, gap: float, limit_s: float) -> float | None:
    """The price with every service at its peak at all times."""
    pairs = zip(asked.supplies, asked.rentals, strict=True)
    supplies = [replace(s, usd_per_host_hour=_least(s, r)) for s, r in pairs]
    options = [
        [
            Option(
                tuple(f.hosts.max(axis=0)),
                tuple(f.devices.max(axis=0)),
                f.usd_per_hour,
                () if f.large is None else tuple(f.large.max(axis=0)),
            )
            for f in families
        ]
        for families in asked.families
    ]
    found = assign(supplies, options, asked.together, totals=asked.totals, gap=gap, limit_s=limit_s)
    return None if found is None else found.usd_per_hour


def apart_usd_per_hour(asked: Question, gap: float) -> tuple[float, float]:
    """The price with each service on hosts of its own, and what it is at least.

    A service whose hosts have a least time, and for which the solver finds nothing in its time,
    pays for its most hosts round the clock, and at least for what it would without least times.
    """
    supplies = [replace(s, inventory=None, spare=0) for s in asked.supplies]
    free = [replace(r, least_slots=1) for r in asked.rentals]
    always = np.array([_least(s, r) for s, r in zip(supplies, free, strict=True)])
    price = least = 0.0
    for families in asked.families:
        found = schedule(supplies, asked.rentals, [families], gap=gap, limit_s=ALONE_S)
        if found is None:
            found = schedule(supplies, free, [families], gap=gap)
            assert found is not None  # all families are priced
            besides = families[found.chosen[0]].usd_per_hour
            price += float((found.reserved + found.on_demand).max(axis=0) @ always) + besides
        else:
            price += found.usd_per_hour
        least += found.bound_usd_per_hour
    return price, least


def at_scale_usd_per_hour(asked: Question) -> float:
    """The price of fully loaded devices, had for as long as the demand needs them."""
    price: dict[Key, float] = {}
    for key, supply, rental in zip(asked.keys, asked.supplies, asked.rentals, strict=True):
        price[key] = _least(supply, rental) / supply.host_devices
    total = 0.0
    for service, mine in zip(asked.services, asked.followings, strict=True):
        rates = [
            sum(
                price[pool["device"], service.region]
                * pool["devices_per_replica"]
                / pool["qps_per_replica"]
                for pool in pool_plans(following.fleet)
            )
            for following in mine
        ]
        total += min(rates) * float(np.mean(mine[0].qps))
    return total


def used_devices(asked: Question, found: Schedule) -> FloatArray:
    """Devices on the hosts that each service takes, by slot, service and supply."""
    size = np.array([s.host_devices for s in asked.supplies])
    chosen = [families[i] for families, i in zip(asked.families, found.chosen, strict=True)]
    return np.stack([f.hosts * size + f.devices for f in chosen], axis=1).astype(float)


def missing(asked: Question, limit_s: float) -> str:
    """What the inventories lack in the busiest slot, at the least price, and who needs it."""
    beyond = schedule(
        asked.supplies,
        asked.rentals,
        asked.families,
        asked.together,
        totals=asked.totals,
        limit_s=limit_s,
        beyond_inventory=True,
    )
    if beyond is None:
        return OUT_OF_TIME
    return lacking(
        asked.supplies,
        asked.totals,
        beyond.reserved + beyond.on_demand,
        used_devices(asked, beyond),
        [service.name for service in asked.services],
    )
