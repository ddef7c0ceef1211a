"""Cached prompt prefixes in a chosen fleet: what they take, and what they spare."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from perfmodel import phases
from perfmodel.memory import cache_bytes_on_device
from perfmodel.prefix_cache import host_rate
from perfmodel.work import StepWork
from planner.choice import Pool
from planner.plan import PrefixPlan
from planner.sweep import Space

FloatArray = NDArray[np.float64]


def prefix_plan(space: Space, pool: Pool, qps: float) -> PrefixPlan | None:
    """The prefix cache of the pool that takes prompts; None where nothing is cached.

    Where prefixes are computed anew, the traffic knows of none: they are the query's.
    """
    problem, one = space.problem, pool.one
    hit = problem.query.workload.prefix_cache_hit
    if not hit:
        return None
    step, layout = space.step_model(one.offer, one.precision), one.layouts[one.layout]
    traffic = problem.traffic
    found = replace(traffic, prefix_hit=hit)
    weights = np.array(found.inputs.weights)

    def latency_s(new: object, cached: object) -> float:
        work = StepWork.of(prefill_sequences=1, prefill_tokens=new, prefix_tokens=cached)
        return float(step.time(layout, work).latency_s[0] @ weights)

    def held_bytes(tokens: object) -> FloatArray:
        where = np.atleast_1d(np.asarray(tokens, dtype=float))
        held: FloatArray = cache_bytes_on_device(step.model, one.precision, layout, where)[0]
        return held

    load_s = added_s = loaded = busy = host = 0.0
    if traffic.loads_prefix:
        loaded = float(held_bytes(found.cached_tokens) @ weights)
        load_s = loaded / host_rate(one.offer.device)
        added_s = _added_s(space, pool)
        busy = qps * load_s / (int(layout.dp_a[0]) * pool.replicas)
        host = float(held_bytes(traffic.prefix_tokens)[0])
    whole = np.array(found.inputs.tokens)
    return PrefixPlan(
        tier=traffic.prefix_tier,
        hit=hit,
        cached_tokens=float(found.cached_tokens @ weights),
        device_bytes=float(held_bytes(traffic.resident_tokens)[0]),
        host_bytes=host,
        loaded_bytes=loaded,
        load_s=load_s,
        added_s=added_s,
        compute_s=latency_s(whole, 0.0) - latency_s(found.new_tokens, found.cached_tokens),
        link_utilization=busy,
    )


def _added_s(space: Space, pool: Pool) -> float:
    """Mean wait of a first token for its prefix."""
    one, traffic = pool.one, space.problem.traffic
    weights = np.array(traffic.inputs.weights)
    if one.role == "continuous":
        return float(one.estimates.step_s[0, 1:] @ weights)
    step, layout = space.step_model(one.offer, one.precision), one.layouts[one.layout]
    at_hand = phases.prefill(step, layout, replace(traffic, prefix_tier="device"), one.batch)
    return float(one.service_s[0] - at_hand.latency_s[0, 0] @ weights)
