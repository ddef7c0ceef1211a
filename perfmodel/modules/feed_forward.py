"""The feed-forward network of one layer: dense, shared and routed experts."""

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
    by_layout,
    group_tokens,
    rank_tokens,
)
from perfmodel.modules.spread_experts import pooled_experts, spread_experts
from perfmodel.operators import OperatorTime
from perfmodel.precision import ACTIVATION_BYTES
from perfmodel.work import StepWork


def dense(
    kit: ModuleKit, g: int, group: LayerGroup, layouts: Layouts, work: StepWork
) -> Iterator[Call]:
    """The dense FFN, or the shared experts, of a layer."""
    ffn, hidden = group.feed_forward, kit.model.hidden
    width = ffn.shared_intermediate if ffn.is_moe else ffn.intermediate
    if not width:
        return
    if kit.model.is_moe:
        # Aligned: every device of the tensor-parallel group holds a shard and all the
        # group's tokens. Dispatched: each runs the whole FFN on its own tokens.
        shapes = Shapes(layouts, "tp_a", "cp_a", "dense_tp")
        tp = shapes["dense_tp"]
        tokens = np.maximum(rank_tokens(work, shapes["cp_a"]) * tp / shapes["tp_a"], 1.0)
    else:
        shapes = Shapes(layouts, "tp_f", *POOLING)
        tp = shapes["tp_f"]
        tokens = group_tokens(work, shapes)
    name = "shared_expert" if ffn.is_moe else "ffn"

    def call(suffix: str, time: OperatorTime, module: str = "ffn") -> Call:
        return Call(f"{name}_{suffix}", module, LAYER, g, time, shapes.index)

    if not ffn.is_moe:
        at = Shapes(layouts, "tp_f", *POOLING, "dense_tp")
        time = sequence.norm(kit, group_tokens(work, at), at["dense_tp"], work)
        yield Call("ffn_norm", "ffn", LAYER, g, time, at.index)
    up = (ffn.matrices - 1) * width / tp
    yield call("up_proj", kit.gemm("ffn", tokens, up, hidden))
    moved = tokens * (up + width / tp) * ACTIVATION_BYTES
    gated = [("silu_mul", tokens, width / tp)] if ffn.gated else []
    yield call("activation", kit.memory_pass(moved, *gated))
    yield call("down_proj", kit.gemm("ffn", tokens, hidden, width / tp))


def routed(
    kit: ModuleKit, g: int, group: LayerGroup, layouts: Layouts, work: StepWork
) -> Iterator[Call]:
    """Router and routed experts of a layer, with the exchange of tokens that these need."""
    ffn, hidden = group.feed_forward, kit.model.hidden
    own = Shapes(layouts, "tp_a", "cp_a", "dense_tp")
    tokens = rank_tokens(work, own["cp_a"]) * own["dense_tp"] / own["tp_a"]
    tokens = np.maximum(tokens, 1.0)
    time = sequence.norm(kit, tokens, own["dense_tp"], work)
    yield Call("ffn_norm", "ffn", LAYER, g, time, own.index)
    router = kit.ops.gemm.time({"dtype": "bf16"}, {"m": tokens, "n": ffn.experts, "k": hidden})
    yield Call("router", "ffn", LAYER, g, router, own.index)
    for name, n, k in (("down", ffn.latent, hidden), ("up", hidden, ffn.latent)):
        if ffn.latent:
            time = kit.gemm("ffn", tokens, n, k)
            yield Call(f"latent_{name}_proj", "ffn", LAYER, g, time, own.index)
    parts = ((~layouts.dispatched, pooled_experts), (layouts.dispatched, spread_experts))
    yield from by_layout(kit, g, group, layouts, work, parts)
