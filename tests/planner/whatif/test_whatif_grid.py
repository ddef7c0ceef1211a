"""Grids: every cell is the planner's own answer."""

from __future__ import annotations

import json

import pytest

from perfmodel.database import PerfStore
from perfmodel.errors import ConfigError
from planner.query import Query
from planner.solve import solve
from planner.whatif.axes import cells, read_options
from planner.whatif.grid import COLUMNS, Grid, answer_grid


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
    assert all(answer.error for answer in grid.answers[:4])


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
    axes = read_options(["model=Qwen/Qwen3-8B,no/such-model"])
    with pytest.raises(ConfigError, match="no/such-model"):
        answer_grid(cells(two, axes), axes, store=store)
