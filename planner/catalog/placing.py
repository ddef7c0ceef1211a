"""A catalog's devices as supplies of hosts, and what fleets take of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perfmodel.errors import ConfigError, InputError
from perfmodel.hardware import load_device
from planner.catalog.assignment import Supply
from planner.catalog.inventories import Total
from planner.catalog.services import ANYWHERE, Catalog, Service
from planner.fleet import hosts_needed
from planner.problem import Offer, resolve

Key = tuple[str, str]
"""Device type and region."""

PoolUse = tuple[str, int, int]
"""A pool's device type, devices of each replica, and replicas."""


def offers_of(
    catalog: Catalog, services: Sequence[Service], search_path: Sequence[Path]
) -> dict[Key, Offer]:
    """The devices that services may use, by type and region; one price and host for each.

    Raises:
        ConfigError: services disagree on a device.
    """
    found: dict[Key, tuple[Offer, str]] = {}
    for service in services:
        for offer in resolve(service.query, search_path).offers:
            key = (offer.device.name, service.region)
            known, first = found.setdefault(key, (offer, service.name))
            for field in ("usd_per_device_hour", "host_devices"):
                mine, other = getattr(offer, field), getattr(known, field)
                if mine != other:
                    raise ConfigError(
                        f"{service.source}: {field} of {offer.device.name} is {mine:g}, "
                        f"but {other:g} in {first}: services of a region share their hosts"
                    )
    return {key: offer for key, (offer, _) in found.items()}


def check_devices(catalog: Catalog, search_path: Sequence[Path]) -> None:
    """Refuse prices and inventories that concern no service, before anything is solved.

    An inventory may be of a known device that no service uses.

    Raises:
        ConfigError: with file, line and what there is.
    """
    keys: set[Key] = set()
    for service in catalog.services if catalog.prices or catalog.inventory else ():
        try:
            offers = resolve(service.query, search_path).offers
        except InputError:  # said where the service is solved
            return
        keys |= {(offer.device.name, service.region) for offer in offers}
    names, regions = {name for name, _ in keys}, {region for _, region in keys}
    for name, region in catalog.inventory:
        where = catalog.sources.get(f"inventory.{name}", "inventory")
        if name not in names:
            try:
                load_device(name, search_path)
            except InputError:
                raise ConfigError(
                    f"{where}: no device is called {name}; services may use "
                    f"{', '.join(sorted(names))}"
                ) from None
        if region not in (ANYWHERE, *regions):
            raise ConfigError(
                f"{where}: no service is in region {region}; expected one of "
                f"{', '.join(sorted(regions - {ANYWHERE})) or 'none'}"
            )
    for name in catalog.prices:
        if name not in names:
            raise ConfigError(
                f"{catalog.sources[f'prices.{name}']}: no service may use this device; "
                f"expected one of {', '.join(sorted(names))}"
            )


def totals_of(catalog: Catalog, keys: Sequence[Key]) -> list[Total]:
    """Inventories over all regions, of device types that services of several may use."""
    return [
        Total(device, places, catalog.inventory[device, ANYWHERE])
        for device in dict.fromkeys(device for device, _ in keys)
        if (device, ANYWHERE) in catalog.inventory
        and len(places := tuple(i for i, key in enumerate(keys) if key[0] == device)) > 1
    ]


def supply_of(catalog: Catalog, key: Key, offer: Offer, keys: Sequence[Key]) -> Supply:
    """The hosts of one device type in one region, of those in all of `keys`."""
    device, region = key
    limits = [catalog.inventory.get(key)] if region else []
    if sum(device == other for other, _ in keys) == 1:  # else `totals_of`
        limits.append(catalog.inventory.get((device, ANYWHERE)))
    devices = min((limit for limit in limits if limit is not None), default=None)
    return Supply(
        name=f"{device} in {region}" if region else device,
        host_devices=offer.host_devices,
        usd_per_host_hour=offer.host_devices * offer.usd_per_device_hour,
        inventory=None if devices is None else devices // offer.host_devices,
        spare=catalog.spare_hosts,
        large_devices=_for_large(offer.host_devices),
    )


def _for_large(host_devices: int) -> int:
    """Devices of a host that replicas of powers of two which do not divide it can take.

    Of 72 it is 64, whether in 16, 32 or 64.
    """
    powers = (2**i for i in range(host_devices.bit_length()))
    odd = [host_devices // world * world for world in powers if host_devices % world]
    return min(odd, default=host_devices)


def pool_plans(fleet: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The pools of a fleet that `planner solve` wrote; an encoder's, of single devices, last."""
    encoder = fleet.get("encoder")
    if not encoder:
        return list(fleet["pools"])
    return [*fleet["pools"], {"role": "encoder", "devices_per_replica": 1, "layout": "", **encoder}]


def pools_of(fleet: Mapping[str, Any]) -> list[PoolUse]:
    """What those pools use."""
    return [(p["device"], p["devices_per_replica"], p["replicas"]) for p in pool_plans(fleet)]


def taken(
    pools: Sequence[PoolUse],
    region: str,
    keys: Sequence[Key],
    offers: Mapping[Key, Offer],
    share: bool,
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Hosts that pools fill, devices on hosts that others may share, and of these those of replicas
    that do not divide a host, by key."""
    hosts, devices, large = [0] * len(keys), [0] * len(keys), [0] * len(keys)
    for i, key in enumerate(keys):
        if key[1] != region:
            continue
        size = offers[key].host_devices
        own: dict[int, int] = {}
        for device, world, replicas in pools:
            if device != key[0]:
                continue
            if share and world < size and world & (world - 1) == 0:
                # Powers of two divide one another: in the order of their size those that divide
                # the host leave no gaps in it, and the others no more than they must.
                devices[i] += world * replicas
                large[i] += world * replicas if size % world else 0
            else:
                own[world] = own.get(world, 0) + replicas
        hosts[i] = hosts_needed(own, size)
    return tuple(hosts), tuple(devices), tuple(large)


def devices_of(pools: Sequence[PoolUse]) -> dict[str, int]:
    """Devices in use, by type."""
    used: dict[str, int] = {}
    for device, world, replicas in pools:
        used[device] = used.get(device, 0) + world * replicas
    return used
