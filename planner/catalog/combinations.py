"""Few services with few configurations: all combinations, priced at once.

For a small catalog the integer program's bound is weak: whole hosts in every slot round more
than its relaxation sees. What a combination costs is known in closed form, so that all of them
are priced instead, and the answer is proven.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from planner.catalog.assignment import MISSING_FACTOR

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

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
    *,
    size: IntArray,
    spare: IntArray,
    most: FloatArray,
    reserved: FloatArray,
    on_demand: FloatArray,
    weights: FloatArray,
    together: Sequence[Sequence[int]] = (),
    beyond_inventory: bool = False,
) -> tuple[IntArray, float] | None:
    """The cheapest choice of a family for every service, and its price; None where none fits.

    Args:
        families: indices of each service's.
        used: (T, F, K) devices that each family takes, by slot and supply.
        besides: (F,) what families cost besides hosts.
        size, spare, most: (K,) devices of a host, spare hosts, inventories in hosts.
        reserved, on_demand: (K,) USD per host-hour; infinite where not to be had on demand.
        weights: (T,) share of time of each slot.
        together: as in `planner.catalog.scheduling.schedule`.
        beyond_inventory: likewise.
    """
    shape = tuple(len(mine) for mine in families)
    uses = used.sum(axis=0) > 0
    step = max(CHUNK_CELLS // (used.shape[0] * used.shape[2]), 1)
    best: tuple[IntArray, float] | None = None
    total = int(np.prod(shape))
    for start in range(0, total, step):
        places = np.unravel_index(np.arange(start, min(start + step, total)), shape)
        chosen = np.stack([mine[at] for mine, at in zip(families, places, strict=True)], axis=1)
        chosen = chosen[_alike(uses, chosen, together)]
        taken = used[:, chosen].sum(axis=2)
        needed = -(-taken // size) + np.where(taken > 0, spare, 0)
        beyond = np.maximum(needed.max(axis=0) - most, 0)
        price = usd_per_hour(needed, reserved, on_demand, weights).sum(axis=1)
        price += besides[chosen].sum(axis=1)
        if beyond_inventory:
            price += MISSING_FACTOR * (beyond @ reserved)
        else:
            price[(beyond > 0).any(axis=1)] = np.inf
        if len(price) and price.min() < (np.inf if best is None else best[1]):
            i = int(price.argmin())
            best = chosen[i], float(price[i])
    return best


def usd_per_hour(
    needed: IntArray, reserved: FloatArray, on_demand: FloatArray, weights: FloatArray
) -> FloatArray:
    """Price of hosts needed, (C, K) of (T, C, K), with the best number of them reserved.

    A host is reserved if the slots that need it are a larger share of time than `reserved /
    on_demand`.
    """
    order = np.argsort(-needed, axis=0)
    falling = np.take_along_axis(needed, order, axis=0)
    share = np.cumsum(weights[order], axis=0)
    worth = share > reserved / on_demand * (1 + 1e-12)
    first = worth.argmax(axis=0)[None]
    kept = np.where(worth.any(axis=0), np.take_along_axis(falling, first, axis=0)[0], 0)
    over = np.maximum(needed - kept, 0)
    rented = np.einsum("t,tck->ck", weights, over.astype(float))
    price = np.where(np.isfinite(on_demand), on_demand, 0.0)
    return np.asarray(reserved * kept + price * rented)


def _alike(uses: BoolArray, chosen: IntArray, together: Sequence[Sequence[int]]) -> BoolArray:
    """Combinations in which all services of each group use the same supplies."""
    good = np.ones(len(chosen), dtype=bool)
    for first, *others in together:
        for other in others:
            good &= (uses[chosen[:, first]] == uses[chosen[:, other]]).all(axis=1)
    return good
