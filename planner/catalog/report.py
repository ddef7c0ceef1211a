"""A catalog's fleet for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from perfmodel.units import format_count, format_time
from planner.catalog.batch import Result
from planner.catalog.fleet import CatalogFleet


def print_fleet(fleet: CatalogFleet, console: Console, *, moving: bool = False) -> None:
    """The decision, who runs where, the hosts, and what it rests on."""
    count = format_count(len(fleet.services), "service")
    hosts = sum(h.hosts for h in fleet.hosts)
    console.print(
        Text(f"${fleet.usd_per_hour:,.2f} per hour: {count} on {format_count(hosts, 'host')}")
    )
    lines = [_proof(fleet)]
    saved = 1.0 - fleet.usd_per_hour / fleet.alone_usd_per_hour
    beside = "less" if saved >= 0 else "more, for want of inventory or with spare hosts,"
    lines.append(
        f"{abs(saved):.1%} {beside} than ${fleet.alone_usd_per_hour:,.2f} for each service's "
        "cheapest plan on hosts of its own"
    )
    for line in lines:
        console.print(Text(line))
    console.print(Text("\nServices", style="bold"))
    console.print(_services(fleet, moving))
    console.print(Text("\nHosts", style="bold"))
    console.print(_hosts(fleet))


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
    table = Table("service", "fleet", "model", box=None, pad_edge=False)
    for name in ("requests/s", "USD/h", "TTFT", "TTIT"):
        table.add_column(name, justify="right")
    for result in results:
        if result.plan is None:
            continue
        best = result.plan["best"]
        hosts = " + ".join(
            f"{h['hosts']} x {h['devices_per_host']} {h['device']}" for h in best["hosts"]
        )
        table.add_row(
            result.name,
            f"{best['kind']}: {hosts}",
            result.plan["model"]["name"],
            f"{best['qps']:,.4g}",
            f"{best['usd_per_hour']:,.2f}",
            format_time(best["ttft"]["mean_s"]),
            format_time(best["ttit_mean_s"]),
        )
    console.print(table)
    failed = [result for result in results if result.plan is None]
    if failed:
        console.print(Text("\nWithout a plan", style="bold"))
    for result in failed:
        console.print(Text(f"{result.name}: {result.error}"))


def _proof(fleet: CatalogFleet) -> str:
    if fleet.gap < 1e-9:
        return f"proven: no choice among the services' plans is cheaper ({fleet.seconds:.1f} s)"
    return (
        f"at most {fleet.gap:.2%} above the cheapest choice among the services' plans "
        f"(${fleet.bound_usd_per_hour:,.2f} at least; {fleet.seconds:.1f} s)"
    )


def _services(fleet: CatalogFleet, moving: bool) -> Table:
    table = Table("service", "runs", "on", box=None, pad_edge=False)
    table.add_column("USD/h", justify="right")
    if moving:
        table.add_column("moved", justify="right")
    for service in fleet.services:
        devices = " + ".join(f"{count} {name}" for name, count in service.devices.items())
        place = f"{devices} in {service.region}" if service.region else devices
        row = [service.name, service.kind, place, f"{service.usd_per_hour:,.2f}"]
        table.add_row(*row, *([str(service.moved_devices)] if moving else []))
    return table


def _hosts(fleet: CatalogFleet) -> Table:
    table = Table("device", box=None, pad_edge=False)
    for name in ("hosts", "of which spare", "inventory", "devices used", "USD/h"):
        table.add_column(name, justify="right")
    for host in fleet.hosts:
        name = f"{host.device} in {host.region}" if host.region else host.device
        table.add_row(
            name,
            f"{host.hosts} x {host.devices_per_host}",
            str(host.spare_hosts),
            "-" if host.inventory_hosts is None else str(host.inventory_hosts),
            f"{host.used_devices} of {host.hosts * host.devices_per_host}",
            f"{host.usd_per_hour:,.2f}",
        )
    return table
