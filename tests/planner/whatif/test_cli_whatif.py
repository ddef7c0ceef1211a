"""`planner whatif`, from the command line."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from planner.cli import app
from planner.query import Query
from planner.solve import query_data

runner = CliRunner()


@pytest.fixture(scope="module")
def query(make_query: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    small = make_query(  # type: ignore[operator]
        devices=["h100_sxm", "l40s"],
        workload={"qps": 190},
        runtime="continuous",
        search={"max_replica_devices": 2},
    )
    assert isinstance(small, Query)
    path = tmp_path_factory.mktemp("whatif") / "query.yaml"
    path.write_text(yaml.safe_dump(query_data(small)))
    return path


def _run(*arguments: object) -> tuple[int, str]:
    found = runner.invoke(app, ["whatif", *map(str, arguments)])
    return found.exit_code, re.sub(r"\s+", " ", found.output)


def test_a_grid_to_all_its_files(query: Path, tmp_path: Path) -> None:
    files = {name: tmp_path / f"grid.{name}" for name in ("csv", "json", "svg")}
    code, said = _run(
        *("grid", query, "--vary", "slo.ttit=20ms,30ms", "--inventory", "h100_sxm=0,8"),
        *("--set", "workload.qps=150", "--csv", files["csv"], "--json", files["json"]),
        *("--figure", files["svg"]),
    )
    assert code == 0, said
    with files["csv"].open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    data = json.loads(files["json"].read_text())
    assert data["schema"] == "planner.whatif.grid/1"
    prices = [cell["best"]["usd_per_hour"] for cell in data["cells"]]
    assert [float(row["usd_per_hour"]) for row in rows] == prices
    assert all(f"{usd:,.2f}" in said for usd in prices)
    assert "<svg" in files["svg"].read_text()


def test_a_grid_of_a_file_of_changes_and_a_plan(query: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    assert runner.invoke(app, ["solve", str(query), "--json", str(plan), "-q"]).exit_code == 0
    device = tmp_path / "faster.yaml"
    device.write_text("extends: l40s\nmemory_bandwidth: 2TB/s\n")
    changes = tmp_path / "changes.yaml"
    changes.write_text(
        "changes:\n  devices.faster.usd_per_device_hour: [1, 20]\nadd_devices: [faster.yaml]\n"
    )
    code, said = _run("grid", plan, "--changes", changes)
    assert code == 0, said
    assert "x 8 faster" in said
    assert "h100_sxm" in said


def test_break_even_prices(query: Path, tmp_path: Path) -> None:
    out = tmp_path / "price.json"
    code, said = _run("price", query, "l40s", "--json", out, "--figure", tmp_path / "price.svg")
    assert code == 0, said
    enters = json.loads(out.read_text())["enters_below_usd_per_device_hour"]
    assert f"l40s is in the best fleet below ${enters:,.4g} per device-hour" in said
    below, above = (
        _run("grid", query, "--vary", f"devices.l40s.usd_per_device_hour={enters * factor}")[1]
        for factor in (0.999, 1.001)
    )
    assert "x 8 l40s" in below
    assert "x 8 l40s" not in above


def test_pairings_shadows_and_tornados(query: Path, tmp_path: Path) -> None:
    both = ("--set", "runtime=both")
    figure = tmp_path / "figure.svg"
    code, said = _run("pairing", query, "h100_sxm", "l40s", *both, "--figure", figure)
    assert code == 0, said
    assert "whole hosts" in said
    assert "saves more than" in said
    code, said = _run("shadow", query, "--set", "devices.h100_sxm.inventory=8", "--within", 1.5)
    assert code == 0, said
    assert "TTIT 30 ms (mean)" in said
    assert "per host" in said
    out = tmp_path / "tornado.csv"
    code, said = _run("tornado", query, "--by", 0.2, "--csv", out, "--figure", figure)
    assert code == 0, said
    assert "cheapest choice" in said
    with out.open() as file:
        assert {row["what"] for row in csv.DictReader(file)} >= {"demand", "times of l40s"}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["grid"], 2, "nothing is varied"),
        (["grid", "--vary", "slo.ttot=1ms"], 2, "slo.ttot: unknown field"),
        (["grid", "--vary", "slo.ttit=1..3"], 2, "--vary slo.ttit=1..3: 1..3: expected how many"),
        (["grid", "--vary", "slo.ttit=1ms..9ms:1001"], 2, "2 to 1000 values"),
        (["grid", "--vary", "workload.qps=1..99:99", "--vary", "slo.ttit=1ms..9ms:11"], 2, "cells"),
        (["grid", "--vary", "devices.mi300x.inventory=8"], 2, "no device 'mi300x' in the query"),
        (["grid", "--inventory", "h100_sxm=-8"], 2, "devices.h100_sxm.inventory"),
        (["grid", "--inventory", "h100_sxm=0", "--inventory", "l40s=0"], 2, "no device"),
        (["grid", "--vary", "slo.ttit=0.1ms"], 3, "no fleet"),
        (["grid", "--vary", "slo.ttit=9ms", "--csv", "no/such/folder.csv"], 2, "does not exist"),
        (["grid", "--vary", "slo.ttit=9ms", "--figure", "figure.gif"], 2, "ends in .svg"),
        (["grid", "--changes", "none.yaml"], 2, "none.yaml: no such file"),
        (["grid", "--set", "slo.ttit=9ms,10ms", "--vary", "workload.qps=1"], 2, "one value, got 2"),
        (["grid", "--vary", "slo.ttit=9ms", "--add-device", "none.yaml"], 2, "none.yaml"),
        (["price", "mi300x"], 2, "no device 'mi300x' in the query; it has h100_sxm, l40s"),
        (["price", "l40s", "--set", "slo.ttit=0.1ms"], 3, "no fleet serves"),
        (["pairing", "l40s", "l40s"], 2, "two device types"),
        (["shadow", "--within", "0.5"], 2, "--within"),
        (["tornado", "--by", "3"], 2, "--by"),
        (["tornado", "--set", "slo.ttit=0.1ms"], 3, "no fleet serves"),
    ],
)
def test_bad_input(query: Path, arguments: list[str], code: int, said: str) -> None:
    found, output = _run(arguments[0], query, *arguments[1:])
    assert (found, said in output) == (code, True), output


def test_a_file_that_is_no_question(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text("{}")
    code, said = _run("price", path, "l40s")
    assert code == 2
    assert "plan.json: expected a plan" in said
