"""Sample layouts by Optuna's tree-structured Parzen estimator (TPE).

Every role, device and precision has a study of its own. A trial fixes a layout; the estimator
sweeps batch and chunk inside it, one batch per octave. Each degree is drawn from the values
that some feasible layout still has, given the degrees already drawn, so that no trial is
infeasible by structure. What the trials found best is improved layout by layout, and then
batch by batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from perfmodel.layout import DEGREES, Layouts
from perfmodel.precision import Precision
from planner.candidates import Axes, Candidates, Funnel, Role
from planner.pairing import least_usd_per_hour
from planner.problem import Offer, Problem
from planner.search.result import Progress, SearchResult
from planner.sizing import UNREACHABLE, least_replicas, replicas_for_ttft
from planner.sweep import Space

if TYPE_CHECKING:
    import optuna

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
NOTHING = 1e12
"""Value of a trial that found nothing feasible."""

STARTUP_SHARE = 0.3
"""Share of the sampled layouts that start the search, spread evenly over the feasible ones."""

MOST_SAMPLED = 400
"""Trials of a sampler, at most: its own work grows with their square."""

SAMPLED_SHARE, NEARBY_SHARE = 0.5, 0.25
"""Shares of the evaluations that the sampler, and the neighbours of the best layouts, may
take; the rest tries the batches between octaves."""

BEST = 8
"""Layouts whose neighbours are tried at a time."""


def tree_parzen(seed: int, startup: int) -> optuna.samplers.BaseSampler:
    """The sampler of a study whose first `startup` trials are given."""
    import optuna

    return optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=startup)


def tpe(
    space: Space,
    progress: Progress,
    *,
    seed: int = 0,
    trials: int = 400,
    sampler: Callable[[int, int], optuna.samplers.BaseSampler] = tree_parzen,
) -> SearchResult:
    """What as many evaluations as `trials` layouts with all their batches have per role find.

    Args:
        sampler: of a study, by its seed and the number of trials that start it.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    candidates: list[Candidates] = []
    funnels: list[Funnel] = []
    evaluated = total = 0
    for position, role in enumerate(space.roles):
        searches = []
        for offer, precision in space.pairs():
            funnel = Funnel(role, offer.device.name, str(precision))
            layouts = space.feasible_layouts(role, offer, precision, funnel)
            funnels.append(funnel)
            if len(layouts):
                searches.append(LayoutSearch(space, role, offer, precision, layouts, funnel))
        # Every device may be the best partner of another role's: none is searched less.
        budget = trials * len(space.axes(role))
        for number, search in enumerate(searches):
            share = (position + number / len(searches)) / len(space.roles)
            progress(f"TPE: {role} on {search.offer.device.name}", 0.9 * share)
            left = budget - evaluated_by(searches)
            search.run(left // (len(searches) - number), partial(sampler, seed))
            search.funnel.add("evaluated", search.evaluated)
            search.funnel.add("feasible", sum(len(c) for c in search.found))
            candidates += [Candidates.concatenate(search.found)] if search.found else []
        evaluated += evaluated_by(searches)
        total += sum(len(search.layouts) for search in searches)
    return SearchResult(
        candidates=candidates,
        funnels=funnels,
        evaluated=evaluated,
        proven=False,
        statement=f"best of {evaluated:,} sampled configurations (of {total:,} feasible layouts "
        "with their batches); not proven optimal: run --search exhaustive for a proof",
    )


@dataclass
class LayoutSearch:
    """What is known of the layouts of one role on one device in one precision.

    Attributes:
        prices: of the layouts looked at by row, USD per hour.
        found: what was found feasible.
        evaluated: configurations (a layout with a column of the axes) estimated.
    """

    space: Space
    role: Role
    offer: Offer
    precision: Precision
    layouts: Layouts
    funnel: Funnel
    prices: dict[int, float] = field(default_factory=dict)
    found: list[Candidates] = field(default_factory=list)
    evaluated: int = 0

    def __post_init__(self) -> None:
        self._axes: Axes = self.space.axes(self.role)
        self._octaves = np.flatnonzero(_is_octave(self._axes.batch))
        self._rows = self.layouts.rows()
        self._logs = np.log2(self._rows)
        self._column: dict[int, int] = {}

    def run(self, budget: int, sampler: Callable[[int], optuna.samplers.BaseSampler]) -> None:
        """Spend so many evaluations."""
        self._sample(int(SAMPLED_SHARE * budget), sampler)
        self._try_neighbours(int((SAMPLED_SHARE + NEARBY_SHARE) * budget))
        self._refine(budget)

    def _look(self, row: int) -> float:
        """Estimate a layout at one batch per octave: the price of its pool."""
        self._evaluate(row, self._octaves)
        return self.prices[row]

    def _evaluate(self, row: int, columns: IntArray) -> None:
        found = self.space.evaluate(
            self.role,
            self.offer,
            self.precision,
            self.layouts,
            rows=np.array([row]),
            columns=columns,
        )
        self.evaluated += len(columns)
        self.found.append(found)
        price, column = _price(self.space.problem, found)
        if price <= self.prices.get(row, np.inf):
            self.prices[row], self._column[row] = price, column

    def _sample(self, budget: int, sampler: Callable[[int], optuna.samplers.BaseSampler]) -> None:
        """Look at the layouts that the sampler proposes."""
        import optuna

        trials = min(max(budget // len(self._octaves), 1), MOST_SAMPLED)
        startup = max(int(STARTUP_SHARE * trials), 1)
        study = optuna.create_study(direction="minimize", sampler=sampler(startup))
        for row in np.unique(np.linspace(0, len(self.layouts) - 1, startup).astype(int)):
            study.enqueue_trial(self._fractions(int(row)))
        for _ in range(trials):
            trial = study.ask()
            row = self._draw(trial)
            if row in self.prices:
                # What is drawn again is promising: its nearest neighbour is tried in its stead.
                study.tell(trial, self.prices[row])
                near = self._nearest_unseen(row)
                if near is None:
                    return
                study.enqueue_trial(self._fractions(near))
                trial = study.ask()
                row = self._draw(trial)
            study.tell(trial, self._look(row))

    def _try_neighbours(self, budget: int) -> None:
        """Look at the layouts nearest to the best ones, again and again."""
        while True:
            for best in self._best(BEST):
                near = self._nearest_unseen(best)
                if near is None or self.evaluated + len(self._octaves) > budget:
                    return
                self._look(near)

    def _refine(self, budget: int) -> None:
        """Try the batches between octaves beside the best one, cheapest layouts first."""
        batch = self._axes.batch
        for row in self._best(len(self.prices)):
            at = self._column[row]
            beside = (batch > batch[at] / 2) & (batch < 2 * batch[at]) & ~_is_octave(batch)
            columns = np.flatnonzero(beside & (self._axes.drafts == self._axes.drafts[at]))
            if self.prices[row] >= NOTHING or self.evaluated + len(columns) > budget:
                return
            if len(columns):
                self._evaluate(row, columns)

    def _best(self, count: int) -> list[int]:
        """The cheapest layouts looked at."""
        return sorted(self.prices, key=lambda row: self.prices[row])[:count]

    def _nearest_unseen(self, row: int) -> int | None:
        """The layout nearest to a given one, by doublings of degrees, that was not looked at."""
        distance = np.abs(self._logs - self._logs[row]).sum(axis=1)
        distance[list(self.prices)] = np.inf
        nearest = int(distance.argmin())
        return nearest if np.isfinite(distance[nearest]) else None

    def _draw(self, trial: optuna.Trial) -> int:
        """One feasible layout: every degree from the values that remain possible."""
        index = np.arange(len(self._rows))
        for column, name in enumerate(DEGREES):
            values = np.unique(self._rows[index, column])
            fraction = trial.suggest_float(name, 0.0, 1.0)
            value = values[min(int(fraction * len(values)), len(values) - 1)]
            index = index[self._rows[index, column] == value]
        return int(index[0])

    def _fractions(self, row: int) -> dict[str, float]:
        """The parameters from which `_draw` draws a given layout."""
        index = np.arange(len(self._rows))
        parameters = {}
        for column, name in enumerate(DEGREES):
            values = np.unique(self._rows[index, column])
            position = int(np.searchsorted(values, self._rows[row, column]))
            parameters[name] = (position + 0.5) / len(values)
            index = index[self._rows[index, column] == self._rows[row, column]]
        return parameters


def evaluated_by(searches: list[LayoutSearch]) -> int:
    """Configurations that they estimated, together."""
    return sum(search.evaluated for search in searches)


def _is_octave(batch: IntArray) -> NDArray[np.bool_]:
    """Which batches are powers of two."""
    return np.asarray((batch & (batch - 1)) == 0)


def _price(problem: Problem, found: Candidates) -> tuple[float, int]:
    """USD per hour of a layout's best pool at the demand, and the column of its axes.

    Whole hosts of the replicas that the TTFT target and capacity ask for (of a decode pool
    capacity alone: its part in a first token depends on the prefill pool); among equals,
    the least per request. `NOTHING` where no pool serves the demand.
    """
    if len(found) == 0:
        return NOTHING, 0
    per_request = found.world * found.offer.usd_per_device_hour / found.qps
    if problem.qps is None:
        best = int(per_request.argmin())
        return float(per_request[best]), int(found.column[best])
    replicas = least_replicas(problem, found, problem.qps)
    if found.role != "decode":
        handling = problem.handling_s(found.ttit_s, disaggregated=found.role == "prefill")
        replicas = replicas_for_ttft(problem, found, problem.qps, handling)
    reached = replicas != UNREACHABLE
    devices = np.where(reached, replicas, 0) * found.world
    price = np.where(reached, least_usd_per_hour(found.offer, devices), np.inf)
    price = price + 1e-3 * problem.qps * per_request
    best = int(price.argmin())
    return min(float(price[best]), NOTHING), int(found.column[best])
