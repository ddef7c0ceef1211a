"""Layouts that engines can express, by hand and within the space."""

from __future__ import annotations

from dataclasses import replace

import pytest

from perfmodel.architecture import load_model
from perfmodel.hardware import load_device
from perfmodel.layout import format_layout, parse_layout
from spaces import enumerate_layouts, structure_constraints
from spaces.expressible import RULES, Place, Traits, expressible

DENSE, EXPERTS = Traits(is_moe=False, kv_heads=8), Traits(is_moe=True, kv_heads=8)
LATENT = Traits(is_moe=True, latent=True)
INDEXED = Traits(is_moe=True, latent=True, indexed=True)


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
    able = [e for e in RULES if expressible(e, EXPERTS).of(parse_layout(layout))[0]]
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
    able = [e for e in RULES if expressible(e, DENSE).of(parse_layout(layout))[0]]
    assert able == engines.split()


@pytest.mark.parametrize(
    ("engine", "stages"),
    [("vllm", (False, False)), ("sglang", (True, False)), ("trtllm", (True, True))],
)
def test_pipelines_between_which_caches_move(engine: str, stages: tuple[bool, bool]) -> None:
    two = parse_layout("attn:TP4 ffn:TP4 PP2")
    found = tuple(
        bool(expressible(engine, EXPERTS, Place(r)).of(two)[0]) for r in ("prefill", "decode")
    )
    assert found == stages
    assert expressible(engine, EXPERTS).of(two)[0]


@pytest.mark.parametrize("engine", RULES)
def test_the_enumeration_holds_the_expressible_layouts_alone(engine: str) -> None:
    model = load_model("Qwen/Qwen3-30B-A3B")
    structure, rule = structure_constraints(model), expressible(engine, Traits.of(model))
    whole, found = enumerate_layouts(structure, 16), enumerate_layouts([*structure, rule], 16)
    kept = whole[rule.of(whole)]
    spelled = [format_layout(found, i) for i in range(len(found))]
    assert spelled == [format_layout(kept, i) for i in range(len(kept))]
    assert 0 < len(found) < len(whole)


def test_a_draft_model_leaves_sglang_tensor_parallelism() -> None:
    drafted = replace(EXPERTS, drafter=True)
    for layout, left in (
        ("attn:TP8 ffn:TP2EP4 PP1", True),
        ("attn:TP1DP8 ffn:TP1EP8 PP1", False),
        ("attn:TP8 ffn:TP8 PP2", False),
    ):
        assert expressible("sglang", EXPERTS).of(parse_layout(layout))[0]
        assert expressible("sglang", drafted).of(parse_layout(layout))[0] == left


@pytest.mark.parametrize(
    ("name", "traits"),
    [
        ("meta-llama/Llama-3.1-70B", DENSE),
        ("openai/gpt-oss-120b", EXPERTS),
        ("deepseek-ai/DeepSeek-V3", LATENT),
        ("zai-org/GLM-5", INDEXED),
        ("Qwen/Qwen3.5-27B", Traits(is_moe=False)),  # its states are cut as well
    ],
)
def test_traits_of_models(name: str, traits: Traits) -> None:
    assert Traits.of(load_model(name)) == traits


@pytest.mark.parametrize(
    ("layout", "model", "device", "places"),
    [
        ("attn:TP1CP8 ffn:TP8 PP1", INDEXED, "h200_sxm", {"vllm": "continuous prefill"}),
        ("attn:TP2CP4 ffn:TP8 PP1", INDEXED, "h200_sxm", {"vllm": "continuous"}),
        ("attn:TP1CP8 ffn:TP1EP8 PP1", INDEXED, "h200_sxm", {}),  # half batches beside it
        ("attn:TP1CP8 ffn:TP8 PP1", INDEXED, "mi300x", {}),  # FlashMLA's kernels
        ("attn:TP1CP8 ffn:TP8 PP1", EXPERTS, "h200_sxm", {}),
        ("attn:TP2CP4 ffn:TP2EP4 PP2", LATENT, "b200_sxm", {"trtllm": "decode"}),
        ("attn:TP1CP4DP2 ffn:TP1EP8 PP1", LATENT, "b200_sxm", {"trtllm": "decode"}),
        ("attn:TP2CP4 ffn:TP2EP4 PP1", LATENT, "h200_sxm", {}),  # Helix is on Blackwell
        ("attn:TP2CP4 ffn:TP2EP4 PP1", INDEXED, "b200_sxm", {}),
    ],
)
def test_context_parallelism(
    layout: str, model: Traits, device: str, places: dict[str, str]
) -> None:
    roles = ("continuous", "prefill", "decode")
    able = {
        e: [
            r
            for r in roles
            if expressible(e, model, Place(r, load_device(device))).of(parse_layout(layout))[0]
        ]
        for e in RULES
    }
    assert {e: " ".join(found) for e, found in able.items() if found} == places


@pytest.mark.parametrize(
    ("engine", "model", "without", "beside"),
    [
        ("vllm", INDEXED, Place("prefill", kv="fp8"), Place("prefill", kv="bf16")),
        ("trtllm", LATENT, Place("decode"), Place("decode", drafts=True)),
    ],
)
def test_what_excludes_context_parallelism(
    engine: str, model: Traits, without: Place, beside: Place
) -> None:
    split = parse_layout("attn:TP1CP8 ffn:TP8 PP1")
    assert expressible(engine, model, without).of(split)[0]
    assert not expressible(engine, model, beside).of(split)[0]


@pytest.mark.parametrize(
    ("model", "prefill_tp", "decode_tp", "moves"),
    [
        (EXPERTS, 8, 1, True),  # each rank holds a KV head
        (EXPERTS, 16, 8, False),  # two ranks hold one, and fewer ask for it
        (EXPERTS, 16, 16, True),
        (EXPERTS, 4, 16, True),
        (LATENT, 16, 1, True),
    ],
)
def test_caches_that_vllm_can_move(
    model: Traits, prefill_tp: int, decode_tp: int, moves: bool
) -> None:
    layout = parse_layout(f"attn:TP{prefill_tp} ffn:TP{prefill_tp} PP1")
    for engine in RULES:
        place = Place("prefill", decode_tp=decode_tp)
        assert expressible(engine, model, place).of(layout)[0] == (moves or engine != "vllm")
