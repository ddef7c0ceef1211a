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
        least_unseen_usd_per_hour: at a demand, lower bound on the price of any fleet with a
            layout that was not evaluated; None: all were.
        most_unseen_qps: upper bound on the demand that such a fleet serves; None likewise.
    """

    candidates: list[Candidates]
    funnels: list[Funnel]
    evaluated: int
    proven: bool
    statement: str
    least_unseen_usd_per_hour: Callable[[float], float] | None = None
    most_unseen_qps: Callable[[], float] | None = None

    def gap(self, qps: float, usd_per_hour: float, *, most: bool) -> float:
        """By how much QPS per dollar may at most rise above the best fleet found; 0: optimal.

        Args:
            qps: what the fleet serves, for `usd_per_hour`.
            most: as much as possible was asked for, not the least price.
        """
        if most:
            return max(self.most_unseen_qps() / qps - 1.0, 0.0) if self.most_unseen_qps else 0.0
        if self.least_unseen_usd_per_hour is None:
            return 0.0
        least = self.least_unseen_usd_per_hour(qps)
        return max(usd_per_hour / least - 1.0, 0.0) if least > 0 else float("inf")
