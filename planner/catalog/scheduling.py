"""One configuration for each service, and the hosts of every slot, at the least price together.

Reserved hosts are paid in all slots, those on demand in the slots that have them. A service's
replicas follow its demand, so that what it takes of each supply is known by slot; hosts are
whole, and hold the devices of all services. As in `planner.catalog.assignment`, choices are 0
or 1 and hosts are counts: a small integer program, with a row for each supply and slot.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.catalog.assignment import MISSING_FACTOR, Supply

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Rental:
    """How hosts of a supply are had on demand, beside reserved ones.

    Attributes:
        usd_per_host_hour: None: not to be had.
        least_slots: for which one is rented at least.
    """

    usd_per_host_hour: float | None
    least_slots: int = 1


@dataclass(frozen=True, eq=False)
class Family:
    """One configuration of a service, with as many replicas in each slot as it needs.

    Attributes:
        hosts: (T, K) whole hosts that it fills, by slot and supply.
        devices: (T, K) devices on hosts that other services may share.
        usd_per_hour: what it costs besides hosts.
    """

    hosts: IntArray
    devices: IntArray
    usd_per_hour: float = 0.0


@dataclass(frozen=True, eq=False)
class Schedule:
    """What was decided.

    Attributes:
        chosen: family of each service.
        reserved: (K,) hosts of each supply that are paid in all slots.
        on_demand: (T, K) hosts beside them.
        usd_per_hour: of all hosts, mean over the slots, and what the families cost besides.
        bound_usd_per_hour: no schedule of these families costs less.
        seconds: of the solver.
    """

    chosen: tuple[int, ...]
    reserved: IntArray
    on_demand: IntArray
    usd_per_hour: float
    bound_usd_per_hour: float
    seconds: float

    @property
    def gap(self) -> float:
        """By how much the price may exceed the least possible, as a share of it."""
        if self.usd_per_hour <= 0:
            return 0.0
        return max(self.usd_per_hour - self.bound_usd_per_hour, 0.0) / self.usd_per_hour


def schedule(
    supplies: Sequence[Supply],
    rentals: Sequence[Rental],
    services: Sequence[Sequence[Family]],
    together: Sequence[Sequence[int]] = (),
    *,
    gap: float = 1e-4,
    limit_s: float = 60.0,
    beyond_inventory: bool = False,
) -> Schedule | None:
    """The cheapest schedule, by HiGHS; None where none keeps within the inventories.

    Minimizes `sum(reserved price * reserved) + mean over slots(on-demand price * on demand)`
    where every service keeps one family, and in every slot
    `host_devices * (reserved + on demand - spare) >= devices in use` and reserved + on demand
    keep within the inventory. Slots go round: the first follows the last.

    Args:
        supplies: whose prices are those of reserved hosts.
        services: the families of each.
        together: groups of services which must all use the same supplies.
        gap: share of the price at which the solver may stop.
        limit_s: after which it stops with what it has found.
        beyond_inventory: as in `planner.catalog.assignment.assign`.

    Raises:
        ValueError: a service without families.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    if any(len(families) == 0 for families in services):
        raise ValueError("a service without families")
    started = time.perf_counter()
    program = _Program(supplies, rentals, services, beyond_inventory)
    rows = program.rows(together)
    found = milp(
        program.cost(),
        constraints=[LinearConstraint(matrix, low, high) for matrix, low, high in rows],
        integrality=program.integrality(),
        bounds=Bounds(0, program.most()),
        options={"mip_rel_gap": gap, "time_limit": limit_s},
    )
    if found.x is None:
        return None
    chosen = np.flatnonzero(np.round(found.x[: len(program.owner)]) > 0)
    needed = program.needed(chosen)
    if program.holds:
        hosts = program.hosts(found.x)
    else:
        hosts = cheapest_hosts(supplies, rentals, needed, program.weights)
    reserved, on_demand = hosts
    price = _usd_per_hour(supplies, rentals, reserved, on_demand, program.weights)
    price += sum(program.flat[i].usd_per_hour for i in chosen)
    starts = np.searchsorted(program.owner, np.arange(len(services)))
    return Schedule(
        chosen=tuple(int(i) for i in chosen - starts),
        reserved=reserved,
        on_demand=on_demand[program.slot_of],
        usd_per_hour=price,
        bound_usd_per_hour=float("nan") if beyond_inventory else float(found.mip_dual_bound),
        seconds=time.perf_counter() - started,
    )


def cheapest_hosts(
    supplies: Sequence[Supply],
    rentals: Sequence[Rental],
    needed: IntArray,
    weights: FloatArray,
) -> tuple[IntArray, IntArray]:
    """How many hosts to reserve and have on demand, where these have no least time.

    A host reserved saves its price on demand in every slot that needs it: the price is convex
    in their number and bends at the counts that slots need. Of equal ones the fewest.

    Args:
        needed: (T, K) hosts, by slot and supply.
        weights: (T,) share of time of each slot.

    Returns:
        (K,) hosts reserved and (T, K) on demand.
    """
    reserved = np.zeros(len(supplies), dtype=np.int64)
    for k, (supply, rental) in enumerate(zip(supplies, rentals, strict=True)):
        counts = np.unique(np.append(needed[:, k], 0))
        if rental.usd_per_host_hour is None:
            reserved[k] = counts[-1]
            continue
        rented = weights @ np.maximum(needed[:, k, None] - counts, 0)
        price = supply.usd_per_host_hour * counts + rental.usd_per_host_hour * rented
        cheapest = price <= price.min() * (1 + 1e-12)
        reserved[k] = counts[cheapest.argmax()]
    return reserved, np.maximum(needed - reserved, 0)


def _usd_per_hour(
    supplies: Sequence[Supply],
    rentals: Sequence[Rental],
    reserved: IntArray,
    on_demand: IntArray,
    weights: FloatArray,
) -> float:
    price = np.array([s.usd_per_host_hour for s in supplies])
    rented = np.array([r.usd_per_host_hour or 0.0 for r in rentals])
    return float(reserved @ price + weights @ on_demand @ rented)


Row = tuple[Any, float, FloatArray | float]

FAMILY, RESERVED, HOSTS, WORKING, STARTED, MISSING = range(6)
"""Blocks of variables: which family; hosts reserved, by supply; by slot and supply all hosts,
whether any work is there, hosts started; hosts missing, by supply."""


class _Program:
    """The integer program; its variables are the blocks named above, one after another.

    Slots that are alike count as one, unless hosts on demand have a least time: then their order
    matters.
    """

    def __init__(
        self,
        supplies: Sequence[Supply],
        rentals: Sequence[Rental],
        services: Sequence[Sequence[Family]],
        beyond_inventory: bool,
    ) -> None:
        self.supplies, self.rentals = supplies, rentals
        self.beyond_inventory = beyond_inventory
        self.flat = [family for families in services for family in families]
        self.owner = np.repeat(np.arange(len(services)), [len(f) for f in services])
        self.size = np.array([s.host_devices for s in supplies])
        self.spare = np.array([s.spare for s in supplies])
        self.holds = any(r.least_slots > 1 for r in rentals)
        used = np.stack([f.hosts * self.size + f.devices for f in self.flat], axis=1)  # (T, F, K)
        slots = len(used)
        self.slot_of = np.arange(slots)
        self.weights = np.full(slots, 1.0 / slots)
        if not self.holds:
            flat = used.reshape(slots, -1)
            _, first, self.slot_of, counts = np.unique(
                flat, axis=0, return_index=True, return_inverse=True, return_counts=True
            )
            used, self.weights = used[first], counts / slots
        self.used = used
        self.slots, self.kinds = len(used), len(supplies)
        cells = self.slots * self.kinds
        sizes = (len(self.flat), self.kinds, cells, cells, cells, self.kinds)
        self.starts = np.concatenate([[0], np.cumsum(sizes)])

    @property
    def count(self) -> int:
        """Variables."""
        return int(self.starts[-1])

    def needed(self, chosen: IntArray) -> IntArray:
        """Hosts, spare ones included, that families take, (T, K)."""
        used = self.used[:, chosen].sum(axis=1)
        return np.asarray(-(-used // self.size) + np.where(used > 0, self.spare, 0))

    def hosts(self, values: FloatArray) -> tuple[IntArray, IntArray]:
        """Hosts reserved (K,) and on demand (T, K) of a solution."""
        whole = np.round(values).astype(np.int64)
        reserved = whole[self.starts[RESERVED] : self.starts[HOSTS]]
        hosts = whole[self.starts[HOSTS] : self.starts[WORKING]].reshape(self.slots, self.kinds)
        return reserved, hosts - reserved

    def _per_cell(self, by_kind: FloatArray) -> FloatArray:
        return np.tile(by_kind.astype(float), self.slots)

    def cost(self) -> FloatArray:
        """Of each variable, USD per hour: hosts as if on demand, reserved ones what they add."""
        price = np.array([s.usd_per_host_hour for s in self.supplies])
        rented = np.array([r.usd_per_host_hour or 0.0 for r in self.rentals])
        cells = self.slots * self.kinds
        return np.concatenate(
            [
                [f.usd_per_hour for f in self.flat],
                price - rented,
                (self.weights[:, None] * rented).ravel(),
                np.zeros(2 * cells),
                MISSING_FACTOR * price,
            ]
        )

    def integrality(self) -> IntArray:
        """1 where a variable is whole by itself; the others follow from those.

        Given all hosts, the best number to reserve is that of some slot, and whole.
        """
        whole = np.zeros(self.count, dtype=np.int64)
        whole[: self.starts[RESERVED]] = 1
        whole[self.starts[HOSTS] : self.starts[WORKING]] = 1
        return whole

    def most(self) -> FloatArray:
        """The largest value of each variable."""
        by_service = [
            self.used[:, self.owner == i].max(axis=1) for i in range(self.owner.max() + 1)
        ]
        hosts = -(-sum(by_service).max(axis=0) // self.size) + self.spare
        cells = self.slots * self.kinds
        return np.concatenate(
            [
                np.ones(len(self.flat)),
                hosts,
                self._per_cell(hosts),
                np.ones(cells),
                self._per_cell(hosts),
                hosts if self.beyond_inventory else np.zeros(self.kinds),
            ]
        )

    def rows(self, together: Sequence[Sequence[int]]) -> Iterator[Row]:
        """The constraints: a matrix, and what its product with the variables lies between."""
        from scipy import sparse

        families, cells = len(self.flat), self.slots * self.kinds
        by_cell = self.used.transpose(0, 2, 1).reshape(cells, families)
        every_slot = sparse.kron(np.ones((self.slots, 1)), sparse.eye(self.kinds))
        size, spare = self._per_cell(self.size), self._per_cell(self.spare)
        each = sparse.eye(cells)
        mine = (np.ones(families), (self.owner, np.arange(families)))
        yield self._row({FAMILY: sparse.csr_matrix(mine)}, 1, 1)
        yield self._row(
            {
                FAMILY: sparse.csr_matrix(by_cell),
                HOSTS: -sparse.diags(size),
                WORKING: sparse.diags(size * spare),
            },
            -np.inf,
            0,
        )
        yield self._row({RESERVED: every_slot, HOSTS: -each}, -np.inf, 0)
        only = self._per_cell(np.array([r.usd_per_host_hour is None for r in self.rentals]))
        if only.any():
            only = sparse.diags(only)
            yield self._row({HOSTS: only, RESERVED: -only @ every_slot}, -np.inf, 0)
        for service in range(self.owner.max() + 1) if spare.any() else ():
            using = (by_cell > 0) & (self.owner == service) & (spare > 0)[:, None]
            yield self._row({FAMILY: sparse.csr_matrix(using * 1.0), WORKING: -each}, -np.inf, 0)
        caps = np.array([np.inf if s.inventory is None else s.inventory for s in self.supplies])
        if np.isfinite(caps).any():
            yield self._row({HOSTS: each, MISSING: -every_slot}, -np.inf, self._per_cell(caps))
        if self.holds:
            before = sparse.kron(_shifted(self.slots, 1), sparse.eye(self.kinds))
            yield self._row({HOSTS: each - before, STARTED: -each}, -np.inf, 0)
            running = {STARTED: self._recent(), HOSTS: -each, RESERVED: every_slot}
            yield self._row(running, -np.inf, 0)
        alike = self._alike(together)
        if alike:
            yield self._row({FAMILY: sparse.csr_matrix(np.array(alike))}, 0, 0)

    def _row(self, blocks: Mapping[int, Any], low: float, high: FloatArray | float) -> Row:
        """Rows of which only some blocks are not zero."""
        from scipy import sparse

        height = next(iter(blocks.values())).shape[0]
        widths = np.diff(self.starts)
        whole = [blocks.get(i, sparse.csr_matrix((height, w))) for i, w in enumerate(widths)]
        return sparse.hstack(whole).tocsr(), low, high

    def _recent(self) -> Any:
        """Which hosts started may not yet have stopped, by cell."""
        from scipy import sparse

        total = sparse.csr_matrix((self.slots * self.kinds,) * 2)
        for k, rental in enumerate(self.rentals):
            one = sparse.csr_matrix(([1.0], ([k], [k])), shape=(self.kinds, self.kinds))
            for back in range(min(rental.least_slots, self.slots)):
                total = total + sparse.kron(_shifted(self.slots, back), one)
        return total

    def _alike(self, together: Sequence[Sequence[int]]) -> list[FloatArray]:
        """Rows that are zero where all services of a group use the same supplies."""
        uses = [tuple(used) for used in (self.used.sum(axis=0) > 0).tolist()]
        rows = []
        for group in together:
            kinds = {u for u, o in zip(uses, self.owner, strict=True) if o in group}
            for other, kind in product(group[1:], sorted(kinds)):
                of_kind = np.array([u == kind for u in uses], dtype=float)
                rows.append(of_kind * (self.owner == group[0]) - of_kind * (self.owner == other))
        return rows


def _shifted(slots: int, back: int) -> Any:
    """A matrix whose product has each slot's value of some slots before, going round."""
    from scipy import sparse

    rows = np.arange(slots)
    return sparse.csr_matrix((np.ones(slots), (rows, (rows - back) % slots)), shape=(slots, slots))
