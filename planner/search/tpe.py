"""Sample layouts by Optuna's tree-structured Parzen estimator (TPE).

A trial fixes one role's layout, device and precision; the estimator sweeps batch and chunk
inside it. Bounds on every layout's capacity, which cost less than estimates, come first:
layouts of the least bound start the search, those with which no fleet could be cheaper than
one already found are left out, and the rest says how far the answer may be from the optimum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from planner.candidates import Candidates, Role
from planner.pairing import cheapest_fleets
from planner.search.bound import fleet_usd_per_hour, least_fleet_usd_per_hour, most_fleet_qps
from planner.search.parts import Part, parts_of
from planner.search.result import Progress, SearchResult
from planner.search.storage import open_storage, study_name
from planner.search.trials import RoleTrials
from planner.sweep import Space

if TYPE_CHECKING:
    import optuna

STARTUP_SHARE = 0.5
"""Share of the trials that take layouts in the order of their bounds."""

ROUNDS = 8
"""How often layouts are left out by the cheapest fleet so far."""

Sampler = Callable[[int, int], "optuna.samplers.BaseSampler"]
"""From a seed and how many trials come before the sampler's own."""


def tpe_sampler(seed: int, startup: int) -> optuna.samplers.BaseSampler:
    """Multivariate TPE: degrees are drawn together, since they share a world."""
    import optuna

    return optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=startup)


def tpe(
    space: Space,
    progress: Progress,
    *,
    seed: int = 0,
    trials: int = 400,
    storage: str | None = None,
    sampler: Sampler = tpe_sampler,
    startup_share: float = STARTUP_SHARE,
) -> SearchResult:
    """The best `trials` layouts per role that bounds and TPE find, with all their batches.

    Args:
        storage: where trials are kept (see `open_storage`); those of the same question that
            are there already count.
        sampler: another one in TPE's place, to compare.
        startup_share: share of the trials that follow the bounds.

    Raises:
        InputError: the storage cannot be opened.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kept = open_storage(storage)
    startup = round(startup_share * trials)
    parts: dict[Role, list[Part]] = {}
    for role in space.roles:
        progress(f"bounds: {role}", 0.1 * len(parts) / len(space.roles))
        parts[role] = parts_of(space, role)
    runs: list[RoleTrials] = []
    for role, of_role in parts.items():
        chosen = [part for part in of_role if len(part.layouts)]
        if not chosen:
            continue
        name = study_name(space, role) if storage is not None else role
        study = optuna.create_study(
            direction="minimize", storage=kept, study_name=name, load_if_exists=True
        )
        # A sampler that went on from the same seed would draw the same again.
        done = len(study.get_trials(deepcopy=False))
        study.sampler = sampler(seed + 7919 * done, startup)
        runs.append(RoleTrials(space, role, chosen, study))

    def report(run: RoleTrials) -> None:
        share = sum(min(len(r.found), trials) for r in runs) / (trials * len(runs))
        progress(f"TPE: {run.role}", 0.1 + 0.8 * share)

    for step in range(1, ROUNDS + 1):
        until = -(-trials * step // ROUNDS)
        for run in runs:
            while len(run.found) < until:
                if not (run.seed() if len(run.found) < startup else run.sample()):
                    break
                report(run)
                run.sync()
        _leave_out_dear(space, parts, runs)
    return _result(space, parts, runs, trials)


def _leave_out_dear(
    space: Space, parts: dict[Role, list[Part]], runs: Sequence[RoleTrials]
) -> None:
    """Leave out layouts with which no fleet is cheaper than the cheapest so far."""
    problem = space.problem
    if problem.qps is None:
        return
    found = [candidates for run in runs for candidates in _candidates(run)]
    choices = cheapest_fleets(problem, found, problem.qps)
    if not choices:
        return
    limit = min(choice.usd_per_hour for choice in choices) * (1.0 - 1e-9)
    for run in runs:
        run.close([fleet_usd_per_hour(problem, p, parts, problem.qps) >= limit for p in run.parts])


def _candidates(run: RoleTrials) -> list[Candidates]:
    """All that was found, by part."""
    by_part: dict[int, list[Candidates]] = {}
    for (which, _), found in sorted(run.found.items(), key=lambda item: item[0]):
        by_part.setdefault(which, []).append(found)
    return [Candidates.concatenate(of_part) for of_part in by_part.values()]


def _result(
    space: Space, parts: dict[Role, list[Part]], runs: Sequence[RoleTrials], trials: int
) -> SearchResult:
    evaluated = 0
    for run in runs:
        for which, part in enumerate(run.parts):
            mine = [c for (w, _), c in run.found.items() if w == which]
            count = len(mine) * len(space.axes(run.role))
            evaluated += count
            part.funnel.add("evaluated", count)
            part.funnel.add("feasible", sum(len(c) for c in mine))
    unseen = {role: [part.most_qps > 0 for part in of_role] for role, of_role in parts.items()}
    for run in runs:
        masks = iter(run.unseen())
        unseen[run.role] = [
            next(masks) if len(part.layouts) else np.zeros(0, dtype=bool)
            for part in parts[run.role]
        ]
    total = sum(len(part.layouts) for run in runs for part in run.parts)
    problem = space.problem
    return SearchResult(
        candidates=[found for run in runs for found in _candidates(run)],
        funnels=[part.funnel for of_role in parts.values() for part in of_role],
        evaluated=evaluated,
        proven=False,
        statement=f"best of {sum(len(run.found) for run in runs):,} evaluated layouts of "
        f"{total:,} feasible ones ({trials} trials per role at most)",
        least_unseen_usd_per_hour=partial(least_fleet_usd_per_hour, problem, parts, unseen),
        most_unseen_qps=partial(most_fleet_qps, problem, parts, unseen),
    )
