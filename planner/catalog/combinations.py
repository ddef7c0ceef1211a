"""Combinations of configurations, priced at once.

The integer program's bound is weak: whole hosts in every slot round more than its relaxation
sees. What a combination costs is known in closed form. Of few services with few configurations
all are priced instead, and the answer is proven; of many, those near the program's answer, which
they often better.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

Prices = Callable[[IntArray, int], FloatArray]
"""Of one supply's hosts, (C,), for devices taken of it, (T, C, L), and which supply it is."""

MOST_CELLS = 1e8
"""Combinations times slots times supplies that are priced: a few seconds."""

CHUNK_CELLS = 2**21
"""Of these, at once."""


def few_enough(services: Sequence[int], slots: int, kinds: int) -> bool:
    """Whether so many families of each service make few enough combinations."""
    cells = float(slots * kinds)
    for families in services:
        cells *= families
    return cells <= MOST_CELLS


def cheapest_combination(
    families: Sequence[IntArray],
    used: IntArray,
    besides: FloatArray,
    prices: Prices,
    together: Sequence[Sequence[int]] = (),
) -> tuple[IntArray, float] | None:
    """The cheapest choice of a family for every service, and its price; None where none fits.

    Args:
        families: indices of each service's.
        used: (T, F, K, L) devices that each family takes, by slot and supply: of all replicas, and
            of those that do not divide a host.
        besides: (F,) what families cost besides hosts.
        together: as in `planner.catalog.scheduling.schedule`.
    """
    shape = tuple(len(mine) for mine in families)
    uses = used[..., 0].sum(axis=0) > 0
    step = max(CHUNK_CELLS // (used.shape[0] * used.shape[2] * used.shape[3]), 1)
    best: tuple[IntArray, float] | None = None
    total = int(np.prod(shape))
    for start in range(0, total, step):
        places = np.unravel_index(np.arange(start, min(start + step, total)), shape)
        chosen = np.stack([mine[at] for mine, at in zip(families, places, strict=True)], axis=1)
        chosen = chosen[_alike(uses, chosen, together)]
        taken = used[:, chosen].sum(axis=2)
        price = besides[chosen].sum(axis=1)
        for k in range(taken.shape[2]):
            price += prices(taken[:, :, k], k)
        if len(price) and price.min() < (np.inf if best is None else best[1]):
            i = int(price.argmin())
            best = chosen[i], float(price[i])
    return best


def improved(
    chosen: IntArray,
    owner: IntArray,
    used: IntArray,
    besides: FloatArray,
    prices: Prices,
    *,
    movable: BoolArray,
    limit_s: float,
) -> IntArray:
    """The choice with other families of one service, or of two at once, until none saves.

    Where hosts are shared by many services the integer program seldom has the time to fill them.
    Pairs are tried from the cheapest first change on, each with its best second one.

    Args:
        chosen: (S,) a family of each service.
        owner: (F,) service of each family.
        movable: (F,) families that may be changed to.
        limit_s: after which it stops.

    Others are those of `cheapest_combination`.
    """
    until = time.perf_counter() + limit_s
    by_supply = np.ascontiguousarray(used.transpose(2, 0, 1, 3))

    def after(now: IntArray) -> FloatArray:
        """The price after each change of one service, (F,)."""
        mine = now[owner]
        price = besides[now].sum() + besides - besides[mine]
        for k, devices in enumerate(by_supply):
            total = devices[:, now].sum(axis=1)[:, None]
            more = devices - devices[:, mine]
            changes = more.any(axis=(0, 2))
            price[~changes] += prices(total, k)
            price[changes] += prices(total + more[:, changes], k)
        return np.where(movable | (mine == np.arange(len(owner))), price, np.inf)

    def changed(now: IntArray, family: int) -> IntArray:
        return np.where(np.arange(len(now)) == owner[family], family, now)

    now, price = chosen, after(chosen)
    best = float(price[now[0]])
    while True:
        firsts = (f for f in np.argsort(price) if np.isfinite(price[f]))
        for first in (now[0], *firsts):  # at first none: one change alone
            trial = changed(now, first)
            seconds = after(trial)
            if seconds.min() < best * (1 - 1e-9):
                now = changed(trial, int(seconds.argmin()))
                best, price = float(seconds.min()), after(now)
                break
            if time.perf_counter() > until:
                return now
        else:
            return now


def usd_per_hour(
    needed: IntArray, reserved: float, on_demand: float | None, weights: FloatArray
) -> FloatArray:
    """Price of hosts of a supply needed, (C,) of (T, C), with the best number of them reserved.

    A host is reserved if the slots that need it are a larger share of time than `reserved /
    on_demand`.
    """
    if on_demand is None:
        return np.asarray(reserved * needed.max(axis=0))
    order = np.argsort(-needed, axis=0)
    falling = np.take_along_axis(needed, order, axis=0)
    worth = np.cumsum(weights[order], axis=0) > reserved / on_demand * (1 + 1e-12)
    first = worth.argmax(axis=0)[None]
    kept = np.where(worth.any(axis=0), np.take_along_axis(falling, first, axis=0)[0], 0)
    return np.asarray(reserved * kept + on_demand * (weights @ np.maximum(needed - kept, 0)))


def _alike(uses: BoolArray, chosen: IntArray, together: Sequence[Sequence[int]]) -> BoolArray:
    """Combinations in which all services of each group use the same supplies."""
    good = np.ones(len(chosen), dtype=bool)
    for first, *others in together:
        for other in others:
            good &= (uses[chosen[:, first]] == uses[chosen[:, other]]).all(axis=1)
    return good
