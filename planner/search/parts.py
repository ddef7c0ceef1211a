"""What a role is searched over: feasible layouts by device and precision, with their bounds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from perfmodel.layout import Layouts
from perfmodel.precision import Precision
from planner.candidates import Candidates, Funnel, Role
from planner.choice import pool_usd_per_hour
from planner.problem import Offer, Problem
from planner.sizing import UNREACHABLE, least_replicas, replicas_for_ttft
from planner.sweep import Space

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

NOTHING = 1e12
"""Value of a layout with nothing feasible."""

PER_REQUEST = 1e-3
"""Of equally priced pools, the one of the least cost per request comes first: its share of it."""


@dataclass(frozen=True)
class Part:
    """The layouts of one role on one device in one precision.

    Attributes:
        most_qps: of one replica of each layout, whatever the batch; zero: none is feasible.
    """

    role: Role
    offer: Offer
    precision: Precision
    layouts: Layouts
    funnel: Funnel
    most_qps: FloatArray

    @cached_property
    def logs(self) -> FloatArray:
        """Degrees as powers of two, (L, 7)."""
        return np.asarray(np.log2(self.layouts.rows()))

    def least_devices(self, problem: Problem, qps: float) -> FloatArray:
        """Devices of a pool at least, (L,); infinite where nothing is feasible."""
        return self.least_replicas(problem, qps) * self.layouts.world

    def least_replicas(self, problem: Problem, qps: float) -> FloatArray:
        """Replicas that capacity asks for at least, (L,)."""
        with np.errstate(divide="ignore"):
            needed = qps / (self.most_qps * problem.max_utilization)
        return np.maximum(np.ceil(needed * (1.0 - 1e-9)), 1.0)

    def least_price(self, problem: Problem) -> FloatArray:
        """What `price` returns of each layout at least, (L,)."""
        with np.errstate(divide="ignore"):
            per_request = self.layouts.world * self.offer.usd_per_device_hour / self.most_qps
        if problem.qps is None:
            return np.minimum(per_request, NOTHING)
        replicas = self.least_replicas(problem, problem.qps)
        price = _pool_price(self.role, self.offer, self.layouts.world, replicas)
        return np.minimum(price + PER_REQUEST * problem.qps * per_request, NOTHING)


def parts_of(space: Space, role: Role) -> list[Part]:
    """Every device and precision on which the role has a feasible layout; all funnels count."""
    found = []
    for offer, precision in space.pairs():
        funnel = Funnel(role, offer.device.name, str(precision))
        layouts = space.feasible_layouts(role, offer, precision, funnel)
        most_qps = space.most_qps(role, offer, precision, layouts)
        funnel.add("bounds", int((most_qps > 0).sum()))
        found.append(Part(role, offer, precision, layouts, funnel, most_qps))
    return found


def price(problem: Problem, found: Candidates) -> float:
    """USD per hour of a layout's best pool at the demand, large where it has none.

    Replicas are those that the TTFT target and capacity ask for (of a decode pool capacity
    alone: its part in a first token depends on the prefill pool); of one continuous pool whole
    hosts are paid, of pools that may share hosts the devices in use. Among equals, the least
    per request.
    """
    if len(found) == 0:
        return NOTHING
    per_request = found.world * found.offer.usd_per_device_hour / found.qps
    if problem.qps is None:
        return float(per_request.min())
    replicas = least_replicas(problem, found, problem.qps)
    if found.role != "decode":
        handling = problem.handling_s(found.ttit_s, disaggregated=found.role == "prefill")
        replicas = replicas_for_ttft(problem, found, problem.qps, handling)
    reached = replicas != UNREACHABLE
    if not reached.any():
        return NOTHING
    counts = np.where(reached, replicas, 0)
    usd = np.where(reached, _pool_price(found.role, found.offer, found.world, counts), np.inf)
    return min(float((usd + PER_REQUEST * problem.qps * per_request).min()), NOTHING)


def _pool_price(
    role: Role, offer: Offer, world: IntArray, replicas: FloatArray | IntArray
) -> FloatArray:
    finite = np.isfinite(replicas)
    counts = np.where(finite, replicas, 1.0)
    if role == "continuous":
        usd = pool_usd_per_hour(offer, world, counts)
    else:
        usd = np.asarray(counts * world * offer.usd_per_device_hour, dtype=float)
        if offer.most_devices is not None:
            usd = np.where(counts * world > offer.most_devices, np.inf, usd)
    return np.asarray(np.where(finite, usd, np.inf))
