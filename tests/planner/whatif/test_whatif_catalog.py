"""What-ifs of catalogs, on plans made by hand and from the command line."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from perfmodel.errors import InputError
from planner.catalog import Catalog, Result, load_catalog, plan_fleet
from planner.cli import app
from planner.whatif.axes import read_options
from planner.whatif.catalog import answer_catalog, catalog_host_prices

QUERY: dict[str, Any] = {
    "model": "Qwen/Qwen3-8B",
    "workload": {"qps": 20, "input_tokens": 1000, "output_tokens": 100},
    "slo": {"ttft": "500ms", "ttit": "30ms"},
    "devices": [
        {"name": "h100_sxm", "usd_per_device_hour": 4.0},
        {"name": "a100_sxm", "usd_per_device_hour": 3.0},
    ],
    "runtime": "continuous",
    "search": {"max_replica_devices": 2},
}
PRICES = {"h100_sxm": 4.0, "a100_sxm": 3.0}


def _plan(device: str, hosts: int) -> dict[str, Any]:
    """A fleet that fills whole hosts."""
    host = {
        "device": device,
        "hosts": hosts,
        "devices_per_host": 8,
        "usd_per_device_hour": PRICES[device],
        "used_devices": 8 * hosts,
    }
    pool = {"device": device, "devices_per_replica": 8, "replicas": hosts}
    usd = 8 * hosts * PRICES[device]
    return {"kind": "continuous", "usd_per_hour": usd, "hosts": [host], "pools": [pool]}


@pytest.fixture
def results() -> list[Result]:
    """`a` runs on 2 hosts of H100 or 6 of A100, `b` on 2 or 3."""
    return [
        Result(name, "", {"best": _plan("h100_sxm", 2), "alternatives": [_plan("a100_sxm", n)]}, "")
        for name, n in (("a", 6), ("b", 3))
    ]


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    path = tmp_path / "catalog.yaml"
    fields = {"defaults": QUERY, "services": {"a": {}, "b": {}}, "inventory": {"h100_sxm": 16}}
    path.write_text(yaml.safe_dump(fields))
    return load_catalog(path)[0]


def test_cells_are_fleets_of_the_changed_catalog(catalog: Catalog, results: list[Result]) -> None:
    axes = read_options(inventory=["h100_sxm=0,16,unlimited"], price=["a100_sxm=x0.25,x1"])
    cells = answer_catalog(catalog, results, axes)
    # H100 at $32, A100 at $6 or $24 a host: 9 A100, then 2 H100 + 3 A100, then 4 H100.
    assert [c.fleet and c.fleet.usd_per_hour for c in cells] == [54, 216, 54, 136, 54, 128]
    assert cells[3].fleet is not None
    assert cells[3].fleet.hosts == plan_fleet(catalog, results).hosts
    first = cells[0].fleet
    assert first is not None
    assert [s.usd_per_hour for s in first.services] == [36, 18]
    assert first.alone_usd_per_hour == 54


def test_a_device_that_becomes_dear_is_left(catalog: Catalog, results: list[Result]) -> None:
    (cell,) = answer_catalog(catalog, results, read_options(price=["h100_sxm=100"]))
    assert cell.fleet is not None
    assert [h.device for h in cell.fleet.hosts] == ["a100_sxm"]


def test_too_little_is_said_in_its_cell(catalog: Catalog, results: list[Result]) -> None:
    axes = read_options(inventory=["h100_sxm=16", "a100_sxm=16,24"])
    short, enough = answer_catalog(catalog, results, axes)
    assert short.fleet is None
    assert "do not fit" in short.error
    assert enough.fleet is not None


def test_further_hosts_save_what_the_assignment_saves(
    catalog: Catalog, results: list[Result]
) -> None:
    (price,) = catalog_host_prices(catalog, results)
    # With 16 H100 `b` pays 3 x $24 where 2 x $32 would do: both further hosts are needed.
    assert (price.device, price.hosts, price.usd_per_hour) == ("h100_sxm", 2, 136)
    assert (price.further_hosts, price.cheaper_usd_per_hour) == (2, 128)
    assert price.usd_per_hour_per_host == 4


def test_where_nothing_fits_it_says_from_when_on(catalog: Catalog, results: list[Result]) -> None:
    inventory = {("h100_sxm", ""): 8, ("a100_sxm", ""): 24}
    scarce = replace(catalog, inventory=inventory)
    h100, a100 = catalog_host_prices(scarce, results)
    assert h100.usd_per_hour is None
    assert h100.usd_per_hour_per_host is None
    assert (h100.further_hosts, a100.further_hosts) == (1, 6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "nothing is varied"),
        ({"vary": ["slo.ttit=9ms"]}, "expected devices.NAME.inventory"),
        ({"inventory": ["b200_sxm=8"]}, "no service may use b200_sxm; they may use a100_sxm, h1"),
        ({"inventory": ["h100_sxm@eu=8"]}, "no service is in 'eu'"),
        ({"inventory": ["h100_sxm=-8"]}, "a number of devices from 0, got -8"),
        ({"inventory": ["a100_sxm=x2"]}, "needs a number"),
        ({"price": ["h100_sxm=0"]}, "usd_per_device_hour: "),
    ],
)
def test_bad_changes(
    catalog: Catalog, results: list[Result], options: dict[str, list[str]], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        answer_catalog(catalog, results, read_options(**options))


def test_no_limit_has_no_price(catalog: Catalog, results: list[Result]) -> None:
    with pytest.raises(InputError, match="a limit on some device"):
        catalog_host_prices(replace(catalog, inventory={}), results)


def test_from_the_command_line(tmp_path: Path) -> None:
    path, out = tmp_path / "catalog.yaml", tmp_path / "grid.json"
    fields = {"defaults": QUERY, "services": {"a": {}}, "inventory": {"h100_sxm": 8}}
    path.write_text(yaml.safe_dump(fields))
    arguments = ["whatif", "catalog", str(path), "--results", str(tmp_path / "results")]
    grid = [*arguments, "--inventory", "h100_sxm=0,8", "--json", str(out)]
    found = CliRunner().invoke(app, grid)
    assert found.exit_code == 0, found.output
    rows = json.loads(out.read_text())["rows"]
    assert next("h100" in row["hosts"] for row in rows) is False
    assert all(f"{row['usd_per_hour']:,.2f}" in found.output for row in rows)
    hosts = CliRunner().invoke(app, arguments)
    assert hosts.exit_code == 0
    assert re.search(r"USD/h per\s+host", hosts.output)
    bad = CliRunner().invoke(app, [*arguments, "--price", "mi300x=1"])
    assert bad.exit_code == 2
    assert "no service may use mi300x" in re.sub(r"\s+", " ", bad.output)


def test_of_a_day_it_is_what_the_fleet_over_time_is(tmp_path: Path) -> None:
    path, out = tmp_path / "catalog.yaml", tmp_path / "answer.json"
    fields = {
        "defaults": {**QUERY, "devices": ["h100_sxm"]},
        "services": {
            name: {"demand": {"peak_qps": 400, "peak_to_trough": 8, "peak_hour": hour}}
            for name, hour in (("day", 14), ("night", 2))
        },
        "prices": {"h100_sxm": {"reserved": 2.0, "on_demand": 2.5}},
        "inventory": {"h100_sxm": 64},
    }
    path.write_text(yaml.safe_dump(fields))
    folder = ["--results", str(tmp_path / "results")]
    fleet = CliRunner().invoke(app, ["fleet", str(path), *folder, "--out", str(out)])
    assert fleet.exit_code == 0, fleet.output
    usd = json.loads(out.read_text())["usd_per_hour"]
    asked = ["whatif", "catalog", str(path), *folder, "--json", str(out)]
    found = CliRunner().invoke(app, [*asked, "--price", "h100_sxm=x0.5,x1"])
    assert found.exit_code == 0, found.output
    half, same = json.loads(out.read_text())["rows"]
    assert same["usd_per_hour"] == pytest.approx(usd)
    assert half["usd_per_hour"] == pytest.approx(usd / 2)
    assert "8 h100_sxm" in same["hosts"]
    hosts = CliRunner().invoke(app, asked)
    assert hosts.exit_code == 0, hosts.output
    assert json.loads(out.read_text())["rows"][0]["usd_per_hour"] == pytest.approx(usd)
    absolute = CliRunner().invoke(app, [*asked, "--price", "h100_sxm=3"])
    assert absolute.exit_code == 2
    assert "expected a factor" in re.sub(r"\s+", " ", absolute.output)


def test_services_without_a_plan_are_named(tmp_path: Path) -> None:
    path = tmp_path / "catalog.yaml"
    impossible = {"slo": {"ttit": "1us"}}
    fields = {"defaults": QUERY, "services": {"a": {}, "b": impossible}}
    path.write_text(yaml.safe_dump(fields))
    asked = ["whatif", "catalog", str(path), "--results", str(tmp_path / "results")]
    found = CliRunner().invoke(app, [*asked, "--price", "h100_sxm=x1"])
    assert found.exit_code == 3
    assert "b: left out: " in found.output
