"""A plan's figures as Altair charts, drawn in the colours of the text around them.

Text, axes and rules are `currentColor`, which a page sets: one chart serves light, dark and print.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from perfmodel.graph import COMMUNICATION, COMPUTE, HOST
from perfmodel.timeline import LayerTimeline
from planner.figures import Rows, colours, data
from planner.plan import fleet_hosts_text

if TYPE_CHECKING:
    import polars as pl

WIDTH = 620
"""Of a chart, in pixels; pages scale it to the room there is."""

KIND_NAMES = ("continuous", "disaggregated", "heterogeneous")
STREAMS = (HOST, COMPUTE, COMMUNICATION)
BOUNDS = ("compute", "bandwidth", "link", "latency")
KNOWLEDGE = ("measured", "extrapolated", "analytic")

ONE = 0.8
"""Where a bar on a logarithmic axis begins, so that one is seen."""

LETTER = 6
"""Pixels of a letter: an operator of a timeline is named where its name has room."""

CURRENT = "currentColor"
FAINT = "#88888844"


def on_page(chart: Any) -> dict[str, Any]:
    """An Altair chart as Vega-Lite, in the page's own colours, on its background."""
    spec: dict[str, Any] = chart.to_dict()
    fit = {"type": "fit-x", "contains": "padding"}
    room = {"width": "container", "autosize": fit} if "width" in spec else {}
    return {**spec, **room, "background": "transparent", "config": ON_PAGE}


def above() -> Any:
    """An axis whose names lie above their bars, which so have all of a narrow page."""
    import altair as alt

    return alt.Axis(
        labelAlign="left",
        labelPadding=-2,
        labelOffset=-11,
        labelLimit=0,
        labelFontSize=11,
        ticks=False,
        zindex=1,
    )


BELOW_NAME: dict[str, Any] = {"height": 14, "yOffset": 8}
"""Of bars on such an axis."""

TEXT = {"labelColor": CURRENT, "titleColor": CURRENT, "labelFontSize": 12, "titleFontSize": 12}
ON_PAGE = {
    "font": "system-ui, sans-serif",
    "axis": {
        **TEXT,
        "titleFontWeight": "normal",
        "domainColor": CURRENT,
        "tickColor": CURRENT,
        "gridColor": FAINT,
        "labelLimit": 240,
        "labelSeparation": 4,
    },
    "legend": {**TEXT, "titleFontWeight": "normal", "orient": "top"},
    "header": TEXT,
    "view": {"stroke": FAINT},
    "title": {"color": CURRENT, "subtitleColor": CURRENT},
    "text": {"color": CURRENT},
}


def front_chart(
    rows: pl.DataFrame,
    against: str,
    target: tuple[float, str] | None,
    chosen: Mapping[str, float] | None,
) -> Any:
    """What a dollar serves at every latency, by kind of fleet, and where the plan stands.

    Args:
        rows: of `planner.fronts.front`, by kind.
        target: in seconds, and its statistic.
        chosen: where a plan stands, of `place`.
    """
    import altair as alt

    name = against.upper()
    values = [
        {
            "kind": row["kind"],
            "devices": row["devices"],
            "latency": row[f"{against}_s"] * 1e3,
            "qps": row["qps_per_usd_hour"],
            "ttit": f"{row['ttit_s'] * 1e3:.1f} ms",
            "ttft": f"{row['ttft_s'] * 1e3:.0f} ms",
            "prefill": _pool_text(row, "prefill"),
            "decode": _pool_text(row, "decode"),
        }
        for row in rows.iter_rows(named=True)
    ]
    x = alt.X(
        "latency:Q",
        title=f"{name} in ms, no waiting",
        scale=alt.Scale(type="log", nice=False, padding=8),
        axis=alt.Axis(tickCount=8, format="~g"),
    )
    y = alt.Y("qps:Q", title="requests/s per USD/hour", scale=alt.Scale(zero=True))
    # Kinds that were not asked for, or serve nothing, would be colours without a line.
    found = rows["kind"].unique()
    legend = alt.Legend(values=[kind for kind in KIND_NAMES if kind in found])
    base = alt.Chart(data(values)).encode(
        x=x,
        y=y,
        color=alt.Color("kind:N", title=None, scale=colours(KIND_NAMES), legend=legend),
    )
    lines = base.mark_line(interpolate="step-after", strokeWidth=2)
    points = base.mark_point(filled=True, size=36, opacity=0.8).encode(
        shape=alt.Shape(
            "kind:N", title=None, scale=alt.Scale(domain=list(KIND_NAMES)), legend=legend
        ),
        tooltip=[
            alt.Tooltip("kind:N", title="fleet"),
            alt.Tooltip("devices:N"),
            alt.Tooltip("qps:Q", title="requests/s per USD/hour", format=".3~g"),
            alt.Tooltip("ttit:N", title="TTIT"),
            alt.Tooltip("ttft:N", title="TTFT, no waiting"),
            alt.Tooltip("prefill:N", title="prompts"),
            alt.Tooltip("decode:N", title="decode"),
        ],
    )
    layers = [lines, points]
    if target is not None:
        seconds, statistic = target
        at = {"latency": seconds * 1e3, "text": f"target {seconds * 1e3:g} ms ({statistic})"}
        line = alt.Chart(data([at])).encode(x="latency:Q")
        layers += [
            line.mark_rule(strokeDash=[4, 3], color=CURRENT),
            line.mark_text(align="right", dx=-4, y="height", dy=-8, color=CURRENT).encode(
                text="text:N"
            ),
        ]
    if chosen is not None:
        star = alt.Chart(data([chosen])).mark_point(
            shape="cross", size=140, strokeWidth=2.5, color=CURRENT, filled=True, opacity=1
        )
        title = "this plan, whole hosts and waiting"
        tip = alt.Tooltip("qps:Q", title=title, format=".3~g")
        layers.append(star.encode(x="latency:Q", y="qps:Q", tooltip=[tip]))
    return alt.layer(*layers).properties(width="container", height=300)


def place(plan: Mapping[str, Any], against: str) -> dict[str, float]:
    """Where a plan stands among fronts: its latency in ms, and its requests/s per USD/hour."""
    best = plan["best"]
    latency = best["ttit_mean_s"] if against == "ttit" else best["ttft"]["mean_s"]
    return {"latency": latency * 1e3, "qps": best["qps_per_usd_hour"]}


def _pool_text(row: Mapping[str, Any], role: str) -> str:
    chunk = f" + {row['chunk']:,} chunk" if row["chunk"] else ""
    return f"{row[role]}, batch {row[f'{role}_batch']}{chunk}"


def funnel_chart(funnels: Sequence[Mapping[str, Any]]) -> Any:
    """Configurations left after each constraint, of all devices together, by role."""
    import altair as alt

    stages = list(dict.fromkeys(name for f in funnels for name, _ in f["stages"]))
    totals: dict[tuple[str, str], int] = {}
    for funnel in funnels:
        for name, count in funnel["stages"]:
            key = (funnel["role"], name)
            totals[key] = totals.get(key, 0) + count
    rows = [
        {"role": role, "stage": name, "left": max(count, ONE), "count": f"{count:,}"}
        for (role, name), count in totals.items()
    ]
    roles = list(dict.fromkeys(f["role"] for f in funnels))
    bars = alt.Chart(data(rows)).encode(
        y=alt.Y("stage:N", sort=stages, title=None),
        yOffset=alt.YOffset("role:N", sort=roles),
        x=alt.X(
            "left:Q",
            title="left: layouts; from `evaluated` on, layouts x batches and chunks",
            scale=alt.Scale(type="log", domainMin=ONE),
            axis=alt.Axis(format="~s", tickCount=6),
        ),
    )
    drawn = bars.mark_bar().encode(
        x2=alt.X2Datum(ONE),
        color=alt.Color("role:N", title=None, sort=roles, scale=colours(roles)),
        tooltip=[
            alt.Tooltip("role:N"),
            alt.Tooltip("stage:N"),
            alt.Tooltip("count:N", title="left"),
        ],
    )
    text = bars.mark_text(align="left", dx=4, fontSize=10, color=CURRENT).encode(text="count:N")
    height = 15 * len(stages) * len(roles)
    return (drawn + text).properties(width="container", height=height)


def timeline_chart(layer: LayerTimeline) -> Any:
    """A layer on its streams; colours say what bounds each operator."""
    import altair as alt

    rows: list[dict[str, Any]] = [
        {
            "row": f"{span.stream} {span.lane}".strip(),
            "name": span.name.replace("_", " "),
            "start": span.start_s * 1e6,
            "end": span.end_s * 1e6,
            "middle": (span.start_s + span.end_s) / 2 * 1e6,
            "us": span.seconds * 1e6,
            "bound": span.bound,
            "kind": span.kind,
        }
        for span in layer.spans
    ]
    order = {s: i for i, s in enumerate(STREAMS)}
    names = sorted({row["row"] for row in rows}, key=lambda row: (order[row.split()[0]], row))
    bars = alt.Chart(data(rows)).mark_bar(stroke="white", strokeWidth=0.5)
    text = alt.Chart(data(rows)).mark_text(fontSize=10)
    end = max(span.end_s for span in layer.spans) * 1e6
    room = f"datum.us / {end!r} * width > {LETTER} * length(datum.name)"
    # Of the bounds' colours only that of computing is dark.
    ink = alt.condition(alt.datum.bound == "compute", alt.value("white"), alt.value("black"))
    drawn = bars.encode(
        x=alt.X("start:Q", title="microseconds", scale=alt.Scale(nice=False)),
        x2="end:Q",
        y=alt.Y("row:N", sort=names, title=None),
        color=alt.Color("bound:N", title="bound by", scale=colours(BOUNDS)),
        tooltip=[
            alt.Tooltip("name:N", title="operator"),
            alt.Tooltip("us:Q", title="microseconds", format=".1f"),
            alt.Tooltip("bound:N", title="bound by"),
            alt.Tooltip("kind:N", title="known by"),
        ],
    )
    labels = text.encode(
        x="middle:Q",
        y=alt.Y("row:N", sort=names),
        text="name:N",
        color=ink,
        opacity=alt.condition(room, alt.value(1), alt.value(0)),
    )
    return (drawn + labels).properties(width="container", height=34 * len(names))


def memory_chart(pools: Sequence[Mapping[str, Any]]) -> Any:
    """Memory of each pool's fullest device by term, and what there is."""
    import altair as alt

    terms = list(dict.fromkeys(term for pool in pools for term in pool["memory_bytes"]))
    rows = [
        {
            "pool": f"{pool['role']} ({pool['device']})",
            "term": term.replace("_", " "),
            "gib": size / 2**30,
            "place": i,
        }
        for pool in pools
        for i, (term, size) in enumerate(pool["memory_bytes"].items())
    ]
    names = [f"{pool['role']} ({pool['device']})" for pool in pools]
    limits = [
        {
            "pool": f"{pool['role']} ({pool['device']})",
            "gib": pool["memory_capacity_bytes"] / 2**30,
        }
        for pool in pools
    ]
    bars = (
        alt.Chart(data(rows))
        .mark_bar(**BELOW_NAME)
        .encode(
            x=alt.X("gib:Q", title="GiB", stack="zero"),
            y=alt.Y("pool:N", title=None, sort=names, axis=above()),
            color=alt.Color(
                "term:N", title=None, scale=colours([term.replace("_", " ") for term in terms])
            ),
            order="place:Q",
            tooltip=[alt.Tooltip("term:N"), alt.Tooltip("gib:Q", title="GiB", format=".1f")],
        )
    )
    ticks = (
        alt.Chart(data(limits))
        .mark_tick(thickness=3, size=22, yOffset=8, color=CURRENT)
        .encode(
            x="gib:Q",
            y=alt.Y("pool:N", sort=names),
            tooltip=[alt.Tooltip("gib:Q", title="GiB of the device", format=".1f")],
        )
    )
    return (bars + ticks).properties(width="container", height=44 * len(pools))


def share_chart(rows: Rows, names: Sequence[str]) -> Any:
    """Shares of a whole: rows of `pool`, `part`, `share`."""
    import altair as alt

    placed = [{**row, "place": names.index(row["part"])} for row in rows]
    pools = list(dict.fromkeys(row["pool"] for row in rows))
    return (
        alt.Chart(data(placed))
        .mark_bar(**BELOW_NAME)
        .encode(
            x=alt.X(
                "share:Q", title="share of the time", axis=alt.Axis(format="%"), stack="normalize"
            ),
            y=alt.Y("pool:N", title=None, sort=pools, axis=above()),
            color=alt.Color("part:N", title=None, scale=colours(names)),
            order="place:Q",
            tooltip=["part:N", alt.Tooltip("share:Q", format=".1%")],
        )
        .properties(width="container", height=38 * len(pools))
    )


def price_chart(fleets: Sequence[Mapping[str, Any]]) -> Any:
    """USD per hour of the plan's fleet and of the others, by device type."""
    import altair as alt

    rows = []
    for i, fleet in enumerate(fleets):
        rows += [
            {
                "fleet": f"{i}. {fleet['kind']}: {fleet_hosts_text(fleet)}",
                "device": host["device"],
                "usd": host["hosts"] * host["devices_per_host"] * host["usd_per_device_hour"],
            }
            for host in fleet["hosts"]
        ]
    names = list(dict.fromkeys(row["fleet"] for row in rows))
    devices = list(dict.fromkeys(row["device"] for row in rows))
    return (
        alt.Chart(data(rows))
        .mark_bar(**BELOW_NAME)
        .encode(
            x=alt.X("usd:Q", title="USD per hour", stack="zero"),
            y=alt.Y("fleet:N", sort=names, title=None, axis=above()),
            color=alt.Color("device:N", title=None, scale=colours(devices)),
            tooltip=["device:N", alt.Tooltip("usd:Q", title="USD per hour", format=",.2f")],
        )
        .properties(width="container", height=38 * len(names))
    )
