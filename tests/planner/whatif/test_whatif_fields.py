"""Fields by name, values in a user's spelling."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.errors import InputError
from planner.problem import resolve
from planner.query import Query
from planner.whatif.fields import (
    device_names,
    read_values,
    with_devices,
    with_values,
)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("20ms,40ms", ["20ms", "40ms"]),
        ("8", [8]),
        ("1..6:6", [1, 2, 3, 4, 5, 6]),
        ("1..2:3", [1, 1.5, 2]),
        ("20ms..80ms:4", ["20ms", "40ms", "60ms", "80ms"]),
        ("20..80ms:3", ["20ms", "50ms", "80ms"]),
        ("x0.5, x1", ["x0.5", "x1"]),
        ("{p99: 1s},{mean: 1s}", [{"p99": "1s"}, {"mean": "1s"}]),
        ("[fp8, bf16],fp8", [["fp8", "bf16"], "fp8"]),
        ("true,false", [True, False]),
    ],
)
def test_values_are_read_as_a_query_file_has_them(text: str, values: list[Any]) -> None:
    assert read_values(text) == values


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "values between commas"),
        ("1,,2", "values between commas"),
        ("1..3", "how many"),
        ("1..3:1", "2 to 1000"),
        ("1..3:5000", "2 to 1000"),
        ("1ms..3s:2", "one unit"),
        ("2..2:3", "two ends"),
        ("a..b:3", "range such as"),
        ("{a", "as a query file has it"),
    ],
)
def test_bad_values_are_refused(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_values(text)


@given(st.floats(0.001, 1e6), st.floats(0.001, 1e6), st.integers(2, 50))
def test_a_range_has_its_ends_and_its_count(low: float, high: float, count: int) -> None:
    low, high = float(f"{low:.6g}"), float(f"{high:.6g}")
    if low == high:
        return
    values = read_values(f"{low!r}..{high!r}:{count}")
    assert len(values) == count
    assert values[0] == pytest.approx(low)
    assert values[-1] == pytest.approx(high)
    steps = [b - a for a, b in itertools.pairwise(values)]
    assert steps == pytest.approx([steps[0]] * len(steps), abs=1e-9 * max(low, high))


def test_every_kind_of_field_is_changed(two: Query) -> None:
    changed = with_values(
        two,
        [
            ("slo.ttft", "100ms"),
            ("workload.qps", "x0.5"),
            ("workload.input_tokens", "x2"),
            ("workload.output_tokens", {"p50": 10, "p90": 40}),
            ("devices.l40s.usd_per_device_hour", 2.5),
            ("devices.h100_sxm.inventory", 16),
            ("precision.weights", ["fp8", "bf16"]),
            ("runtime", "continuous"),
            ("model", "Qwen/Qwen3-32B"),
        ],
    )
    assert changed.slo.ttft is not None
    assert changed.slo.ttft.seconds == pytest.approx(0.1)
    assert changed.workload.qps == 50
    assert changed.workload.input_tokens.mean == 2 * two.workload.input_tokens.mean
    assert changed.workload.output_tokens.mean > 10
    assert [d.usd_per_device_hour for d in changed.devices] == [None, 2.5]
    assert [d.inventory for d in changed.devices] == [16, None]
    assert changed.precision.weights == ("fp8", "bf16")
    assert changed.runtime == ("continuous",)
    assert changed.model == "Qwen/Qwen3-32B"
    assert with_values(two, []) == two


def test_a_bare_time_keeps_the_statistic(make_query: Callable[..., Query]) -> None:
    query = make_query(slo={"ttft": {"p99": "500ms"}, "ttit": "30ms"})
    changed = with_values(query, [("slo.ttft", "300ms"), ("slo.ttit", "20ms")])
    assert changed.slo.ttft is not None
    assert changed.slo.ttit is not None
    assert (changed.slo.ttft.percentile, changed.slo.ttit.percentile) == (99, None)
    mean = with_values(query, [("slo.ttft", {"mean": "300ms"})])
    assert mean.slo.ttft is not None
    assert mean.slo.ttft.percentile is None
    half = with_values(query, [("slo.ttft", "x0.5")])
    assert half.slo.ttft is not None
    assert (half.slo.ttft.seconds, half.slo.ttft.percentile) == (0.25, 99)


def test_an_inventory_of_none_leaves_the_device_out(two: Query) -> None:
    alone = with_values(two, [("devices.l40s.inventory", 0), ("devices.l40s.time_factor", 2)])
    assert device_names(alone) == ["h100_sxm"]
    capped = with_values(two, [("devices.l40s.inventory", 8)])
    assert with_values(capped, [("devices.l40s.inventory", "unlimited")]) == two
    with pytest.raises(InputError, match="no device"):
        with_values(two, [(f"devices.{name}.inventory", 0) for name in device_names(two)])


def test_multiples_of_prices_listed_and_built(make_query: Callable[..., Query]) -> None:
    owned = {"name": "l40s", "cost": {"capex": 10000}}
    query = make_query(devices=["h100_sxm", owned])
    prices = {o.device.name: o.usd_per_device_hour for o in resolve(query).offers}
    for name, usd in prices.items():
        half = with_values(query, [(f"devices.{name}.usd_per_device_hour", "x0.5")])
        changed = {o.device.name: o.usd_per_device_hour for o in resolve(half).offers}
        assert changed == pytest.approx({**prices, name: usd / 2})


def test_assumptions_on_costs(make_query: Callable[..., Query]) -> None:
    query = make_query(devices=[{"name": "h100_sxm", "cost": {"capex": 30000}}])
    (offer,) = resolve(query).offers
    for change in (("devices.h100_sxm.cost.capex", "x2"), ("costs.electricity", "1 USD/kWh")):
        (dearer,) = resolve(with_values(query, [change])).offers
        assert dearer.usd_per_device_hour > offer.usd_per_device_hour
    with pytest.raises(InputError, match="has no cost"):
        with_values(make_query(), [("devices.h100_sxm.cost.capex", 20000)])


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("slo.ttxt", "1ms", "did you mean ttit"),
        ("slo", "1ms", "one of its fields, such as slo.ttft"),
        ("slo.ttit.seconds", 1, "unknown field"),
        ("workload.qps.x", 1, "unknown field"),
        ("nothing", 1, "unknown field"),
        ("devices.mi300x.inventory", 8, "no device 'mi300x' in the query; it has h100_sxm, l40s"),
        ("devices.l40s", 8, "a device's field"),
        ("devices.l40s.price", 8, "unknown field"),
        ("devices.l40s.inventory", -8, "devices.l40s.inventory: "),
        ("devices.l40s.inventory", "x2", "needs a number"),
        ("search.max_replica_devices", "x0.3", "no whole number"),
        ("workload.qps", "x0", "above zero"),
        ("workload.qps", -1, "workload.qps: "),
        ("slo.ttit", "10", "unit"),
        ("engine", "none", "unknown engine"),
        ("engine", "x2", "needs a number"),
        ("speculation.acceptance", 0.5, "has no speculation"),
        ("workload.qps", "max", "inventory"),
    ],
)
def test_bad_changes_name_the_field(two: Query, field: str, value: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        with_values(two, [(field, value)])


def test_further_devices(two: Query, tmp_path: Any) -> None:
    file = tmp_path / "faster.yaml"
    file.write_text("extends: l40s\nmemory: 96GiB\n")
    more = with_devices(two, ["b200_sxm", str(file)])
    assert device_names(more) == ["h100_sxm", "l40s", "b200_sxm", "faster"]
    with pytest.raises(InputError, match="given twice"):
        with_devices(two, ["l40s"])
