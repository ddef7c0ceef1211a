"""One pool that serves both phases by turns, each in a layout of its own.

Between continuous batching (one layout, phases mixed) and disaggregation (two pools) lies a pool
that stops decoding, moves its weights into the layout that is best for prompts, computes `n` of
them, moves the weights back and decodes on (re-sharding: Su et al., "Seesaw", arXiv 2503.06433).
Per cycle of `C` seconds it spends `n / P` on prompts, `n / D` on decoding, a fixed time on the
switches, and serves `n` requests: its rate nears that of matched pools (`planner.rates`) as `n`
grows. But who waits for a first token waits for the end of a decoding turn, who decodes waits for
the prompts, and the caches of all who wait take memory beside the prompts' weights.

The estimate is kind to such a pool, so as to be a bound on what it gains: weights move over the
fast links as fast as these carry them, need no room beside each other, and what already lies in
its place stays; decoding never runs below its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perfmodel import phases
from perfmodel.kv_transfer import cache_parts
from perfmodel.layout import Layouts, format_layout
from perfmodel.memory import attention_weight_bytes
from perfmodel.precision import Precision
from planner.candidates import Candidates
from planner.dominance import nondominated
from planner.evaluated import Evaluated
from planner.problem import Problem
from planner.sweep import Space
from planner.transfer import moved_tokens

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Turns:
    """Pools of prefill candidates (P) and decode candidates (D) by turns, arrays (P, D).

    Each pool has the devices of the larger of its two replicas, and several of the smaller.

    Attributes:
        prompts: of a cycle: as many as the slots and the TTFT target allow.
        cycle_s: both turns and both switches.
        qps_per_device: zero where caches and the prompts' weights do not fit into memory
            together, or not one step of prompts into a cycle; latencies then are infinite.
        ttft_s: mean, under steady arrivals: the wait for the turn, the prompt, the engine.
        ttit_s: mean, pauses included.
        pause_s: for which decoding stops.
        switch_s: to move weights, there and back.
    """

    prompts: FloatArray
    cycle_s: FloatArray
    qps_per_device: FloatArray
    ttft_s: FloatArray
    ttit_s: FloatArray
    pause_s: FloatArray
    switch_s: FloatArray


def turns(space: Space, prefill: Candidates, decode: Candidates) -> Turns:
    """What every pair of a prefill and a decode layout serves by turns.

    With `P` and `D` the pool's rates in the two phases, `m` the time to move a prompt's cache,
    `f` that of switches and of filling the prompts' pipeline, `B` slots and `O` output tokens:

        C = n (1/P + m + 1/D) + f               a cycle, n / C requests/s
        pause = n (1/P + m) + f
        TTFT = (C - n/P) / 2 + prompt + engine  the queue grows in one turn, empties in the other
        TTIT = step + ((B/n - 1) pause + n/(2P) + n m + f/2) / O

    A sequence decodes through `B / n` turns; its first pause begins with its own first token,
    half of the prompts' turn before its end on average.

    Raises:
        ValueError: a target that is not a mean; candidates of two devices.
    """
    problem, offer = space.problem, prefill.offer
    slo = problem.slo
    if any(target is not None and target.percentile is not None for target in (slo.ttft, slo.ttit)):
        raise ValueError("only means are modelled of a pool that serves phases by turns")
    if offer.device.name != decode.offer.device.name:
        raise ValueError("one pool has devices of one type")
    world = np.maximum(prefill.world[:, None], decode.world[None, :]).astype(float)
    prefill_replicas, decode_replicas = world / prefill.world[:, None], world / decode.world
    to_decode, to_prefill, link = _switches(problem, prefill, decode, world)
    cache = sum(
        cache_parts(
            problem.model,
            float(np.ceil(moved_tokens(problem))),
            prefill.precision.bytes("kv"),
        ).values()
    )
    prompt_s = 1.0 / (prefill.qps[:, None] * prefill_replicas)
    move_s = np.where(world > 1, cache / world / link, 0.0)
    decode_s = 1.0 / (decode.qps * decode_replicas)
    service = prefill.service_s[:, None]
    filling = np.maximum(service - prefill.pace_s[:, None], 0.0)
    fixed = to_decode + to_prefill + filling
    slots = decode.slots * decode_replicas

    prompts = np.broadcast_to(slots, world.shape)
    handling = problem.handling_s(decode.iteration_s, disaggregated=False)
    if slo.ttft is not None:
        waiting = slo.ttft.seconds - service - handling
        prompts = np.minimum(prompts, (2.0 * waiting - fixed) / (move_s + decode_s))
    step = (prefill.batch * prefill.servers)[:, None] * prefill_replicas
    possible = (prompts >= step) & _fits(space, prefill, decode)
    prompts = np.where(possible, prompts, step)
    pause = prompts * (prompt_s + move_s) + fixed
    cycle = pause + prompts * decode_s
    first = prompts * (prompt_s / 2.0 + move_s) + to_decode
    paused = (slots / prompts - 1.0) * pause + first
    ttit = decode.ttit_s + paused / problem.traffic.outputs.mean
    return Turns(
        prompts=prompts,
        cycle_s=cycle,
        qps_per_device=np.where(possible, prompts / cycle / world, 0.0),
        ttft_s=np.where(possible, (cycle - prompts * prompt_s) / 2.0 + service + handling, np.inf),
        ttit_s=np.where(possible, ttit, np.inf),
        pause_s=pause,
        switch_s=to_decode + to_prefill,
    )


@dataclass(frozen=True)
class Alternating:
    """The pool by turns that serves most per device of one type; fields as in `Turns`."""

    device: str
    prefill: str
    decode: str
    decode_batch: int
    devices: int
    prompts: float
    cycle_s: float
    qps_per_device: float
    ttft_s: float
    ttit_s: float
    pause_s: float
    switch_s: float


def best_alternating(evaluated: Evaluated) -> list[Alternating]:
    """For each device type the best pool by turns within a fast domain, if any meets the targets.

    Raises:
        ValueError: as `turns`.
    """
    problem = evaluated.problem
    space = next(iter(evaluated.spaces.values()))
    found = []
    for offer in problem.offers:
        inside = [
            one.take(one.world <= offer.device.fast_link.span)
            for one in evaluated.candidates
            if one.offer.device.name == offer.device.name
        ]
        pairs = [
            (prefill, decode)
            for prefill in map(_promising, _of(inside, "prefill"))
            for decode in _of(inside, "decode")
            if len(decode) and len(prefill) and prefill.precision == decode.precision
        ]
        best = [one for pair in pairs if (one := _best(space, *pair)) is not None]
        found += sorted(best, key=lambda one: -one.qps_per_device)[:1]
    return found


def _of(pools: Sequence[Candidates], role: str) -> list[Candidates]:
    return [pool for pool in pools if pool.role == role]


def _promising(prefill: Candidates) -> Candidates:
    """Of each layout those batches that none other beats in time and in rate."""
    kept = [np.zeros(0, dtype=np.intp)]
    for layout in np.unique(prefill.layout):
        rows = np.flatnonzero(prefill.layout == layout)
        objectives = np.stack([prefill.service_s[rows], -prefill.qps[rows]], axis=1)
        kept.append(rows[nondominated(objectives)])
    return prefill.take(np.concatenate(kept))


def _best(space: Space, prefill: Candidates, decode: Candidates) -> Alternating | None:
    found, target = turns(space, prefill, decode), space.problem.slo.ttit
    meets = found.qps_per_device > 0
    if target is not None:
        meets &= found.ttit_s <= target.seconds
    if not meets.any():
        return None
    i, j = np.unravel_index(np.argmax(np.where(meets, found.qps_per_device, 0.0)), meets.shape)
    return Alternating(
        device=prefill.offer.device.name,
        prefill=format_layout(prefill.layouts, int(prefill.layout[i])),
        decode=format_layout(decode.layouts, int(decode.layout[j])),
        decode_batch=int(decode.batch[j]),
        devices=int(max(prefill.world[i], decode.world[j])),
        **{name: float(getattr(found, name)[i, j]) for name in Turns.__dataclass_fields__},
    )


def _fits(space: Space, prefill: Candidates, decode: Candidates) -> BoolArray:
    """Where a device holds all slots' caches beside the prompts' weights and activations, (P, D).

    The new prompts' caches are among those of the slots, split as decoding splits them.
    """
    step = space.step_model(prefill.offer, prefill.precision)
    traffic, axes = space.problem.traffic, decode.axes
    own = phases.prefill_memory(step, prefill.layouts, traffic, prefill.axes.batch)
    shape = (len(prefill.layouts), len(prefill.axes))
    beside = np.broadcast_to(own.total - own.kv_cache, shape)[prefill.layout, prefill.column]
    slots = phases.decode_memory(step, decode.layouts, traffic, axes.batch, axes.drafts)
    shape = (len(decode.layouts), len(axes))
    caches = np.broadcast_to(slots.kv_cache, shape)[decode.layout, decode.column]
    return np.asarray(beside[:, None] + caches <= step.device.memory_bytes)


def _switches(
    problem: Problem, prefill: Candidates, decode: Candidates, world: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Time to move weights to the decode layout, and back; the links' rate; all (P, D)."""
    link = prefill.offer.device.fast_link
    rate = link.achieved * np.broadcast_to(link.group_bytes_per_s(world), world.shape)
    (p_kinds, row), (d_kinds, column) = (
        np.unique(pool.layout, return_inverse=True) for pool in (prefill, decode)
    )
    there, back = moved_bytes(
        problem, prefill.precision, prefill.layouts[p_kinds], decode.layouts[d_kinds]
    )
    pick = np.ix_(row.reshape(-1), column.reshape(-1))
    return there[pick] / rate, back[pick] / rate, rate


def moved_bytes(
    problem: Problem, precision: Precision, prefill: Layouts, decode: Layouts
) -> tuple[FloatArray, FloatArray]:
    """Weights that the busiest device lacks of the other layout: to decode, and back, (P, D).

    Of the layers' attention and FFN (a mixture's dense parts taken to be split as its experts
    are); embedding and head are left out. In both layouts a device's tensor-parallel rank counts
    fastest, its pipeline stage slowest.
    """
    model = problem.model
    one = np.ones((1, 1))
    attention = ffn = 0.0
    for group in model.groups:
        mixer, network = group.attention, group.feed_forward
        mixing = attention_weight_bytes(mixer, model.hidden, one, precision)
        attention += group.count * float(mixing[0, 0])
        dense = network.dense_parameters(model.hidden) + network.shared_parameters(model.hidden)
        experts = network.experts * network.expert_parameters(model.hidden)
        held = dense * precision.bytes("ffn") + experts * precision.bytes("experts")
        ffn += group.count * held
    devices = int(max(prefill.world.max(), decode.world.max()))
    there = back = np.zeros((len(prefill), len(decode)))
    for whole, shards in ((attention, _attention_shards), (ffn, _ffn_shards)):
        p, d = (_Held.of(layouts, shards(layouts), devices) for layouts in (prefill, decode))
        common = p.overlap(d)
        there = there + whole * (d.share[None, :, None] - common).max(axis=2)
        back = back + whole * (p.share[:, None, None] - common).max(axis=2)
    return there, back


def _attention_shards(layouts: Layouts) -> FloatArray:
    return layouts.tp_a.astype(float)


def _ffn_shards(layouts: Layouts) -> FloatArray:
    return (layouts.tp_f * layouts.ep_f).astype(float)


@dataclass(frozen=True)
class _Held:
    """What each of `W` devices holds of a module under layouts (L): a block of layers by columns.

    Attributes:
        layers, columns: where the block begins, as shares of all, (L, W).
        deep, wide: its size, (L,).
    """

    layers: FloatArray
    columns: FloatArray
    deep: FloatArray
    wide: FloatArray

    @classmethod
    def of(cls, layouts: Layouts, shards: FloatArray, devices: int) -> _Held:
        deep, wide = 1.0 / layouts.pp, 1.0 / shards
        in_replica = np.arange(devices) % layouts.world[:, None]
        stage, rank = np.divmod(in_replica, layouts.stage_world[:, None])
        column = rank % shards[:, None]
        return cls(stage * deep[:, None], column * wide[:, None], deep, wide)

    @property
    def share(self) -> FloatArray:
        return self.deep * self.wide

    def overlap(self, other: _Held) -> FloatArray:
        """What a device holds under both, as a share of the module, (L, other's, W)."""

        def common(
            own: FloatArray, size: FloatArray, its: FloatArray, of: FloatArray
        ) -> FloatArray:
            ends = np.minimum((own + size[:, None])[:, None, :], (its + of[:, None])[None, :, :])
            begins = np.maximum(own[:, None, :], its[None, :, :])
            return np.asarray(np.maximum(ends - begins, 0.0))

        deep = common(self.layers, self.deep, other.layers, other.deep)
        return deep * common(self.columns, self.wide, other.columns, other.wide)
