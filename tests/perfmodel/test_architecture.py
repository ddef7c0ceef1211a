"""Model architectures: counts against published figures, names, and properties of any model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.architecture import (
    QUANTIZATION_GROUP,
    Attention,
    FeedForward,
    LayerGroup,
    ModelArchitecture,
    catalog,
    load_model,
)
from perfmodel.errors import ConfigError, InputError
from perfmodel.precision import FORMATS

EXACT = [
    ("meta-llama/Llama-3.1-8B", 8_030_261_248),
    ("meta-llama/Llama-3.1-70B", 70_553_706_496),
    ("meta-llama/Llama-3.1-405B", 405_853_388_800),
    ("Qwen/Qwen3-8B", 8_190_735_360),
    ("Qwen/Qwen3-32B", 32_762_123_264),
    ("Qwen/Qwen3-30B-A3B", 30_532_122_624),
    ("Qwen/Qwen3-235B-A22B", 235_093_634_560),
    ("mistralai/Mixtral-8x7B-v0.1", 46_702_792_704),
    ("mistralai/Mixtral-8x22B-v0.1", 140_620_634_112),
    ("deepseek-ai/DeepSeek-V3", 671_026_419_200),
    ("openai/gpt-oss-20b", 20_914_757_184),
    ("openai/gpt-oss-120b", 116_829_156_672),
]

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "max_position_embeddings": 4096,
    "num_attention_heads": 8,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "torch_dtype": "bfloat16",
    "vocab_size": 1000,
}
MIXTRAL = LLAMA | {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}


def write(folder: Path, content: object, name: str = "config.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content, indent=1))
    return path


# Counts against the published figures.


@pytest.mark.parametrize("name", catalog())
def test_catalog_counts_match_the_published_ones(name: str) -> None:
    entry, model = catalog()[name], load_model(name)
    assert model.name == name
    count = model.parameters()
    if entry.with_vision:
        assert model.vision is not None
        count += model.vision.parameters()
    assert count == pytest.approx(entry.published_parameters, rel=0.01)
    assert entry.source
    if entry.published_active_parameters:
        active = model.active_parameters(with_embedding=entry.active_with_embedding)
        assert active == pytest.approx(entry.published_active_parameters, rel=0.05)
    assert model.quantization in FORMATS
    assert model.kv_quantization in FORMATS


@pytest.mark.parametrize(("name", "parameters"), EXACT)
def test_counts_are_exact(name: str, parameters: int) -> None:
    assert load_model(name).parameters() == parameters


@pytest.mark.parametrize(
    ("name", "bytes_per_token"),
    [
        ("llama-3.1-8b", 131_072),
        ("llama-3.1-70b", 327_680),
        ("llama-3.1-405b", 516_096),
        ("deepseek-v3", 70_272),
        ("qwen3-235b-a22b", 192_512),
        ("gpt-oss-120b", 73_728),
    ],
)
def test_kv_bytes_per_token_in_bf16(name: str, bytes_per_token: int) -> None:
    model = load_model(name)
    assert model.kv_bytes_per_token(2) == bytes_per_token
    assert model.kv_bytes_per_token(1) == bytes_per_token / 2


def test_windows_cap_the_cache() -> None:
    model = load_model("gpt-oss-120b")  # half of 36 layers see 128 tokens; 2,048 B a layer
    assert model.kv_bytes(100, 2) == 100 * 73_728
    assert model.kv_bytes(10_000, 2) == 18 * 2048 * 10_000 + 18 * 2048 * 128
    full = load_model("llama-3.1-70b")
    assert full.kv_bytes(10_000, 2) == 10_000 * full.kv_bytes_per_token(2)


def test_llama_4_interleaves_experts_and_chunks() -> None:
    maverick = load_model("llama-4-maverick")
    by_shape = {
        (g.attention.window_tokens, g.feed_forward.is_moe): g.count for g in maverick.groups
    }
    # Every second layer has experts, every fourth (an expert layer) sees the whole context.
    assert by_shape == {(8192, False): 24, (8192, True): 12, (0, True): 12}
    assert {g.attention.window_kind for g in maverick.groups if g.attention.window_tokens} == {
        "chunked"
    }
    assert any("vision" in note for note in maverick.notes)
    scout = load_model("llama-4-scout")
    assert sorted(g.count for g in scout.groups) == [12, 36]


def test_deepseek_has_three_dense_layers() -> None:
    model = load_model("deepseek-v3")
    assert [(g.feed_forward.is_moe, g.count) for g in model.groups] == [(False, 3), (True, 58)]
    attention = model.groups[0].attention
    assert (attention.kind, attention.head_dim, attention.v_head_dim) == ("mla", 192, 128)
    assert any("Multi-token" in note for note in model.notes)
    queries = 7168 * 1536 + 1536 * 128 * 192
    keys_and_values = 7168 * (512 + 64) + 512 * 128 * (128 + 128)
    norms, output = 1536 + 512, 128 * 128 * 7168
    expected = queries + keys_and_values + norms + output
    assert model.attention_parameters(model.groups[0]) == expected == 187_107_328


def test_gpt_oss_alternates_windows() -> None:
    groups = load_model("gpt-oss-20b").groups
    assert {g.attention.window_tokens: g.count for g in groups} == {128: 12, 0: 12}
    assert all(g.attention.sinks and g.attention.bias and g.feed_forward.bias for g in groups)


def test_layer_pattern_keeps_the_order() -> None:
    assert load_model("deepseek-v3").layer_pattern == (0,) * 3 + (1,) * 58
    assert load_model("gpt-oss-20b").layer_pattern == (0, 1) * 12
    # Dense with a chunk, experts with a chunk, dense with a chunk, experts with everything.
    assert load_model("llama-4-maverick").layer_pattern == (0, 1, 0, 2) * 12


def test_tied_embeddings_count_once() -> None:
    model = load_model("Qwen3-0.6B")
    assert model.tied_embeddings
    assert model.lm_head_parameters == 0
    assert model.parameters() == model.active_parameters()
    assert model.active_parameters() == model.active_parameters(with_embedding=True)


# Weight formats.


@pytest.mark.parametrize(
    ("name", "quantization", "modules", "kv"),
    [
        ("llama-3.1-70b", "bf16", set(), "bf16"),
        ("nvidia/Llama-3.1-70B-Instruct-FP8", "fp8", {"attention", "ffn"}, "fp8"),
        ("Qwen3-235B-A22B-FP8", "fp8_block", {"attention", "experts"}, "bf16"),
        ("nvidia/Qwen3-235B-A22B-NVFP4", "nvfp4", {"attention", "experts"}, "fp8"),
        ("deepseek-r1", "fp8_block", {"attention", "ffn", "experts"}, "bf16"),
        ("gpt-oss-120b", "mxfp4", {"experts"}, "bf16"),
        ("kimi-k2.5", "int4", {"experts"}, "bf16"),
        ("nvidia/Kimi-K2.5-NVFP4", "nvfp4", {"ffn", "experts"}, "fp8"),
        ("nvidia/MiniMax-M2.5-NVFP4", "nvfp4", {"experts"}, "fp8"),
    ],
)
def test_checkpoint_format(name: str, quantization: str, modules: set[str], kv: str) -> None:
    model = load_model(name)
    assert (model.quantization, model.kv_quantization) == (quantization, kv)
    assert model.quantized_modules == modules
    for module, group in QUANTIZATION_GROUP.items():
        assert model.weight_format(module) == (quantization if group in modules else "bf16")


def test_a_partly_quantized_module_takes_the_larger_format_and_says_so() -> None:
    model = load_model("nvidia/DeepSeek-V3.1-NVFP4")  # only o_proj of attention is in nvfp4
    assert "attention" not in model.quantized_modules
    assert any("62.8% of attention" in note for note in model.notes)


# Names and paths.


@pytest.mark.parametrize(
    "name",
    ["llama-3.1-70b", "LLAMA-3.1-70B", "meta-llama/Llama-3.1-70B", "meta-llama/meta-LLAMA-3.1-70b"],
)
def test_names_in_any_case(name: str) -> None:
    assert load_model(name).name == "meta-llama/Llama-3.1-70B"


def test_names_are_unique() -> None:
    names = [n for e in catalog().values() for n in {e.name.casefold(), *e.aliases}]
    assert len(names) == len(set(names))
    assert all(alias == alias.casefold() for e in catalog().values() for alias in e.aliases)


def test_every_shipped_configuration_is_in_the_catalog() -> None:
    folder = next(iter(catalog().values())).path.parent
    files = [*folder.glob("*.json"), *folder.glob("*.yaml")]
    shipped = {p for p in files if "quant_config" not in p.name}
    assert shipped == {e.path for e in catalog().values()} | {folder / "catalog.json"}


def test_paths_and_search_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own").mkdir()
    write(tmp_path / "own", LLAMA)
    write(tmp_path, MIXTRAL, "acme--mix.json")
    write(tmp_path, LLAMA, "llama-3.1-70b.json")
    by_path = load_model(tmp_path / "own" / "config.json")
    assert by_path == load_model(str(tmp_path / "own"))
    assert by_path.name == "own"
    assert load_model("own", [tmp_path]) == by_path
    assert load_model("acme/mix", [tmp_path]).is_moe
    assert load_model("llama-3.1-70b", [tmp_path]).hidden == 64, "the user's own come first"
    monkeypatch.chdir(tmp_path)
    assert load_model("own") == by_path
    with pytest.raises(InputError, match="search path does not exist"):
        load_model("own", [tmp_path / "missing"])


def test_unknown_model_names_near_misses_and_where_all_are_listed() -> None:
    with pytest.raises(InputError, match=r"Did you mean llama-3\.1-70b") as caught:
        load_model("lama-3.1-70b")
    assert "`planner models` lists all" in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("name", ["", "x" * 5000, "a\0b", "../nothing", "/"])
def test_odd_names_get_an_input_error(name: str) -> None:
    with pytest.raises(InputError):
        load_model(name)


# Properties of any model.

attentions = st.one_of(
    st.builds(
        lambda kv_heads, ratio, **rest: Attention(
            "gqa", kv_heads=kv_heads, heads=kv_heads * ratio, **rest
        ),
        kv_heads=st.integers(1, 16),
        ratio=st.integers(1, 16),
        head_dim=st.integers(1, 256),
        v_head_dim=st.integers(1, 256),
        window_tokens=st.sampled_from([0, 128, 8192]),
        bias=st.booleans(),
        output_bias=st.booleans(),
        sinks=st.booleans(),
    ),
    st.builds(
        lambda heads, nope, rope, **rest: Attention(
            "mla", heads, heads, head_dim=nope + rope, rope_head_dim=rope, **rest
        ),
        heads=st.integers(1, 128),
        nope=st.integers(1, 128),
        rope=st.integers(1, 64),
        v_head_dim=st.integers(1, 128),
        q_lora_rank=st.sampled_from([0, 1536]),
        kv_lora_rank=st.integers(1, 512),
    ),
)
feed_forwards = st.one_of(
    st.builds(FeedForward, st.integers(1, 4096), gated=st.booleans(), bias=st.booleans()),
    st.builds(
        lambda experts, share, **rest: FeedForward(
            experts=experts, top_k=1 + share % experts, **rest
        ),
        experts=st.integers(1, 256),
        share=st.integers(0, 255),
        intermediate=st.integers(1, 4096),
        gated=st.booleans(),
        shared_intermediate=st.integers(0, 4096),
        bias=st.booleans(),
        router_bias=st.booleans(),
    ),
)
models = st.builds(
    ModelArchitecture,
    name=st.just("any"),
    hidden=st.integers(1, 8192),
    vocab=st.integers(1, 200_000),
    tied_embeddings=st.booleans(),
    groups=st.lists(
        st.builds(LayerGroup, attentions, feed_forwards, st.integers(1, 100)),
        min_size=1,
        max_size=4,
        unique_by=lambda group: (group.attention, group.feed_forward),
    ).map(tuple),
    max_context_tokens=st.integers(1, 10**6),
)


@given(models)
def test_totals_are_the_sums_of_their_parts(model: ModelArchitecture) -> None:
    by_module = model.parameters_by_module()
    assert set(by_module) == set(QUANTIZATION_GROUP)
    assert sum(by_module.values()) == model.parameters()
    per_layer = sum(
        group.count
        * (
            model.attention_parameters(group)
            + model.dense_ffn_parameters(group)
            + model.routed_parameters(group)
            + model.shared_parameters(group)
            + model.router_parameters(group)
        )
        for group in model.groups
    )
    outside = model.embedding_parameters + model.lm_head_parameters + model.norm_parameters
    assert per_layer + outside == model.parameters()
    assert sum(group.count for group in model.groups) == model.layers == len(model.layer_pattern)


@given(models)
def test_active_counts_lie_within_the_total(model: ModelArchitecture) -> None:
    active = model.active_parameters(with_embedding=True)
    assert 0 < model.active_parameters() <= active <= model.parameters()
    every_expert_runs = all(g.feed_forward.top_k == g.feed_forward.experts for g in model.groups)
    assert (active == model.parameters()) == every_expert_runs


@given(models, st.integers(1, 10**6))
def test_cache_grows_with_context_up_to_the_windows(model: ModelArchitecture, tokens: int) -> None:
    assert 0 < model.kv_bytes(tokens, 2) <= tokens * model.kv_bytes_per_token(2)
    assert model.kv_bytes(tokens, 2) <= model.kv_bytes(tokens + 1, 2)


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: Attention("gqa", 8, 3, 64, 64), "kv_heads"),
        (lambda: Attention("gqa", 0, 1, 64, 64), "heads"),
        (lambda: Attention("mla", 8, 8, 64, 64, kv_lora_rank=16), "rope_head_dim"),
        (lambda: FeedForward(64, experts=4), "top_k"),
        (lambda: FeedForward(64, shared_intermediate=4), "experts"),
        (lambda: ModelArchitecture("x", 1, 1, False, (), 1), "groups"),
    ],
)
def test_impossible_shapes_are_refused(build: Any, field: str) -> None:
    with pytest.raises(ConfigError, match=f"^{field}: "):
        build()
