"""Fleets as they are chosen: pools, their hosts and price, and which of two is preferred."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from planner.candidates import Candidates
from planner.dominance import nondominated
from planner.encoder_pool import EncoderPool
from planner.fleet import hosts_needed, pool_hosts
from planner.margin import simplicity, to_compare
from planner.problem import Offer

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

KINDS = ("continuous", "disaggregated", "heterogeneous")
"""Kinds of fleet, the simpler first."""


TIE = 1e-9
"""Relative difference below which two prices are one."""


def price_to_compare(price: ArrayLike) -> FloatArray:
    """Prices to far fewer digits than `TIE`, so that sums in another order are equal."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.round(np.log(np.asarray(price, dtype=float)), 10))


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
    """A fleet: its pools, hosts by device, and price.

    Attributes:
        encoder: the pool that encodes images, if they have one of their own.
        margin: of `planner.margin.margins`, one fleet's.
    """

    pools: tuple[Pool, ...]
    hosts: tuple[tuple[Offer, int], ...]
    transfer_s: float = 0.0
    encoder: EncoderPool | None = None
    margin: tuple[float, ...] = ()

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


def make_choice(
    pools: Sequence[Pool], transfer_s: float = 0.0, encoder: EncoderPool | None = None
) -> Choice | None:
    """The fleet of these pools on whole hosts, or None where the inventory is too small."""
    by_device: dict[str, tuple[Offer, dict[int, int]]] = {}
    for pool in pools:
        known = (pool.offer, {1: pool.offer.taken} if pool.offer.taken else {})
        _, worlds = by_device.setdefault(pool.offer.device.name, known)
        worlds[pool.world] = worlds.get(pool.world, 0) + pool.replicas
    if encoder is not None:
        offer, worlds = by_device.setdefault(encoder.offer.device.name, (encoder.offer, {}))
        if not offer.taken:
            worlds[1] = worlds.get(1, 0) + encoder.replicas
    hosts = []
    for offer, worlds in by_device.values():
        count = hosts_needed(worlds, offer.host_devices)
        if offer.inventory is not None and count * offer.host_devices > offer.inventory:
            return None
        hosts.append((offer, count))
    return Choice(tuple(pools), tuple(hosts), transfer_s, encoder)


def least_usd_per_hour(offer: Offer, devices: FloatArray | IntArray) -> FloatArray:
    """Price of the whole hosts that so many devices need at least; infinite beyond inventory."""
    whole = np.asarray(devices, dtype=float) + offer.taken
    return _price_of_hosts(offer, np.ceil(whole / offer.host_devices))


def pool_usd_per_hour(offer: Offer, world: IntArray, replicas: FloatArray | IntArray) -> FloatArray:
    """Price of the whole hosts that pools take, each alone; infinite beyond inventory."""
    hosts = pool_hosts(world, replicas, offer.host_devices)
    if offer.taken:
        # Single devices join hosts that have room for them.
        devices = np.asarray(world) * np.asarray(replicas) + offer.taken
        hosts = np.maximum(hosts, -(-devices // offer.host_devices))
    return _price_of_hosts(offer, hosts)


def _price_of_hosts(offer: Offer, hosts: FloatArray | IntArray) -> FloatArray:
    price = hosts * offer.host_devices * offer.usd_per_device_hour
    if offer.inventory is not None:
        price = np.where(hosts * offer.host_devices > offer.inventory, np.inf, price)
    return np.asarray(price)


def pair_usd_per_hour(
    prefill: Offer,
    decode: Offer,
    prefill_devices: FloatArray | IntArray,
    decode_devices: FloatArray | IntArray,
) -> FloatArray:
    """Price of the whole hosts that two pools need at least; infinite beyond inventory."""
    if prefill.device.name == decode.device.name:
        return least_usd_per_hour(prefill, prefill_devices + decode_devices)
    return least_usd_per_hour(prefill, prefill_devices) + least_usd_per_hour(decode, decode_devices)


def rank(choices: Iterable[Choice]) -> list[Choice]:
    """Cheapest first; of equal prices as `preference` has it."""
    return sorted(choices, key=preference)


def preference(choice: Choice) -> tuple[object, ...]:
    """By what fleets are ordered, the best first: to compare, not to show.

    The cheaper; of equal prices the simpler kind, then the one with the greater margin (at the
    least of the limits' and then at the next), fewer devices in use, the simpler configurations.
    """
    pools = 2 * KINDS.index(choice.kind) + (choice.encoder is not None)
    margin = tuple(to_compare(np.array(choice.margin)).tolist())
    in_use = sum(pool.world * pool.replicas for pool in choice.pools)
    simple = [tuple(simplicity(pool.one)[0].tolist()) for pool in choice.pools]
    return (float(price_to_compare(choice.usd_per_hour)), pools, margin, in_use, *simple)


def unbeaten(choices: Sequence[Choice]) -> list[int]:
    """The first, and fleets that none other equals or beats in hosts of every type: indices."""
    names = sorted({offer.device.name for choice in choices for offer, _ in choice.hosts})
    hosts = np.zeros((len(choices), len(names)))
    for row, choice in enumerate(choices):
        for offer, count in choice.hosts:
            hosts[row, names.index(offer.device.name)] += count
    return sorted({*range(min(len(choices), 1)), *nondominated(hosts).tolist()})
