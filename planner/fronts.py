"""Pareto fronts of a search's candidates as tables: what a latency costs in a large fleet.

Plans of a given demand (`planner.solve`) lie above these fronts: whole hosts, and room for waiting.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from perfmodel.layout import DEGREES, format_layout
from planner.choice import KINDS
from planner.dominance import nondominated
from planner.evaluated import Evaluated
from planner.large_fleet import (
    Against,
    Fleets,
    LargeFleet,
    along,
    found_by_tier,
    kind_of,
    usd_per_hour_per_qps,
)

if TYPE_CHECKING:
    import polars as pl


def configurations(evaluated: Evaluated) -> pl.DataFrame:
    """Every feasible configuration of every role, device and precision, one row each.

    Columns: `role`, `prefix_tier` (where cached prefixes lie), `device`, `precision`, the degrees
    of the layout, `batch`, `chunk`, `drafts`, `devices` of a replica, `slots` (sequences in
    flight), `qps` of a replica, `qps_per_device`, `usd_per_hour_per_qps`, `ttft_s` (mean, of the
    steps alone), `ttit_s` (mean, every slot taken). What links carry between pools is not counted.
    """
    import polars as pl

    frames = []
    for space, found in ((s, one) for s, block in found_by_tier(evaluated) for one in block):
        layouts = found.layouts[found.layout]
        columns = {name: getattr(layouts, name) for name in DEGREES}
        columns |= {
            "batch": found.batch,
            "chunk": found.chunk,
            "drafts": found.drafts,
            "devices": found.world,
            "slots": found.slots,
            "qps": found.qps,
            "qps_per_device": found.qps / found.world,
            "usd_per_hour_per_qps": usd_per_hour_per_qps(found),
            "ttft_s": found.service_s,
            "ttit_s": found.ttit_s,
        }
        named = {
            "role": found.role,
            "prefix_tier": space.problem.traffic.prefix_tier,
            "device": found.offer.device.name,
            "precision": str(found.precision),
        }
        frames.append(
            pl.DataFrame(columns).select(
                *(pl.lit(text, dtype=pl.Categorical).alias(name) for name, text in named.items()),
                pl.all(),
            )
        )
    return pl.concat(frames, how="vertical")


def front(
    evaluated: Evaluated,
    against: Against = "ttit",
    kinds: Sequence[str] = KINDS,
    by: Literal["devices", "kind"] = "devices",
) -> pl.DataFrame:
    """The cheapest fleet at every latency that is worth its price.

    Rows are sorted by kind, devices (if fronts are by them) and latency; along each front the
    price falls as latency rises. The query's targets hold. Images are encoded by the devices that
    take the prompts, where the query allows that; else their encoders are not in the price.

    Args:
        against: `ttit`, or `ttft` without waiting (`planner.large_fleet`).
        kinds: of `planner.choice.KINDS`.
        by: a front for each kind and set of device types, or one for each kind.

    Returns:
        Columns `kind`, `devices` (types, prefill first), `ttit_s`, `ttft_s`,
        `usd_per_hour_per_qps`, `qps_per_usd_hour`, `qps_per_device`, and of the pools:
        `prefill`, `decode` (layouts; of a continuous pool both are its own), `prefill_batch`,
        `decode_batch`, `chunk`, `drafts`, `prefill_qps_per_device`, `decode_qps_per_device`,
        `prefill_share` (of the devices).
    """
    import polars as pl

    fronts: dict[tuple[str, ...], list[Fleets]] = {}
    for fleets in along(evaluated, against, kinds):
        key = (kind_of(fleets.devices), *(fleets.devices if by == "devices" else ()))
        fronts.setdefault(key, []).append(fleets)
    rows = [_row(fleet) for _, parts in sorted(fronts.items()) for fleet in _unbeaten(parts)]
    return pl.DataFrame(rows, schema=dict(_SCHEMA))


def _unbeaten(parts: Sequence[Fleets]) -> Iterator[LargeFleet]:
    """Of several fronts what remains of all together, by latency."""
    latency = np.concatenate([part.latency_s for part in parts])
    price = np.concatenate([part.usd_per_hour_per_qps for part in parts])
    owner = np.repeat(np.arange(len(parts)), [len(part.latency_s) for part in parts])
    start = np.cumsum([0, *(len(part.latency_s) for part in parts)])
    kept = nondominated(np.stack([latency, price], axis=1))
    for i in kept[np.argsort(latency[kept])]:
        yield parts[owner[i]].fleet(int(i - start[owner[i]]))


_TEXT = ("kind", "devices", "prefill", "decode")
_COUNTS = ("prefill_batch", "decode_batch", "chunk", "drafts")
_COLUMNS = (
    "kind",
    "devices",
    "ttit_s",
    "ttft_s",
    "usd_per_hour_per_qps",
    "qps_per_usd_hour",
    "qps_per_device",
    "prefill",
    "decode",
    "prefill_batch",
    "decode_batch",
    "chunk",
    "drafts",
    "prefill_qps_per_device",
    "decode_qps_per_device",
    "prefill_share",
)
_SCHEMA = tuple(
    (name, str if name in _TEXT else int if name in _COUNTS else float) for name in _COLUMNS
)


def _row(fleet: LargeFleet) -> dict[str, Any]:
    """As `front` returns it."""
    first, last = fleet.pools[0], fleet.pools[-1]
    devices = fleet.devices_per_qps
    share = devices[0] / sum(devices)
    return {
        "kind": fleet.kind,
        "devices": " + ".join(dict.fromkeys(fleet.devices)),
        "ttit_s": fleet.ttit_s,
        "ttft_s": fleet.ttft_s,
        "usd_per_hour_per_qps": fleet.usd_per_hour_per_qps,
        "qps_per_usd_hour": 1.0 / fleet.usd_per_hour_per_qps,
        "qps_per_device": fleet.qps_per_device,
        "prefill": format_layout(first.layouts[first.layout]),
        "decode": format_layout(last.layouts[last.layout]),
        "prefill_batch": int(first.batch[0]),
        "decode_batch": int(last.batch[0]),
        "chunk": int(last.chunk[0]),
        "drafts": int(last.drafts[0]),
        "prefill_qps_per_device": 1.0 / devices[0],
        "decode_qps_per_device": 1.0 / devices[-1],
        "prefill_share": float(first.prefill_share[0]) if len(devices) == 1 else share,
    }
