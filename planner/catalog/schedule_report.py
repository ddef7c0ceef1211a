"""A catalog's fleet over time for people."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from perfmodel.units import format_count
from planner.catalog.assignment import gap_of
from planner.catalog.demand import DAY_HOURS, HOUR_S
from planner.catalog.report import devices_of, moving_parts, place_of, proof_line, total_lines
from planner.catalog.schedule_plan import HostsSchedule, ScheduledFleet, ServiceSchedule

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")

SHOWN = 0.002
"""A gap above this is more than the solver was asked for."""

HALF_DAY = 12
"""Hours beside each other: so many fit a terminal."""


def print_schedule(fleet: ScheduledFleet, console: Console, *, moving: bool = False) -> None:
    """The decision, what it rests on and saves, who runs where, and all of it by the hour."""
    for line in summary(fleet):
        console.print(Text(line))
    console.print(Text("\nServices", style="bold"))
    console.print(_services(fleet, moving))
    console.print(Text("\nHosts", style="bold"))
    console.print(_hosts(fleet))
    for line in total_lines(fleet):
        console.print(Text(line))
    rows = [row for host in fleet.hosts for row in _host_rows(host)]
    rows += [row for service in fleet.services for row in _pool_rows(service)]
    for title, table in _by_the_hour(rows, fleet):
        console.print(Text(f"\n{title}", style="bold"))
        console.print(table)
    for service in fleet.services:
        if service.note:
            console.print(Text(f"\n{service.name}: {service.note}"))


def summary(fleet: ScheduledFleet) -> list[str]:
    """The price, its proof, and what it is compared with."""
    hosts = np.sum([_counts(host) for host in fleet.hosts], axis=0) if fleet.hosts else [0]
    low, high = int(np.min(hosts)), int(np.max(hosts))
    count = format_count(high, "host") if low == high else f"{low} to {high} hosts"
    over = "a day" if fleet.hours == DAY_HOURS else "a week"
    lines = [
        f"${fleet.usd_per_hour:,.2f} per hour, mean over {over}: "
        f"{format_count(len(fleet.services), 'service')} on {count}",
        f"${fleet.usd_per_day:,.0f} per day, ${fleet.usd_per_month:,.0f} per month, "
        f"${fleet.usd_per_year:,.0f} per year",
        *(f"of each hour {part}, paid once" for part in moving_parts(fleet)),
        proof_line(fleet, "schedule", f"of the services' {fleet.families} configurations"),
    ]
    if fleet.static_usd_per_hour is None:
        lines.append(
            "with every service at its peak round the clock nothing is found within the inventories"
        )
    else:
        lines.append(
            _beside(fleet.usd_per_hour, fleet.static_usd_per_hour)
            + "with every service at its peak round the clock"
        )
    lines.append(
        _beside(fleet.usd_per_hour, fleet.apart_usd_per_hour)
        + "for each service on hosts of its own"
        + _unproven(fleet.apart_usd_per_hour, fleet.apart_bound_usd_per_hour)
    )
    lines.append(
        f"${fleet.at_scale_usd_per_hour:,.2f} at the least: every device fully loaded, and had "
        "for just as long"
    )
    return lines


def _beside(price: float, other: float) -> str:
    if abs(other - price) < 0.005:
        return f"the same as ${other:,.2f} "
    word = "less" if price < other else "more"
    return f"{abs(1.0 - price / other):.1%} {word} than ${other:,.2f} "


def _unproven(price: float, bound: float) -> str:
    """What a price is at least, where that shows."""
    return f" (${bound:,.2f} at the least)" if gap_of(price, bound) > SHOWN else ""


def _services(fleet: ScheduledFleet, moving: bool) -> Table:
    table = Table("service", "runs", "on, at most", "requests/s", box=None, pad_edge=False)
    table.add_column("USD/h", justify="right")
    if moving:
        table.add_column("moved", justify="right")
    for service in fleet.services:
        least, most = min(service.qps), max(service.qps)
        qps = f"{most:.4g}" if least == most else f"{least:.3g} to {most:.3g}"
        row = [
            service.name,
            service.kind,
            devices_of(service),
            qps,
            f"{service.usd_per_hour:,.2f}",
        ]
        table.add_row(*row, *([str(service.moved_devices)] if moving else []))
    return table


def _hosts(fleet: ScheduledFleet) -> Table:
    table = Table("device", box=None, pad_edge=False)
    for name in ("reserved", "on demand", "inventory", "in use", "USD/h"):
        table.add_column(name, justify="right")
    for host in fleet.hosts:
        least, most = min(host.on_demand), max(host.on_demand)
        rented = str(most) if least == most else f"{least} to {most}"
        had = sum(_counts(host)) * host.devices_per_host
        price = host.on_demand_usd_per_device_hour
        table.add_row(
            place_of(host),
            _reserved(host),
            rented if price is None else f"{rented} x {host.devices_per_host} at ${price:,.2f}",
            "-" if host.inventory_hosts is None else str(host.inventory_hosts),
            f"{sum(host.used_devices) / had:.0%}",
            f"{host.usd_per_hour:,.2f}",
        )
    return table


def _reserved(host: HostsSchedule) -> str:
    """Hosts reserved and at what price; `-` where none is, and reserving would save nothing."""
    reserved, rented = host.reserved_usd_per_device_hour, host.on_demand_usd_per_device_hour
    if not host.reserved and rented is not None and rented <= reserved:
        return "-"
    return f"{host.reserved} x {host.devices_per_host} at ${reserved:,.2f}"


def _counts(host: HostsSchedule) -> list[int]:
    """Hosts by slot."""
    return [host.reserved + count for count in host.on_demand]


Row = tuple[str, Sequence[int]]
"""A label, and a number for each slot."""


def _host_rows(host: HostsSchedule) -> list[Row]:
    """Without a row that is zero at all hours."""
    reserved = [host.reserved] * len(host.on_demand)
    rows = [
        (f"{place_of(host)} hosts reserved", reserved),
        (f"{place_of(host)} hosts on demand", host.on_demand),
    ]
    return [(label, counts) for label, counts in rows if any(counts)]


def _pool_rows(service: ServiceSchedule) -> list[Row]:
    return [(f"{service.name} {pool.role}", pool.replicas) for pool in service.pools]


def _by_the_hour(rows: Sequence[Row], fleet: ScheduledFleet) -> list[tuple[str, Table]]:
    """Tables of half a day each; of a week, one with the least and the most of each day."""
    per_hour = round(HOUR_S / fleet.slot_s)
    hourly = [(label, np.reshape(values, (-1, per_hour)).max(axis=1)) for label, values in rows]
    tables = []
    if fleet.hours == DAY_HOURS:
        for start in range(0, DAY_HOURS, HALF_DAY):
            hours = range(start, start + HALF_DAY)
            cells = [(label, [str(values[h]) for h in hours]) for label, values in hourly]
            title = f"Hosts and replicas from {start:02}:00 UTC, by hour"
            tables.append((title, _grid([str(h) for h in hours], cells)))
        return tables
    cells = []
    for label, values in hourly:
        days = values.reshape(-1, DAY_HOURS)
        spans = zip(days.min(axis=1), days.max(axis=1), strict=True)
        cells.append((label, [str(a) if a == b else f"{a}-{b}" for a, b in spans]))
    return [("Hosts and replicas, least and most of each day (UTC)", _grid(DAYS, cells))]


def _grid(heads: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> Table:
    table = Table("", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for head in heads:
        table.add_column(head, justify="right", min_width=2, no_wrap=True)
    for label, cells in rows:
        table.add_row(label, *cells)
    return table
