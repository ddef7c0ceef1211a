"""What a search strategy returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from planner.candidates import Candidates, Funnel

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class SearchResult:
    """Feasible candidates of every role, device and precision, and how they were found.

    Attributes:
        evaluated: configurations estimated.
        proven: every configuration of the space was evaluated or excluded by a constraint.
    """

    candidates: list[Candidates]
    funnels: list[Funnel]
    evaluated: int
    proven: bool
    statement: str


def combined(results: Sequence[SearchResult], *, encoder_apart: bool) -> SearchResult:
    """Searches of the space with and without the vision encoder's work, as one.

    Args:
        encoder_apart: fleets with an encoder pool are among the answers. Their other pools are
            the cheapest by themselves, which proves nothing of the whole.
    """
    if not encoder_apart:
        return results[0]
    return SearchResult(
        candidates=[pool for result in results for pool in result.candidates],
        funnels=[funnel for result in results for funnel in result.funnels],
        evaluated=sum(result.evaluated for result in results),
        proven=False,
        statement=f"{results[0].statement}; with an encoder pool, the other pools are the "
        "cheapest by themselves, which need not be the cheapest together with it",
    )
