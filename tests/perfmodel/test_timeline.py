"""Timelines: they show the time that steps are given, and nothing runs twice at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from perfmodel.breakdown import breakdown
from perfmodel.graph import COMMUNICATION, COMPUTE
from perfmodel.layout import parse_layout
from perfmodel.step import StepModel
from perfmodel.timeline import LayerTimeline, layer_timelines
from perfmodel.work import StepWork

StepOf = Callable[..., StepModel]
DECODE = StepWork.of(decode_sequences=64, context_tokens=2048)
PREFILL = StepWork.of(prefill_sequences=2, prefill_tokens=4096)


def free_of_collisions(layer: LayerTimeline) -> None:
    for stream in (COMPUTE, COMMUNICATION):
        spans = sorted((s for s in layer.spans if s.stream == stream), key=lambda s: s.start_s)
        for before, after in itertools.pairwise(spans):
            assert after.start_s >= before.end_s * (1 - 1e-9)


@pytest.mark.parametrize("work", [DECODE, PREFILL], ids=["decode", "prefill"])
@pytest.mark.parametrize(
    ("model", "layout"),
    [
        ("meta-llama/Llama-3.1-70B", "attn:TP8 ffn:TP8 PP1"),
        ("Qwen/Qwen3-235B-A22B", "attn:TP4DP2 ffn:TP1EP8 PP1"),
        ("deepseek-ai/DeepSeek-V3", "attn:TP1DP16 ffn:TP1EP16 PP1"),
    ],
)
def test_layers_make_up_a_step_but_for_its_ends(
    step_model: StepOf, model: str, layout: str, work: StepWork
) -> None:
    step, parsed = step_model(model, "h100_sxm", fmt="fp8"), parse_layout(layout)
    layers = layer_timelines(step, parsed, work)
    assert sum(layer.count for layer in layers) == step.model.layers
    for layer in layers:
        free_of_collisions(layer)
        assert layer.period_s == pytest.approx(max(span.end_s for span in layer.spans))
    whole = breakdown(step, parsed, work)
    ends = sum(op.total_s for op in whole.operators if op.calls == 1)
    ends += float(step.overhead_s(0, work)[0])
    shown = sum(layer.count * layer.period_s for layer in layers)
    assert shown == pytest.approx(whole.total_s - ends, rel=1e-6)


def test_half_batches_overlap(step_model: StepOf) -> None:
    step = step_model("deepseek-ai/DeepSeek-V3", "h100_sxm", "sglang", "fp8")
    layout = parse_layout("attn:TP1DP32 ffn:TP1EP32 PP1")
    layers = layer_timelines(step, layout, PREFILL)
    sparse = layers[-1]
    assert {span.lane for span in sparse.spans} == {"first half", "second half"}
    free_of_collisions(sparse)
    busy = sum(span.seconds for span in sparse.spans)
    assert sparse.period_s < busy
    travel = sum(span.seconds for span in sparse.spans if span.stream == COMMUNICATION)
    work = busy - travel
    assert sparse.period_s >= max(travel, work) * (1 - 1e-9)
    serial = breakdown(step, layout, PREFILL)
    assert serial.hidden_s > 0
    shown = sum(layer.count * layer.period_s for layer in layers)
    assert shown == pytest.approx(serial.total_s, rel=0.05)


def test_a_pipeline_shows_its_largest_stage(step_model: StepOf) -> None:
    step = step_model("meta-llama/Llama-3.1-70B", "h100_sxm", fmt="fp8")
    layers = layer_timelines(step, parse_layout("attn:TP2 ffn:TP2 PP4"), PREFILL)
    assert sum(layer.count for layer in layers) == 20


def test_operators_run_in_a_layers_order(step_model: StepOf) -> None:
    step = step_model("meta-llama/Llama-3.1-70B", "h100_sxm", fmt="fp8")
    (layer,) = layer_timelines(step, parse_layout("attn:TP8 ffn:TP8 PP1"), PREFILL)
    names = [span.name for span in layer.spans]
    order = ("qkv_proj", "output_proj", "attention_all_reduce", "ffn_norm", "ffn_all_reduce")
    assert [names.index(name) for name in order] == sorted(names.index(name) for name in order)
    assert names[-1] == "ffn_all_reduce"
