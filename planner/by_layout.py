"""What each layout serves in each phase: how much is lost where both must share one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from perfmodel.layout import DEGREES, Layouts, format_layout
from planner.evaluated import Evaluated
from planner.fronts import configurations
from planner.rates import matched_qps

if TYPE_CHECKING:
    import polars as pl

OWN = ("device", "precision", *DEGREES)
"""What tells layouts apart."""


def by_layout(evaluated: Evaluated) -> pl.DataFrame:
    """The best that every layout serves as a prefill pool and as a decode pool, best pairs first.

    Pools are fully loaded; of each the batch that serves most within the query's targets (and of
    those the soonest). Of a first token the steps alone are counted, unlike in `planner.fronts`:
    what else it waits for depends on the other pool. Where cached prefixes may lie in several
    places, both pools' figures are of one: where this layout serves most.

    Returns:
        Columns `prefix_tier`, `device`, `precision`, the degrees, `layout` (their spelling),
        `prefill_batch`, `prefill_qps_per_device`, `ttft_s`, `decode_batch`,
        `decode_qps_per_device`, `ttit_s`, and `qps_per_device` of two pools of this one layout,
        their devices matched. Null where the layout is feasible in one phase only.
    """
    import polars as pl

    key = ["prefix_tier", *OWN]
    found = configurations(evaluated).with_columns(
        pl.col("prefix_tier", "device", "precision").cast(pl.String)
    )
    phases = []
    for role, latency in (("prefill", "ttft_s"), ("decode", "ttit_s")):
        best = (
            found.filter(pl.col("role") == role)
            .sort("qps_per_device", latency, descending=[True, False], maintain_order=True)
            .unique(key, keep="first", maintain_order=True)
        )
        names = {"batch": f"{role}_batch", "qps_per_device": f"{role}_qps_per_device"}
        phases.append(best.rename(names).select(*key, *names.values(), latency))
    both = phases[0].join(phases[1], on=key, how="full", coalesce=True)
    rates = (both[f"{role}_qps_per_device"].to_numpy() for role in ("prefill", "decode"))
    matched = np.asarray(matched_qps(*rates))
    layouts = Layouts.from_rows(both.select(DEGREES).to_numpy())
    spelled = [format_layout(layouts, i) for i in range(len(layouts))]
    ranked = both.with_columns(
        pl.Series("layout", spelled, dtype=pl.String),
        pl.Series("qps_per_device", matched, dtype=pl.Float64).fill_nan(None),
    ).sort("qps_per_device", descending=True, nulls_last=True, maintain_order=True)
    return ranked.unique(OWN, keep="first", maintain_order=True)
