"""What is known of a device, as text for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from perfmodel.hardware import UNLIMITED, Device, Link
from perfmodel.units import format_bytes, format_count, format_time
from planner.prices import listed_prices, price_list

Figure = tuple[str, str, str]
"""What it is, its value, and its source."""


def print_device(device: Device, engines: Sequence[str], console: Console) -> None:
    """Print a device's figures with their sources, its prices, and what to beware of.

    Args:
        engines: whose operators were measured on it.
    """
    console.print(Text(f"{device.name}: {device.title}", style="bold"))
    console.print(Text(f"platform {device.platform}; {_measured(device, engines)}"))
    if device.alike:
        console.print(Text(f"runs the kernels of {', '.join(device.alike)}"))
    if device.caution:
        console.print(Text(f"caution: {device.caution}"))
    console.print()
    console.print(_table(("figure", "value", "source"), figures(device)))
    prices = list(_prices(device.name))
    taken = "the first is the default" if device.name in price_list() else "no default"
    if prices:
        console.print(Text(f"\nUSD per device-hour: {taken}", style="bold"))
        console.print(_table(("price", "of", "source"), prices))
    else:
        console.print(Text("\nno price listed: give usd_per_device_hour in the query"))
    if device.notes:
        console.print(Text(f"\n{' '.join(device.notes.split())}"))


def _measured(device: Device, engines: Sequence[str]) -> str:
    on = f" on {device.tables}" if device.tables != device.name else ""
    if engines:
        return f"operators measured{on} under {', '.join(engines)}"
    return "no measured operators: its estimates are analytic"


def figures(device: Device) -> Iterator[Figure]:
    """Every figure of a device file."""
    source = device.sources.get
    yield "memory", format_bytes(device.memory_bytes), source("memory", "")
    bandwidth = f"{device.memory_bandwidth_bytes_per_s / 1e12:.4g} TB/s"
    yield "memory bandwidth", bandwidth, source("memory_bandwidth", "")
    for name, peak in device.peak_flops_per_s.items():
        unit = "TOP/s" if name.startswith("int") else "TFLOP/s"
        yield f"peak {name}", f"{peak / 1e12:,.5g} {unit}", source(f"peak.{name}", "")
    yield "TDP", f"{device.tdp_w:,.0f} W", source("tdp", "")
    yield "host", format_count(device.host_devices, "device"), source("host.devices", "")
    if device.host_memory_bytes is not None:
        memory = f"{format_bytes(device.host_memory_bytes)} per device"
        yield "host memory", memory, source("host.memory", "")
    if device.host_bandwidth_bytes_per_s is not None:
        host_link = f"{device.host_bandwidth_bytes_per_s / 1e9:,.4g} GB/s"
        yield "host link", host_link, source("host.link", "")
    for link in device.links:
        yield f"link {link.name}", _link(link), source(f"links.{link.name}", "")
    for name, share in (
        ("compute", device.achieved_compute),
        ("bandwidth", device.achieved_bandwidth),
    ):
        if share is not None:
            yield f"achieved {name}", f"{share:.0%}", source(f"achieved.{name}", "")


def _link(link: Link) -> str:
    to = "any number" if link.span == UNLIMITED else str(link.span)
    parts = [
        f"{link.bandwidth_bytes_per_s / 1e9:,.4g} GB/s each way to {to}",
        f"latency {format_time(link.latency_s)}",
        f"{link.achieved:.0%} achieved",
    ]
    if link.topology != "switch":
        parts.append(link.topology)
    if link.reduces:
        parts.append("reduces in the network")
    if link.oversubscription != 1.0:
        parts.append(f"{link.oversubscription:g} devices to a port")
    return ", ".join(parts)


def _prices(name: str) -> Iterator[Figure]:
    mine = listed_prices().get(name, [])
    for entry in sorted(mine, key=lambda entry: not entry.get("default", False)):
        what = f"{entry['kind']}, {entry['provider']}, {entry['date']}"
        yield f"{entry['usd_per_device_hour']:.2f}", what, str(entry["source"])


def _table(columns: tuple[str, str, str], rows: Iterator[Figure] | list[Figure]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    first, second, third = columns
    table.add_column(first, no_wrap=True)
    table.add_column(second, max_width=22)
    table.add_column(third, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table
