"""Prefix caches in plans: the cheapest place is found, told, and derived again."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from perfmodel.errors import ConfigError
from perfmodel.hardware import SHIPPED
from planner.explain import explain_plan
from planner.plan import Plan
from planner.problem import alternatives, resolve
from planner.query import Query
from planner.report import print_plan

Solved = Callable[..., Plan]
MakeQuery = Callable[..., Query]
CACHED: dict[str, Any] = {
    "workload": {"input_tokens": 8000, "prefix_cache_hit": 0.8, "qps": 8},
    "slo": {"ttft": "400ms", "ttit": "20ms"},
}


def held(tier: object, tokens: object = "400k") -> dict[str, Any]:
    return CACHED | {"prefix_cache": {"tier": tier, "tokens": tokens}}


@pytest.mark.parametrize("runtime", ["continuous", "disaggregated"])
def test_the_cheapest_place_is_found(solved: Solved, runtime: str) -> None:
    each = {t: solved(**held(t), runtime=runtime) for t in ("device", "host", "none")}
    auto = solved(**held("auto"), runtime=runtime)
    prices = {tier: plan.best.usd_per_hour for tier, plan in each.items()}
    assert auto.best.usd_per_hour == min(prices.values())
    assert auto.best.prefix is not None
    assert prices[auto.best.prefix.tier] == auto.best.usd_per_hour
    assert auto.search.evaluated == sum(plan.search.evaluated for plan in each.values())
    tiers = {f.prefix.tier for f in (auto.best, *auto.alternatives) if f.prefix}
    assert tiers == set(each)


def test_computing_anew_is_no_cache(solved: Solved) -> None:
    anew = solved(**held("none"))
    plain = solved(**CACHED | {"workload": CACHED["workload"] | {"prefix_cache_hit": 0.0}})
    assert anew.best.usd_per_hour == plain.best.usd_per_hour
    assert anew.best.ttft == plain.best.ttft
    assert plain.best.prefix is None


@pytest.mark.parametrize("runtime", ["continuous", "disaggregated"])
@pytest.mark.parametrize("tier", ["device", "host", "none"])
def test_a_plan_says_where_prefixes_lie(solved: Solved, tier: str, runtime: str) -> None:
    plan = solved(**held(tier), runtime=runtime)
    prefix = plan.best.prefix
    assert prefix is not None
    assert (prefix.tier, prefix.hit, prefix.cached_tokens) == (tier, 0.8, pytest.approx(6400))
    assert prefix.compute_s > 0
    assert (prefix.load_s > 0, prefix.host_bytes > 0) == (tier == "host",) * 2
    assert (prefix.device_bytes > 0) == (tier == "device")
    if tier == "host":
        assert prefix.load_s / 36 <= prefix.added_s < prefix.load_s
        assert prefix.loaded_bytes == pytest.approx(prefix.host_bytes * 6400 / 400_000)
        assert 0 < prefix.link_utilization < 1
    console = Console(file=StringIO(), width=300)
    print_plan(plan, console)
    explain_plan(json.loads(json.dumps(plan.to_dict())), "plan.json", 0, console)
    assert isinstance(console.file, StringIO)
    said = console.file.getvalue()
    place = {"device": "in device memory", "host": "in host memory", "none": "computed anew"}[tier]
    assert said.count(place) == 2
    assert "DIFFERS" not in said


def test_every_place_of_an_auto_plan_is_explained(solved: Solved) -> None:
    plan = solved(**held("auto"))
    data = json.loads(json.dumps(plan.to_dict()))
    for number in range(1 + len(plan.alternatives)):
        console = Console(file=StringIO(), width=200)
        explain_plan(data, "plan.json", number, console)
        assert isinstance(console.file, StringIO)
        assert "DIFFERS" not in console.file.getvalue()
    console = Console(file=StringIO(), width=300)
    print_plan(plan, console)
    assert isinstance(console.file, StringIO)
    assert "prefixes on hosts" in console.file.getvalue()


def test_a_prefix_from_the_host_is_moved_on(solved: Solved) -> None:
    near, far = (solved(**held(t), runtime="disaggregated").best for t in ("device", "host"))
    assert near.transfer is not None
    assert far.transfer is not None
    assert far.transfer.cache_bytes == pytest.approx(5 * near.transfer.cache_bytes, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prefix_cache": {"tier": "host"}}, "expected a workload.prefix_cache_hit above zero"),
        (held("disk"), "'device', 'host' or 'none'"),
        (held("host", 0), "expected at least one token"),
        (held([]), "at least 1 item"),
    ],
)
def test_bad_fields_are_refused(make_query: MakeQuery, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_query(**changes)


def test_a_cache_smaller_than_a_prefix_is_refused(make_query: MakeQuery) -> None:
    with pytest.raises(ConfigError, match=r"expected at least 6,400") as caught:
        resolve(make_query(**held("device", 6000)))
    assert "prefix_cache.tokens" in str(caught.value)


def test_devices_without_a_host_link_hold_none(make_query: MakeQuery, tmp_path: Path) -> None:
    text = (SHIPPED / "h100_sxm.yaml").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("  link:")]
    (tmp_path / "bare.yaml").write_text("\n".join(lines).replace("name: h100_sxm", "name: bare"))
    bare: dict[str, Any] = {"name": "bare", "usd_per_device_hour": 1.0}
    both = make_query(**held("auto"), devices=["h100_sxm", bare])
    names = {
        p.traffic.prefix_tier: [o.device.name for o in p.offers]
        for p in alternatives(resolve(both, [tmp_path]))
    }
    assert names == {"device": ["h100_sxm", "bare"], "host": ["h100_sxm"], "none": names["device"]}
    with pytest.raises(ConfigError, match=r"no device file gives host.memory and host.link \(bare"):
        alternatives(resolve(make_query(**held("host"), devices=[bare]), [tmp_path]))
