"""Choosing pools: the cheapest fleet of each kind that serves the demand.

`Choice` names one fleet: a continuous pool, or a prefill and a decode pool. For every
device (continuous) and every pair of devices (disaggregated) the cheapest choice is
found; the winner is the cheapest of them, and the others are the runners-up. Among
fleets of one price the one that stays furthest within its limits is taken (`planner.margin`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from perfmodel.kv_transfer import receiver_columns
from planner import sizing
from planner.candidates import Candidates
from planner.choice import (
    KINDS,
    TIE,
    Choice,
    Pool,
    make_choice,
    pair_usd_per_hour,
    pool_usd_per_hour,
    preference,
)
from planner.dominance import nondominated, reduce_decode
from planner.margin import margins, preferred
from planner.problem import Problem
from planner.transfer import (
    least_sender_replicas,
    receiver_replicas,
    sender_replicas,
    transfer_s,
)

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

BLOCK = 65536

DECODE_COUNTS = 64
"""Replica counts of a decode pool that are tried, from capacity alone to prompt admission."""


def best_continuous(problem: Problem, pool: Candidates, qps: float) -> Choice | None:
    """The cheapest continuous fleet among one device's candidates.

    Candidates are sized in the order of a lower bound on their price (no queueing), until the
    bound exceeds the best price found.
    """
    if len(pool) == 0:
        return None
    offer = pool.offer
    bound = pool_usd_per_hour(offer, pool.world, sizing.least_replicas(problem, pool, qps))
    order = np.argsort(bound, kind="stable")
    order = order[np.isfinite(bound[order])]
    best: Choice | None = None
    start, size = 0, 1024
    while start < len(order):
        rows = order[start : start + size]
        if best is not None and bound[rows[0]] > best.usd_per_hour * (1 + TIE):
            break
        part = pool.take(rows)
        slack = _first_token_slack(problem, part)
        handling = problem.handling_s(part.iteration_s, disaggregated=False)
        replicas = sizing.replicas_for_ttft(problem, part, qps, handling, slack)
        found = _cheapest(problem, part, replicas, handling, qps)
        if found is not None and (best is None or preference(found) < preference(best)):
            best = found
        start += size
        size = min(size * 4, BLOCK)
    return best


def _cheapest(
    problem: Problem, part: Candidates, replicas: IntArray, handling_s: FloatArray, qps: float
) -> Choice | None:
    """The cheapest fleet of these candidates, of equal ones that with the greatest margin."""
    reachable = replicas != sizing.UNREACHABLE
    counts = np.where(reachable, replicas, 0)
    price = np.where(reachable, pool_usd_per_hour(part.offer, part.world, counts), np.inf)
    while np.isfinite(least := price.min()):
        tied = np.flatnonzero(price <= least * (1 + TIE))
        some, count = part.take(tied), counts[tied]
        needed = count.astype(float)
        margin = margins(problem, some, needed, qps, some, needed, handling_s[tied])
        for i in preferred(some, margin, count * some.world):
            choice = make_choice([Pool(part, int(tied[i]), int(count[i]))])
            if choice is not None:
                return replace(choice, margin=tuple(margin[i].tolist()))
        price[tied] = np.inf
    return None


def best_pairs(
    problem: Problem,
    prefill: Sequence[Candidates],
    decode: Sequence[Candidates],
    qps: float,
    kinds: Sequence[str] = ("disaggregated", "heterogeneous"),
) -> list[Choice]:
    """The cheapest fleet of every pair of devices: of one type, of two, or both kinds.

    Of pairs of one price, one on the fewest devices; on these, the candidates of most margin.

    Pools are paired only if their KV caches have one format.
    """
    found: dict[tuple[str, str], Choice] = {}
    sized = [
        _size_decode(problem, reduce_decode(problem, pool), qps) for pool in decode if len(pool)
    ]
    for p in (_bounded(problem, pool, qps) for pool in prefill if len(pool)):
        for d in sized:
            if len(d.pool) == 0 or p.pool.precision.kv != d.pool.precision.kv:
                continue
            names = (p.pool.offer.device.name, d.pool.offer.device.name)
            kind = "disaggregated" if names[0] == names[1] else "heterogeneous"
            if kind not in kinds:
                continue
            known = found.get(names)
            limit = known.usd_per_hour * (1 + TIE) if known else np.inf
            choice = _best_pair(problem, p, d, qps, limit)
            if choice is not None:
                choice = _roomiest(problem, choice, [*prefill, *decode], qps)
                if known is None or preference(choice) < preference(known):
                    found[names] = choice
    return list(found.values())


@dataclass(frozen=True)
class _SizedDecode:
    """Decode pools worth pairing, each with its replicas.

    Attributes:
        delay_s: what a first token waits for on their account: a slot, and the engine.
    """

    pool: Candidates
    replicas: IntArray
    delay_s: FloatArray

    @property
    def devices(self) -> IntArray:
        return self.replicas * self.pool.world

    def take(self, index: NDArray[np.intp]) -> _SizedDecode:
        return _SizedDecode(self.pool.take(index), self.replicas[index], self.delay_s[index])


def _size_decode(problem: Problem, pool: Candidates, qps: float) -> _SizedDecode:
    """Decode candidates sized for the demand, without those that another makes needless.

    To a prefill pool the decode side matters by its devices, by how long it delays a first
    token, by how it splits the cache that it is sent, and (with an end-to-end objective) by
    its time between tokens. Where replicas leave gaps in a host, smaller ones may share it
    better: then their size matters too.
    """
    least = np.maximum(
        sizing.least_replicas(problem, pool, qps), receiver_replicas(problem, pool, qps)
    )
    most = sizing.prompt_admission(problem, pool, qps)
    most = np.maximum(np.where(most == sizing.UNREACHABLE, least, most), least)
    # Every count between the two: a wait for a slot may be paid for by a faster prefill pool.
    counts = np.minimum(most - least + 1, DECODE_COUNTS)
    rows = np.repeat(np.arange(len(pool)), counts)
    step = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    gap = (most - least)[rows] / np.maximum(counts - 1, 1)[rows]
    replicas = least[rows] + np.round(step * gap).astype(np.int64)
    pool = pool.take(rows)
    delay = sizing.slot_waiting(problem, pool, replicas.astype(float), qps).mean_s
    delay = delay + problem.handling_s(pool.iteration_s, disaggregated=True)
    columns = [(replicas * pool.world).astype(float), delay]
    columns += receiver_columns(pool.cache_heads, pool.layouts[pool.layout])
    if problem.slo.e2e is not None:
        columns.append(pool.ttit_s)
    if pool.offer.host_devices & (pool.offer.host_devices - 1):
        columns.append(pool.world)
    kept = nondominated(np.stack(columns, axis=1))
    return _SizedDecode(pool.take(kept), replicas[kept], delay[kept])


@dataclass(frozen=True)
class _BoundedPrefill:
    """Prefill candidates in the order of the fewest devices that their capacity allows."""

    pool: Candidates
    least_replicas: IntArray

    @property
    def least_devices(self) -> IntArray:
        return self.least_replicas * self.pool.world


def _bounded(problem: Problem, pool: Candidates, qps: float) -> _BoundedPrefill:
    links = least_sender_replicas(problem, pool, qps)
    replicas = np.maximum(sizing.least_replicas(problem, pool, qps), links)
    order = np.argsort(replicas * pool.world, kind="stable")
    return _BoundedPrefill(pool.take(order), replicas[order])


@dataclass(frozen=True)
class _Block:
    """Prefill candidates (P) beside sized decode pools (D); arrays are (D, P).

    Attributes:
        least_replicas: of the prefill candidates, by capacity and by network links.
        moving_s: time to transfer a request's cache.
        limit: a fleet must be cheaper, USD per hour.
    """

    prefill: Candidates
    least_replicas: IntArray
    decode: _SizedDecode
    moving_s: FloatArray
    limit: float

    def cost(self, replicas: IntArray) -> tuple[FloatArray, FloatArray]:
        """Price of the whole hosts that prefill replicas lead to, and of the devices in use."""
        offers = self.prefill.offer, self.decode.pool.offer
        devices = np.maximum(replicas, self.least_replicas) * self.prefill.world
        beside = self.decode.devices[:, None]
        in_use = devices * offers[0].usd_per_device_hour + beside * offers[1].usd_per_device_hour
        return pair_usd_per_hour(*offers, devices, beside), in_use

    def choice(self, i: int, j: int, replicas: int) -> Choice | None:
        """The fleet of decode pool `i` and so many replicas of prefill candidate `j`."""
        count = max(replicas, int(self.least_replicas[i, j]))
        pools = [
            Pool(self.prefill, j, count),
            Pool(self.decode.pool, i, int(self.decode.replicas[i])),
        ]
        return make_choice(pools, float(self.moving_s[i, j]))

    def worth(self, known: BoolArray, counts: IntArray, best: _Best | None) -> BoolArray:
        """Where one replica more than `counts` may still be cheapest, some fleets being known."""
        bar = (self.limit, np.inf) if best is None else best[:2]
        price, in_use = self.cost(counts)
        cells = np.flatnonzero(known & (price < self.limit))
        if len(cells):
            cell = cells[np.lexsort((in_use.ravel()[cells], price.ravel()[cells]))[0]]
            i, j = (int(v) for v in np.unravel_index(cell, price.shape))
            choice = self.choice(i, j, int(counts[j]))
            if choice is not None:
                bar = min(bar, (choice.usd_per_hour, float(in_use[i, j])))
        price, in_use = self.cost(counts + 1)
        # Sums in another order differ in the last digits.
        equal = np.isclose(price, bar[0], rtol=1e-12, atol=0.0)
        return (price < self.limit) & np.where(equal, in_use <= bar[1], price < bar[0])

    def cheapest(self, replicas: IntArray, best: _Best | None) -> _Best | None:
        """The cheapest fleet of the block, or `best` where none is cheaper."""
        ok = replicas != sizing.UNREACHABLE
        price, in_use = self.cost(np.where(ok, replicas, 0))
        cells = np.flatnonzero(ok & (price < self.limit))
        # Of fleets that need as many hosts, prefer the one that leaves most of them idle.
        for cell in cells[np.lexsort((in_use.ravel()[cells], price.ravel()[cells]))]:
            i, j = (int(v) for v in np.unravel_index(cell, price.shape))
            key = (float(price[i, j]), float(in_use[i, j]))
            if best is not None and key >= best[:2]:
                break
            choice = self.choice(i, j, int(replicas[i, j]))
            if choice is not None:
                key = (choice.usd_per_hour, key[1])
                if key[0] < self.limit and (best is None or key < best[:2]):
                    best = (*key, choice)
        return best


_Best = tuple[float, float, Choice]
"""Price of a fleet, price of the devices that it uses, and the fleet."""


PROMISING = 64
"""Decode pools, by devices and again by delay, among which a first fleet is sought."""


def _best_pair(
    problem: Problem, prefill: _BoundedPrefill, d: _SizedDecode, qps: float, limit: float
) -> Choice | None:
    """The cheapest fleet of two device types, if cheaper than `limit`.

    A few decode pools give a first fleet, against whose price most others need not be tried.
    """
    by_devices = np.lexsort((d.delay_s, d.devices))[:PROMISING]
    by_delay = np.lexsort((d.devices, d.delay_s))[:PROMISING]
    few = d.take(np.union1d(by_devices, by_delay))
    best = _searched(problem, prefill, few, qps, limit, None, blocks=1)
    best = _searched(problem, prefill, d, qps, limit, best)
    return best[2] if best else None


def _searched(
    problem: Problem,
    prefill: _BoundedPrefill,
    d: _SizedDecode,
    qps: float,
    limit: float,
    best: _Best | None,
    blocks: float = np.inf,
) -> _Best | None:
    """The cheapest fleet of these pools, or `best` where none is cheaper.

    Prefill candidates are sized in the order of a lower bound on their devices; the search ends
    when even that bound is no cheaper than the best fleet found, or after so many blocks.
    """
    p_offer, d_offer = prefill.pool.offer, d.pool.offer
    least_devices = prefill.least_devices
    start, size = 0, 512
    while start < len(prefill.pool) and blocks > 0:
        bound = pair_usd_per_hour(p_offer, d_offer, least_devices[start], d.devices)
        fewest = least_devices[start] * p_offer.usd_per_device_hour
        least_idle = fewest + d.devices * d_offer.usd_per_device_hour
        open_ = np.flatnonzero(
            bound < limit
            if best is None
            else (bound < best[0]) | ((bound == best[0]) & (least_idle < best[1]))
        )
        if len(open_) == 0:
            break
        rows = np.arange(start, min(start + size, len(prefill.pool)))
        part, decode = prefill.pool.take(rows), d.take(open_)
        moving = transfer_s(problem, part, decode.pool).T  # candidates on the last axis
        least = np.maximum(
            prefill.least_replicas[rows], sender_replicas(problem, part, decode.pool, qps).T
        )
        block = _Block(part, least, decode, moving, limit)
        replicas = sizing.replicas_for_ttft(
            problem,
            part,
            qps,
            moving + decode.delay_s[:, None],
            _first_token_slack(problem, decode.pool)[:, None],
            moving,
            partial(block.worth, counts=sizing.least_replicas(problem, part, qps), best=best),
        )
        best = block.cheapest(replicas, best)
        start += size
        size = max(min(size * 2, BLOCK // max(len(open_), 1)), 1)
        blocks -= 1
    return best


def _roomiest(
    problem: Problem, choice: Choice, candidates: Sequence[Candidates], qps: float
) -> Choice:
    """A fleet of two pools with another candidate in one, then in the other, of more margin.

    Each pool keeps its devices. What pairs were searched among is chosen by price: of the decode
    candidates that serve as much, any.
    """
    for position in (0, 1):
        pool = choice.pools[position]
        alike = [
            block
            for block in candidates
            if (block.role, block.offer) == (pool.candidates.role, pool.offer)
            and block.precision.kv == pool.candidates.precision.kv
        ]
        found = [_of_most_margin(problem, choice, position, block, qps) for block in alike]
        choice = min((one for one in found if one), key=preference, default=choice)
    return choice


def _of_most_margin(
    problem: Problem, choice: Choice, position: int, block: Candidates, qps: float
) -> Choice | None:
    """The fleet with another candidate in a pool, among those that serve on as many devices."""
    devices = choice.pools[position].world * choice.pools[position].replicas
    counts = devices // block.world
    rows = np.flatnonzero(counts >= sizing.least_replicas(problem, block, qps))
    if len(rows) == 0:
        return None
    block, counts = block.take(rows), counts[rows]
    sides = [pool.one for pool in choice.pools]
    replicas = [np.array([pool.replicas]) for pool in choice.pools]
    sides[position], replicas[position] = block, counts
    prefill, decode = sides
    moving = transfer_s(problem, prefill, decode).ravel()
    senders, receivers = (count.astype(float) for count in replicas)
    slots = sizing.slot_waiting(problem, decode, receivers, qps)
    delay = moving + slots.mean_s + problem.handling_s(decode.iteration_s, disaggregated=True)
    margin = margins(problem, prefill, senders, qps, decode, receivers, delay, moving)
    meets = (
        (margin >= -TIE).all(axis=1)
        & (sender_replicas(problem, prefill, decode, qps).ravel() <= replicas[0])
        & (receiver_replicas(problem, decode, qps) <= replicas[1])
    )
    kept = np.flatnonzero(meets)
    in_use = (counts * block.world)[kept]
    for i in kept[preferred(block.take(kept), margin[kept], in_use)]:
        pools = list(choice.pools)
        pools[position] = Pool(block, int(i), int(counts[i]))
        found = make_choice(pools, float(moving[i]))
        if found is not None and found.usd_per_hour <= choice.usd_per_hour * (1 + TIE):
            return replace(found, margin=tuple(margin[i].tolist()))
    return None


def _first_token_slack(problem: Problem, pool: Candidates) -> FloatArray:
    """What the end-to-end objective leaves for the first token, mean; infinite without one."""
    if problem.slo.e2e is None:
        return np.full(len(pool), np.inf)
    slack: FloatArray = problem.slo.e2e.seconds - problem.traffic.outputs.mean * pool.ttit_s
    return slack


def cheapest_fleets(
    problem: Problem,
    candidates: Sequence[Candidates],
    qps: float,
    kinds: Sequence[str] = KINDS,
) -> list[Choice]:
    """The cheapest fleet of every device combination of the given kinds, unordered."""
    choices: list[Choice] = []
    if "continuous" in kinds:
        for mixed in (c for c in candidates if c.role == "continuous"):
            choice = best_continuous(problem, mixed, qps)
            if choice is not None:
                choices.append(choice)
    if "disaggregated" in kinds or "heterogeneous" in kinds:
        prefill = [c for c in candidates if c.role == "prefill"]
        decode = [c for c in candidates if c.role == "decode"]
        choices += best_pairs(problem, prefill, decode, qps, kinds)
    return choices
