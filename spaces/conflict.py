"""Which constraints exclude each other, by CP-SAT: each is an assumption that can be dropped."""

from __future__ import annotations

from collections.abc import Sequence

from ortools.sat.python import cp_model

from spaces.constraints import LayoutConstraint
from spaces.enumeration import add_table, base_model
from spaces.variables import MAX_WORLD


def conflict(
    constraints: Sequence[LayoutConstraint], max_world: int = MAX_WORLD
) -> list[LayoutConstraint]:
    """A minimal set of constraints that no layout satisfies together; empty if one satisfies all.

    CP-SAT returns assumptions that suffice for infeasibility; each is then tried without, so that
    what is left is needed: dropping any one of them lets the others be satisfied.
    """
    kept = _core(constraints, max_world)
    for constraint in list(kept):
        without = [other for other in kept if other is not constraint]
        if _core(without, max_world):
            kept = without
    return kept


def _core(constraints: Sequence[LayoutConstraint], max_world: int) -> list[LayoutConstraint]:
    """Constraints that suffice for infeasibility, in their order; empty if they are satisfiable."""
    model, degree = base_model(max_world)
    assumed = {}
    for position, constraint in enumerate(constraints):
        literal = model.new_bool_var(f"assume {position}")
        add_table(model, degree, constraint, max_world, literal)
        assumed[literal.index] = constraint
        model.add_assumption(literal)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    # Presolve would substitute the assumptions, of which the answer is made.
    solver.parameters.cp_model_presolve = False
    if solver.solve(model) != cp_model.INFEASIBLE:
        return []
    return [assumed[index] for index in sorted(solver.sufficient_assumptions_for_infeasibility())]
