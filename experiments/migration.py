"""Does migrating online services to a disaggregated runtime save about 30 % of the capacity?

    python experiments/migration.py
    python experiments/migration.py --profiles 1

The reference's claim (insight 1): "~30 % capacity savings by migrating online services to
disaggregated runtime". It gives neither the services nor how they were run before.

Set-up: the profiles of `catalogs.py` (a model, lengths and targets of one of the six service
classes), each at the sum of the demands that a catalog of 1,000 services has for it, so that whole
hosts count little; and for single services, of 1 to 100 times the class's median demand. For each,
the cheapest fleet under continuous batching alone, and under whichever runtime is cheaper, on one
device type (capacity: devices of whole hosts) and on the cheapest of all types and pairs of types
(USD). Latency targets are the stated ones times 0.5 to 4. Offline classes, of which the reference
says that the gap disappears, are the control.

The baseline is a fair one: continuous batching is tuned as freely as the pools, layout, batch
and chunk of prefill tokens alike, for each service and target. What it would need with one chunk
for all (2,048 tokens, the usual default, or the largest below that fits) is shown beside it.
Nothing is fitted to the claim.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from catalogs import CLASSES, DEVICES, PROFILES, Profile, profiles, services
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from perfmodel.database import PerfStore
from planner import figures
from planner.candidates import Candidates
from planner.choice import Choice, rank
from planner.evaluated import Evaluated, evaluate
from planner.query import Query
from planner.query_workload import Slo

BoolArray = NDArray[np.bool_]
RESULTS = Path(__file__).parent / "results"
CLAIM = 0.30
NEAR = 0.05
"""Points within which a saving is what the claim says."""

TIGHTNESS = (0.5, 0.7, 1.0, 1.4, 2.0, 4.0)
"""Targets as multiples of the stated ones, the tightest first."""

SINGLE = (1, 3, 10, 30, 100)
"""Demand of one service over its class's median."""

SCOPES = {"h100_sxm": ("h100_sxm",), "h200_sxm": ("h200_sxm",), "all types": DEVICES}
SERVICES = 1000
CHUNK = 2048
MAX_REPLICA_DEVICES = 16
ONLINE = tuple(kind.name for kind in CLASSES if kind.online)


@dataclass(frozen=True)
class Row:
    """What one profile needs.

    Attributes:
        demand: `all` that a catalog has for it, or one service's: `x10` its class's median.
        targets: its latency targets over the stated ones.
        continuous_usd, either_usd: price of the cheapest fleet; None: none serves.
        fixed_chunk_usd: of continuous batching with the same chunk for all.
        kind, devices: of the cheapest fleet.
    """

    service_class: str
    profile: str
    qps: float
    scope: str
    demand: str
    targets: float
    continuous_usd: float | None
    fixed_chunk_usd: float | None
    either_usd: float | None
    kind: str
    devices: str


def scaled(query: Query, factor: float) -> Query:
    """The query with other latency targets."""
    slo = {
        name: target.model_copy(update={"seconds": target.seconds * factor})
        for name in Slo.model_fields
        if (target := getattr(query.slo, name)) is not None
    }
    return query.model_copy(update={"slo": Slo(**slo)})


def usual_chunk(pool: Candidates) -> BoolArray:
    """Where the chunk is `CHUNK`, or the largest below it that is swept for the batch."""
    axes = pool.axes
    usual = axes.chunk <= CHUNK
    most = np.zeros(axes.batch.max() + 1, dtype=np.int64)
    np.maximum.at(most, axes.batch[usual], axes.chunk[usual])
    return np.asarray((axes.chunk == most[axes.batch])[pool.column])


def cheapest(choices: Iterable[Choice], devices: Sequence[str]) -> Choice | None:
    """The cheapest of those fleets that lie on these device types alone."""
    own = [c for c in choices if all(offer.device.name in devices for offer, _ in c.hosts)]
    return rank(own)[0] if own else None


def rows_of(profile: Profile, qps: float, store: PerfStore) -> list[Row]:
    """A profile under all targets, in every scope, from one evaluation."""
    query = Query.model_validate(
        {
            **profile.query,
            "workload": {"qps": qps, **profile.query["workload"]},
            "devices": list(DEVICES),
            "search": {"max_replica_devices": MAX_REPLICA_DEVICES},
        }
    )
    targets = TIGHTNESS if "slo" in profile.query else (1.0,)
    loosest = evaluate(scaled(query, max(targets)), store=store)
    rows = []
    for factor in targets:
        found = loosest.under(scaled(query, factor))
        rows += compared(profile, found, "all", qps, factor)
        for times in SINGLE if factor == 1.0 else ():
            rows += compared(profile, found, f"x{times}", times * profile.of.median_qps, factor)
    return rows


def compared(
    profile: Profile, found: Evaluated, demand: str, qps: float, factor: float
) -> list[Row]:
    """A profile at one demand and under one set of targets, in every scope."""
    fleets = found.fleets(qps)
    fixed = found.where(usual_chunk).fleets(qps, ("continuous",))
    rows = []
    for scope, devices in SCOPES.items():
        mixed = cheapest((c for c in fleets if c.kind == "continuous"), devices)
        chunked = cheapest(fixed, devices)
        best = cheapest(fleets, devices)
        hosts = best.hosts if best else ()
        rows.append(
            Row(
                profile.of.name,
                profile.name,
                qps,
                scope,
                demand,
                factor,
                mixed and mixed.usd_per_hour,
                chunked and chunked.usd_per_hour,
                best and best.usd_per_hour,
                best.kind if best else "none",
                " + ".join(f"{n * o.host_devices} {o.device.name}" for o, n in hosts),
            )
        )
    return rows


@dataclass(frozen=True)
class Saving:
    """What some profiles save together, of those that both runtimes serve.

    Attributes:
        saved: share of the price under continuous batching.
        saved_fixed_chunk: the same against one chunk for all.
        profiles: so many.
        disaggregated_only: profiles beside them that continuous batching serves at no price.
    """

    saved: float
    saved_fixed_chunk: float
    profiles: int
    disaggregated_only: int


def saving(
    rows: Sequence[Row],
    scope: str,
    targets: float,
    classes: Sequence[str],
    demand: str = "all",
) -> Saving:
    """Over the profiles of these classes."""
    own = [r for r in rows if (r.scope, r.demand) == (scope, demand)]
    own = [r for r in own if r.service_class in classes]
    own = [r for r in own if r.targets == targets or r.service_class == "data_scoring"]
    both = [r for r in own if r.continuous_usd and r.either_usd]
    fixed = [r for r in both if r.fixed_chunk_usd]
    only = sum(r.continuous_usd is None and r.either_usd is not None for r in own)
    return Saving(
        _saved([(r.continuous_usd, r.either_usd) for r in both]),
        _saved([(r.fixed_chunk_usd, r.either_usd) for r in fixed]),
        len(both),
        only,
    )


def _saved(pairs: Sequence[tuple[float | None, float | None]]) -> float:
    before, after = (sum(p[i] or 0.0 for p in pairs) for i in (0, 1))
    return 1.0 - after / before if before else math.nan


def verdict(rows: Sequence[Row]) -> list[str]:
    """What becomes of the claim: first at the stated targets, then where else."""
    lines = []
    for scope in SCOPES:
        found = {t: saving(rows, scope, t, ONLINE) for t in TIGHTNESS}
        stated = found[1.0]
        near = abs(stated.saved - CLAIM) <= NEAR
        word = "reproduced" if near else "exceeded" if stated.saved > CLAIM else "not reached"
        where = reached(found)
        beyond = "" if where is None else f"; {CLAIM:.0%} with targets {where:.1f} times as long"
        lines.append(
            f"{scope}: {word}. Online services save {stated.saved:.0%} at the stated targets "
            f"({stated.saved_fixed_chunk:.0%} against one chunk for all){beyond}; "
            f"{found[max(TIGHTNESS)].saved:.0%} at {max(TIGHTNESS):g} times."
        )
    stated_savings = [saving(rows, scope, 1.0, ONLINE).saved for scope in SCOPES]
    least, most = min(stated_savings), max(stated_savings)
    if most < CLAIM - NEAR:
        word = "refuted"
    elif least > CLAIM + NEAR:
        word = "exceeded"
    else:
        word = "reproduced, under conditions"
    summary = (
        f"{word}: online services together save {least:.0%} to {most:.0%} at the stated targets, "
        "depending on what devices there are."
    )
    return [summary, *lines]


def reached(found: Mapping[float, Saving]) -> float | None:
    """From the loosest targets on, the first at which the claim is met, by interpolation."""
    targets = sorted(found, reverse=True)
    for looser, tighter in pairwise(targets):
        low, high = found[looser].saved, found[tighter].saved
        if low < CLAIM <= high:
            return looser + (tighter - looser) * (CLAIM - low) / (high - low)
    return None


def report(rows: Sequence[Row], console: Console) -> None:
    """The verdict, then savings by class and targets."""
    console.print("Claim: online services save about 30 % of capacity when disaggregated.")
    for line in verdict(rows):
        console.print(line)
    for scope in SCOPES:
        what = "cost" if scope == "all types" else "devices"
        table = Table(f"{scope}: {what} saved, targets x", box=None)
        for factor in TIGHTNESS:
            table.add_column(f"{factor:g}", justify="right")
        table.add_column("1, fixed chunk", justify="right")
        groups = {kind.name: (kind.name,) for kind in CLASSES} | {"online together": ONLINE}
        for name, classes in groups.items():
            found = [saving(rows, scope, t, classes) for t in TIGHTNESS]
            fixed = saving(rows, scope, 1.0, classes).saved_fixed_chunk
            table.add_row(name, *(_cell(s) for s in found), _percent(fixed))
        counts = [saving(rows, scope, t, ONLINE).profiles for t in TIGHTNESS]
        table.add_row("  profiles in it", *(str(n) for n in counts))
        console.print(table)
    table = Table("one service, targets x 1, demand over the median", box=None)
    for times in SINGLE:
        table.add_column(f"{times}", justify="right")
    for scope in SCOPES:
        found = [saving(rows, scope, 1.0, ONLINE, f"x{times}") for times in SINGLE]
        table.add_row(f"online services on {scope}", *(_cell(s) for s in found))
    console.print(table)
    console.print(
        "+n: profiles that continuous batching serves at no price, and that are left out of the "
        "saving; -: none is served by both"
    )


def _cell(found: Saving) -> str:
    only = f" +{found.disaggregated_only}" if found.disaggregated_only else ""
    return f"{_percent(found.saved)}{only}"


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{share:.0%}"


def figure(rows: Sequence[Row], path: Path) -> None:
    """Savings over the targets, a line for each class, a panel for each scope."""
    import altair as alt

    names = [kind.name for kind in CLASSES]
    points = [
        {
            "scope": scope,
            "class": name,
            "targets": factor,
            "saved": 100 * found.saved,
        }
        for scope in SCOPES
        for name in names
        for factor in TIGHTNESS
        if not math.isnan((found := saving(rows, scope, factor, (name,))).saved)
    ]
    panels = []
    for scope in SCOPES:
        own = [p for p in points if p["scope"] == scope]
        lines = (
            alt.Chart(figures.data(own))
            .mark_line(point=True)
            .encode(
                x=alt.X(
                    "targets:Q",
                    scale=alt.Scale(type="log", domain=[min(TIGHTNESS), max(TIGHTNESS)]),
                    axis=alt.Axis(values=list(TIGHTNESS)),
                    title="latency targets over the stated ones",
                ),
                y=alt.Y("saved:Q", scale=alt.Scale(domain=[0, 80]), title="saved, %"),
                color=alt.Color("class:N", scale=figures.colours(names), title="class"),
            )
        )
        claim = (
            alt.Chart(figures.data([{"claim": 100 * CLAIM}]))
            .mark_rule(strokeDash=[4, 4], color=figures.GREY, strokeWidth=2)
            .encode(y="claim:Q")
        )
        title = f"{scope}: {'USD' if scope == 'all types' else 'devices'}"
        panels.append((claim + lines).properties(width=240, height=240, title=title))
    subtitle = ["cheapest fleet of either runtime against continuous batching; dashed: the claim"]
    chart = alt.hconcat(*panels)
    figures.write_figure(figures.titled(chart, "What disaggregation saves", subtitle), path)


def main() -> None:
    """Run the experiment and save it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profiles", type=int, default=PROFILES, help="of each class")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    console = Console()
    started = time.perf_counter()
    known, store = profiles(options.profiles), PerfStore()
    rows: list[Row] = []
    drawn = services(SERVICES, 0, known)
    for i, profile in enumerate(known):
        qps = sum(s.qps for s in drawn if s.profile == i)
        if qps:
            rows += rows_of(profile, qps, store)
    report(rows, console)
    seconds = time.perf_counter() - started
    saved: dict[str, Any] = {
        "claim": CLAIM,
        "verdict": verdict(rows),
        "services": SERVICES,
        "max_replica_devices": MAX_REPLICA_DEVICES,
        "rows": [asdict(row) for row in rows],
    }
    path = options.out / "migration.json"
    path.write_text(json.dumps(saved, indent=1) + "\n")
    figure(rows, options.out / "migration.svg")
    console.print(f"{seconds:.0f} s; saved {path}")


if __name__ == "__main__":
    main()
