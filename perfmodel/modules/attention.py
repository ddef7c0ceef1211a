"""Attention of one layer: grouped-query, and multi-head latent (MLA)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from perfmodel.architecture import Attention, LayerGroup
from perfmodel.layout import Layouts
from perfmodel.modules import sequence
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

FloatArray = NDArray[np.float64]


class NamedCall(Protocol):
    """Makes a `Call` of the attention at hand."""

    def __call__(self, name: str, time: OperatorTime, module: str = ...) -> Call:
        """A call of that name, taking that time."""


def grouped_query(
    kit: ModuleKit, g: int, group: LayerGroup, layouts: Layouts, work: StepWork
) -> Iterator[Call]:
    """Grouped-query attention: projections, rotary embedding, attention, output."""
    attention, hidden = group.attention, kit.model.hidden
    assert isinstance(attention, Attention)
    shapes = Shapes(layouts, "tp_a", "cp_a")
    tp, cp = shapes["tp_a"], shapes["cp_a"]
    heads = attention.heads / tp
    kv_heads = np.maximum(attention.kv_heads / tp, 1.0)
    tokens = rank_tokens(work, cp)
    qkv = (heads + kv_heads) * attention.head_dim + kv_heads * attention.v_head_dim

    def call(name: str, time: OperatorTime, module: str = "attention") -> Call:
        return Call(name, module, LAYER, g, time, shapes.index)

    yield input_norm(kit, g, layouts, work)
    gate = heads * attention.head_dim if attention.output_gate else 0.0
    yield call("qkv_proj", kit.gemm("attention", tokens, qkv + gate, hidden))
    rotated = ("rope", tokens, (heads + kv_heads) * attention.head_dim)
    yield call("rope_and_cache", kit.memory_pass(tokens * qkv * 2 * ACTIVATION_BYTES, rotated))
    common = {
        "q_heads": heads,
        "kv_heads": kv_heads,
        "head_dim": np.full_like(tp, attention.head_dim),
        "window_tokens": np.full_like(tp, attention.window_tokens),
    }
    kv_dtype = "fp8" if kit.precision.kv.startswith("fp8") else "bf16"
    if work.prefill_sequences.any():
        dtype = "fp8" if kv_dtype == "fp8" and kit.peak("attention") == "fp8" else "bf16"
        time = kit.ops.context.time(
            {"dtype": dtype, "kv_dtype": kv_dtype}, common | context_shape(work, cp)
        )
        kv_width = kv_heads * (attention.head_dim + attention.v_head_dim)
        yield from _context(kit, call, Group(cp, tp), work, time, kv_width)
    if work.decode_sequences.any():
        time = kit.ops.generation.time(
            {"dtype": "bf16", "kv_dtype": kv_dtype},
            # Like the cache, what a window keeps of it is spread over context parallelism.
            common | generation_shape(work, cp) | {"window_tokens": attention.window_tokens / cp},
        )
        yield from _generation(kit, call, Group(cp, tp), work, time, heads * attention.v_head_dim)
    if attention.output_gate:
        moved = tokens * heads * attention.v_head_dim * 3 * ACTIVATION_BYTES
        yield call("output_gate", kit.memory_pass(moved))
    yield call("output_proj", kit.gemm("attention", tokens, hidden, heads * attention.v_head_dim))


def latent(
    kit: ModuleKit, g: int, group: LayerGroup, layouts: Layouts, work: StepWork
) -> Iterator[Call]:
    """Multi-head latent attention: expanded in prefill, absorbed in decode."""
    attention, hidden = group.attention, kit.model.hidden
    assert isinstance(attention, Attention)
    shapes = Shapes(layouts, "tp_a", "cp_a")
    tp, cp = shapes["tp_a"], shapes["cp_a"]
    heads = attention.heads / tp
    tokens = rank_tokens(work, cp)
    latent = attention.kv_lora_rank + attention.rope_head_dim
    nope = attention.head_dim - attention.rope_head_dim

    def call(name: str, time: OperatorTime, module: str = "attention") -> Call:
        return Call(name, module, LAYER, g, time, shapes.index)

    yield input_norm(kit, g, layouts, work)
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
        time = kit.ops.mla_context.time(
            {"dtype": "bf16", "kv_dtype": kv_dtype}, {"heads": heads, **context_shape(work, cp)}
        )
        yield from _context(kit, call, Group(cp, tp), work, time, latent)
    if work.decode_sequences.any():
        decoding = np.maximum(work.decoded, 1.0)
        dtype = "fp8" if kit.peak("attention") == "fp8" else "bf16"
        for stage in ("pre", "post"):
            time = kit.ops.mla_absorb.time(
                {"dtype": dtype, "stage": stage}, {"heads": heads, "tokens": decoding}
            )
            yield call(f"absorb_{stage}", where_present(work.decode_sequences > 0, time))
        time = kit.ops.mla_generation.time(
            {"dtype": "bf16", "kv_dtype": kv_dtype},
            {"heads": heads, **generation_shape(work, cp)},
        )
        yield from _generation(kit, call, Group(cp, tp), work, time, heads * attention.kv_lora_rank)
    yield call("output_proj", kit.gemm("attention", tokens, hidden, heads * attention.v_head_dim))


def input_norm(kit: ModuleKit, g: int, layouts: Layouts, work: StepWork) -> Call:
    """The norm before attention, of a share of the tokens where the sequence is split."""
    shapes = Shapes(layouts, "tp_a", "cp_a", "dense_tp")
    tokens = rank_tokens(work, shapes["cp_a"])
    time = sequence.norm(kit, tokens, shapes["dense_tp"], work)
    return Call("input_norm", "attention", LAYER, g, time, shapes.index)


def context_shape(work: StepWork, cp: FloatArray) -> dict[str, FloatArray]:
    """Prefill on one context-parallel rank.

    Each takes 1/cp of the queries, paired from both ends of the sequence so that the causal
    work is balanced: on average it sees half of the others' tokens before its own.
    """
    own = work.prefill_tokens / cp
    return {
        "batch": np.maximum(work.prefill_sequences, 1.0),
        "tokens": np.maximum(own, 1.0),
        "prefix_tokens": work.prefix_tokens + (work.prefill_tokens - own) / 2.0,
    }


def generation_shape(work: StepWork, cp: FloatArray) -> dict[str, FloatArray]:
    """Decode on one context-parallel rank: every sequence, 1/cp of its cache."""
    return {
        "batch": np.maximum(work.decode_sequences, 1.0),
        "context_tokens": np.maximum(work.context_tokens / cp, 1.0),
        "query_tokens": work.decode_tokens,
    }


def _context(
    kit: ModuleKit,
    call: NamedCall,
    ranks: Group,
    work: StepWork,
    time: OperatorTime,
    cache_width: FloatArray | float,
) -> Iterator[Call]:
    """Prefill attention, and the gathering of keys and values it needs under context parallelism.

    Args:
        cache_width: cache elements of one token on one device.
    """
    prefilling = work.prefill_sequences > 0
    yield call("context_attention", where_present(prefilling, time))
    yield gather_cache(kit, call, ranks, work, cache_width * kit.precision.bytes("kv"))


def gather_cache(
    kit: ModuleKit,
    call: NamedCall,
    ranks: Group,
    work: StepWork,
    token_bytes: FloatArray | float,
) -> Call:
    """The prompts' cache brought to every context-parallel rank.

    Args:
        token_bytes: cache of one token on one device.
    """
    tokens = work.prefill_sequences * (work.prefill_tokens + work.prefix_tokens)
    gather = kit.ops.collectives.all_gather(ranks, tokens * token_bytes)
    gather = where_present(work.prefill_sequences > 0, gather)
    return call("context_all_gather", gather, "communication")


def _generation(
    kit: ModuleKit,
    call: NamedCall,
    ranks: Group,
    work: StepWork,
    time: OperatorTime,
    output_width: FloatArray | float,
) -> Iterator[Call]:
    """Decode attention, and the merging of partial results under context parallelism.

    Args:
        output_width: output elements of one token on one device; partial results are fp32.
    """
    decoding = work.decode_sequences > 0
    yield call("generation_attention", where_present(decoding, time))
    yield combine_partial(kit, call, ranks, work, output_width)


def combine_partial(
    kit: ModuleKit,
    call: NamedCall,
    ranks: Group,
    work: StepWork,
    output_width: FloatArray | float,
) -> Call:
    """The merging of what context-parallel ranks found in their parts of the cache."""
    partial = work.decoded * output_width * 2 * ACTIVATION_BYTES
    combine = kit.ops.collectives.all_reduce(ranks, partial)
    combine = where_present(work.decode_sequences > 0, combine)
    return call("context_combine", combine, "communication")
