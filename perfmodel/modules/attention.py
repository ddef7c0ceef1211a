"""Attention of one layer: grouped-query, and multi-head latent (MLA)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from perfmodel.architecture import LayerGroup
from perfmodel.layout import Layouts
from perfmodel.modules.base import (
    LAYER,
    Call,
    ModuleKit,
    Shapes,
    rank_tokens,
    where_present,
)
from perfmodel.operators import Group, OperatorTime
from perfmodel.precision import ACTIVATION_BYTES
from perfmodel.work import StepWork


def grouped_query(
    kit: ModuleKit, g: int, group: LayerGroup, layouts: Layouts, work: StepWork
) -> Iterator[Call]:
    """Grouped-query attention: projections, rotary embedding, attention, output."""
    attention, hidden = group.attention, kit.model.hidden
    shapes = Shapes(layouts, "tp_a", "cp_a")
    tp, cp = shapes["tp_a"], shapes["cp_a"]
    heads = attention.heads / tp
    kv_heads = np.maximum(attention.kv_heads / tp, 1.0)
    tokens = rank_tokens(work, cp)
    qkv = (heads + kv_heads) * attention.head_dim + kv_heads * attention.v_head_dim

    def call(name: str, time: OperatorTime, module: str = "attention") -> Call:
        return Call(name, module, LAYER, g, time, shapes.index)

    yield call("input_norm", kit.norm(tokens))
    yield from kit.quantize("qkv_quantize", "attention", call, tokens, float(hidden))
    yield call("qkv_proj", kit.gemm("attention", tokens, qkv, hidden))
    yield call("rope_and_cache", kit.memory_pass(tokens * qkv * 2 * ACTIVATION_BYTES))
    common = {
        "q_heads": heads,
        "kv_heads": kv_heads,
        "head_dim": np.full_like(tp, attention.head_dim),
        "window_tokens": np.full_like(tp, attention.window_tokens),
    }
    kv_dtype = "fp8" if kit.precision.kv.startswith("fp8") else "bf16"
    if work.prefill_sequences.any():
        dtype = "fp8" if kv_dtype == "fp8" and kit.peak("attention") == "fp8" else "bf16"
        # Each context-parallel rank takes 1/cp of the queries, paired from both ends of
        # the sequence so that the causal work is balanced; it sees `prefix` on average.
        own = work.prefill_tokens / cp
        prefix = work.prefix_tokens + (work.prefill_tokens - own) / 2.0
        time = kit.ops.context.time(
            {"dtype": dtype, "kv_dtype": kv_dtype},
            common
            | {
                "batch": np.maximum(work.prefill_sequences, 1.0),
                "tokens": np.maximum(own, 1.0),
                "prefix_tokens": prefix,
            },
        )
        yield call("context_attention", where_present(work.prefill_sequences > 0, time))
        gathered = work.prefill_sequences * (work.prefill_tokens + work.prefix_tokens)
        kv_width = kv_heads * (attention.head_dim + attention.v_head_dim)
        gather = kit.ops.collectives.all_gather(
            Group(cp, tp), gathered * kv_width * kit.precision.bytes("kv")
        )
        gather = where_present(work.prefill_sequences > 0, gather)
        yield call("context_all_gather", gather, "communication")
    if work.decode_sequences.any():
        time = kit.ops.generation.time(
            {"dtype": "bf16", "kv_dtype": kv_dtype},
            common
            | {
                # Like the cache, what a window keeps of it is spread over context parallelism.
                "window_tokens": attention.window_tokens / cp,
                "batch": np.maximum(work.decode_sequences, 1.0),
                "context_tokens": np.maximum(work.context_tokens / cp, 1.0),
            },
        )
        yield call("generation_attention", where_present(work.decode_sequences > 0, time))
        partial = work.decode_sequences * heads * attention.v_head_dim * 2 * ACTIVATION_BYTES
        combine = kit.ops.collectives.all_reduce(Group(cp, tp), partial)
        combine = where_present(work.decode_sequences > 0, combine)
        yield call("context_combine", combine, "communication")
    yield from kit.quantize(
        "output_quantize", "attention", call, tokens, heads * attention.v_head_dim
    )
    yield call("output_proj", kit.gemm("attention", tokens, hidden, heads * attention.v_head_dim))


def latent(
    kit: ModuleKit, g: int, group: LayerGroup, layouts: Layouts, work: StepWork
) -> Iterator[Call]:
    """Multi-head latent attention: expanded in prefill, absorbed in decode."""
    attention, hidden = group.attention, kit.model.hidden
    shapes = Shapes(layouts, "tp_a", "cp_a")
    tp, cp = shapes["tp_a"], shapes["cp_a"]
    heads = attention.heads / tp
    tokens = rank_tokens(work, cp)
    latent = attention.kv_lora_rank + attention.rope_head_dim
    nope = attention.head_dim - attention.rope_head_dim

    def call(name: str, time: OperatorTime, module: str = "attention") -> Call:
        return Call(name, module, LAYER, g, time, shapes.index)

    yield call("input_norm", kit.norm(tokens))
    yield from kit.quantize("latent_quantize", "attention", call, tokens, float(hidden))
    if attention.q_lora_rank:
        down = kit.gemm("attention", tokens, attention.q_lora_rank + latent, hidden)
        yield call("latent_down_proj", down)
        up = kit.gemm("attention", tokens, heads * attention.head_dim, attention.q_lora_rank)
        yield call("query_up_proj", up)
    else:
        yield call("latent_down_proj", kit.gemm("attention", tokens, latent, hidden))
        yield call("query_proj", kit.gemm("attention", tokens, heads * attention.head_dim, hidden))
    kv_dtype = "fp8" if kit.precision.kv.startswith("fp8") else "bf16"
    if work.prefill_sequences.any():
        expanded = work.prefill_sequences * (work.prefill_tokens + work.prefix_tokens)
        up = kit.gemm(
            "attention",
            np.maximum(expanded, 1.0) + 0 * cp,
            heads * (nope + attention.v_head_dim),
            attention.kv_lora_rank,
        )
        yield call("kv_up_proj", where_present(work.prefill_sequences > 0, up))
        own = work.prefill_tokens / cp
        time = kit.ops.mla_context.time(
            {"dtype": "bf16", "kv_dtype": kv_dtype},
            {
                "heads": heads,
                "batch": np.maximum(work.prefill_sequences, 1.0),
                "tokens": np.maximum(own, 1.0),
                "prefix_tokens": work.prefix_tokens + (work.prefill_tokens - own) / 2.0,
            },
        )
        yield call("context_attention", where_present(work.prefill_sequences > 0, time))
        gathered = expanded * latent * kit.precision.bytes("kv")
        gather = kit.ops.collectives.all_gather(Group(cp, tp), gathered)
        gather = where_present(work.prefill_sequences > 0, gather)
        yield call("context_all_gather", gather, "communication")
    if work.decode_sequences.any():
        decoding = np.maximum(work.decode_sequences, 1.0)
        dtype = "fp8" if kit.peak("attention") == "fp8" else "bf16"
        for stage in ("pre", "post"):
            time = kit.ops.mla_absorb.time(
                {"dtype": dtype, "stage": stage}, {"heads": heads, "tokens": decoding}
            )
            yield call(f"absorb_{stage}", where_present(work.decode_sequences > 0, time))
        time = kit.ops.mla_generation.time(
            {"dtype": "bf16", "kv_dtype": kv_dtype},
            {
                "heads": heads,
                "batch": decoding,
                "context_tokens": np.maximum(work.context_tokens / cp, 1.0),
            },
        )
        yield call("generation_attention", where_present(work.decode_sequences > 0, time))
        partial = work.decode_sequences * heads * attention.kv_lora_rank * 2 * ACTIVATION_BYTES
        combine = kit.ops.collectives.all_reduce(Group(cp, tp), partial)
        combine = where_present(work.decode_sequences > 0, combine)
        yield call("context_combine", combine, "communication")
    yield from kit.quantize(
        "output_quantize", "attention", call, tokens, heads * attention.v_head_dim
    )
    yield call("output_proj", kit.gemm("attention", tokens, hidden, heads * attention.v_head_dim))
