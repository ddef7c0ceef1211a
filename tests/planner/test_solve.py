"""Whole answers: what must hold in every plan, and in how the search came to it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import yaml

from perfmodel.errors import ConfigError
from perfmodel.layout import parse_layout
from planner.infeasible import InfeasibleError
from planner.plan import SCHEMA, FleetPlan, Plan, read_plan, write_plan
from planner.query import Query
from planner.query_choices import MeasuredRouting

Solved = Callable[..., Plan]

QUERIES: dict[str, dict[str, Any]] = {
    "two devices": {"devices": ["h100_sxm", "a100_sxm"]},
    "percentiles": {
        "workload": {
            "qps": 60,
            "input_tokens": {"p50": 900, "p99": 3000},
            "output_tokens": {"p50": 80, "p99": 300},
            "prefix_cache_hit": 0.3,
        },
        "slo": {"ttft": {"p99": "400ms"}, "ttit": {"p95": "25ms"}},
        "devices": [{"name": "h100_sxm", "usd_per_device_hour": 2.5, "inventory": 32}],
    },
    "offline": {"slo": {}, "workload": {"qps": 300, "arrivals": "steady"}},
    "end to end": {"slo": {"ttft": "300ms", "e2e": "1s"}, "workload": {"qps": 40}},
    "single devices": {
        "devices": [
            {"name": "l40s", "host_devices": 1, "usd_per_device_hour": 1.1},
            {"name": "mi300x", "host_devices": 1},
        ],
        "precision": {"weights": ["bf16", "fp8"], "kv": "fp8"},
    },
    "prompts only just fit": {
        "model": "meta-llama/Llama-3.1-8B",
        "devices": ["a100_sxm"],
        "workload": {"qps": 0.5, "input_tokens": 100000, "output_tokens": 500},
        "slo": {},
    },
    "as much as possible": {
        "workload": {"qps": "max"},
        "devices": [{"name": "h100_sxm", "inventory": 16}, {"name": "a100_sxm", "inventory": 8}],
    },
}


@pytest.fixture(params=QUERIES)
def plan(request: pytest.FixtureRequest, solved: Solved) -> Plan:
    return solved(**QUERIES[request.param])


@pytest.fixture
def fleets(plan: Plan) -> tuple[FleetPlan, ...]:
    return (plan.best, *plan.alternatives)


def lengths(plan: Plan, name: str) -> float:
    spread = plan.query["workload"][name]
    return float(np.dot(spread["tokens"], spread["weights"]))


def test_every_pool_fits_in_memory(fleets: tuple[FleetPlan, ...]) -> None:
    for fleet in fleets:
        for pool in fleet.pools:
            assert 0 < sum(pool.memory_bytes.values()) <= pool.memory_capacity_bytes
            assert all(value >= 0 for value in pool.memory_bytes.values())
            assert pool.memory_bytes["weights"] > 0


def test_every_fleet_meets_the_slo(plan: Plan, fleets: tuple[FleetPlan, ...]) -> None:
    slo = plan.query.get("slo", {})
    for fleet in fleets:
        if "ttft" in slo:
            percentile = slo["ttft"].get("percentile")
            reached = fleet.ttft.mean_s if percentile is None else fleet.ttft.slo_s
            assert reached is not None
            assert reached <= slo["ttft"]["seconds"] * (1 + 1e-9)
            if percentile is not None and percentile > 80:
                assert reached > 0.999 * fleet.ttft.mean_s
        if "ttit" in slo:
            reached = fleet.pools[-1].ttit_slo_s
            assert reached is not None
            assert reached <= slo["ttit"]["seconds"]
        if "e2e" in slo:
            assert fleet.e2e_mean_s <= slo["e2e"]["seconds"] * (1 + 1e-9)


def test_every_fleet_carries_the_demand(plan: Plan, fleets: tuple[FleetPlan, ...]) -> None:
    demand = plan.query["workload"]["qps"]
    most = 1.0 if plan.query["workload"].get("arrivals") == "steady" else 0.95
    for fleet in fleets:
        if demand != "max":
            assert fleet.qps == demand
        pools = [pool.replicas * pool.qps_per_replica for pool in fleet.pools]
        assert fleet.capacity_qps == pytest.approx(min(pools))
        assert fleet.capacity_qps * most >= fleet.qps * (1 - 1e-9)


def test_times_add_up(plan: Plan, fleets: tuple[FleetPlan, ...]) -> None:
    outputs = lengths(plan, "output_tokens")
    for fleet in fleets:
        ttft, last = fleet.ttft, fleet.pools[-1]
        parts = ttft.service_s + ttft.waiting_s + ttft.admission_s + ttft.transfer_s
        assert ttft.mean_s == pytest.approx(parts + ttft.handling_s)
        assert ttft.service_s == fleet.pools[0].service_s
        assert (ttft.transfer_s > 0) == (len(fleet.pools) == 2)
        assert fleet.e2e_mean_s == pytest.approx(ttft.mean_s + outputs * fleet.ttit_mean_s)
        assert fleet.ttit_mean_s == last.ttit_mean_s
        assert 0 < fleet.ttit_at_load_s <= fleet.ttit_mean_s * (1 + 1e-9)
        assert last.sequences_in_flight
        in_flight = last.sequences_in_flight / (outputs * fleet.ttit_mean_s)
        assert last.qps_per_replica == pytest.approx(in_flight)


def test_money_adds_up(plan: Plan, fleets: tuple[FleetPlan, ...]) -> None:
    for fleet in fleets:
        by_host = sum(h.hosts * h.devices_per_host * h.usd_per_device_hour for h in fleet.hosts)
        assert fleet.usd_per_hour == pytest.approx(by_host)
        assert fleet.qps_per_usd_hour == pytest.approx(fleet.qps / by_host)
        assert fleet.qps_per_device == pytest.approx(fleet.qps / fleet.devices)
        hourly = fleet.qps * 3600
        tokens = (
            fleet.usd_per_million_input_tokens * lengths(plan, "input_tokens")
            + fleet.usd_per_million_output_tokens * lengths(plan, "output_tokens")
        ) / 1e6
        assert hourly * tokens == pytest.approx(fleet.usd_per_hour)
        assert fleet.usd_per_thousand_requests == pytest.approx(by_host / hourly * 1000)
        at_scale = sum(
            p.devices_per_replica
            * next(h.usd_per_device_hour for h in fleet.hosts if h.device == p.device)
            / p.qps_per_replica
            for p in fleet.pools
        )
        assert fleet.usd_per_hour_per_qps_at_scale == pytest.approx(at_scale)
        assert at_scale <= fleet.usd_per_hour / fleet.qps * (1 + 1e-9)


def test_hosts_add_up(plan: Plan, fleets: tuple[FleetPlan, ...]) -> None:
    limits = {d["name"]: d.get("inventory") for d in plan.query["devices"]}
    for fleet in fleets:
        assert {h.device for h in fleet.hosts} == {p.device for p in fleet.pools}
        for host in fleet.hosts:
            used = sum(
                p.replicas * p.devices_per_replica for p in fleet.pools if p.device == host.device
            )
            assert host.used_devices == used
            assert 0 < used <= host.devices == host.hosts * host.devices_per_host
            assert host.devices - used < host.devices_per_host
            limit = limits[host.device]
            assert limit is None or host.devices <= limit
            assert host.price_source
        for pool in fleet.pools:
            assert int(parse_layout(pool.layout).world[0]) == pool.devices_per_replica
            assert pool.replicas >= 1


def test_shares_add_up(fleets: tuple[FleetPlan, ...]) -> None:
    for fleet in fleets:
        for pool in fleet.pools:
            assert sum(pool.time_by_kind.values()) == pytest.approx(1.0)
            assert sum(pool.time_by_bound.values()) == pytest.approx(1.0)
            assert min(*pool.time_by_kind.values(), *pool.time_by_bound.values(), 1.0) >= 0
            assert 0.0 <= pool.prefill_time_share <= 1.0
            assert pool.limits
            if pool.device == "mi300x":
                assert pool.time_by_kind["analytic"] == pytest.approx(1.0)
        roles = [pool.role for pool in fleet.pools]
        assert roles in (["continuous"], ["prefill", "decode"])
        same = len({pool.device for pool in fleet.pools}) == 1
        kinds = {1: "continuous", 2: "disaggregated" if same else "heterogeneous"}
        assert fleet.kind == kinds[len(roles)]


def test_the_best_comes_first(plan: Plan) -> None:
    rest = plan.alternatives
    if plan.query["workload"]["qps"] == "max":
        assert all(plan.best.qps >= other.qps for other in rest)
    else:
        prices = [plan.best.usd_per_hour, *(other.usd_per_hour for other in rest)]
        assert prices == sorted(prices)


def test_the_funnel_only_narrows(plan: Plan) -> None:
    assert plan.search.funnels
    for funnel in plan.search.funnels:
        names = [name for name, _ in funnel.stages]
        assert len(set(names)) == len(names)
        split = names.index("evaluated")
        before = [count for name, count in funnel.stages[1:split]]
        after = [count for _, count in funnel.stages[split:]]
        assert before == sorted(before, reverse=True)
        assert after == sorted(after, reverse=True)
        assert funnel.stages[0][0] == "raw"
        assert funnel.stages[0][1] >= max(before[0], after[0])
    counts = [dict(f.stages) for f in plan.search.funnels]
    assert plan.search.evaluated == sum(c["evaluated"] for c in counts)
    assert plan.search.feasible == sum(c["SLO"] for c in counts)
    by_role = {
        role: sum(dict(f.stages)["SLO"] for f in plan.search.funnels if f.role == role)
        for role in ("prefill", "decode")
    }
    assert plan.search.pairs == by_role["prefill"] * by_role["decode"]
    assert plan.search.proven


def test_the_cheapest_of_each_kind_is_compared(solved: Solved) -> None:
    plan = solved(**QUERIES["two devices"])
    kinds = {fleet.kind for fleet in (plan.best, *plan.alternatives)}
    assert kinds == {"continuous", "disaggregated", "heterogeneous"}


def test_statistics_are_named(solved: Solved) -> None:
    assert solved(**QUERIES["percentiles"]).statistics == {"ttft": "p99", "ttit": "p95"}
    assert solved(**QUERIES["end to end"]).statistics == {"ttft": "mean", "e2e": "mean"}
    assert solved(**QUERIES["offline"]).statistics == {}


@pytest.mark.parametrize("ending", [".json", ".yaml", ".yml"])
def test_a_plan_written_reads_back(plan: Plan, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"plan{ending}"
    write_plan(plan, path)
    data = read_plan(path)
    assert data == json.loads(json.dumps(plan.to_dict()))
    assert data["schema"] == SCHEMA
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_plan_schema_is_the_one_published(solved: Solved) -> None:
    """Whoever renames or removes one of these fields changes `SCHEMA` too; new ones may come."""
    data = json.loads(json.dumps(solved(**QUERIES["two devices"]).to_dict()))
    assert data["schema"] == "planner.plan/1"
    assert next(iter(data)) == "schema"
    assert set(data) >= {
        "schema", "query", "model", "statistics", "best", "alternatives", "search", "notes",
    }  # fmt: skip
    best = data["best"]
    assert set(best) >= {
        "kind", "usd_per_hour", "hosts", "pools", "qps", "capacity_qps", "ttft", "ttit_mean_s",
        "ttit_at_load_s",
        "ttit_slo_s", "e2e_mean_s", "qps_per_usd_hour", "qps_per_device",
        "usd_per_million_input_tokens", "usd_per_million_output_tokens",
        "usd_per_thousand_requests", "usd_per_hour_per_qps_at_scale",
    }  # fmt: skip
    assert set(best["pools"][0]) >= {
        "role", "device", "precision", "layout", "batch", "chunk_tokens", "replicas",
        "devices_per_replica", "qps_per_replica", "sequences_in_flight", "service_s",
        "ttit_mean_s", "ttit_slo_s", "prefill_time_share", "memory_bytes",
        "memory_capacity_bytes", "time_by_kind", "time_by_bound", "limits",
    }  # fmt: skip
    assert set(best["hosts"][0]) >= {
        "device", "hosts", "devices_per_host", "usd_per_device_hour", "price_source",
        "used_devices",
    }  # fmt: skip
    assert set(best["ttft"]) >= {
        "mean_s", "service_s", "waiting_s", "admission_s", "transfer_s", "slo_s",
    }  # fmt: skip
    assert set(data["search"]) >= {
        "method", "proven", "gap", "statement", "evaluated", "feasible", "pairs", "seconds",
        "funnels",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.json", "{", "p.json:1:2: not valid JSON"),
        ("p.json", "[]", "expected a plan of schema planner.plan/1, got 'list'"),
        ("p.json", '{"schema": "planner.plan/0"}', "got 'planner.plan/0'"),
        ("p.yaml", "a: [", "p.yaml:1:5: not valid YAML"),
        ("none/p.json", None, "p.json: no such file"),
    ],
)
def test_what_is_not_a_plan(tmp_path: Path, name: str, text: str | None, said: str) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_plan(path)
    assert said in str(caught.value)


def test_a_plan_that_cannot_be_written_leaves_nothing(solved: Solved, tmp_path: Path) -> None:
    folder = tmp_path / "plan.json"
    folder.mkdir()
    with pytest.raises(ConfigError, match="cannot be written"):
        write_plan(solved(), folder)
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]
    old = tmp_path / "old.yaml"
    old.write_text("mine")
    write_plan(solved(), old)
    assert yaml.safe_load(old.read_text())["schema"] == SCHEMA


def test_a_plan_written_has_the_rights_of_any_new_file(solved: Solved, tmp_path: Path) -> None:
    usual = tmp_path / "usual"
    usual.touch()
    write_plan(solved(), tmp_path / "plan.json")
    assert (tmp_path / "plan.json").stat().st_mode == usual.stat().st_mode


def test_what_is_suggested_for_an_impossible_target_is_feasible_at_the_price(
    solved: Solved,
) -> None:
    with pytest.raises(InfeasibleError) as error:
        solved(slo={"ttft": {"p95": "10ms"}, "ttit": "25ms"})
    found = re.search(r"ttft: {p95: ([\d.]+)ms}, for \$([\d.,]+) per hour", str(error.value))
    assert found
    least_ms, usd_per_hour = float(found[1]), float(found[2].replace(",", ""))
    plan = solved(slo={"ttft": {"p95": f"{least_ms}ms"}, "ttit": "25ms"})
    assert plan.best.usd_per_hour <= usd_per_hour * 1.001
    with pytest.raises(InfeasibleError):
        solved(slo={"ttft": {"p95": f"{least_ms * 0.98}ms"}, "ttit": "25ms"})


MOST: dict[str, Any] = {"devices": [{"name": "h100_sxm", "host_devices": 1, "inventory": 6}]}


@pytest.mark.parametrize("slo", [{"ttft": "200ms", "ttit": "20ms"}, {"ttft": {"p99": "150ms"}}, {}])
def test_the_most_that_an_inventory_serves(solved: Solved, slo: dict[str, Any]) -> None:
    plan = solved(workload={"qps": "max"}, slo=slo, **MOST)
    most = plan.best.qps
    again = solved(workload={"qps": most}, slo=slo, **MOST)
    assert again.best.usd_per_hour <= 6 * again.best.hosts[0].usd_per_device_hour
    with pytest.raises(InfeasibleError, match="inventory"):
        solved(workload={"qps": most * 1.02}, slo=slo, **MOST)


def test_more_inventory_never_serves_less(solved: Solved) -> None:
    served = [
        solved(
            workload={"qps": "max"},
            devices=[{"name": "l40s", "host_devices": 2, "inventory": n}],
        ).best.qps
        for n in (2, 3, 4, 8)
    ]
    assert served == sorted(served)
    assert served[0] == served[1]  # a third device makes no host
    assert served[3] > 1.9 * served[2]


def test_progress_is_told(make_query: Callable[..., Query]) -> None:
    from planner.solve import solve

    told: list[tuple[str, float]] = []
    solve(make_query(), progress=lambda what, share: told.append((what, share)))
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert any("h100_sxm" in what for what, _ in told)


def test_money_scales_with_prices(solved: Solved) -> None:
    one = solved(devices=[{"name": "h100_sxm", "usd_per_device_hour": 1.0}])
    ten = solved(devices=[{"name": "h100_sxm", "usd_per_device_hour": 10.0}])
    assert ten.best.usd_per_hour == pytest.approx(10 * one.best.usd_per_hour)
    assert ten.best.pools == one.best.pools


def test_a_cheaper_device_wins_the_demand(solved: Solved) -> None:
    def winner(price: float) -> set[str]:
        plan = solved(
            devices=["h100_sxm", {"name": "l40s", "usd_per_device_hour": price}],
        )
        return {host.device for host in plan.best.hosts}

    assert winner(0.01) == {"l40s"}
    assert winner(1000.0) == {"h100_sxm"}


def test_devices_without_tables_are_told_apart(solved: Solved) -> None:
    plan = solved(**QUERIES["single devices"])
    fleets = (plan.best, *plan.alternatives)
    assert any(f.measured_share > 0.5 for f in fleets)
    analytic = [f for f in fleets if {p.device for p in f.pools} == {"mi300x"}]
    assert analytic
    assert all(f.measured_share == 0 for f in analytic)
    if any(pool.device == "mi300x" for pool in plan.best.pools):
        assert any("mi300x" in note for note in plan.notes)


def test_a_target_that_leaves_room_for_one_sequence_is_noted(solved: Solved) -> None:
    # Weights of 16 GB and a cache of 4.5 GB per sequence at 3.35 TB/s.
    changes = {
        "workload": {"qps": 0.5, "input_tokens": 30000},
        "search": {"max_replica_devices": 1},
        "runtime": "disaggregated",
    }
    tight = solved(slo={"ttit": "9.3ms"}, **changes)
    assert tight.best.pools[1].batch == 1
    (note,) = (note for note in tight.notes if "one sequence per attention rank" in note)
    assert note.startswith("decode on h100_sxm: the TTIT target of 9.3 ms (mean) leaves room for")
    loose = solved(slo={"ttit": "30ms"}, **changes)
    assert not any("one sequence" in note for note in loose.notes)


@pytest.mark.parametrize("before", ["", "import planner.solve; ", "import planner.web.report; "])
def test_the_package_offers_its_names_to_a_fresh_interpreter(before: str) -> None:
    code = before + "from planner import Plan, Query, load_query, solve; print(callable(solve))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "True"


@pytest.mark.parametrize("device", ["h200_sxm", "b200_sxm"])
def test_a_model_with_recurrent_layers_is_planned(device: str, solved: Callable[..., Plan]) -> None:
    plan = solved(
        model="Qwen/Qwen3.5-397B-A17B-FP8",
        devices=[device],
        workload={"qps": 1, "input_tokens": 2000, "output_tokens": 200},
        slo={"ttft": "3s", "ttit": "50ms"},
        search={"max_replica_devices": 8},
    )
    pools = plan.best.pools
    assert pools
    assert all("CP" not in str(pool.layout).replace("CP1", "") for pool in pools)


def test_images_cost_time_and_memory(solved: Callable[..., Plan]) -> None:
    images = {"per_request": 2, "width": 1024, "height": 768}
    model = "Qwen/Qwen3-VL-8B-Instruct"
    seen = solved(model=model, workload={"images": images}, runtime="disaggregated").best
    read = solved(model=model, workload={"input_tokens": 2540}, runtime="disaggregated").best
    assert seen.ttft.encoder_s > 0
    assert read.ttft.encoder_s == 0
    assert seen.ttft.encoder_s < seen.ttft.service_s
    weights = [pool.memory_bytes["weights"] for pool in seen.pools]
    bare = [pool.memory_bytes["weights"] for pool in read.pools]
    assert weights[0] > bare[0], "the prefill pool holds the encoder"
    assert weights[1] == bare[1], "the decode pool does not"
    mixed = solved(model=model, workload={"images": images}, runtime="continuous").best
    assert 0 < mixed.ttft.encoder_s < mixed.ttft.service_s


@pytest.mark.parametrize("routing", get_args(MeasuredRouting))
def test_every_measured_routing_is_planned(routing: str, solved: Solved) -> None:
    plan = solved(
        model="Qwen/Qwen3-30B-A3B",
        routing=routing,
        engine="sglang",
        runtime=("disaggregated",),
        search={"max_replica_devices": 2},
    )
    assert plan.best.usd_per_hour > 0
