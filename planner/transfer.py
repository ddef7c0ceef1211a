"""KV transfer between the pools of a disaggregated fleet: its time, and the links it fills."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perfmodel import kv_transfer
from perfmodel.layout import Layouts
from planner.candidates import Candidates
from planner.problem import Problem

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def transfer_s(problem: Problem, p: Candidates, d: Candidates) -> FloatArray:
    """What moving one request's KV cache between pools adds to its first token, (P, D), seconds.

    A prefix cached on the devices is on both sides already. Caches of one prefill step share
    its links.
    """
    kinds, row, column = _kinds(problem, p, d)
    sent = kv_transfer.Traffic(
        kinds.sent_bytes[np.ix_(row, column)],
        kinds.received_bytes[:, column],
        kinds.sources[np.ix_(row, column)],
    )
    hidden = p.service_s if problem.kv_overlap == "layerwise" else 0.0
    return kv_transfer.transfer_s(
        sent,
        problem.model.layers,
        (p.layouts[p.layout], p.offer.device.network),
        (d.layouts[d.layout], d.offer.device.network),
        p.batch.astype(float),
        hidden,
    )


def sending_s(problem: Problem, p: Candidates, d: Candidates) -> FloatArray:
    """Time that a request's cache takes on the links of one prefill replica, (P, D), seconds.

    Its inverse is how many caches per second they send.
    """
    kinds, row, column = _kinds(problem, p, d)
    return _link_s(p, kinds.sent_bytes[np.ix_(row, column)].T).T


def receiving_s(problem: Problem, d: Candidates) -> FloatArray:
    """Time that a request's cache takes on the links of one decode replica, (D,), seconds."""
    kinds, _, column = _kinds(problem, d, d)
    return _link_s(d, kinds.received_bytes[0, column])


def sender_replicas(problem: Problem, p: Candidates, d: Candidates, qps: float) -> IntArray:
    """Fewest prefill replicas whose network links send the caches of all requests, (P, D)."""
    return _replicas(problem, sending_s(problem, p, d), qps)


def receiver_replicas(problem: Problem, d: Candidates, qps: float) -> IntArray:
    """Fewest decode replicas whose network links receive the caches of all requests, (D,)."""
    return _replicas(problem, receiving_s(problem, d), qps)


def least_sender_replicas(problem: Problem, p: Candidates, qps: float) -> IntArray:
    """No decode pool lets fewer prefill replicas do (see `sender_replicas`), (P,)."""
    return _replicas(problem, least_sending_s(problem, p), qps)


def least_sending_s(problem: Problem, p: Candidates) -> FloatArray:
    """No decode pool lets a cache take less of a prefill replica's links (`sending_s`), (P,)."""
    parts = _parts(problem, p)
    layouts = p.layouts[p.layout]
    # Each part leaves once at least, evenly over all devices of the rank.
    share = kv_transfer.stage_share(problem.model.layers, layouts.pp.astype(float))
    sent = sum(parts.values()) * share / (layouts.cp_a * layouts.tp_a)
    return _link_s(p, sent)


def link_utilization(
    problem: Problem, pool: Candidates, moved_bytes: float, replicas: int, qps: float
) -> float:
    """Share of the busiest device's network bandwidth that one candidate's transfers take."""
    return qps * float(_link_s(pool, np.array([moved_bytes]))[0]) / replicas


@dataclass(frozen=True)
class Moved:
    """One request's transfer between two candidates.

    Attributes:
        cache_bytes: of the mean prompt, as far as it is moved, each part once.
        sent_bytes, received_bytes: by the busiest device of each side.
        sources: prefill devices from which a decode device pulls.
        alone_s: it would take after the prompts of a step are computed.
        added_s: it adds to the first token.
    """

    cache_bytes: float
    sent_bytes: float
    received_bytes: float
    sources: int
    alone_s: float
    added_s: float


def moved(problem: Problem, p: Candidates, d: Candidates) -> Moved:
    """One request's transfer in full; `p` and `d` are one candidate each."""
    kinds, _, _ = _kinds(problem, p, d)
    alone = kv_transfer.transfer_s(
        kinds,
        problem.model.layers,
        (p.layouts[p.layout], p.offer.device.network),
        (d.layouts[d.layout], d.offer.device.network),
        p.batch.astype(float),
        0.0,
    )
    return Moved(
        cache_bytes=sum(_parts(problem, p).values()),
        sent_bytes=float(kinds.sent_bytes.ravel()[0]),
        received_bytes=float(kinds.received_bytes.ravel()[0]),
        sources=int(kinds.sources.ravel()[0]),
        alone_s=float(alone[0, 0]),
        added_s=float(transfer_s(problem, p, d)[0, 0]),
    )


def moved_tokens(problem: Problem) -> float:
    """Mean tokens of a prompt whose cache is moved: those that the decode side lacks."""
    traffic = problem.traffic
    return traffic.inputs.mean if traffic.loads_prefix else traffic.mean_new_tokens


def _parts(problem: Problem, pool: Candidates) -> dict[int, float]:
    """KV cache to move of a mean prompt, bytes, by the heads that split it."""
    tokens = float(np.ceil(moved_tokens(problem)))
    return kv_transfer.cache_parts(problem.model, tokens, pool.precision.bytes("kv"))


def _kinds(
    problem: Problem, p: Candidates, d: Candidates
) -> tuple[kv_transfer.Traffic, NDArray[np.intp], NDArray[np.intp]]:
    """Link traffic between the distinct splits of a cache, and which each candidate has.

    Thousands of candidates split a cache in some dozens of ways.
    """
    (p_kinds, row), (d_kinds, column) = (_splits(pool.layouts[pool.layout]) for pool in (p, d))
    found = kv_transfer.link_traffic(_parts(problem, p), problem.model.layers, p_kinds, d_kinds)
    return found, row, column


def cache_splits(layouts: Layouts) -> IntArray:
    """A number for each way of splitting a cache over devices, (L,)."""
    return np.asarray((layouts.pp * 4096 + layouts.cp_a) * 4096 + layouts.tp_a)


def _splits(layouts: Layouts) -> tuple[Layouts, NDArray[np.intp]]:
    _, first, index = np.unique(cache_splits(layouts), return_index=True, return_inverse=True)
    return layouts[first], index.reshape(-1)


def _link_s(pool: Candidates, moved_bytes: FloatArray) -> FloatArray:
    """Time on the busiest link of each candidate (last axis), requests shared among its ranks."""
    rate = kv_transfer.link_rate(pool.offer.device.network)
    return np.asarray(moved_bytes / (rate * pool.layouts.dp_a[pool.layout]))


def _replicas(problem: Problem, link_s: FloatArray, qps: float) -> IntArray:
    """Fewest replicas whose links carry the caches of all requests."""
    needed = qps * link_s / problem.max_utilization
    return np.maximum(np.ceil(needed * (1 - 1e-9)), 1).astype(np.int64)
