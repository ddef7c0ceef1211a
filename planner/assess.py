"""A chosen pool in full: latency, memory, what bounds it, and how its figures are known."""

from __future__ import annotations

import numpy as np

from perfmodel import phases
from perfmodel.breakdown import Breakdown, breakdown, mean_shares
from perfmodel.layout import Layouts, format_layout
from perfmodel.memory import TERMS, MemoryTerms
from perfmodel.work import StepWork
from planner import sizing
from planner.candidates import Candidates, Role
from planner.choice import Choice, Pool
from planner.encoder_pool import EncoderPool
from planner.energy import energy_plan
from planner.large_fleet import LargeFleet
from planner.plan import EncoderPlan, FleetPlan, HostPlan, PoolPlan, TransferPlan, TtftPlan
from planner.prefix import prefix_plan
from planner.problem import Offer, Problem
from planner.sweep import Space
from planner.tco import HOURS_PER_YEAR
from planner.transfer import link_utilization, moved, receiving_s, sending_s


def assess(space: Space, choice: Choice, qps: float) -> FleetPlan:
    """Everything a person asks of a fleet at a demand of `qps`."""
    problem = space.problem
    pools = tuple(_pool_plan(space, pool) for pool in choice.pools)
    outputs = problem.traffic.outputs
    ttft = _ttft(space, choice, qps)
    last = choice.pools[-1]
    ttit = float(last.candidates.ttit_s[last.index])
    ttit_at = pools[-1].ttit_slo_s
    price = choice.usd_per_hour
    encoder = choice.encoder
    capacity = min(pool.qps for pool in (*choice.pools, *([encoder] if encoder else ())))
    requests_per_hour = qps * 3600.0
    input_usd, output_usd = _split(choice, pools, price)
    tokens_in, tokens_out = problem.traffic.inputs.mean, outputs.mean
    return FleetPlan(
        kind=choice.kind,
        usd_per_hour=price,
        hosts=tuple(
            HostPlan(
                device=offer.device.name,
                hosts=count,
                devices_per_host=offer.host_devices,
                usd_per_device_hour=offer.usd_per_device_hour,
                price_source=offer.price_source,
                used_devices=_used(choice, offer),
                owned_usd_per_hour=offer.owned_usd_per_hour,
            )
            for offer, count in choice.hosts
        ),
        pools=pools,
        qps=qps,
        capacity_qps=capacity,
        ttft=ttft,
        transfer=_transfer(problem, choice, qps),
        prefix=prefix_plan(space, choice.pools[0], qps),
        ttit_mean_s=ttit,
        ttit_at_load_s=_ttit_at_load(space, last, qps),
        ttit_slo_s=ttit_at,
        e2e_mean_s=ttft.mean_s + outputs.mean * ttit,
        qps_per_usd_hour=qps / price,
        qps_per_device=qps / choice.devices,
        usd_per_million_input_tokens=input_usd / (requests_per_hour * tokens_in) * 1e6,
        usd_per_million_output_tokens=output_usd / (requests_per_hour * tokens_out) * 1e6,
        usd_per_thousand_requests=price / requests_per_hour * 1e3,
        usd_per_hour_per_qps_at_scale=_at_scale(problem, choice),
        usd_per_year=price * HOURS_PER_YEAR,
        energy=energy_plan(choice, pools, qps, problem.traffic),
        encoder=_encoder_plan(encoder, qps) if encoder else None,
    )


def _used(choice: Choice, offer: Offer) -> int:
    """Devices of one type in use."""
    name = offer.device.name
    used = sum(p.world * p.replicas for p in choice.pools if p.offer.device.name == name)
    if choice.encoder and choice.encoder.offer.device.name == name:
        used += choice.encoder.replicas
    return used


def _encoder_plan(pool: EncoderPool, qps: float) -> EncoderPlan:
    return EncoderPlan(
        device=pool.offer.device.name,
        replicas=pool.replicas,
        qps_per_replica=pool.qps_each,
        utilization=qps / pool.qps,
        service_s=pool.service_s,
        waiting_s=pool.waiting_s,
        transfer_s=pool.transfer_s,
        memory_bytes=pool.memory_bytes,
        memory_capacity_bytes=pool.offer.device.memory_bytes,
        time_by_kind={
            kind: seconds / pool.service_s
            for kind, seconds in sorted(pool.kinds.items(), key=lambda item: -item[1])
        },
    )


def _ttit_at_load(space: Space, pool: Pool, qps: float) -> float:
    """Mean time between tokens at a demand: sequences in flight by Little's law, s.

    The batch is the smallest of the grid that holds `qps * OSL * ttit(batch)` sequences. None takes
    longer than a larger one, which an engine pads it to: a table's disturbed row may say so.
    """
    one = pool.one
    layout = one.layouts[one.layout]
    batches = np.unique(space.axes(one.role).batch)
    batches = batches[batches <= one.batch[0]]
    step, traffic = space.step_model(one.offer, one.precision), space.problem.traffic
    drafts, acceptance = int(one.drafts[0]), one.axes.acceptance
    if one.role == "decode":
        found = phases.decode(step, layout, traffic, batches, drafts=drafts, acceptance=acceptance)
        ttit = found.ttit_s[0]
    else:
        chunk = np.full_like(batches, one.chunk[0])
        mixed = phases.continuous(
            step, layout, traffic, batches, chunk, drafts=drafts, acceptance=acceptance
        )
        ttit = mixed.ttit_s[0]
    ttit = np.minimum.accumulate(ttit[::-1])[::-1]
    slots = batches * (float(one.slots[0]) / float(one.batch[0])) * pool.replicas
    enough = slots >= qps * traffic.outputs.mean * ttit
    return float(ttit[int(enough.argmax())] if enough.any() else ttit[-1])


def _at_scale(problem: Problem, choice: Choice) -> float:
    """USD per hour of each request/s, every replica fully loaded and no device idle."""
    pools = tuple(pool.one for pool in choice.pools)
    link_s: tuple[float, ...] = (0.0,)
    if len(pools) == 2:
        link_s = (float(sending_s(problem, *pools)[0, 0]), float(receiving_s(problem, pools[1])[0]))
    encoder = choice.encoder
    beside = encoder.offer.usd_per_device_hour / encoder.qps_each if encoder else 0.0
    return LargeFleet(pools, link_s, delay_s=0.0).usd_per_hour_per_qps + beside


def _split(choice: Choice, pools: tuple[PoolPlan, ...], price: float) -> tuple[float, float]:
    """USD per hour spent on prompts and on outputs, by the devices' time in each phase."""
    weight = [pool.world * pool.replicas * pool.offer.usd_per_device_hour for pool in choice.pools]
    prompts = sum(w * plan.prefill_time_share for w, plan in zip(weight, pools, strict=True))
    encoder = choice.encoder
    images = encoder.replicas * encoder.offer.usd_per_device_hour if encoder else 0.0
    share = (prompts + images) / (sum(weight) + images)
    return price * share, price * (1.0 - share)


def _ttft(space: Space, choice: Choice, qps: float) -> TtftPlan:
    problem = space.problem
    first, last = choice.pools[0], choice.pools[-1]
    pool = first.one
    waiting = sizing.first_token_waiting(problem, pool, np.array([float(first.replicas)]), qps)
    admission = 0.0
    if first is not last:
        slots = sizing.slot_waiting(problem, last.one, np.array([float(last.replicas)]), qps)
        admission = float(slots.mean_s[0])
    handling = problem.handling_s(last.one.iteration_s, disaggregated=first is not last)
    # What the encoder pool adds is handled like the rest, and reported apart.
    handling_s = float(handling[0])
    extra = choice.transfer_s + admission + handling_s
    images_s = choice.encoder.delay_s if choice.encoder else 0.0
    target = problem.slo.ttft
    at_slo = None
    if target is not None and target.percentile is not None:
        at_slo = sizing.ttft_percentile_s(
            problem, pool, waiting, extra, target.percentile, choice.transfer_s
        )
    service = float(pool.service_s[0])
    wait = float(waiting.mean_s[0])
    return TtftPlan(
        mean_s=service + wait + extra,
        service_s=service,
        waiting_s=wait,
        admission_s=admission,
        handling_s=handling_s - images_s,
        transfer_s=choice.transfer_s,
        slo_s=at_slo,
        encoder_s=encoder_s(space, pool),
        encoder_pool_s=images_s,
    )


def _transfer(problem: Problem, choice: Choice, qps: float) -> TransferPlan | None:
    if len(choice.pools) == 1:
        return None
    first, last = choice.pools
    p, d = first.one, last.one
    found = moved(problem, p, d)
    return TransferPlan(
        overlap=problem.kv_overlap,
        cache_bytes=found.cache_bytes,
        sent_bytes_per_device=found.sent_bytes,
        received_bytes_per_device=found.received_bytes,
        sources=found.sources,
        alone_s=found.alone_s,
        added_s=found.added_s,
        sender_utilization=link_utilization(problem, p, found.sent_bytes, first.replicas, qps),
        receiver_utilization=link_utilization(problem, d, found.received_bytes, last.replicas, qps),
    )


def steps(space: Space, pool: Candidates) -> list[tuple[str, float, StepWork]]:
    """The kinds of step that one candidate runs: name, relative frequency, work."""
    traffic = space.problem.traffic
    batch, chunk = float(pool.batch[0]), float(pool.chunk[0])
    if pool.role == "prefill":
        return [
            (
                f"prefill of {tokens + cached:,.0f} tokens",
                weight,
                StepWork.of(
                    prefill_sequences=batch,
                    prefill_tokens=tokens,
                    prefix_tokens=cached,
                    **traffic.images_of(batch),
                ),
            )
            for tokens, cached, weight in zip(
                traffic.new_tokens, traffic.cached_tokens, traffic.inputs.weights, strict=True
            )
        ]
    drafts = float(pool.drafts[0])
    alone = StepWork.of(
        decode_sequences=batch, context_tokens=traffic.context_mean, decode_tokens=drafts + 1
    )
    if pool.role == "decode":
        return [("decode", 1.0, alone)]
    share = float(pool.prefill_share[0])
    return [
        ("decode with a prefill chunk", share, phases.mixed_work(traffic, batch, chunk, drafts)),
        ("decode alone", 1.0 - share, alone),
    ]


def encoder_s(space: Space, pool: Candidates) -> float:
    """Mean time of the vision encoder in the steps that compute one prompt, seconds."""
    if space.problem.traffic.vision is None or pool.role == "decode":
        return 0.0
    step, layout = space.step_model(pool.offer, pool.precision), pool.layouts[pool.layout]
    # Each step of a prefill pool encodes its whole prompts' images; one with a chunk, a part.
    _, _, work = steps(space, pool)[0]
    calls = step.encoder_calls(layout, work)
    seconds = sum(float(call.time.seconds[call.index[0], 0]) for call in calls)
    if pool.role == "prefill":
        return seconds
    chunks = pool.axes.chunks[pool.column] @ np.array(space.problem.traffic.inputs.weights)
    return seconds * float(chunks[0])


def breakdowns(space: Space, pool: Candidates) -> list[tuple[str, float, Breakdown]]:
    """The operators of each kind of step that one candidate runs."""
    step = space.step_model(pool.offer, pool.precision)
    layout = pool.layouts[pool.layout]
    return [
        (name, weight, breakdown(step, layout, work))
        for name, weight, work in steps(space, pool)
        if weight > 0
    ]


def _pool_plan(space: Space, pool: Pool) -> PoolPlan:
    one = pool.one
    parts = [(weight, part) for _, weight, part in breakdowns(space, one)]
    layout = one.layouts[one.layout]
    estimate = _estimate(space, one, layout)
    memory = _memory_terms(estimate.memory)
    prefill_share = {"prefill": 1.0, "decode": 0.0}.get(one.role)
    ttit_slo = None
    if not isinstance(estimate, phases.PrefillEstimate):
        ttit_slo = float(estimate.ttit_slo_s[0, 0])
    if isinstance(estimate, phases.ContinuousEstimate):
        mean = float(estimate.ttit_s[0, 0] * estimate.step_tokens[0])
        pure = float(estimate.pure_s[0, 0])
        prefill_share = max(1.0 - pure / mean, 0.0)
    assert prefill_share is not None
    drafter = space.problem.model.drafter
    return PoolPlan(
        role=one.role,
        device=one.offer.device.name,
        precision=one.precision.by_module(),
        layout=format_layout(layout, sequence=_splits_sequence(layout, parts)),
        batch=int(one.batch[0]),
        chunk_tokens=int(one.chunk[0]) or None,
        draft_tokens=int(one.drafts[0]),
        two_batch_overlap=any(part.hidden_s > 0 for _, part in parts),
        draft_model=drafter.model.name if drafter is not None and one.drafts[0] else None,
        acceptance=one.axes.acceptance if one.drafts[0] else None,
        tokens_per_step=float(one.step_tokens[0]) if one.role != "prefill" else None,
        replicas=pool.replicas,
        devices_per_replica=pool.world,
        qps_per_replica=float(one.qps[0]),
        sequences_in_flight=int(one.slots[0]) or None,
        service_s=float(one.service_s[0]),
        ttit_mean_s=float(one.ttit_s[0]) or None,
        ttit_slo_s=ttit_slo,
        prefill_time_share=prefill_share,
        memory_bytes=memory,
        memory_capacity_bytes=one.offer.device.memory_bytes,
        time_by_kind=mean_shares(parts, "kind"),
        time_by_bound=mean_shares(parts, "bound"),
        limits=_limits(space, one, layout),
    )


def _splits_sequence(layout: Layouts, parts: list[tuple[float, Breakdown]]) -> bool:
    """Whether steps split tokens between tensor-parallel modules, by their operators."""
    names = {op.name for _, part in parts for op in part.operators if op.total_s > 0}
    return bool(layout.aligned[0]) and "attention_reduce_scatter" in names


def _estimate(
    space: Space, one: Candidates, layout: Layouts
) -> phases.PrefillEstimate | phases.DecodeEstimate | phases.ContinuousEstimate:
    return _estimate_at(space, one, layout, int(one.batch[0]), int(one.chunk[0]))


def _estimate_at(
    space: Space, one: Candidates, layout: Layouts, batch: int, chunk: int
) -> phases.PrefillEstimate | phases.DecodeEstimate | phases.ContinuousEstimate:
    problem = space.problem
    step = space.step_model(one.offer, one.precision)
    b, c, drafts, acceptance = np.array([batch]), np.array([chunk]), one.drafts, one.axes.acceptance
    if one.role == "prefill":
        return phases.prefill(step, layout, problem.traffic, b)
    percentile = problem.slo.ttit.percentile if problem.slo.ttit else None
    if one.role == "decode":
        return phases.decode(
            step, layout, problem.traffic, b, percentile, drafts=drafts, acceptance=acceptance
        )
    return phases.continuous(
        step, layout, problem.traffic, b, c, percentile, drafts=drafts, acceptance=acceptance
    )


def _memory_terms(memory: MemoryTerms) -> dict[str, float]:
    return {term: float(np.asarray(getattr(memory, term)).ravel()[0]) for term in TERMS}


def _limits(space: Space, one: Candidates, layout: Layouts) -> tuple[str, ...]:
    """What stops the batch from growing: the constraints that the next larger one breaks."""
    batches = np.unique(space.axes(one.role).batch)
    larger = batches[batches > one.batch[0]]
    if len(larger) == 0:
        return ("largest batch of the space",)
    grown = _estimate_at(space, one, layout, int(larger[0]), int(one.chunk[0]))
    slo, traffic = space.problem.slo, space.problem.traffic
    broken = []
    capacity = one.offer.device.memory_bytes
    if sum(_memory_terms(grown.memory).values()) > capacity:
        broken.append("memory")
    if isinstance(grown, phases.PrefillEstimate):
        service = float((grown.latency_s @ np.array(traffic.inputs.weights))[0, 0])
        if slo.ttft is not None and service > slo.ttft.seconds:
            broken.append("TTFT target")
        same = float(grown.qps[0, 0]) <= float(one.qps[0]) * 1.01
        return tuple(broken) or (
            ("throughput no longer grows with the batch",) if same else ("TTFT under load",)
        )
    if slo.ttit is not None and float(grown.ttit_slo_s[0, 0]) > slo.ttit.seconds:
        broken.append("TTIT target")
    gained = float(larger[0]) * float(one.step_tokens[0])
    needed = gained * traffic.mean_new_tokens / traffic.outputs.mean
    if one.role == "continuous" and needed > one.chunk[0]:
        broken.append("prefill chunk")
    return tuple(broken) or ("demand: fewer replicas would not suffice",)


def role_of(text: str) -> Role:
    """A role by its name in a plan file."""
    roles: dict[str, Role] = {
        "prefill": "prefill",
        "decode": "decode",
        "continuous": "continuous",
    }
    return roles[text]
