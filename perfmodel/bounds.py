"""What no batch of a group can beat: bounds on whole groups of configurations at once.

Of neighbouring batches (and one chunk) the least time of every operator is taken, and of the
costs that are sought, operator by operator, before layouts add them up (`StepModel.least`).
Nothing that `phases` estimates of any of the batches is better, whatever the tables say: the
bounds do not rest on a time that grows with the batch. They cost a fraction of the estimates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perfmodel import phases
from perfmodel.bundles import Bundles
from perfmodel.layout import Layouts
from perfmodel.memory import MemoryTerms
from perfmodel.step import StepModel
from perfmodel.traffic import Traffic
from perfmodel.work import step_tokens

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

GROUP = 4
"""Batches bounded together: half an octave."""

PREFILL_GROUP = 2
"""The same of prefill, which has few."""

ROUNDING = 1e-9
"""Sums in another order differ in their last digits."""


@dataclass(frozen=True)
class Bounds:
    """Of layouts (L) and groups of columns (G).

    Attributes:
        most_qps: of one replica, requests/s, (L, G).
        latency_s: time to first token on an idle system at least, by representative input,
            (L, G, J); J = 0 for decode.
        ttit_s: mean time between tokens at least; zero for prefill, (L, G).
        ttit_slo_s: the same at the percentile asked for, zero where that is not bounded.
        memory: of the smallest batch of each group.
    """

    most_qps: FloatArray
    latency_s: FloatArray
    ttit_s: FloatArray
    ttit_slo_s: FloatArray
    memory: MemoryTerms


@dataclass(frozen=True)
class Groups:
    """Columns of axes in groups of neighbouring batches: the order, and where groups start."""

    order: IntArray
    starts: IntArray

    @classmethod
    def of(cls, batch: IntArray, chunk: IntArray, drafts: IntArray, size: int) -> Groups:
        """Up to `size` batches each, of one chunk and draft length."""
        order = np.lexsort((batch, chunk, drafts))
        kind = np.stack([chunk, drafts])[:, order]
        new = np.concatenate([[True], (kind[:, 1:] != kind[:, :-1]).any(axis=0)])
        first = np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))
        starts = np.flatnonzero((np.arange(len(order)) - first) % size == 0)
        return cls(order, starts)

    @property
    def firsts(self) -> IntArray:
        """The column with which each group starts."""
        return np.asarray(self.order[self.starts])


def prefill(step: StepModel, layouts: Layouts, traffic: Traffic, batch: IntArray) -> Bounds:
    """Bounds on `phases.prefill`."""
    none = np.zeros_like(batch)
    groups = Groups.of(batch, none, none, PREFILL_GROUP)
    nodes, count = len(traffic.new_tokens), len(groups.starts)
    # Each group once for every representative length.
    columns = [groups.order * nodes + node for node in range(nodes)]
    whole = Bundles.of([np.ones(len(batch)), 1.0 / batch[groups.order]], groups.starts)
    parts = [whole.at(column) for column in columns]
    bundles = Bundles(
        np.concatenate([part.column for part in parts]),
        np.concatenate([part.weight for part in parts]),
        np.concatenate([part.starts + 2 * len(batch) * k for k, part in enumerate(parts)]),
    )
    time = step.least(layouts, phases.prefill_work(traffic, batch), bundles)
    shape = (len(layouts), nodes, 2, count)
    latency = time.latency_s.reshape(shape)[:, :, 0].transpose(0, 2, 1)
    per_prompt = np.einsum("ljg,j->lg", time.pace_s.reshape(shape)[:, :, 1], _weights(traffic))
    zero = np.zeros((len(layouts), count))
    return Bounds(
        _most(layouts.dp_a[:, None] / per_prompt),
        latency * (1.0 - ROUNDING),
        zero,
        zero,
        phases.prefill_memory(step, layouts, traffic, batch[groups.firsts]),
    )


def decode(
    step: StepModel,
    layouts: Layouts,
    traffic: Traffic,
    batch: IntArray,
    percentile: float | None = None,
    *,
    drafts: IntArray,
    acceptance: float = 0.0,
) -> Bounds:
    """Bounds on `phases.decode`."""
    groups = Groups.of(batch, np.zeros_like(batch), drafts, GROUP)
    gain = step_tokens(drafts, acceptance)[groups.order]
    bundles = Bundles.of([1.0 / gain, 1.0 / (gain * batch[groups.order])], groups.starts)
    work = phases.decode_work(traffic, batch, drafts)
    pp = layouts.pp.astype(float)[:, None]
    least = step.least(layouts, work, bundles.at(np.tile(groups.order, 2))).pace_s
    count = len(groups.starts)
    ttit = least[:, :count] * pp
    tail = ttit
    if percentile is not None:
        longer = phases.context_at(traffic, batch, percentile)
        then = phases.decode_work(traffic, batch, drafts, longer)
        alone = Bundles.of([1.0 / gain], groups.starts).at(groups.order)
        tail = step.least(layouts, then, alone).pace_s * pp
    first = groups.firsts
    return Bounds(
        _most(layouts.dp_a[:, None] / (traffic.outputs.mean * least[:, count:])),
        np.zeros((len(layouts), count, 0)),
        ttit * (1.0 - ROUNDING),
        tail * (1.0 - ROUNDING),
        phases.decode_memory(step, layouts, traffic, batch[first], drafts[first]),
    )


def continuous(
    step: StepModel,
    layouts: Layouts,
    traffic: Traffic,
    batch: IntArray,
    chunk: IntArray,
    percentile: float | None = None,
    *,
    drafts: IntArray,
    acceptance: float = 0.0,
) -> Bounds:
    """Bounds on `phases.continuous`; a percentile of its time between tokens has none."""
    groups = Groups.of(batch, chunk, drafts, GROUP)
    order, first, count = groups.order, groups.firsts, len(groups.starts)
    gain = step_tokens(drafts, acceptance)
    needed = batch * gain * traffic.mean_new_tokens / (traffic.outputs.mean * chunk)
    share = np.minimum(needed, 1.0)
    per_slot = np.maximum(needed, 1.0) / (batch * gain)
    mixed = phases.mixed_work(traffic, batch, chunk, drafts)
    weights = [np.ones(len(batch)), (share / gain)[order], (share * per_slot)[order]]
    bundles = Bundles.of(weights, groups.starts).at(np.tile(order, 3))
    with_chunk = step.least(layouts, mixed, bundles).pace_s
    distinct, back = np.unique(np.stack([batch, drafts]), axis=1, return_inverse=True)
    back = back.reshape(-1)
    weights = [((1.0 - share) / gain)[order], ((1.0 - share) * per_slot)[order]]
    bundles = Bundles.of(weights, groups.starts).at(np.tile(back[order], 2))
    alone = step.least(
        layouts, phases.decode_work(traffic, distinct[0], distinct[1]), bundles
    ).pace_s
    pp = layouts.pp.astype(float)[:, None]
    ttit = (with_chunk[:, count : 2 * count] + alone[:, :count]) * pp * (1.0 - ROUNDING)
    per_request = traffic.outputs.mean * (with_chunk[:, 2 * count :] + alone[:, count:])
    chunks = np.ceil(traffic.new_tokens / chunk[first][:, None])
    return Bounds(
        _most(layouts.dp_a[:, None] / per_request),
        (with_chunk[:, :count] * pp)[:, :, None] * chunks * (1.0 - ROUNDING),
        ttit,
        ttit if percentile is None else np.zeros_like(ttit),
        phases.continuous_memory(step, layouts, traffic, batch[first], chunk[first], drafts[first]),
    )


def _most(qps: FloatArray) -> FloatArray:
    return qps * (1.0 + ROUNDING)


def _weights(traffic: Traffic) -> FloatArray:
    return np.array(traffic.inputs.weights)


__all__ = ["Bounds", "Groups", "continuous", "decode", "prefill"]
