"""A plan's figures derived again, from the query down to single operators.

Nothing is read from the plan but its query and its decisions (devices, layouts, batches,
replicas); every figure printed is computed anew and held against the plan's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from perfmodel.breakdown import Breakdown
from perfmodel.database import PerfStore
from perfmodel.expert_load import MANY, nearest_table, rank_load
from perfmodel.kv_transfer import link_rate
from perfmodel.layout import parse_layout
from perfmodel.memory import TERMS
from perfmodel.prefix_cache import host_rate
from perfmodel.units import format_bytes, format_count, format_time
from planner.assess import assess, breakdowns
from planner.plan import FleetPlan
from planner.problem import image_load
from planner.reopen import reopen
from planner.report import encoder_line, ttft_lines
from planner.sweep import Space
from planner.tco_report import energy_derivation, price_lines
from planner.transfer import moved_tokens

TOLERANCE = 1e-6


def explain_plan(
    data: dict[str, Any],
    source: str,
    which: int,
    console: Console,
    search_path: Sequence[Path] = (),
    store: PerfStore | None = None,
) -> None:
    """Print the derivation of one of a plan's fleets (0: the best).

    Raises:
        InputError: the plan lacks a field, or what it decides is not feasible any more.
    """
    opened = reopen(data, source, which, search_path, store)
    fleet, space, choice = opened.fleet, opened.space, opened.choice
    pools, qps = choice.pools, opened.qps
    again = assess(space, choice, qps)
    for pool, plan in zip(pools, again.pools, strict=True):
        console.print(Text(f"\n{plan.role}: {plan.layout} on {plan.device}", style="bold"))
        for name, weight, part in breakdowns(space, pool.one):
            title = f"{name}: {format_time(part.total_s)} in the slowest pipeline stage"
            if weight < 1:
                title += f", {weight:.1%} of steps"
            console.print(Padding(Text(title), (0, 0, 0, 2)))
            console.print(Padding(_operators(part), (0, 0, 1, 0)))
        console.print(Padding(_memory(plan.memory_bytes, plan.memory_capacity_bytes), (0, 0, 0, 2)))
    console.print(Text("\nFrom steps to the fleet", style="bold"))
    for line in _arithmetic(space, again):
        console.print(Padding(Text(line), (0, 0, 0, 2)))
    console.print(Text("\nAgainst the plan", style="bold"))
    console.print(Padding(_comparison(fleet, again), (0, 0, 0, 2)))


def _operators(part: Breakdown) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    for i, name in enumerate(
        ("operator", "calls", "each", "roofline", "total", "share", "bound by", "known by")
    ):
        table.add_column(name, justify="right" if 1 <= i <= 5 else "left", overflow="fold")
    for op in part.operators:
        table.add_row(
            op.name,
            str(op.calls),
            format_time(op.seconds),
            format_time(op.floor_s),
            format_time(op.total_s),
            f"{op.total_s / part.total_s:.1%}",
            op.bound,
            op.kind,
        )
    table.add_row(
        "engine overhead",
        "1",
        format_time(part.overhead_s),
        "",
        format_time(part.overhead_s),
        f"{part.overhead_s / part.total_s:.1%}",
        "latency",
        "assumed",
    )
    if part.hidden_s:
        table.add_row(
            "hidden by two-batch overlap",
            "",
            "",
            "",
            format_time(-part.hidden_s),
            f"{-part.hidden_s / part.total_s:.1%}",
        )
    return table


def _memory(terms: dict[str, float], capacity: float) -> Text:
    parts = " + ".join(f"{term.replace('_', ' ')} {format_bytes(terms[term])}" for term in TERMS)
    total = sum(terms.values())
    return Text(f"memory {format_bytes(total)} of {format_bytes(capacity)} = {parts}")


def _arithmetic(space: Space, fleet: FleetPlan) -> list[str]:
    traffic = space.problem.traffic
    lines = []
    for pool in fleet.pools:
        if pool.draft_tokens:
            gain = " + ".join(["1", "a", *(f"a^{i}" for i in range(2, pool.draft_tokens + 1))])
            lines.append(
                f"{pool.role}: {pool.draft_tokens} tokens drafted, a = {pool.acceptance:g} of them "
                f"accepted: {gain} = {pool.tokens_per_step:.4g} tokens per step of "
                f"{format_time((pool.ttit_mean_s or 0) * (pool.tokens_per_step or 1))}"
            )
        if pool.role != "prefill":
            lines.append(
                f"{pool.role} QPS {pool.qps_per_replica:.4g} = {pool.sequences_in_flight} in "
                f"flight / ({traffic.outputs.mean:g} tokens x "
                f"{format_time(pool.ttit_mean_s or 0)})"
            )
        lines.append(
            f"{pool.role} pool: {format_count(pool.replicas, 'replica')} x "
            f"{pool.qps_per_replica:.4g} QPS = "
            f"{pool.replicas * pool.qps_per_replica:.4g} QPS for {fleet.qps:.4g} demanded "
            f"(utilization {fleet.qps / (pool.replicas * pool.qps_per_replica):.0%})"
        )
    lines += _prefix(space, fleet) + _transfer(space, fleet)
    lines += _experts(space, fleet)
    lines += _images(space, fleet)
    lines.append(_handling(space, fleet))
    target = space.problem.slo.ttft
    lines += ttft_lines(fleet, target.statistic if target else "mean")
    used = {host.device for host in fleet.hosts}
    for offer in space.problem.offers:
        lines += price_lines(offer) if offer.device.name in used else []
    for host in fleet.hosts:
        lines.append(
            f"{format_count(host.hosts, 'host')} x {host.devices_per_host} {host.device} x "
            f"${host.usd_per_device_hour:g} = "
            f"${host.devices * host.usd_per_device_hour:,.2f} per hour"
        )
    tokens = (traffic.inputs.mean, traffic.outputs.mean)
    lines += energy_derivation(fleet.energy, space.problem.offers, fleet.qps, tokens)
    return lines


def _handling(space: Space, fleet: FleetPlan) -> str:
    """What the engine's fitted constants add to a first token."""
    constants, last = space.problem.engine.correction, fleet.pools[-1]
    iteration = (last.ttit_mean_s or 0.0) * (last.tokens_per_step or 1.0)
    parts = [f"{format_time(constants.request_overhead_s)} per request"]
    if len(fleet.pools) > 1:
        parts.append(f"{format_time(constants.handover_s)} to hand it over")
    if space.problem.encoder_delay_s:
        parts.append(f"{format_time(space.problem.encoder_delay_s)} of the encoder pool")
    parts.append(
        f"{constants.first_token_steps:.3g} {last.role} iterations of {format_time(iteration)}, by "
        "which the engine sends a first token late"
    )
    return f"request handling {format_time(fleet.ttft.handling_s)} = {' + '.join(parts)}"


def _prefix(space: Space, fleet: FleetPlan) -> list[str]:
    """What cached prefixes cost where they lie, and what computing them would."""
    prefix = fleet.prefix
    if prefix is None:
        return []
    found = f"{prefix.hit:.0%} of prompt tokens are cached, {prefix.cached_tokens:,.0f} of a prompt"
    anew = f"computing them takes {format_time(prefix.compute_s)}"
    if prefix.tier == "none":
        return [f"{found} could be, but are computed anew: {format_time(prefix.compute_s)}"]
    if prefix.tier == "device":
        return [f"{found}, in device memory; {anew}"]
    pool = fleet.pools[0]
    device = next(o.device for o in space.problem.offers if o.device.name == pool.device)
    return [
        f"{found}, in host memory: the busiest {pool.role} device loads "
        f"{format_bytes(prefix.loaded_bytes)} at {host_rate(device) / 1e9:.3g} GB/s: "
        f"{format_time(prefix.load_s)}, layer by layer as they are computed: adds "
        f"{format_time(prefix.added_s)} to the first token; {anew}; its host link is "
        f"{prefix.link_utilization:.1%} taken"
    ]


def _transfer(space: Space, fleet: FleetPlan) -> list[str]:
    """How the KV transfer's time comes about; nothing for a single pool."""
    moved = fleet.transfer
    if moved is None:
        return []
    problem = space.problem
    model = problem.model
    kept = (
        f" and {model.state_bytes / 1e6:,.0f} MB of recurrent states" if model.state_bytes else ""
    )
    devices = {offer.device.name: offer.device for offer in problem.offers}
    sides = zip(
        fleet.pools,
        ("sends", "receives"),
        (moved.sent_bytes_per_device, moved.received_bytes_per_device),
        (moved.sender_utilization, moved.receiver_utilization),
        strict=True,
    )
    lines = [
        f"KV cache {format_bytes(moved.cache_bytes)} per request: "
        f"{model.kv_bytes_per_token(1.0):,.0f} cache elements per token, "
        f"{moved_tokens(problem):,.0f} tokens{kept}"
    ]
    for pool, verb, each, load in sides:
        rate = link_rate(devices[pool.device].network)
        lines.append(
            f"the busiest {pool.role} device {verb} {format_bytes(each)} of it at "
            f"{rate / 1e9:.3g} GB/s: {format_time(each / rate)}; its link is {load:.1%} taken"
        )
    batch = fleet.pools[0].batch
    together = f", the {batch} prompts of a step sharing the links" if batch > 1 else ""
    how = (
        "each layer sent while later ones are computed"
        if moved.overlap == "layerwise"
        else "sent when the prompt is computed"
    )
    lines.append(
        f"KV transfer {format_time(moved.alone_s)} alone, from {moved.sources} prefill "
        f"{'device' if moved.sources == 1 else 'devices'} to each decode device{together}; {how}: "
        f"adds {format_time(moved.added_s)} to the first token"
    )
    return lines


def _experts(space: Space, fleet: FleetPlan) -> list[str]:
    """What a stated load of experts makes of the busiest device of each pool."""
    load = space.problem.routing
    if isinstance(load, str):
        return []
    lines = [f"experts under a stated load: {load}"]
    networks = {g.feed_forward for g in space.problem.model.groups if g.feed_forward.is_moe}
    for network in networks:
        table = nearest_table(load, network.experts, network.top_k)
        for pool in fleet.pools:
            devices = int(parse_layout(pool.layout).ep_f[0])
            own, measured = (
                rank_load(which, network.experts, network.top_k, devices).pairs[MANY]
                for which in (load, table)
            )
            lines.append(
                f"{pool.role}: the busiest of {format_count(devices, 'device')} with experts has "
                f"{own:.3g} times the mean's tokens; times are those of the table {table} (as far "
                f"as measured), whose busiest has {measured:.3g}, scaled"
            )
    return lines


def _images(space: Space, fleet: FleetPlan) -> list[str]:
    """What the images of a request come to, and where their time goes."""
    problem, images = space.problem, space.problem.query.workload.images
    load = image_load(problem.query, problem.model)
    if images is None or load is None:
        return []
    of_size = "" if images.width is None else f" of {images.width:,} x {images.height:,} pixels"
    added = images.per_request * load.tokens
    spent = fleet.ttft.encoder_s or (fleet.encoder.service_s if fleet.encoder else 0.0)
    pool = [encoder_line(fleet.encoder)] if fleet.encoder else []
    return [
        f"{format_count(images.per_request, 'image')}{of_size} per request: each "
        f"{format_count(load.sequences, 'sequence')} of {load.patches:,} patches, {load.tokens:,} "
        f"tokens; prompts grow by {added:,.0f} tokens to {problem.traffic.inputs.mean:,.0f} "
        f"(mean), and the vision encoder takes {format_time(spent)}",
        *pool,
    ]


def _comparison(plan: dict[str, Any], again: FleetPlan) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for i, name in enumerate(("figure", "plan", "derived", "")):
        table.add_column(name, justify="right" if i in (1, 2) else "left")
    rows = [
        ("usd_per_hour", plan["usd_per_hour"], again.usd_per_hour),
        ("ttft.mean_s", plan["ttft"]["mean_s"], again.ttft.mean_s),
        ("ttft.transfer_s", plan["ttft"]["transfer_s"], again.ttft.transfer_s),
        ("ttit_mean_s", plan["ttit_mean_s"], again.ttit_mean_s),
        ("e2e_mean_s", plan["e2e_mean_s"], again.e2e_mean_s),
        ("capacity_qps", plan["capacity_qps"], again.capacity_qps),
        (
            "usd_per_million_output_tokens",
            plan["usd_per_million_output_tokens"],
            again.usd_per_million_output_tokens,
        ),
    ]
    if energy := plan.get("energy"):
        rows.append(
            ("energy.wh_per_request", energy["wh_per_request"], again.energy.wh_per_request)
        )
    for name, stated, derived in rows:
        same = abs(stated - derived) <= TOLERANCE * max(abs(stated), abs(derived))
        mark = "same" if same else "DIFFERS"
        table.add_row(name, f"{stated:.6g}", f"{derived:.6g}", mark)
    return table
