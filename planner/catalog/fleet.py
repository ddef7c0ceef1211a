"""The fleet of a catalog: which plan each service takes, and the hosts of all together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from perfmodel.documents import read_yaml
from perfmodel.errors import ConfigError, InputError
from planner.catalog.assignment import Assignment, Option, Supply, assign
from planner.catalog.batch import Result
from planner.catalog.inventories import OUT_OF_TIME, Total, TotalPlan, lacking, taken_of
from planner.catalog.placing import (
    Key,
    devices_of,
    offers_of,
    pools_of,
    supply_of,
    taken,
    totals_of,
)
from planner.catalog.schedule_plan import ScheduledFleet
from planner.catalog.services import Catalog, Service
from planner.files import as_text, atomic_write
from planner.problem import Offer

SCHEMA = "planner.fleet/1"


@dataclass(frozen=True)
class ServicePlan:
    """What a service runs on.

    Attributes:
        devices: devices in use, by type.
        usd_per_hour: of those devices, idle ones beside them not counted.
        moved_devices: of these, how many it does not have today.
        fleet: its plan, as `planner solve` writes one.
    """

    name: str
    region: str
    kind: str
    devices: dict[str, int]
    usd_per_hour: float
    moved_devices: int
    fleet: dict[str, Any]


@dataclass(frozen=True)
class HostsPlan:
    """Hosts of one device type in one region, spare ones included."""

    device: str
    region: str
    hosts: int
    devices_per_host: int
    used_devices: int
    spare_hosts: int
    inventory_hosts: int | None
    usd_per_hour: float


@dataclass(frozen=True)
class CatalogFleet:
    """The answer.

    Attributes:
        bound_usd_per_hour: no assignment of the services' plans costs less.
        alone_usd_per_hour: each service's cheapest plan on hosts of its own, whatever the
            inventory.
        totals: of inventories over all regions.
        left_out: services without any plan, and why.
    """

    usd_per_hour: float
    bound_usd_per_hour: float
    gap: float
    alone_usd_per_hour: float
    services: tuple[ServicePlan, ...]
    hosts: tuple[HostsPlan, ...]
    totals: tuple[TotalPlan, ...]
    left_out: dict[str, str]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the schema first."""
        return {"schema": SCHEMA, **asdict(self)}


@dataclass(frozen=True)
class Current:
    """The fleet of today.

    Attributes:
        devices: devices of each service, by type.
        usd_per_moved_device: what it costs to set up a service on a device that it lacks.
        hours: over which that is paid.
    """

    devices: Mapping[str, Mapping[str, int]]
    usd_per_moved_device: float = 0.0
    hours: float = 720.0

    def moved(self, service: str, devices: Mapping[str, int]) -> int:
        """Devices, by type, that a service does not have today."""
        today = self.devices.get(service, {})
        return sum(max(count - today.get(device, 0), 0) for device, count in devices.items())

    def usd_per_hour(self, moved: int) -> float:
        """Price of moving so many devices."""
        return moved * self.usd_per_moved_device / self.hours


def write_fleet(fleet: CatalogFleet | ScheduledFleet, path: Path | None) -> None:
    """Write a fleet as JSON, or as YAML if the name ends in .yaml or .yml; None: nowhere.

    Raises:
        ConfigError: the file cannot be written.
    """
    if path is not None:
        atomic_write(path, as_text(fleet.to_dict(), path))


NOTHING = Current({})


def read_current(path: Path) -> Current:
    """Read today's fleet: a fleet file that was written, or the fields of `Current`.

    Raises:
        ConfigError: it is neither.
    """
    document = read_yaml(path)
    data = document.data
    if not isinstance(data, dict) or "services" not in data:
        raise ConfigError(f"{path}:1: expected `services`, each with its devices by type")
    services = data["services"]
    if isinstance(services, list):  # as written
        services = {s.get("name"): s.get("devices") for s in services if isinstance(s, dict)}
    if not isinstance(services, dict):
        raise ConfigError(
            f"{document.where(('services',))}: expected each service with its devices by type, "
            f"got {services!r}"
        )
    devices: dict[str, dict[str, int]] = {}
    for name, counts in services.items():
        where = document.where(("services", name))
        if not isinstance(counts, dict) or not all(
            isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in counts.values()
        ):
            raise ConfigError(f"{where}: expected devices by type, such as {{h100_sxm: 16}}")
        devices[name] = counts
    numbers = {}
    for field, default in (("usd_per_moved_device", 0.0), ("hours", 720.0)):
        value = data.get(field, default)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and 0 <= value < inf):
            raise ConfigError(
                f"{document.where((field,))}: expected a number from 0, got {value!r}"
            )
        numbers[field] = float(value)
    if numbers["hours"] == 0:
        raise ConfigError(f"{document.where(('hours',))}: expected more than 0 hours")
    return Current(devices, **numbers)


def plan_fleet(
    catalog: Catalog,
    results: Sequence[Result],
    *,
    current: Current = NOTHING,
    search_path: Sequence[Path] = (),
    gap: float = 1e-4,
    limit_s: float = 60.0,
) -> CatalogFleet:
    """Assign a plan to every service that has any.

    Raises:
        InputError: services disagree on a device, or the inventories do not suffice; the
            message says what is missing.
    """
    given = open_choices(catalog, results, current=current, search_path=search_path)
    served, fleets, keys, offers = given.served, given.fleets, given.keys, given.offers
    supplies, options = given.supplies, given.options
    left_out = {r.name: r.error for r in results if r.plan is None}
    found = assign(supplies, options, given.together, totals=given.totals, gap=gap, limit_s=limit_s)
    if found is None:
        raise InputError(_missing(given, limit_s))
    alone = sum(min(f["usd_per_hour"] for f in known) for known in fleets)
    return CatalogFleet(
        usd_per_hour=found.usd_per_hour,
        bound_usd_per_hour=found.bound_usd_per_hour,
        gap=found.gap,
        alone_usd_per_hour=alone,
        services=tuple(
            _service_plan(s, fleets[i][found.chosen[i]], current) for i, s in enumerate(served)
        ),
        hosts=_hosts(keys, offers, supplies, options, found),
        totals=taken_of(given.totals, supplies, np.array([found.hosts])),
        left_out=left_out,
        seconds=found.seconds,
    )


@dataclass(frozen=True)
class Choices:
    """What is to be decided: the assignment's problem, and what its numbers stand for.

    Attributes:
        served: services that have any plan.
        keys: device type and region of each supply.
        fleets: of each service, as `planner solve` writes them.
        options: the same fleets, as the assignment sees them.
        together: groups of services, by their places in `served`.
    """

    served: tuple[Service, ...]
    keys: tuple[Key, ...]
    offers: Mapping[Key, Offer]
    supplies: tuple[Supply, ...]
    fleets: tuple[tuple[dict[str, Any], ...], ...]
    options: tuple[tuple[Option, ...], ...]
    together: tuple[tuple[int, ...], ...]
    totals: tuple[Total, ...]


def open_choices(
    catalog: Catalog,
    results: Sequence[Result],
    *,
    current: Current = NOTHING,
    search_path: Sequence[Path] = (),
) -> Choices:
    """What each service of a catalog may run on, and the hosts that all share.

    Raises:
        InputError: no service has a plan, or services disagree on a device.
    """
    plans = {r.name: r for r in results}
    served = tuple(s for s in catalog.services if plans[s.name].plan is not None)
    if not served:
        raise InputError("no service has a plan\n" + "\n".join(r.error for r in results))
    offers = offers_of(catalog, served, search_path)
    keys = tuple(sorted(offers))
    fleets = tuple(tuple(_fleets(plans[s.name])) for s in served)
    index = {service.name: i for i, service in enumerate(served)}
    groups = (tuple(index[n] for n in group if n in index) for group in catalog.together)
    return Choices(
        served=served,
        keys=keys,
        offers=offers,
        supplies=tuple(supply_of(catalog, key, offers[key], keys) for key in keys),
        fleets=fleets,
        options=tuple(
            tuple(_option(s, f, keys, offers, catalog.share_hosts, current) for f in known)
            for s, known in zip(served, fleets, strict=True)
        ),
        together=tuple(group for group in groups if len(group) > 1),
        totals=tuple(totals_of(catalog, keys)),
    )


def _fleets(result: Result) -> list[dict[str, Any]]:
    assert result.plan is not None
    return [result.plan["best"], *result.plan["alternatives"]]


def _option(
    service: Service,
    fleet: dict[str, Any],
    keys: Sequence[Key],
    offers: Mapping[Key, Offer],
    share: bool,
    current: Current,
) -> Option:
    """A fleet as hosts that it fills, and devices on hosts that it may share."""
    pools = pools_of(fleet)
    moved = current.moved(service.name, devices_of(pools))
    hosts, devices, large = taken(pools, service.region, keys, offers, share)
    return Option(hosts, devices, current.usd_per_hour(moved), large)


def _service_plan(service: Service, fleet: dict[str, Any], current: Current) -> ServicePlan:
    devices = devices_of(pools_of(fleet))
    price = {h["device"]: h["usd_per_device_hour"] for h in fleet["hosts"]}
    return ServicePlan(
        name=service.name,
        region=service.region,
        kind=fleet["kind"],
        devices=devices,
        usd_per_hour=sum(count * price[device] for device, count in devices.items()),
        moved_devices=current.moved(service.name, devices),
        fleet=fleet,
    )


def _hosts(
    keys: Sequence[Key],
    offers: Mapping[Key, Offer],
    supplies: Sequence[Supply],
    options: Sequence[Sequence[Option]],
    found: Assignment,
) -> tuple[HostsPlan, ...]:
    taken = [known[i] for known, i in zip(options, found.chosen, strict=True)]
    plans = []
    for i, (key, supply) in enumerate(zip(keys, supplies, strict=True)):
        if found.hosts[i]:
            used = sum(o.hosts[i] * supply.host_devices + o.devices[i] for o in taken)
            plans.append(
                HostsPlan(
                    device=key[0],
                    region=key[1],
                    hosts=found.hosts[i],
                    devices_per_host=supply.host_devices,
                    used_devices=used,
                    spare_hosts=supply.spare,
                    inventory_hosts=supply.inventory,
                    usd_per_hour=found.hosts[i] * supply.usd_per_host_hour,
                )
            )
    return tuple(plans)


def _missing(given: Choices, limit_s: float) -> str:
    """What the inventories lack, at the least price, and which services need it."""
    beyond = assign(
        given.supplies,
        given.options,
        given.together,
        totals=given.totals,
        limit_s=limit_s,
        beyond_inventory=True,
    )
    if beyond is None:
        return OUT_OF_TIME
    taken = [known[i] for known, i in zip(given.options, beyond.chosen, strict=True)]
    return lacking(
        given.supplies,
        given.totals,
        np.array([beyond.hosts]),
        np.array([[np.array(o.hosts) + o.devices for o in taken]]),
        [service.name for service in given.served],
    )
