"""Why no fleet serves a query: the constraint that binds, and the nearest relaxation.

Stages are asked in the order in which the search applies them: memory, then latency on
an idle system, then latency under load, then inventory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from perfmodel import phases
from perfmodel.breakdown import breakdown
from perfmodel.errors import InputError
from perfmodel.layout import Layouts, format_layout
from perfmodel.memory import TERMS, replica_memory
from perfmodel.operators import Bound
from perfmodel.precision import Precision
from perfmodel.units import format_apart, format_bytes, format_count, format_time
from perfmodel.work import StepWork, step_tokens
from planner.candidates import Candidates, Role
from planner.choice import Choice, rank
from planner.dominance import nondominated
from planner.pairing import cheapest_fleets
from planner.problem import Offer, Problem, supported
from planner.query_workload import Slo, Target
from planner.search import SearchResult
from planner.sweep import Space
from spaces.constraints import LayoutConstraint, memory_constraint, one_of, world_constraint
from spaces.enumeration import all_layouts
from spaces.variables import MAX_WORLD

FloatArray = NDArray[np.float64]


class InfeasibleError(InputError):
    """No fleet serves the query; the message names the limit and the nearest relaxation."""


def explain_infeasible(space: Space, result: SearchResult) -> InfeasibleError:
    """The error to raise when nothing was found."""
    problem = space.problem
    if not any(True for _ in space.pairs()):
        return InfeasibleError(_unsupported(problem))
    served = [
        runtime
        for runtime, roles in RUNTIME_ROLES.items()
        if runtime in problem.query.runtime
        and all(any(len(c) for c in result.candidates if c.role == role) for role in roles)
    ]
    if served:
        return InfeasibleError(_explain_sizing(space, result))
    if not any(f.count("memory (one sequence)") for f in result.funnels):
        return InfeasibleError(_explain_memory(space))
    if not any(f.count("memory") for f in result.funnels if f.count("evaluated")) and any(
        f.count("evaluated") for f in result.funnels
    ):
        return InfeasibleError(_explain_memory(space))
    return InfeasibleError(_explain_latency(space))


MINIMAL_QPS = 1e-3
"""Demand at which a query for as much as possible is explained."""

RUNTIME_ROLES = {"continuous": ("continuous",), "disaggregated": ("prefill", "decode")}


def _unsupported(problem: Problem) -> str:
    wanted = ", ".join(str(p) for p in problem.precisions)
    devices = ", ".join(
        f"{o.device.name} multiplies {'/'.join(o.device.peak_flops_per_s)}"
        for o in problem.offers
        if not any(supported(p.on(o.device.peak_flops_per_s), o.device) for p in problem.precisions)
    )
    return f"precision: no candidate device runs {wanted} ({devices})"


def _explain_memory(space: Space) -> str:
    """The layout that comes nearest to fitting, and the term that overflows."""
    problem = space.problem
    lines = []
    for offer, precision in space.pairs():
        layouts = _structural(space, offer)
        excluded = _excluding(space, offer, precision)
        if len(layouts) == 0:
            lines.append(f"  {offer.device.name}: {excluded}")
            continue
        step = space.step_model(offer, precision)
        tokens = np.array([problem.traffic.inputs.maximum + problem.traffic.outputs.maximum])
        memory = replica_memory(
            problem.model,
            offer.device,
            problem.engine,
            precision,
            layouts,
            StepWork.of(),
            np.ones((1, 1)),
            tokens,
            step.load,
        )
        total = np.asarray(memory.total)[:, 0]
        best = int(total.argmin())
        terms = {
            term: float(np.broadcast_to(getattr(memory, term), memory.total.shape)[best, 0])
            for term in TERMS
        }
        largest = max(terms, key=lambda term: terms[term])
        lines.append(
            f"  {offer.device.name}: {format_bytes(total[best])} needed of "
            f"{format_bytes(step.device.memory_bytes)} at best "
            f"({format_layout(layouts, best)}, {precision}); "
            f"{largest.replace('_', ' ')} alone takes {format_bytes(terms[largest])}; {excluded}"
        )
    return (
        f"memory: {problem.model.name} fits on no candidate device, one sequence at a time\n"
        + "\n".join(lines)
        + "\nNearest relaxations: a lower weight precision, more devices per replica or a larger "
        "inventory, a device with more memory, shorter inputs."
    )


def _excluding(space: Space, offer: Offer, precision: Precision) -> str:
    """The constraints on layouts that exclude each other, and the fewest devices without one."""
    from spaces.conflict import conflict

    *others, memory = _holding(space, offer, precision)
    core = conflict([*others, *_inventories(space, offer), memory])
    if not core:
        return "a layout holds one prompt, but not the longest with its output"
    text = _named(core)
    # What gives way most easily is how many devices there may be.
    layouts = all_layouts(MAX_WORLD)
    for constraint in (*others, memory):
        layouts = layouts[constraint.of(layouts)]
    if len(layouts) == 0:
        return f"{text}; no replica of up to {MAX_WORLD} devices holds it"
    smallest = int(layouts.world.argmin())
    return (
        f"{text}; {format_count(int(layouts.world[smallest]), 'device')} in one replica would do "
        f"({format_layout(layouts, smallest)})"
    )


def _named(core: Sequence[LayoutConstraint]) -> str:
    names = ", ".join(constraint.name for constraint in core)
    return f"{names} {'exclude each other' if len(core) > 1 else 'excludes every layout'}"


def _holding(space: Space, offer: Offer, precision: Precision) -> list[LayoutConstraint]:
    """What a layout must satisfy on a device, however many of it there are."""
    problem = space.problem
    pairs = [(offer.device, precision)]
    memory = memory_constraint(problem.model, pairs, problem.engine, problem.traffic)
    return [*space.constraints, space.device_constraints(offer)[0], memory]


def _inventories(space: Space, offer: Offer) -> list[LayoutConstraint]:
    """How many devices a replica may have."""
    _, *inventory = space.device_constraints(offer)
    limits = [
        replace(limit, name=f"inventory of {offer.inventory} {offer.device.name}")
        for limit in inventory
    ]
    if space.max_world < MAX_WORLD:
        name = f"search.max_replica_devices of {space.max_world}"
        limits.append(replace(world_constraint(space.max_world), name=name))
    return limits


def _targets(space: Space, offer: Offer, precision: Precision) -> list[LayoutConstraint]:
    """The latency targets, of layouts that serve one sequence or prompt at a time.

    Nothing is faster: with more at a time, or prompts beside, a step takes longer.
    """
    problem, step, one = space.problem, space.step_model(offer, precision), np.ones(1, dtype=int)
    layouts = all_layouts(MAX_WORLD)
    for constraint in space.constraints:
        layouts = layouts[constraint.of(layouts)]
    found = []
    if (ttit := problem.slo.ttit) is not None:
        alone = phases.decode(step, layouts, problem.traffic, one, ttit.percentile)
        gain = step_tokens(max(problem.draft_tokens), problem.acceptance)
        met = alone.ttit_slo_s[:, 0] <= ttit.seconds * gain
        found.append(one_of(layouts[met], f"TTIT target of {format_time(ttit.seconds)}"))
    if (ttft := problem.slo.ttft) is not None:
        prompt = phases.prefill(step, layouts, problem.traffic, one)
        met = space.first_token_in_time(prompt.latency_s)[:, 0]
        found.append(one_of(layouts[met], f"TTFT target of {format_time(ttft.seconds)}"))
    return found


def _conflicts(space: Space) -> list[str]:
    """For each device, which targets and limits exclude each other."""
    from spaces.conflict import conflict

    lines = []
    for offer, precision in space.pairs():
        *others, memory = _holding(space, offer, precision)
        limits = [*others, *_inventories(space, offer), memory]
        core = conflict([*limits, *_targets(space, offer, precision)])
        if len(core) > 1:
            lines.append(f"  {offer.device.name} ({precision}): {_named(core)}")
    return lines


def _structural(space: Space, offer: Offer) -> Layouts:
    """Layouts that the model's structure and the device's hosts allow, whatever they need."""
    layouts = all_layouts(space.max_world)
    for constraint in [*space.constraints, *space.device_constraints(offer)]:
        layouts = layouts[constraint.of(layouts)]
    return layouts


def _explain_latency(space: Space) -> str:
    """The lowest latencies any layout reaches on an idle system, against the targets."""
    relaxed = _with_slo(space, Slo())
    lines = []
    slo = space.problem.slo
    if slo.ttit is not None:
        reached = _least_ttit(relaxed, slo.ttit)
        if reached is not None and reached[0] > slo.ttit.seconds:
            seconds, text = reached
            lines.append(
                f"TTIT {_below(slo.ttit, seconds)}, the least any layout reaches: {text}. "
                f"Smallest feasible: ttit: {_spelled(slo.ttit, seconds)}"
            )
            # What else is impossible, is so beside this relaxation too.
            slo = slo.model_copy(update={"ttit": _at(slo.ttit, _rounded(seconds))})
    if slo.ttft is not None:
        least = _least_ttft(relaxed, slo.ttft)
        if least is not None and least[0] > slo.ttft.seconds:
            seconds, text = least
            lines.append(
                f"TTFT {_below(slo.ttft, seconds)}, the least any layout reaches on an idle "
                f"system: {text}. " + _suggestion(space, slo, "ttft", seconds)
            )
    if not lines and slo.e2e is not None:
        lines.append(
            f"end-to-end {format_time(slo.e2e.seconds)} is below what any layout reaches "
            f"together with the other targets. {_suggestion(space, slo, 'e2e')}"
        )
    if not lines:
        lines.append(
            "the latency targets are each reachable, but no configuration reaches them together "
            f"under the chosen runtimes. {_suggestion(space, slo, 'ttft')}"
        )
    said = [f"SLO: {line.rstrip()}" for line in lines]
    return "\n".join([*said, *_conflicts(space)])


def _below(target: Target, least_s: float) -> str:
    """A target and the longer time that it asks too much of."""
    asked, least = format_apart(target.seconds, least_s)
    return f"{asked} ({target.statistic}) is below {least}"


def _rounded(seconds: float) -> float:
    """A latency rounded up to what a query would say."""
    return math.ceil(seconds * 1e5) / 1e5


def _spelled(target: Target, seconds: float) -> str:
    """A target as a query spells it, rounded up."""
    time = f"{_rounded(seconds) * 1e3:g}ms"
    return time if target.percentile is None else f"{{{target.statistic}: {time}}}"


def _at(target: Target, seconds: float) -> Target:
    return target.model_copy(update={"seconds": seconds})


def _suggestion(space: Space, slo: Slo, name: str, least_s: float = 0.0) -> str:
    """The tightest `ttft` or `e2e` that a fleet meets under load, the other targets kept."""
    target: Target | None = getattr(slo, name)
    if target is None:
        return ""
    relaxed = _with_slo(space, slo.model_copy(update={name: None}))
    swept = [relaxed.sweep(role, *pair)[0] for pair in relaxed.pairs() for role in relaxed.roles]
    # Nothing that fails has a price to prune by: of millions, those that could be first.
    idle = [c.take(_leading(c)) for c in swept if len(c)]

    def served(seconds: float) -> list[Choice]:
        aimed = slo.model_copy(update={name: _at(target, seconds)})
        problem = replace(space.problem, slo=aimed)
        return cheapest_fleets(problem, idle, problem.qps or MINIMAL_QPS)

    low = max(least_s, target.seconds)
    high = low * 1.05
    while not served(high):
        low, high = high, high * 1.5
        if high > LONGEST * target.seconds:
            return ""
    while high > low * 1.01:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if served(middle) else (middle, high)
    said = f"Feasible under load: {name}: {_spelled(target, high)}"
    if space.problem.qps is None:
        return said
    # The tightest target may take hundreds of hosts.
    least = min(choice.usd_per_hour for choice in served(high))
    return f"{said}, for ${least:,.2f} per hour or less"


def _leading(found: Candidates) -> NDArray[np.intp]:
    """Candidates that none other equals or beats in both latencies and devices per QPS."""
    load = found.world / found.qps
    objectives = [found.service_s, found.ttit_slo_s, load]
    return nondominated(np.stack(objectives, axis=1))


LONGEST = 1e3
"""Times a target is relaxed at most, in search of a feasible one."""


def _with_slo(space: Space, slo: Slo) -> Space:
    query = space.problem.query.model_copy(update={"slo": slo})
    return Space(replace(space.problem, slo=slo, query=query), space.store)


def _least_ttit(space: Space, target: Target) -> tuple[float, str] | None:
    """The lowest TTIT of any configuration at the target's statistic, and what it is spent on."""
    traffic = space.problem.traffic
    best: tuple[float, Offer, Candidates] | None = None
    role: Role = "decode" if "decode" in space.roles else "continuous"
    for offer, precision in space.pairs():
        found, _ = space.sweep(role, offer, precision)
        if len(found) == 0:
            continue
        found = found.take(np.argsort(found.ttit_s, kind="stable")[:SHORTLIST])
        at = _ttit_at(space, found, target)
        index = int(at.argmin())
        if best is None or at[index] < best[0]:
            best = (float(at[index]), offer, found.take(np.array([index])))
    if best is None:
        return None
    seconds, offer, one = best
    layout = one.layouts[one.layout]
    step = space.step_model(offer, one.precision)
    drafts = int(one.drafts[0])
    work = StepWork.of(
        decode_sequences=float(one.batch[0]),
        context_tokens=traffic.context_mean,
        decode_tokens=drafts + 1,
    )
    shares = breakdown(step, layout, work).shares("bound")
    bound, share = next(iter(shares.items()))
    names = {
        Bound.BANDWIDTH.name.lower(): "streaming weights and cache from memory",
        Bound.COMPUTE.name.lower(): "computing",
        Bound.LINK.name.lower(): "moving activations over links",
        Bound.LATENCY.name.lower(): "kernel, collective and scheduling latency",
    }
    floor = _streaming_floor(space, offer, one)
    return (
        seconds,
        (
            f"{format_layout(layout)} on {offer.device.name} at batch {int(one.batch[0])}"
            f"{f' with {drafts} tokens drafted' if drafts else ''}, "
            f"{share:.0%} of it {names[bound]} (its weight-streaming limit is {format_time(floor)})"
        ),
    )


SHORTLIST = 256
"""Configurations of the lowest mean TTIT among which the lowest percentile is sought."""


def _ttit_at(space: Space, pool: Candidates, target: Target) -> FloatArray:
    """Each candidate's TTIT at the target's statistic."""
    if target.percentile is None:
        return pool.ttit_s
    step, traffic = space.step_model(pool.offer, pool.precision), space.problem.traffic
    found = np.empty(len(pool))
    for layout in np.unique(pool.layout):
        rows = np.flatnonzero(pool.layout == layout)
        one = pool.layouts[np.array([layout])]
        batch, chunk, percentile = pool.batch[rows], pool.chunk[rows], target.percentile
        drafts, acceptance = pool.drafts[rows], pool.axes.acceptance
        if pool.role == "decode":
            alone = phases.decode(
                step, one, traffic, batch, percentile, drafts=drafts, acceptance=acceptance
            )
            found[rows] = alone.ttit_slo_s[0]
        else:
            mixed = phases.continuous(
                step, one, traffic, batch, chunk, percentile, drafts=drafts, acceptance=acceptance
            )
            found[rows] = mixed.ttit_slo_s[0]
    return found


def _streaming_floor(space: Space, offer: Offer, one: Candidates) -> float:
    from spaces.constraints import least_latency_s

    problem = space.problem
    layout = one.layouts[one.layout]
    _, ttit = least_latency_s(problem.model, offer.device, one.precision, layout, problem.traffic)
    return float(ttit[0] / one.step_tokens[0])


def _least_ttft(space: Space, target: Target) -> tuple[float, str] | None:
    """The lowest idle first-token latency at the target's statistic over inputs.

    What an engine adds to any request included, waiting not.
    """
    weights = np.array(space.problem.traffic.inputs.weights)
    best: tuple[float, str] | None = None
    handling = space.problem.least_handling_s
    roles = [role for role in space.roles if role != "decode"]
    for role, (offer, precision) in product(roles, space.pairs()):
        found, _ = space.sweep(role, offer, precision)
        if len(found) == 0:
            continue
        latency = found.latency_s @ weights
        if target.percentile is not None:
            order = np.argsort(found.latency_s, axis=1)
            within = np.cumsum(weights[order], axis=1) >= target.percentile / 100.0 - 1e-12
            first = np.take_along_axis(order, within.argmax(axis=1)[:, None], axis=1)
            latency = np.take_along_axis(found.latency_s, first, axis=1)[:, 0]
        index = int(latency.argmin())
        if best is None or handling + latency[index] < best[0]:
            text = (
                f"{format_layout(found.layouts, int(found.layout[index]))} on {offer.device.name}"
            )
            best = (handling + float(latency[index]), text)
    return best


def _explain_sizing(space: Space, result: SearchResult) -> str:
    """Configurations exist, but no number of replicas in the inventory is enough."""
    problem = space.problem
    unlimited = [replace(c, offer=replace(c.offer, inventory=None)) for c in result.candidates]
    qps = problem.qps or MINIMAL_QPS
    choices = cheapest_fleets(problem, unlimited, qps)
    if not choices:
        ways = (_suggestion(space, problem.slo, name) for name in ("ttft", "e2e"))
        return (
            "SLO: configurations meet the targets on an idle system, but with waiting and cache "
            "transfer none does at any number of replicas. "
            f"{next(filter(None, ways), 'Relax several targets')} (paced requests wait less: "
            "workload.arrivals: steady)"
        )
    inventory = {o.device.name: o.inventory for o in problem.offers}
    best = None
    for choice in rank(choices):
        missing = {
            offer.device.name: count * offer.host_devices - (inventory[offer.device.name] or 0)
            for offer, count in choice.hosts
            if inventory[offer.device.name] is not None
            and count * offer.host_devices > (inventory[offer.device.name] or 0)
        }
        total = sum(missing.values())
        if best is None or total < best[0]:
            best = (total, missing, choice)
    assert best is not None
    _, missing, choice = best
    needs = " and ".join(
        f"{count * offer.host_devices} {offer.device.name} "
        f"({missing[offer.device.name]} more than the inventory of {inventory[offer.device.name]})"
        if offer.device.name in missing
        else f"{count * offer.host_devices} {offer.device.name}"
        for offer, count in choice.hosts
    )
    return (
        f"inventory: {qps:g} requests/s need at least {needs}, as a {choice.kind} fleet. "
        "Pools of different devices are not added up. "
        "Nearest relaxations: more inventory, less demand (workload.qps: max finds the most the "
        "inventory serves), or looser latency targets."
    )


__all__ = ["InfeasibleError", "explain_infeasible"]
