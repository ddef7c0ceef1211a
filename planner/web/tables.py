"""A plan's tables, as its page and `planner ui` show them.

Plans and fleets are plain data, as `Plan.to_dict` has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perfmodel.units import format_time
from planner.plan import fleet_hosts_text
from planner.web.pages import Tabulated

Data = Mapping[str, Any]


def number(value: float) -> str:
    """Three digits that count, and no exponent for what people count."""
    return f"{float(f'{value:.3g}'):,.9g}"


def measured(fleet: Data) -> float:
    """Share of the time that is measured, of the pool where it is least."""
    return min(float(pool["time_by_kind"].get("measured", 0.0)) for pool in fleet["pools"])


def targets(plan: Data) -> Tabulated:
    """Each target beside what the plan reaches, in the target's statistic."""
    best, slo = plan["best"], plan["query"].get("slo", {})
    reached = {
        "ttft": best["ttft"]["slo_s"] or best["ttft"]["mean_s"],
        "ttit": best["ttit_slo_s"] or best["ttit_mean_s"],
        "e2e": best["e2e_mean_s"],
    }
    rows = tuple(
        (
            name.upper(),
            statistic,
            format_time(slo[name]["seconds"]),
            format_time(reached[name]),
            f"{reached[name] / slo[name]['seconds']:.0%}",
        )
        for name, statistic in plan["statistics"].items()
    )
    names = ("latency", "statistic", "target", "predicted", "of the target")
    return Tabulated(names, rows, right=(2, 3, 4))


def pools(fleet: Data) -> Tabulated:
    """What runs where, and what holds each pool back."""
    rows = [
        (
            pool["role"],
            f"{pool['replicas']} x {pool['devices_per_replica']} {pool['device']}",
            pool["layout"],
            _batch(pool),
            number(pool["qps_per_replica"]),
            ", ".join(pool["limits"]),
        )
        for pool in fleet["pools"]
    ]
    if encoder := fleet.get("encoder"):
        each = number(encoder["qps_per_replica"])
        replicas = f"{encoder['replicas']} x 1 {encoder['device']}"
        rows.append(("encoder", replicas, "-", "1", each, ""))
    names = ("pool", "replicas", "layout", "batch", "req/s each", "held back by")
    return Tabulated(names, tuple(rows), right=(4,))


def _batch(pool: Data) -> str:
    text = f"{pool['batch']:,}"
    if pool["chunk_tokens"]:
        text += f" + {pool['chunk_tokens']:,} chunk"
    if pool["draft_tokens"]:
        text += f", {pool['draft_tokens']} drafted"
    return text


def hosts(fleet: Data) -> Tabulated:
    """What is rented or bought, at which price."""
    rows = []
    for host in fleet["hosts"]:
        devices = host["hosts"] * host["devices_per_host"]
        rows.append(
            (
                f"{host['hosts']} x {host['devices_per_host']} {host['device']}",
                f"${host['usd_per_device_hour']:,.2f}",
                f"{host['used_devices']} of {devices}",
                f"${devices * host['usd_per_device_hour']:,.2f}",
                host["price_source"],
            )
        )
    names = ("hosts", "per device-hour", "devices in use", "per hour", "price from")
    return Tabulated(names, tuple(rows), right=(1, 2, 3))


def others(plan: Data) -> Tabulated:
    """Other fleets, and why each lost; numbered as the figure of prices has them."""
    rows = tuple(
        (
            f"{i}. {fleet['kind']}: {fleet_hosts_text(fleet)}",
            f"${fleet['usd_per_hour']:,.2f}",
            why_lost(plan["best"], fleet),
            format_time(fleet["ttft"]["mean_s"]),
            format_time(fleet["ttit_mean_s"]),
            f"{measured(fleet):.0%}",
        )
        for i, fleet in enumerate(plan["alternatives"], 1)
    )
    names = ("fleet", "per hour", "why it lost", "TTFT", "TTIT", "measured")
    return Tabulated(names, rows, right=(1, 3, 4, 5))


def why_lost(best: Data, other: Data) -> str:
    """What another fleet has against it."""
    dearer = other["usd_per_hour"] / best["usd_per_hour"] - 1.0
    if other["qps"] < best["qps"] * (1 - 1e-9):
        return f"serves {1 - other['qps'] / best['qps']:.1%} fewer requests/s"
    if dearer > 5e-4:
        return f"{dearer:.1%} dearer"
    if other["capacity_qps"] < best["capacity_qps"]:
        spare = best["capacity_qps"] / other["capacity_qps"] - 1.0
        return f"same price; the plan has {spare:.0%} more capacity"
    return "same price; fewer of its devices are in use"
