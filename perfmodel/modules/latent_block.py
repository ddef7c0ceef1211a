"""Latent attention as one block: over the tokens that an indexer chooses, or over all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from perfmodel.architecture import Attention, LayerGroup
from perfmodel.layout import Layouts
from perfmodel.modules.attention import (
    combine_partial,
    context_shape,
    gather_cache,
    generation_shape,
    input_norm,
    latent,
)
from perfmodel.modules.base import (
    LAYER,
    Call,
    ModuleKit,
    Shapes,
    by_layout,
    rank_tokens,
    where_present,
)
from perfmodel.operators import Group, OperatorModel, OperatorTime
from perfmodel.operators.base import Number
from perfmodel.operators.sparse_attention import nearest_model
from perfmodel.work import StepWork


def block(
    kit: ModuleKit, g: int, group: LayerGroup, layouts: Layouts, work: StepWork
) -> Iterator[Call]:
    """One block for the prompts of a step, one for its decodes.

    A step with both passes the projections' weights twice, as the tables time them.
    """
    attention = group.attention
    assert isinstance(attention, Attention)
    context: OperatorModel
    generation: OperatorModel
    context, generation = kit.ops.mla_context_block, kit.ops.mla_generation_block
    if attention.index_top_k:
        context, generation = kit.ops.sparse_context, kit.ops.sparse_generation
    yield from _block(kit, g, group, layouts, work, context, generation)


def beside_dispatch(
    kit: ModuleKit, g: int, group: LayerGroup, layouts: Layouts, work: StepWork
) -> Iterator[Call]:
    """Blocks of ranks whose tokens are dispatched to experts; kernel by kernel elsewhere."""
    parts = ((~layouts.dispatched, latent), (layouts.dispatched, _beside_dispatched))
    yield from by_layout(kit, g, group, layouts, work, parts)


def _beside_dispatched(
    kit: ModuleKit, g: int, group: LayerGroup, layouts: Layouts, work: StepWork
) -> Iterator[Call]:
    """The blocks were timed with a cache in fp8, which a step of prompts alone does not feel.

    Decodes from a cache in bf16 are better known kernel by kernel.
    """
    alike = (work.decode_sequences == 0) | kit.precision.kv.startswith("fp8")
    for module, columns in ((_wide_block, alike), (latent, ~alike)):
        if columns.any():
            for call in module(kit, g, group, layouts, work):
                yield replace(call, time=where_present(columns, call.time))


def _wide_block(
    kit: ModuleKit, g: int, group: LayerGroup, layouts: Layouts, work: StepWork
) -> Iterator[Call]:
    attention = group.attention
    assert isinstance(attention, Attention)
    context, generation = kit.ops.wide_mla_context, kit.ops.wide_mla_generation
    yield from _block(kit, g, group, layouts, work, context, generation)
    shapes = Shapes(layouts, "cp_a")
    width = attention.q_lora_rank + attention.kv_lora_rank + attention.rope_head_dim
    down = kit.gemm("attention", rank_tokens(work, shapes["cp_a"]), width, kit.model.hidden)
    yield Call("latent_down_proj", "attention", LAYER, g, down, shapes.index)


def _block(
    kit: ModuleKit,
    g: int,
    group: LayerGroup,
    layouts: Layouts,
    work: StepWork,
    context: OperatorModel,
    generation: OperatorModel,
) -> Iterator[Call]:
    attention, hidden = group.attention, kit.model.hidden
    assert isinstance(attention, Attention)
    shapes = Shapes(layouts, "tp_a", "cp_a")
    tp, cp = shapes["tp_a"], shapes["cp_a"]
    dimensions = {
        "hidden": float(hidden),
        "q_lora_rank": float(attention.q_lora_rank),
        "kv_lora_rank": float(attention.kv_lora_rank),
        "rope_dim": float(attention.rope_head_dim),
        "nope_dim": float(attention.head_dim - attention.rope_head_dim),
        "v_dim": float(attention.v_head_dim),
        "index_heads": float(attention.index_heads),
        "index_dim": float(attention.index_head_dim),
        "index_top_k": float(attention.index_top_k),
    }
    categories = {
        "gemm_dtype": kit.precision.attention,
        "dtype": "bf16",
        "kv_dtype": "fp8" if kit.precision.kv.startswith("fp8") else "bf16",
    }
    if attention.index_top_k:
        categories["variant"] = "dsa" if attention.index_heads else "dsa_reuse"
        categories["model"] = nearest_model(dimensions)
    shape: dict[str, Number] = {"heads": attention.heads / tp, **dimensions}

    def call(name: str, time: OperatorTime, module: str = "attention") -> Call:
        return Call(name, module, LAYER, g, time, shapes.index)

    yield input_norm(kit, g, layouts, work)
    ranks = Group(cp, tp)
    if work.prefill_sequences.any():
        time = context.time(categories, shape | context_shape(work, cp))
        time = where_present(work.prefill_sequences > 0, time)
        yield call("context_attention_block", time)
        per_token = attention.kv_elements_per_token * kit.precision.bytes("kv")
        yield gather_cache(kit, call, ranks, work, per_token + attention.index_bytes_per_token)
    if work.decode_sequences.any():
        time = generation.time(categories, shape | generation_shape(work, cp))
        time = where_present(work.decode_sequences > 0, time)
        yield call("generation_attention_block", time)
        width = attention.heads / tp * attention.kv_lora_rank
        yield combine_partial(kit, call, ranks, work, np.asarray(width))
