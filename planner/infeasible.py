"""Why no fleet serves a query: the constraint that binds, and the nearest relaxation.

Stages are asked in the order in which the search applies them: memory, then latency on
an idle system, then latency under load, then inventory.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from perfmodel.breakdown import breakdown
from perfmodel.errors import InputError
from perfmodel.layout import Layouts, format_layout
from perfmodel.memory import TERMS, replica_memory
from perfmodel.operators import Bound
from perfmodel.units import format_bytes, format_time
from perfmodel.work import StepWork
from planner.candidates import Candidates
from planner.pairing import cheapest_fleets, rank
from planner.problem import Offer, Problem, supported
from planner.query import Slo, Target
from planner.search import SearchResult
from planner.sweep import Space


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
        return InfeasibleError(_explain_sizing(problem, result))
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
        if len(layouts) == 0:
            lines.append(f"  {offer.device.name}: no layout fills whole hosts within the inventory")
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
            f"{largest.replace('_', ' ')} alone takes {format_bytes(terms[largest])}"
        )
    return (
        f"memory: {problem.model.name} fits on no candidate device, one sequence at a time\n"
        + "\n".join(lines)
        + "\nNearest relaxations: a lower weight precision, more devices per replica or a larger "
        "inventory, a device with more memory, shorter inputs."
    )


def _structural(space: Space, offer: Offer) -> Layouts:
    """Layouts that the model's structure and the device's hosts allow, whatever they need."""
    from spaces.enumeration import all_layouts

    layouts = all_layouts(space.max_world)
    for constraint in [*space.constraints, *space.device_constraints(offer)]:
        layouts = layouts[constraint.of(layouts)]
    return layouts


def _explain_latency(space: Space) -> str:
    """The lowest latencies any layout reaches on an idle system, against the targets."""
    relaxed = _with_slo(space, Slo())
    problem = space.problem
    lines = []
    slo = problem.slo
    if slo.ttit is not None:
        reached = _least_ttit(relaxed)
        if reached is not None and reached[0] > slo.ttit.seconds:
            seconds, text = reached
            lines.append(
                f"TTIT {format_time(slo.ttit.seconds)} ({slo.ttit.statistic}) is below "
                f"{format_time(seconds)}, the least any layout reaches: {text}. "
                f"Smallest feasible: ttit: {_ms(seconds)}"
            )
    if slo.ttft is not None:
        least = _least_ttft(relaxed)
        if least is not None and least[0] > slo.ttft.seconds:
            seconds, text = least
            reachable = _reachable_ttft(space, seconds)
            smallest = f"Feasible with queueing: ttft: {_ms(reachable)}" if reachable else ""
            lines.append(
                f"TTFT {format_time(slo.ttft.seconds)} ({slo.ttft.statistic}) is below "
                f"{format_time(seconds)}, the least any layout reaches on an idle system: {text}. "
                + smallest
            )
    if slo.e2e is not None and not lines:
        lines.append(
            f"end-to-end {format_time(slo.e2e.seconds)} is below what any layout reaches "
            "together with the other targets"
        )
    if not lines:
        lines.append(
            "the latency targets are each reachable, but no configuration reaches them together "
            "under the chosen runtimes; allow both runtimes or relax one target"
        )
    return "SLO: " + "\nSLO: ".join(lines)


def _ms(seconds: float) -> str:
    """A latency as a query spells it, rounded up."""
    return f"{math.ceil(seconds * 1e5) / 100:g}ms"


def _reachable_ttft(space: Space, least_s: float) -> float | None:
    """The tightest of a few TTFT targets, from the idle latency up, that some fleet meets."""
    slo = space.problem.slo
    relaxed = _with_slo(space, slo.model_copy(update={"ttft": None}))
    idle = [relaxed.sweep(role, *pair)[0] for pair in relaxed.pairs() for role in relaxed.roles]
    for factor in (1.02, 1.05, 1.1, 1.2, 1.35, 1.5, 2.0, 3.0, 5.0, 10.0):
        seconds = math.ceil(least_s * factor * 1e5) / 1e5
        target = Target(seconds=seconds, percentile=slo.ttft.percentile if slo.ttft else None)
        problem = replace(space.problem, slo=slo.model_copy(update={"ttft": target}))
        if cheapest_fleets(problem, idle, problem.qps or MINIMAL_QPS):
            return seconds
    return None


def _with_slo(space: Space, slo: Slo) -> Space:
    query = space.problem.query.model_copy(update={"slo": slo})
    return Space(replace(space.problem, slo=slo, query=query), space.store)


def _least_ttit(space: Space) -> tuple[float, str] | None:
    """The lowest TTIT at batch 1, and what it is spent on."""
    traffic = space.problem.traffic
    best: tuple[float, Offer, Candidates] | None = None
    role = "decode" if "decode" in space.roles else "continuous"
    for offer, precision in space.pairs():
        found, _ = space.sweep(role, offer, precision)  # type: ignore[arg-type]
        if len(found):
            index = int(found.ttit_s.argmin())
            seconds = float(found.ttit_s[index])
            if best is None or seconds < best[0]:
                best = (seconds, offer, found.take(np.array([index])))
    if best is None:
        return None
    seconds, offer, one = best
    layout = one.layouts[one.layout]
    step = space.step_model(offer, one.precision)
    work = StepWork.of(decode_sequences=float(one.batch[0]), context_tokens=traffic.context_mean)
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
            f"{format_layout(layout)} on {offer.device.name} at batch {int(one.batch[0])}, "
            f"{share:.0%} of it {names[bound]} (its weight-streaming limit is {format_time(floor)})"
        ),
    )


def _streaming_floor(space: Space, offer: Offer, one: Candidates) -> float:
    from spaces.constraints import least_latency_s

    problem = space.problem
    layout = one.layouts[one.layout]
    _, ttit = least_latency_s(problem.model, offer.device, one.precision, layout, problem.traffic)
    return float(ttit[0])


def _least_ttft(space: Space) -> tuple[float, str] | None:
    """The lowest idle first-token latency at the mean over inputs."""
    weights = np.array(space.problem.traffic.inputs.weights)
    best: tuple[float, str] | None = None
    role = "prefill" if "prefill" in space.roles else "continuous"
    for offer, precision in space.pairs():
        found, _ = space.sweep(role, offer, precision)  # type: ignore[arg-type]
        if len(found) == 0:
            continue
        latency = found.latency_s @ weights
        index = int(latency.argmin())
        if best is None or latency[index] < best[0]:
            text = (
                f"{format_layout(found.layouts, int(found.layout[index]))} on {offer.device.name}"
            )
            best = (float(latency[index]), text)
    return best


def _explain_sizing(problem: Problem, result: SearchResult) -> str:
    """Configurations exist, but no number of replicas in the inventory is enough."""
    unlimited = [replace(c, offer=replace(c.offer, inventory=None)) for c in result.candidates]
    qps = problem.qps or MINIMAL_QPS
    choices = cheapest_fleets(problem, unlimited, qps)
    if not choices:
        return (
            "SLO: configurations meet the targets on an idle system, but with waiting and cache "
            "transfer none does at any number of replicas. Relax the TTFT target slightly, or "
            "set workload.arrivals: steady if requests are paced."
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
        "Nearest relaxations: more inventory, less demand (workload.qps: max finds the most the "
        "inventory serves), or looser latency targets."
    )


__all__ = ["InfeasibleError", "explain_infeasible"]
