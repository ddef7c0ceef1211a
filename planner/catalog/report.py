"""A catalog's fleet for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from perfmodel.units import format_count, format_time
from planner.catalog.batch import Result
from planner.catalog.fleet import CatalogFleet, HostsPlan, ServicePlan
from planner.catalog.schedule_plan import HostsSchedule, ScheduledFleet, ServiceSchedule
from planner.plan import fleet_hosts_text
from planner.report import means_lines

CENT = 0.01


def print_fleet(fleet: CatalogFleet, console: Console, *, moving: bool = False) -> None:
    """The decision, who runs where, the hosts, and what it rests on."""
    count = format_count(len(fleet.services), "service")
    hosts = sum(h.hosts for h in fleet.hosts)
    console.print(
        Text(f"${fleet.usd_per_hour:,.2f} per hour: {count} on {format_count(hosts, 'host')}")
    )
    lines = [_paid_for(fleet), proof_line(fleet, "choice", "among the services' plans")]
    saved = 1.0 - fleet.usd_per_hour / fleet.alone_usd_per_hour
    beside = "less" if saved >= 0 else "more"
    lines.append(
        f"{abs(saved):.1%} {beside} than ${fleet.alone_usd_per_hour:,.2f} for each service's "
        "cheapest plan on hosts of its own, without spare hosts and whatever the inventory"
    )
    for line in lines:
        console.print(Text(line))
    console.print(Text("\nServices", style="bold"))
    console.print(_services(fleet, moving))
    console.print(Text("\nHosts", style="bold"))
    console.print(_hosts(fleet))
    for line in total_lines(fleet):
        console.print(Text(line))


def print_results(results: Sequence[Result], console: Console) -> None:
    """What each service costs alone, and why others have no plan."""
    found = [r.plan for r in results if r.plan is not None]
    total = sum(plan["best"]["usd_per_hour"] for plan in found)
    console.print(
        Text(
            f"{format_count(len(results), 'service')}: ${total:,.2f} per hour, each on hosts of "
            "its own"
        )
    )
    print_services(results, console, with_model=True)
    failed = [result for result in results if result.plan is None]
    if failed:
        console.print(Text("\nWithout a plan", style="bold"))
    for result in failed:
        console.print(Text(f"{result.name}: {result.error}"))


def print_services(
    results: Sequence[Result], console: Console, *, with_model: bool = False
) -> None:
    """What each service that has a plan runs on, alone, and costs."""
    named = ("service", "fleet", "model") if with_model else ("service", "fleet")
    table = Table(*named, box=None, pad_edge=False)
    for name in ("requests/s", "USD/h", "TTFT", "TTIT"):
        table.add_column(name, justify="right")
    for result in results:
        if result.plan is None:
            continue
        best = result.plan["best"]
        model = (result.plan["model"]["name"],) if with_model else ()
        table.add_row(
            result.name,
            f"{best['kind']}: {fleet_hosts_text(best)}",
            *model,
            f"{best['qps']:,.4g}",
            f"{best['usd_per_hour']:,.2f}",
            format_time(best["ttft"]["mean_s"]),
            format_time(best["ttit_mean_s"]),
        )
    console.print(table)
    for line in means_lines(r.plan["statistics"] for r in results if r.plan is not None):
        console.print(Text(line, style="dim"))


def _paid_for(fleet: CatalogFleet) -> str:
    """What the price consists of: services pay for devices in use, and not for the others."""
    used = sum(service.usd_per_hour for service in fleet.services)
    spare = sum(h.usd_per_hour * h.spare_hosts / h.hosts for h in fleet.hosts)
    idle = sum(h.usd_per_hour for h in fleet.hosts) - used - spare
    parts = [f"${used:,.2f} for devices in use"]
    if spare >= CENT / 2:
        parts.append(f"${spare:,.2f} for spare hosts")
    if idle >= CENT / 2:
        parts.append(f"${idle:,.2f} for devices without work on the others")
    return "of it " + ", ".join(parts + moving_parts(fleet))


def moving_parts(fleet: CatalogFleet | ScheduledFleet) -> list[str]:
    """What of the price pays for moving, if anything does."""
    usd = fleet.usd_per_hour - sum(h.usd_per_hour for h in fleet.hosts)
    moved = sum(service.moved_devices for service in fleet.services)
    return [f"${usd:,.2f} for moving {moved} devices"] if usd >= CENT / 2 else []


def proof_line(fleet: CatalogFleet | ScheduledFleet, what: str, among: str) -> str:
    """That no fleet of its kind is cheaper, or by how much one may be.

    Args:
        what: kind of choice, such as `schedule`.
        among: what was chosen from.
    """
    if fleet.gap < 1e-9:
        return f"proven: no {what} {among} is cheaper ({fleet.seconds:.1f} s)"
    return (
        f"at most {fleet.gap:.2%} above the cheapest {what} {among} "
        f"(${fleet.bound_usd_per_hour:,.2f} at least; {fleet.seconds:.1f} s)"
    )


def total_lines(fleet: CatalogFleet | ScheduledFleet) -> list[str]:
    """What is taken of inventories over all regions."""
    when = " at the busiest" if isinstance(fleet, ScheduledFleet) else ""
    return [
        f"{t.device} over all regions: {t.devices} of {t.inventory_devices} devices{when}"
        for t in fleet.totals
    ]


def place_of(host: HostsPlan | HostsSchedule) -> str:
    """The device type, and the region where there is one."""
    return f"{host.device} in {host.region}" if host.region else host.device


def devices_of(service: ServicePlan | ServiceSchedule) -> str:
    """The devices of a service, and its region where there is one."""
    devices = " + ".join(f"{count} {name}" for name, count in service.devices.items())
    return f"{devices} in {service.region}" if service.region else devices


def _services(fleet: CatalogFleet, moving: bool) -> Table:
    table = Table("service", "runs", "on", box=None, pad_edge=False)
    table.add_column("USD/h", justify="right")
    if moving:
        table.add_column("moved", justify="right")
    for service in fleet.services:
        row = [service.name, service.kind, devices_of(service), f"{service.usd_per_hour:,.2f}"]
        table.add_row(*row, *([str(service.moved_devices)] if moving else []))
    return table


def _hosts(fleet: CatalogFleet) -> Table:
    table = Table("device", box=None, pad_edge=False)
    for name in ("hosts", "of which spare", "inventory", "devices used", "USD/h"):
        table.add_column(name, justify="right")
    for host in fleet.hosts:
        table.add_row(
            place_of(host),
            f"{host.hosts} x {host.devices_per_host}",
            str(host.spare_hosts),
            "-" if host.inventory_hosts is None else str(host.inventory_hosts),
            f"{host.used_devices} of {host.hosts * host.devices_per_host}",
            f"{host.usd_per_hour:,.2f}",
        )
    return table
