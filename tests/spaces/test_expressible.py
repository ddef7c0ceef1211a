"""Layouts that engines can express, by hand and within the space."""

from __future__ import annotations

import pytest

from perfmodel.architecture import load_model
from perfmodel.layout import format_layout, parse_layout
from spaces import enumerate_layouts, structure_constraints
from spaces.expressible import RULES, expressible


@pytest.mark.parametrize(
    ("layout", "engines"),
    [
        ("attn:TP8 ffn:TP8 PP1", "vllm sglang trtllm"),
        ("attn:TP8 ffn:TP1EP8 PP2", "vllm sglang trtllm"),
        ("attn:TP1DP8 ffn:TP1EP8 PP1", "vllm sglang trtllm"),
        ("attn:TP2DP4 ffn:TP1EP8 PP1", "vllm sglang"),  # a switch in TensorRT-LLM
        ("attn:TP8 ffn:TP2EP4 PP1", "sglang trtllm"),  # vLLM's experts are whole or cut by all
        ("attn:TP1DP8 ffn:TP2EP4 PP1", "trtllm"),
        ("attn:TP2CP2DP2 ffn:TP1EP8 PP1", ""),
        ("attn:TP4DP2 ffn:TP4DP2 PP1", ""),
        ("attn:TP1DP8 ffn:TP1EP8 PP2", "sglang trtllm"),
    ],
)
def test_mixtures_of_experts(layout: str, engines: str) -> None:
    able = [e for e in RULES if expressible(e, True).of(parse_layout(layout))[0]]
    assert able == engines.split()


@pytest.mark.parametrize(
    ("layout", "engines"),
    [
        ("attn:TP8 ffn:TP8 PP2", "vllm sglang trtllm"),
        ("attn:TP4DP2 ffn:TP8 PP1", ""),
        ("attn:TP1DP4 ffn:TP2DP2 PP1", ""),
    ],
)
def test_dense_models(layout: str, engines: str) -> None:
    able = [e for e in RULES if expressible(e, False).of(parse_layout(layout))[0]]
    assert able == engines.split()


@pytest.mark.parametrize(
    ("engine", "stages"),
    [("vllm", (False, False)), ("sglang", (True, False)), ("trtllm", (True, True))],
)
def test_pipelines_between_which_caches_move(engine: str, stages: tuple[bool, bool]) -> None:
    two = parse_layout("attn:TP4 ffn:TP4 PP2")
    found = tuple(bool(expressible(engine, True, r).of(two)[0]) for r in ("prefill", "decode"))
    assert found == stages
    assert expressible(engine, True).of(two)[0]


@pytest.mark.parametrize("engine", RULES)
def test_the_enumeration_holds_the_expressible_layouts_alone(engine: str) -> None:
    model = load_model("Qwen/Qwen3-30B-A3B")
    structure, rule = structure_constraints(model), expressible(engine, model.is_moe)
    whole, found = enumerate_layouts(structure, 16), enumerate_layouts([*structure, rule], 16)
    kept = whole[rule.of(whole)]
    spelled = [format_layout(found, i) for i in range(len(found))]
    assert spelled == [format_layout(kept, i) for i in range(len(kept))]
    assert 0 < len(found) < len(whole)
