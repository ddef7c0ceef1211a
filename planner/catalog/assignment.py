"""One plan for each service, at the least price of all hosts together.

A service chooses one of its options; hosts of each supply (a device type in a region) hold
the devices of all services. Options are devices, hosts are whole, so that the problem is a
small integer program: choices are 0 or 1, hosts are counts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.catalog.inventories import Total, limits

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


MISSING_FACTOR = 1e4
"""What a host beyond the inventory costs, against one within it."""


@dataclass(frozen=True)
class Supply:
    """Hosts that can be rented.

    Attributes:
        name: device type, and its region where there are several.
        host_devices: devices rented together.
        usd_per_host_hour: their price.
        inventory: hosts at most; None: as many as needed.
        spare: hosts beside those in use, so that the loss of so many is survived.
        large_devices: of a host's, what replicas that do not divide it can take (64 of 72);
            None: all.
    """

    name: str
    host_devices: int
    usd_per_host_hour: float
    inventory: int | None = None
    spare: int = 0
    large_devices: int | None = None

    @property
    def sizes(self) -> tuple[int, int]:
        """Devices that a host has for all replicas, and for those that do not divide it."""
        large = self.large_devices
        return self.host_devices, self.host_devices if large is None else large


@dataclass(frozen=True)
class Option:
    """One way to serve a service.

    Attributes:
        hosts: whole hosts that it fills, by supply.
        devices: devices on hosts that other services may share, by supply.
        usd_per_hour: what it costs besides hosts, such as moving there.
        large: of those devices, those of replicas that do not divide a host; none if not given.
    """

    hosts: tuple[int, ...]
    devices: tuple[int, ...]
    usd_per_hour: float = 0.0
    large: tuple[int, ...] = ()


@dataclass(frozen=True)
class Assignment:
    """What was decided.

    Attributes:
        chosen: option of each service.
        hosts: rented of each supply, spare ones included.
        usd_per_hour: of all hosts, and what the options cost besides.
        bound_usd_per_hour: no assignment costs less.
        seconds: of the solver.
    """

    chosen: tuple[int, ...]
    hosts: tuple[int, ...]
    usd_per_hour: float
    bound_usd_per_hour: float
    seconds: float

    @property
    def gap(self) -> float:
        """By how much the price may exceed the least possible, as a share of it."""
        return gap_of(self.usd_per_hour, self.bound_usd_per_hour)


def gap_of(usd_per_hour: float, bound_usd_per_hour: float) -> float:
    """By how much a price may exceed the least possible, as a share of it."""
    if usd_per_hour <= 0:
        return 0.0
    return max(usd_per_hour - bound_usd_per_hour, 0.0) / usd_per_hour


def assign(
    supplies: Sequence[Supply],
    services: Sequence[Sequence[Option]],
    together: Sequence[Sequence[int]] = (),
    *,
    totals: Sequence[Total] = (),
    gap: float = 1e-4,
    limit_s: float = 60.0,
    beyond_inventory: bool = False,
) -> Assignment | None:
    """The cheapest assignment, by HiGHS; None where none keeps within the inventories.

    Minimizes `sum(price * hosts) + sum(price of the options chosen)` where every service
    chooses one option, `host_devices * (hosts - spare - filled) >= devices shared`, and
    hosts are whole; likewise of those that do not divide hosts, in what of hosts they can take.
    Replicas that lie on shared hosts are of powers of two, for which that suffices: the largest
    first, each finds a place that those before it have left whole.

    Args:
        services: the options of each.
        together: groups of services which must all use the same supplies.
        totals: inventories of several supplies together.
        gap: share of the price at which the solver may stop.
        limit_s: after which it stops with what it has found.
        beyond_inventory: hosts may exceed the inventories, which costs so much more that as
            little as possible is missing; a host more in a region is one more of all regions.

    Raises:
        ValueError: a service without options.
    """
    from scipy import sparse
    from scipy.optimize import Bounds, LinearConstraint, milp

    if any(len(options) == 0 for options in services):
        raise ValueError("a service without options")
    started = time.perf_counter()
    flat = [option for options in services for option in options]
    owner = np.repeat(np.arange(len(services)), [len(options) for options in services])
    sizes = np.array([s.sizes for s in supplies], dtype=float).T
    price = np.array([s.usd_per_host_hour for s in supplies])
    spare = np.array([s.spare for s in supplies], dtype=float)
    filled = np.array([o.hosts for o in flat], dtype=float).reshape(len(flat), len(supplies))
    shared = np.array([o.devices for o in flat], dtype=float).reshape(len(flat), len(supplies))
    large = np.array([o.large or (0,) * len(supplies) for o in flat], dtype=float)
    large = large.reshape(len(flat), len(supplies))
    options, kinds = len(flat), len(supplies)
    # Variables: which option; by supply: hosts that carry work, whether any does, hosts missing.
    caps = np.array([np.inf if s.inventory is None else s.inventory for s in supplies])
    most = _most_hosts(sizes, filled, (shared, large), owner)
    missing = most + spare if beyond_inventory else np.zeros(kinds)
    if not beyond_inventory:
        most = np.minimum(most, caps)
    cost = np.concatenate(
        [[o.usd_per_hour for o in flat], price, price * spare, MISSING_FACTOR * price]
    )
    one = sparse.csr_matrix(
        (np.ones(options), (owner, np.arange(options))),
        shape=(len(services), options + 3 * kinds),
    )
    none = sparse.csr_matrix((kinds, kinds))
    held = [
        sparse.hstack([sparse.csr_matrix((filled * size + d).T), -sparse.diags(size), none, none])
        for size, d in zip(sizes, (shared, large), strict=True)
    ]
    used = sparse.hstack(
        [sparse.csr_matrix((kinds, options)), sparse.eye(kinds), -sparse.diags(most), none]
    )
    constraints = [
        LinearConstraint(one, 1, 1),
        *(LinearConstraint(rows.tocsr(), -np.inf, 0) for rows in held),
        LinearConstraint(used.tocsr(), -np.inf, 0),
    ]
    counted, at_most = limits(supplies, totals)
    if len(counted):
        with_spare = sparse.hstack(
            [
                sparse.csr_matrix((kinds, options)),
                sparse.eye(kinds),
                sparse.diags(spare),
                -sparse.eye(kinds),
            ]
        )
        kept = sparse.csr_matrix(counted) @ with_spare.tocsr()
        constraints.append(LinearConstraint(kept, -np.inf, at_most))
    rows = _alike(flat, owner, together)
    if rows:
        equal = sparse.hstack(
            [sparse.csr_matrix(np.array(rows)), sparse.csr_matrix((len(rows), 3 * kinds))]
        )
        constraints.append(LinearConstraint(equal.tocsr(), 0, 0))
    found = milp(
        cost,
        constraints=constraints,
        integrality=np.ones(len(cost)),
        bounds=Bounds(0, np.concatenate([np.ones(options), most, np.ones(kinds), missing])),
        options={"mip_rel_gap": gap, "time_limit": limit_s},
    )
    if found.x is None:
        return None
    values = np.round(found.x).astype(int)
    chosen = np.flatnonzero(values[:options])
    within = chosen - np.searchsorted(owner, np.arange(len(services)))
    carrying = values[options : options + kinds]
    hosts = carrying + np.where(carrying > 0, spare, 0).astype(int)
    besides = sum(flat[i].usd_per_hour for i in chosen)
    return Assignment(
        chosen=tuple(int(i) for i in within),
        hosts=tuple(int(h) for h in hosts),
        usd_per_hour=float(hosts @ price + besides),
        bound_usd_per_hour=float("nan") if beyond_inventory else float(found.mip_dual_bound),
        seconds=time.perf_counter() - started,
    )


def _most_hosts(
    sizes: FloatArray, filled: FloatArray, shared: Sequence[FloatArray], owner: IntArray
) -> FloatArray:
    """Hosts of each supply that could carry work: of each service's hungriest option."""
    services = int(owner.max()) + 1 if len(owner) else 0
    total, devices = np.zeros(sizes.shape[1]), np.zeros(sizes.shape)
    for service in range(services):
        mine = owner == service
        total += filled[mine].max(axis=0)
        devices += np.stack([d[mine].max(axis=0) for d in shared])
    return np.asarray(total + np.ceil(devices / sizes).max(axis=0))


def _alike(
    flat: Sequence[Option], owner: IntArray, together: Sequence[Sequence[int]]
) -> list[FloatArray]:
    """Rows that are zero where all services of a group use the same supplies."""
    uses = [
        tuple(h + d > 0 for h, d in zip(option.hosts, option.devices, strict=True))
        for option in flat
    ]
    rows = []
    for group in together:
        for other in group[1:]:
            for kind in sorted({u for u, o in zip(uses, owner, strict=True) if o in group}):
                of_kind = np.array([u == kind for u in uses], dtype=float)
                first, second = owner == group[0], owner == other
                rows.append(of_kind * first - of_kind * second)
    return rows
