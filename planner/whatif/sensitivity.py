"""A tornado: what small changes of the inputs, and errors of the estimator, do to the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from perfmodel.database import PerfStore
from perfmodel.errors import InputError
from planner.choice import Choice
from planner.estimator_error import TimeError, time_error
from planner.evaluated import Evaluated, Progress, evaluate
from planner.infeasible import InfeasibleError
from planner.problem import resolve
from planner.query import Query
from planner.solve import groups
from planner.whatif.fields import short_name, targets, with_values
from planner.whatif.market import TOLERANCE, demand, fleet_name

BY = 0.1
"""Share by which inputs are changed, if not said otherwise."""

ALL_TIMES = "times of all devices"
ALL_NOTE = "every device at its own known error, all the same way"


@dataclass(frozen=True)
class Case:
    """The answer where one thing is different.

    Attributes:
        label: how different.
        best: the cheapest fleet; None: no fleet serves.
        keeping: the cheapest fleet of today's device types alone; None: they do not serve.
    """

    label: str
    best: Choice | None
    keeping: Choice | None

    @property
    def usd_per_hour(self) -> float | None:
        """Of the cheapest fleet."""
        return self.best.usd_per_hour if self.best else None

    @property
    def regret_usd_per_hour(self) -> float | None:
        """What keeping today's device types costs above the best; None: they do not serve.

        Zero too where nothing serves.
        """
        if self.best is None:
            return 0.0
        return self.keeping.usd_per_hour - self.best.usd_per_hour if self.keeping else None

    @property
    def changes(self) -> bool:
        """Other device types than today's are cheaper."""
        if self.best is None:
            return False
        regret = self.regret_usd_per_hour
        return regret is None or regret > TOLERANCE * self.best.usd_per_hour


@dataclass(frozen=True)
class Swing:
    """One input, or the estimator, one way and the other.

    Attributes:
        note: where the size of the change comes from, if it is not the one asked for.
    """

    what: str
    low: Case
    high: Case
    note: str = ""

    @property
    def cases(self) -> tuple[Case, Case]:
        """Both."""
        return self.low, self.high

    def span_usd_per_hour(self, today: float) -> float:
        """Between the dearest and the cheapest of the two and today; infinite: one has no fleet."""
        prices = [c.usd_per_hour for c in self.cases]
        known = [p for p in prices if p is not None]
        if len(known) < len(prices):
            return float("inf")
        return max(*known, today) - min(*known, today)


@dataclass(frozen=True)
class Tornado:
    """All swings, the widest first.

    Attributes:
        by: share by which inputs were changed.
    """

    today: Choice
    by: float
    swings: tuple[Swing, ...]

    @property
    def devices(self) -> tuple[str, ...]:
        """Types of today's choice."""
        return tuple(offer.device.name for offer, _ in self.today.hosts)

    def to_dict(self) -> dict[str, Any]:
        """Plain data: today's fleet, and a row for every case."""
        regret = self.largest_regret
        return {
            "usd_per_hour": self.today.usd_per_hour,
            "fleet": fleet_name(self.today),
            "changed_by": self.by,
            "robust": not self.overturned,
            "largest_regret": None if regret == float("inf") else regret,
            "cases": swing_rows(self),
        }

    @property
    def cases(self) -> list[tuple[Swing, Case]]:
        """Every case, with what it is a case of."""
        return [(swing, case) for swing in self.swings for case in swing.cases]

    @property
    def overturned(self) -> list[tuple[Swing, Case]]:
        """Cases in which other device types than today's are cheaper."""
        return [(swing, case) for swing, case in self.cases if case.changes]

    @property
    def largest_regret(self) -> float:
        """The largest share by which keeping today's device types is dearer than the best.

        Infinite where they do not serve and others do.
        """
        shares = [
            float("inf")
            if case.regret_usd_per_hour is None
            else case.regret_usd_per_hour / case.best.usd_per_hour
            for _, case in self.cases
            if case.best is not None
        ]
        return max(shares, default=0.0)


def tornado(
    query: Query,
    *,
    by: float = BY,
    search_path: Sequence[Path] = (),
    store: PerfStore | None = None,
    progress: Progress | None = None,
) -> Tornado:
    """The answer to a query with one thing changed at a time, both ways.

    Changed by a share: each price, the demand, each latency target, input and output lengths.
    Changed by the known error: the estimated times of each device, and of all at once.
    Today's choice is the set of its device types; layouts and numbers are found anew.

    Args:
        by: the share, above 0 and below 1.

    Raises:
        InputError: no demand, no fleet today, or the query names something unknown.
    """
    if not 0 < by < 1:
        raise InputError(f"--by: expected a share above 0 and below 1, got {by:g}")
    qps, store = demand(query), store or PerfStore()
    changed = _inputs(query, by)
    queries = [
        query,
        *(with_values(query, [c], search_path=search_path) for _, pair in changed for _, c in pair),
    ]
    parts = groups(queries)
    report = _counting(progress, len(parts) + 2)

    def searched(wanted: Query) -> Evaluated:
        return evaluate(wanted, search_path=search_path, store=store, progress=report())

    found: dict[int, list[Choice]] = {}
    for whole, members in parts:
        evaluated = searched(whole)
        if 0 in members:
            base = evaluated.under(query)
        for i in members:
            found[i] = evaluated.under(queries[i]).fleets(demand(queries[i]))
    if not found[0]:
        raise InfeasibleError("no fleet serves the query: `planner solve` says why")
    today = found[0][0]
    errors = _errors(query, today, search_path, store)
    sides = [
        searched(with_values(query, [(f"{_at(name)}.time_factor", e) for name, e in ends.items()]))
        for ends in _factors(query, errors)
    ]
    own = {offer.device.name for offer, _ in today.hosts}
    swings = []
    for row, (what, (low, high)) in enumerate(changed):
        pair = (found[1 + 2 * row], found[2 + 2 * row])
        swings.append(_swing(what, (low[0], high[0]), pair, own))
    for name, error in errors.items():
        labels = (f"x{error.low:.3g}", f"x{error.high:.3g}")
        low_side, high_side = (_with_times(base, side, name).fleets(qps) for side in sides)
        what = f"times of {name}"
        swings.append(_swing(what, labels, (low_side, high_side), own, error.origin))
    if len(errors) > 1:
        low_side, high_side = (side.fleets(qps) for side in sides)
        swings.append(_swing(ALL_TIMES, ("low", "high"), (low_side, high_side), own, ALL_NOTE))
    swings.sort(key=lambda swing: -swing.span_usd_per_hour(today.usd_per_hour))
    return Tornado(today, by, tuple(swings))


def _at(device: str) -> str:
    return f"devices.{device}"


def _counting(progress: Progress | None, count: int) -> Callable[[], Progress | None]:
    """Progress of each of so many evaluations, one after another, as shares of them all."""
    done = iter(range(count))

    def following() -> Progress | None:
        before = next(done, count)
        if progress is None:
            return None
        return lambda what, share: progress(what, (before + share) / count)

    return following


Change = tuple[str, tuple[str, Any]]
"""A label, and a field with its value."""


def _inputs(query: Query, by: float) -> list[tuple[str, tuple[Change, Change]]]:
    """What is changed by a share, less and more."""
    names = [short_name(device.name) for device in query.devices]
    fields = {f"price of {name}": f"{_at(name)}.usd_per_device_hour" for name in names}
    fields |= {"demand": "workload.qps"}
    fields |= {f"{name.upper()} target": f"slo.{name}" for name in targets(query.slo)}
    fields |= {"input length": "workload.input_tokens", "output length": "workload.output_tokens"}

    def change(field: str, share: float) -> Change:
        return f"{share:+.3g}%".replace("%", " %"), (field, f"x{1 + share / 100:.12g}")

    percent = 100 * by
    return [(what, (change(f, -percent), change(f, percent))) for what, f in fields.items()]


def _errors(
    query: Query, today: Choice, search_path: Sequence[Path], store: PerfStore
) -> dict[str, TimeError]:
    """The known error of each device's estimates, by name, in the way that today's fleet serves."""
    mode = "continuous" if today.kind == "continuous" else "disaggregated"
    offers = resolve(query, search_path).offers
    return {
        short_name(choice.name): time_error(offer.device, query.engine, mode, store)
        for choice, offer in zip(query.devices, offers, strict=True)
    }


def _factors(
    query: Query, errors: dict[str, TimeError]
) -> tuple[dict[str, float], dict[str, float]]:
    """Time factors by device, low and high, on top of those that the query has."""
    own = {short_name(device.name): device.time_factor for device in query.devices}
    low = {name: own[name] * error.low for name, error in errors.items()}
    return low, {name: own[name] * error.high for name, error in errors.items()}


def _with_times(base: Evaluated, other: Evaluated, device: str) -> Evaluated:
    """An evaluation with one device's candidates from another, of other times."""
    names = [short_name(choice.name) for choice in base.query.devices]
    position = names.index(device)
    own = base.problem.offers[position].device.name
    spaces, runs = {}, {}
    for tier, space in base.spaces.items():
        offers = {
            o.device.name: o for o in other.spaces[tier].problem.offers if o.device.name == own
        }
        problem = space.problem
        mixed = tuple(offers.get(offer.device.name, offer) for offer in problem.offers)
        spaces[tier] = other.spaces[tier].under(replace(problem, offers=mixed))
        runs[tier] = {
            colocated: replace(
                run,
                candidates=[
                    *(c for c in run.candidates if c.offer.device.name != own),
                    *(
                        c
                        for c in other.runs[tier][colocated].candidates
                        if c.offer.device.name == own
                    ),
                ],
            )
            for colocated, run in base.runs[tier].items()
        }
    return replace(base, spaces=spaces, runs=runs)


def _swing(
    what: str,
    labels: tuple[str, str],
    fleets: tuple[Sequence[Choice], Sequence[Choice]],
    own: set[str],
    note: str = "",
) -> Swing:
    """Both cases of one change, by their labels and the fleets that serve, cheapest first.

    Args:
        own: today's device types.
    """
    low, high = (_case(label, found, own) for label, found in zip(labels, fleets, strict=True))
    return Swing(what, low, high, note)


def _case(label: str, fleets: Sequence[Choice], own: set[str]) -> Case:
    keeping = [f for f in fleets if {offer.device.name for offer, _ in f.hosts} <= own]
    best = fleets[0] if fleets else None
    return Case(label, best, min(keeping, key=lambda fleet: fleet.usd_per_hour, default=None))


def swing_rows(found: Tornado) -> list[dict[str, Any]]:
    """One row per case, as tables and files have it."""
    return [
        {
            "what": swing.what,
            "change": case.label,
            "usd_per_hour": case.usd_per_hour,
            "fleet": fleet_name(case.best) if case.best else None,
            "keeping_usd_per_hour": case.keeping.usd_per_hour if case.keeping else None,
            "regret_usd_per_hour": case.regret_usd_per_hour,
            "changes_devices": case.changes,
            "note": swing.note,
        }
        for swing, case in found.cases
    ]
