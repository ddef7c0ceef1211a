"""Enumeration of layouts by CP-SAT, and the count of what each constraint removes.

Degrees are powers of two, so the model's variables are their exponents and the equality of
the two modules' worlds is linear. Every other constraint enters as a table over the degrees
it reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray
from ortools.sat.python import cp_model

from perfmodel.layout import DEGREES, Layouts
from spaces.constraints import LayoutConstraint
from spaces.variables import MAX_WORLD, RawSpace, exponents

IntArray = NDArray[np.int64]

ATTENTION = ("pp", "tp_a", "cp_a", "dp_a")
FFN = ("pp", "tp_f", "ep_f", "dp_f")


def build_model(
    constraints: Sequence[LayoutConstraint], max_world: int = MAX_WORLD
) -> tuple[cp_model.CpModel, dict[str, cp_model.IntVar]]:
    """The CP-SAT model of all layouts; variables are log2 of the degrees."""
    model, degree = base_model(max_world)
    for constraint in constraints:
        add_table(model, degree, constraint, max_world)
    return model, degree


def base_model(max_world: int) -> tuple[cp_model.CpModel, dict[str, cp_model.IntVar]]:
    """What makes degrees a layout: both modules cover the same devices, and not too many."""
    limit = exponents(max_world)
    model = cp_model.CpModel()
    degree = {name: model.new_int_var(0, limit, name) for name in DEGREES}
    attention = sum(degree[name] for name in ATTENTION)
    model.add(attention == sum(degree[name] for name in FFN))
    model.add(attention <= limit)
    return model, degree


def add_table(
    model: cp_model.CpModel,
    degree: dict[str, cp_model.IntVar],
    constraint: LayoutConstraint,
    max_world: int,
    assumed: cp_model.IntVar | None = None,
) -> None:
    """Add a constraint as a table over the degrees it reads, under an assumption if any."""
    rows = _satisfying(constraint, exponents(max_world))
    if len(rows) == 0 and assumed is not None:
        model.add_bool_or(~assumed)
        return
    columns = [degree[name] for name in constraint.reads]
    table = model.add_allowed_assignments(columns, rows.tolist())
    if assumed is not None:
        table.only_enforce_if(assumed)


def enumerate_layouts(
    constraints: Sequence[LayoutConstraint], max_world: int = MAX_WORLD
) -> Layouts:
    """Every layout of at most `max_world` devices that satisfies all constraints.

    Rows come sorted by world size, then by degrees, whatever order the solver found them in.
    """
    model, degree = build_model(constraints, max_world)
    collector = _Collector([degree[name] for name in DEGREES])
    solver = cp_model.CpSolver()
    solver.parameters.enumerate_all_solutions = True
    # Enumeration needs one worker; presolve would only re-derive tables this small.
    solver.parameters.num_workers = 1
    solver.parameters.cp_model_presolve = False
    # Nothing is optimized: a relaxation has nothing to say.
    solver.parameters.linearization_level = 0
    solver.solve(model, collector)
    found = np.array(collector.rows, dtype=np.int64).reshape(-1, len(DEGREES))
    rows = 2**found
    world = rows[:, 0] * rows[:, 1] * rows[:, 2] * rows[:, 3]
    order = np.lexsort((*rows.T[::-1], world))
    return Layouts.from_rows(rows[order])


class _Collector(cp_model.CpSolverSolutionCallback):
    def __init__(self, variables: list[cp_model.IntVar]) -> None:
        super().__init__()
        self._variables = variables
        self.rows: list[list[int]] = []

    def on_solution_callback(self) -> None:
        self.rows.append([self.value(variable) for variable in self._variables])


def _satisfying(constraint: LayoutConstraint, limit: int) -> IntArray:
    """Exponents of the degrees a constraint reads, of all that satisfy it."""
    if constraint.reads == DEGREES:
        # Of all degrees only those matter that make a layout.
        layouts = all_layouts(2**limit)
        layouts = layouts[constraint.of(layouts)]
        return np.round(np.log2(layouts.rows())).astype(np.int64)
    rows = np.array(list(product(range(limit + 1), repeat=len(constraint.reads))), dtype=np.int64)
    # Worlds beyond the limit are excluded anyway; leaving them out keeps tables small.
    side = [
        [i for i, name in enumerate(constraint.reads) if name in module]
        for module in (ATTENTION, FFN)
    ]
    within = (rows[:, side[0]].sum(axis=1) <= limit) & (rows[:, side[1]].sum(axis=1) <= limit)
    rows = rows[within]
    degrees = {name: 2 ** rows[:, i] for i, name in enumerate(constraint.reads)}
    return np.asarray(rows[constraint.holds(degrees)])


def all_layouts(max_world: int = MAX_WORLD) -> Layouts:
    """Every layout whose two modules cover the same devices, by direct product.

    The unconstrained structure, from which `layout_funnel` counts; tests compare it, filtered
    by the constraints, with what CP-SAT enumerates.
    """
    limit = exponents(max_world)
    shares = [e for e in product(range(limit + 1), repeat=3) if sum(e) <= limit]
    by_size: dict[int, list[tuple[int, ...]]] = {}
    for share in shares:
        by_size.setdefault(sum(share), []).append(share)
    rows = [
        (pp, *attention, *ffn)
        for size, group in by_size.items()
        for pp in range(limit - size + 1)
        for attention in group
        for ffn in group
    ]
    return Layouts.from_rows(2 ** np.array(rows, dtype=np.int64))


def layout_funnel(
    constraints: Sequence[LayoutConstraint], max_world: int = MAX_WORLD
) -> list[tuple[str, int]]:
    """Layouts left after each constraint in turn: `(name, count)`, the raw product first."""
    layouts = all_layouts(max_world)
    funnel = [("degrees", RawSpace(max_world).layouts), ("equal worlds", len(layouts))]
    kept = np.ones(len(layouts), dtype=bool)
    for constraint in constraints:
        kept &= constraint.of(layouts)
        funnel.append((constraint.name, int(kept.sum())))
    return funnel
