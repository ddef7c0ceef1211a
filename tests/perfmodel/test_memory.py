"""Memory of a replica: what is split, what is replicated, and which stage is fullest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.architecture import ModelArchitecture, load_model
from perfmodel.correction import NEUTRAL
from perfmodel.engine import EngineProfile, engine_profile
from perfmodel.hardware import load_device
from perfmodel.layout import Layouts, parse_layout
from perfmodel.memory import MemoryTerms, attention_weight_bytes, replica_memory
from perfmodel.precision import Precision
from perfmodel.work import StepWork, stages

H100 = load_device("h100_sxm")
BARE = EngineProfile("trtllm", "no reserve", NEUTRAL, 0.0, 0.0, 0.0)
BF16 = Precision()
LLAMA, MIXTRAL = load_model("meta-llama/Llama-3.1-70B"), load_model("mistralai/Mixtral-8x7B-v0.1")
DEEPSEEK, GPT_OSS = load_model("deepseek-ai/DeepSeek-V3"), load_model("openai/gpt-oss-120b")
TIED = load_model("Qwen/Qwen3-0.6B")
power = st.integers(0, 3).map(lambda e: 2**e)


def memory(
    model: ModelArchitecture,
    layout: str | Layouts,
    sequences: float = 0.0,
    tokens: float = 1.0,
    work: StepWork | None = None,
    engine: EngineProfile = BARE,
    precision: Precision = BF16,
) -> MemoryTerms:
    layouts = parse_layout(layout) if isinstance(layout, str) else layout
    held = np.full((len(layouts), 1), float(sequences))
    return replica_memory(
        model,
        H100,
        engine,
        precision,
        layouts,
        work or StepWork.of(),
        held,
        np.array([float(tokens)]),
    )


def weights(model: ModelArchitecture, layout: str, **more: Any) -> float:
    return float(memory(model, layout, **more).weights.item())


def cache(model: ModelArchitecture, layout: str, sequences: float, tokens: float) -> float:
    return float(memory(model, layout, sequences, tokens).kv_cache.item())


def replicated(model: ModelArchitecture) -> int:
    """Parameters that every device of a stage holds: norms, routers, biases, latents' inputs."""
    count = 0
    for group in model.groups:
        shards = group.attention.projections(model.hidden)
        whole = ("q_a_proj", "kv_a_proj_with_mqa")
        count += group.count * (
            group.attention.parameters(model.hidden)
            - sum(n for name, n in shards.items() if name not in whole)
            + group.feed_forward.router_parameters(model.hidden)
            + 2 * model.hidden
        )
    return count


@pytest.mark.parametrize("model", [LLAMA, MIXTRAL, DEEPSEEK, GPT_OSS, TIED], ids=lambda m: m.name)
def test_one_device_holds_every_weight_once(model: ModelArchitecture) -> None:
    held = weights(model, "attn:TP1 ffn:TP1 PP1")
    # The final norm is below resolution.
    assert held == pytest.approx(2 * (model.parameters() - model.hidden), rel=1e-12)


@pytest.mark.parametrize(
    ("model", "layout", "devices"),
    [
        (LLAMA, "attn:TP8 ffn:TP8", 8),
        (LLAMA, "attn:TP2 ffn:TP2", 2),
        (MIXTRAL, "attn:TP8 ffn:TP2EP4", 8),
        (MIXTRAL, "attn:TP8 ffn:EP8", 8),
        (GPT_OSS, "attn:TP8 ffn:TP2EP4", 8),
        (DEEPSEEK, "attn:TP16 ffn:TP1EP16", 16),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_shards_add_up_to_the_model(model: ModelArchitecture, layout: str, devices: int) -> None:
    total = devices * weights(model, layout)
    copies = 2 * (devices - 1) * replicated(model)
    assert total - copies == pytest.approx(2 * (model.parameters() - model.hidden), rel=1e-12)


def test_pipeline_stages_add_up_to_the_model() -> None:
    for model in (LLAMA, MIXTRAL, DEEPSEEK, GPT_OSS):
        for pp in (1, 2, 3, 5, 7):
            layout = Layouts.from_rows([[pp, 1, 1, 1, 1, 1, 1]])
            fullest = float(memory(model, layout).weights.item())
            whole = 2 * (model.parameters() - model.hidden)
            assert whole / pp <= fullest * (1 + 1e-12)
            assert fullest < whole / pp * 1.6


def test_every_layer_lies_on_one_stage() -> None:
    for model in (LLAMA, DEEPSEEK, GPT_OSS):
        for pp in range(1, 20):
            kinds = stages(model, pp)
            assert kinds[0].first
            assert kinds[-1].last
            sizes = {sum(stage.counts) for stage in kinds}
            assert max(sizes) - min(sizes) <= 1
            assert max(sizes) == -(-model.layers // pp)
            # The last one, which also holds the LM head, has the fewest.
            assert sum(kinds[-1].counts) == model.layers // pp


@given(power, power)
def test_context_and_data_parallelism_replicate_weights(cp: int, dp: int) -> None:
    alone = weights(LLAMA, "attn:TP2 ffn:TP2")
    assert weights(LLAMA, f"attn:TP2CP{cp}DP{dp} ffn:TP2DP{cp * dp}") == pytest.approx(alone)


@given(power, power)
def test_experts_split_over_tensor_and_expert_parallelism_alike(tp: int, ep: int) -> None:
    def routed(tp_f: int, ep_f: int) -> float:
        layout = Layouts.from_rows([[1, 64, 1, 1, tp_f, ep_f, 64 // (tp_f * ep_f)]])
        bare = replace(
            MIXTRAL,
            groups=tuple(
                replace(g, feed_forward=replace(g.feed_forward, experts=1, top_k=1))
                for g in MIXTRAL.groups
            ),
        )
        routers = 7 * MIXTRAL.hidden * MIXTRAL.layers * 2
        eight, one = (float(memory(m, layout).weights.item()) for m in (MIXTRAL, bare))
        return eight - one - routers

    assert routed(tp, ep) == pytest.approx(routed(1, 1) / (tp * ep), rel=1e-9)


def test_tensor_parallelism_beyond_kv_heads_replicates_them() -> None:
    kv = LLAMA.groups[0].attention.kv_heads
    assert kv == 8
    per_token = 2 * 8 * 128 * 2 * 80
    for tp, share in ((1, 1), (2, 2), (8, 8), (16, 8), (64, 8)):
        held = cache(LLAMA, f"attn:TP{tp} ffn:TP{tp}", 10, 1000)
        assert held == pytest.approx(10 * 1000 * per_token / share)

    def attention(tp: int) -> float:
        a = LLAMA.groups[0].attention
        return float(attention_weight_bytes(a, LLAMA.hidden, np.array([float(tp)]), BF16)[0])

    kv_bytes = 2 * 8192 * 8 * 128 * 2
    query_bytes = 2 * 8192 * 8192 * 2
    assert attention(64) == pytest.approx(query_bytes / 64 + kv_bytes / 8)


def test_the_latent_cache_is_whole_on_every_tensor_parallel_device() -> None:
    expected = 4 * 1000 * 576 * 2 * 61
    for tp in (1, 8, 128):
        assert cache(DEEPSEEK, f"attn:TP{tp} ffn:TP{tp}", 4, 1000) == pytest.approx(expected)
    assert cache(DEEPSEEK, "attn:TP2CP4 ffn:TP8", 4, 1000) == pytest.approx(expected / 4)
    # Data parallelism splits the sequences, not a sequence's latent.
    assert cache(DEEPSEEK, "attn:DP8 ffn:EP8", 4 / 8, 1000) == pytest.approx(expected / 8)


@given(st.integers(1, 100_000), st.integers(1, 64))
def test_windows_cap_the_cache(tokens: int, sequences: int) -> None:
    held = cache(GPT_OSS, "attn:TP1 ffn:TP1", sequences, tokens)
    per_layer = 2 * 8 * 64 * 2
    windowed, full = 18, 18
    expected = sequences * per_layer * (full * tokens + windowed * min(tokens, 128))
    assert held == pytest.approx(expected)
    assert held == pytest.approx(sequences * GPT_OSS.kv_bytes(tokens, 2))


@given(power, power, st.integers(1, 100), st.integers(1, 10_000))
def test_the_cache_of_one_device_matches_the_models_count(
    tp: int, cp: int, sequences: int, tokens: int
) -> None:
    for model in (LLAMA, GPT_OSS):
        held = cache(model, f"attn:TP{tp}CP{cp} ffn:TP{tp}DP{cp}", sequences, tokens)
        assert held * tp * cp == pytest.approx(sequences * model.kv_bytes(tokens, 2))


def test_uneven_pipelines_report_the_fullest_stage() -> None:
    assert LLAMA.layers == 80
    pp3 = weights(LLAMA, "attn:TP1 ffn:TP1 PP3")
    group = LLAMA.groups[0]
    layer = 2 * (group.attention.parameters(8192) + group.feed_forward.parameters(8192) + 2 * 8192)
    table = 2 * LLAMA.vocab * 8192
    # 27 + 27 + 26 layers: the first stage, which holds the embedding too, is the fullest.
    assert pp3 == pytest.approx(27 * layer + table)
    assert cache(LLAMA, "attn:TP1 ffn:TP1 PP3", 1, 1000) == pytest.approx(27 * 1000 * 4096)


def test_the_fullest_stage_may_change_with_the_cache() -> None:
    # DeepSeek's first stages hold dense layers, its later ones experts; the embedding weighs too.
    layout = parse_layout("attn:TP1 ffn:TP1 PP2")
    empty, full = memory(LLAMA, layout), memory(LLAMA, layout, 1000, 4000)
    assert full.weights.item() <= empty.weights.item()
    assert full.total.item() > empty.total.item()


def test_tied_tables_are_held_once_alone_and_at_both_ends_of_a_pipeline() -> None:
    assert TIED.tied_embeddings
    table = 2 * TIED.vocab * TIED.hidden
    one, two = weights(TIED, "attn:TP1 ffn:TP1 PP1"), weights(TIED, "attn:TP1 ffn:TP1 PP2")
    assert two == pytest.approx((one - table) / 2 + table)


def test_formats_scale_their_own_modules() -> None:
    layout = "attn:TP1 ffn:TP1"
    base = weights(DEEPSEEK, layout)
    counts = DEEPSEEK.parameters_by_module()
    fp8_experts = weights(DEEPSEEK, layout, precision=Precision(experts="fp8"))
    assert base - fp8_experts == pytest.approx(counts["routed_experts"])
    fp8_ffn = weights(DEEPSEEK, layout, precision=Precision(ffn="fp8"))
    assert base - fp8_ffn == pytest.approx(counts["dense_ffn"] + counts["shared_experts"])
    fp8_kv = memory(DEEPSEEK, layout, 2, 1000, precision=Precision(kv="fp8")).kv_cache.item()
    assert fp8_kv == pytest.approx(cache(DEEPSEEK, layout, 2, 1000) / 2)


def test_terms_add_up_and_name_the_engines_share() -> None:
    engine = engine_profile("vllm")
    work = StepWork.of(decode_sequences=8, context_tokens=1000)
    terms = memory(LLAMA, "attn:TP8 ffn:TP8", 8, 2000, work, engine)
    parts = [
        getattr(terms, name).item()
        for name in ("weights", "kv_cache", "activations", "buffers", "reserve", "fragmentation")
    ]
    assert min(parts) > 0
    assert terms.total.item() == pytest.approx(sum(parts))
    assert terms.reserve.item() == engine.reserve_bytes
    assert terms.fragmentation.item() == engine.fragmentation * H100.memory_bytes
    alone = memory(load_model("Qwen/Qwen3-8B"), "attn:TP1 ffn:TP1", 8, 2000, work, engine)
    assert alone.buffers.item() == 0


@settings(deadline=None)
@given(st.integers(0, 512), st.integers(1, 8), st.integers(1, 16384))
def test_activations_grow_with_the_work(decodes: int, prompts: int, tokens: int) -> None:
    def activations(**work: float) -> float:
        layout = "attn:TP2CP2 ffn:TP4"
        return float(memory(LLAMA, layout, work=StepWork.of(**work)).activations.item())

    mixed = {"decode_sequences": decodes, "prefill_sequences": prompts, "prefill_tokens": tokens}
    base = activations(**mixed)
    assert activations(**mixed | {"decode_sequences": decodes + 1}) > base
    assert activations(**mixed | {"prefill_sequences": prompts + 1}) > base
    assert activations(**mixed | {"prefill_tokens": tokens + 1}) > base


def test_many_layouts_at_once_are_each_one_alone() -> None:
    texts = ["attn:TP8 ffn:TP8", "attn:TP2DP4 ffn:EP8 PP2", "attn:TP1CP4 ffn:TP2EP2 PP3"]
    many = Layouts.from_rows(np.concatenate([parse_layout(t).rows() for t in texts]))
    work = StepWork.of(decode_sequences=[1.0, 64.0], context_tokens=1000)
    for model in (MIXTRAL, DEEPSEEK):
        together = replica_memory(
            model, H100, BARE, BF16, many, work, np.array([[1.0, 64.0]]), np.array([500.0, 4000.0])
        ).total
        for i, text in enumerate(texts):
            for j, (batch, tokens) in enumerate(((1.0, 500.0), (64.0, 4000.0))):
                alone = memory(
                    model,
                    text,
                    batch,
                    tokens,
                    StepWork.of(decode_sequences=batch, context_tokens=1000),
                )
                assert together[i, j] == alone.total.item()
