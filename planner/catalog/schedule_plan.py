"""A catalog's fleet over time, as it is written and shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from planner.catalog.inventories import TotalPlan

SCHEMA = "planner.schedule/1"


@dataclass(frozen=True)
class PoolSchedule:
    """Replicas of a pool by slot."""

    role: str
    device: str
    devices_per_replica: int
    layout: str
    replicas: tuple[int, ...]


@dataclass(frozen=True)
class ServiceSchedule:
    """What a service runs on, and when.

    Attributes:
        qps: its demand by slot.
        devices: that it has at most, by type.
        device_hours_per_day: mean over the horizon, by type.
        usd_per_hour: its part of the price of the hosts that it uses, by devices in use.
        moved_devices: of those at most, how many it does not have today.
        fleet: its plan at the peak, as `planner solve` writes one.
    """

    name: str
    region: str
    kind: str
    qps: tuple[float, ...]
    pools: tuple[PoolSchedule, ...]
    devices: dict[str, int]
    device_hours_per_day: dict[str, float]
    usd_per_hour: float
    moved_devices: int
    fleet: Mapping[str, Any]
    note: str = ""


@dataclass(frozen=True)
class HostsSchedule:
    """Hosts of one device type in one region, by slot.

    Attributes:
        reserved: paid round the clock.
        on_demand: beside them.
        used_devices: by all services.
        spare_hosts: among them, where anything runs.
        usd_per_hour: mean over the horizon.
    """

    device: str
    region: str
    devices_per_host: int
    reserved: int
    on_demand: tuple[int, ...]
    used_devices: tuple[int, ...]
    spare_hosts: int
    inventory_hosts: int | None
    reserved_usd_per_device_hour: float
    on_demand_usd_per_device_hour: float | None
    usd_per_hour: float


@dataclass(frozen=True)
class ScheduledFleet:
    """The answer; prices per hour are means over the horizon.

    Attributes:
        usd_per_day, usd_per_month, usd_per_year: the first, in which moving is paid for once.
        hours: of the horizon, from 00:00 UTC (168: from Monday).
        bound_usd_per_hour: no schedule of the services' families costs less.
        static_usd_per_hour: with every service at its peak round the clock; None where nothing is
            found within the inventories.
        apart_usd_per_hour: each service on hosts of its own, whatever the inventory.
        apart_bound_usd_per_hour: it is no less, where the solver could not prove it in its time.
        at_scale_usd_per_hour: every device fully loaded, and had for just as long as it is:
            no schedule of these families is cheaper.
        families: that were chosen among.
        totals: of inventories over all regions.
    """

    hours: int
    slot_s: float
    start_up_s: float
    hold_s: float
    granularity: str
    usd_per_hour: float
    usd_per_day: float
    usd_per_month: float
    usd_per_year: float
    bound_usd_per_hour: float
    gap: float
    static_usd_per_hour: float | None
    apart_usd_per_hour: float
    apart_bound_usd_per_hour: float
    at_scale_usd_per_hour: float
    families: int
    services: tuple[ServiceSchedule, ...]
    hosts: tuple[HostsSchedule, ...]
    totals: tuple[TotalPlan, ...]
    left_out: dict[str, str]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the schema first."""
        return {"schema": SCHEMA, **asdict(self)}
