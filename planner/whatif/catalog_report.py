"""What-ifs of catalogs on the terminal, and as rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from planner.whatif.catalog import CatalogCell, CatalogHostPrice

Rows = list[dict[str, Any]]


def grid_rows(cells: Sequence[CatalogCell]) -> Rows:
    """One row per cell."""
    return [cell.row() for cell in cells]


def host_rows(prices: Sequence[CatalogHostPrice]) -> Rows:
    """One row per limited device type."""
    return [
        {
            "device": f"{price.device}@{price.region}" if price.region else price.device,
            "hosts_at_hand": price.hosts,
            "usd_per_hour": price.usd_per_hour,
            "usd_per_hour_per_host": price.usd_per_hour_per_host,
            "further_hosts": price.further_hosts or None,
            "cheaper_usd_per_hour": price.cheaper_usd_per_hour,
        }
        for price in prices
    ]


def print_rows(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Rows as a table: `error` only where there is one, below it."""
    if not rows:
        return
    names = [name for name in rows[0] if name not in ("error", "gap")]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in names:
        numeric = ("usd" in name and not name.startswith("devices.")) or name.endswith("_hosts")
        table.add_column(_heading(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_shown(row[name]) for name in names))
    console.print(table)
    for error in dict.fromkeys(row["error"] for row in rows if row.get("error")):
        console.print(Text(error, style="yellow"))
    gaps = [row["gap"] for row in rows if row.get("gap")]
    if any(gap > 1e-9 for gap in gaps):
        console.print(Text(f"at most {max(gaps):.2%} above the cheapest", style="dim"))


def _heading(name: str) -> str:
    short = name.removeprefix("devices.")
    for long, shown in (
        (".usd_per_device_hour", " USD/device-hour"),
        ("usd_per_hour_per_host", "USD/h per host"),
        ("usd_per_hour", "USD/h"),
        (".inventory", " at hand"),
        ("cheaper_", "then "),
        ("_hosts", " hosts"),
    ):
        short = short.replace(long, shown)
    return short.replace("hosts_at_hand", "hosts")


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,.2f}" if isinstance(value, float) else str(value)
