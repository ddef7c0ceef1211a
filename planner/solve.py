"""From a query to a plan."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from perfmodel.database import PerfStore
from perfmodel.errors import InputError
from planner.assess import assess
from planner.choice import KINDS, unbeaten
from planner.encoder import apart
from planner.evaluated import (
    Evaluated,
    Served,
    encoders_colocated,
    evaluate,
    loosest,
    tier_of,
)
from planner.infeasible import InfeasibleError, explain_infeasible
from planner.notes import notes
from planner.plan import FunnelPlan, Plan, SearchPlan
from planner.problem import Problem, resolve
from planner.query import Query
from planner.search import SearchResult

ALTERNATIVES = 6
"""Runners-up reported, at most, if not said otherwise."""

SEARCH_SHARE = 0.7
"""Of the time that several answers from one search take, roughly."""

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
    report = progress or (lambda _what, _share: None)
    found = evaluate(
        query,
        search=search,
        seed=seed,
        trials=trials,
        storage=storage,
        search_path=search_path,
        store=store,
        progress=lambda what, share: report(what, 0.95 * share),
    )
    report("sizing fleets", 0.95)
    plan = answer(found, all_fleets=all_fleets)
    report("done", 1.0)
    return plan


def answer(
    evaluated: Evaluated,
    *,
    all_fleets: bool = False,
    runners_up: int = ALTERNATIVES,
    explain: bool = True,
) -> Plan:
    """The cheapest fleet of the candidates; arguments and errors as `solve` has them.

    Args:
        runners_up: alternatives at most, unless all fleets are asked for.
        explain: if there is none, the error says why, which takes longer than to find that out.
    """
    started = time.perf_counter()
    problem, results = evaluated.problem, evaluated.results
    served = evaluated.served()
    if not served:
        raise _nothing(evaluated) if explain else InfeasibleError("no fleet serves the query")
    measured = {
        o.device.name
        for o in problem.offers
        for space in evaluated.spaces.values()
        if space.store.engines(o.device.tables)
    }
    if all_fleets:
        shown = [served[i] for i in unbeaten([choice for _, choice in served])]
    else:
        shown = _notable(served, measured, runners_up)
    plans = [assess(evaluated.space_of(choice), choice, qps) for qps, choice in shown]
    return Plan(
        query=query_data(evaluated.query),
        model=_model_data(problem),
        statistics=_statistics(problem),
        best=plans[0],
        alternatives=tuple(plans[1:]),
        search=_search_plan(
            problem,
            results[tier_of(served[0][1])],
            list(results.values()),
            served[0],
            evaluated.method,
            evaluated.seconds + time.perf_counter() - started,
        ),
        notes=notes(problem, plans, next(iter(evaluated.spaces.values())).store),
        assumptions={o.device.name: o.costs.assumptions() for o in problem.offers},
    )


def answers(
    queries: Sequence[Query],
    *,
    search_path: Sequence[Path] = (),
    store: PerfStore | None = None,
    progress: Progress | None = None,
    all_fleets: bool = False,
    runners_up: int = ALTERNATIVES,
    explain: bool = False,
) -> list[Plan | InputError]:
    """Plans of many queries, or why there is none; by exhaustive search.

    Those that can share candidates are evaluated once, at the loosest of their targets: the
    answers are those of `solve`, but for the counts of the search, which are the shared one's.

    Args:
        explain: why a query has no plan is worked out (which takes longer than solving it).
    """
    store = store or PerfStore()
    report = progress or (lambda _what, _share: None)
    found: dict[int, Plan | InputError] = {}
    for i, query in enumerate(queries):
        try:
            resolve(query, search_path)
        except InputError as error:
            found[i] = error
    for whole, group in groups(queries, [i for i in range(len(queries)) if i not in found]):

        def within(
            what: str, share: float, before: int = len(found), size: int = len(group)
        ) -> None:
            report(what, (before + share * size) / len(queries))

        def searching(what: str, share: float, within: Progress = within) -> None:
            within(what, SEARCH_SHARE * share)

        try:
            shared = evaluate(whole, search_path=search_path, store=store, progress=searching)
        except InputError as error:
            found |= dict.fromkeys(group, error)
            continue
        for done, i in enumerate(group):
            within("sizing fleets", SEARCH_SHARE + (1.0 - SEARCH_SHARE) * done / len(group))
            try:
                found[i] = answer(
                    shared.under(queries[i]),
                    all_fleets=all_fleets,
                    runners_up=runners_up,
                    explain=explain,
                )
            except InputError as error:
                found[i] = error
    report("done", 1.0)
    return [found[i] for i in range(len(queries))]


def groups(
    queries: Sequence[Query], asked: Sequence[int] | None = None
) -> list[tuple[Query, list[int]]]:
    """Which of the queries (all if none are asked) can share candidates.

    Of each group a query that covers it, and the indices of its members.
    """
    found: list[tuple[Query, list[int]]] = []
    for i in range(len(queries)) if asked is None else asked:
        query = queries[i]
        for position, (whole, members) in enumerate(found):
            wider = loosest([whole, query])
            if wider is not None:
                found[position] = (wider, [*members, i])
                break
        else:
            found.append((query, [i]))
    return found


def _nothing(evaluated: Evaluated) -> InfeasibleError:
    """Why no fleet serves the query."""
    looked = sum(result.evaluated for result in evaluated.results.values())
    if evaluated.method == "tpe" and looked:
        return InfeasibleError(
            f"none of the {looked:,} sampled configurations makes a fleet that serves the "
            "query; that says nothing of the others: try more --trials, or --search exhaustive"
        )
    if evaluated.restricted:
        return InfeasibleError("none of the configurations that were kept serves the query")
    tier, space = next(iter(evaluated.spaces.items()))
    if not evaluated.fresh:
        # The counts by which it is explained are another query's.
        evaluated = evaluate(evaluated.query, search_path=evaluated.search_path, store=space.store)
        tier, space = next(iter(evaluated.spaces.items()))
    colocated = True in encoders_colocated(space.problem)
    return explain_infeasible(space if colocated else apart(space), evaluated.results[tier])


def _notable(served: Sequence[Served], measured: set[str], runners_up: int) -> list[Served]:
    """The winner, the best on measured devices, the best of each kind, the next best."""
    chosen = [served[0]]
    known = [s for s in served if all(p.offer.device.name in measured for p in s[1].pools)]
    chosen += [s for s in known if s not in chosen][:1]
    for kind in KINDS:
        chosen += [s for s in served if s[1].kind == kind and s not in chosen][:1]
    chosen += [s for s in served if s not in chosen]
    notable = chosen[: runners_up + 1]
    return [s for s in served if s in notable]


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
