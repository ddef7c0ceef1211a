"""Grids: every cell is the planner's own answer."""

from __future__ import annotations

import json
from io import StringIO

import pytest
from rich.console import Console

from perfmodel.database import PerfStore
from perfmodel.errors import ConfigError, InputError
from planner.query import Query
from planner.solve import solve
from planner.whatif.axes import cells, read_options
from planner.whatif.charts import grid_chart
from planner.whatif.grid import COLUMNS, Grid, answer_grid
from planner.whatif.report import print_grid


@pytest.fixture(scope="module")
def grid(two: Query, store: PerfStore) -> Grid:
    axes = read_options(["slo.ttit=0.1ms,9ms,30ms", "workload.qps=x1,x3"], ["h100_sxm=unlimited,0"])
    return answer_grid(cells(two, axes), axes, store=store)


def test_cells_are_the_planners_answers(grid: Grid, store: PerfStore) -> None:
    assert len(grid.answers) == 12
    for answer in grid.answers[4::3]:
        assert answer.plan is not None
        assert answer.plan.best == solve(answer.cell.query, store=store).best


def test_a_cell_without_a_fleet_stops_no_other(grid: Grid) -> None:
    served = [answer.plan is not None for answer in grid.answers]
    assert served == [False] * 4 + [True] * 8
    assert all("is below" in answer.error for answer in grid.answers[:4])


def test_rows_and_data_say_all(grid: Grid) -> None:
    rows = grid.rows()
    assert list(rows[0]) == [*(axis.name for axis in grid.axes), *COLUMNS, "error"]
    assert rows[0]["usd_per_hour"] is None
    last = rows[-1]
    assert (last["slo.ttit"], last["workload.qps"]) == ("30ms", "x3")
    assert last["fleet"].endswith(last["kind"])
    assert "h100_sxm" not in last["fleet"]
    data = json.loads(json.dumps(grid.to_dict()))
    assert data["axes"]["workload.qps"] == ["x1", "x3"]
    assert data["cells"][-1]["best"]["usd_per_hour"] == last["usd_per_hour"]
    assert data["cells"][0]["best"] is None


def test_what_no_cell_can_resolve_is_said_before_any_search(two: Query, store: PerfStore) -> None:
    axes = read_options(["model=no/such-model,none/such"])
    with pytest.raises(ConfigError, match="no/such-model"):
        answer_grid(cells(two, axes), axes, store=store)


def test_impossible_cells_say_why(two: Query, store: PerfStore) -> None:
    """Less than a host, and two inventories that leave nothing together."""
    axes = read_options([], ["h100_sxm=0,4,8", "l40s=0,unlimited"])
    grid = answer_grid(cells(two, axes), axes, store=store)
    assert [answer.plan is not None for answer in grid.answers] == [
        False,
        True,
        False,
        False,
        True,
        True,
    ]
    assert "leaves no device" in grid.answers[0].error
    assert "below one host of 8" in grid.answers[2].error == grid.answers[3].error
    assert len(grid.reasons) == 2
    assert [cell["error"] for cell in grid.to_dict()["cells"]] == [a.error for a in grid.answers]
    console = Console(file=StringIO(), width=100)
    print_grid(grid, console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert said.count("no fleet (1)") == 1
    assert said.count("no fleet (2)") == 2
    assert f"(1) {grid.reasons[0]}" in said
    rows = [row for rows in grid_chart(grid).to_dict()["datasets"].values() for row in rows]
    assert sorted(row["fleet"] for row in rows if row["none"]) == sorted(
        f"none: {answer.error}" for answer in grid.answers if answer.plan is None
    )


def test_a_value_that_no_cell_takes_is_an_error(two: Query) -> None:
    with pytest.raises(InputError, match=r"slo\.ttit"):
        cells(two, read_options(["slo.ttit=20ms,fast", "workload.qps=x1,x2"]))
