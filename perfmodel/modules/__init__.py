"""The modules of a model, each as the operator calls that one step makes of it.

| name | what |
|---|---|
| `ModuleKit` | model, precision and operators that the modules share |
| `Call` | one operator call: which part of the model, its time, for which layouts |
| `step_calls` | every call of a step |
| `VISION` | what the names of the vision encoder's operators begin with |
| `encode` | of these, the vision encoder's |
| `draft_calls` | of these, the passes of the module that drafts tokens |
| `drafter_calls` | or those of a draft model |
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from perfmodel.architecture import Attention, LayerGroup, Recurrent
from perfmodel.correction import DRAFT
from perfmodel.drafter import drafter_layouts
from perfmodel.layout import Layouts
from perfmodel.modules.attention import grouped_query, latent
from perfmodel.modules.base import BOUNDARY, EMBEDDING, HEAD, LAYER, Call, Module, ModuleKit
from perfmodel.modules.ends import draft_projection, ends
from perfmodel.modules.exchange import exchange
from perfmodel.modules.feed_forward import dense, routed
from perfmodel.modules.latent_block import beside_dispatch, block
from perfmodel.modules.recurrent import recurrent
from perfmodel.modules.vision import VISION, encode
from perfmodel.operators import OperatorTime
from perfmodel.work import StepWork

__all__ = [
    "BOUNDARY",
    "EMBEDDING",
    "HEAD",
    "LAYER",
    "VISION",
    "Call",
    "ModuleKit",
    "draft_calls",
    "drafter_calls",
    "encode",
    "step_calls",
]


def step_calls(kit: ModuleKit, layouts: Layouts, work: StepWork) -> Iterator[Call]:
    """Every operator call of a step, for all layouts and columns of work.

    Layer groups that share their attention, or their feed-forward network, share its calls.
    """
    groups = list(enumerate(kit.model.groups))
    for attention in dict.fromkeys(group.attention for _, group in groups):
        members = [(g, group) for g, group in groups if group.attention == attention]
        module = _mixer(kit, attention)
        yield from _shared(members, module(kit, *members[0], layouts, work))
    for ffn in dict.fromkeys(group.feed_forward for _, group in groups):
        members = [(g, group) for g, group in groups if group.feed_forward == ffn]
        for module in _feed_forward(members[0][1]):
            yield from _shared(members, module(kit, *members[0], layouts, work))
    yield from ends(kit, layouts, work)
    if work.vision_sequences.any():
        yield from encode(kit, layouts, work)
    if kit.model.drafter is not None and (work.drafted.any() or work.drafts_prompts.any()):
        yield from drafter_calls(kit, layouts, work)
    elif kit.model.drafter is None and work.drafted.any():
        yield from draft_calls(kit, layouts, work)


def draft_calls(kit: ModuleKit, layouts: Layouts, work: StepWork) -> Iterator[Call]:
    """The passes that draft tokens, one after another, by a multi-token-prediction module.

    Each takes one token per decoded sequence through the module: its embedding, joined with
    the hidden state by a projection, a layer, and the LM head. It lies on the last stage. A
    call's time is that of all passes of the step.
    """
    shapes, column = np.unique(
        np.stack([work.decode_sequences, work.context_tokens]), axis=1, return_inverse=True
    )
    column, passes = column.reshape(-1), work.drafted
    one = StepWork.of(decode_sequences=shapes[0], context_tokens=shapes[1])
    group = kit.model.groups[kit.model.draft_group]
    modules = [_mixer(kit, group.attention), *_feed_forward(group)]
    calls = [ends(kit, layouts, one), draft_projection(kit, layouts, one)]
    calls += [module(kit, 0, group, layouts, one) for module in modules]
    for call in (call for made in calls for call in made):
        if call.part == BOUNDARY:
            continue
        time = _columns(call.time, len(one), column, passes)
        yield replace(call, name=DRAFT + call.name, part=HEAD, group=0, time=time)


def drafter_calls(kit: ModuleKit, layouts: Layouts, work: StepWork) -> Iterator[Call]:
    """The passes of a draft model: one for prompts, and one for each token drafted.

    A call's time is that of all its passes of the step, in all layers of its group.
    """
    drafter = kit.model.drafter
    assert drafter is not None
    precision = drafter.precision.on(kit.ops.gemm.device.peak_flops_per_s)
    own = replace(kit, model=drafter.model, precision=precision)
    beside = drafter_layouts(drafter, layouts)
    shapes, column = np.unique(
        np.stack([work.decode_sequences, work.context_tokens]), axis=1, return_inverse=True
    )
    token = StepWork.of(decode_sequences=shapes[0], context_tokens=shapes[1])
    prompt = StepWork.of(
        prefill_sequences=np.where(work.drafts_prompts, work.prefill_sequences, 0.0),
        prefill_tokens=work.prefill_tokens,
        prefix_tokens=work.prefix_tokens,
    )
    drafting = step_calls(own, beside, token)
    reading = step_calls(own, beside, prompt) if work.drafts_prompts.any() else iter(())
    every = np.arange(len(work))
    passes = (
        (drafting, len(token), column.reshape(-1), work.drafted),
        (reading, len(work), every, work.drafts_prompts.astype(float)),
    )
    found: dict[tuple[str, int], Call] = {}
    for calls, width, columns, times in passes:
        for call in calls:
            count = drafter.model.groups[call.group].count if call.part == LAYER else 1
            time = _columns(call.time, width, columns, times * count)
            known = found.get((call.name, call.group))
            if known is not None:
                time = _sum(known.time, time)
            found[call.name, call.group] = replace(call, time=time)
    for (name, _), call in found.items():
        yield replace(call, name=DRAFT + name, part=HEAD, group=0)


def _columns(
    time: OperatorTime, width: int, column: NDArray[np.intp], passes: NDArray[np.float64]
) -> OperatorTime:
    """Some columns of a time over `width` of them, each so many times."""
    whole = (*time.seconds.shape[:1], width)
    return OperatorTime(
        np.broadcast_to(time.seconds, whole)[:, column] * passes,
        np.broadcast_to(time.kind, whole)[:, column],
        np.broadcast_to(time.bound, whole)[:, column],
        np.broadcast_to(time.floor_s, whole)[:, column] * passes,
    )


def _sum(a: OperatorTime, b: OperatorTime) -> OperatorTime:
    """Two times of one operator, known and bound as the longer of them."""
    longer = a.seconds >= b.seconds
    return OperatorTime(
        a.seconds + b.seconds,
        np.where(longer, a.kind, b.kind),
        np.where(longer, a.bound, b.bound),
        a.floor_s + b.floor_s,
    )


def _feed_forward(group: LayerGroup) -> tuple[Module, ...]:
    return (routed, dense, exchange) if group.feed_forward.is_moe else (dense, exchange)


def _mixer(kit: ModuleKit, attention: Attention | Recurrent) -> Module:
    if isinstance(attention, Recurrent):
        return recurrent
    if attention.kind == "gqa":
        return grouped_query
    # Some engines' tables have latent attention as one block, others by its kernels.
    ranked = bool(attention.q_lora_rank)
    if attention.index_top_k or (ranked and kit.ops.mla_generation_block.has_table):
        return block
    return beside_dispatch if ranked and kit.ops.wide_mla_generation.has_table else latent


def _shared(members: list[tuple[int, LayerGroup]], calls: Iterator[Call]) -> Iterator[Call]:
    for call in calls:
        for g, _ in members:
            yield replace(call, group=g)
