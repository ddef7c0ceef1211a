"""The modules of a model, each as the operator calls that one step makes of it.

| name | what |
|---|---|
| `ModuleKit` | model, precision and operators that the modules share |
| `Call` | one operator call: which part of the model, its time, for which layouts |
| `step_calls` | every call of a step |
"""

from __future__ import annotations

from collections.abc import Iterator

from perfmodel.layout import Layouts
from perfmodel.modules.attention import grouped_query, latent
from perfmodel.modules.base import BOUNDARY, EMBEDDING, HEAD, LAYER, Call, ModuleKit
from perfmodel.modules.ends import ends
from perfmodel.modules.exchange import exchange
from perfmodel.modules.feed_forward import dense, routed
from perfmodel.work import StepWork

__all__ = ["BOUNDARY", "EMBEDDING", "HEAD", "LAYER", "Call", "ModuleKit", "step_calls"]


def step_calls(kit: ModuleKit, layouts: Layouts, work: StepWork) -> Iterator[Call]:
    """Every operator call of a step, for all layouts and columns of work."""
    for g, group in enumerate(kit.model.groups):
        attention = latent if group.attention.kind == "mla" else grouped_query
        yield from attention(kit, g, group, layouts, work)
        if group.feed_forward.is_moe:
            yield from routed(kit, g, group, layouts, work)
        yield from dense(kit, g, group, layouts, work)
        yield from exchange(kit, g, group, layouts, work)
    yield from ends(kit, layouts, work)
