"""Sequence parallelism: where it is faster, and what it does to a step's operators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from perfmodel.breakdown import breakdown
from perfmodel.engine import engine_profile
from perfmodel.layout import format_layout, parse_layout
from perfmodel.step import StepModel
from perfmodel.work import StepWork

StepOf = Callable[..., StepModel]

PROMPT = StepWork.of(prefill_sequences=1, prefill_tokens=8192)
DECODES = StepWork.of(decode_sequences=64, context_tokens=2000)
DENSE = "meta-llama/Llama-3.1-70B"
SPLIT = replace(engine_profile("vllm"), shards_sequence=True)


@pytest.mark.parametrize("text", ["attn:TP4 ffn:TP4 PP1", "attn:TP2CP2 ffn:TP4 PP1"])
@pytest.mark.parametrize("device", ["h100_sxm", "l40s", "mi300x"])
def test_a_step_takes_the_faster_way(step_model: StepOf, device: str, text: str) -> None:
    layout = parse_layout(text)
    plain = step_model(DENSE, device, engine_profile("vllm"))
    split = step_model(DENSE, device, SPLIT)
    for work in (PROMPT, DECODES):
        assert split.time(layout, work).pace_s.item() <= plain.time(layout, work).pace_s.item()
    assert split.time(layout, DECODES).pace_s == plain.time(layout, DECODES).pace_s


def test_norms_are_split_where_the_all_reduce_is(step_model: StepOf) -> None:
    """Without tables: the collectives take the same, and a quarter of the norm is left."""
    layout = parse_layout("attn:TP4 ffn:TP4 PP1")
    plain, split = (
        {op.name: op for op in breakdown(step, layout, PROMPT).operators if op.total_s > 0}
        for step in (
            step_model(DENSE, "mi300x", engine_profile("vllm")),
            step_model(DENSE, "mi300x", SPLIT),
        )
    )
    for module in ("attention", "ffn"):
        parts = [split[f"{module}_{name}"].seconds for name in ("reduce_scatter", "all_gather")]
        assert f"{module}_all_reduce" not in split
        assert sum(parts) == pytest.approx(plain[f"{module}_all_reduce"].seconds, rel=0.02)
    for norm in ("input_norm", "ffn_norm"):
        assert split[norm].seconds == pytest.approx(plain[norm].seconds / 4, rel=0.02)


def test_the_mark_reads_back() -> None:
    layout = parse_layout("attn:TP2CP2DP2 ffn:TP2EP4 PP1")
    marked = format_layout(layout, sequence=True)
    assert marked == "attn:TP2SPCP2DP2 ffn:TP2EP4 PP1"
    assert format_layout(parse_layout(marked)) == "attn:TP2CP2DP2 ffn:TP2EP4 PP1"
