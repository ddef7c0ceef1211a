"""Families: one configuration each, and the replicas that it needs at every demand of a day.

A service that is redeployed every hour is none: it keeps its layouts, batches and devices, and
its replicas follow demand. Which configuration is best depends on more than the peak, so that
those of the best fleets at several demands are tried, each sized at all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from planner.assess import assess
from planner.catalog.demand import Demand
from planner.catalog.placing import PoolUse, devices_of
from planner.choice import Choice, unbeaten
from planner.dominance import nondominated
from planner.encoder import fleets_with_encoder
from planner.evaluated import Evaluated, tier_of
from planner.infeasible import InfeasibleError
from planner.pairing import cheapest_fleets


def families_of(evaluated: Evaluated, demand: Demand) -> dict[str, Any]:
    """A service's families as plain data.

    Returns:
        `levels_qps`: the demands that they are sized at; `families`: of each the `fleet` at the
        peak as `planner solve` writes one, `found_at_qps`, and `replicas` by level and pool (an
        encoder pool last).

    Raises:
        InfeasibleError: no configuration serves every demand.
    """
    levels, few = demand.levels, _few(demand)
    found: dict[object, tuple[float, Choice]] = {}
    for qps, choice in _tried(evaluated, few):
        found.setdefault(_configuration(choice), (qps, choice))
    # Most are beaten already at these demands, and need not be sized at all others.
    some = _at_all(evaluated, found.values(), few)
    some = [some[i] for i in _worthwhile([sized for _, sized in some])]
    whole = _at_all(evaluated, [(qps, sized[0]) for qps, sized in some], levels)
    if not whole:
        raise InfeasibleError(
            f"no configuration meets the targets at all demands from {levels[0]:.4g} to "
            f"{levels[-1]:.4g} requests/s"
        )
    return {
        "levels_qps": list(levels),
        "families": [
            {
                "found_at_qps": qps,
                "fleet": asdict(assess(evaluated.space_of(sized[-1]), sized[-1], demand.peak)),
                "replicas": [[count for _, _, count in _pools(choice)] for choice in sized],
            }
            for qps, sized in (whole[i] for i in _worthwhile([sized for _, sized in whole]))
        ],
    }


def sharing_fleets(evaluated: Evaluated) -> list[dict[str, Any]]:
    """Fleets that leave more of their hosts to other services, as `planner solve` writes them.

    A service by itself takes whole hosts, however few of their devices it needs. These are the
    fleets that take fewer devices of some type than those which take the fewest hosts.
    """
    qps = evaluated.query.workload.qps
    if qps == "max":
        return []
    filling = evaluated.fleets(qps)
    filling = [filling[i] for i in unbeaten(filling)]
    small = _by_device(evaluated).fleets(qps)
    sized = [_sized(evaluated, small[i], qps) for i in unbeaten(small)]
    both = [*filling, *(choice for choice in sized if choice)]
    kept = _worthwhile([[choice] for choice in both])
    return [
        asdict(assess(evaluated.space_of(both[i]), both[i], qps)) for i in kept if i >= len(filling)
    ]


def _at_all(
    evaluated: Evaluated, found: Iterable[tuple[float, Choice]], demands: Sequence[float]
) -> list[tuple[float, list[Choice]]]:
    """Configurations with the replicas that each demand needs, if there are any for all."""
    sized = [(qps, [_sized(evaluated, choice, d) for d in demands]) for qps, choice in found]
    return [(qps, [c for c in choices if c]) for qps, choices in sized if None not in choices]


def _few(demand: Demand) -> list[float]:
    """The peak, the mean, the median and the trough, without demands of zero."""
    levels = np.array(demand.levels)
    wanted = [demand.peak, demand.mean, float(np.median(demand.qps)), levels[0]]
    sized_as = np.searchsorted(levels, np.array(wanted) * (1 - 1e-9))
    return list(dict.fromkeys(levels[sized_as].tolist()))


def _tried(evaluated: Evaluated, demands: Sequence[float]) -> Iterator[tuple[float, Choice]]:
    """The best fleets of every device combination, on whole hosts and by single devices.

    Those that fill their hosts best are not those that leave most of them to other services.
    """
    for found in (evaluated, _by_device(evaluated)):
        for qps in demands:
            choices = found.fleets(qps)
            yield from ((qps, choices[i]) for i in unbeaten(choices))


def _by_device(evaluated: Evaluated) -> Evaluated:
    """The same candidates, as if devices were rented one by one.

    Without fleets whose images a pool of its own encodes.
    """
    runs = {
        tier: {
            True: replace(
                found[True],
                candidates=[
                    replace(c, offer=replace(c.offer, host_devices=1))
                    for c in found[True].candidates
                ],
            )
        }
        for tier, found in evaluated.runs.items()
        if True in found
    }
    spaces = {tier: space for tier, space in evaluated.spaces.items() if tier in runs}
    return replace(evaluated, runs=runs, spaces=spaces)


def _configuration(choice: Choice) -> object:
    """What tells a fleet from others, apart from how many replicas it has."""
    pools = [
        (
            p.candidates.role,
            p.offer.device.name,
            p.candidates.precision,
            int(p.candidates.layout[p.index]),
            int(p.candidates.column[p.index]),
        )
        for p in choice.pools
    ]
    encoder = choice.encoder.offer.device.name if choice.encoder else ""
    return tier_of(choice), tuple(pools), encoder


def _sized(evaluated: Evaluated, choice: Choice, qps: float) -> Choice | None:
    """The same configuration with the replicas that a demand needs; None if none suffice."""
    space = evaluated.spaces[tier_of(choice)]
    offers = {offer.device.name: offer for offer in space.problem.offers}
    alone = [replace(p.one, offer=offers[p.offer.device.name]) for p in choice.pools]
    if choice.encoder is None:
        found = cheapest_fleets(space.problem, alone, qps)
    else:
        device = choice.encoder.offer.device.name
        found = fleets_with_encoder(space, alone, qps, encoders=(device,))
    return found[0] if found else None


def _pools(choice: Choice) -> list[PoolUse]:
    """Device type, devices of a replica and replicas of each pool, the encoder's last."""
    pools = [(p.offer.device.name, p.world, p.replicas) for p in choice.pools]
    encoder = choice.encoder
    return [*pools, (encoder.offer.device.name, 1, encoder.replicas)] if encoder else pools


def _worthwhile(families: Sequence[Sequence[Choice]]) -> list[int]:
    """Those that no other equals or beats in the devices and hosts of every type at all levels."""
    if not families:
        return []
    names = sorted({offer.device.name for sized in families for offer, _ in sized[-1].hosts})
    taken = np.zeros((len(families), len(families[0]), len(names), 2))
    for family, sized in enumerate(families):
        for level, choice in enumerate(sized):
            for device, count in devices_of(_pools(choice)).items():
                taken[family, level, names.index(device), 0] = count
            for offer, hosts in choice.hosts:
                taken[family, level, names.index(offer.device.name), 1] = hosts
    return [int(i) for i in nondominated(taken.reshape(len(families), -1))]
