"""What a careful reader should know of an answer before spending money on it."""

from __future__ import annotations

from collections.abc import Sequence

from perfmodel.database import PerfStore
from perfmodel.layout import parse_layout
from perfmodel.units import format_count, format_time
from planner.estimator_error import TimeError, first_token_error, token_error
from planner.plan import FleetPlan
from planner.prices import RELATIVE, listed_prices
from planner.problem import Offer, Problem
from planner.query_workload import Target
from spaces.expressible import RULES, Place, Traits, expressible

TTIT_LIMIT = "TTIT target"
"""How a pool's limits name that a larger batch would miss the target."""

SAME_PRICE = 5e-4
"""Share of a price below which two are the same."""

WIDE_SPREAD = 1.5
"""Ratio of the dearest listed price to the cheapest from which the choice of list is told."""


def notes(problem: Problem, plans: Sequence[FleetPlan], store: PerfStore) -> tuple[str, ...]:
    """What a careful reader should know before spending money on the answer.

    Args:
        plans: the best fleet, and the others.
    """
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
    notes += _margins(problem, plans, store)
    notes += _inexpressible(problem, best)
    notes += [_list_price(o) for o in problem.offers if o.device.name in used and _spread(o)]
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


def _margins(problem: Problem, plans: Sequence[FleetPlan], store: PerfStore) -> list[str]:
    """Whether times longer by the estimator's known error would miss the targets."""
    best, slo, found = plans[0], problem.slo, []
    if slo.ttit is not None:
        predicted = _time_per_token(best, problem)
        where = "with every slot taken" if _of_full_slots(best, problem) else "at this load"
        known = token_error(problem, best, store)
        found += _margin("TTIT", predicted, where, slo.ttit, known)
        if found and (roomier := _as_cheap_and_safe(problem, plans, store, slo.ttit)):
            found[-1] += roomier
    if slo.ttft is not None:
        predicted = best.ttft.mean_s if best.ttft.slo_s is None else best.ttft.slo_s
        found += _margin("TTFT", predicted, "", slo.ttft, first_token_error(best))
    return found


def _margin(
    name: str, predicted_s: float, where: str, target: Target, known: TimeError
) -> list[str]:
    """That a time as much longer as estimates are known to be off would miss its target, if so."""
    if not predicted_s <= target.seconds < predicted_s * known.high:
        return []
    told = " ".join(filter(None, (f"({target.statistic})", where)))
    return [
        f"{name} of {format_time(predicted_s)} {told} is {predicted_s / target.seconds:.0%} of its "
        f"target: times {known.high - 1:.0%} longer would miss it, and estimates are known to be "
        f"off by as much ({known.origin})."
    ]


def _as_cheap_and_safe(
    problem: Problem, plans: Sequence[FleetPlan], store: PerfStore, target: Target
) -> str:
    """Another fleet of the price whose time per token stays within its target, in a sentence."""
    best = plans[0]
    for other in plans[1:]:
        dearer = other.usd_per_hour / best.usd_per_hour - 1.0
        safe = _time_per_token(other, problem) * token_error(problem, other, store).high
        if dearer <= SAME_PRICE and other.qps >= best.qps and safe <= target.seconds:
            spare = 1.0 - _time_per_token(other, problem) / target.seconds
            fleet = f"{other.kind}, {other.hosts_text}"
            return f" For the same price {fleet}, leaves {spare:.0%} to spare."
    return ""


def _inexpressible(problem: Problem, fleet: FleetPlan) -> list[str]:
    """Layouts that the engine has no flags for: cheapest, but nothing that can be started."""
    if problem.engine.name not in RULES:
        return []
    engine, model = problem.engine, Traits.of(problem.model)
    devices = {offer.device.name: offer.device for offer in problem.offers}
    parsed = {pool.role: parse_layout(pool.layout) for pool in fleet.pools}
    decode_tp = int(parsed["decode"].tp_a[0]) if "decode" in parsed else 1
    layouts = dict.fromkeys(
        pool.layout
        for pool in fleet.pools
        if not expressible(
            engine.name,
            model,
            Place(
                pool.role,
                devices[pool.device],
                pool.precision["kv"],
                pool.draft_tokens > 0,
                decode_tp,
            ),
        ).of(parsed[pool.role])[0]
    )
    if not layouts:
        return []
    return [
        f"{engine.title} has no flags for the layout {' and '.join(layouts)}: `planner solve "
        f"--target {engine.name}` searches only what it can run."
    ]


def _of_full_slots(fleet: FleetPlan, problem: Problem) -> bool:
    """Whether the target on the time per token is a percentile, which is one of full slots."""
    target = problem.slo.ttit
    return target is not None and target.percentile is not None and fleet.ttit_slo_s is not None


def _time_per_token(fleet: FleetPlan, problem: Problem) -> float:
    """In the target's statistic: a percentile is of full slots, a mean is at the load."""
    if _of_full_slots(fleet, problem) and fleet.ttit_slo_s is not None:
        return fleet.ttit_slo_s
    return fleet.ttit_at_load_s


def _spread(offer: Offer) -> bool:
    """Whether the device has its default price, and other lists ask for much less or more."""
    listed = [e for e in listed_prices().get(offer.device.name, []) if e["kind"] != RELATIVE]
    usd = [float(entry["usd_per_device_hour"]) for entry in listed]
    return offer.price_source.startswith("on-demand") and max(usd) >= WIDE_SPREAD * min(usd)


def _list_price(offer: Offer) -> str:
    listed = [e for e in listed_prices()[offer.device.name] if e["kind"] != RELATIVE]
    usd = sorted(float(entry["usd_per_device_hour"]) for entry in listed)
    return (
        f"{offer.device.name} at ${offer.usd_per_device_hour:,.2f}: one provider's list price; "
        f"others of the list ask for ${usd[0]:,.2f} to ${usd[-1]:,.2f} (`planner devices "
        f"{offer.device.name}`). State your own as usd_per_device_hour."
    )
