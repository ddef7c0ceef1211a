"""The funnel in one unit: it only narrows, and ends with the candidates."""

from __future__ import annotations

from collections.abc import Callable

from perfmodel.database import PerfStore
from planner.evaluated import evaluate
from planner.funnel import funnel
from planner.query import Query


def test_it_narrows_from_the_raw_space_to_the_candidates(make_query: Callable[..., Query]) -> None:
    found = evaluate(make_query(devices=["h100_sxm", "l40s"]), store=PerfStore())
    stages = funnel(found)
    counts = [count for _, count in stages]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == sum(len(one) for one in found.candidates)
    by_name = dict(stages)
    assert next(iter(by_name)) == "raw"
    assert by_name["evaluated"] == sum(r.evaluated for r in found.results.values())
    # Layouts count as what is evaluated of them.
    assert by_name["SLO lower bound"] == by_name["evaluated"]
    # Degrees of 1, 2 or 4 in seven places, on two devices.
    columns = {
        role: len(space.axes(role)) for space in found.spaces.values() for role in space.roles
    }
    assert by_name["raw"] == 2 * 3**7 * sum(columns.values())
