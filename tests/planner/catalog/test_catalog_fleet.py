"""Fleets of catalogs: sharing, scarcity, moving, and the command from end to end."""

from __future__ import annotations

import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner
from typer.testing import Result as Ran

from perfmodel.errors import ConfigError, InputError
from planner.catalog import (
    Current,
    Result,
    check_devices,
    load_catalog,
    plan_fleet,
    read_current,
)
from planner.catalog.assignment import assign
from planner.catalog.inventories import TotalPlan
from planner.catalog.report import print_fleet
from planner.cli import app

CatalogFile = Callable[..., Path]
TWO = {"devices": [{"name": n, "usd_per_device_hour": 1.0} for n in ("h100_sxm", "a100_sxm")]}


def fleet(device: str, world: int, replicas: int, price: float = 1.0) -> dict[str, Any]:
    hosts = -(-world * replicas // 8)
    return {
        "kind": "continuous",
        "usd_per_hour": hosts * 8 * price,
        "hosts": [
            {
                "device": device,
                "hosts": hosts,
                "devices_per_host": 8,
                "usd_per_device_hour": price,
                "used_devices": world * replicas,
            }
        ],
        "pools": [{"device": device, "devices_per_replica": world, "replicas": replicas}],
    }


def result(name: str, *fleets: dict[str, Any]) -> Result:
    return Result(name, "", {"best": fleets[0], "alternatives": list(fleets[1:])}, "")


def test_small_replicas_of_different_services_share_hosts(catalog_file: CatalogFile) -> None:
    names = ("a", "b", "c")
    results = [result(name, fleet("h100_sxm", 2, 1)) for name in names]
    for share, hosts in ((True, 1), (False, 3)):
        path = catalog_file(services=dict.fromkeys(names, TWO), share_hosts=share)
        found = plan_fleet(load_catalog(path)[0], results)
        assert [h.hosts for h in found.hosts] == [hosts]
        assert found.usd_per_hour == 8.0 * hosts
        assert found.alone_usd_per_hour == 24.0
        assert found.gap == pytest.approx(0.0, abs=1e-9)


def test_racks_of_72_are_shared_too(catalog_file: CatalogFile) -> None:
    rack = fleet("gb200_nvl72", 8, 2)
    rack["hosts"][0]["devices_per_host"] = 72
    services = {name: {"devices": ["gb200_nvl72"]} for name in ("a", "b")}
    found = plan_fleet(
        load_catalog(catalog_file(services=services))[0], [result(name, rack) for name in services]
    )
    assert [(h.hosts, h.used_devices) for h in found.hosts] == [(1, 32)]


def rack_of(*pools: tuple[int, int]) -> dict[str, Any]:
    """A fleet on one rack of 72: devices of a replica and replicas, of each pool."""
    found = fleet("gb200_nvl72", 8, 1)
    found["hosts"][0] |= {"devices_per_host": 72, "hosts": 1}
    found["pools"] = [
        {"device": "gb200_nvl72", "devices_per_replica": world, "replicas": replicas}
        for world, replicas in pools
    ]
    return found


@pytest.mark.parametrize(
    ("services", "racks"),
    [
        ([[(8, 1), (16, 1)]], 1),  # as the service by itself has them
        ([[(4, 3), (16, 1)], [(64, 1)]], 2),
        ([[(16, 1)]] * 4 + [[(8, 1)]], 1),
        ([[(16, 1)]] * 5, 2),
        ([[(64, 1), (8, 1)]], 1),
        ([[(32, 2)], [(4, 2)]], 1),
    ],
)
def test_what_does_not_divide_a_rack_leaves_the_rest_of_it_to_others(
    catalog_file: CatalogFile, services: list[list[tuple[int, int]]], racks: int
) -> None:
    """A rack of 72 holds four replicas of 16, and 8 devices beside them."""
    named = {f"s{i}": pools for i, pools in enumerate(services)}
    path = catalog_file(services={name: {"devices": ["gb200_nvl72"]} for name in named})
    results = [result(name, rack_of(*pools)) for name, pools in named.items()]
    found = plan_fleet(load_catalog(path)[0], results)
    assert [h.hosts for h in found.hosts] == [racks]


def test_scarce_devices_and_the_way_out(catalog_file: CatalogFile) -> None:
    results = [
        result("a", fleet("h100_sxm", 8, 2), fleet("a100_sxm", 8, 6)),
        result("b", fleet("h100_sxm", 8, 2), fleet("a100_sxm", 8, 3)),
    ]
    services = {"a": TWO, "b": TWO}
    enough = catalog_file(services=services, inventory={"h100_sxm": 16})
    found = plan_fleet(load_catalog(enough)[0], results)
    assert {s.name: s.devices for s in found.services} == {
        "a": {"h100_sxm": 16},
        "b": {"a100_sxm": 24},
    }
    short = catalog_file(services=services, inventory={"h100_sxm": 8, "a100_sxm": 24})
    with pytest.raises(InputError) as error:
        plan_fleet(load_catalog(short)[0], results)
    assert "1 more host of 8 x h100_sxm (inventory 1, needed 2)" in str(error.value)
    assert "used by a" in str(error.value)


def test_regions_do_not_share(catalog_file: CatalogFile) -> None:
    services = {"a": {**TWO, "region": "eu"}, "b": {**TWO, "region": "us"}}
    results = [result(name, fleet("h100_sxm", 2, 1)) for name in services]
    path = catalog_file(services=services, inventory={"h100_sxm": {"eu": 8, "us": 8}})
    found = plan_fleet(load_catalog(path)[0], results)
    assert [(h.device, h.region, h.hosts) for h in found.hosts] == [
        ("h100_sxm", "eu", 1),
        ("h100_sxm", "us", 1),
    ]


@pytest.mark.parametrize(
    ("inventory", "message"),
    [
        ({"h100": 8}, "no device is called h100; services may use a100_sxm, h100_sxm"),
        ({"h100_sxm": {"eu": 8, "uk": 8}}, "no service is in region uk; expected one of eu, us"),
    ],
)
def test_an_inventory_that_would_not_hold_is_refused(
    catalog_file: CatalogFile, inventory: dict[str, Any], message: str
) -> None:
    services = {"a": {**TWO, "region": "eu"}, "b": {**TWO, "region": "us"}}
    catalog, _ = load_catalog(catalog_file(services=services, inventory=inventory))
    with pytest.raises(
        ConfigError, match=rf"catalog.yaml:\d+: inventory\.\w+: {re.escape(message)}"
    ):
        check_devices(catalog, ())
    some = catalog_file(services=services, inventory={"h100_sxm": {"eu": 8, "us": 0}, "l40s": 8})
    check_devices(load_catalog(some)[0], ())


def test_an_inventory_of_all_regions_and_the_way_out(catalog_file: CatalogFile) -> None:
    services = {"a": {**TWO, "region": "eu"}, "b": {**TWO, "region": "us"}}
    results = [
        result("a", fleet("h100_sxm", 8, 2), fleet("a100_sxm", 8, 6)),
        result("b", fleet("h100_sxm", 8, 2), fleet("a100_sxm", 8, 3)),
    ]
    for inventory in (24, {"total": 24, "eu": 16}):
        path = catalog_file(services=services, inventory={"h100_sxm": inventory})
        catalog, _ = load_catalog(path)
        check_devices(catalog, ())
        found = plan_fleet(catalog, results)
        assert {s.name: s.devices for s in found.services} == {
            "a": {"h100_sxm": 16},
            "b": {"a100_sxm": 24},
        }
        assert found.totals == (TotalPlan("h100_sxm", 16, 24),)
        console = Console(width=100, record=True, file=StringIO())
        print_fleet(found, console)
        assert "h100_sxm over all regions: 16 of 24 devices" in console.export_text()
    short = catalog_file(services=services, inventory={"h100_sxm": 20, "a100_sxm": 0})
    with pytest.raises(InputError) as error:
        plan_fleet(load_catalog(short)[0], results)
    assert (
        "12 more h100_sxm over all regions (inventory 20 devices, needed 32 on whole hosts), "
        "from 12.00 USD per hour; used by a, b"
    ) in str(error.value)
    # In one region alone it is that region's inventory.
    one = catalog_file(services={"a": services["a"]}, inventory={"h100_sxm": {"total": 8}})
    with pytest.raises(InputError, match=r"1 more host of 8 x h100_sxm in eu \(inventory 1"):
        plan_fleet(load_catalog(one)[0], [result("a", fleet("h100_sxm", 8, 2))])


def test_what_the_price_consists_of(catalog_file: CatalogFile) -> None:
    """Services pay for 14 devices; on three hosts, one of them spare, 10 have no work."""
    services = {"a": {**TWO, "region": "eu"}, "b": {**TWO, "region": "eu"}}
    results = [result("a", fleet("h100_sxm", 2, 3)), result("b", fleet("h100_sxm", 8, 1))]
    found = plan_fleet(load_catalog(catalog_file(services=services, spare_hosts=1))[0], results)
    console = Console(width=100, record=True, file=StringIO())
    print_fleet(found, console)
    assert (
        "of it $14.00 for devices in use, $8.00 for spare hosts, $2.00 for devices without work on "
        "the others"
    ) in " ".join(console.export_text().split())


def test_a_solver_out_of_time_is_no_want_of_inventory(
    catalog_file: CatalogFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*args: Any, beyond_inventory: bool = False, **options: Any) -> Any:
        return assign(*args, beyond_inventory=True, **options) if beyond_inventory else None

    monkeypatch.setattr("planner.catalog.fleet.assign", slow)
    catalog, _ = load_catalog(catalog_file(services={"a": TWO}, inventory={"h100_sxm": 8}))
    with pytest.raises(InputError, match=r"^nothing within the inventories was found in the time"):
        plan_fleet(catalog, [result("a", fleet("h100_sxm", 8, 1))])


def test_what_runs_stays_where_moving_costs_more(catalog_file: CatalogFile, tmp_path: Path) -> None:
    path = catalog_file(services={"a": TWO})
    catalog, _ = load_catalog(path)
    results = [result("a", fleet("h100_sxm", 8, 1), fleet("a100_sxm", 8, 2))]
    current = tmp_path / "today.yaml"
    fields: dict[str, Any] = {"services": {"a": {"a100_sxm": 16}}, "hours": 100}
    for price, device, moved in ((90.0, "h100_sxm", 8), (110.0, "a100_sxm", 0)):
        current.write_text(yaml.safe_dump({**fields, "usd_per_moved_device": price}))
        found = plan_fleet(catalog, results, current=read_current(current))
        (service,) = found.services
        assert set(service.devices) == {device}
        assert service.moved_devices == moved
        console = Console(width=200, record=True, file=StringIO())
        print_fleet(found, console, moving=True)
        text = console.export_text()
        assert "for devices in use" in text
        assert ("$7.20 for moving 8 devices" in text) == bool(moved)
    assert Current({}).usd_per_hour(8) == 0.0


def test_services_must_agree_on_a_device(catalog_file: CatalogFile) -> None:
    other = {"devices": [{"name": "h100_sxm", "usd_per_device_hour": 2.0}]}
    catalog, _ = load_catalog(catalog_file(services={"a": TWO, "b": other}))
    results = [result(name, fleet("h100_sxm", 8, 1)) for name in ("a", "b")]
    with pytest.raises(InputError, match="usd_per_device_hour of h100_sxm is 2, but 1 in a"):
        plan_fleet(catalog, results)


def planner(*arguments: object) -> Ran:
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "100"})


def test_a_catalog_from_the_command_line(catalog_file: CatalogFile, tmp_path: Path) -> None:
    services = {
        "chat": {"workload": {"qps": 5}},
        "search": {"workload": {"qps": 8}},
        "broken": {"slo": {"ttit": "10us"}},
    }
    path, out = catalog_file(services=services), tmp_path / "results"
    said = planner("batch", path, "--out", out, "--workers", 1)
    assert said.exit_code == 3
    assert "3 services: 3 computed, 0 known already, 1 without a plan" in said.stdout
    assert "error: broken:" in said.stderr
    shown = {line.split()[0]: line for line in said.stdout.splitlines() if "continuous: " in line}
    assert set(shown) == {"chat", "search"}
    table = pl.read_parquet(out / "results.parquet")
    assert table["service"].to_list() == ["chat", "search", "broken"]
    assert table["usd_per_hour"].is_null().to_list() == [False, False, True]
    for name, usd in zip(shown, table["usd_per_hour"], strict=False):
        assert f" {usd:.2f} " in shown[name]
    written = tmp_path / "fleet.yaml"
    said = planner("fleet", path, "--results", out, "--out", written, "--workers", 1)
    assert said.exit_code == 3
    assert "2 services on 1 host" in said.stdout
    assert "proven" in said.stdout
    data = yaml.safe_load(written.read_text())
    assert data["schema"] == "planner.fleet/1"
    # Run from its own answer, nothing moves.
    said = planner("fleet", path, "--results", out, "--current", written, "--workers", 1)
    assert "moved" in said.stdout
    assert "note" not in said.stderr
    written.write_text(
        yaml.safe_dump({"services": {"chat": {"h100": 8}, "serch": {"h100_sxm": 8}}})
    )
    said = planner("fleet", path, "--results", out, "--current", written, "--workers", 1)
    assert f"note: {written}: no service of the catalog is called serch; left aside" in said.stderr
    assert f"note: {written}: unknown device 'h100'" in said.stderr
    assert [s["moved_devices"] for s in data["services"]] != [0, 0]


@pytest.mark.parametrize(
    ("arguments", "text", "said"),
    [
        (["--scheduler", "tcp://127.0.0.1:1"], None, "does not answer"),
        (
            ["--current", "today.yaml"],
            "services: {a: {h100_sxm: -1}}\n",
            "today.yaml:1: services.a",
        ),
        (["--current", "today.yaml"], "hours: 3\n", "expected `services`"),
        (["--current", "today.yaml"], "services: {}\nhours: 0\n", "today.yaml:2: hours"),
        (
            ["--current", "today.yaml"],
            "services: {}\nusd_per_moved_device: .inf\n",
            "today.yaml:2: usd_per_moved_device: expected a number from 0, got inf",
        ),
        (["--search", "guess"], None, "expected exhaustive or tpe"),
    ],
)
def test_bad_commands(
    catalog_file: CatalogFile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    text: str | None,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("planner.catalog.executors.SCHEDULER_S", 1.0)
    if text is not None:
        (tmp_path / "today.yaml").write_text(text)
    path = catalog_file(services={"a": {}})
    ran = planner("fleet", path, "--results", tmp_path / "out", *arguments)
    assert ran.exit_code == 2, ran.output
    assert said in ran.stderr
    assert not (tmp_path / "out").exists()


def test_services_with_bad_input_stop_no_others_and_are_not_forgotten(
    catalog_file: CatalogFile, tmp_path: Path
) -> None:
    path = catalog_file(services={"a": {}, "b": {"workload": {"qps": -1}}})
    solved = planner("batch", path, "--out", tmp_path / "out", "--workers", 1)
    assert solved.exit_code == 2
    assert "1 services: 1 computed" in solved.stdout
    assert "0 without a plan, 1 service with bad input" in solved.stdout
    assert "workload.qps" in solved.stderr
    chosen = planner("fleet", path, "--results", tmp_path / "out", "--workers", 1)
    assert chosen.exit_code == 2
    assert "per hour" in chosen.stdout
    assert "the fleet is without 1 service with bad input" in chosen.stderr
