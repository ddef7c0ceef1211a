"""A mix of device types for people."""

from __future__ import annotations

from math import isfinite

from rich.console import Console
from rich.table import Table
from rich.text import Text

from planner.melange import Mix, alone_usd_per_hour


def print_mix(mix: Mix, console: Console) -> None:
    """The decision, its proof, the devices, and who serves which bucket."""
    rented = [(d, int(n)) for d, n in zip(mix.problem.devices, mix.counts, strict=True) if n]
    names = ", ".join(f"{count} x {device.name}" for device, count in rented)
    console.print(Text(f"${mix.usd_per_hour:,.2f} per hour: {names}"))
    console.print(Text(_proof(mix)))
    console.print(Text(_beside_one_type(mix)))
    console.print(Text("\nDevices", style="bold"))
    console.print(_devices(mix))
    console.print(Text("\nRequests by input length (row) and output length", style="bold"))
    console.print(_buckets(mix))


def _proof(mix: Mix) -> str:
    parts = mix.problem.slices
    how = "however buckets are split" if parts is None else f"of buckets in {parts} equal slices"
    if parts == 1:
        how = "of whole buckets"
    if mix.gap == 0:
        return f"proven: no mix {how} is cheaper ({mix.seconds:.1f} s)"
    return (
        f"at most {mix.gap:.2%} above the cheapest mix {how} "
        f"(${mix.bound_usd_per_hour:,.2f} at least; {mix.seconds:.1f} s)"
    )


def _beside_one_type(mix: Mix) -> str:
    alone = alone_usd_per_hour(mix.problem)
    if not isfinite(alone.min()):
        return "no type alone serves all requests"
    least, name = float(alone.min()), mix.problem.devices[int(alone.argmin())].name
    saved = 1.0 - mix.usd_per_hour / least if least > 0 else 0.0
    if saved < 1e-9:
        return f"no less than {name} alone"
    return f"{saved:.1%} less than ${least:,.2f} for {name} alone, the cheapest single type"


def _devices(mix: Mix) -> Table:
    table = Table("device", box=None, pad_edge=False)
    for name in ("USD/h each", "devices", "busy", "USD/h", "USD/h if alone"):
        table.add_column(name, justify="right")
    rows = zip(
        mix.problem.devices, mix.counts, mix.loads, alone_usd_per_hour(mix.problem), strict=True
    )
    for device, count, load, alone in rows:
        table.add_row(
            device.name,
            f"{device.usd_per_hour:,.2f}",
            str(count),
            f"{load / count:.0%}" if count else "-",
            f"{count * device.usd_per_hour:,.2f}",
            f"{alone:,.2f}" if isfinite(alone) else "-",
        )
    return table


def _buckets(mix: Mix) -> Table:
    table = Table("bucket", box=None, pad_edge=False)
    table.add_column("requests/s", justify="right")
    table.add_column("served by")
    for (row, column), qps, shares in mix.served_by():
        who = ", ".join(
            name if share == 1 else f"{100 * share:.3g}% {name}"
            for name, share in sorted(shares.items(), key=lambda item: -item[1])
        )
        table.add_row(f"{row}, {column}", f"{qps:,.4g}", who)
    return table
