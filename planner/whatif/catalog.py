"""What-ifs of a whole catalog: other inventories and prices, and what a further host is worth.

Services choose again among the plans that a batch has found for each: all fleets that none other
equals or beats in the hosts of every device type. What these plans serve depends on neither
inventory nor price. Where anything changes over the day, so does the fleet, and its price is the
mean (`planner.catalog.over_time`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

from perfmodel.errors import InputError
from planner.catalog import (
    Catalog,
    CatalogFleet,
    Result,
    ScheduledFleet,
    Service,
    plan_fleet,
    plan_over_time,
)
from planner.catalog.fleet import HostsPlan
from planner.catalog.renting import DevicePrices
from planner.catalog.schedule_plan import HostsSchedule
from planner.catalog.services import ANYWHERE
from planner.problem import resolve
from planner.whatif.axes import Axis, settings_of
from planner.whatif.fields import NO_LIMIT, device_names, is_multiple, multiple_of, with_values
from planner.whatif.market import TOLERANCE
from planner.whatif.shadow import first_cheaper

FIELDS = ("inventory", "usd_per_device_hour")
"""What can be varied of a device, `devices.NAME.FIELD`; in one region, `devices.NAME@REGION`."""


@dataclass(frozen=True)
class CatalogCell:
    """One point of a grid, and its fleet; None: the inventories do not suffice, and why."""

    labels: Mapping[str, str]
    fleet: CatalogFleet | ScheduledFleet | None
    error: str = ""

    def row(self) -> dict[str, Any]:
        """The cell as one line of a table."""
        found = self.fleet
        return {
            **self.labels,
            "usd_per_hour": None if found is None else found.usd_per_hour,
            "gap": None if found is None else found.gap,
            "hosts": " + ".join(map(_hosts_name, found.hosts if found else ())),
            "error": self.error,
        }


def _hosts_name(hosts: HostsPlan | HostsSchedule) -> str:
    """Hosts of one type: `2 x 8 h100_sxm`, or those reserved and the most on demand."""
    what = f"{hosts.devices_per_host} {hosts.device}"
    what = f"{what}@{hosts.region}" if hosts.region else what
    if isinstance(hosts, HostsPlan):
        return f"{hosts.hosts} x {what}"
    rented = max(hosts.on_demand)
    reserved = [f"{hosts.reserved} x {what} reserved"] if hosts.reserved else []
    return " + ".join(reserved + ([f"up to {rented} x {what} on demand"] if rented else []))


def _most_hosts(hosts: HostsPlan | HostsSchedule) -> int:
    """At any time."""
    if isinstance(hosts, HostsPlan):
        return hosts.hosts
    return hosts.reserved + max(hosts.on_demand)


@dataclass(frozen=True)
class CatalogHostPrice:
    """What one inventory of a catalog costs.

    Attributes:
        hosts: at hand today.
        usd_per_hour: of the best fleet today; None: the inventories do not suffice.
        further_hosts: the fewest with which a fleet costs less; 0: more save nothing.
        cheaper_usd_per_hour: of the fleet with those.
    """

    device: str
    region: str
    hosts: int
    usd_per_hour: float | None
    further_hosts: int
    cheaper_usd_per_hour: float | None

    @property
    def usd_per_hour_per_host(self) -> float | None:
        """Saved per further host: 0 where more save nothing; None where nothing serves today."""
        if not self.further_hosts or self.cheaper_usd_per_hour is None:
            return 0.0
        if self.usd_per_hour is None:
            return None
        return (self.usd_per_hour - self.cheaper_usd_per_hour) / self.further_hosts


def answer_catalog(
    catalog: Catalog,
    results: Sequence[Result],
    axes: Sequence[Axis],
    *,
    search_path: Sequence[Path] = (),
    limit_s: float = 60.0,
) -> list[CatalogCell]:
    """The cheapest fleet of a catalog under every combination of inventories and prices.

    Raises:
        InputError: no axis, too many cells, a field that is none of `FIELDS`, a device that no
            service may use.
    """
    asked = [
        (labels, _changed(catalog, results, changes, search_path))
        for labels, changes in settings_of(axes)
    ]
    cells = []
    for labels, (changed, repriced) in asked:
        try:
            found = _fleet(changed, repriced, search_path, limit_s)
        except InputError as error:
            cells.append(CatalogCell(labels, None, str(error)))
        else:
            cells.append(CatalogCell(labels, found))
    return cells


def _fleet(
    catalog: Catalog, results: Sequence[Result], search_path: Sequence[Path], limit_s: float
) -> CatalogFleet | ScheduledFleet:
    """As `planner fleet` finds it."""
    if catalog.over_time:
        return plan_over_time(catalog, results, search_path=search_path, limit_s=limit_s)
    return plan_fleet(catalog, results, search_path=search_path, limit_s=limit_s)


def catalog_host_prices(
    catalog: Catalog,
    results: Sequence[Result],
    *,
    search_path: Sequence[Path] = (),
    limit_s: float = 60.0,
) -> list[CatalogHostPrice]:
    """What a further host of each limited device type is worth to all services together.

    Raises:
        InputError: no inventory is limited.
    """
    if not catalog.inventory:
        raise InputError("inventory: expected a limit on some device, to price")

    def fleet(inventory: Mapping[tuple[str, str], int]) -> CatalogFleet | ScheduledFleet | None:
        limited = replace(catalog, inventory=inventory)
        try:
            return _fleet(limited, results, search_path, limit_s)
        except InputError:
            return None

    today = fleet(catalog.inventory)
    # Below today's bound: what the solver left unproven is no saving.
    least = inf if today is None else today.bound_usd_per_hour * (1 - TOLERANCE)
    sizes = _host_devices(catalog, search_path)
    prices = []
    for key, devices in catalog.inventory.items():
        if key[0] not in sizes:
            continue  # no service may use it
        size = sizes[key[0]]
        free = fleet({k: n for k, n in catalog.inventory.items() if k != key})
        usd = None if today is None else today.usd_per_hour
        own = CatalogHostPrice(*key, devices // size, usd, 0, None)
        if free is None or free.usd_per_hour >= least:
            prices.append(own)
            continue
        enough = sum(_most_hosts(h) for h in free.hosts if h.device == key[0])

        def at(hosts: int, key: tuple[str, str] = key, size: int = size) -> float:
            found = fleet({**catalog.inventory, key: hosts * size})
            return inf if found is None else found.usd_per_hour

        hosts = first_cheaper(at, own.hosts, enough, least)
        more = hosts - own.hosts
        prices.append(replace(own, further_hosts=more, cheaper_usd_per_hour=at(hosts)))
    return prices


def _host_devices(catalog: Catalog, search_path: Sequence[Path]) -> dict[str, int]:
    """Devices of a host, by the device types that services may use."""
    return {
        offer.device.name: offer.host_devices
        for service in catalog.services
        for offer in resolve(service.query, search_path).offers
    }


def _changed(
    catalog: Catalog,
    results: Sequence[Result],
    changes: Sequence[tuple[str, Any]],
    search_path: Sequence[Path],
) -> tuple[Catalog, list[Result]]:
    """The catalog with other inventories and prices, and its results at those prices."""
    inventory, services, plans = dict(catalog.inventory), list(catalog.services), list(results)
    rented = dict(catalog.prices)
    for field, value in changes:
        name, region, what = _parts(catalog, field)
        if what == "inventory":
            _set_inventory(inventory, (name, region), field, value)
            continue
        if name in rented:
            rented[name] = _rented(rented[name], region, field, value)
        for i, service in enumerate(services):
            if name in device_names(service.query) and region in (ANYWHERE, service.region):
                change = (f"devices.{name}.{what}", value)
                query = with_values(service.query, [change], search_path=search_path)
                services[i] = replace(service, query=query)
    prices = {s.name: _prices(s, search_path) for s in services}
    repriced = [_repriced(plan, prices.get(plan.name, {})) for plan in plans]
    changed = replace(catalog, services=tuple(services), inventory=inventory, prices=rented)
    return changed, repriced


def _rented(prices: DevicePrices, region: str, field: str, value: Any) -> DevicePrices:
    """A catalog's prices of a device, so many times what they are.

    Raises:
        InputError: not a factor, or one of a single region.
    """
    if region or not is_multiple(value):
        raise InputError(
            f"{field}: the catalog's `prices` have it, reserved and on demand, in all regions; "
            f"expected a factor such as x0.5 of both, without a region, got {value!r}"
        )
    reserved = multiple_of(field, prices.reserved, value)
    on_demand = prices.on_demand and multiple_of(field, prices.on_demand, value)
    return prices.model_copy(update={"reserved": reserved, "on_demand": on_demand})


def _parts(catalog: Catalog, field: str) -> tuple[str, str, str]:
    """The device, region and field of `devices.NAME@REGION.FIELD`.

    Raises:
        InputError: it is not of this form, or no service may use the device.
    """
    start, _, what = field.rpartition(".")
    head, _, place = start.partition(".")
    name, _, region = place.partition("@")
    if head != "devices" or what not in FIELDS:
        expected = " or ".join(f"devices.NAME.{one}" for one in FIELDS)
        raise InputError(
            f"{field}: expected {expected}; vary other fields of one service with "
            "`planner whatif grid`"
        )
    known = sorted({n for s in catalog.services for n in device_names(s.query)})
    if name not in known:
        raise InputError(f"{field}: no service may use {name}; they may use {', '.join(known)}")
    regions = {s.region for s in catalog.services}
    if region and region not in regions:
        raise InputError(f"{field}: no service is in {region!r}")
    return name, region, what


def _set_inventory(
    inventory: dict[tuple[str, str], int], key: tuple[str, str], field: str, value: Any
) -> None:
    if value in NO_LIMIT:
        inventory.pop(key, None)
        return
    value = multiple_of(field, inventory.get(key), value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InputError(f"{field}: expected a number of devices from 0, got {value!r}")
    inventory[key] = value


def _prices(service: Service, search_path: Sequence[Path]) -> dict[str, float]:
    offers = resolve(service.query, search_path).offers
    return {offer.device.name: offer.usd_per_device_hour for offer in offers}


def _repriced(result: Result, prices: Mapping[str, float]) -> Result:
    """A service's plans at other prices."""
    if result.plan is None:
        return result
    plan = copy.deepcopy(result.plan)
    for fleet in (plan["best"], *plan["alternatives"]):
        for host in fleet["hosts"]:
            host["usd_per_device_hour"] = prices[host["device"]]
        fleet["usd_per_hour"] = sum(
            h["hosts"] * h["devices_per_host"] * h["usd_per_device_hour"] for h in fleet["hosts"]
        )
    return replace(result, plan=plan)
