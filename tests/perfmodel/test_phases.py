"""What a replica delivers in prefill, decode and continuous batching."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.architecture import load_model
from perfmodel.layout import Layouts, parse_layout
from perfmodel.operators.attention import causal_area
from perfmodel.phases import _iteration_at, continuous, decode, mixed_work, prefill
from perfmodel.step import StepModel
from perfmodel.traffic import Lengths, Traffic
from perfmodel.work import StepWork

StepOf = Callable[..., StepModel]
MODEL = "meta-llama/Llama-3.1-70B"
FIXED = Traffic(Lengths.fixed(2000), Lengths.fixed(150))
SPREAD = Traffic(
    Lengths.from_percentiles({50: 800, 90: 3000, 99: 8000}),
    Lengths.from_percentiles({50: 150, 90: 400, 99: 900}),
)
TEXTS = ["attn:TP8 ffn:TP8", "attn:TP4 ffn:TP4 PP2", "attn:TP4DP2 ffn:TP8", "attn:TP8 ffn:TP8 PP4"]
LAYOUTS = Layouts.from_rows(np.concatenate([parse_layout(text).rows() for text in TEXTS]))
PP, DP = LAYOUTS.pp[:, None].astype(float), LAYOUTS.dp_a[:, None].astype(float)
BATCH = np.array([1, 8, 64, 256], dtype=np.int64)


@pytest.fixture(scope="module")
def step(step_model: StepOf) -> StepModel:
    return step_model(MODEL, "h100_sxm", fmt="fp8")


# Decode.


def test_decode_throughput_is_sequences_in_flight_over_their_stay(step: StepModel) -> None:
    for traffic in (FIXED, SPREAD):
        estimate = decode(step, LAYOUTS, traffic, BATCH)
        assert estimate.slots == pytest.approx(BATCH * DP * PP)
        expected = estimate.slots / (traffic.outputs.mean * estimate.ttit_s)
        assert estimate.qps == pytest.approx(expected)


def test_a_token_waits_for_every_stage(step: StepModel) -> None:
    estimate = decode(step, LAYOUTS, FIXED, BATCH)
    work = StepWork.of(decode_sequences=BATCH, context_tokens=FIXED.context_mean)
    assert estimate.ttit_s == pytest.approx(PP * step.time(LAYOUTS, work).pace_s)
    assert np.all(estimate.ttit_s[3] >= estimate.ttit_s[0])


def test_larger_batches_wait_longer_and_serve_more(step: StepModel) -> None:
    batch = np.array([1, 2, 4, 8, 16, 32, 64, 128, 256, 512], dtype=np.int64)
    estimate = decode(step, LAYOUTS, FIXED, batch)
    assert np.all(np.diff(estimate.ttit_s, axis=1) > -0.02 * estimate.ttit_s[:, :-1])
    assert np.all(np.diff(estimate.qps, axis=1) > 0)
    assert np.all(np.diff(estimate.memory.total, axis=1) > 0)


def test_the_tail_of_decode_exceeds_its_mean_and_shrinks_with_the_batch(step: StepModel) -> None:
    mean = decode(step, LAYOUTS, SPREAD, BATCH)
    tails = {p: decode(step, LAYOUTS, SPREAD, BATCH, p) for p in (50.0, 90.0, 99.0)}
    assert mean.ttit_slo_s == pytest.approx(mean.ttit_s)
    assert tails[50.0].ttit_slo_s == pytest.approx(mean.ttit_s)
    assert np.all(tails[99.0].ttit_slo_s >= tails[90.0].ttit_slo_s)
    assert np.all(tails[90.0].ttit_slo_s[:, 2:] > mean.ttit_s[:, 2:])
    for estimate in tails.values():
        assert estimate.ttit_s == pytest.approx(mean.ttit_s)
        assert estimate.qps == pytest.approx(mean.qps)


def test_every_micro_batch_holds_its_cache_at_peak_length(step: StepModel) -> None:
    estimate = decode(step, LAYOUTS, FIXED, BATCH)
    per_token = step.model.kv_bytes_per_token(2)
    whole = BATCH * PP * 2150 * per_token
    stage = np.ceil(80 / PP) / 80
    assert estimate.memory.kv_cache == pytest.approx(whole * stage / LAYOUTS.tp_a[:, None])


# Prefill.


def test_prefill_is_paced_by_the_slowest_stage_and_late_by_their_sum(step: StepModel) -> None:
    batch = np.array([1, 4], dtype=np.int64)
    estimate = prefill(step, LAYOUTS, FIXED, batch)
    work = StepWork.of(prefill_sequences=batch, prefill_tokens=2000)
    time = step.time(LAYOUTS, work)
    assert estimate.pace_s == pytest.approx(time.pace_s)
    assert estimate.latency_s[:, :, 0] == pytest.approx(time.latency_s)
    assert estimate.qps == pytest.approx(batch * DP / time.pace_s)
    assert estimate.pace_cv2 == pytest.approx(0, abs=1e-12)


def test_pipelined_prefill_serves_more_per_device_at_a_longer_latency(step: StepModel) -> None:
    """The reference's insight 2: prefill takes PP for throughput, decode cannot afford it."""
    flat, piped = (parse_layout(text) for text in ("attn:TP8 ffn:TP8", "attn:TP2 ffn:TP2 PP4"))
    one = np.array([1], dtype=np.int64)
    wide, deep = (prefill(step, layout, FIXED, one) for layout in (flat, piped))
    assert deep.qps.item() > 1.1 * wide.qps.item()
    assert deep.latency_s.item() > 1.5 * wide.latency_s.item()
    wide_ttit, deep_ttit = (
        decode(step, layout, FIXED, one).ttit_s.item() for layout in (flat, piped)
    )
    assert deep_ttit > 2 * wide_ttit


def test_spread_prompts_average_over_their_distribution(step: StepModel) -> None:
    batch = np.array([1, 4, 16], dtype=np.int64)
    estimate = prefill(step, LAYOUTS, SPREAD, batch)
    weights = np.array(SPREAD.inputs.weights)
    for j, tokens in enumerate(SPREAD.new_tokens):
        alone = prefill(step, LAYOUTS, Traffic(Lengths.fixed(tokens), SPREAD.outputs), batch)
        assert estimate.latency_s[:, :, j] == pytest.approx(alone.latency_s[:, :, 0])
    mean = sum(
        w * prefill(step, LAYOUTS, Traffic(Lengths.fixed(t), SPREAD.outputs), batch).pace_s
        for w, t in zip(weights, SPREAD.new_tokens, strict=True)
    )
    assert estimate.pace_s == pytest.approx(mean)
    assert np.all(estimate.pace_cv2 > 0)
    assert np.all(np.diff(estimate.pace_cv2, axis=1) < 0)
    assert np.all(np.diff(estimate.latency_s, axis=2) > 0)


@settings(deadline=None, max_examples=15)
@given(hit=st.floats(0.0, 0.95))
def test_prefix_hits_only_help(step: StepModel, hit: float) -> None:
    batch = np.array([1, 8], dtype=np.int64)
    cold = prefill(step, LAYOUTS, FIXED, batch)
    warm = prefill(step, LAYOUTS, Traffic(FIXED.inputs, FIXED.outputs, hit), batch)
    assert np.all(warm.qps >= cold.qps * 0.98)
    assert np.all(warm.latency_s <= cold.latency_s * 1.02)
    assert warm.memory.kv_cache == pytest.approx(cold.memory.kv_cache)


def test_prefill_holds_the_cache_of_every_stage_and_one_batch_more(step: StepModel) -> None:
    batch = np.array([1, 4], dtype=np.int64)
    estimate = prefill(step, LAYOUTS, SPREAD, batch)
    tokens = SPREAD.inputs.maximum
    whole = batch * (PP + 1) * tokens * step.model.kv_bytes_per_token(2)
    stage = np.ceil(80 / PP) / 80
    assert estimate.memory.kv_cache == pytest.approx(whole * stage / LAYOUTS.tp_a[:, None])


# Continuous batching.


def grid(batches: list[int], chunks: list[int]) -> tuple[np.ndarray, np.ndarray]:
    batch, chunk = np.meshgrid(batches, chunks, indexing="ij")
    return batch.ravel().astype(np.int64), chunk.ravel().astype(np.int64)


def test_continuous_throughput_is_sequences_in_flight_over_their_stay(step: StepModel) -> None:
    batch, chunk = grid([1, 16, 128], [512, 2048, 8192])
    for traffic in (FIXED, SPREAD):
        estimate = continuous(step, LAYOUTS, traffic, batch, chunk)
        assert estimate.slots == pytest.approx(batch * DP * PP)
        full = estimate.slots / (traffic.outputs.mean * estimate.ttit_s)
        # Slots that chunks cannot keep filled are served by what the chunks let in.
        let_in = DP * PP * chunk / (traffic.mean_new_tokens * estimate.mixed_s)
        filled = batch * traffic.mean_new_tokens / traffic.outputs.mean <= chunk
        assert estimate.qps == pytest.approx(np.where(filled, full, let_in))


def test_iterations_carry_the_prompt_tokens_that_decodes_use_up(step: StepModel) -> None:
    batch, chunk = grid([1, 16, 128], [512, 2048])
    for traffic in (FIXED, SPREAD):
        estimate = continuous(step, LAYOUTS, traffic, batch, chunk)
        needed = batch * traffic.mean_new_tokens / traffic.outputs.mean
        assert estimate.mixed_share[0] * chunk == pytest.approx(np.minimum(needed, chunk))
        share = estimate.mixed_share
        mean = share * estimate.mixed_s + (1 - share) * estimate.pure_s
        assert estimate.ttit_s == pytest.approx(mean)


@settings(deadline=None, max_examples=15)
@given(st.sampled_from([256, 1024, 3000, 16384]), st.floats(0, 0.9))
def test_a_mixed_iteration_carries_the_whole_chunk(chunk: int, hit: float) -> None:
    for traffic in (FIXED, SPREAD):
        traffic = Traffic(traffic.inputs, traffic.outputs, hit)
        work = mixed_work(traffic, 32, chunk)
        assert (work.prefill_sequences * work.prefill_tokens).item() == pytest.approx(chunk)
        assert work.new_tokens.item() == pytest.approx(32 + chunk)
        seen = work.prefill_tokens + work.prefix_tokens
        # The prompt of a mean token: longer than the mean prompt where prompts differ.
        of_mean_token = traffic.inputs.mean_square / traffic.inputs.mean
        assert seen.item() <= max(of_mean_token, 1.0 / (1.0 - hit)) + 1e-6
        assert work.prefix_tokens.item() >= -1e-6


@pytest.mark.parametrize("chunk", [250, 500, 1000, 2000])
def test_chunks_see_on_average_what_the_whole_prompt_sees(chunk: int) -> None:
    work = mixed_work(FIXED, 32, chunk)
    area = causal_area(work.prefill_tokens, work.prefix_tokens).item()
    assert area * 2000 / chunk == pytest.approx(float(causal_area(2000.0)))


def test_mixed_iterations_are_the_longer_ones(step: StepModel) -> None:
    batch, chunk = grid([1, 16, 128], [512, 2048, 8192])
    estimate = continuous(step, LAYOUTS, SPREAD, batch, chunk)
    assert np.all(estimate.mixed_s > estimate.pure_s)
    by_chunk = estimate.mixed_s.reshape(len(LAYOUTS), 3, 3)
    assert np.all(np.diff(by_chunk, axis=2) > 0)


def test_a_percentile_between_tokens_is_an_iteration_of_its_kind(step: StepModel) -> None:
    """Mixed or pure, up to what contexts vary: a batch of 16 of one length, by a few percent."""
    batch, chunk = grid([16], [8192])
    layouts = LAYOUTS[LAYOUTS.dp_a == 1]

    def at(percentile: float | None) -> np.ndarray:
        return continuous(step, layouts, FIXED, batch, chunk, percentile).ttit_slo_s

    estimate = continuous(step, layouts, FIXED, batch, chunk)
    share = estimate.mixed_share[0, 0]
    assert 0 < share < 0.5
    assert np.array_equal(at(None), estimate.ttit_s)
    assert at(99.0) == pytest.approx(estimate.mixed_s, rel=0.02)
    assert at(50.0) == pytest.approx(estimate.pure_s, rel=0.02)
    above, below = 100 * (1 - share) + 0.01, 100 * (1 - share) - 0.01
    assert at(above) == pytest.approx(estimate.mixed_s, rel=0.03)
    assert at(below) == pytest.approx(estimate.pure_s, rel=0.03)
    percentiles = [at(p) for p in (1.0, 30.0, 50.0, 70.0, 90.0, 95.0, 99.0, 99.9)]
    assert np.all(np.diff(percentiles, axis=0) >= 0)


@pytest.mark.parametrize("quantile", [0.05, 0.5, 0.7, 0.9, 0.99])
def test_the_percentile_is_that_of_a_mixture(quantile: float) -> None:
    draws = np.random.default_rng(7)
    share, pure, mixed, deviation = 0.2, 10.0, 30.0, 1.5
    kind = draws.random(400_000) < share
    times = np.where(kind, mixed, pure) + deviation * draws.standard_normal(len(kind))
    found = _iteration_at(quantile, *(np.array(v) for v in (share, pure, mixed, deviation)))
    assert found == pytest.approx(np.quantile(times, quantile), rel=0.01)


def test_longer_contexts_than_usual_lengthen_the_tail(step: StepModel) -> None:
    batch, chunk = grid([64], [2048])
    spread = continuous(step, LAYOUTS, SPREAD, batch, chunk, 99.0)
    mean_only = np.where(spread.stalled_share > 0.01, spread.mixed_s, spread.pure_s)
    assert np.all(spread.ttit_slo_s > mean_only)
    # In the limit of no prefill it is what a decode pool sees.
    rare = Traffic(SPREAD.inputs, SPREAD.outputs, prefix_hit=0.9999)
    both = continuous(step, LAYOUTS, rare, batch, chunk, 90.0)
    alone = decode(step, LAYOUTS, rare, batch, 90.0)
    assert both.ttit_slo_s == pytest.approx(alone.ttit_slo_s, rel=0.02)


def test_all_ranks_wait_for_any_ranks_chunk(step: StepModel) -> None:
    batch, chunk = grid([16], [8192])
    estimate = continuous(step, LAYOUTS, FIXED, batch, chunk)
    assert estimate.stalled_share == pytest.approx(1 - (1 - estimate.mixed_share) ** DP)
    often = 100 * (1 - estimate.mixed_share.item(0)) - 0.01  # on one rank, rarer than this
    waits = continuous(step, LAYOUTS, FIXED, batch, chunk, often).ttit_slo_s
    expected = np.where(DP > 1, estimate.mixed_s, estimate.pure_s)
    assert waits == pytest.approx(expected, rel=0.03)


def test_prompts_that_enter_hold_their_own_tokens_only(step: StepModel) -> None:
    long_outputs = Traffic(Lengths.fixed(128), Lengths.fixed(4096))
    chunk = np.full_like(BATCH, 8192)
    mixed = continuous(step, LAYOUTS, long_outputs, BATCH, chunk).memory.kv_cache
    alone = decode(step, LAYOUTS, long_outputs, BATCH).memory.kv_cache
    stage = np.ceil(80 / PP) / 80
    prompts = 8192 * PP * step.model.kv_bytes_per_token(2) * stage / LAYOUTS.tp_a[:, None]
    assert mixed - alone == pytest.approx(np.broadcast_to(prompts, mixed.shape))


def test_hardly_any_prefill_leaves_decode(step: StepModel) -> None:
    traffic = Traffic(Lengths.fixed(2000), Lengths.fixed(100_000), prefix_hit=0.999)
    batch, chunk = grid([1, 64], [256])
    both = continuous(step, LAYOUTS, traffic, batch, chunk)
    alone = decode(step, LAYOUTS, traffic, batch)
    assert np.all(both.mixed_share < 1e-4)
    assert both.ttit_s == pytest.approx(alone.ttit_s, rel=1e-4)
    assert both.qps == pytest.approx(alone.qps, rel=1e-4)


def test_one_output_token_makes_it_a_prefill_server(step: StepModel) -> None:
    """Each request leaves after one mixed iteration per slot: prefill paces everything."""
    traffic = Traffic(Lengths.fixed(2000), Lengths.fixed(1))
    layout = parse_layout("attn:TP8 ffn:TP8")
    one = np.array([1], dtype=np.int64)
    both = continuous(step, layout, traffic, 4 * one, 8000 * one)
    alone = prefill(step, layout, traffic, 4 * one)
    assert both.mixed_share.item() == pytest.approx(1.0)
    assert both.qps.item() < alone.qps.item()
    assert both.qps.item() == pytest.approx(alone.qps.item(), rel=0.15)


def test_continuous_never_beats_time_sharing_the_two_phases_by_much(step: StepModel) -> None:
    """Mixing saves one pass over the weights per iteration, and nothing else."""
    layout = parse_layout("attn:TP8 ffn:TP8")
    batch, chunk = grid([8, 64, 128], [2000])
    both = continuous(step, layout, FIXED, batch, chunk)
    p = prefill(step, layout, FIXED, np.array([1], dtype=np.int64)).qps
    d = decode(step, layout, FIXED, batch).qps
    shared = p * d / (p + d)
    assert np.all(both.qps > shared)
    assert np.all(both.qps < p)
    assert np.all(both.qps < d)


def test_a_prompt_takes_as_many_iterations_as_it_has_chunks(step: StepModel) -> None:
    batch, chunk = grid([8], [512, 2048, 16384])
    estimate = continuous(step, LAYOUTS, FIXED, batch, chunk)
    chunks = np.array([4, 1, 1])
    assert estimate.prefill_s[:, :, 0] == pytest.approx(estimate.mixed_s * chunks)


@pytest.mark.parametrize("model", ["deepseek-ai/DeepSeek-V3", "openai/gpt-oss-120b"])
def test_capacity_per_layout_is_independent_of_the_other_layouts(
    step_model: StepOf, model: str
) -> None:
    step = step_model(model, "h100_sxm")
    texts = ["attn:TP8 ffn:EP8", "attn:TP1DP8 ffn:EP8 PP2", "attn:TP2CP2DP2 ffn:TP2EP4"]
    many = Layouts.from_rows(np.concatenate([parse_layout(t).rows() for t in texts]))
    assert load_model(model).is_moe
    swept = decode(step, many, SPREAD, BATCH, 99.0)
    for i, text in enumerate(texts):
        one = decode(step, parse_layout(text), SPREAD, BATCH, 99.0)
        assert swept.qps[i] == pytest.approx(one.qps[0], rel=1e-12)
        assert swept.ttit_slo_s[i] == pytest.approx(one.ttit_slo_s[0], rel=1e-12)
        total = np.broadcast_to(swept.memory.total, (3, len(BATCH)))
        assert total[i] == pytest.approx(np.broadcast_to(one.memory.total, (1, len(BATCH)))[0])
