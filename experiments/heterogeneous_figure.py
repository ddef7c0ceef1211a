"""The figure of `insight3_heterogeneous.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from heterogeneous_cases import Case
from heterogeneous_savings import RATIOS, SAVED, Curve

from planner import figures

LOWEST = -0.1
"""Savings below are not drawn."""


def panel_of(case: Case) -> str:
    """The figure's panel of a case."""
    return f"real devices, TTIT {case.ttit_ms:g} ms"


def chart(
    lines: Sequence[tuple[str, Curve]],
    points: Sequence[Mapping[str, Any]],
    scarce: Sequence[Mapping[str, Any]],
) -> Any:
    """Saving against the price ratio, and against how much of the cheapest device is at hand."""
    import altair as alt

    rows: list[dict[str, Any]] = [
        {"panel": panel, "pair": f"{c.first} and {c.second}", "ratio": float(r), "saving": float(s)}
        for panel, c in lines
        for r, s in zip(RATIOS, c.saving, strict=True)
        if s >= LOWEST
    ]
    panels = list(dict.fromkeys(panel for panel, _ in lines))
    x = alt.X(
        "ratio:Q",
        scale=alt.Scale(type="log", domain=[0.25, 4], nice=False),
        title="price of the second device / price of the first",
        axis=alt.Axis(values=[0.25, 0.5, 1, 2, 4], format="~g"),
    )
    drawn: list[Any] = []
    for panel in panels:
        own = [row for row in rows if row["panel"] == panel]
        names = list(dict.fromkeys(row["pair"] for row in own))
        colour = alt.Color("pair:N", scale=figures.colours(names), title=None)
        y = alt.Y(
            "saving:Q",
            scale=alt.Scale(domain=[LOWEST, 0.4]),
            axis=alt.Axis(format="%"),
            title="a pair saves over the better one alone",
        )
        band = alt.Chart(figures.data([{"low": SAVED[0], "high": SAVED[1]}]))
        layers = [
            band.mark_rect(color=figures.GREY, opacity=0.35).encode(y="low:Q", y2="high:Q"),
            alt.Chart(figures.data(own)).mark_line(clip=True).encode(x=x, y=y, color=colour),
        ]
        dots = [point for point in points if point["panel"] == panel]
        if dots:
            layers.append(
                alt.Chart(figures.data(dots))
                .mark_point(filled=True, size=45, clip=True)
                .encode(x=x, y=y, color=colour)
            )
        drawn.append(alt.layer(*layers).properties(width=330, height=260, title=panel))
    kinds = ["one type, USD/h", "best pair", "any mixture"]
    lines_of = {"one type, USD/h": "one type", "best pair": "a pair", "any mixture": "any mixture"}
    stock = [
        {"at hand": row["at hand"], "fleet": lines_of[kind], "usd": row[kind]}
        for row in scarce
        for kind in kinds
    ]
    supply = (
        alt.Chart(figures.data(stock))
        .mark_line(interpolate="step-after")
        .encode(
            x=alt.X(
                "at hand:Q",
                axis=alt.Axis(format="%"),
                title="MI300X at hand, of those that would serve all",
            ),
            y=alt.Y("usd:Q", scale=alt.Scale(zero=False), title="USD per hour at 100 QPS"),
            color=alt.Color("fleet:N", scale=figures.colours(list(lines_of.values())), title=None),
        )
        .properties(width=330, height=260, title="MI300X in short supply (Oracle's list)")
    )
    drawn.append(supply)
    rows_of_two = [
        alt.hconcat(*drawn[i : i + 2]).resolve_scale(color="independent")
        for i in range(0, len(drawn), 2)
    ]
    whole = alt.vconcat(*rows_of_two).resolve_scale(color="independent")
    return figures.titled(
        whole,
        "What two device types save over one (405B)",
        ["Grey: the claimed 15 to 25 %. Dots: on-demand price lists of autumn 2026."],
    )
