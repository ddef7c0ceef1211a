"""What a search strategy returns."""

from __future__ import annotations

from collections.abc import Callable
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
