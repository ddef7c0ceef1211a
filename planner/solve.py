"""From a query to a plan."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from perfmodel.database import PerfStore
from perfmodel.units import format_count, format_time
from planner.assess import assess
from planner.dominance import nondominated
from planner.encoder import apart, beside, fleets_with_encoder
from planner.infeasible import InfeasibleError, explain_infeasible
from planner.pairing import KINDS, Choice, cheapest_fleets, rank
from planner.plan import FleetPlan, FunnelPlan, Plan, SearchPlan
from planner.problem import Problem, alternatives, resolve
from planner.query import Query
from planner.search import SearchResult, combined, exhaustive, tpe
from planner.sweep import Space

ALTERNATIVES = 6
"""Runners-up reported."""

TTIT_LIMIT = "TTIT target"
"""How a pool's limits name that a larger batch would miss the target."""

LEAST_QPS = 1e-3
"""Where the search for the largest demand starts."""

Progress = Callable[[str, float], None]


def solve(
    query: Query,
    *,
    search: str = "exhaustive",
    seed: int = 0,
    trials: int = 400,
    storage: str | None = None,
    search_path: Sequence[Path] = (),
    store: PerfStore | None = None,
    progress: Progress | None = None,
    all_fleets: bool = False,
) -> Plan:
    """The cheapest fleet that serves a query.

    Args:
        search: `exhaustive` (proves its optimum) or `tpe` (samples `trials` layouts per role).
        seed: of the TPE sampler.
        storage: where TPE's trials are kept: a journal file or a database's URL; a search that
            was interrupted goes on there, and several processes may share it.
        search_path: folders with further models and devices.
        progress: called with what is being done and the share done.
        all_fleets: the alternatives are all fleets which none other equals or beats in the
            hosts of every device type, instead of a notable few.

    Raises:
        InputError: the query names something unknown, or no fleet serves it; the message
            says which limit binds and the nearest relaxation.
    """
    started = time.perf_counter()
    problem = resolve(query, search_path)
    spaces = _spaces(problem, store)
    report = progress or (lambda _what, _share: None)
    strategy = (
        partial(tpe, seed=seed, trials=trials, storage=storage) if search == "tpe" else exhaustive
    )
    results: dict[str, SearchResult] = {}
    served: list[Served] = []
    for done, (tier, space) in enumerate(spaces.items()):

        def within(what: str, share: float, done: int = done) -> None:
            report(what, (done + share) / len(spaces))

        runs = {
            colocated: strategy(space if colocated else apart(space), within)
            for colocated in _colocated(problem)
        }
        results[tier] = combined(list(runs.values()), encoder_apart=False in runs)
        within("sizing fleets", 0.95)
        served += _served(space.problem, partial(_fleets, space, runs))
    if not served:
        looked = sum(result.evaluated for result in results.values())
        if search == "tpe" and looked:
            raise InfeasibleError(
                f"none of the {looked:,} sampled configurations makes a fleet that serves the "
                "query; that says nothing of the others: try more --trials, or --search exhaustive"
            )
        tier, space = next(iter(spaces.items()))
        raise explain_infeasible(
            space if True in _colocated(problem) else apart(space), results[tier]
        )
    served = _best_first(problem, served)
    measured = {
        o.device.name
        for o in problem.offers
        for space in spaces.values()
        if space.store.engines(o.device.tables)
    }
    shown = _unbeaten(served) if all_fleets else _notable(served, measured)
    plans = [assess(_space_of(choice, spaces), choice, qps) for qps, choice in shown]
    report("done", 1.0)
    return Plan(
        query=query_data(query),
        model=_model_data(problem),
        statistics=_statistics(problem),
        best=plans[0],
        alternatives=tuple(plans[1:]),
        search=_search_plan(
            problem,
            results[_tier(served[0][1])],
            list(results.values()),
            served[0],
            search,
            time.perf_counter() - started,
        ),
        notes=_notes(problem, plans),
    )


Served = tuple[float, Choice]


def _spaces(problem: Problem, store: PerfStore | None) -> dict[str, Space]:
    """The space of each of the problem's alternatives, by where prefixes lie."""
    first, *others = alternatives(problem)
    space = Space(first, store)
    return {p.traffic.prefix_tier: space.under(p) for p in (first, *others)}


def _tier(choice: Choice) -> str:
    return choice.pools[0].candidates.axes.traffic.prefix_tier


def _space_of(choice: Choice, spaces: Mapping[str, Space]) -> Space:
    """The space in which a fleet was found."""
    space = spaces[_tier(choice)]
    return beside(apart(space), choice.encoder) if choice.encoder else space


def _colocated(problem: Problem) -> list[bool]:
    """Whether images are encoded by the devices that take the prompts; both, if both are tried."""
    where = problem.query.encoder if problem.traffic.vision else "colocated"
    return [c for c in (True, False) if where in ("auto", "colocated" if c else "disaggregated")]


Fleets = Callable[..., list[Choice]]
"""From a demand, and kinds of fleet, to the cheapest fleet of every device combination."""


def _fleets(
    space: Space, runs: Mapping[bool, SearchResult], qps: float, kinds: Sequence[str] = KINDS
) -> list[Choice]:
    """The cheapest fleets with encoders on the prompts' devices (True) and apart (False)."""
    found = []
    if True in runs:
        found += cheapest_fleets(space.problem, runs[True].candidates, qps, kinds)
    if False in runs:
        found += fleets_with_encoder(space, runs[False].candidates, qps, kinds)
    return found


def choose(problem: Problem, result: SearchResult) -> list[Served]:
    """The best fleet of every kind and device combination, each with the demand it serves.

    Best first: for a given demand the cheapest; for as much as possible, the fleet that serves
    most, and beside it the most that each other kind serves.
    """
    return _served(problem, partial(cheapest_fleets, problem, result.candidates))


def _served(problem: Problem, fleets: Fleets) -> list[Served]:
    if problem.qps is not None:
        found = [(problem.qps, choice) for choice in fleets(problem.qps)]
    else:
        served = [_most(partial(fleets, kinds=(kind,))) for kind in KINDS]
        found = [(qps, choice) for qps, choices in served for choice in rank(choices)[:1]]
    return _best_first(problem, found)


def _best_first(problem: Problem, served: list[Served]) -> list[Served]:
    if problem.qps is not None:
        return [(problem.qps, choice) for choice in rank(choice for _, choice in served)]
    return sorted(served, key=lambda item: -item[0])


def _most(at: Callable[[float], list[Choice]]) -> tuple[float, list[Choice]]:
    """The largest demand that the inventory serves, to 0.1 %, and who serves it."""
    low, best = 0.0, list[Choice]()
    high = LEAST_QPS
    while choices := at(high):
        low, best, high = high, choices, high * 2.0
    while best and high - low > 1e-3 * low:
        middle = (low + high) / 2.0
        if choices := at(middle):
            low, best = middle, choices
        else:
            high = middle
    return low, best


def _notable(served: Sequence[Served], measured: set[str]) -> list[Served]:
    """The winner, the best on measured devices, the best of each kind, the next best."""
    chosen = [served[0]]
    known = [s for s in served if all(p.offer.device.name in measured for p in s[1].pools)]
    chosen += [s for s in known if s not in chosen][:1]
    for kind in KINDS:
        chosen += [s for s in served if s[1].kind == kind and s not in chosen][:1]
    chosen += [s for s in served if s not in chosen]
    notable = chosen[: ALTERNATIVES + 1]
    return [s for s in served if s in notable]


def _unbeaten(served: Sequence[Served]) -> list[Served]:
    """The winner, and fleets that none other equals or beats in hosts of every type."""
    names = sorted({offer.device.name for _, choice in served for offer, _ in choice.hosts})
    hosts = np.zeros((len(served), len(names)))
    for row, (_, choice) in enumerate(served):
        for offer, count in choice.hosts:
            hosts[row, names.index(offer.device.name)] += count
    kept = {0, *nondominated(hosts).tolist()}
    return [s for i, s in enumerate(served) if i in kept]


def query_data(query: Query) -> dict[str, Any]:
    """The query as plain data, in the form in which it can be read again."""
    data: dict[str, Any] = query.model_dump(mode="json", exclude_defaults=True)
    for name in ("input_tokens", "output_tokens"):
        lengths = getattr(query.workload, name)
        data["workload"][name] = {"tokens": list(lengths.tokens), "weights": list(lengths.weights)}
    return data


def _model_data(problem: Problem) -> dict[str, Any]:
    model = problem.model
    return {
        "name": model.name,
        "parameters": model.parameters(),
        "active_parameters": model.active_parameters(),
        "layers": model.layers,
        "checkpoint_format": model.quantization,
        "notes": list(model.notes),
    }


def _statistics(problem: Problem) -> dict[str, str]:
    slo = problem.slo
    return {
        name: target.statistic
        for name, target in (("ttft", slo.ttft), ("ttit", slo.ttit), ("e2e", slo.e2e))
        if target is not None
    }


def _search_plan(
    problem: Problem,
    result: SearchResult,
    results: Sequence[SearchResult],
    best: Served,
    method: str,
    seconds: float,
) -> SearchPlan:
    """How the answer was found: counts of all alternatives, the funnels of the one chosen."""
    qps, choice = best
    gaps = [found.gap(qps, choice.usd_per_hour, most=problem.qps is None) for found in results]
    gap = None if None in gaps else max(g for g in gaps if g is not None)
    statement = result.statement
    if not result.proven and gap is not None:
        statement += f"; {_gap_text(gap)}"

    def size(found: SearchResult, role: str) -> int:
        return sum(len(c) for c in found.candidates if c.role == role)

    return SearchPlan(
        method=method,
        proven=gap == 0.0,
        gap=gap,
        statement=statement,
        evaluated=sum(found.evaluated for found in results),
        feasible=sum(len(c) for found in results for c in found.candidates),
        pairs=sum(size(found, "prefill") * size(found, "decode") for found in results),
        seconds=seconds,
        funnels=tuple(
            FunnelPlan(f.role, f.device, f.precision, tuple(f.stages)) for f in result.funnels
        ),
    )


def _gap_text(gap: float) -> str:
    if gap == 0.0:
        return "optimal under the model: by bounds on all other layouts no fleet is better"
    if gap == float("inf"):
        return "not proven optimal: run --search exhaustive for a proof"
    return (
        f"not proven optimal, but at most {gap:.1%} above the optimum per QPS by bounds on all "
        "other layouts: run --search exhaustive for a proof"
    )


def _notes(problem: Problem, plans: Sequence[FleetPlan]) -> tuple[str, ...]:
    """What a careful reader should know before spending money on the answer."""
    best = plans[0]
    used = {pool.device for pool in best.pools}
    notes = [
        f"{o.device.name}: {o.device.caution}"
        for o in problem.offers
        if o.device.name in used and o.device.caution
    ]
    notes += problem.model.notes
    for pool in best.pools:
        unknown = 1.0 - pool.time_by_kind.get("measured", 0.0)
        if unknown > 0.3:
            notes.append(
                f"{unknown:.0%} of the {pool.role} time on {pool.device} rests on extrapolated or "
                "analytic operators: measure before buying."
            )
    allowed = max(problem.draft_tokens)
    if allowed and not any(pool.draft_tokens for pool in best.pools):
        notes.append(
            f"Speculation of up to {format_count(allowed, 'token')} was searched and does not "
            "pay: the cheapest fleet drafts none."
        )
    target = problem.slo.ttit
    for pool in best.pools:
        if target is not None and pool.batch == 1 and TTIT_LIMIT in pool.limits:
            notes.append(
                f"{pool.role} on {pool.device}: the TTIT target of {format_time(target.seconds)} "
                f"({target.statistic}) leaves room for one sequence per attention rank at a time; "
                "a slightly looser one may cost much less."
            )
    idle = sum(h.devices - h.used_devices for h in best.hosts)
    if idle:
        stays = "stays idle; it" if idle == 1 else "stay idle; they"
        notes.append(
            f"{format_count(idle, 'device')} of the whole hosts {stays} could take other work."
        )
    return tuple(notes)
