"""The modules of a model, each as the operator calls that one step makes of it.

| name | what |
|---|---|
| `ModuleKit` | model, precision and operators that the modules share |
| `Call` | one operator call: which part of the model, its time, for which layouts |
| `step_calls` | every call of a step |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from perfmodel.architecture import Attention, LayerGroup, Recurrent
from perfmodel.layout import Layouts
from perfmodel.modules.attention import grouped_query, latent
from perfmodel.modules.base import BOUNDARY, EMBEDDING, HEAD, LAYER, Call, ModuleKit
from perfmodel.modules.ends import ends
from perfmodel.modules.exchange import exchange
from perfmodel.modules.feed_forward import dense, routed
from perfmodel.modules.latent_block import block
from perfmodel.modules.recurrent import recurrent
from perfmodel.work import StepWork

Module = Callable[[ModuleKit, int, LayerGroup, Layouts, StepWork], Iterator[Call]]

__all__ = ["BOUNDARY", "EMBEDDING", "HEAD", "LAYER", "Call", "ModuleKit", "step_calls"]


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
        for module in (routed, dense, exchange) if ffn.is_moe else (dense, exchange):
            yield from _shared(members, module(kit, *members[0], layouts, work))
    yield from ends(kit, layouts, work)


def _mixer(kit: ModuleKit, attention: Attention | Recurrent) -> Module:
    if isinstance(attention, Recurrent):
        return recurrent
    if attention.kind == "gqa":
        return grouped_query
    # Some engines' tables have latent attention as one block, others by its kernels.
    whole = bool(attention.q_lora_rank) and kit.ops.mla_generation_block.has_table
    return block if attention.index_top_k or whole else latent


def _shared(members: list[tuple[int, LayerGroup]], calls: Iterator[Call]) -> Iterator[Call]:
    for call in calls:
        for g, _ in members:
            yield replace(call, group=g)
