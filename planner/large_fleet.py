"""Large fleets: no whole hosts, no queueing, yet all targets in full.

In a large fleet a request/s costs what the devices of a fully loaded replica cost over its rate,
of both pools if there are two (`planner.rates`): as fast as it computes, or as its network links
carry the caches that pools send each other, if these are slower. A first token takes what it takes
on an idle fleet: its steps, what the engine adds (late first tokens among it, which decoding
paces), and the transfer of its cache. Plans of growing demand under steady arrivals
(`planner.solve`) approach these prices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from perfmodel.kv_transfer import receiver_columns
from planner.candidates import Candidates
from planner.choice import KINDS, TIE, price_to_compare
from planner.dominance import nondominated
from planner.evaluated import Evaluated
from planner.sweep import Space
from planner.transfer import cache_splits, receiving_s, sending_s, transfer_s

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.intp]
BoolArray = NDArray[np.bool_]
Against = Literal["ttit", "ttft"]


def devices_per_qps(found: Candidates, link_s: FloatArray | float = 0.0) -> FloatArray:
    """Devices that serve each request/s in one pool whose replicas are fully loaded, (N,).

    Args:
        link_s: time that a request's cache takes on a replica's links, candidates on the last axis
            (`planner.transfer`); the result then has its shape.
    """
    return np.asarray(found.world * np.maximum(1.0 / found.qps, link_s))


def usd_per_hour_per_qps(found: Candidates, link_s: FloatArray | float = 0.0) -> FloatArray:
    """Price of each request/s in such a pool, likewise."""
    return devices_per_qps(found, link_s) * found.offer.usd_per_device_hour


def found_by_tier(evaluated: Evaluated) -> Iterator[tuple[Space, list[Candidates]]]:
    """The candidates of each place of prefixes; images are encoded where prompts are taken."""
    for tier, runs in evaluated.runs.items():
        yield evaluated.spaces[tier], (runs.get(True) or runs[False]).candidates


@dataclass(frozen=True)
class LargeFleet:
    """One or two pools, each one candidate (arrays of length 1), loaded fully.

    Attributes:
        link_s: of `devices_per_qps`, by pool.
        delay_s: what a first token waits for besides its steps.
    """

    pools: tuple[Candidates, ...]
    link_s: tuple[float, ...]
    delay_s: float

    @property
    def kind(self) -> str:
        """Of `planner.choice.KINDS`."""
        return kind_of(self.devices)

    @property
    def devices(self) -> tuple[str, ...]:
        """Types, one for each pool."""
        return tuple(pool.offer.device.name for pool in self.pools)

    @property
    def usd_per_hour_per_qps(self) -> float:
        """Of all pools."""
        each = zip(self.devices_per_qps, self.pools, strict=True)
        return sum(devices * pool.offer.usd_per_device_hour for devices, pool in each)

    @property
    def devices_per_qps(self) -> tuple[float, ...]:
        """By pool."""
        loaded = zip(self.pools, self.link_s, strict=True)
        return tuple(float(devices_per_qps(pool, link)[0]) for pool, link in loaded)

    @property
    def qps_per_device(self) -> float:
        """Over all devices."""
        return 1.0 / sum(self.devices_per_qps)

    @property
    def ttft_s(self) -> float:
        """Mean."""
        return float(self.pools[0].service_s[0]) + self.delay_s

    @property
    def ttit_s(self) -> float:
        """Mean, every slot taken."""
        return float(self.pools[-1].ttit_s[0])


def kind_of(devices: Sequence[str]) -> str:
    """Of `planner.choice.KINDS`, by the device types of the pools."""
    return KINDS[0] if len(devices) == 1 else KINDS[1 + (len(set(devices)) > 1)]


@dataclass(frozen=True)
class Fleets:
    """Large fleets of one or two blocks of candidates, as arrays over fleets, (K,) each.

    Attributes:
        blocks: of candidates, one for each pool.
        rows: which candidate of each block.
        link_s: of each block's candidate, as `LargeFleet` has it.
        delay_s: as `LargeFleet` has it.
        latency_s: what they were compared by.
        usd_per_hour_per_qps: likewise.
    """

    blocks: tuple[Candidates, ...]
    rows: tuple[IndexArray, ...]
    link_s: tuple[FloatArray, ...]
    delay_s: FloatArray
    latency_s: FloatArray
    usd_per_hour_per_qps: FloatArray

    @property
    def devices(self) -> tuple[str, ...]:
        """Types, one for each pool."""
        return tuple(block.offer.device.name for block in self.blocks)

    def fleet(self, k: int) -> LargeFleet:
        """One of them."""
        pools = zip(self.blocks, self.rows, strict=True)
        return LargeFleet(
            tuple(block.take(rows[k : k + 1]) for block, rows in pools),
            tuple(float(link[k]) for link in self.link_s),
            float(self.delay_s[k]),
        )


def large_fleets(evaluated: Evaluated, kinds: Sequence[str] = KINDS) -> list[LargeFleet]:
    """For each kind and device types the cheapest that meets the query's targets; cheapest first.

    Of an end-to-end target only the decoding is counted.
    """
    best: dict[tuple[str, ...], tuple[float, Fleets, int]] = {}
    for fleets in along(evaluated, "ttit", kinds):
        # Of those on a front, the cheapest is also the slowest: of as cheap ones take the soonest.
        least = fleets.usd_per_hour_per_qps.min() * (1 + TIE)
        cheapest = np.flatnonzero(fleets.usd_per_hour_per_qps <= least)
        k = int(cheapest[fleets.latency_s[cheapest].argmin()])
        price = float(fleets.usd_per_hour_per_qps[k])
        known = best.get(fleets.devices)
        if known is None or price < known[0] * (1 - TIE):
            best[fleets.devices] = (price, fleets, k)
    ordered = sorted(best.values(), key=lambda item: item[0])
    return [fleets.fleet(k) for _, fleets, k in ordered]


def along(evaluated: Evaluated, against: Against, kinds: Sequence[str] = KINDS) -> Iterator[Fleets]:
    """The front between a latency and the price of each block, or pair of blocks, of candidates.

    Fleets meet the query's targets; pools of a pair have one KV cache format.
    """
    for space, found in found_by_tier(evaluated):
        pools = [pool for pool in found if len(pool)]
        if "continuous" in kinds:
            for pool in pools:
                if pool.role == "continuous":
                    yield from _continuous(space, pool, against)
        first = [(p, _fewer_prefill(p)) for p in pools if p.role == "prefill"]
        last = [(p, _fewer_decode(space, p)) for p in pools if p.role == "decode"]
        for prefill, few_prefill in first:
            for decode, few_decode in last:
                kind = kind_of((prefill.offer.device.name, decode.offer.device.name))
                if kind in kinds and prefill.precision.kv == decode.precision.kv:
                    rough = list(_paired(space, few_prefill, few_decode, against))
                    others = _worth_pairing(space, prefill, decode, against, rough)
                    yield from _paired(space, *others, against)


def _continuous(space: Space, pool: Candidates, against: Against) -> Iterator[Fleets]:
    delay = space.problem.handling_s(pool.iteration_s, disaggregated=False)
    kept = np.flatnonzero(_in_time(space, pool.latency_s, delay))
    price = usd_per_hour_per_qps(pool)[kept]
    none = np.zeros(len(kept))
    yield from _front((pool,), (kept,), (none,), delay[kept], price, against)


def _paired(
    space: Space, prefill: Candidates, decode: Candidates, against: Against
) -> Iterator[Fleets]:
    """Of all pairs, (P, D), those in time that none beats."""
    handling = space.problem.handling_s(decode.iteration_s, disaggregated=True)
    delay = handling + transfer_s(space.problem, prefill, decode)
    rows, columns = np.nonzero(_in_time(space, prefill.latency_s[:, None], delay))
    sending = sending_s(space.problem, prefill, decode)
    receiving = receiving_s(space.problem, decode)
    price = usd_per_hour_per_qps(prefill, sending.T).T + usd_per_hour_per_qps(decode, receiving)
    link_s, at = (sending[rows, columns], receiving[columns]), (rows, columns)
    yield from _front((prefill, decode), at, link_s, delay[at], price[at], against)


def _front(
    blocks: tuple[Candidates, ...],
    rows: tuple[IndexArray, ...],
    link_s: tuple[FloatArray, ...],
    delay_s: FloatArray,
    price: FloatArray,
    against: Against,
) -> Iterator[Fleets]:
    """Of some fleets those that none beats; of as fast and cheap ones the soonest in the other."""
    first_s = blocks[0].service_s[rows[0]] + delay_s
    between_s = blocks[-1].ttit_s[rows[-1]]
    latency_s, other_s = (between_s, first_s) if against == "ttit" else (first_s, between_s)
    order = np.argsort(other_s, kind="stable")
    kept = order[nondominated(np.stack([latency_s, price_to_compare(price)], axis=1)[order])]
    if len(kept):
        yield Fleets(
            blocks,
            tuple(index[kept] for index in rows),
            tuple(link[kept] for link in link_s),
            delay_s[kept],
            latency_s[kept],
            price[kept],
        )


def _fewer_prefill(pool: Candidates) -> Candidates:
    """Candidates that none is cheaper and faster than; how they split a cache is not compared.

    Batches of prompts share links when their caches are sent.
    """
    return pool.take(nondominated(_prefill_columns(pool)))


def _prefill_columns(pool: Candidates) -> FloatArray:
    columns = [usd_per_hour_per_qps(pool), *pool.latency_s.T, pool.batch.astype(float)]
    return np.stack(columns, axis=1)


def _fewer_decode(space: Space, pool: Candidates) -> Candidates:
    """Likewise: by price, time between tokens, and what late first tokens wait for."""
    return pool.take(nondominated(np.stack(_decode_columns(space, pool), axis=1)))


def _decode_columns(space: Space, pool: Candidates) -> list[FloatArray]:
    columns = [_decode_usd(space, pool), pool.ttit_s]
    return columns if np.all(pool.iteration_s == pool.ttit_s) else [*columns, pool.iteration_s]


def _decode_usd(space: Space, pool: Candidates) -> FloatArray:
    """What each request/s costs, by computing or by receiving caches."""
    return usd_per_hour_per_qps(pool, receiving_s(space.problem, pool))


def _worth_pairing(
    space: Space, prefill: Candidates, decode: Candidates, against: Against, rough: list[Fleets]
) -> tuple[Candidates, Candidates]:
    """The candidates that may belong to fleets as good as known ones, or better.

    Each is given the cheapest and fastest partner, and a transfer that takes neither time nor
    links. Of those left, how they split a cache is compared too: it decides how long it takes to
    send. (Prefill replicas that split it alike have as many devices for each rank, and their links
    cost as much.)
    """
    latency = np.concatenate([np.zeros(0), *(known.latency_s for known in rough)])
    price = np.concatenate([np.zeros(0), *(known.usd_per_hour_per_qps for known in rough)])
    order = np.argsort(latency)
    bar = np.concatenate([[np.inf], np.minimum.accumulate(price[order])]) * (1 + TIE)

    def hopeful(pool: Candidates, soonest: FloatArray, usd: FloatArray) -> Candidates:
        known = np.searchsorted(latency[order], soonest * (1 + 1e-12), side="right")
        return pool.take(np.flatnonzero(usd <= bar[known]))

    handling = space.problem.handling_s(decode.iteration_s, disaggregated=True)
    in_time = _in_time(space, prefill.latency_s, np.full(len(prefill), handling.min()))
    prefill = prefill.take(np.flatnonzero(in_time))
    if len(prefill) == 0:
        return prefill, decode.take(np.arange(0))
    usd, beside = usd_per_hour_per_qps(prefill), _decode_usd(space, decode)
    by_ttit = against == "ttit"
    decode = hopeful(
        decode,
        decode.ttit_s if by_ttit else prefill.service_s.min() + handling,
        beside + usd.min(),
    )
    if len(decode) == 0:
        return prefill.take(np.arange(0)), decode
    beside = _decode_usd(space, decode)
    if by_ttit:
        known = np.searchsorted(latency[order], decode.ttit_s * (1 + 1e-12), side="right")
        prefill = prefill.take(np.flatnonzero(usd <= (bar[known] - beside).max()))
    else:
        prefill = hopeful(prefill, prefill.service_s + handling.min(), usd + beside.min())
    prefill = prefill.take(np.argsort(prefill.service_s, kind="stable"))
    columns = _prefill_columns(prefill)
    if by_ttit and space.problem.slo.ttft is None:
        columns = columns[:, :1]
    split = cache_splits(prefill.layouts)[prefill.layout]
    groups = (np.flatnonzero(split == one) for one in np.unique(split))
    kept = [rows[nondominated(columns[rows])] for rows in groups]
    prefill = prefill.take(np.concatenate([np.zeros(0, dtype=np.intp), *kept]))
    received = receiver_columns(decode.cache_heads, decode.layouts[decode.layout])
    rows = nondominated(np.stack([*_decode_columns(space, decode), *received], axis=1))
    return prefill, decode.take(rows)


def _in_time(space: Space, latency_s: FloatArray, delay_s: FloatArray) -> BoolArray:
    """Where first tokens, so delayed, meet the target; latency by input on the last axis."""
    late = latency_s + (delay_s - space.problem.least_handling_s)[..., None]
    flat = late.reshape(-1, 1, late.shape[-1])
    return space.first_token_in_time(flat)[:, 0].reshape(late.shape[:-1])
