"""Evaluate the whole space."""

from __future__ import annotations

from planner.search.result import Progress, SearchResult
from planner.sweep import Space


def exhaustive(space: Space, progress: Progress) -> SearchResult:
    """Every configuration of every role on every device."""
    work = [(role, *pair) for pair in space.pairs() for role in space.roles]
    candidates, funnels = [], []
    for done, (role, offer, precision) in enumerate(work):
        progress(f"{role} on {offer.device.name}", 0.9 * done / len(work))
        found, funnel = space.sweep(role, offer, precision)
        candidates.append(found)
        funnels.append(funnel)
    return SearchResult(
        candidates=candidates,
        funnels=funnels,
        evaluated=sum(funnel.count("evaluated") for funnel in funnels),
        proven=True,
        statement="optimal over the whole space under the model: every configuration was "
        "evaluated or excluded by a constraint",
    )
