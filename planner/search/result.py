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
        least_unseen_usd_per_hour: at a demand, lower bound on the price of any fleet with a
            layout that was not evaluated; None: all were.
        most_unseen_qps: upper bound on the demand that such a fleet serves; None likewise.
        bounded: the two say all about what was not evaluated.
    """

    candidates: list[Candidates]
    funnels: list[Funnel]
    evaluated: int
    proven: bool
    statement: str
    least_unseen_usd_per_hour: Callable[[float], float] | None = None
    most_unseen_qps: Callable[[], float] | None = None
    bounded: bool = True

    def gap(self, qps: float, usd_per_hour: float, *, most: bool) -> float | None:
        """By how much QPS per dollar may at most rise above the best fleet found; 0: optimal.

        None where nothing bounds it.

        Args:
            qps: what the fleet serves, for `usd_per_hour`.
            most: as much as possible was asked for, not the least price.
        """
        if not self.bounded:
            return None
        if most:
            return max(self.most_unseen_qps() / qps - 1.0, 0.0) if self.most_unseen_qps else 0.0
        if self.least_unseen_usd_per_hour is None:
            return 0.0
        least = self.least_unseen_usd_per_hour(qps)
        return max(usd_per_hour / least - 1.0, 0.0) if least > 0 else float("inf")


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
        bounded=False,
        statement=f"{results[0].statement}; with an encoder pool, the other pools are the "
        "cheapest by themselves, which need not be the cheapest together with it",
    )
