"""A plan on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from perfmodel.engine import engine_profile
from perfmodel.units import format_bytes, format_count, format_time
from planner.cautions import cautions
from planner.plan import EncoderPlan, FleetPlan, HostPlan, Plan, PoolPlan, PrefixPlan
from planner.prices import format_usd
from planner.query import Query
from planner.tco_report import energy_lines, terms_line


def print_plan(plan: Plan, console: Console) -> None:
    """The decision first, then what supports it, then what else there was."""
    best = plan.best
    console.print(headline(plan))
    for title, body in (
        ("Pools", _pools(best)),
        ("Latency", _latency(plan)),
        ("Money", _money(best)),
        ("Energy", Text("\n".join(energy_lines(best, plan.assumptions)))),
        ("Memory of the fullest device", _memory(best.pools)),
        ("What the time is spent on, and how it is known", _time(best.pools)),
        ("Other fleets", _alternatives(plan)),
        ("Search", _search(plan)),
    ):
        console.print(Text(f"\n{title}", style="bold"))
        console.print(Padding(body, (0, 0, 0, 2)))
    if plan.notes:
        console.print(Text("\nNotes", style="bold"))
        for note in plan.notes:
            console.print(Padding(Text(f"- {note}"), (0, 0, 0, 2)))


def headline(plan: Plan) -> Group:
    """The question and the answer, a sentence each."""
    model, workload, best = plan.model, plan.query["workload"], plan.best
    hosts = " + ".join(
        f"{format_count(h.hosts, 'host')} of {h.devices_per_host} x {h.device}" for h in best.hosts
    )
    targets = ", ".join(
        f"{name.upper()} {plan.query['slo'][name]['seconds'] * 1e3:g} ms ({statistic})"
        for name, statistic in plan.statistics.items()
    )
    question = (
        f"{model['name']}: {model['parameters'] / 1e9:.1f} B parameters, {best.qps:,.4g} "
        f"requests/s of {mean_tokens(workload['input_tokens']):,.0f} input{_images(workload)} and "
        f"{mean_tokens(workload['output_tokens']):,.0f} output tokens; "
        f"{targets or 'no latency targets'}"
    )
    answer = Text(f"${best.usd_per_hour:,.2f} per hour: {hosts}, {best.kind}", style="bold green")
    known = Text(
        f"times of {engine_title(plan.query)}, known by: "
        + "; ".join(f"{pool.role} {_shares(pool.time_by_kind)}" for pool in best.pools),
        style="dim" if best.measured_share >= 0.5 else "bold yellow",
    )
    doubts = [Text(line, style="yellow") for line in cautions(plan.to_dict())]
    return Group(Text(question), answer, known, *doubts)


def engine_title(query: Mapping[str, Any]) -> str:
    """The engine whose operator tables a plan's query uses, as it is written."""
    return engine_profile(query.get("engine", Query.model_fields["engine"].default)).title


def _images(workload: Mapping[str, Any]) -> str:
    """The images of a request, if any."""
    images = workload.get("images")
    if not images:
        return ""
    one = format_count(images["per_request"], "image")
    if images.get("tokens"):
        return f" (and {one} of {images['tokens']:,} tokens)"
    return f" (and {one} of {images['width']:,} x {images['height']:,} pixels)"


def mean_tokens(lengths: Mapping[str, list[float]]) -> float:
    """Of lengths as a plan's query has them."""
    return sum(t * w for t, w in zip(lengths["tokens"], lengths["weights"], strict=True))


def _table(*columns: str, right: Iterable[int] = ()) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i in set(right) else "left", overflow="fold")
    return table


def _pools(fleet: FleetPlan) -> RenderableType:
    table = _table("role", "replicas", "layout", "batch", "QPS each", "precision", right=(3, 4))
    for pool in fleet.pools:
        batch = str(pool.batch)
        if pool.chunk_tokens:
            batch += f" + {pool.chunk_tokens} chunk"
        table.add_row(
            pool.role,
            f"{pool.replicas} x {pool.devices_per_replica} {pool.device}",
            pool.layout,
            batch,
            f"{pool.qps_per_replica:.3g}",
            _precision(pool.precision),
        )
    if fleet.encoder:
        encoder = fleet.encoder
        devices = f"{encoder.replicas} x 1 {encoder.device}"
        row = ("encoder", devices, "-", "1", f"{encoder.qps_per_replica:.3g}", "bf16")
        table.add_row(*row)
    lines: list[RenderableType] = [table]
    for pool in fleet.pools:
        slots = pool.sequences_in_flight
        flight = f"{format_count(slots, 'sequence')} in flight per replica; " if slots else ""
        halves = "two half batches at once; " if pool.two_batch_overlap else ""
        held = f"batch held back by: {', '.join(pool.limits)}"
        lines.append(Text(f"{pool.role}: {flight}{_drafting(pool)}{halves}{held}", style="dim"))
    if fleet.encoder:
        lines.append(Text(encoder_line(fleet.encoder), style="dim"))
    return Group(*lines)


def encoder_line(encoder: EncoderPlan) -> str:
    """What an encoder pool does, and how full it is."""
    return (
        f"encoder: a request's images in {format_time(encoder.service_s)} + waiting "
        f"{format_time(encoder.waiting_s)} + transfer of embeddings "
        f"{format_time(encoder.transfer_s)}; utilization {encoder.utilization:.0%}; "
        f"{format_bytes(encoder.memory_bytes)} of {format_bytes(encoder.memory_capacity_bytes)}; "
        f"known by: {_shares(encoder.time_by_kind)}"
    )


def _drafting(pool: PoolPlan) -> str:
    if not pool.draft_tokens:
        return ""
    by = f" by {pool.draft_model}" if pool.draft_model else ""
    return (
        f"{pool.draft_tokens} tokens drafted per step{by}, {pool.acceptance:.0%} accepted: "
        f"{pool.tokens_per_step:.3g} tokens per step; "
    )


def _precision(formats: Mapping[str, str]) -> str:
    head = formats.get("lm_head", "bf16")
    weights = {formats["attention"], formats["ffn"], formats["experts"]}
    if len(weights) == 1:
        text = f"{weights.pop()}, kv {formats['kv']}"
    else:
        text = ", ".join(f"{m} {name}" for m, name in formats.items() if m != "lm_head")
    return text if head == "bf16" else f"{text}, LM head {head}"


def ttft_lines(fleet: FleetPlan, statistic: str) -> list[str]:
    """The time to first token as the sum of its parts, and at the target's percentile."""
    ttft = fleet.ttft
    parts = f"service {format_time(ttft.service_s)}"
    if ttft.encoder_s:
        parts += f" (vision encoder {format_time(ttft.encoder_s)} of it)"
    parts += f" + waiting {format_time(ttft.waiting_s)}"
    if ttft.encoder_pool_s:
        parts += f" + encoder pool {format_time(ttft.encoder_pool_s)}"
    parts += f" + request handling {format_time(ttft.handling_s)}"
    if len(fleet.pools) > 1:
        parts += (
            f" + decode admission {format_time(ttft.admission_s)}"
            f" + KV transfer {format_time(ttft.transfer_s)}"
        )
    lines = [f"TTFT {format_time(ttft.mean_s)} mean = {parts}"]
    if ttft.slo_s is not None:
        lines.append(f"TTFT {format_time(ttft.slo_s)} at {statistic}")
    return lines


def _latency(plan: Plan) -> RenderableType:
    best = plan.best
    lines = ttft_lines(best, plan.statistics.get("ttft", "mean"))
    statistic = plan.statistics.get("ttit", "mean")
    text = f"TTIT {format_time(best.ttit_mean_s)} mean"
    if statistic != "mean" and best.ttit_slo_s is not None:
        text += f", {format_time(best.ttit_slo_s)} at {statistic}"
    lines.append(text + f" with every slot taken, {format_time(best.ttit_at_load_s)} at this load")
    lines.append(f"end to end {format_time(best.e2e_mean_s)} mean")
    if best.prefix is not None:
        lines.append(_prefix(best.prefix))
    if best.transfer is not None:
        moved = best.transfer
        lines.append(
            f"KV transfer {format_bytes(moved.cache_bytes)} per request, overlap {moved.overlap}: "
            f"takes {moved.sender_utilization:.1%} of the busiest prefill device's network link, "
            f"{moved.receiver_utilization:.1%} of the busiest decode device's"
        )
    return Text("\n".join(lines))


TIER_NAMES = {
    "device": "prefixes on devices",
    "host": "prefixes on hosts",
    "none": "prefixes computed anew",
}


def _prefix(prefix: PrefixPlan) -> str:
    text = f"cached prefixes, {prefix.cached_tokens:,.0f} tokens of a prompt: "
    if prefix.tier == "none":
        return text + f"computed anew, {format_time(prefix.compute_s)}"
    spared = f"; computing them takes {format_time(prefix.compute_s)}"
    held = prefix.host_bytes or prefix.device_bytes
    kept = f", {format_bytes(held)} for each device" if held else ", whose size is not counted"
    if prefix.tier == "device":
        return f"{text}in device memory{kept}{spared}"
    return (
        f"{text}in host memory{kept}, loaded in {format_time(prefix.load_s)}, of which a first "
        f"token waits for {format_time(prefix.added_s)}{spared}; host links are "
        f"{prefix.link_utilization:.1%} taken"
    )


def _money(best: FleetPlan) -> RenderableType:
    lines = [line for host in best.hosts for line in _price(host)]
    lines += [
        f"${best.usd_per_year:,.0f} per year",
        f"${format_usd(best.usd_per_million_input_tokens)} per million input tokens, "
        f"${format_usd(best.usd_per_million_output_tokens)} per million output tokens, "
        f"${format_usd(best.usd_per_thousand_requests)} per thousand requests",
        f"at scale, fully loaded: ${format_usd(best.usd_per_hour_per_qps_at_scale)} per hour "
        "per QPS",
        f"{best.qps_per_usd_hour:.4g} QPS per USD/hour, {best.qps_per_device:.3g} QPS per device; "
        f"{best.qps / best.capacity_qps:.0%} of the capacity of {best.capacity_qps:.4g} QPS",
    ]
    return Text("\n".join(lines))


def _price(host: HostPlan) -> list[str]:
    price = (
        f"${host.usd_per_device_hour:,.2f} per {host.device}-hour ({host.price_source}), "
        f"{host.used_devices} of {host.devices} devices used"
    )
    return [price] if host.owned_usd_per_hour is None else [price, f"= {terms_line(host)}"]


def _memory(pools: Iterable[PoolPlan]) -> RenderableType:
    pools = list(pools)
    table = _table("", *(p.role for p in pools), right=range(1, len(pools) + 1))
    for term in pools[0].memory_bytes:
        table.add_row(term.replace("_", " "), *(format_bytes(p.memory_bytes[term]) for p in pools))
    table.add_row(
        "of",
        *(
            f"{format_bytes(p.memory_capacity_bytes)} "
            f"({sum(p.memory_bytes.values()) / p.memory_capacity_bytes:.0%})"
            for p in pools
        ),
    )
    return table


def _time(pools: Iterable[PoolPlan]) -> RenderableType:
    table = _table("role", "bound by", "known by")
    for pool in pools:
        table.add_row(pool.role, _shares(pool.time_by_bound), _shares(pool.time_by_kind))
    return table


def _shares(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share >= 0.005)


def means_lines(statistics: Iterable[Mapping[str, str]]) -> list[str]:
    """What to say below fleets' mean latencies, where targets are of another statistic.

    Args:
        statistics: of each plan's targets, by target.
    """
    asked = sorted({s for of_plan in statistics for s in of_plan.values()} - {"mean"})
    if not asked:
        return []
    return [f"TTFT and TTIT: means; targets of {' and '.join(asked)} are met as such"]


def _alternatives(plan: Plan) -> RenderableType:
    if not plan.alternatives:
        return Text("none is feasible")
    table = _table(
        "fleet",
        "QPS",
        "USD/h",
        "",
        "TTFT",
        "TTIT",
        "measured",
        "held back by",
        right=(1, 2, 3, 4, 5, 6),
    )
    table.columns[0].min_width = len("1 x 8 b200_sxm")
    best_per_usd = plan.best.qps_per_usd_hour
    fleets = (plan.best, *plan.alternatives)
    several = len({fleet.prefix.tier for fleet in fleets if fleet.prefix is not None}) > 1
    for fleet in plan.alternatives:
        prefix = f", {TIER_NAMES[fleet.prefix.tier]}" if several and fleet.prefix else ""
        # Of equal demands the price; where they differ, the price of what is served.
        more = best_per_usd / fleet.qps_per_usd_hour - 1
        table.add_row(
            f"{fleet.kind}{', encoder apart' if fleet.encoder else ''}\n"
            + fleet.hosts_text
            + prefix,
            f"{fleet.qps:,.4g}",
            f"{fleet.usd_per_hour:,.2f}",
            f"{more:+.0%}" if abs(more) > 5e-3 else "same",
            format_time(fleet.ttft.mean_s),
            format_time(fleet.ttit_mean_s),
            f"{fleet.measured_share:.0%}",
            "; ".join(dict.fromkeys(limit for p in fleet.pools for limit in p.limits)),
        )
    return Group(table, *(Text(line, style="dim") for line in means_lines([plan.statistics])))


def _search(plan: Plan) -> RenderableType:
    search = plan.search
    lines: list[RenderableType] = [
        Text(
            f"{search.method}: {search.evaluated:,} configurations estimated, "
            f"{search.feasible:,} feasible, standing for {search.pairs:,} pairs of pools, "
            f"in {search.seconds:.1f} s"
        ),
        Text(search.statement),
    ]
    used = {(pool.role, pool.device) for pool in plan.best.pools}
    shown = [f for f in search.funnels if (f.role, f.device) in used]
    if shown:
        names = list(dict.fromkeys(name for f in shown for name, _ in f.stages))
        columns = [f"{f.role}, {f.device}" for f in shown]
        table = _table("left after", *columns, right=range(1, len(columns) + 1))
        for name in names:
            table.add_row(name, *(f"{dict(f.stages).get(name, 0):,}" for f in shown))
        lines.append(table)
    return Group(*lines)
