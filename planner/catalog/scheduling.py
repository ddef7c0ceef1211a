"""One configuration for each service, and the hosts of every slot, at the least price together.

Reserved hosts are paid in all slots, those on demand in the slots that have them. A service's
replicas follow its demand, so that what it takes of each supply is known by slot; hosts are
whole, and hold the devices of all services. As in `planner.catalog.assignment`, choices are 0
or 1 and hosts are counts: an integer program, with a row for each supply and slot. Of few
combinations of configurations all are priced instead (`planner.catalog.combinations`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.catalog.assignment import Supply, gap_of
from planner.catalog.hosts_over_time import Family, Rental, usd_per_hour
from planner.catalog.inventories import Total
from planner.catalog.program import Program

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


SEARCH_SHARE = 0.2
"""Of the time, for bettering what the integer program has found."""


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
        return gap_of(self.usd_per_hour, self.bound_usd_per_hour)


def schedule(
    supplies: Sequence[Supply],
    rentals: Sequence[Rental],
    services: Sequence[Sequence[Family]],
    together: Sequence[Sequence[int]] = (),
    *,
    totals: Sequence[Total] = (),
    gap: float = 1e-4,
    limit_s: float = 60.0,
    beyond_inventory: bool = False,
) -> Schedule | None:
    """The cheapest schedule; None where none keeps within the inventories.

    Of few combinations of families all are priced; of many HiGHS finds the best, or what it has
    in its time is improved where the price of hosts is known in closed form.

    Minimizes `sum(reserved price * reserved) + mean over slots(on-demand price * on demand)`
    where every service keeps one family, and in every slot
    `host_devices * (reserved + on demand - spare) >= devices in use` and reserved + on demand
    keep within the inventory. Slots go round: the first follows the last.

    Args:
        supplies: whose prices are those of reserved hosts.
        services: the families of each.
        together: groups of services which must all use the same supplies.
        totals: inventories of several supplies together.
        gap: share of the price at which the solver may stop.
        limit_s: after which it stops with what it has found.
        beyond_inventory: as in `planner.catalog.assignment.assign`.

    Raises:
        ValueError: a service without families.
    """
    if any(len(families) == 0 for families in services):
        raise ValueError("a service without families")
    started = time.perf_counter()
    program = Program(supplies, rentals, services, totals, beyond_inventory)
    known = program.enumerated(together)
    bound = -np.inf if known is None else known[1]

    def price(solution: Solution) -> float:
        chosen, reserved, on_demand = solution
        hosts = usd_per_hour(supplies, rentals, reserved, on_demand, program.each_slot)
        return hosts + float(sum(program.flat[i].usd_per_hour for i in chosen))

    solutions: list[Solution] = []
    if known is not None and program.closed:
        solutions.append((known[0], *program.cheapest_hosts(known[0])))
    elif known is not None and not beyond_inventory:
        # The best combination by the closed form is seldom far from the best.
        alone = Program(supplies, rentals, [[program.flat[i]] for i in known[0]], totals)
        near = _solved(alone, (), gap, limit_s)
        solutions += [] if near is None else [(known[0], *near[0][1:])]
    enough = bool(solutions) and price(solutions[0]) - bound <= gap * price(solutions[0])
    if not (program.few and program.closed) and not enough:
        search_s = SEARCH_SHARE * limit_s if program.closed else 0.0
        found = _solved(program, together, gap, limit_s - search_s)
        if found is not None:
            solutions.append(found[0])
            bound = max(bound, found[1])
            if program.closed and price(found[0]) - bound > gap * price(found[0]):
                chosen = program.improved(found[0][0], together, search_s)
                solutions.append((chosen, *program.cheapest_hosts(chosen)))
    if not solutions:
        return None
    best = min(solutions, key=price)
    chosen, reserved, on_demand = best
    starts = np.searchsorted(program.owner, np.arange(len(services)))
    return Schedule(
        chosen=tuple(int(i) for i in chosen - starts),
        reserved=reserved,
        on_demand=on_demand,
        usd_per_hour=price(best),
        bound_usd_per_hour=float("nan") if beyond_inventory else bound,
        seconds=time.perf_counter() - started,
    )


Solution = tuple[IntArray, IntArray, IntArray]
"""Families chosen, hosts reserved (K,) and on demand (T, K)."""


def _solved(
    program: Program, together: Sequence[Sequence[int]], gap: float, limit_s: float
) -> tuple[Solution, float] | None:
    """What HiGHS finds, and its bound on the price."""
    from scipy.optimize import Bounds, LinearConstraint, milp

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
    hosts = program.cheapest_hosts(chosen) if program.closed else program.hosts(found.x)
    return (chosen, *hosts), float(found.mip_dual_bound)
