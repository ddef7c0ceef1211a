"""Figure of simulated against measured times, on log axes, with the 5 % band."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

BAND = 0.05
"""The error that the reference system claims, drawn for comparison."""


def chart(points: Sequence[dict[str, Any]], metric: str, color: str, shape: str) -> Any:
    """One panel.

    Args:
        points: `measured` and `simulated` in ms, and what colour and shape tell apart.
        metric: what was measured, for the axes' titles.
        color, shape: names of the points' labels.
    """
    import altair as alt

    low = min(float(point["measured"]) for point in points) / 1.5
    high = max(float(point["measured"]) for point in points) * 1.5
    scale = alt.Scale(type="log", domain=[low, high])
    steps = (low * (high / low) ** (i / 40) for i in range(41))
    ends = [{"x": x, "low": x * (1 - BAND), "high": x * (1 + BAND)} for x in steps]
    band = (
        alt.Chart(alt.Data(values=ends))
        .mark_area(opacity=0.35, color="grey")
        .encode(
            x=alt.X("x:Q", scale=scale),
            y=alt.Y("low:Q", scale=scale),
            y2="high:Q",
        )
    )
    marks = (
        alt.Chart(alt.Data(values=list(points)))
        .mark_point(size=9 if len(points) > 100 else 30, opacity=0.6, clip=True)
        .encode(
            x=alt.X("measured:Q", scale=scale, title=f"measured {metric}, ms"),
            y=alt.Y("simulated:Q", scale=scale, title=f"simulated {metric}, ms"),
            color=alt.Color(f"{color}:N"),
            shape=alt.Shape(f"{shape}:N"),
        )
    )
    return (band + marks).properties(width=380, height=380)
