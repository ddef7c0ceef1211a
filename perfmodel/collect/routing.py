"""Which experts tokens are routed to, drawn from the distributions that the tables name.

| routing | experts of a token |
|---|---|
| `balanced` | all experts in turn: loads differ by one token at most |
| `uniform` | drawn independently for each token, all experts alike |
| `power_law_A` | so that the experts' loads follow a power law of exponent A |

The power law is that of `perfmodel.power_law`, rounded to whole tokens.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from perfmodel.power_law import POWER_LAW, drawn_loads

IntArray = NDArray[np.int32]
FloatArray = NDArray[np.float64]

DRAWS = 5
"""Draws of a distribution over which a row is the mean, as in the imported tables."""


@lru_cache(maxsize=2048)
def choices(
    routing: str, tokens: int, top_k: int, experts: int, groups: int = 1, draw: int = 0
) -> IntArray:
    """Experts of every token, (tokens, top_k), each token's distinct; shared by its callers.

    Args:
        routing: the distribution.
        groups: devices that the experts are spread over; the first one's are 0 to experts /
            groups - 1, and of all of them it is given the most to do.
        draw: which of the distribution's draws.

    Raises:
        KeyError: no such distribution.
    """
    source = np.random.default_rng([draw, tokens, top_k, experts])
    if routing == "balanced":
        each = [source.permutation(ids) for ids in np.arange(experts).reshape(groups, -1)]
        in_turn = np.stack(each, axis=1).reshape(-1)
        chosen = in_turn[np.arange(tokens * top_k) % experts].reshape(tokens, top_k)
    elif routing == "uniform":
        keys = source.random((tokens, experts), dtype=np.float32)
        chosen = np.argpartition(keys, top_k - 1, axis=1)[:, :top_k]
    elif routing.startswith(POWER_LAW):
        loads = _power_law(source, float(routing.removeprefix(POWER_LAW)), tokens, top_k, experts)
        # Runs of one expert, dealt to the tokens in turn: none is met twice.
        chosen = np.repeat(np.arange(experts), loads).reshape(top_k, tokens).T
    else:
        raise KeyError(routing)
    per_group = np.bincount(chosen.reshape(-1), minlength=experts).reshape(groups, -1).sum(axis=1)
    first = int(per_group.argmax()) * (experts // groups)
    busiest_first = ((chosen - first) % experts).astype(np.int32)
    busiest_first.flags.writeable = False
    return busiest_first


def bounds(chosen: IntArray, experts: int) -> list[tuple[int, int]]:
    """Begin and end of each of the first experts' rows, in the order of experts."""
    loads = np.bincount(chosen.reshape(-1), minlength=experts)[:experts]
    return list(pairwise([0, *np.cumsum(loads).tolist()]))


def _power_law(
    source: np.random.Generator, exponent: float, tokens: int, top_k: int, experts: int
) -> IntArray:
    """Tokens of every expert."""
    loads = drawn_loads(source, exponent, tokens, top_k, experts)
    return whole(loads, tokens * top_k, tokens)


def whole(shares: FloatArray, total: int, most: int) -> IntArray:
    """Integers in proportion to shares, which add up to a total and none of which is above most."""
    amounts = np.zeros(len(shares))
    free = np.ones(len(shares), dtype=bool)
    while True:
        left = total - most * int((~free).sum())
        amounts[free] = shares[free] * (left / shares[free].sum()) if free.any() else 0.0
        over = free & (amounts > most)
        if not over.any():
            break
        amounts[over] = most
        free &= ~over
    counts = np.floor(amounts + 1e-9).astype(np.int32)
    missing = total - int(counts.sum())
    counts[np.argsort(counts - amounts, kind="stable")[:missing]] += 1
    return counts
