"""Fronts: nothing lies below them, and every point of them is a configuration."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from perfmodel.database import PerfStore
from planner.evaluated import Evaluated, evaluate
from planner.fronts import configurations, front
from planner.infeasible import InfeasibleError
from planner.query import Query
from planner.solve import answer

STORE = PerfStore()
DISAGGREGATED = ("disaggregated", "heterogeneous")


def query(**changes: Any) -> Query:
    base: dict[str, Any] = {
        "model": "Qwen/Qwen3-8B",
        "workload": {"qps": 20, "input_tokens": 1000, "output_tokens": 100},
        "slo": {"ttft": "500ms", "ttit": "30ms"},
        "devices": ["h100_sxm", "l40s"],
        "search": {"max_replica_devices": 4},
    }
    return Query.model_validate({**base, **changes})


@pytest.fixture(scope="module")
def found() -> Evaluated:
    return evaluate(query(), store=STORE)


@pytest.mark.parametrize("against", ["ttit", "ttft"])
def test_along_a_front_the_price_falls(found: Evaluated, against: Any) -> None:
    rows = front(found, against)
    assert set(rows["kind"]) == {"continuous", "disaggregated", "heterogeneous"}
    for _, one in rows.group_by("kind", "devices"):
        assert (np.diff(one[f"{against}_s"]) > 0).all()
        assert (np.diff(one["usd_per_hour_per_qps"]) < 0).all()


def test_nothing_lies_below() -> None:
    found = evaluate(query(slo={"ttit": "30ms"}), store=STORE)
    rows, all_of_them = front(found), configurations(found)
    assert len(all_of_them) == sum(len(one) for one in found.candidates)
    first = {
        device: one["usd_per_hour_per_qps"].min()
        for (device,), one in all_of_them.filter(pl.col("role") == "prefill").group_by("device")
    }
    for (kind, devices), one in rows.group_by("kind", "devices"):
        names = str(devices).split(" + ")
        role = "continuous" if kind == "continuous" else "decode"
        at = all_of_them.filter((pl.col("role") == role) & (pl.col("device") == names[-1]))
        price = at["usd_per_hour_per_qps"].to_numpy()
        if kind != "continuous":
            price = price + first[names[0]]
        for target in one["ttit_s"]:
            cheapest = price[at["ttit_s"].to_numpy() <= target].min()
            reached = one.filter(pl.col("ttit_s") == target)["usd_per_hour_per_qps"][0]
            assert reached == pytest.approx(cheapest, rel=1e-12)


def test_a_plan_lies_on_or_above_the_front_of_its_kind(found: Evaluated) -> None:
    plan, rows = answer(found), front(found)
    for fleet in (plan.best, *plan.alternatives):
        names = " + ".join(dict.fromkeys(pool.device for pool in fleet.pools))
        own = rows.filter(
            (pl.col("kind") == fleet.kind)
            & (pl.col("devices") == names)
            & (pl.col("ttit_s") <= fleet.ttit_mean_s)
        )
        assert own["usd_per_hour_per_qps"].min() <= fleet.usd_per_hour_per_qps_at_scale * 1.000001  # type: ignore[operator]


@pytest.mark.parametrize("against", ["ttit", "ttft"])
def test_a_kinds_front_is_what_no_devices_beat(found: Evaluated, against: Any) -> None:
    latency, price = f"{against}_s", "usd_per_hour_per_qps"
    every, best = front(found, against), front(found, against, by="kind")
    assert set(best["kind"]) == set(every["kind"])
    for (kind,), one in best.group_by("kind"):
        others = every.filter(pl.col("kind") == kind)
        assert (np.diff(one.sort(latency)[price]) < 0).all()
        for row in one.iter_rows(named=True):
            faster = others.filter(pl.col(latency) <= row[latency])
            assert faster[price].min() == row[price]


def test_first_tokens_are_in_time_in_full(found: Evaluated) -> None:
    assert front(found)["ttft_s"].max() <= 0.5  # type: ignore[operator]
    tight = found.under(query(slo={"ttft": "210ms", "ttit": "30ms"}))
    rows = front(tight)
    assert rows["ttft_s"].max() <= 0.21  # type: ignore[operator]
    assert set(rows["kind"]) == {"continuous", "disaggregated", "heterogeneous"}


def test_rates_of_two_pools_add_up_to_the_fleets(found: Evaluated) -> None:
    rows = front(found, kinds=DISAGGREGATED)
    p, d = rows["prefill_qps_per_device"], rows["decode_qps_per_device"]
    assert (p * d / (p + d)).to_numpy() == pytest.approx(rows["qps_per_device"].to_numpy())
    assert (d / (p + d)).to_numpy() == pytest.approx(rows["prefill_share"].to_numpy())


def test_only_what_is_kept(found: Evaluated) -> None:
    whole = found.where(lambda one: (one.role != "continuous") | (one.chunk >= 1000))
    chunks = front(whole, kinds=("continuous",))["chunk"]
    assert chunks.min() == 1024
    assert answer(whole).search.statement.endswith("of those that were kept")
    nothing = found.where(lambda one: np.zeros(len(one), dtype=bool))
    assert front(nothing).is_empty()
    with pytest.raises(InfeasibleError, match="kept"):
        answer(nothing)
