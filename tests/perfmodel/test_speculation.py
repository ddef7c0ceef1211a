"""Speculative decoding: the draft module's passes, its memory, and what they gain."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from perfmodel.architecture import Attention, load_model
from perfmodel.breakdown import breakdown
from perfmodel.correction import DRAFT, NEUTRAL, Correction, operator_kind
from perfmodel.layout import Layouts, parse_layout
from perfmodel.memory import MemoryTerms, replica_memory
from perfmodel.modules import BOUNDARY
from perfmodel.phases import continuous, decode
from perfmodel.precision import Precision
from perfmodel.step import StepModel
from perfmodel.step_table import Parts
from perfmodel.traffic import Lengths, Traffic
from perfmodel.work import StepWork, step_tokens

StepOf = Callable[..., StepModel]
MODEL = "deepseek-ai/DeepSeek-V3"
TEXTS = [
    "attn:TP8 ffn:TP8",
    "attn:DP8 ffn:EP8",
    "attn:TP2CP2DP2 ffn:TP2EP4",
    "attn:TP4DP2 ffn:EP8 PP2",
    "attn:TP8 ffn:EP8 PP4",
]
LAYOUTS = Layouts.from_rows(np.concatenate([parse_layout(text).rows() for text in TEXTS]))


@pytest.fixture(scope="module")
def step(step_model: StepOf) -> StepModel:
    return step_model(MODEL, "h200_sxm", fmt="fp8_block")


def decoding(drafts: object, sequences: object = 8, context: object = 3000) -> StepWork:
    return StepWork.of(
        decode_sequences=sequences,
        context_tokens=context,
        decode_tokens=np.asarray(drafts) + 1,
    )


def drafting_s(step: StepModel, layout: Layouts, work: StepWork) -> dict[str, float]:
    """Seconds of each operator of the draft module."""
    operators = breakdown(step, layout, work).operators
    return {o.name.removeprefix(DRAFT): o.seconds for o in operators if o.name.startswith(DRAFT)}


def test_tokens_gained_by_hand() -> None:
    assert step_tokens([0, 1, 2, 3], 0.5).tolist() == [1.0, 1.5, 1.75, 1.875]
    assert step_tokens([0, 4], 0.0).tolist() == [1.0, 1.0]
    assert Correction(acceptance=0.7).step_tokens(3) == pytest.approx(1 + 0.7 + 0.49 + 0.343)


def test_a_pass_is_a_layer_a_projection_and_the_head_for_one_token(step: StepModel) -> None:
    layout = parse_layout("attn:TP8 ffn:TP8")
    one = {o.name: o.seconds for o in breakdown(step, layout, decoding(0)).operators}
    joined = {"input_projection", "input_projection_norms"}
    # The first layers alone have a dense network.
    dense = {"ffn_up_proj", "ffn_activation", "ffn_down_proj"}
    for drafts in (1, 3):
        passes = drafting_s(step, layout, decoding(drafts))
        assert joined < set(passes)
        assert set(one) - set(passes) <= dense
        for name in set(passes) - joined:
            assert passes[name] == pytest.approx(drafts * one[name]), name
        # 8 tokens by a bf16 product of 14,336 x 7,168: its weights from memory, and launching it.
        streamed = 2 * 14336 * 7168 / step.device.memory_bandwidth_bytes_per_s
        assert drafts * streamed < passes["input_projection"] < drafts * 3 * streamed
    assert not drafting_s(step, layout, decoding(0))


def test_drafts_verify_and_draft_beside_prompts_too(step: StepModel) -> None:
    for beside in (0.0, 1.0):
        work = StepWork.of(
            decode_sequences=[0.0, 8.0],
            context_tokens=3000,
            prefill_sequences=beside,
            prefill_tokens=500,
            decode_tokens=3,
        )
        drafts = [c for c in step.calls(LAYOUTS, work) if c.name.startswith(DRAFT)]
        assert drafts
        for call in drafts:
            assert not call.time.seconds[:, 0].any()
            assert call.part != BOUNDARY


def test_columns_do_not_depend_on_each_other(step: StepModel) -> None:
    drafts, sequences = np.array([0, 1, 3, 0, 2]), np.array([4, 64, 4, 64, 1])
    contexts = np.array([500, 500, 9000, 500, 500])
    whole = step.time(LAYOUTS, decoding(drafts, sequences, contexts))
    for column, work in enumerate(zip(drafts, sequences, contexts, strict=True)):
        alone = step.time(LAYOUTS, decoding(*work))
        assert whole.pace_s[:, column] == pytest.approx(alone.pace_s[:, 0])
        assert whole.latency_s[:, column] == pytest.approx(alone.latency_s[:, 0])


@pytest.mark.parametrize("text", TEXTS)
def test_sweep_breakdown_and_table_agree(step: StepModel, text: str) -> None:
    layout, work = parse_layout(text), decoding(3)
    parts = breakdown(step, layout, work)
    time = step.time(layout, work)
    assert parts.total_s == pytest.approx(time.pace_s.item())
    if "PP" not in text:
        table = Parts.of(step, layout, work)
        assert table.seconds(step.engine.correction).item() == pytest.approx(time.pace_s.item())
        plain = Parts.of(step, layout, decoding(0)).seconds(NEUTRAL)
        assert table.seconds(NEUTRAL).item() > plain.item()


@pytest.mark.parametrize(
    "model",
    [MODEL, "deepseek-ai/DeepSeek-V3.2", "Qwen/Qwen3.5-35B-A3B", "zai-org/GLM-5-FP8"],
)
def test_nothing_beats_its_roofline(step_model: StepOf, model: str) -> None:
    step = step_model(model, "b200_sxm", fmt="fp8_block")
    layouts = LAYOUTS[LAYOUTS.cp_a == 1]
    for sequences in (1, 512):
        for call in step.measured_calls(layouts, decoding([0, 2, 8], sequences)):
            assert np.all(call.time.seconds >= call.time.floor_s * (1 - 1e-9)), call.name


def test_the_drafted_layer_has_attention_over_the_whole_context() -> None:
    for name in (MODEL, "Qwen/Qwen3.5-35B-A3B", "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-FP8"):
        model = load_model(name)
        attention = model.groups[model.draft_group].attention
        assert isinstance(attention, Attention)
        assert not attention.window_tokens


def test_a_drafted_operator_is_corrected_like_a_layers() -> None:
    assert operator_kind("draft_routed_experts", "ffn") == "routed"
    assert operator_kind("draft_shared_expert_up", "ffn") == "shared"
    assert operator_kind("draft_lm_head", "ends") == "other"


def memory(step: StepModel, text: str, drafts: int) -> MemoryTerms:
    """With 10 sequences of 5,000 tokens, weights and cache in bf16."""
    held, tokens = np.full((1, 1), 10.0), np.array([5000.0])
    layout = parse_layout(text)
    model, device, engine = step.model, step.device, step.engine
    work = decoding(drafts)
    return replica_memory(model, device, engine, Precision(), layout, work, held, tokens)


def test_memory_of_the_draft_module_by_hand(step: StepModel) -> None:
    model = step.model
    group, hidden = model.groups[-1], 7168
    plain, drafted = (memory(step, "attn:TP1 ffn:TP1", k) for k in (0, 2))
    layer = group.attention.parameters(hidden) + 2 * hidden
    layer += model.routed_parameters(group) + model.shared_parameters(group)
    layer += model.router_parameters(group)
    added = drafted.weights.item() - plain.weights.item()
    assert added == pytest.approx(2 * (layer + 2 * hidden**2))
    # One more layer's latents of 576 elements.
    added = drafted.kv_cache.item() - plain.kv_cache.item()
    assert added == pytest.approx(10 * 5000 * 576 * 2)
    # Three tokens of each sequence in place of one.
    assert drafted.activations.item() == pytest.approx(3 * plain.activations.item())


def test_the_draft_module_lies_on_the_last_stage(step: StepModel) -> None:
    """With 61 layers on 61 stages the last one, with head, embedding and module, is fullest."""
    table = 129280 * 7168 * 2
    plain, drafted = (memory(step, "attn:TP1 ffn:TP1 PP61", k) for k in (0, 1))
    module = memory(step, "attn:TP1 ffn:TP1", 1).weights.item()
    module -= memory(step, "attn:TP1 ffn:TP1", 0).weights.item()
    assert drafted.weights.item() == pytest.approx(plain.weights.item() + module + table)
    assert drafted.kv_cache.item() == pytest.approx(2 * plain.kv_cache.item())


# Phases.

TRAFFIC = Traffic(
    Lengths.from_percentiles({50: 800, 90: 3000, 99: 8000}),
    Lengths.from_percentiles({50: 150, 90: 400, 99: 900}),
)
BATCH = np.array([1, 2, 8, 64], dtype=np.int64)
CHUNK = np.array([512, 512, 2048, 8192], dtype=np.int64)


def test_nothing_drafted_changes_nothing(step: StepModel) -> None:
    none = np.zeros_like(BATCH)
    for percentile in (None, 99.0):
        plain = decode(step, LAYOUTS, TRAFFIC, BATCH, percentile)
        idle = decode(step, LAYOUTS, TRAFFIC, BATCH, percentile, drafts=none, acceptance=0.9)
        assert np.array_equal(plain.ttit_slo_s, idle.ttit_slo_s)
        assert np.array_equal(plain.qps, idle.qps)
        assert np.array_equal(plain.memory.total, idle.memory.total)
    alone = continuous(step, LAYOUTS, TRAFFIC, BATCH, CHUNK)
    idle_too = continuous(step, LAYOUTS, TRAFFIC, BATCH, CHUNK, drafts=none, acceptance=0.9)
    for name in ("mixed_s", "pure_s", "mixed_share", "ttit_s", "qps"):
        assert np.array_equal(getattr(alone, name), getattr(idle_too, name))
    assert np.array_equal(alone.memory.total, idle_too.memory.total)


@pytest.mark.parametrize("percentile", [None, 95.0])
def test_decode_is_an_iteration_over_what_it_gains(
    step: StepModel, percentile: float | None
) -> None:
    drafts = np.array([0, 1, 2, 3])
    gain = np.array([1.0, 1.6, 1.96, 2.176])
    found = decode(step, LAYOUTS, TRAFFIC, BATCH, percentile, drafts=drafts, acceptance=0.6)
    work = decoding(drafts, BATCH, TRAFFIC.context_mean)
    iteration = step.time(LAYOUTS, work).pace_s * LAYOUTS.pp[:, None]
    assert found.ttit_s == pytest.approx(iteration / gain)
    assert found.qps == pytest.approx(found.slots / (TRAFFIC.outputs.mean * found.ttit_s))
    if percentile is not None:
        # Drafts never accepted: the iteration itself, at the percentile and on the mean.
        slow = decode(step, LAYOUTS, TRAFFIC, BATCH, percentile, drafts=drafts)
        assert found.ttit_slo_s == pytest.approx(slow.ttit_slo_s / gain)
        assert np.all(found.ttit_slo_s >= found.ttit_s)


def test_continuous_batching_takes_prompts_as_fast_as_it_ends_outputs(step: StepModel) -> None:
    drafts, gain = np.array([3, 3, 3, 0]), np.array([2.176, 2.176, 2.176, 1.0])
    found = continuous(step, LAYOUTS, TRAFFIC, BATCH, CHUNK, drafts=drafts, acceptance=0.6)
    needed = BATCH * gain * TRAFFIC.mean_new_tokens / (TRAFFIC.outputs.mean * CHUNK)
    assert found.mixed_share == pytest.approx(np.broadcast_to(np.minimum(needed, 1), (5, 4)))
    iteration = found.mixed_share * found.mixed_s + (1 - found.mixed_share) * found.pure_s
    assert found.ttit_s == pytest.approx(iteration / gain)
    # Tokens in and out balance: the prompts of the chunks taken are the requests served.
    taken = found.mixed_share * CHUNK / TRAFFIC.mean_new_tokens * found.servers / iteration
    assert found.qps == pytest.approx(taken)
    for percentile in (50.0, 99.0):
        tail = continuous(
            step, LAYOUTS, TRAFFIC, BATCH, CHUNK, percentile, drafts=drafts, acceptance=0.6
        )
        at = tail.ttit_slo_s * gain
        near = [np.isclose(at, kind, rtol=0.1) for kind in (found.mixed_s, found.pure_s)]
        assert np.all(near[0] | near[1])


def test_more_acceptance_is_never_slower(step: StepModel) -> None:
    drafts = np.array([0, 1, 3, 8])
    found = [
        phase.ttit_s
        for a in (0.0, 0.3, 0.6, 0.9)
        for phase in (
            decode(step, LAYOUTS, TRAFFIC, BATCH, drafts=drafts, acceptance=a),
            continuous(step, LAYOUTS, TRAFFIC, BATCH, CHUNK, drafts=drafts, acceptance=a),
        )
    ]
    for slower, faster in zip(found[:-2], found[2:], strict=True):
        assert np.all(faster <= slower * (1 + 1e-12))


def test_drafts_pay_for_few_sequences_and_not_for_many(step: StepModel) -> None:
    batch = np.array([2, 2, 2048, 2048])
    drafts = np.array([0, 3, 0, 3])
    layout = parse_layout("attn:DP8 ffn:EP8")
    few, drafted, many, crowded = decode(
        step, layout, TRAFFIC, batch, drafts=drafts, acceptance=0.6
    ).ttit_s[0]
    assert drafted < few
    assert crowded > many
