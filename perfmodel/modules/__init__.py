"""The modules of a model, each as the operator calls that one step makes of it.

| name | what |
|---|---|
| `ModuleKit` | model, precision and operators that the modules share |
| `Call` | one operator call: which part of the model, its time, for which layouts |
| `step_calls` | every call of a step |
| `VISION` | what the names of the vision encoder's operators begin with |
| `encode` | of these, the vision encoder's |
| `draft_calls` | of these, the passes of the module that drafts tokens |
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from perfmodel.architecture import Attention, LayerGroup, Recurrent
from perfmodel.correction import DRAFT
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
    if work.drafted.any():
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
        time = call.time
        whole = (*time.seconds.shape[:1], len(one))
        time = OperatorTime(
            np.broadcast_to(time.seconds, whole)[:, column] * passes,
            np.broadcast_to(time.kind, whole)[:, column],
            np.broadcast_to(time.bound, whole)[:, column],
            np.broadcast_to(time.floor_s, whole)[:, column] * passes,
        )
        yield replace(call, name=DRAFT + call.name, part=HEAD, group=0, time=time)


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
