"""Fleets of several device types in the limit of many devices: what a pairing saves, and what to
do with devices of which there are few.

Each phase is served by devices of any types, each by its best configuration; a device that spends
its time on one phase serves so many requests/s (`planner.fronts` has these rates of a search).
Whole replicas, whole hosts and queueing come on top (`planner.pairing`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfmodel.errors import InputError

FloatArray = NDArray[np.float64]


def pairing_saving(prefill_usd: ArrayLike, decode_usd: ArrayLike) -> FloatArray:
    """Share of the best single-type fleet's price that the best pair of types saves.

    Negative where every pair costs more. Prices are of a request/s in one phase: a device's price
    over its rate, infinite where it can't serve the phase.

    Args:
        prefill_usd, decode_usd: by device type along the last axis, (..., D) with D >= 2.

    Returns:
        (...); -inf where no pair serves, 1 where pairs alone do, nan where nothing does.
    """
    p, d = np.broadcast_arrays(
        np.asarray(prefill_usd, dtype=float), np.asarray(decode_usd, dtype=float)
    )
    pairs = p[..., :, None] + d[..., None, :]
    same = np.eye(p.shape[-1], dtype=bool)
    single = np.where(same, pairs, np.inf).min(axis=(-2, -1))
    mixed = np.where(same, np.inf, pairs).min(axis=(-2, -1))
    with np.errstate(invalid="ignore"):
        saving = 1.0 - mixed / single
    return np.asarray(np.where(np.isinf(single) & np.isfinite(mixed), 1.0, saving))


@dataclass(frozen=True)
class Mixture:
    """Devices by type (D,), fractional.

    Attributes:
        prefill, decode: devices that serve each phase.
    """

    prefill: FloatArray
    decode: FloatArray
    usd_per_hour: float

    @property
    def devices(self) -> FloatArray:
        """Devices of each type, (D,)."""
        return self.prefill + self.decode


def cheapest_mixture(
    qps: float,
    prefill_qps: ArrayLike,
    decode_qps: ArrayLike,
    usd_per_device_hour: ArrayLike,
    devices_at_hand: ArrayLike,
) -> Mixture:
    """The cheapest devices for a demand, when some are in short supply; a linear program.

    Args:
        qps: requests/s to serve.
        prefill_qps, decode_qps: requests/s of one device of each type in one phase, (D,); zero
            where it can't serve it.
        usd_per_device_hour: (D,).
        devices_at_hand: (D,); infinite: as many as wanted.

    Raises:
        InputError: all devices at hand do not serve the demand.
    """
    from scipy.optimize import linprog

    p, d, usd, most = (
        np.asarray(values, dtype=float)
        for values in (prefill_qps, decode_qps, usd_per_device_hour, devices_at_hand)
    )
    kinds = len(usd)
    none, one = np.zeros(kinds), np.eye(kinds)
    finite = np.isfinite(most)
    found = linprog(
        np.concatenate([usd, usd]),
        A_ub=np.vstack(
            [
                -np.concatenate([p, none])[None],
                -np.concatenate([none, d])[None],
                np.hstack([one, one])[finite],
            ]
        ),
        b_ub=np.concatenate([[-qps, -qps], most[finite]]),
        bounds=(0, None),
        method="highs",
    )
    if found.x is None:
        raise InputError(f"the devices at hand do not serve {qps:g} requests/s")
    return Mixture(found.x[:kinds], found.x[kinds:], float(found.fun))
