"""A grid answered: the cheapest fleet of every cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfmodel.database import PerfStore
from perfmodel.errors import ConfigError
from planner.plan import FleetPlan, Plan
from planner.query import Query
from planner.solve import answers
from planner.whatif.axes import Axis, Cell

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Answer:
    """One cell, and its plan or the reason why it has none."""

    cell: Cell
    plan: Plan | None
    error: str = ""

    def row(self) -> dict[str, Any]:
        """The cell as one line of a table: its settings, then the fleet; None where none serves."""
        return {**self.cell.labels, **fleet_row(self.plan), "error": self.error}


@dataclass(frozen=True)
class Grid:
    """All cells, in the order of the product of the axes."""

    axes: tuple[Axis, ...]
    answers: tuple[Answer, ...]

    @property
    def demands(self) -> set[float | str]:
        """Requests/s that cells ask for, `max` for as many as possible."""
        queries = (a.cell.query for a in self.answers)
        return {query.workload.qps for query in queries if isinstance(query, Query)}

    @property
    def reasons(self) -> list[str]:
        """Why cells have no fleet, each reason once."""
        return list(dict.fromkeys(a.error for a in self.answers if a.plan is None))

    def rows(self) -> list[dict[str, Any]]:
        """One row per cell."""
        return [answer.row() for answer in self.answers]

    def to_dict(self) -> dict[str, Any]:
        """Plain data: the axes, and every cell with its best fleet in full."""
        axes = {axis.name: [setting.label for setting in axis.settings] for axis in self.axes}
        cells = [
            {
                "settings": dict(a.cell.labels),
                "best": a.plan.to_dict()["best"] if a.plan else None,
                "error": a.error,
            }
            for a in self.answers
        ]
        return {"axes": axes, "cells": cells}


def answer_grid(
    cells: Sequence[Cell],
    axes: Sequence[Axis],
    *,
    search_path: Sequence[Path] = (),
    store: PerfStore | None = None,
    progress: Progress | None = None,
) -> Grid:
    """The cheapest fleet of every cell, or why it has none.

    A space is evaluated once for all cells that it covers.

    Raises:
        InputError: every cell asks for something unknown or contradictory.
    """
    queries = [cell.query for cell in cells if isinstance(cell.query, Query)]
    plans = iter(
        answers(
            queries,
            search_path=search_path,
            store=store,
            progress=progress,
            runners_up=0,
            explain=True,
        )
    )
    found = [next(plans) if isinstance(cell.query, Query) else cell.query for cell in cells]
    refused = [one for one in found if isinstance(one, ConfigError)]
    if len(refused) == len(cells):
        raise refused[0]
    return Grid(
        tuple(axes),
        tuple(
            Answer(cell, one) if isinstance(one, Plan) else Answer(cell, None, str(one))
            for cell, one in zip(cells, found, strict=True)
        ),
    )


def fleet_name(fleet: FleetPlan) -> str:
    """A fleet in a few words: `2 x 8 h100_sxm, continuous`; prefill before decode."""
    return f"{fleet.hosts_text}, {fleet.kind}"


def fleet_row(plan: Plan | None) -> dict[str, Any]:
    """What a table says of a plan's best fleet, by column; all None without one."""
    if plan is None:
        return dict.fromkeys(COLUMNS)
    best = plan.best
    values = (
        best.usd_per_hour,
        fleet_name(best),
        best.kind,
        best.devices,
        best.qps,
        best.qps_per_usd_hour,
        best.usd_per_million_input_tokens,
        best.usd_per_million_output_tokens,
        best.usd_per_hour_per_qps_at_scale,
        best.ttft.mean_s,
        best.ttit_mean_s,
        best.measured_share,
    )
    return dict(zip(COLUMNS, values, strict=True))


COLUMNS = (
    "usd_per_hour",
    "fleet",
    "kind",
    "devices",
    "qps",
    "qps_per_usd_hour",
    "usd_per_million_input_tokens",
    "usd_per_million_output_tokens",
    "usd_per_hour_per_qps_at_scale",
    "ttft_mean_s",
    "ttit_mean_s",
    "measured_share",
)
"""Of a fleet, in a grid's rows."""
