"""Whole steps of layouts whose tokens travel to experts on other devices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from perfmodel.database import PerfStore
from perfmodel.engine import engine_profile
from perfmodel.hardware import load_device
from perfmodel.layout import parse_layout
from perfmodel.model_catalog import load_model
from perfmodel.modules import spread_experts as ways
from perfmodel.modules import step_calls
from perfmodel.modules.base import ModuleKit
from perfmodel.operators import Group, Operators
from perfmodel.precision import Precision
from perfmodel.provenance import phase_provenance
from perfmodel.step import StepModel
from perfmodel.work import StepWork

DEEPSEEK = load_model("deepseek-ai/DeepSeek-V3")
BLOCKS = Precision("fp8_block", "fp8_block", "fp8_block", "bf16")
PREFILL = StepWork.of(prefill_sequences=8, prefill_tokens=2000)
DECODE = StepWork.of(decode_sequences=256, context_tokens=2050)


def step(
    store: PerfStore, device: str = "h100_sxm", engine: str = "sglang", *, overlap: bool = True
) -> tuple[StepModel, Operators]:
    machine = load_device(device)
    operators = Operators(machine, engine, store)
    profile = replace(engine_profile(engine), splits_batches=overlap)
    return StepModel(DEEPSEEK, machine, profile, BLOCKS, operators, "balanced"), operators


# LMSYS, "Deploying DeepSeek with PD Disaggregation and Large-Scale Expert Parallelism on 96 H100
# GPUs" (5 May 2025): tokens/s of a host of eight, with two-batch overlap and the expert load
# balancer. Serving loses what no operator accounts for, so that ours may be above.
PUBLISHED = [
    ("attn:TP1DP32 ffn:TP1EP32 PP1", PREFILL, 52_300.0),
    ("attn:TP1DP72 ffn:TP1EP72 PP1", DECODE, 22_300.0),
]


@pytest.mark.parametrize(("layout", "work", "published"), PUBLISHED)
def test_published_rates_of_wide_expert_parallelism(
    store: PerfStore, layout: str, work: StepWork, published: float
) -> None:
    rates = [
        8
        * float(
            work.new_tokens[0]
            / step(store, overlap=overlap)[0].time(parse_layout(layout), work).pace_s[0, 0]
        )
        for overlap in (True, False)
    ]
    assert 0.9 < rates[0] / published < 1.4
    assert rates[1] < 0.8 * rates[0]


def test_each_family_serves_the_layouts_it_was_timed_for(store: PerfStore) -> None:
    def families(layout: str, kv: str = "bf16") -> set[str]:
        model, operators = step(store)
        model = StepModel(
            DEEPSEEK, model.device, model.engine, replace(BLOCKS, kv=kv), operators, "balanced"
        )
        found = phase_provenance("decode", model, operators, parse_layout(layout), DECODE)
        return {lookup.family for lookup in found.lookups}

    aligned = families("attn:TP8 ffn:TP1EP8 PP1")
    assert "moe" in aligned
    assert not aligned & {"moe_dispatched", "all_to_all", "wideep_mla_generation"}
    spread = families("attn:TP1DP32 ffn:TP1EP32 PP1")
    assert {"moe_dispatched", "all_to_all", "mla_generation"} <= spread
    assert "wideep_mla_generation" in families("attn:TP1DP32 ffn:TP1EP32 PP1", kv="fp8")


def test_the_faster_way_is_taken(store: PerfStore) -> None:
    """On one host 64 tokens per device are gathered sooner than sent, 8,000 are not."""
    _, operators = step(store, "h200_sxm", "trtllm")
    kit = ModuleKit(DEEPSEEK, BLOCKS, operators, "balanced")
    group = next(g for g in DEEPSEEK.groups if g.feed_forward.is_moe)
    layouts = parse_layout("attn:TP1DP8 ffn:TP1EP8 PP1")
    work = StepWork.of(
        decode_sequences=[64.0, 0.0],
        context_tokens=1000.0,
        prefill_sequences=[0.0, 1.0],
        prefill_tokens=8000.0,
    )
    shapes = ways.Shapes(layouts, "tp_f", "ep_f", *ways.POOLING)
    both = [way(kit, group, shapes, work).seconds for way in (ways._dispatched, ways._gathered)]
    calls = list(ways.spread_experts(kit, 0, group, layouts, work))
    taken = sum(call.time.seconds for call in calls)
    assert taken == pytest.approx(np.minimum(*both))
    assert both[1][0, 0] < both[0][0, 0]
    assert both[0][0, 1] < both[1][0, 1]
    names = [call.name for call in step_calls(kit, layouts, work) if call.time.seconds.any()]
    assert names.count("dispatch") == names.count("combine") == 1


@pytest.mark.parametrize("work", [PREFILL, DECODE], ids=["prefill", "decode"])
def test_shards_of_experts_gather_what_each_device_has(store: PerfStore, work: StepWork) -> None:
    """Two hosts of TP8: each NIC carries an eighth of the tokens that a host lacks."""
    model, operators = step(store, overlap=False)
    layout = parse_layout("attn:TP8DP2 ffn:TP8EP2 PP1")
    kit = ModuleKit(DEEPSEEK, BLOCKS, operators, "balanced")
    group = next(g for g, one in enumerate(DEEPSEEK.groups) if one.feed_forward.is_moe)
    found = {
        call.name: float(call.time.seconds[call.index[0], 0])
        for call in step_calls(kit, layout, work)
        if call.group == group and call.module == "communication"
    }
    assert found["ffn_all_gather"] == found["ffn_reduce_scatter"] == 0.0
    tokens = 2 * float(work.new_tokens[0])  # of both attention groups
    all_devices = Group(np.full((1, 1), 16.0), np.ones((1, 1)))
    payload = np.full((1, 1), tokens * DEEPSEEK.hidden * 2)
    for name, gather in (
        ("dispatch", operators.collectives.all_gather),
        ("combine", operators.collectives.reduce_scatter),
    ):
        assert found[name] == pytest.approx(float(gather(all_devices, payload).seconds[0, 0]))
    nic = model.device.links[-1]
    carried_s = tokens / 2 * DEEPSEEK.hidden * 2 / 8 / (nic.pair_bytes_per_s * nic.achieved)
    if work is PREFILL:
        assert carried_s < found["dispatch"] < 4 * carried_s
    # Whole experts on as many devices travel: they may move less.
    whole = parse_layout("attn:TP8DP2 ffn:TP1EP16 PP1")
    assert "dispatch" in {call.name for call in step_calls(kit, whole, work)}
