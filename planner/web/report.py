"""A plan as one page of HTML: the decision, what supports it, and what else there was.

The page holds its figures and their library: it opens without a network, and asks for none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from perfmodel.database import PerfStore
from perfmodel.timeline import LayerTimeline, layer_timelines
from perfmodel.units import format_bytes, format_count, format_time
from planner.assess import steps
from planner.cautions import cautions
from planner.evaluated import Progress, evaluate
from planner.files import as_text, atomic_write
from planner.fronts import front
from planner.large_fleet import Against
from planner.plan import fleet_hosts_text
from planner.prices import format_usd
from planner.query import Query
from planner.query_workload import Target
from planner.reopen import reopen
from planner.report import engine_title, mean_tokens, means_lines
from planner.web import charts, tables
from planner.web.pages import Figure, Tabulated, render

if TYPE_CHECKING:
    import polars as pl

LOOSER = 4.0
"""By how much the fronts reach beyond the query's targets."""

MOST_POINTS = 400
"""Of a front, on the page."""


def fronts_of(
    query: Query,
    search_path: Sequence[Path] = (),
    store: PerfStore | None = None,
    progress: Progress | None = None,
) -> dict[Against, pl.DataFrame]:
    """Fronts against TTIT and TTFT to beyond the query's targets, the other targets met.

    Raises:
        InputError: the query names something unknown.
    """
    wide = evaluate(looser(query), search_path=search_path, store=store, progress=progress)
    slo: dict[Against, Target | None] = {
        "ttit": wide.query.slo.ttit,
        "ttft": wide.query.slo.ttft,
    }
    found: dict[Against, pl.DataFrame] = {}
    for against, target in slo.items():
        asked = query.slo.model_copy(update={against: target})
        narrow = wide.under(query.model_copy(update={"slo": asked}))
        found[against] = front(narrow, against, by="kind")
    return found


def looser(query: Query, factor: float = LOOSER) -> Query:
    """The query with its targets on TTFT and TTIT as many times longer."""

    def times(target: Target | None) -> Target | None:
        return target and target.model_copy(update={"seconds": target.seconds * factor})

    slo = query.slo.model_copy(
        update={"ttft": times(query.slo.ttft), "ttit": times(query.slo.ttit)}
    )
    return query.model_copy(update={"slo": slo})


def write_report(
    plan: dict[str, Any],
    fronts: Mapping[Against, pl.DataFrame],
    path: Path,
    search_path: Sequence[Path] = (),
    store: PerfStore | None = None,
    source: str = "the plan",
) -> None:
    """Write a plan's page, whole or not at all.

    Args:
        plan: as `Plan.to_dict` or `read_plan` give it.
        fronts: of `fronts_of`; none: the page has no such figures.
        source: where the plan comes from, for errors.

    Raises:
        InputError: the plan is not complete, or not feasible any more.
        ConfigError: the file cannot be written.
    """
    atomic_write(path, page(plan, fronts, source, search_path, store))


def page(
    plan: dict[str, Any],
    fronts: Mapping[Against, pl.DataFrame],
    source: str,
    search_path: Sequence[Path] = (),
    store: PerfStore | None = None,
) -> str:
    """The page's text; arguments as `write_report` has them."""
    plan = json.loads(json.dumps(plan))
    layers = _timelines(plan, source, search_path, store)
    groups = {
        "fronts": [_front(plan, rows, against) for against, rows in fronts.items()],
        "prices": [_prices(plan)],
        "timelines": [_timeline(title, layer) for title, layer in layers],
        "memory": [_memory(plan)],
        "knowledge": [_knowledge(plan)],
        "funnel": [_funnel(plan)],
    }
    query = yaml.safe_dump(
        plan["query"], sort_keys=False, allow_unicode=True, default_flow_style=None, width=90
    )
    files = {"query.yaml": query, "plan.json": as_text(plan, Path("plan.json"))}
    return render(
        "report.html.j2",
        plan=plan,
        best=plan["best"],
        decision=decision(plan),
        confidence=confidence(plan),
        cautions=cautions(plan),
        means=means_lines([plan["statistics"]]),
        groups=groups,
        figures=[figure for group in groups.values() for figure in group],
        query=query,
        files=files,
        tables=tables,
        number=tables.number,
        usd=format_usd,
        time=lambda seconds: format_time(seconds).replace(" ", "\u00a0"),
    )


def decision(plan: Mapping[str, Any]) -> str:
    """The answer in a sentence."""
    best, workload = plan["best"], plan["query"]["workload"]
    hosts = " and ".join(
        f"{format_count(h['hosts'], 'host')} of {h['devices_per_host']} {h['device']}"
        for h in best["hosts"]
    )

    inputs, outputs = (mean_tokens(workload[f"{part}_tokens"]) for part in ("input", "output"))
    return (
        f"{hosts}, {best['kind']}: {best['qps']:,.4g} requests/s of "
        f"{inputs:,.0f} input and {outputs:,.0f} output tokens with {plan['model']['name']}, "
        f"by the times of {engine_title(plan['query'])}."
    )


def confidence(plan: Mapping[str, Any]) -> str:
    """How sure the answer is, in a sentence."""
    best, proven = plan["best"], "Proven" if plan["search"]["proven"] else "Not proven"
    share = f"{tables.measured(best):.0%} of the time"
    if len(best["pools"]) > 1:
        share = f"at least {share} of each pool"
    return f"{proven} to be the cheapest under the model; {share} rests on measured operators."


def _timelines(
    plan: dict[str, Any], source: str, search_path: Sequence[Path], store: PerfStore | None
) -> list[tuple[str, LayerTimeline]]:
    """A layer of each kind of step that the best fleet's pools run, where it has most layers."""
    opened = reopen(plan, source, 0, search_path, store)
    found = []
    for pool in opened.choice.pools:
        one = pool.one
        step = opened.space.step_model(one.offer, one.precision)
        # One prefill step is enough: that of the middle length.
        kinds = steps(opened.space, one)
        if one.role == "prefill":
            kinds = [kinds[len(kinds) // 2]]
        for name, weight, work in kinds:
            if weight > 0:
                layers = layer_timelines(step, one.layouts[one.layout], work)
                most = max(layers, key=lambda layer: layer.count * layer.period_s)
                found.append((f"{name} on {one.offer.device.name}", most))
    return found


def _front(plan: Mapping[str, Any], rows: pl.DataFrame, against: Against) -> Figure:
    shown = rows.gather_every(len(rows) // MOST_POINTS + 1)
    target = None
    if against in plan["statistics"]:
        target = (plan["query"]["slo"][against]["seconds"], plan["statistics"][against])
    chart = charts.front_chart(shown, against, target, charts.place(plan, against))
    table = tuple(
        (
            row["kind"],
            row["devices"],
            format_time(row[f"{against}_s"]),
            f"{row['qps_per_usd_hour']:.3g}",
            row["prefill"],
            row["decode"],
        )
        for row in shown.iter_rows(named=True)
    )
    return Figure(
        name=f"front-{against}",
        spec=charts.on_page(chart),
        caption=(
            f"What a dollar serves at every {against.upper()} in a large fleet without waiting, "
            "the other targets met. The cross is this plan: whole hosts, and room for waiting, "
            "put it below its front."
        ),
        table=Tabulated(
            ("fleet", "devices", against.upper(), "req/s per USD/h", "prompts", "decode"),
            table,
        ),
    )


def _prices(plan: Mapping[str, Any]) -> Figure:
    fleets = [plan["best"], *plan["alternatives"]]
    return Figure(
        name="prices",
        spec=charts.on_page(charts.price_chart(fleets)),
        caption="USD per hour of this plan (0) and of the other fleets, by device type.",
        table=Tabulated(
            ("fleet", "USD per hour"),
            tuple(
                (f"{i}. {f['kind']}: {fleet_hosts_text(f)}", f"{f['usd_per_hour']:,.2f}")
                for i, f in enumerate(fleets)
            ),
        ),
    )


def _timeline(title: str, layer: LayerTimeline) -> Figure:
    name = "timeline-" + "".join(c if c.isalnum() else "-" for c in title)
    return Figure(
        name=name,
        spec=charts.on_page(charts.timeline_chart(layer)),
        caption=(
            f"{title[0].upper()}{title[1:]}: one of {layer.count} alike layers, "
            f"{format_time(layer.period_s)} each, on the streams of a device."
        ),
        table=Tabulated(
            ("operator", "stream", "start", "time", "bound by", "known by"),
            tuple(
                (
                    f"{span.name} {span.lane}".strip(),
                    span.stream,
                    format_time(span.start_s),
                    format_time(span.seconds),
                    span.bound,
                    span.kind,
                )
                for span in layer.spans
            ),
        ),
    )


def _memory(plan: Mapping[str, Any]) -> Figure:
    pools = plan["best"]["pools"]
    return Figure(
        name="memory",
        spec=charts.on_page(charts.memory_chart(pools)),
        caption="Memory of each pool's fullest device by term; the mark is what it has.",
        table=Tabulated(
            ("pool", "term", "size"),
            tuple(
                (pool["role"], term.replace("_", " "), format_bytes(size))
                for pool in pools
                for term, size in pool["memory_bytes"].items()
            ),
        ),
    )


def _knowledge(plan: Mapping[str, Any]) -> Figure:
    rows = [
        {"pool": f"{pool['role']} ({pool['device']})", "part": kind, "share": share}
        for pool in plan["best"]["pools"]
        for kind, share in pool["time_by_kind"].items()
    ]
    return Figure(
        name="knowledge",
        spec=charts.on_page(charts.share_chart(rows, charts.KNOWLEDGE)),
        caption="How the time of each pool's steps is known: read from measured tables, "
        "extrapolated beyond them, or by analytic models.",
        table=Tabulated(
            ("pool", "known by", "share"),
            tuple((r["pool"], r["part"], f"{r['share']:.1%}") for r in rows),
        ),
    )


def _funnel(plan: Mapping[str, Any]) -> Figure:
    funnels = plan["search"]["funnels"]
    return Figure(
        name="funnel",
        spec=charts.on_page(charts.funnel_chart(funnels)),
        caption="Configurations that each constraint left, all devices together.",
        table=Tabulated(
            ("role", "device", "precision", "left"),
            tuple(
                (
                    f["role"],
                    f["device"],
                    f["precision"],
                    "; ".join(f"{name} {count:,}" for name, count in f["stages"]),
                )
                for f in funnels
            ),
        ),
    )
