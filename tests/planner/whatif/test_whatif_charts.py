"""Figures hold the data that they are drawn from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from perfmodel.database import PerfStore
from perfmodel.errors import InputError
from planner.evaluated import Evaluated
from planner.figures import write_figure
from planner.query import Query
from planner.whatif.axes import cells, read_options
from planner.whatif.charts import CONTOURS, grid_chart, pairing_chart, price_chart, tornado_chart
from planner.whatif.grid import Grid, answer_grid
from planner.whatif.pairing import pairing
from planner.whatif.price import price_curve
from planner.whatif.sensitivity import Case, Swing, Tornado


def _grid(two: Query, store: PerfStore, vary: list[str]) -> Grid:
    axes = read_options(vary)
    return answer_grid(cells(two, axes), axes, store=store)


def _values(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """All rows of a chart."""
    return [row for rows in spec["datasets"].values() for row in rows]


def test_a_grids_figure_has_each_cell_in_its_unit(
    two: Query, store: PerfStore, tmp_path: Path
) -> None:
    grid = _grid(two, store, ["slo.ttit=10ms,30ms", "workload.qps=x1,x3", "runtime=both"])
    chart = grid_chart(grid)
    rows = [row for row in _values(chart.to_dict()) if "usd" in row]
    assert {(row["x"], row["workload_qps"]) for row in rows} == {
        (x, q) for x in (10.0, 30.0) for q in ("x1", "x3")
    }
    found = {row["usd"] for row in rows}
    assert found == {row["usd_per_hour"] for row in grid.rows()}
    assert any(row["above"] for row in rows)
    assert "slo.ttit (ms)" in str(chart.to_dict())
    write_figure(chart, tmp_path / "grid.svg")
    assert "<svg" in (tmp_path / "grid.svg").read_text()


def test_names_make_a_nominal_axis_and_a_third_one_panels(two: Query, store: PerfStore) -> None:
    grid = _grid(
        two, store, ["runtime=continuous,disaggregated", "workload.qps=x1,x3", "slo.ttit=10ms,30ms"]
    )
    spec = grid_chart(grid).to_dict()
    assert spec["facet"]["field"] == "slo_ttit"
    assert {row["x"] for row in _values(spec)} == {"continuous", "disaggregated"}
    four = _grid(
        two,
        store,
        [
            "slo.ttit=10ms,30ms",
            "slo.ttft=1s,2s",
            "workload.qps=x1,x2",
            "devices.l40s.inventory=0,8",
        ],
    )
    with pytest.raises(InputError, match="at most three axes"):
        grid_chart(four)


def test_nothing_to_draw_is_said(two: Query, store: PerfStore) -> None:
    with pytest.raises(InputError, match="no cell has a fleet"):
        grid_chart(_grid(two, store, ["slo.ttit=0.1ms,0.2ms"]))


def test_prices_and_pairings_are_drawn(evaluated: Evaluated, tmp_path: Path) -> None:
    curve = price_curve(evaluated, "l40s")
    spec = price_chart(curve).to_dict()
    rows = [row for row in _values(spec) if "piece" in row]
    assert len(rows) == 2 * len(curve.segments)
    assert all(row["usd"] == pytest.approx(curve.usd_per_hour(row["price"])) for row in rows)
    found = pairing(evaluated, "h100_sxm", "l40s")
    bands = [row for row in _values(pairing_chart(found).to_dict()) if "band" in row]
    for row in bands:
        if row["y"] and row["x"] > 0 and row["x2"] < 2 * found.today[0]:
            inside = float(
                max(
                    costs.saving((row["x"] * row["x2"]) ** 0.5 / row["y"])
                    for costs in (found.hosts, found.scale)
                )
            )
            assert inside >= CONTOURS[0]
    for name, chart in (("price", price_chart(curve)), ("pairing", pairing_chart(found))):
        write_figure(chart, tmp_path / f"{name}.svg")
        assert "<svg" in (tmp_path / f"{name}.svg").read_text()


def test_a_tornados_bars_begin_at_today(evaluated: Evaluated) -> None:
    fleets = evaluated.fleets(100)
    best, other = fleets[0], fleets[-1]
    case, lost = Case("+10 %", other, best), Case("-10 %", None, None)
    found = Tornado(best, 0.1, (Swing("demand", lost, case),))
    spec = tornado_chart(found).to_dict()
    (bar,) = [row for row in _values(spec) if "what" in row and "from" in row]
    assert (bar["from"], bar["usd"]) == (best.usd_per_hour, other.usd_per_hour)
    assert bar["side"] == "right"
    assert "no fleet at all: demand -10 %" in str(spec)
