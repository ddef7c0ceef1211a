"""The cheapest large fleet of each kind: no whole hosts, no queueing, yet all targets in full.

`planner.fronts` draws the price of every latency and counts a first token's steps alone. Here it
is asked of one pair of targets, and a first token takes what it takes on an idle fleet: its steps,
what the engine adds (late first tokens among it, which decoding paces), and the transfer of its
cache. Plans of growing demand under steady arrivals (`planner.solve`) approach these prices.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.candidates import Candidates
from planner.dominance import nondominated
from planner.evaluated import Evaluated
from planner.fronts import usd_per_hour_per_qps
from planner.pairing import KINDS
from planner.sweep import Space
from planner.transfer import transfer_s

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class LargeFleet:
    """One or two pools, each one candidate (arrays of length 1), loaded fully.

    Attributes:
        delay_s: what a first token waits for besides its steps.
    """

    pools: tuple[Candidates, ...]
    delay_s: float

    @property
    def kind(self) -> str:
        """Of `planner.pairing.KINDS`."""
        return KINDS[0] if len(self.pools) == 1 else KINDS[1 + (len(set(self.devices)) > 1)]

    @property
    def devices(self) -> tuple[str, ...]:
        """Types, one for each pool."""
        return tuple(pool.offer.device.name for pool in self.pools)

    @property
    def usd_per_hour_per_qps(self) -> float:
        """Of all pools."""
        return sum(float(usd_per_hour_per_qps(pool)[0]) for pool in self.pools)

    @property
    def qps_per_device(self) -> float:
        """Over all devices."""
        return 1.0 / sum(float(pool.world[0] / pool.qps[0]) for pool in self.pools)

    @property
    def ttft_s(self) -> float:
        """Mean."""
        return float(self.pools[0].service_s[0]) + self.delay_s


def large_fleets(evaluated: Evaluated, kinds: Sequence[str] = KINDS) -> list[LargeFleet]:
    """For each kind and device types the cheapest that meets the query's targets; cheapest first.

    Of an end-to-end target only the decoding is counted. Images are encoded where prompts are
    taken.
    """
    best: dict[tuple[str, ...], LargeFleet] = {}
    for tier, space in evaluated.spaces.items():
        runs = evaluated.runs[tier]
        pools = [pool for pool in (runs.get(True) or runs[False]).candidates if len(pool)]
        for fleet in _candidates(space, pools):
            key = (fleet.kind, *fleet.devices)
            if fleet.kind in kinds and (
                key not in best or fleet.usd_per_hour_per_qps < best[key].usd_per_hour_per_qps
            ):
                best[key] = fleet
    return sorted(best.values(), key=lambda fleet: fleet.usd_per_hour_per_qps)


def _candidates(space: Space, pools: Sequence[Candidates]) -> Iterable[LargeFleet]:
    """The cheapest of each block, or pair of blocks."""
    by_role = {role: [pool for pool in pools if pool.role == role] for role in space.roles}
    for pool in by_role.get("continuous", ()):
        delay = space.problem.handling_s(pool.iteration_s, disaggregated=False)
        kept = np.flatnonzero(_in_time(space, pool, delay))
        if len(kept):
            one = kept[usd_per_hour_per_qps(pool)[kept].argmin()]
            yield LargeFleet((pool.take(one[None]),), float(delay[one]))
    for prefill in by_role.get("prefill", ()):
        prefill = prefill.take(np.argsort(usd_per_hour_per_qps(prefill), kind="stable"))
        for decode in by_role.get("decode", ()):
            if prefill.precision.kv == decode.precision.kv:
                yield from _paired(space, prefill, decode)


def _paired(space: Space, prefill: Candidates, decode: Candidates) -> Iterable[LargeFleet]:
    """The cheapest pair, if any is in time; prefill candidates are in the order of their price.

    Decode candidates matter by their price and by how late their iterations make first tokens.
    """
    usd, first_usd = usd_per_hour_per_qps(decode), usd_per_hour_per_qps(prefill)
    few = nondominated(np.stack([usd, decode.iteration_s], axis=1))
    best: tuple[float, LargeFleet] | None = None
    for one in few[np.argsort(usd[few])]:
        if best is not None and usd[one] + first_usd[0] >= best[0]:
            break
        last = decode.take(one[None])
        handling = space.problem.handling_s(last.iteration_s, disaggregated=True)
        delay = handling + transfer_s(space.problem, prefill, last)[:, 0]
        found = np.flatnonzero(_in_time(space, prefill, delay))[:1]
        if len(found) and (best is None or usd[one] + first_usd[found[0]] < best[0]):
            fleet = LargeFleet((prefill.take(found), last), float(delay[found[0]]))
            best = (float(usd[one] + first_usd[found[0]]), fleet)
    if best is not None:
        yield best[1]


def _in_time(space: Space, pool: Candidates, delay_s: FloatArray) -> BoolArray:
    """Whose first tokens, so delayed, meet the target."""
    late = pool.latency_s + (delay_s - space.problem.least_handling_s)[:, None]
    return space.first_token_in_time(late[:, None, :])[:, 0]
