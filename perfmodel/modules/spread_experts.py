"""Routed experts on devices that do not share tokens, and how the tokens get there.

Engines have two ways. Tokens are dispatched to the devices of their experts and combined again;
or every device of the group gathers all tokens, computes those of its experts, and the sums are
scattered. The first moves less, the second starts sooner; the faster one is taken.

Experts that are sharded as well are reached in the second way alone, by one gather over the
devices of all experts and shards: each device sends the tokens that it has, not what its shard
needs. So does TensorRT-LLM (`CommunicationFactory.create_strategy`: its all-to-all kernels serve
whole experts); SGLang's DeepEP takes `ep_size = tp_size`; vLLM's experts are spread or sharded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from perfmodel.architecture import LayerGroup
from perfmodel.expert_load import ExpertLoad, busiest_device
from perfmodel.layout import Layouts
from perfmodel.modules.base import LAYER, POOLING, Call, FloatArray, ModuleKit, Shapes, group_tokens
from perfmodel.operators import Group, OperatorTime, Tokens
from perfmodel.operators.moe import RoutedExperts
from perfmodel.precision import ACTIVATION_BYTES, FORMATS
from perfmodel.work import StepWork

WIRE_FORMATS = {"bf16": "bf16", "fp8": "fp8", "int8": "fp8", "fp4": "nvfp4"}
"""How an activation travels to a product, by the peak at which the product runs."""

GATED = 3
"""Products of a gated expert."""


@dataclass(frozen=True)
class _Way:
    there: OperatorTime
    experts: OperatorTime
    back: OperatorTime

    @property
    def seconds(self) -> FloatArray:
        total: FloatArray = self.there.seconds + self.experts.seconds + self.back.seconds
        return total


def spread_experts(
    kit: ModuleKit, g: int, group: LayerGroup, layouts: Layouts, work: StepWork
) -> Iterator[Call]:
    """The experts, `dispatch` before and `combine` after them."""
    shapes = Shapes(layouts, "tp_f", "ep_f", *POOLING)
    dispatched = _dispatched(kit, group, shapes, work)
    gathered = _gathered(kit, group, shapes, work)
    whole = shapes["tp_f"] == 1
    first = whole & (dispatched.seconds <= gathered.seconds)

    def faster(a: OperatorTime, b: OperatorTime) -> OperatorTime:
        return OperatorTime(
            np.where(first, a.seconds, b.seconds),
            np.where(first, a.kind, b.kind),
            np.where(first, a.bound, b.bound),
            np.where(first, a.floor_s, b.floor_s),
        )

    there, back = faster(dispatched.there, gathered.there), faster(dispatched.back, gathered.back)
    experts = faster(dispatched.experts, gathered.experts)
    yield Call("routed_experts", "ffn", LAYER, g, experts, shapes.index)
    yield Call("dispatch", "communication", LAYER, g, there, shapes.index)
    yield Call("combine", "communication", LAYER, g, back, shapes.index)


def pooled_experts(
    kit: ModuleKit, g: int, group: LayerGroup, layouts: Layouts, work: StepWork
) -> Iterator[Call]:
    """Experts on devices that hold all tokens of their group anyway."""
    shapes = Shapes(layouts, "tp_f", "ep_f", *POOLING)
    time = _of_all_tokens(kit, group, shapes, work, kit.ops.experts)
    yield Call("routed_experts", "ffn", LAYER, g, time, shapes.index)


def _of_all_tokens(
    kit: ModuleKit, group: LayerGroup, shapes: Shapes, work: StepWork, operator: RoutedExperts
) -> OperatorTime:
    ffn = group.feed_forward
    one = np.ones_like(shapes["tp_f"])
    categories = {
        "dtype": kit.precision.experts,
        "activation": "gated" if ffn.gated else "plain",
    }
    shape = {
        "tokens": group_tokens(work, shapes),
        "hidden": (ffn.latent or kit.model.hidden) * one,
        "intermediate": ffn.intermediate * one,
        "top_k": ffn.top_k * one,
        "experts": ffn.experts * one,
        "tp": shapes["tp_f"],
        "ep": shapes["ep_f"],
    }
    if isinstance(kit.routing, ExpertLoad):
        return operator.under_load(kit.routing, categories, shape)
    return operator.time({**categories, "routing": kit.routing}, shape)


def _gathered(kit: ModuleKit, group: LayerGroup, shapes: Shapes, work: StepWork) -> _Way:
    """4-bit activations are gathered as such, others before they are quantized."""
    devices = shapes["tp_f"] * shapes["ep_f"]
    peers = Group(devices, np.ones_like(devices))
    values = _sent(shapes, work) * devices * (group.feed_forward.latent or kit.model.hidden)
    small = WIRE_FORMATS[kit.peak("experts")] == "nvfp4"
    size = FORMATS["nvfp4"].bytes if small else ACTIVATION_BYTES
    return _Way(
        kit.ops.collectives.all_gather(peers, values * size),
        _of_all_tokens(kit, group, shapes, work, kit.ops.experts),
        kit.ops.collectives.reduce_scatter(peers, values * ACTIVATION_BYTES),
    )


def _dispatched(kit: ModuleKit, group: LayerGroup, shapes: Shapes, work: StepWork) -> _Way:
    ffn, exchange = group.feed_forward, kit.ops.exchange
    peers = Group(shapes["ep_f"], shapes["tp_f"])
    sent = _sent(shapes, work)
    if isinstance(kit.routing, ExpertLoad):
        # The exchange ends when the busiest device has what it is sent.
        entering = group_tokens(work, shapes)
        busiest, _ = busiest_device(kit.routing, ffn.experts, ffn.top_k, shapes["ep_f"], entering)
        sent = sent * busiest
    tokens = Tokens(
        count=sent,
        hidden=ffn.latent or kit.model.hidden,
        top_k=ffn.top_k,
        experts=ffn.experts,
        sent=WIRE_FORMATS[kit.peak("experts")],
        prompts=work.prefill_sequences > 0,
    )
    return _Way(
        exchange.dispatch(peers, tokens),
        _of_own_tokens(kit, group, shapes, work, exchange.few_tokens(peers)),
        exchange.combine(peers, tokens),
    )


def _sent(shapes: Shapes, work: StepWork) -> FloatArray:
    """Tokens of one device, whose attention it has computed or shared."""
    devices = shapes["tp_f"] * shapes["ep_f"]
    sent: FloatArray = np.maximum(group_tokens(work, shapes) / devices, 1.0)
    return sent


def _of_own_tokens(
    kit: ModuleKit, group: LayerGroup, shapes: Shapes, work: StepWork, few_tokens: FloatArray
) -> OperatorTime:
    operator, stand_in = kit.ops.dispatched_experts, kit.ops.spread_experts
    if not operator.has_table and stand_in.has_table:
        return _of_all_tokens(kit, group, shapes, work, stand_in)
    ffn, tp, ep = group.feed_forward, shapes["tp_f"], shapes["ep_f"]
    one = np.ones_like(tp)
    return operator.serve(
        kit.precision.experts,
        kit.routing,
        {
            "tokens": group_tokens(work, shapes),
            "hidden": (ffn.latent or kit.model.hidden) * one,
            # The tables' are gated and whole; of fewer products, or a shard, as wide a one.
            "intermediate": ffn.intermediate * ffn.matrices / GATED / tp,
            "top_k": ffn.top_k * one,
            "experts": ffn.experts * one,
            # Every device holds as many: where they do not divide, some experts twice.
            "slots": np.ceil(ffn.experts / ep) * ep,
            "ep": ep,
        },
        work.prefill_sequences > 0,
        few_tokens,
    )
