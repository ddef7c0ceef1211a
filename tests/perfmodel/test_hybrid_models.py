"""Recurrent and sparsely attending models: counts, memory by hand, limits, rooflines."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.architecture import (
    Attention,
    LayerGroup,
    ModelArchitecture,
    Recurrent,
    catalog,
    from_config,
    load_model,
)
from perfmodel.correction import NEUTRAL
from perfmodel.database import PerfStore
from perfmodel.engine import EngineProfile
from perfmodel.errors import ConfigError, InputError
from perfmodel.hardware import load_device
from perfmodel.layout import parse_layout
from perfmodel.memory import replica_memory
from perfmodel.modules import Call
from perfmodel.operators import Kind, Operators
from perfmodel.precision import Precision
from perfmodel.step import StepModel
from perfmodel.work import StepWork
from spaces.constraints import structure_constraints

QWEN, NANO = load_model("qwen3.5-397b-a17b"), load_model("nemotron-3-nano")
SUPER, V32 = load_model("nemotron-3-super"), load_model("deepseek-v3.2")
H200, B200 = load_device("h200_sxm"), load_device("b200_sxm")
STORE = PerfStore()
TP8 = "attn:TP8 ffn:TP8"


def config(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(catalog()[name].path.read_text())
    return found


def stepper(
    model: ModelArchitecture, device: str = "h200_sxm", engine: str = "vllm", **formats: str
) -> StepModel:
    found = load_device(device)
    operators = Operators(found, engine, STORE)
    profile = EngineProfile(engine, "bare", NEUTRAL, 0.0, 0.0, 0.0)
    return StepModel(model, found, profile, Precision(**formats), operators)


def calls(step: StepModel, work: StepWork, layout: str = TP8) -> dict[str, Call]:
    return {call.name: call for call in step.calls(parse_layout(layout), work)}


# Shapes and counts.


def test_qwen_has_full_attention_in_every_fourth_layer() -> None:
    kinds = [isinstance(QWEN.groups[g].attention, Recurrent) for g in QWEN.layer_pattern]
    assert kinds == [True, True, True, False] * 15
    without = config("Qwen/Qwen3.5-397B-A17B")
    del without["text_config"]["layer_types"]
    assert from_config(without).layer_pattern == QWEN.layer_pattern


def test_delta_net_weights_by_hand() -> None:
    mixer = QWEN.groups[0].attention
    qkv, z, gates = 4096 * (2 * 2048 + 8192), 4096 * 8192, 4096 * 2 * 64
    conv, small = 4 * (2 * 2048 + 8192), 2 * 64 + 128
    assert mixer.parameters(4096) == qkv + z + gates + 8192 * 4096 + conv + small


def test_gated_attention_has_twice_the_queries() -> None:
    gated = QWEN.groups[1].attention
    assert isinstance(gated, Attention)
    plain = replace(gated, output_gate=False)
    assert gated.parameters(4096) - plain.parameters(4096) == 4096 * 32 * 256


def test_nemotron_blocks_are_paired_into_layers() -> None:
    assert NANO.parameters() == pytest.approx(31_577_937_344, rel=1e-4)
    shapes = {
        (isinstance(g.attention, Recurrent), g.feed_forward.is_absent): g.count for g in NANO.groups
    }
    # 23 Mamba blocks, of which those before an attention block have no network after them.
    assert shapes == {(True, False): 17, (True, True): 6, (False, False): 6}
    assert sum(g.count * (1 + (not g.feed_forward.is_absent)) for g in NANO.groups) == 52


def test_super_routes_in_a_latent() -> None:
    ffn = SUPER.groups[0].feed_forward
    assert ffn.latent == 1024
    assert ffn.expert_parameters(4096) == 2 * 1024 * 2688
    assert ffn.latent_parameters(4096) == 2 * 1024 * 4096


def test_indexer_weights_by_hand() -> None:
    dense = load_model("deepseek-v3")
    added = 1536 * 64 * 128 + 7168 * 128 + 7168 * 64 + 2 * 128
    assert V32.parameters() - dense.parameters() == 61 * added


def test_shared_choices_have_no_indexer_of_their_own() -> None:
    half = config("zai-org/GLM-5") | {"indexer_types": ["full", "shared"] * 39}
    glm, shared = load_model("glm-5"), from_config(half)
    own = 2048 * 32 * 128 + 6144 * 128 + 6144 * 32 + 2 * 128
    assert glm.parameters() - shared.parameters() == 39 * own
    assert glm.kv_bytes_per_token(2) - shared.kv_bytes_per_token(2) == 39 * 132


@pytest.mark.parametrize(
    ("name", "change", "field"),
    [
        ("nemotron-h-56b", {"hybrid_override_pattern": "-M" * 59}, "hybrid_override_pattern"),
        ("nemotron-h-56b", {"hybrid_override_pattern": "M-X"}, "hybrid_override_pattern"),
        ("nemotron-h-56b", {"num_hidden_layers": 3}, "hybrid_override_pattern"),
        ("zai-org/GLM-5", {"indexer_types": ["shared"] * 78}, "indexer_types"),
        ("zai-org/GLM-5", {"q_lora_rank": None}, "q_lora_rank"),
    ],
)
def test_contradictions_are_named(name: str, change: dict[str, Any], field: str) -> None:
    entry = next(e for n, e in catalog().items() if name in (n, *e.aliases))
    with pytest.raises(ConfigError, match=field):
        from_config(json.loads(entry.path.read_text()) | change)


def test_without_recurrent_layers_a_hybrid_is_plain_attention() -> None:
    fields = config("Qwen/Qwen3.5-27B")
    fields["text_config"] |= {"layer_types": ["full_attention"] * 64, "attn_output_gate": False}
    hybrid = from_config(fields, "m")
    kept = ("hidden_size", "intermediate_size", "head_dim", "num_attention_heads", "vocab_size")
    kept += ("num_key_value_heads", "num_hidden_layers", "max_position_embeddings", "dtype")
    plain = from_config({k: fields["text_config"][k] for k in kept} | {"model_type": "qwen3"}, "m")
    assert hybrid.groups == plain.groups
    assert hybrid.state_bytes == 0
    work = StepWork.of(decode_sequences=[1, 32], context_tokens=4096.0)
    layouts = parse_layout("attn:TP4 ffn:TP4")
    same = [stepper(m).time(layouts, work).latency_s for m in (hybrid, plain)]
    assert same[0] == pytest.approx(same[1])


# Memory by hand.


def cache_bytes(model: ModelArchitecture, layout: str, tokens: float, kv: str = "bf16") -> float:
    engine = EngineProfile("vllm", "bare", NEUTRAL, 0.0, 0.0, 0.0)
    memory = replica_memory(
        model,
        H200,
        engine,
        Precision(kv=kv),
        parse_layout(layout),
        StepWork.of(),
        np.full((1, 1), 3.0),
        np.array([tokens]),
    )
    return float(memory.kv_cache.item())


def test_state_and_cache_of_qwen_by_hand() -> None:
    state = 45 * (64 * 128 * 128 * 4 + 3 * (2 * 16 * 128 + 64 * 128) * 2)
    cached = 15 * 2 * 2 * 256 * 2  # layers, keys and values, heads, width, bytes
    assert QWEN.state_bytes == state
    assert cache_bytes(QWEN, "attn:TP1 ffn:TP1", 1000) == 3 * (state + 1000 * cached)
    # States split over eight devices; the two KV heads only over two.
    assert cache_bytes(QWEN, TP8, 1000) == pytest.approx(3 * (state / 8 + 1000 * cached / 2))


def test_state_of_nemotron_by_hand() -> None:
    state = 23 * (64 * 64 * 128 * 4 + 3 * (2 * 8 * 128 + 64 * 64) * 2)
    assert NANO.state_bytes == state
    cached = 6 * 2 * 2 * 128 * 2
    assert cache_bytes(NANO, "attn:TP1 ffn:TP1", 1000) == 3 * (state + 1000 * cached)


def test_cache_of_sparse_attention_by_hand() -> None:
    for kv, width in (("bf16", 2), ("fp8", 1)):
        per_token = 61 * (576 * width + 128 + 4)
        assert cache_bytes(V32, TP8, 1000, kv) == 3 * 1000 * per_token


def test_one_device_holds_every_weight_once() -> None:
    engine = EngineProfile("vllm", "bare", NEUTRAL, 0.0, 0.0, 0.0)
    for model in (QWEN, NANO, SUPER, V32):
        memory = replica_memory(
            model,
            H200,
            engine,
            Precision(),
            parse_layout("attn:TP1 ffn:TP1"),
            StepWork.of(),
            np.zeros((1, 1)),
            np.ones(1),
        )
        held = float(memory.weights.item())
        assert held == pytest.approx(2 * (model.parameters() - model.hidden), rel=1e-12)


# Time.


def test_recurrent_decode_does_not_see_the_context() -> None:
    step = stepper(QWEN)
    work = StepWork.of(decode_sequences=32.0, context_tokens=[2048.0, 4096.0])
    found = calls(step, work)
    for name in ("generation_scan", "generation_convolution"):
        seconds = found[name].time.seconds[0]
        assert seconds[0] == seconds[1] > 0
    longer = found["generation_attention"].time.seconds[0]
    assert longer[1] > longer[0]


def test_prefill_of_a_recurrence_is_linear() -> None:
    work = StepWork.of(prefill_sequences=1.0, prefill_tokens=[8192.0, 16384.0])
    short, long = calls(stepper(QWEN), work)["context_scan"].time.seconds[0]
    assert long == pytest.approx(2 * short, rel=0.05)


def test_sparse_attention_reads_no_more_than_it_chooses() -> None:
    operators = Operators(H200, "vllm", STORE)
    labels = {"variant": "dsa_reuse", "model": "deepseek-v3.2", "gemm_dtype": "bf16"}
    labels |= {"dtype": "bf16", "kv_dtype": "bf16"}
    shape = {"heads": np.array([[16.0]]), "batch": 256.0, "context_tokens": [2048, 4096, 131072]}
    floor = operators.sparse_generation.roofline(
        labels, {k: np.asarray(v) for k, v in shape.items()}
    )
    assert np.ptp(np.asarray(floor.bandwidth_s)) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("name", "device", "engine", "operator", "kind"),
    [
        ("qwen3.5-397b-a17b", "h200_sxm", "vllm", "context_scan", Kind.MEASURED),
        ("qwen3.5-397b-a17b", "b200_sxm", "sglang", "generation_scan", Kind.MEASURED),
        ("qwen3.5-397b-a17b", "h200_sxm", "trtllm", "generation_scan", Kind.EXTRAPOLATED),
        ("nemotron-3-nano", "h200_sxm", "trtllm", "generation_scan", Kind.ANALYTIC),
        ("nemotron-3-nano", "h200_sxm", "vllm", "generation_convolution", Kind.EXTRAPOLATED),
        ("deepseek-v3.2", "h200_sxm", "trtllm", "generation_attention_block", Kind.MEASURED),
        ("glm-5", "b200_sxm", "vllm", "context_attention_block", Kind.MEASURED),
    ],
)
def test_how_times_are_known(
    name: str, device: str, engine: str, operator: str, kind: Kind
) -> None:
    work = StepWork.of(
        decode_sequences=16.0, context_tokens=4096.0, prefill_sequences=1.0, prefill_tokens=4096.0
    )
    call = calls(stepper(load_model(name), device, engine), work)[operator]
    assert call.time.kind[0, 0] == kind


@pytest.mark.parametrize("name", ["deepseek-v3.2", "glm-5"])
def test_another_model_by_its_widths_is_extrapolated(name: str) -> None:
    model = load_model(name)
    group = model.groups[0]
    assert isinstance(group.attention, Attention)
    wider = replace(group.attention, q_lora_rank=group.attention.q_lora_rank + 64)
    other = replace(model, groups=(LayerGroup(wider, group.feed_forward, 1),), layer_pattern=())
    work = StepWork.of(decode_sequences=16.0, context_tokens=4096.0)
    kind = calls(stepper(other), work)["generation_attention_block"].time.kind[0, 0]
    assert kind == Kind.EXTRAPOLATED


MODELS = {m.name: m for m in (QWEN, NANO, V32, load_model("glm-5"), load_model("nemotron-h-56b"))}
ENGINES = st.sampled_from(["trtllm", "vllm", "sglang"])


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(MODELS)),
    st.sampled_from(["h200_sxm", "b200_sxm", "a100_sxm"]),
    ENGINES,
    st.integers(0, 3),
    st.integers(1, 512),
    st.integers(1, 100_000),
)
def test_nothing_beats_its_roofline_and_steps_grow(
    name: str, device: str, engine: str, log_tp: int, batch: int, tokens: int
) -> None:
    step = stepper(MODELS[name], device, engine)
    layout = f"attn:TP{2**log_tp} ffn:TP{2**log_tp}"
    decode = StepWork.of(decode_sequences=[batch, 2 * batch], context_tokens=tokens)
    prefill = StepWork.of(prefill_sequences=1.0, prefill_tokens=[tokens, 2 * tokens])
    for work in (decode, prefill):
        for call in step.calls(parse_layout(layout), work):
            assert np.isfinite(call.time.seconds).all(), call.name
            assert (call.time.seconds >= call.time.floor_s * (1 - 1e-9)).all(), call.name
    # Kernels change with size, so neighbouring sizes may cost a little less.
    for work in (decode, prefill):
        less, more = step.time(parse_layout(layout), work).latency_s[0]
        assert more > 0.7 * less


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8192), st.integers(1, 4), st.integers(1, 64))
def test_floors_of_scans_grow_with_work(tokens: int, batch: int, heads: int) -> None:
    operators = Operators(H200, "vllm", STORE)
    labels = {"phase": "context", "operation": "scan", "dtype": "bf16"}

    def floor(**shape: float) -> float:
        columns = {"k_heads": 1.0, "k_dim": 128.0, "v_dim": 128.0, **shape}
        arrays = {name: np.full((1, 1), value) for name, value in columns.items()}
        return float(operators.delta_scan.time(labels, arrays).floor_s.item())

    base = floor(tokens=tokens, batch=batch, v_heads=heads)
    assert floor(tokens=2 * tokens, batch=batch, v_heads=heads) >= base
    assert floor(tokens=tokens, batch=2 * batch, v_heads=heads) == pytest.approx(2 * base)
    assert floor(tokens=tokens, batch=batch, v_heads=heads + 1) >= base


@pytest.mark.parametrize("device", [H200, B200], ids=lambda d: d.name)
@pytest.mark.parametrize("model", [QWEN, V32, SUPER], ids=lambda m: m.name)
def test_steps_lie_within_what_is_plausible(model: ModelArchitecture, device: Any) -> None:
    step = stepper(model, device.name)
    layouts = parse_layout(TP8)
    one = StepWork.of(decode_sequences=1.0, context_tokens=1024.0)
    decode = float(step.time(layouts, one).latency_s.item())
    streamed = 2 * model.active_parameters() / 8 / device.memory_bandwidth_bytes_per_s
    assert streamed < decode < 0.05
    tokens = 8192.0
    prompt = StepWork.of(prefill_sequences=1.0, prefill_tokens=tokens)
    prefill = float(step.time(layouts, prompt).latency_s.item())
    least = 2 * model.active_parameters() * tokens / 8 / device.peak_flops_per_s["bf16"]
    assert least < prefill < 20 * least


# Layouts.


def test_recurrent_layers_forbid_context_parallelism() -> None:
    named = {c.name: c for c in structure_constraints(QWEN)}
    rule = named["recurrent layers without context parallelism"]
    assert rule.holds({"cp_a": np.array([1, 2])}).tolist() == [True, False]
    assert "recurrent layers without context parallelism" not in {
        c.name for c in structure_constraints(V32)
    }
    with pytest.raises(InputError, match="context parallelism must be 1"):
        calls(stepper(QWEN), StepWork.of(decode_sequences=1.0), "attn:TP2CP2 ffn:TP4")


def test_heads_of_recurrences_divide() -> None:
    tp = np.array([1, 3, 8, 16, 32])
    assert QWEN.groups[0].attention.splits_over(tp).tolist() == [True, False, True, True, False]
    # Mamba's eight groups are replicated over more devices.
    assert NANO.groups[0].attention.splits_over(tp).tolist() == [True, False, True, True, True]


# Latent attention as one block.


def test_vllm_runs_latent_attention_as_the_block_it_was_measured_as() -> None:
    model = load_model("deepseek-v3")
    work = StepWork.of(
        decode_sequences=16.0, context_tokens=4096.0, prefill_sequences=1.0, prefill_tokens=4096.0
    )
    found = calls(stepper(model), work)
    for name in ("context_attention_block", "generation_attention_block"):
        assert found[name].time.kind[0, 0] == Kind.MEASURED
    # Without such a table, by its kernels.
    for device, engine in (("a100_sxm", "vllm"), ("h200_sxm", "sglang")):
        assert "context_attention" in calls(stepper(model, device, engine), work)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 3), st.integers(1, 512), st.integers(1, 100_000), st.integers(0, 100_000))
def test_blocks_do_not_beat_their_roofline(
    log_tp: int, batch: int, tokens: int, prefix: int
) -> None:
    step = stepper(load_model("deepseek-v3"), kv="fp8")
    layout = parse_layout(f"attn:TP{2**log_tp} ffn:TP{2**log_tp}")
    for work in (
        StepWork.of(decode_sequences=batch, context_tokens=tokens),
        StepWork.of(prefill_sequences=1.0, prefill_tokens=tokens, prefix_tokens=prefix),
    ):
        for call in step.calls(layout, work):
            assert (call.time.seconds >= call.time.floor_s * (1 - 1e-9)).all(), call.name
