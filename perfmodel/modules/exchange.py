"""Communication between the modules of a layer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from perfmodel.architecture import LayerGroup
from perfmodel.layout import Layouts
from perfmodel.modules import sequence
from perfmodel.modules.base import (
    LAYER,
    POOLING,
    Call,
    ModuleKit,
    Shapes,
    group_tokens,
    rank_tokens,
    spread,
)
from perfmodel.operators import Group, OperatorTime
from perfmodel.precision import ACTIVATION_BYTES
from perfmodel.work import StepWork


def exchange(
    kit: ModuleKit, g: int, group: LayerGroup, layouts: Layouts, work: StepWork
) -> Iterator[Call]:
    """Collectives between the modules of a layer.

    Where FFN shards coincide with attention's tensor-parallel group, one all-reduce after
    each module. Elsewhere attention's sum is scattered, tokens are shared with the FFN's
    shards and its sums scattered, and are gathered again. How they get to experts on other
    devices is those experts' part (`spread_experts`).
    """
    token_bytes = kit.model.hidden * ACTIVATION_BYTES
    aligned = layouts.aligned
    for rows, together in ((np.flatnonzero(aligned), True), (np.flatnonzero(~aligned), False)):
        if len(rows) == 0:
            continue
        part = layouts[rows] if len(rows) < len(layouts) else layouts
        calls = _reduce if together else _redistribute
        for call in calls(kit, g, group, part, work, token_bytes):
            yield spread(call, rows, len(layouts))


def _reduce(
    kit: ModuleKit, g: int, group: LayerGroup, layouts: Layouts, work: StepWork, token_bytes: float
) -> Iterator[Call]:
    shapes = Shapes(layouts, "tp_a", "cp_a")
    tokens = rank_tokens(work, shapes["cp_a"])
    if kit.shards_sequence:
        between = sequence.boundary(kit, shapes["tp_a"], tokens, work)
        times = {
            "all_reduce": between.whole,
            "reduce_scatter": between.scatter,
            "all_gather": between.gather,
        }
    else:
        tp = Group(shapes["tp_a"], np.ones_like(shapes["tp_a"]))
        times = {"all_reduce": kit.ops.collectives.all_reduce(tp, tokens * token_bytes)}
    for module in ("attention",) if group.feed_forward.is_absent else ("attention", "ffn"):
        for name, time in times.items():
            yield Call(f"{module}_{name}", "communication", LAYER, g, time, shapes.index)


def _redistribute(
    kit: ModuleKit, g: int, group: LayerGroup, layouts: Layouts, work: StepWork, token_bytes: float
) -> Iterator[Call]:
    collectives = kit.ops.collectives
    shapes = Shapes(layouts, "tp_a", "cp_a")
    tp = Group(shapes["tp_a"], np.ones_like(shapes["tp_a"]))
    own = rank_tokens(work, shapes["cp_a"])

    def call(name: str, time: OperatorTime, at: Shapes) -> Call:
        return Call(name, "communication", LAYER, g, time, at.index)

    scatter = collectives.reduce_scatter(tp, own * token_bytes)
    yield call("attention_reduce_scatter", scatter, shapes)
    ffn = Shapes(layouts, "tp_f", "ep_f", *POOLING)
    # A dense layer among expert layers runs whole on each device.
    if group.feed_forward.is_moe or not (kit.model.is_moe or group.feed_forward.is_absent):
        # Where experts are spread, tokens get to their shards with those of other experts.
        alone = ffn["ep_f"] > 1
        shards = Group(np.where(alone, 1.0, ffn["tp_f"]), np.ones_like(ffn["tp_f"]))
        payload = group_tokens(work, ffn) * token_bytes
        yield call("ffn_all_gather", collectives.all_gather(shards, payload), ffn)
        yield call("ffn_reduce_scatter", collectives.reduce_scatter(shards, payload), ffn)
    gather = collectives.all_gather(tp, own * token_bytes)
    yield call("attention_all_gather", gather, shapes)
