"""Figures of what-ifs; each is an Altair chart that `planner.figures` writes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from perfmodel.errors import InputError
from perfmodel.traffic import Lengths
from planner.figures import COLOURS, GREY, colours, data, titled
from planner.query_workload import Target
from planner.whatif.axes import Axis, Cell
from planner.whatif.fields import value_of
from planner.whatif.grid import Grid
from planner.whatif.market import fleet_name
from planner.whatif.pairing import Costs, Pairing, bands, ratios
from planner.whatif.price import PriceCurve
from planner.whatif.sensitivity import Tornado

BAND_COLOURS = ("#deebf7", "#9ecae1", "#4292c6", "#08519c")
"""Of savings between neighbouring contours, the smallest first."""

CONTOURS = (0.0, 0.05, 0.15, 0.25)
"""Savings between which the plane of two prices is coloured."""


SHORT_KINDS = {"continuous": "cont.", "disaggregated": "disagg.", "heterogeneous": "het."}
"""Kinds of fleet, as labels have them."""


def grid_chart(grid: Grid) -> Any:
    """Cost against the first axis, coloured by the second, a panel for each value of the third.

    Where every cell asks for as much as possible, requests/s instead of cost. Labels say what the
    fleet is wherever it changes along a line; a cross at the foot is a cell without one, and says
    why when pointed at.

    Raises:
        InputError: more than three axes have several values.
    """
    import altair as alt

    axes = [axis for axis in grid.axes if len(axis.settings) > 1] or list(grid.axes[:1])
    if len(axes) > 3:
        names = ", ".join(axis.name for axis in axes)
        raise InputError(f"--figure: expected at most three axes with several values, got {names}")
    first, others = axes[0], axes[1:]
    numeric, unit = _numbers(first, [a.cell for a in grid.answers])
    most = grid.demands == {"max"}
    rows: list[dict[str, Any]] = []
    before: dict[tuple[str, ...], str] = {}
    shown: dict[tuple[str, ...], int] = {}
    for answer in grid.answers:
        labels = answer.cell.labels
        line = tuple(labels[axis.name] for axis in others)
        row = answer.row()
        name = "" if answer.plan is None else _shortened(row["fleet"])
        # Labels of a line lie above and below it in turn, so that neighbours can be read.
        place = ("above", "below")[shown.get(line, 0) % 2]
        if new := bool(name) and before.get(line) != name:
            shown[line] = shown.get(line, 0) + 1
        before[line] = name
        rows.append(
            {
                "x": numeric[labels[first.name]] if numeric else labels[first.name],
                "usd": row["qps" if most else "usd_per_hour"],
                "fleet": row["fleet"] or f"none: {answer.error}",
                "none": answer.plan is None,
                "above": name if new and place == "above" else "",
                "below": name if new and place == "below" else "",
                **{axis.name.replace(".", "_"): labels[axis.name] for axis in others},
            }
        )
    missing = sum(answer.plan is None for answer in grid.answers)
    if missing == len(grid.answers):
        raise InputError("--figure: no cell has a fleet to draw")
    order = [setting.label for setting in first.settings]
    title = f"{first.name}{f' ({unit})' if unit else ''}"
    if numeric:
        x = alt.X("x:Q", title=title, scale=alt.Scale(zero=False, padding=20))
    else:
        x = alt.X("x:N", title=title, sort=order)
    shown_as = "requests/s" if most else "USD per hour"
    y = alt.Y("usd:Q", title=shown_as, scale=alt.Scale(zero=False, padding=20))
    tips = [alt.Tooltip("usd:Q", title=shown_as), alt.Tooltip("fleet:N")]
    base = alt.Chart(data(rows)).encode(x=x, y=y, tooltip=tips)
    if others:
        name = others[0].name.replace(".", "_")
        values = [setting.label for setting in others[0].settings]
        # Labels may pass the right edge, where a legend would lie.
        above = alt.Legend(orient="top")
        shade = alt.Color(f"{name}:N", title=others[0].name, scale=colours(values), sort=values)
        base = base.encode(color=shade.legend(above))
    else:
        base = base.encode(color=alt.value(COLOURS[0]))
    layers = [base.mark_point(filled=True, size=60)]
    if numeric:
        layers.insert(0, base.mark_line())
    if missing:
        crosses = base.transform_filter("datum.none").mark_point(
            shape="cross", angle=45, size=60, filled=True
        )
        layers.append(crosses.encode(y=alt.value(294), tooltip=alt.Tooltip("fleet:N")))
    for place, dy in (("above", -9), ("below", 13)):
        text = base.mark_text(align="left", dx=6, dy=dy, fontSize=10)
        layers.append(text.encode(text=f"{place}:N", color=alt.value("currentColor")))
    chart = alt.layer(*layers).properties(width=460, height=300)
    if len(others) > 1:
        third = others[1].name.replace(".", "_")
        values = [setting.label for setting in others[1].settings]
        chart = chart.facet(alt.Facet(f"{third}:N", title=others[1].name, sort=values), columns=2)
    note = [f"{missing} of {len(grid.answers)} cells have no fleet (crosses)"] if missing else []
    return titled(chart, f"Cheapest fleet against {first.name}", note)


def _shortened(fleet: str) -> str:
    for kind, short in SHORT_KINDS.items():
        fleet = fleet.replace(kind, short)
    return fleet


def _numbers(axis: Axis, cells: Sequence[Cell]) -> tuple[dict[str, float], str]:
    """The axis's values as numbers by label, and their unit; none if they are not all numbers."""
    found: dict[str, float] = {}
    unit = ""
    fields = {field for setting in axis.settings for field, _ in setting.changes}
    if len(fields) != 1:
        return {}, ""
    (field,) = fields
    for cell in cells:
        if isinstance(cell.query, InputError):
            continue
        value = value_of(cell.query, field)
        if isinstance(value, Target):
            value, unit = value.seconds * 1e3, "ms"
        elif isinstance(value, Lengths):
            value, unit = value.mean, "tokens, mean"
        if isinstance(value, bool) or not isinstance(value, int | float):
            return {}, ""
        found[cell.labels[axis.name]] = float(value)
    if field.endswith("usd_per_device_hour"):
        unit = "USD per device-hour"
    return found, unit


def price_chart(curve: PriceCurve) -> Any:
    """The least price of a fleet against one device's, and the fleets in between."""
    import altair as alt

    # What lies far above today's price and the last change is a straight line.
    most = 2.0 * max(curve.today_usd, *(segment.low for segment in curve.segments))
    pieces = [(s, min(s.high, most)) for s in curve.segments]
    rows = [
        {"price": price, "usd": s.line.at(price), "fleet": fleet_name(s.line.choice), "piece": i}
        for i, (s, high) in enumerate(pieces)
        for price in (s.low, high)
    ]
    names = list(dict.fromkeys(fleet_name(s.line.choice) for s in curve.segments))
    base = alt.Chart(data(rows)).encode(
        x=alt.X("price:Q", title=f"price of {curve.device} (USD per device-hour)"),
        y=alt.Y("usd:Q", title="cheapest fleet (USD per hour)"),
        detail="piece:N",
        tooltip=["price:Q", "usd:Q", "fleet:N"],
    )
    lines = base.mark_line(strokeWidth=3).encode(
        color=alt.Color(
            "fleet:N",
            title="fleet",
            scale=colours(names),
            sort=names,
            legend=alt.Legend(labelLimit=320),
        )
    )
    today = {"price": curve.today_usd, "usd": curve.usd_per_hour(curve.today_usd), "what": "today"}
    layers = [lines, *_marked(today, "price", "usd")]
    enters = curve.enters_below
    subtitle = []
    if enters is not None:
        rule = alt.Chart(data([{"price": enters}])).mark_rule(strokeDash=[4, 4], color="#555555")
        layers.append(rule.encode(x="price:Q"))
        subtitle.append(f"dashed: {curve.device} is in the best fleet below ${enters:,.4g}")
    chart = alt.layer(*layers).properties(width=460, height=300)
    return titled(chart, f"What {curve.device} must cost", subtitle)


def _marked(point: dict[str, Any], x: str, y: str) -> list[Any]:
    """A point with its name."""
    import altair as alt

    base = alt.Chart(data([point])).encode(x=f"{x}:Q", y=f"{y}:Q")
    return [
        base.mark_point(filled=True, color="currentColor", size=80),
        base.mark_text(align="left", dx=8, dy=12, fontSize=11).encode(text="what:N"),
    ]


def pairing_chart(found: Pairing) -> Any:
    """Where in the plane of both prices pairing saves how much, and the saving by their ratio."""
    import altair as alt

    panels = [
        _plane(found, found.hosts, f"{found.qps:g} requests/s, whole hosts"),
        _plane(found, found.scale, "at scale"),
    ]
    rows = [
        {"ratio": float(r), "saving": float(s), "basis": name}
        for name, costs in (("whole hosts", found.hosts), ("at scale", found.scale))
        for r, s in zip(ratios(), costs.saving(ratios()), strict=True)
        if np.isfinite(s) and s > -0.3
    ]
    names = ["whole hosts", "at scale"]
    title = f"price of {found.first} over price of {found.second}"
    curves = (
        alt.Chart(data(rows))
        .mark_line(clip=True)
        .encode(
            x=alt.X("ratio:Q", title=title, scale=alt.Scale(type="log")),
            y=alt.Y("saving:Q", title="saved by pairing", axis=alt.Axis(format="%")),
            color=alt.Color("basis:N", title="", scale=colours(names), sort=names),
        )
    )
    zero = alt.Chart(data([{"y": 0.0}])).mark_rule(color="#555555").encode(y="y:Q")
    today = alt.Chart(data([{"x": found.today_ratio}])).mark_rule(strokeDash=[4, 4]).encode(x="x:Q")
    below = alt.layer(curves, zero, today).properties(width=620, height=180)
    chart = alt.vconcat(alt.hconcat(*panels), below).resolve_scale(color="independent")
    return titled(
        chart,
        f"Fleets of {found.first} and {found.second} against the best of one of them",
        [
            "coloured: what pairing saves; contours are rays, as only the ratio of prices matters; "
            "dot and dashed line: today's prices"
        ],
    )


def _plane(found: Pairing, costs: Costs, title: str) -> Any:
    """Bands of savings in the plane of both prices."""
    import altair as alt

    width, height = (2.0 * price for price in found.today)
    names = [f"{a:.0%} to {b:.0%}" for a, b in pairwise(CONTOURS)] + [f"above {CONTOURS[-1]:.0%}"]
    rows = []
    for piece, (low, high, least, _) in enumerate(bands(costs, CONTOURS)):
        band = names[CONTOURS.index(least)]
        # Between the rays first = low * second and first = high * second, within the panel.
        corners = {0.0, height, *(min(width / r, height) for r in (low, high) if r > 0)}
        for price in sorted(corners):
            ends = {"x": min(low * price, width), "x2": min(high * price, width)}
            if np.isinf(high):  # no end, also at a price of nothing
                ends["x2"] = width
            rows.append({"y": price, **ends, "band": band, "piece": piece})
    frame = alt.Chart(data([{"x": 0.0, "x2": width, "y": 0.0, "y2": height}])).mark_rect(
        color=GREY, opacity=0.25
    )
    x = alt.X(
        "x:Q", title=f"{found.first} (USD per device-hour)", scale=alt.Scale(domain=[0, width])
    )
    y = alt.Y(
        "y:Q", title=f"{found.second} (USD per device-hour)", scale=alt.Scale(domain=[0, height])
    )
    layers = [frame.encode(x=x, x2="x2:Q", y=y, y2="y2:Q")]
    if rows:
        scale = alt.Scale(domain=names, range=list(BAND_COLOURS))
        layers.append(
            alt.Chart(data(rows))
            .mark_area(orient="horizontal", clip=True)
            .encode(
                x=x,
                x2="x2:Q",
                y=y,
                detail="piece:N",
                color=alt.Color("band:N", title="saves", scale=scale, sort=names),
            )
        )
    point = {"x": found.today[0], "y": found.today[1], "what": "today"}
    layers += _marked(point, "x", "y")
    return alt.layer(*layers).properties(width=280, height=260, title=title)


def tornado_chart(found: Tornado) -> Any:
    """The answer's price in every case; a dark end: other devices than today's are cheaper."""
    import altair as alt

    today = found.today.usd_per_hour
    rows: list[dict[str, Any]] = []
    for swing in found.swings:
        for case in swing.cases:
            usd = case.usd_per_hour
            if usd is None:
                continue
            state = "other devices are cheaper" if case.changes else "the same devices"
            rows.append(
                {"what": swing.what, "from": today, "usd": usd, "state": state}
                | {"label": case.label, "side": "right" if usd >= today else "left"}
            )
    order = [swing.what for swing in found.swings]
    states = ["the same devices", "other devices are cheaper"]
    base = alt.Chart(data(rows)).encode(y=alt.Y("what:N", sort=order, title=None))
    x = alt.X(
        "usd:Q", title="cheapest fleet (USD per hour)", scale=alt.Scale(zero=False, padding=40)
    )
    bars = base.mark_bar(height=13).encode(
        x=x,
        x2="from:Q",
        color=alt.Color("state:N", title="", scale=colours(states), sort=states),
    )
    sides: tuple[tuple[str, Literal["left", "right"], int], ...]
    sides = (("right", "left", 4), ("left", "right", -4))
    moved = [
        base.transform_filter(f"datum.side == '{side}' && datum.usd != datum.from")
        .mark_text(align=align, dx=dx, fontSize=10)
        .encode(x=x, text="label:N")
        for side, align, dx in sides
    ]
    rule = alt.Chart(data([{"usd": today}])).mark_rule(color="currentColor").encode(x="usd:Q")
    chart = alt.layer(bars, *moved, rule).properties(width=420, height=20 * len(order))
    devices = " + ".join(found.devices)
    lost = [f"{s.what} {c.label}" for s, c in found.cases if c.best is None]
    note = [f"no fleet at all: {', '.join(lost)}"] if lost else []
    return titled(chart, f"What would change the choice of {devices}", note)
