"""The search funnel of a whole query, in one unit: configurations of one replica in one phase."""

from __future__ import annotations

from planner.evaluated import Evaluated
from spaces.variables import RawSpace


def funnel(evaluated: Evaluated) -> list[tuple[str, int]]:
    """What each constraint left of all roles, devices and precisions together, the first `raw`.

    Until they are evaluated, only layouts are counted (`planner.candidates.Funnel`): each stands
    for as many configurations as its role has batches and chunks. A sample's evaluations are
    fewer.
    """
    layouts = RawSpace(evaluated.query.search.max_replica_devices).layouts
    totals: dict[str, int] = {}
    for result in evaluated.results.values():
        for one in result.funnels:
            columns, each = one.count("raw") // layouts, True
            for name, count in one.stages:
                each = each and name != "evaluated"
                whole = count * columns if each and name != "raw" else count
                totals[name] = totals.get(name, 0) + whole
    return list(totals.items())
