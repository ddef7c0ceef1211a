"""The integer program of a schedule: its variables, prices and rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.catalog import combinations
from planner.catalog.assignment import MISSING_FACTOR, Supply
from planner.catalog.combinations import cheapest_combination, few_enough, improved
from planner.catalog.hosts_over_time import Family, Rental, cheapest_hosts
from planner.catalog.inventories import Total, limits

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

Row = tuple[Any, float, FloatArray | float]

FAMILY, RESERVED, HOSTS, WORKING, STARTED, MISSING = range(6)
"""Blocks of variables: which family; hosts reserved, by supply; by slot and supply all hosts,
whether any work is there, hosts started; hosts missing, by supply."""


class Program:
    """The integer program; its variables are the blocks named above, one after another.

    Slots that are alike count as one, unless hosts on demand have a least time: then their order
    matters.
    """

    def __init__(
        self,
        supplies: Sequence[Supply],
        rentals: Sequence[Rental],
        services: Sequence[Sequence[Family]],
        totals: Sequence[Total] = (),
        beyond_inventory: bool = False,
    ) -> None:
        self.supplies, self.rentals, self.totals = supplies, rentals, totals
        self.beyond_inventory = beyond_inventory
        self.flat = [family for families in services for family in families]
        self.owner = np.repeat(np.arange(len(services)), [len(f) for f in services])
        self.size = np.array([s.sizes for s in supplies])
        self.spare = np.array([s.spare for s in supplies])
        self.besides = np.array([f.usd_per_hour for f in self.flat])
        self.holds = any(r.least_slots > 1 for r in rentals)
        if (self.size[:, 0] == self.size[:, 1]).all():  # then one of both says all
            self.size = self.size[:, :1]
        used = np.stack([f.used(self.size) for f in self.flat], axis=1)  # (T, F, K, 1 or 2)
        slots = len(used)
        self.slot_of = np.arange(slots)
        self.weights = self.each_slot = np.full(slots, 1.0 / slots)
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
    def few(self) -> bool:
        """Whether all combinations can be priced."""
        return few_enough(np.bincount(self.owner).tolist(), self.slots, self.kinds)

    @property
    def closed(self) -> bool:
        """Whether the best hosts of families are known in closed form.

        Not with least times, nor where several supplies have an inventory together: what is
        reserved in one region and idle is lacking in another.
        """
        return not self.holds and not self.totals

    def enumerated(self, together: Sequence[Sequence[int]]) -> tuple[IntArray, float] | None:
        """The cheapest combination and its price by the closed form; None of many."""
        if not self.few:
            return None
        return cheapest_combination(
            [np.flatnonzero(self.owner == i) for i in range(self.owner.max() + 1)],
            self.used,
            self.besides,
            self.prices,
            together,
        )

    def improved(
        self, chosen: IntArray, together: Sequence[Sequence[int]], limit_s: float
    ) -> IntArray:
        """Families that cost less by the closed form, if there are some near those chosen.

        Services that belong together stay.
        """
        movable = ~np.isin(self.owner, [service for group in together for service in group])
        return improved(
            chosen,
            self.owner,
            self.used,
            self.besides,
            self.prices,
            movable=movable,
            limit_s=limit_s,
        )

    def prices(self, taken: IntArray, k: int) -> FloatArray:
        """Of a supply's best hosts, by the closed form, (C,) for devices taken of it, (T, C, 2).

        Infinite beyond the inventory, or with what is missing at its price.
        """
        supply, reserved = self.supplies[k], self.supplies[k].usd_per_host_hour
        needed = (-(-taken // self.size[k])).max(axis=-1)
        needed = needed + np.where(needed > 0, supply.spare, 0)
        rented = self.rentals[k].usd_per_host_hour
        price = combinations.usd_per_hour(needed, reserved, rented, self.weights)
        if supply.inventory is None:
            return price
        beyond = np.maximum(needed.max(axis=0) - supply.inventory, 0)
        if self.beyond_inventory:
            return np.asarray(price + MISSING_FACTOR * reserved * beyond)
        return np.where(beyond > 0, np.inf, price)

    @property
    def count(self) -> int:
        """Variables."""
        return int(self.starts[-1])

    def needed(self, chosen: IntArray) -> IntArray:
        """Hosts, spare ones included, that families take, (T, K)."""
        needed = (-(-self.used[:, chosen].sum(axis=1) // self.size)).max(axis=-1)
        return np.asarray(needed + np.where(needed > 0, self.spare, 0))

    def cheapest_hosts(self, chosen: IntArray) -> tuple[IntArray, IntArray]:
        """Hosts reserved (K,) and on demand (T, K) for families, by the closed form."""
        reserved, rented = cheapest_hosts(
            self.supplies, self.rentals, self.needed(chosen), self.weights
        )
        return reserved, rented[self.slot_of]

    def hosts(self, values: FloatArray) -> tuple[IntArray, IntArray]:
        """Hosts reserved (K,) and on demand (T, K) of a solution, in all slots."""
        whole = np.round(values).astype(np.int64)
        reserved = whole[self.starts[RESERVED] : self.starts[HOSTS]]
        hosts = whole[self.starts[HOSTS] : self.starts[WORKING]].reshape(self.slots, self.kinds)
        return reserved, (hosts - reserved)[self.slot_of]

    def _per_cell(self, by_kind: FloatArray) -> FloatArray:
        return np.tile(by_kind.astype(float), self.slots)

    def cost(self) -> FloatArray:
        """Of each variable, USD per hour: hosts as if on demand, reserved ones what they add."""
        price = np.array([s.usd_per_host_hour for s in self.supplies])
        rented = np.array([r.usd_per_host_hour or 0.0 for r in self.rentals])
        cells = self.slots * self.kinds
        return np.concatenate(
            [
                self.besides,
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
        hosts = (-(-sum(by_service).max(axis=0) // self.size)).max(axis=-1) + self.spare
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
        by_cells = self.used.transpose(3, 0, 2, 1).reshape(-1, cells, families)
        every_slot = sparse.kron(np.ones((self.slots, 1)), sparse.eye(self.kinds))
        spare = self._per_cell(self.spare)
        each = sparse.eye(cells)
        mine = (np.ones(families), (self.owner, np.arange(families)))
        yield self._row({FAMILY: sparse.csr_matrix(mine)}, 1, 1)
        for by_cell, by_kind in zip(by_cells, self.size.T, strict=True):
            size = self._per_cell(by_kind)
            held = {
                FAMILY: sparse.csr_matrix(by_cell),
                HOSTS: -sparse.diags(size),
                WORKING: sparse.diags(size * spare),
            }
            yield self._row(held, -np.inf, 0)
        yield self._row({RESERVED: every_slot, HOSTS: -each}, -np.inf, 0)
        only = self._per_cell(np.array([r.usd_per_host_hour is None for r in self.rentals]))
        if only.any():
            only = sparse.diags(only)
            yield self._row({HOSTS: only, RESERVED: -only @ every_slot}, -np.inf, 0)
        for service in range(self.owner.max() + 1) if spare.any() else ():
            using = (by_cells[0] > 0) & (self.owner == service) & (spare > 0)[:, None]
            yield self._row({FAMILY: sparse.csr_matrix(using * 1.0), WORKING: -each}, -np.inf, 0)
        within, most = limits(self.supplies, self.totals)
        if len(within):
            kept = {
                HOSTS: sparse.kron(sparse.eye(self.slots), within),
                MISSING: -sparse.kron(np.ones((self.slots, 1)), within),
            }
            yield self._row(kept, -np.inf, self._per_cell(most))
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
        uses = [tuple(used) for used in (self.used[..., 0].sum(axis=0) > 0).tolist()]
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
