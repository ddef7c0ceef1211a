"""A catalog's fleet over time, drawn."""

from __future__ import annotations

from typing import Any

import numpy as np

from planner.catalog.demand import HOUR_S
from planner.catalog.report import place_of
from planner.catalog.schedule_plan import ScheduledFleet
from planner.catalog.schedule_report import summary
from planner.figures import colours, data, titled


def schedule_figure(fleet: ScheduledFleet) -> Any:
    """Hosts of each device type by hour, and the devices that each service has."""
    import altair as alt

    hour = alt.X("hour:Q", title="hour (UTC)", scale=alt.Scale(domain=[0, fleet.hours], nice=False))
    step = fleet.slot_s / HOUR_S
    panels = []
    for host in fleet.hosts:
        rows = [
            {"hour": i * step, "until": (i + 1) * step, "low": low, "high": high, "hosts": kind}
            for i, rented in enumerate(host.on_demand)
            for kind, low, high in (
                ("reserved", 0, host.reserved),
                ("on demand", host.reserved, host.reserved + rented),
            )
        ]
        used = [
            {"hour": i * step, "until": (i + 1) * step, "used": count / host.devices_per_host}
            for i, count in enumerate(host.used_devices)
        ]
        bars = (
            alt.Chart(data(rows))
            .mark_rect()
            .encode(
                x=hour,
                x2="until:Q",
                y=alt.Y("low:Q", title="hosts"),
                y2="high:Q",
                color=alt.Color("hosts:N", title="hosts", scale=colours(["reserved", "on demand"])),
            )
        )
        line = (
            alt.Chart(data(used))
            .mark_rule(color="currentColor", strokeWidth=2)
            .encode(x="hour:Q", x2="until:Q", y="used:Q")
        )
        title = f"{place_of(host)}, hosts of {host.devices_per_host}; line: devices in use"
        panels.append((bars + line).properties(title=title, width=560, height=120))
    panels.append(_devices_by_service(fleet, hour, step))
    lines = summary(fleet)
    subtitle = [lines[0], *lines[-3:-1]]
    return titled(
        alt.vconcat(*panels).resolve_scale(color="independent"),
        "Reserved and on-demand hosts over time",
        subtitle,
    )


def _devices_by_service(fleet: ScheduledFleet, hour: Any, step: float) -> Any:
    """Devices in use by service, one above the other."""
    import altair as alt

    rows = []
    below = np.zeros(round(fleet.hours / step))
    for service in fleet.services:
        counts = sum(np.array(pool.replicas) * pool.devices_per_replica for pool in service.pools)
        above = below + counts
        rows += [
            {
                "hour": i * step,
                "until": (i + 1) * step,
                "low": float(low),
                "high": float(high),
                "service": service.name,
            }
            for i, (low, high) in enumerate(zip(below, above, strict=True))
        ]
        below = above
    names = [service.name for service in fleet.services]
    return (
        alt.Chart(data(rows))
        .mark_rect()
        .encode(
            x=hour,
            x2="until:Q",
            y=alt.Y("low:Q", title="devices"),
            y2="high:Q",
            color=alt.Color("service:N", title="service", scale=colours(names)),
        )
        .properties(title="Devices of each service", width=560, height=180)
    )
