"""Choosing pools: the cheapest fleet of each kind that serves the demand.

`Choice` names one fleet: a continuous pool, or a prefill and a decode pool. For every
device (continuous) and every pair of devices (disaggregated) the cheapest choice is
found; the winner is the cheapest of them, and the others are the runners-up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perfmodel.operators.collective import NETWORK_EFFICIENCY
from planner import sizing
from planner.dominance import nondominated, reduce
from planner.fleet import hosts_needed
from planner.problem import Offer, Problem
from planner.sweep import Candidates

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

BLOCK = 65536


@dataclass(frozen=True)
class Pool:
    """One candidate, taken `replicas` times."""

    candidates: Candidates
    index: int
    replicas: int

    @property
    def offer(self) -> Offer:
        """The device it runs on."""
        return self.candidates.offer

    @property
    def one(self) -> Candidates:
        """The candidate alone, arrays of length 1."""
        return self.candidates.take(np.array([self.index]))

    @property
    def world(self) -> int:
        """Devices of one replica."""
        return int(self.candidates.world[self.index])

    @property
    def qps(self) -> float:
        """Capacity of all replicas, requests/s."""
        return float(self.candidates.qps[self.index]) * self.replicas


@dataclass(frozen=True)
class Choice:
    """A fleet: its pools, hosts by device, and price."""

    pools: tuple[Pool, ...]
    hosts: tuple[tuple[Offer, int], ...]
    transfer_s: float = 0.0

    @property
    def usd_per_hour(self) -> float:
        """Price of all hosts."""
        return sum(o.usd_per_device_hour * o.host_devices * n for o, n in self.hosts)

    @property
    def devices(self) -> int:
        """Devices in all hosts."""
        return sum(o.host_devices * n for o, n in self.hosts)

    @property
    def kind(self) -> str:
        """`continuous`, `disaggregated` (one device type) or `heterogeneous` (two)."""
        if len(self.pools) == 1:
            return "continuous"
        same = self.pools[0].offer.device.name == self.pools[1].offer.device.name
        return "disaggregated" if same else "heterogeneous"


def make_choice(pools: Sequence[Pool], transfer_s: float = 0.0) -> Choice | None:
    """The fleet of these pools on whole hosts, or None where the inventory is too small."""
    by_device: dict[str, tuple[Offer, dict[int, int]]] = {}
    for pool in pools:
        _, worlds = by_device.setdefault(pool.offer.device.name, (pool.offer, {}))
        worlds[pool.world] = worlds.get(pool.world, 0) + pool.replicas
    hosts = []
    for offer, worlds in by_device.values():
        count = hosts_needed(worlds, offer.host_devices)
        if offer.inventory is not None and count * offer.host_devices > offer.inventory:
            return None
        hosts.append((offer, count))
    return Choice(tuple(pools), tuple(hosts), transfer_s)


def least_usd_per_hour(offer: Offer, devices: FloatArray | IntArray) -> FloatArray:
    """Price of the whole hosts that so many devices need at least; infinite beyond inventory."""
    hosts = np.ceil(np.asarray(devices, dtype=float) / offer.host_devices)
    price = hosts * offer.host_devices * offer.usd_per_device_hour
    if offer.inventory is not None:
        price = np.where(hosts * offer.host_devices > offer.inventory, np.inf, price)
    return np.asarray(price)


def best_continuous(problem: Problem, pool: Candidates, qps: float) -> Choice | None:
    """The cheapest continuous fleet among one device's candidates.

    Candidates are sized in the order of a lower bound on their price (no queueing), until the
    bound exceeds the best price found.
    """
    if len(pool) == 0:
        return None
    offer = pool.offer
    least = np.ceil(qps / (pool.qps * problem.max_utilization) * (1 - 1e-9))
    bound = least_usd_per_hour(offer, np.maximum(least, 1) * pool.world)
    order = np.argsort(bound, kind="stable")
    order = order[np.isfinite(bound[order])]
    best: tuple[tuple[float, float], Choice] | None = None
    start, size = 0, 1024
    while start < len(order):
        rows = order[start : start + size]
        if best is not None and bound[rows[0]] > best[0][0]:
            break
        part = pool.take(rows)
        replicas = sizing.replicas_for_ttft(problem, part, qps, 0.0)
        for found in _cheapest_first(offer, part, replicas):
            price = found.usd_per_hour
            # Of equal prices, the one with the most capacity to spare.
            key = (price, -found.pools[0].qps / price)
            if best is None or key < best[0]:
                best = (key, found)
            break
        start += size
        size = min(size * 4, BLOCK)
    return best[1] if best else None


def _cheapest_first(offer: Offer, part: Candidates, replicas: IntArray) -> Iterable[Choice]:
    reachable = replicas != sizing.UNREACHABLE
    devices = np.where(reachable, replicas, 0) * part.world
    price = np.where(reachable, least_usd_per_hour(offer, devices), np.inf)
    capacity = part.qps * np.where(reachable, replicas, 0)
    for index in np.lexsort((-capacity, price)):
        if not np.isfinite(price[index]):
            return
        choice = make_choice([Pool(part, int(index), int(replicas[index]))])
        if choice is not None:
            yield choice


def best_pairs(
    problem: Problem,
    prefill: Sequence[Candidates],
    decode: Sequence[Candidates],
    qps: float,
) -> list[Choice]:
    """The cheapest disaggregated fleet of every pair of devices.

    `prefill` and `decode` hold reduced candidates (`dominance.reduce`); pools are paired only
    if their KV caches have one format.
    """
    found: dict[tuple[str, str], Choice] = {}
    sized = [(pool, sizing.replicas_for_slots(problem, pool, qps)) for pool in decode if len(pool)]
    for p in prefill:
        for d, replicas in sized:
            if len(p) == 0 or p.precision.kv != d.precision.kv:
                continue
            choice = _best_pair(problem, p, d, replicas, qps)
            names = (p.offer.device.name, d.offer.device.name)
            if choice and (names not in found or choice.usd_per_hour < found[names].usd_per_hour):
                found[names] = choice
    return list(found.values())


def transfer_s(problem: Problem, p: Candidates, d: Candidates) -> FloatArray:
    """Time to move one request's KV cache between pools, (P, D), seconds.

    Every device that holds a different part of the cache sends it over its own network link;
    the slower side sets the pace. The cached prefix is on both sides already.
    """
    tokens = problem.traffic.mean_new_tokens
    payload = problem.model.kv_bytes(int(np.ceil(tokens)), p.precision.bytes("kv"))
    sender = p.shards * p.offer.device.network.bandwidth_bytes_per_s
    receiver = d.shards * d.offer.device.network.bandwidth_bytes_per_s
    rate = np.minimum(sender[:, None], receiver[None, :]) * NETWORK_EFFICIENCY
    latency = max(p.offer.device.network.latency_s, d.offer.device.network.latency_s)
    return np.asarray(latency + payload / rate)


def _best_pair(
    problem: Problem, p: Candidates, d: Candidates, decode_replicas: IntArray, qps: float
) -> Choice | None:
    reachable = decode_replicas != sizing.UNREACHABLE
    if not reachable.any():
        return None
    d, decode_replicas = d.take(reachable), decode_replicas[reachable]
    admission = sizing.slot_waiting(problem, d, decode_replicas.astype(float), qps).mean_s
    decode_devices = decode_replicas * d.world
    # The decode side matters to prefill only by how long admission and transfer take.
    keys = np.stack([decode_devices.astype(float), admission, -d.shards], axis=1)
    kept = nondominated(keys)
    d, decode_replicas = d.take(kept), decode_replicas[kept]
    decode_devices, admission = decode_devices[kept], admission[kept]

    moving = transfer_s(problem, p, d)
    extra = (moving + admission[None, :]).T  # (D, P): candidates on the last axis
    prefill_replicas = sizing.replicas_for_ttft(problem, p, qps, extra)
    ok = prefill_replicas != sizing.UNREACHABLE
    prefill_devices = np.where(ok, prefill_replicas, 0) * p.world
    if p.offer.device.name == d.offer.device.name:
        bound = least_usd_per_hour(p.offer, prefill_devices + decode_devices[:, None])
    else:
        bound = least_usd_per_hour(p.offer, prefill_devices)
        bound = bound + least_usd_per_hour(d.offer, decode_devices)[:, None]
    bound = np.where(ok, bound, np.inf)
    exact = (
        prefill_devices * p.offer.usd_per_device_hour
        + (decode_devices * d.offer.usd_per_device_hour)[:, None]
    )
    # Of fleets that need as many hosts, prefer the one that leaves most of them idle.
    order = np.lexsort((exact.ravel(), bound.ravel()))
    best: Choice | None = None
    for flat in order:
        price = bound.ravel()[flat]
        if not np.isfinite(price) or (best is not None and price >= best.usd_per_hour):
            break
        i, j = np.unravel_index(flat, bound.shape)
        pools = [
            Pool(p, int(j), int(prefill_replicas[i, j])),
            Pool(d, int(i), int(decode_replicas[i])),
        ]
        choice = make_choice(pools, float(moving[j, i]))
        if choice is not None and (best is None or choice.usd_per_hour < best.usd_per_hour):
            best = choice
    return best


def cheapest_fleets(problem: Problem, candidates: Sequence[Candidates], qps: float) -> list[Choice]:
    """The cheapest fleet of every kind and device combination at a demand, unordered.

    `candidates` may be reduced already; reducing again changes nothing.
    """
    pools = {
        role: [reduce(problem, c) for c in candidates if c.role == role]
        for role in ("prefill", "decode")
    }
    choices = best_pairs(problem, pools["prefill"], pools["decode"], qps)
    for mixed in (c for c in candidates if c.role == "continuous"):
        choice = best_continuous(problem, mixed, qps)
        if choice is not None:
            choices.append(choice)
    return choices


def rank(choices: Iterable[Choice]) -> list[Choice]:
    """Cheapest first; of equal prices the simpler fleet, then the one with more to spare."""
    kinds = {"continuous": 0, "disaggregated": 1, "heterogeneous": 2}

    def key(choice: Choice) -> tuple[float, int, float]:
        spare = min(pool.qps for pool in choice.pools)
        return (round(choice.usd_per_hour, 6), kinds[choice.kind], -spare)

    return sorted(choices, key=key)


__all__ = [
    "Choice",
    "Pool",
    "best_continuous",
    "best_pairs",
    "cheapest_fleets",
    "make_choice",
    "rank",
    "reduce",
    "transfer_s",
]
