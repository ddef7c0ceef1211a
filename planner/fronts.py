"""Pareto fronts of a search's candidates: what a latency costs, in the limit of a large fleet.

In a large fleet whole hosts, whole replicas and queueing cease to matter: a request/s costs what
the devices of a fully loaded replica cost over its rate, of both pools if there are two
(`planner.rates`). Plans of a given demand (`planner.solve`) lie above these fronts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from perfmodel.layout import DEGREES, format_layout
from planner.candidates import Candidates
from planner.dominance import nondominated
from planner.evaluated import Evaluated
from planner.pairing import KINDS
from planner.problem import Problem
from planner.transfer import transfer_s

if TYPE_CHECKING:
    import polars as pl

FloatArray = NDArray[np.float64]
Against = Literal["ttit", "ttft"]


def configurations(evaluated: Evaluated) -> pl.DataFrame:
    """Every feasible configuration of every role, device and precision, one row each.

    Columns: `role`, `device`, `precision`, the degrees of the layout, `batch`, `chunk`, `drafts`,
    `devices` of a replica, `slots` (sequences in flight), `qps` of a replica, `qps_per_device`,
    `usd_per_hour_per_qps`, `ttft_s` (mean, of the steps alone), `ttit_s` (mean, every slot taken).
    """
    import polars as pl

    frames = []
    for found in (one for _, block in _found(evaluated) for one in block):
        layouts = found.layouts[found.layout]
        columns = {name: getattr(layouts, name) for name in DEGREES}
        columns |= {
            "batch": found.batch,
            "chunk": found.chunk,
            "drafts": found.drafts,
            "devices": found.world,
            "slots": found.slots,
            "qps": found.qps,
            "qps_per_device": found.qps / found.world,
            "usd_per_hour_per_qps": usd_per_hour_per_qps(found),
            "ttft_s": found.service_s,
            "ttit_s": found.ttit_s,
        }
        named = {
            "role": found.role,
            "device": found.offer.device.name,
            "precision": str(found.precision),
        }
        frames.append(
            pl.DataFrame(columns).select(
                *(pl.lit(text, dtype=pl.Categorical).alias(name) for name, text in named.items()),
                pl.all(),
            )
        )
    return pl.concat(frames, how="vertical")


def usd_per_hour_per_qps(found: Candidates) -> FloatArray:
    """Price of each request/s of one pool whose replicas are fully loaded, (N,)."""
    return np.asarray(found.world * found.offer.usd_per_device_hour / found.qps)


def front(
    evaluated: Evaluated,
    against: Against = "ttit",
    kinds: Sequence[str] = KINDS,
    by: Literal["devices", "kind"] = "devices",
) -> pl.DataFrame:
    """The cheapest fleet at every latency that is worth its price.

    Rows are sorted by kind, devices (if fronts are by them) and latency; along each front the
    price falls as latency rises. Pools of a pair have one KV cache format. The query's targets
    hold, the steps alone counted. Images are encoded by the devices that take the prompts, where
    the query allows that; else their encoders are not in the price.

    Args:
        against: `ttit`, or `ttft` without waiting: steps, what the engine adds, KV transfer.
        kinds: of `planner.pairing.KINDS`.
        by: a front for each kind and set of device types, or one for each kind.

    Returns:
        Columns `kind`, `devices` (types, prefill first), `ttit_s`, `ttft_s`,
        `usd_per_hour_per_qps`, `qps_per_usd_hour`, `qps_per_device`, and of the pools:
        `prefill`, `decode` (layouts; of a continuous pool both are its own), `prefill_batch`,
        `decode_batch`, `chunk`, `drafts`, `prefill_qps_per_device`, `decode_qps_per_device`,
        `prefill_share` (of the devices).
    """
    import polars as pl

    fronts: dict[tuple[str, ...], list[_Fleet]] = {}
    for fleet in _fleets(evaluated, against, kinds):
        key = (fleet.kind, fleet.devices) if by == "devices" else (fleet.kind,)
        fronts.setdefault(key, []).append(fleet)
    rows = []
    for _, fleets in sorted(fronts.items()):
        latency = [getattr(fleet, f"{against}_s") for fleet in fleets]
        objectives = np.array([latency, [fleet.usd_per_hour_per_qps for fleet in fleets]]).T
        kept = nondominated(objectives)
        rows += [fleets[i].row() for i in kept[np.argsort(objectives[kept, 0])]]
    return pl.DataFrame(rows, schema=dict(_SCHEMA))


_TEXT = ("kind", "devices", "prefill", "decode")
_COUNTS = ("prefill_batch", "decode_batch", "chunk", "drafts")
_COLUMNS = (
    "kind",
    "devices",
    "ttit_s",
    "ttft_s",
    "usd_per_hour_per_qps",
    "qps_per_usd_hour",
    "qps_per_device",
    "prefill",
    "decode",
    "prefill_batch",
    "decode_batch",
    "chunk",
    "drafts",
    "prefill_qps_per_device",
    "decode_qps_per_device",
    "prefill_share",
)
_SCHEMA = tuple(
    (name, str if name in _TEXT else int if name in _COUNTS else float) for name in _COLUMNS
)


@dataclass(frozen=True)
class _Fleet:
    """One or two pools, each a single candidate, in the proportion that loads both fully."""

    problem: Problem
    pools: tuple[Candidates, ...]

    @cached_property
    def kind(self) -> str:
        """Of `planner.pairing.KINDS`."""
        if len(self.pools) == 1:
            return "continuous"
        first, last = (pool.offer.device.name for pool in self.pools)
        return "disaggregated" if first == last else "heterogeneous"

    @cached_property
    def devices(self) -> str:
        """Types, prefill first."""
        return " + ".join(dict.fromkeys(pool.offer.device.name for pool in self.pools))

    @cached_property
    def usd_per_hour_per_qps(self) -> float:
        """Of both pools."""
        return sum(float(usd_per_hour_per_qps(pool)[0]) for pool in self.pools)

    @cached_property
    def ttit_s(self) -> float:
        """With every slot taken."""
        return float(self.pools[-1].ttit_s[0])

    @cached_property
    def ttft_s(self) -> float:
        """Steps, what the engine adds, and KV transfer."""
        first, last = self.pools[0], self.pools[-1]
        paired = len(self.pools) == 2
        handling = self.problem.handling_s(last.iteration_s, disaggregated=paired)
        moving = float(transfer_s(self.problem, first, last)[0, 0]) if paired else 0.0
        return float(first.service_s[0] + handling[0]) + moving

    def row(self) -> dict[str, Any]:
        """As `front` returns it."""
        first, last = self.pools[0], self.pools[-1]
        devices = [float(pool.world[0] / pool.qps[0]) for pool in self.pools]
        share = devices[0] / sum(devices)
        return {
            "kind": self.kind,
            "devices": self.devices,
            "ttit_s": self.ttit_s,
            "ttft_s": self.ttft_s,
            "usd_per_hour_per_qps": self.usd_per_hour_per_qps,
            "qps_per_usd_hour": 1.0 / self.usd_per_hour_per_qps,
            "qps_per_device": 1.0 / sum(devices),
            "prefill": format_layout(first.layouts[first.layout]),
            "decode": format_layout(last.layouts[last.layout]),
            "prefill_batch": int(first.batch[0]),
            "decode_batch": int(last.batch[0]),
            "chunk": int(last.chunk[0]),
            "drafts": int(last.drafts[0]),
            "prefill_qps_per_device": 1.0 / devices[0],
            "decode_qps_per_device": 1.0 / devices[-1],
            "prefill_share": float(first.prefill_share[0]) if len(devices) == 1 else share,
        }


def _fleets(evaluated: Evaluated, against: Against, kinds: Sequence[str]) -> Iterator[_Fleet]:
    """Fleets among which the fronts are."""
    for tier, found in _found(evaluated):
        problem = evaluated.spaces[tier].problem
        pools: dict[str, list[Candidates]] = {"continuous": [], "prefill": [], "decode": []}
        for one in found:
            if len(one):
                pools[one.role].append(one)
        if "continuous" in kinds:
            yield from (_Fleet(problem, (one,)) for one in _along(pools["continuous"], against))
        for prefill in _by_device(pools["prefill"]):
            for decode in _by_device(pools["decode"]):
                same = prefill[0].offer.device.name == decode[0].offer.device.name
                if ("disaggregated" if same else "heterogeneous") in kinds:
                    yield from _paired(problem, prefill, decode, against)


def _found(evaluated: Evaluated) -> Iterator[tuple[str, list[Candidates]]]:
    """The candidates of each place of prefixes; images are encoded where prompts are taken."""
    for tier, runs in evaluated.runs.items():
        yield tier, (runs.get(True) or runs[False]).candidates


def _by_device(pools: Sequence[Candidates]) -> list[list[Candidates]]:
    found: dict[str, list[Candidates]] = {}
    for pool in pools:
        found.setdefault(pool.offer.device.name, []).append(pool)
    return list(found.values())


def _paired(
    problem: Problem, prefill: Sequence[Candidates], decode: Sequence[Candidates], against: Against
) -> list[_Fleet]:
    """Along one pool's own front; of the other the cheapest, whatever its own latency."""
    fleets = []
    for kv in {pool.precision.kv for pool in prefill}:
        firsts = [pool for pool in prefill if pool.precision.kv == kv]
        lasts = [pool for pool in decode if pool.precision.kv == kv]
        if not lasts:
            continue
        if against == "ttit":
            first = _cheapest(firsts)
            fleets += [_Fleet(problem, (first, last)) for last in _along(lasts, against)]
        else:
            last = _cheapest(lasts)
            fleets += [_Fleet(problem, (first, last)) for first in _along(firsts, against)]
    return fleets


def _cheapest(pools: Sequence[Candidates]) -> Candidates:
    """Of all the cheapest per request, alone."""
    best = [(float((usd := usd_per_hour_per_qps(p)).min()), int(usd.argmin()), p) for p in pools]
    _, index, pool = min(best, key=lambda item: item[0])
    return pool.take(np.array([index]))


def _along(pools: Sequence[Candidates], against: Against) -> list[Candidates]:
    """The front of each pool's candidates between a latency and the price of a request."""
    found = []
    for pool in pools:
        latency = pool.ttit_s if against == "ttit" else pool.service_s
        objectives = np.stack([latency, usd_per_hour_per_qps(pool)], axis=1)
        found += [pool.take(np.array([i])) for i in nondominated(objectives)]
    return found
