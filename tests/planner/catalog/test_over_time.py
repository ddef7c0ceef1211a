"""Fleets over time: the invariants of prices, sharing and start-up, and the command."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner
from typer.testing import Result as Ran

from perfmodel.errors import InputError
from planner.catalog import (
    Catalog,
    Current,
    Result,
    ScheduledFleet,
    Service,
    Settings,
    digest_of,
    load_catalog,
    plan_fleet,
    plan_over_time,
    question,
    read_current,
    write_fleet,
)
from planner.catalog.demand import Demand
from planner.catalog.following import around, at_levels
from planner.catalog.inventories import TotalPlan
from planner.catalog.renting import Autoscaling, DevicePrices
from planner.catalog.schedule_report import print_schedule, summary
from planner.catalog.scheduling import schedule
from planner.cli import app
from planner.problem import resolve
from planner.query import Query

CatalogFile = Callable[..., Path]
SMALL: dict[str, Any] = {
    "model": "Qwen/Qwen3-8B",
    "workload": {"qps": 1, "input_tokens": 1000, "output_tokens": 100},
    "devices": ["h100_sxm"],
}
QUERY = Query.model_validate(SMALL)
TWO = ["h100_sxm", {"name": "h200_sxm", "usd_per_device_hour": 1.0}]
PRICES = DevicePrices(reserved=1.0, on_demand=2.0)
DAY = [1.0] * 12 + [4.0] * 12
SHAPE = list(range(1, 25))
NIGHT = DAY[12:] + DAY[:12]


def fleet(replicas: int, world: int = 8, device: str = "h100_sxm") -> dict[str, Any]:
    """A plan of one pool, each of whose replicas takes one request per second."""
    return {
        "kind": "continuous",
        "qps": float(replicas),
        "usd_per_hour": 8.0 * -(-replicas * world // 8),
        "hosts": [{"device": device, "usd_per_device_hour": 1.0}],
        "pools": [
            {
                "role": "continuous",
                "device": device,
                "devices_per_replica": world,
                "layout": "attn:TP1 ffn:TP1 PP1",
                "replicas": replicas,
                "qps_per_replica": 1.0,
            }
        ],
    }


def service(name: str, qps: Sequence[float], slot_s: float = 3600.0, **fields: Any) -> Service:
    return Service(name, QUERY, demand=Demand(tuple(qps), slot_s), **fields)


def result(of: Service, *worlds: int, device: str = "h100_sxm") -> Result:
    """Families of replicas of so many devices each, one request per second and replica."""
    assert of.demand is not None
    levels = of.demand.levels
    peak = int(np.ceil(levels[-1]))
    families = [
        {
            "found_at_qps": levels[-1],
            "fleet": fleet(peak, world, device),
            "replicas": [[int(np.ceil(q))] for q in levels],
        }
        for world in worlds or (8,)
    ]
    plan = {"best": families[0]["fleet"], "alternatives": []}
    plan["over_time"] = {"levels_qps": list(levels), "families": families}
    return Result(of.name, "", plan, "")


def planned(
    *demands: Sequence[float],
    reserved: float = 1.0,
    on_demand: float | None = 2.0,
    start_up: str = "0s",
    **fields: Any,
) -> ScheduledFleet:
    """Services of such demands on hosts of eight."""
    worlds = fields.pop("worlds", (8,))
    scaling = {name: fields.pop(name) for name in ("slot", "hold", "granularity") if name in fields}
    autoscaling = Autoscaling.model_validate({"start_up": start_up, **scaling})
    services = [service(str(i), qps, autoscaling.slot) for i, qps in enumerate(demands)]
    prices = DevicePrices.model_validate(
        {"reserved": reserved, "on_demand": on_demand, "minimum": fields.pop("minimum", "0s")}
    )
    catalog = Catalog(
        tuple(services),
        fields.pop("inventory", {}),
        prices={"h100_sxm": prices},
        autoscaling=autoscaling,
        **fields,
    )
    return plan_over_time(catalog, [result(s, *worlds) for s in services], gap=0.0)


def test_demand_that_does_not_change_has_todays_answer(catalog_file: CatalogFile) -> None:
    """The same plans, as services of one demand, and as demand over time that stays the same."""
    path = catalog_file(services={"0": {}, "1": {}}, headroom=0.0)
    still, _ = load_catalog(path)
    results = [Result(str(i), "", {"best": fleet(3, 2), "alternatives": []}, "") for i in (0, 1)]
    expected = plan_fleet(still, results)
    found = planned([3.0] * 24, [3.0] * 24, worlds=(2,), reserved=10.0, on_demand=25.0)
    assert found.usd_per_hour == pytest.approx(expected.usd_per_hour)
    assert found.static_usd_per_hour == pytest.approx(expected.usd_per_hour)
    (hosts,) = found.hosts
    assert hosts.reserved == expected.hosts[0].hosts
    assert not any(hosts.on_demand)


def test_what_services_of_one_demand_have_is_had_at_all_times(catalog_file: CatalogFile) -> None:
    path = catalog_file(
        services={"0": {}}, prices={"h100_sxm": {"reserved": 3.0, "on_demand": 4.0}}
    )
    catalog, _ = load_catalog(path)
    assert catalog.over_time
    plan = {"best": fleet(3, 2), "alternatives": []}
    found = plan_over_time(catalog, [Result("0", "", plan, "")])
    assert found.usd_per_hour == pytest.approx(8 * 3.0)
    assert found.usd_per_day == pytest.approx(24 * 24.0)
    assert found.usd_per_year == pytest.approx(8760 * 24.0)
    assert found.services[0].qps == (3.0,) * 24
    assert found.services[0].pools[0].replicas == (3,) * 24


def test_services_whose_peaks_are_opposite_share_what_is_reserved() -> None:
    opposite, alike = planned(DAY, NIGHT), planned(DAY, DAY)
    assert opposite.usd_per_hour == pytest.approx(5 * 8.0)
    assert opposite.hosts[0].reserved == 5
    assert alike.usd_per_hour > opposite.usd_per_hour
    assert opposite.static_usd_per_hour == pytest.approx(8 * 8.0)
    assert opposite.apart_usd_per_hour == pytest.approx(2 * (1 * 8 + 3 * 16 / 2))
    assert sum(s.usd_per_hour for s in opposite.services) == pytest.approx(opposite.usd_per_hour)


def test_on_demand_at_the_reserved_price_costs_the_sum_over_slots() -> None:
    found = planned(DAY, on_demand=1.0)
    assert found.hosts[0].reserved == 0
    assert found.usd_per_hour == pytest.approx(8.0 * sum(DAY) / 24)
    dearer = planned(DAY, reserved=3.0, on_demand=1.0)
    assert dearer.usd_per_hour == pytest.approx(found.usd_per_hour)
    assert dearer.static_usd_per_hour == pytest.approx(8.0 * max(DAY))


def test_reserved_alone_is_the_peak() -> None:
    found = planned(DAY, on_demand=None)
    assert found.usd_per_hour == pytest.approx(8.0 * 4)
    assert found.usd_per_hour == pytest.approx(found.static_usd_per_hour)


@pytest.mark.parametrize(
    ("device", "hosts"),
    [({"usd_per_device_hour": 2.0}, sum(DAY) / 24), ({"cost": {"capex": 30000}}, max(DAY))],
)
def test_without_prices_what_is_rented_is_paid_by_the_slot_and_what_is_owned_is_not(
    device: dict[str, Any], hosts: float
) -> None:
    query = Query.model_validate({**SMALL, "devices": [{"name": "h100_sxm", **device}]})
    one = replace(service("0", DAY), query=query)
    found = plan_over_time(
        Catalog((one,), {}, autoscaling=Autoscaling.model_validate({"start_up": "0s"})),
        [result(one)],
    )
    (offer,) = resolve(query).offers
    assert found.usd_per_hour == pytest.approx(8 * offer.usd_per_device_hour * hosts)


def test_hours_without_work_of_owned_devices_are_not_paid_twice() -> None:
    """Their assumed utilization is in their price by the hour of work; all hours are paid here."""
    paid = []
    for utilization in (1.0, 0.5):
        device = {"name": "h100_sxm", "cost": {"capex": 30000, "utilization": utilization}}
        query = Query.model_validate({**SMALL, "devices": [device]})
        one = replace(service("0", DAY), query=query)
        paid.append(plan_over_time(Catalog((one,), {}), [result(one)]).usd_per_hour)
    assert paid[1] == pytest.approx(paid[0])


def test_a_device_is_owned_or_rented(catalog_file: CatalogFile) -> None:
    owned = {"devices": [{"name": "h100_sxm", "cost": {"capex": 30000}}]}
    path = catalog_file(services={"a": owned, "b": {}}, prices={"h100_sxm": {"reserved": 2.7}})
    catalog, (error,) = load_catalog(path)
    assert [s.name for s in catalog.services] == ["b"]
    assert "services.a: h100_sxm has a cost (owned), and rented prices" in str(error)


def test_a_night_without_demand_has_no_replicas() -> None:
    found = planned([0.0] * 20 + [2.0] * 4, reserved=1.9)
    assert found.services[0].pools[0].replicas == (0,) * 20 + (2,) * 4
    assert found.hosts[0].reserved == 0
    assert found.usd_per_hour == pytest.approx(2 * 16.0 * 4 / 24)


def test_replicas_run_before_they_are_needed_and_after() -> None:
    spike = [1.0] * 24
    spike[0], spike[12] = 2.0, 3.0
    found = planned(spike, start_up="90min", hold="1h")
    expected = [1] * 24
    for hour in (22, 23, 0, 1):
        expected[hour] = 2
    for hour in (10, 11, 12, 13):
        expected[hour] = 3
    assert found.services[0].pools[0].replicas == tuple(expected)
    assert planned(spike, start_up="10min").services[0].pools[0].replicas[11] == 3
    fine = planned([q for q in spike for _ in range(4)], start_up="10min", slot="15min")
    assert fine.services[0].pools[0].replicas[46:53] == (1, 3, 3, 3, 3, 3, 1)


def test_services_by_whole_hosts_do_not_share_them() -> None:
    small = {"worlds": (2,), "reserved": 1.0}
    assert planned([1.0] * 24, [1.0] * 24, **small).usd_per_hour == pytest.approx(8.0)
    apart = planned([1.0] * 24, [1.0] * 24, granularity="host", **small)
    assert apart.usd_per_hour == pytest.approx(16.0)


def test_inventories_hold_at_all_times_and_the_way_out() -> None:
    one = {("h100_sxm", ""): 40}
    assert planned(DAY, NIGHT, inventory=one).static_usd_per_hour is None
    with pytest.raises(InputError) as error:
        planned(DAY, DAY, inventory=one)
    assert "3 more hosts of 8 x h100_sxm (inventory 5, needed 8 at the busiest)" in str(error.value)
    assert "used then by 0, 1" in str(error.value)


def test_an_inventory_of_all_regions_holds_at_all_times() -> None:
    """Peaks at different times in two regions: five hosts do for both, which have four each."""
    services = [service(name, qps, region=name) for name, qps in (("eu", DAY), ("us", NIGHT))]
    catalog = Catalog(
        tuple(services),
        {("h100_sxm", ""): 40},
        prices={"h100_sxm": PRICES},
        autoscaling=Autoscaling.model_validate({"start_up": "0s"}),
    )
    results = [result(s) for s in services]
    found = plan_over_time(catalog, results, gap=0.0)
    assert found.totals == (TotalPlan("h100_sxm", 40, 40),)
    assert found.static_usd_per_hour is None
    console = Console(width=80, record=True, file=StringIO())
    print_schedule(found, console)
    assert "h100_sxm over all regions: 40 of 40 devices at the busiest" in console.export_text()
    with pytest.raises(InputError) as error:
        plan_over_time(replace(catalog, inventory={("h100_sxm", ""): 24}), results)
    assert "16 more h100_sxm over all regions (inventory 24 devices, needed 40" in str(error.value)


def test_a_service_that_the_solver_misses_counts_at_its_peak(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And says from what on; nothing is left out of the comparison."""
    known = planned(DAY, NIGHT, reserved=1.5)
    assert known.apart_bound_usd_per_hour == pytest.approx(known.apart_usd_per_hour)

    def misses(supplies: Any, rentals: Any, services: Any, *args: Any, **options: Any) -> Any:
        least_times = any(r.least_slots > 1 for r in rentals)
        return (
            None
            if least_times and len(services) == 1
            else schedule(supplies, rentals, services, *args, **options)
        )

    monkeypatch.setattr(question, "schedule", misses)
    found = planned(DAY, NIGHT, reserved=1.5, minimum="3h")
    assert found.apart_usd_per_hour == pytest.approx(2 * 12.0 * 4)
    assert found.apart_bound_usd_per_hour == pytest.approx(known.apart_usd_per_hour)
    assert f"(${known.apart_usd_per_hour:,.2f} at the least)" in "\n".join(summary(found))


def test_spare_hosts_are_had_while_anything_runs() -> None:
    found = planned([0.0] * 12 + [1.0] * 12, spare_hosts=1, reserved=1.9)
    assert [found.hosts[0].reserved + n for n in found.hosts[0].on_demand] == [0] * 12 + [2] * 12


def test_days_beside_weeks() -> None:
    week = [1.0] * 120 + [2.0] * 48
    found = planned(week, DAY, on_demand=1.0)
    assert found.hours == 168
    assert len(found.services[1].qps) == 168
    assert found.usd_per_hour == pytest.approx(8.0 * (sum(week) / 168 + sum(DAY) / 24))


hours = st.lists(st.floats(0, 5), min_size=24, max_size=24).filter(any)
price = st.integers(1, 10).map(float)


@settings(max_examples=20)
@given(first=hours, second=hours, reserved=price, on_demand=price, start_up=st.integers(0, 5))
def test_longer_start_up_never_costs_less_nor_anything_less_than_fully_loaded_devices(
    first: list[float], second: list[float], reserved: float, on_demand: float, start_up: int
) -> None:
    prices = {"reserved": reserved, "on_demand": on_demand}
    now, later = (
        planned(first, second, worlds=(8, 4), start_up=f"{n}h", **prices)
        for n in (start_up, start_up + 1)
    )
    assert now.usd_per_hour <= later.usd_per_hour + 1e-6
    for found in (now, later):
        assert found.usd_per_hour >= found.at_scale_usd_per_hour - 1e-6
        assert found.static_usd_per_hour is not None
        assert found.usd_per_hour <= found.static_usd_per_hour + 1e-6
        assert found.usd_per_hour <= found.apart_usd_per_hour + 1e-6
        assert found.bound_usd_per_hour <= found.usd_per_hour + 1e-6


@given(
    needed=st.lists(st.integers(0, 9), min_size=2, max_size=12),
    before=st.integers(0, 3),
    after=st.integers(0, 3),
)
def test_what_is_needed_runs_around_it(needed: list[int], before: int, after: int) -> None:
    table = np.array(needed)[:, None]
    found = around(table, before=before, after=after)[:, 0]
    for slot in range(len(needed)):
        near = [needed[(slot + d) % len(needed)] for d in range(-after, before + 1)]
        assert found[slot] == max(near)


def test_demand_between_two_levels_has_the_replicas_of_the_higher() -> None:
    demand = Demand((0.0, 0.5, 1.0, 1.5, 2.0), 3600.0)
    found = at_levels(demand, [1.0, 2.0], [[1, 3], [2, 4]])
    assert found.tolist() == [[0, 0], [1, 3], [1, 3], [2, 4], [2, 4]]


def test_a_schedule_is_todays_fleet_to_move_from(tmp_path: Path) -> None:
    path = tmp_path / "schedule.yaml"
    write_fleet(planned(DAY), path)
    assert read_current(path).devices == {"0": {"h100_sxm": 32}}


def test_moving_is_paid_for_once(catalog_file: CatalogFile) -> None:
    """3,600 USD for 6 devices, over 100 hours: a year has them once, and a day 24 hours' worth."""
    path = catalog_file(
        services={"0": {}}, prices={"h100_sxm": {"reserved": 3.0, "on_demand": 4.0}}
    )
    plan = {"best": fleet(3, 2), "alternatives": []}
    current = Current({}, usd_per_moved_device=600.0, hours=100.0)
    found = plan_over_time(load_catalog(path)[0], [Result("0", "", plan, "")], current=current)
    assert found.usd_per_hour == pytest.approx(24.0 + 36.0)
    assert found.usd_per_day == pytest.approx(24 * 60.0)
    assert found.usd_per_month == pytest.approx(730 * 24.0 + 3600.0)
    assert found.usd_per_year == pytest.approx(8760 * 24.0 + 3600.0)


def test_moving_has_its_price_over_time(tmp_path: Path) -> None:
    """Staying on two devices for each replica, rather than moving to one."""
    one = service("0", DAY)
    found = result(one, 4, 8)
    assert found.plan is not None
    for pool in found.plan["over_time"]["families"][0]["fleet"]["pools"]:
        pool["device"] = "h200_sxm"
    query = QUERY.model_copy(
        update={"devices": Query.model_validate({**SMALL, "devices": TWO}).devices}
    )
    catalog = Catalog((replace(one, query=query),), {}, prices={"h100_sxm": PRICES})
    for usd, device, moved in ((0.0, "h200_sxm", 16), (1e4, "h100_sxm", 0)):
        current = Current({"0": {"h100_sxm": 32}}, usd, 24.0)
        (answer,) = plan_over_time(catalog, [found], current=current).services
        assert set(answer.devices) == {device}
        assert answer.moved_devices == moved


@pytest.mark.parametrize(("hours", "slot"), [(24, "1h"), (24, "15min"), (168, "1h")])
def test_what_people_read_fits_a_terminal(hours: int, slot: str) -> None:
    per_hour = 4 if slot == "15min" else 1
    peak = [1.0] * (hours - 1) + [120.0]
    demand = [q for q in peak for _ in range(per_hour)]
    found = planned(demand, demand[::-1], slot=slot)
    console = Console(width=80, record=True, file=StringIO())
    print_schedule(found, console, moving=True)
    text = console.export_text()
    assert all(len(line) <= 80 for line in text.splitlines())
    assert ("1-120" if hours == 168 else " 120") in text
    assert ("Sun" if hours == 168 else " 23\n") in text
    assert "2 services on" in text
    assert "moved" in text


@pytest.mark.parametrize("reserved", [1.5, 9.0])
def test_what_is_never_had_has_no_row(reserved: float) -> None:
    found = planned(DAY, NIGHT, reserved=reserved)
    kept = sum(host.reserved for host in found.hosts)
    assert (kept > 0) == (reserved < 9.0)
    console = Console(width=80, record=True, file=StringIO())
    print_schedule(found, console)
    text = console.export_text()
    assert ("hosts reserved" in text) == (kept > 0)
    assert (f"at ${reserved:.2f}" in text) == (kept > 0)


def planner(*arguments: object) -> Ran:
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "80"})


def test_a_catalog_over_time_from_the_command_line(
    catalog_file: CatalogFile, tmp_path: Path
) -> None:
    rows = [f"{t}\n" for t in np.linspace(0, 86399, 500)]
    (tmp_path / "arrivals.csv").write_text("".join(rows))
    services = {
        "chat": {"demand": {"peak_qps": 40, "peak_to_trough": 5, "peak_hour": 12}},
        "search": {"demand": {"trace": "arrivals.csv", "peak_qps": 8}},
        "still": {"workload": {"qps": 5}},
        "broken": {"slo": {"ttit": "10us"}},
    }
    prices = {"h100_sxm": {"reserved": 2.0, "on_demand": 3.0}}
    path, out = catalog_file(services=services, prices=prices), tmp_path / "results"
    written, figure = tmp_path / "schedule.json", tmp_path / "schedule.svg"
    arguments = [path, "--results", out, "--workers", 1]
    said = planner("fleet", *arguments, "--out", written, "--figure", figure)
    assert said.exit_code == 3
    assert "error: broken:" in said.stderr
    assert "3 services on" in said.stdout
    assert "than $" in said.stdout
    assert "arrivals.csv: 500 arrivals" in said.stdout
    assert all(len(line) <= 80 for line in said.stdout.splitlines())
    data = json.loads(written.read_text())
    assert data["schema"] == "planner.schedule/1"
    assert figure.read_text().startswith("<svg")
    known = {file: file.stat().st_mtime_ns for file in out.glob("*.json")}
    # Another price, hour of the peak or start-up changes when things run, and computes nothing.
    services["chat"]["demand"]["peak_hour"] = 20
    path = catalog_file(services=services, prices=prices, autoscaling={"start_up": "2h"})
    again = planner("fleet", *arguments, "--out", written)
    assert {file: file.stat().st_mtime_ns for file in out.glob("*.json")} == known
    assert again.exit_code == 3
    chat = json.loads(written.read_text())["services"][0]
    assert chat["qps"].index(max(chat["qps"])) == 19
    digests = [digest_of(s, Settings()) for s in load_catalog(path)[0].services[:3]]
    services["chat"]["demand"]["peak_to_trough"] = 6
    catalog_file(services=services, prices=prices)
    others = [digest_of(s, Settings()) for s in load_catalog(path)[0].services[:3]]
    assert [a == b for a, b in zip(digests, others, strict=True)] == [False, True, True]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"prices": {"h100_sxm": {"on_demand": 3}}}, "prices.h100_sxm.reserved: this field is"),
        ({"prices": {"h100_sxm": {"reserved": -1}}}, "expected a number above zero, got -1"),
        ({"prices": {"h100_sxm": {"reserved": 1, "on_demand": float("nan")}}}, "above zero"),
        ({"prices": {"h900": {"reserved": 1}}}, "prices.h900: no service may use this device"),
        ({"prices": {"h100_sxm": {"reserved": 1, "minimum": 2}}}, "a unit is missing"),
        ({"autoscaling": {"slot": "7min"}}, "5min or more that divides an hour"),
        ({"autoscaling": {"slot": "1min"}}, "5min or more that divides an hour"),
        ({"autoscaling": {"start_up": "-1h"}}, "expected a time from 0s up"),
        ({"autoscaling": {"start_up": "25h"}}, "autoscaling.start_up: expected at most 24h"),
        ({"prices": {"h100_sxm": {"reserved": 1, "minimum": "25h"}}}, "expected at most 24h"),
        ({"autoscaling": {"granularity": "device"}}, "'replica' or 'host'"),
        ({"autoscaling": {"warm_up": "1h"}}, "unknown field"),
    ],
)
def test_bad_catalogs_over_time(
    catalog_file: CatalogFile, tmp_path: Path, fields: dict[str, Any], said: str
) -> None:
    path = catalog_file(services={"a": {}}, **fields)
    ran = planner("fleet", path, "--results", tmp_path / "out")
    assert ran.exit_code == 2, ran.output
    assert said in ran.stderr
    assert "catalog.yaml:" in ran.stderr
    assert not (tmp_path / "out").exists()


def test_bad_demand_leaves_other_services(catalog_file: CatalogFile, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("1\nx\n")
    services = {
        "good": {"demand": {"mean_qps": 2, "peak_to_trough": 2}},
        "like": {"like": "good", "workload": {"input_tokens": 100}},
        "count": {"demand": {"hourly": [1, 2]}},
        "trace": {"demand": {"trace": "bad.csv"}},
        "most": {"workload": {"qps": "max"}, "demand": {"hourly": [1] * 24}},
        "word": {"demand": "high"},
    }
    catalog, errors = load_catalog(catalog_file(services=services, headroom=0.5))
    assert [s.name for s in catalog.services] == ["good", "like"]
    for found in catalog.services:
        assert found.demand is not None
        assert found.demand.peak == pytest.approx(3.0 * 4 / 3)
        assert found.query.workload.qps == found.demand.peak
    said = [str(error) for error in errors]
    assert "services.count.demand.hourly: expected 24 or 168 numbers, got 2" in said[0]
    assert "services.trace.demand: " in said[1]
    assert "bad.csv:2: expected a number" in said[1]
    assert "expected workload.qps to be a number beside it, got 'max'" in said[2]
    assert "services.word.demand: " in said[3]
    assert all("catalog.yaml:" in text for text in said)


def test_a_demand_is_inherited_and_scaled_where_it_has_no_scale(catalog_file: CatalogFile) -> None:
    services = {
        "curve": {"workload": {"qps": 8}, "demand": {"peak_to_trough": 3}},
        "more": {"like": "curve", "workload": {"input_tokens": 500}},
        "peak": {"demand": {"peak_to_trough": 3, "peak_qps": 8}},
        "other": {"like": "peak", "workload": {"qps": 3}},
        "own": {"like": "peak", "demand": {"hourly": SHAPE}, "workload": {"qps": 3}},
    }
    catalog, errors = load_catalog(catalog_file(services=services))
    found = {s.name: s.demand for s in catalog.services}
    assert found["curve"] is not None
    assert found["curve"].peak == pytest.approx(8 * 3 / 2)
    assert found["more"] == found["curve"]
    assert found["own"] is not None
    assert found["own"].qps == tuple(map(float, SHAPE))
    (error,) = errors
    assert "services.other.workload.qps: peak states demand of its own scale" in str(error)


def test_a_figure_of_what_does_not_change(catalog_file: CatalogFile, tmp_path: Path) -> None:
    path = catalog_file(services={"a": {}})
    for name, said in (("a.svg", "nothing in this catalog changes"), ("a.gif", "ends in .svg")):
        ran = planner("fleet", path, "--results", tmp_path / "out", "--figure", tmp_path / name)
        assert ran.exit_code == 2
        assert said in " ".join(ran.stderr.split())


def test_the_example_is_read() -> None:
    path = Path(__file__).parents[3] / "examples" / "catalogs" / "diurnal.yaml"
    catalog, errors = load_catalog(path)
    assert errors == []
    assert catalog.over_time
    voice = next(s for s in catalog.services if s.name == "voice")
    assert voice.demand is not None
    assert voice.demand.peak == 300
    assert yaml.safe_load(path.read_text())["services"]["safety"]["demand"]["hourly"][0] == 80
