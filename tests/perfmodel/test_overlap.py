"""Two-batch overlap: what it hides, what it costs, and that no bound is broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.architecture import load_model
from perfmodel.breakdown import breakdown
from perfmodel.database import PerfStore
from perfmodel.engine import engine_profile
from perfmodel.graph import COMMUNICATION, COMPUTE, repeat, run
from perfmodel.hardware import load_device
from perfmodel.layout import Layouts, parse_layout
from perfmodel.operators import Operators
from perfmodel.overlap import HALVES, halved, layer_graph
from perfmodel.precision import Precision
from perfmodel.step import StepModel
from perfmodel.work import StepWork

StepOf = Callable[..., StepModel]
MODEL = "deepseek-ai/DeepSeek-V3"
DISPATCHED = "attn:TP1DP16 ffn:TP1EP16 PP1"
WORKS = {
    "decode": StepWork.of(decode_sequences=[2, 64, 512], context_tokens=4096),
    "prefill": StepWork.of(prefill_sequences=[1, 1, 4], prefill_tokens=[512, 4096, 4096]),
    "mixed": StepWork.of(
        decode_sequences=64, context_tokens=2048, prefill_sequences=0.5, prefill_tokens=4096
    ),
}
works = pytest.mark.parametrize("work", WORKS.values(), ids=WORKS)


def both(step: StepModel) -> tuple[StepModel, StepModel]:
    """The step model with two half batches at once, and without."""
    return tuple(  # type: ignore[return-value]
        StepModel(
            step.model,
            step.device,
            replace(step.engine, splits_batches=splits),
            step.precision,
            step._kit.ops,
            step._kit.routing,
        )
        for splits in (True, False)
    )


@pytest.fixture(scope="module")
def steps(store: PerfStore) -> tuple[StepModel, StepModel]:
    """On an H100 behind slow NICs, so that there is much to hide."""
    h100 = load_device("h100_sxm")
    slow = replace(h100.network, bandwidth_bytes_per_s=h100.network.bandwidth_bytes_per_s / 10)
    device = replace(h100, links=(*h100.links[:-1], slow))
    precision = Precision(*("fp8_block",) * 3, "bf16").on(device.peak_flops_per_s)
    operators = Operators(device, "sglang", store)
    engine = engine_profile("sglang")
    return both(StepModel(load_model(MODEL), device, engine, precision, operators, "balanced"))


def layouts(*texts: str) -> Layouts:
    return Layouts.from_rows(np.concatenate([parse_layout(text).rows() for text in texts]))


@works
def test_it_is_used_only_where_it_is_faster(steps: Any, work: StepWork) -> None:
    split, whole = steps
    swept = layouts(
        DISPATCHED, "attn:TP8 ffn:TP8 PP1", "attn:TP1DP8 ffn:TP1EP8 PP2", "attn:TP2DP8 ffn:TP2EP8"
    )
    now, before = split.time(swept, work), whole.time(swept, work)
    assert np.all(now.pace_s <= before.pace_s * (1 + 1e-12))
    assert np.all(now.latency_s <= before.latency_s * (1 + 1e-12))
    # Where no token travels, nothing changes.
    np.testing.assert_array_equal(now.pace_s[1], before.pace_s[1])


def test_it_pays_for_a_long_prefill_and_not_for_two_sequences(steps: Any) -> None:
    swept = parse_layout(DISPATCHED)
    times = {name: [s.time(swept, work).pace_s[0] for s in steps] for name, work in WORKS.items()}
    prefill, decode = times["prefill"], times["decode"]
    assert prefill[0][-1] < 0.98 * prefill[1][-1]
    assert decode[0][0] == decode[1][0]


@works
def test_a_step_cannot_beat_either_stream(steps: Any, work: StepWork) -> None:
    """All of the compute stream's work, and all of the communication stream's, remain."""
    split, _ = steps
    swept = parse_layout(DISPATCHED)
    for column in range(len(work)):
        one = StepWork(*(np.atleast_1d(getattr(work, f)[column]) for f in FIELDS))
        part = breakdown(split, swept, one)
        streams = {True: part.overhead_s, False: 0.0}
        for op in part.operators:
            # Other collectives are launched among the kernels.
            streams[op.name not in ("dispatch", "combine")] += op.total_s
        assert part.hidden_s <= streams[False] * (1 + 1e-9)
        assert part.total_s >= max(streams.values()) * (1 - 1e-9)
        assert part.total_s <= sum(streams.values()) * (1 + 1e-9)
        floor = {True: 0.0, False: 0.0}
        for op in part.operators:
            floor[op.module != "communication"] += op.calls * op.floor_s
        assert part.total_s >= max(floor.values()) * (1 - 1e-9)


FIELDS = tuple(StepWork.__dataclass_fields__)


@pytest.mark.parametrize("pp", [1, 3])
@works
def test_operators_less_what_is_hidden_are_the_step(steps: Any, work: StepWork, pp: int) -> None:
    split, _ = steps
    swept = parse_layout(f"attn:TP1DP16 ffn:TP1EP16 PP{pp}")
    pace = split.time(swept, work).pace_s[0]
    for column in range(len(work)):
        one = StepWork(*(np.atleast_1d(getattr(work, f)[column]) for f in FIELDS))
        part = breakdown(split, swept, one)
        assert part.total_s == pytest.approx(pace[column], rel=1e-9)
        assert sum(part.shares("kind").values()) == pytest.approx(1.0)


def test_one_layout_alone_and_among_many(steps: Any) -> None:
    split, _ = steps
    texts = [DISPATCHED, "attn:TP8 ffn:TP8 PP1", "attn:TP1DP8 ffn:TP1EP8 PP2"]
    swept = split.time(layouts(*texts), WORKS["prefill"])
    for i, text in enumerate(texts):
        alone = split.time(parse_layout(text), WORKS["prefill"])
        np.testing.assert_allclose(alone.pace_s[0], swept.pace_s[i], rtol=1e-12)
        np.testing.assert_allclose(alone.latency_s[0], swept.latency_s[i], rtol=1e-12)


times = st.floats(0.0, 10.0)


@given(attention=times, dispatch=times, experts=times, combine=times)
def test_many_layers_take_the_longest_cycle(
    attention: float, dispatch: float, experts: float, combine: float
) -> None:
    """In the long run a layer takes what its busiest stream does, or a half's own chain."""
    sections = [np.array(s) for s in (attention, dispatch, experts, combine)]
    repeated = repeat(layer_graph(*sections), 60)
    chain = float(sum(sections))
    busiest = 2 * max(attention + experts, dispatch + combine)
    period = (repeated.after(60) - repeated.after(30)) / 30
    assert period >= max(busiest, chain) * (1 - 1e-9)
    # The order of launch may leave gaps, but never more than doing one thing at a time.
    assert period <= 2 * chain * (1 + 1e-9)


def test_perfect_overlap_by_hand() -> None:
    """Four sections of 1 s: each half computes while the other's tokens travel."""
    layer = layer_graph(*(np.array(1.0) for _ in range(4)))
    once = run(layer)
    assert once.busy(COMPUTE) == once.busy(COMMUNICATION) == 4.0
    # attention 0-1 1-2, dispatch 1-2 2-3, experts 2-3 3-4, combine 3-4 4-5.
    assert once.makespan == 5.0
    ten = repeat(layer, 10)
    assert ten.period_s == 4.0
    assert ten.after(10) == 41.0
    assert {node.lane for node in layer} == set(HALVES)


def test_two_halves_are_the_whole() -> None:
    for work in WORKS.values():
        half = halved(work)
        np.testing.assert_allclose(2 * half.new_tokens, work.new_tokens)
        np.testing.assert_allclose(2 * half.decoded, work.decoded)
    # A prompt's halves see it from one quarter and three quarters: half, in the mean.
    one = halved(StepWork.of(prefill_sequences=1, prefill_tokens=1000, prefix_tokens=200))
    assert one.prefill_tokens == 500
    assert one.prefix_tokens == 450


@settings(max_examples=20, deadline=None)
@given(sequences=st.integers(1, 512), more=st.integers(1, 64))
def test_more_sequences_never_take_less_time(steps: Any, sequences: int, more: int) -> None:
    split, _ = steps
    work = StepWork.of(decode_sequences=[sequences, sequences + more], context_tokens=2048)
    few, many = split.time(parse_layout(DISPATCHED), work).pace_s[0]
    assert many >= few * 0.99


def test_without_captured_graphs_every_layer_of_a_decode_step_pays_a_gap(
    step_model: StepOf,
) -> None:
    step = step_model("meta-llama/Llama-3.1-8B", "h100_sxm", "vllm", "bf16")
    eager = StepModel(
        step.model,
        step.device,
        replace(step.engine, captures_decode=False),
        step.precision,
        step._kit.ops,
    )
    layout = parse_layout("attn:TP1 ffn:TP1 PP1")
    gap = step.engine.correction.layer_gap_s
    assert gap > 0
    decode = StepWork.of(decode_sequences=[1, 64], context_tokens=1000)
    slower = eager.time(layout, decode).pace_s - step.time(layout, decode).pace_s
    np.testing.assert_allclose(slower, step.model.layers * gap, rtol=1e-6)
    # Steps with prompts are captured by no engine.
    prefill = StepWork.of(prefill_sequences=1, prefill_tokens=1000)
    np.testing.assert_array_equal(
        eager.time(layout, prefill).pace_s, step.time(layout, prefill).pace_s
    )


def test_pcie_alone_has_no_kernels_that_overlap(store: PerfStore) -> None:
    device = load_device("l40s")
    precision = Precision(*("bf16",) * 4)
    operators = Operators(device, "vllm", store)
    model = load_model("Qwen/Qwen3-30B-A3B")
    split, whole = both(
        StepModel(model, device, engine_profile("vllm"), precision, operators, "balanced")
    )
    layout = parse_layout("attn:TP1DP8 ffn:TP1EP8 PP1")
    for work in WORKS.values():
        np.testing.assert_array_equal(
            split.time(layout, work).pace_s, whole.time(layout, work).pace_s
        )
