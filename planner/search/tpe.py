"""Sample layouts by Optuna's tree-structured Parzen estimator (TPE).

A trial fixes one role's layout, device and precision; the estimator sweeps batch and chunk
inside it. Each degree is drawn from the values that some feasible layout still has, given
the degrees already drawn, so that no trial is infeasible by structure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from perfmodel.layout import DEGREES, Layouts
from perfmodel.precision import Precision
from planner.candidates import Candidates, Funnel
from planner.pairing import least_usd_per_hour
from planner.problem import Offer, Problem
from planner.search.result import Progress, SearchResult
from planner.sizing import UNREACHABLE, least_replicas, replicas_for_ttft
from planner.sweep import Space

if TYPE_CHECKING:
    import optuna

Choices = list[tuple[Offer, Precision, Layouts, Funnel]]

NOTHING = 1e12
"""Value of a trial that found nothing feasible."""

STARTUP = 16
"""Trials per role that start the search, at least: spread evenly over the feasible layouts."""

STARTUP_SHARE = 0.3
"""Share of the trials that do."""


def tpe(space: Space, progress: Progress, *, seed: int = 0, trials: int = 400) -> SearchResult:
    """The best `trials` layouts per role that TPE finds, with all their batches."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    candidates: list[Candidates] = []
    funnels: list[Funnel] = []
    evaluated = 0
    total = 0
    for position, role in enumerate(space.roles):
        choices: Choices = []
        for offer, precision in space.pairs():
            funnel = Funnel(role, offer.device.name, str(precision))
            layouts = space.feasible_layouts(role, offer, precision, funnel)
            funnels.append(funnel)
            if len(layouts):
                choices.append((offer, precision, layouts, funnel))
        if not choices:
            continue
        total += sum(len(c[2]) for c in choices)
        found: dict[tuple[int, int], Candidates] = {}
        prices: dict[tuple[int, int], float] = {}
        logs = [np.log2(layouts.rows()) for _, _, layouts, _ in choices]
        startup = max(STARTUP, int(STARTUP_SHARE * trials))
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=startup)
        study = optuna.create_study(direction="minimize", sampler=sampler)
        for which, row in _spread(choices, startup):
            study.enqueue_trial(_fractions(choices, which, row))
        for number in range(trials):
            progress(f"TPE: {role}", 0.9 * (position + number / trials) / len(space.roles))
            trial = study.ask()
            which, row = _draw(trial, choices)
            if (which, row) in found:
                # What is drawn again is promising: its nearest neighbour is tried in its stead.
                study.tell(trial, prices[which, row])
                near = _unseen(logs[which], row, {r for w, r in found if w == which})
                if near is None:
                    continue
                row = near
                study.enqueue_trial(_fractions(choices, which, row))
                trial = study.ask()
                _draw(trial, choices)
            offer, precision, layouts, _ = choices[which]
            found[which, row] = space.evaluate(
                role, offer, precision, layouts, rows=np.array([row])
            )
            prices[which, row] = _price(space.problem, found[which, row])
            study.tell(trial, prices[which, row])
        for which, (_, _, _, funnel) in enumerate(choices):
            mine = [c for (w, _), c in found.items() if w == which]
            count = len(mine) * len(space.axes(role))
            evaluated += count
            funnel.add("evaluated", count)
            funnel.add("feasible", sum(len(c) for c in mine))
            candidates += [Candidates.concatenate(mine)] if mine else []
    return SearchResult(
        candidates=candidates,
        funnels=funnels,
        evaluated=evaluated,
        proven=False,
        statement=f"best of {trials} sampled layouts per role (of {total:,} feasible ones in "
        "all); not proven optimal: run --search exhaustive for a proof",
    )


def _price(problem: Problem, found: Candidates) -> float:
    """USD per hour of the layout's best pool at the demand, large where it has none.

    Whole hosts of the replicas that the TTFT target and capacity ask for (of a decode pool
    capacity alone: its part in a first token depends on the prefill pool); among equals,
    the least per request.
    """
    if len(found) == 0:
        return NOTHING
    per_request = found.world * found.offer.usd_per_device_hour / found.qps
    if problem.qps is None:
        return float(per_request.min())
    replicas = least_replicas(problem, found, problem.qps)
    if found.role != "decode":
        handling = problem.handling_s(found.ttit_s, disaggregated=found.role == "prefill")
        replicas = replicas_for_ttft(problem, found, problem.qps, handling)
    reached = replicas != UNREACHABLE
    if not reached.any():
        return NOTHING
    devices = np.where(reached, replicas, 0) * found.world
    price = np.where(reached, least_usd_per_hour(found.offer, devices), np.inf)
    return min(float((price + 1e-3 * problem.qps * per_request).min()), NOTHING)


def _unseen(logs: NDArray[np.float64], row: int, seen: set[int]) -> int | None:
    """The layout nearest to a given one, by doublings of degrees, that was not evaluated."""
    distance = np.abs(logs - logs[row]).sum(axis=1)
    distance[list(seen)] = np.inf
    nearest = int(distance.argmin())
    return nearest if np.isfinite(distance[nearest]) else None


def _spread(choices: Choices, count: int) -> list[tuple[int, int]]:
    """Feasible points spread evenly over devices and layouts, to seed the sampler."""
    sizes = [len(choice[2]) for choice in choices]
    starts = np.cumsum([0, *sizes])
    points = np.unique(np.linspace(0, starts[-1] - 1, count).astype(int))
    which = np.searchsorted(starts, points, side="right") - 1
    return [(int(w), int(point - starts[w])) for w, point in zip(which, points, strict=True)]


def _draw(trial: optuna.Trial, choices: Choices) -> tuple[int, int]:
    """One feasible layout: every degree from the values that remain possible."""
    which = trial.suggest_categorical("device", list(range(len(choices))))
    rows = choices[which][2].rows()
    index = np.arange(len(rows))
    for column, name in enumerate(DEGREES):
        values = np.unique(rows[index, column])
        fraction = trial.suggest_float(name, 0.0, 1.0)
        value = values[min(int(fraction * len(values)), len(values) - 1)]
        index = index[rows[index, column] == value]
    return which, int(index[0])


def _fractions(choices: Choices, which: int, row: int) -> dict[str, float | int]:
    """The parameters from which `_draw` draws a given layout."""
    rows = choices[which][2].rows()
    index = np.arange(len(rows))
    parameters: dict[str, float | int] = {"device": which}
    for column, name in enumerate(DEGREES):
        values = np.unique(rows[index, column])
        position = int(np.searchsorted(values, rows[row, column]))
        parameters[name] = (position + 0.5) / len(values)
        index = index[rows[index, column] == rows[row, column]]
    return parameters
