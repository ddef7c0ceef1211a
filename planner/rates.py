"""Rate matching: how one budget is best split between a prefill and a decode pool.

If a budget spent wholly on prefill serves `p` requests/s and wholly on decode `d`, a share
`x` for prefill serves `min(x p, (1 - x) d)` end to end. The best split makes the two equal.
Whole replicas, whole hosts and latency targets come on top (`planner.pairing`); for large
fleets these rates are the limit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


def matched_qps(prefill_qps: ArrayLike, decode_qps: ArrayLike) -> FloatArray:
    """End-to-end requests/s of a budget that alone would serve each phase at these rates.

    `p d / (p + d)`, the reference's table of heterogeneous pairings.
    """
    p, d = np.asarray(prefill_qps, dtype=float), np.asarray(decode_qps, dtype=float)
    return np.asarray(p * d / (p + d))


def prefill_budget_share(prefill_qps: ArrayLike, decode_qps: ArrayLike) -> FloatArray:
    """Share of the budget that the best split gives to prefill: `d / (p + d)`."""
    p, d = np.asarray(prefill_qps, dtype=float), np.asarray(decode_qps, dtype=float)
    return np.asarray(d / (p + d))


def usd_per_hour_per_qps(
    prefill_usd_per_hour: ArrayLike,
    prefill_qps: ArrayLike,
    decode_usd_per_hour: ArrayLike,
    decode_qps: ArrayLike,
) -> FloatArray:
    """Price of each request/s in a large fleet: `c_p / p + c_d / d`.

    Prices and rates are of one replica of each pool, fully loaded.
    """
    prefill = np.asarray(prefill_usd_per_hour, dtype=float) / np.asarray(prefill_qps, dtype=float)
    decode = np.asarray(decode_usd_per_hour, dtype=float) / np.asarray(decode_qps, dtype=float)
    return np.asarray(prefill + decode)
