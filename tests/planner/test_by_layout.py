"""Layouts by what they serve in each phase: the same as searching with one layout alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from perfmodel.database import PerfStore
from perfmodel.layout import DEGREES
from planner.by_layout import by_layout
from planner.candidates import Candidates
from planner.evaluated import Evaluated, evaluate
from planner.fronts import configurations, front
from planner.query import Query
from planner.rates import matched_qps


@pytest.fixture(scope="module")
def found(make_query: Callable[..., Query]) -> Evaluated:
    # Without a target on first tokens, nothing couples the pools.
    query = make_query(runtime="disaggregated", slo={"ttit": "30ms"})
    return evaluate(query, store=PerfStore())


def test_one_layout_alone_serves_as_much(found: Evaluated) -> None:
    rows = by_layout(found)
    for row in (rows[0], rows.filter(pl.col("layout") == "attn:TP2 ffn:TP2 PP1")):
        degrees = row.select(DEGREES).row(0)

        def only(one: Candidates, degrees: tuple[int, ...] = degrees) -> np.ndarray:
            return (one.layouts.rows()[one.layout] == degrees).all(axis=1)

        alone = front(found.where(only))
        assert alone["qps_per_device"].max() == pytest.approx(row["qps_per_device"][0], rel=1e-12)


def test_sharing_never_gains(found: Evaluated) -> None:
    rows = by_layout(found)
    free = matched_qps(
        rows["prefill_qps_per_device"].max(),  # type: ignore[arg-type]
        rows["decode_qps_per_device"].max(),  # type: ignore[arg-type]
    )
    assert front(found)["qps_per_device"].max() == pytest.approx(float(free), rel=1e-12)
    assert rows["qps_per_device"][0] <= free
    assert rows["qps_per_device"].drop_nulls().is_sorted(descending=True)


def test_every_layout_is_there_once(found: Evaluated) -> None:
    rows = by_layout(found)
    kinds = configurations(found).select(DEGREES).unique()
    assert len(rows) == len(kinds)


def test_a_layout_of_one_phase_only_has_no_rate_of_both(make_query: Callable[..., Query]) -> None:
    # Pipelines meet no such time between tokens.
    tight = evaluate(make_query(runtime="disaggregated", slo={"ttit": "6ms"}), store=PerfStore())
    rows = by_layout(tight).filter(pl.col("layout") == "attn:TP1 ffn:TP1 PP4")
    assert rows["prefill_qps_per_device"][0] > 0
    assert rows["decode_qps_per_device"][0] is None
    assert rows["qps_per_device"][0] is None


def test_both_figures_of_a_layout_are_of_one_place_of_prefixes(
    make_query: Callable[..., Query],
) -> None:
    """Cached on the devices prompts are short; computed anew they leave room to decode."""

    def rows(*tiers: str) -> pl.DataFrame:
        query = make_query(
            workload={"input_tokens": 8000, "prefix_cache_hit": 0.8},
            prefix_cache={"tier": tiers, "tokens": 400_000},
            runtime="disaggregated",
            search={"max_replica_devices": 2},
        )
        return by_layout(evaluate(query, store=PerfStore()))

    both, apart = rows("device", "none"), pl.concat([rows("device"), rows("none")])
    best = apart.group_by("layout").agg(pl.col("qps_per_device").max().alias("alone"))
    assert len(both) == len(best)
    joined = both.join(best, on="layout")
    assert joined["qps_per_device"].to_list() == pytest.approx(joined["alone"].to_list())
    own = both.join(apart, on=["layout", "prefix_tier"], suffix="_alone")
    for role in ("prefill", "decode"):
        name = f"{role}_qps_per_device"
        assert own[name].to_list() == pytest.approx(own[f"{name}_alone"].to_list())
