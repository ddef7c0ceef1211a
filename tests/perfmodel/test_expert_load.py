"""Loads of experts: the busiest device, placements, and what they do to time and memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.architecture import load_model
from perfmodel.database import PerfStore
from perfmodel.errors import ConfigError
from perfmodel.expert_load import (
    MANY,
    ExpertLoad,
    busiest_device,
    nearest_table,
    rank_load,
    read_counts,
    visits,
)
from perfmodel.expert_placement import balanced_placement, contiguous_placement
from perfmodel.layout import parse_layout
from perfmodel.memory import replica_memory
from perfmodel.operators import Kind, Operators
from perfmodel.operators.moe import touched_experts
from perfmodel.step import StepModel
from perfmodel.work import StepWork

Steps = Callable[..., StepModel]

UNIFORM = ExpertLoad("uniform")
SIZES = st.sampled_from([(8, 2), (16, 1), (64, 6), (128, 8), (256, 8)])
DEVICES = st.sampled_from([1, 2, 4, 8])


def power(exponent: float, **fields: Any) -> ExpertLoad:
    return ExpertLoad("power_law", exponent, **fields)


def counted(*rows: list[float], **fields: Any) -> ExpertLoad:
    return ExpertLoad("histogram", counts=tuple(tuple(row) for row in rows), **fields)


@settings(max_examples=40, deadline=None)
@given(size=SIZES, devices=DEVICES, placement=st.sampled_from(["contiguous", "balanced"]))
def test_uniform_is_balanced(size: tuple[int, int], devices: int, placement: Any) -> None:
    experts, top_k = size
    load = rank_load(ExpertLoad("uniform", placement=placement), experts, top_k, devices)
    table = rank_load("balanced", experts, top_k, devices)
    assert load.pairs == pytest.approx(1.0)
    assert load.reached == pytest.approx(table.reached)
    tokens = 2.0 ** np.arange(25)
    assert load.reached == pytest.approx(touched_experts(tokens, top_k, experts) / devices)


@settings(max_examples=50, deadline=None)
@given(size=SIZES, devices=DEVICES, exponent=st.floats(0, 3), more=st.floats(0.05, 1.5))
def test_more_skew_is_more_for_the_busiest(
    size: tuple[int, int], devices: int, exponent: float, more: float
) -> None:
    less, skewed = (
        rank_load(power(e), *size, devices).pairs[0] for e in (exponent, exponent + more)
    )
    assert 1.0 - 1e-9 <= less <= devices + 1e-9
    # Where every token visits the most popular experts, it no longer grows; orders are sampled.
    assert skewed >= 0.99 * less
    balanced = rank_load(power(exponent, placement="balanced"), *size, devices).pairs[0]
    assert 1.0 - 1e-9 <= balanced <= less + 1e-9


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.floats(0.0, 100.0), min_size=16, max_size=16).filter(lambda c: sum(c) > 1),
    top_k=st.integers(1, 4),
    devices=st.sampled_from([2, 4, 8, 16]),
    copies=st.sampled_from([0, 4, 16]),
)
def test_balancing_and_copies_never_hurt_much(
    counts: list[float], top_k: int, devices: int, copies: int
) -> None:
    contiguous = rank_load(counted(counts), 16, top_k, devices).pairs[0]
    balanced = counted(counts, placement="balanced")
    copied = counted(counts, placement="balanced", redundant_experts=copies)
    even, more = (rank_load(load, 16, top_k, devices).pairs[0] for load in (balanced, copied))
    # Longest-first is within a third of the best placement (Graham 1969), which beats any other.
    assert even <= 4 / 3 * contiguous + 1e-9
    assert more <= 4 / 3 * even + 1e-9
    assert even >= 1.0 - 1e-9
    chance = visits(np.array([counts]) / sum(counts), top_k)
    assert chance.sum() == pytest.approx(min(top_k, np.count_nonzero(counts)))
    assert chance.max() <= 1.0 + 1e-9
    placed = balanced_placement(chance, devices, copies)
    assert placed.sum() == pytest.approx(chance.sum())
    assert placed.shape == (1, devices, -(-(16 + copies) // devices))


def test_known_placements() -> None:
    load = np.array([[4.0, 3.0, 2.0, 1.0]])
    assert contiguous_placement(load, 2).sum(axis=2).tolist() == [[7.0, 3.0]]
    assert sorted(balanced_placement(load, 2).sum(axis=2)[0]) == [5.0, 5.0]
    # The copies halve the busiest, then the next one: 2, 2, 1.5, 1.5, 2, 1 over two devices.
    assert balanced_placement(load, 2, 2).sum(axis=2).tolist() == [[5.0, 5.0]]
    assert balanced_placement(load, 2, 2).max() == 2.0


def test_an_expert_is_visited_once_per_token() -> None:
    chance = visits(np.array([[0.9, 0.05, 0.03, 0.02]]), 2)
    assert chance[0] == pytest.approx([1.0, 0.5, 0.3, 0.2])
    assert visits(np.array([[0.6, 0.39, 0.01, 0.0]]), 2)[0] == pytest.approx(
        [1, 39 / 40, 1 / 40, 0]
    )


def test_layers_wait_for_their_own_busiest() -> None:
    first, second = [3.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]
    both = rank_load(counted(first, second), 4, 1, 4).pairs[0]
    assert both == pytest.approx((2.0 + 1.0) / 2)


def test_tables_are_ordered_by_their_skew() -> None:
    for devices in (4, 8, 32):
        pairs = [
            rank_load(table, 256, 8, devices).pairs[MANY]
            for table in ("balanced", "power_law_1.01", "power_law_1.2")
        ]
        assert pairs[0] == 1.0
        assert pairs == sorted(pairs)
    assert nearest_table(UNIFORM, 256, 8) == "balanced"
    assert nearest_table(power(3.0), 256, 8) == "power_law_1.2"
    assert nearest_table(power(3.0), 256, 8, ["balanced", "uniform"]) == "balanced"


def test_over_arrays() -> None:
    devices, tokens = np.array([[1.0], [8.0]]), np.array([[1.0, 100.0, 1e6]])
    pairs, reached = busiest_device(power(1.0), 64, 4, devices, tokens)
    assert pairs.shape == reached.shape == (2, 3)
    assert (pairs[0] == 1.0).all()
    assert (pairs[1] > 1.0).all()
    assert (np.diff(reached, axis=1) > 0).all()
    assert reached[:, -1] == pytest.approx([64.0, 8.0], rel=1e-3)


SHAPE = {
    "tokens": np.array([[1.0, 16.0, 256.0, 8192.0]]),
    "hidden": np.array([[7168.0]]),
    "intermediate": np.array([[2048.0]]),
    "top_k": np.array([[8.0]]),
    "experts": np.array([[256.0]]),
    "tp": np.array([[1.0]]),
    "ep": np.array([[8.0]]),
}
FP8 = {"dtype": "fp8_block", "activation": "gated"}


@pytest.mark.parametrize("device", ["h200_sxm", "mi300x"])
def test_time_under_load(store: PerfStore, device: str) -> None:
    from perfmodel.hardware import load_device

    experts = Operators(load_device(device), "trtllm", store).experts
    even = experts.under_load(UNIFORM, FP8, SHAPE)
    balanced = experts.time({**FP8, "routing": "balanced"}, SHAPE)
    assert even.seconds == pytest.approx(balanced.seconds)
    assert (even.kind == balanced.kind).all()
    skewed = experts.under_load(power(1.5), FP8, SHAPE)
    # Prefill is bound by the busiest device's products.
    assert skewed.seconds[0, -1] > 1.5 * even.seconds[0, -1]
    assert (skewed.seconds >= skewed.floor_s).all()
    assert (skewed.kind != Kind.MEASURED).all()
    seconds = [
        experts.under_load(power(e), FP8, SHAPE).seconds[0, -1] for e in (0.0, 0.5, 1.0, 2.0)
    ]
    assert seconds == sorted(seconds)


def test_the_scale_is_that_of_the_loads(store: PerfStore) -> None:
    from perfmodel.hardware import load_device

    experts = Operators(load_device("h200_sxm"), "trtllm", store).experts
    base = nearest_table(power(1.5), 256, 8)
    table = experts.time({**FP8, "routing": base}, SHAPE)
    skewed = experts.under_load(power(1.5), FP8, SHAPE)
    ours, theirs = (rank_load(load, 256, 8, 8).pairs for load in (power(1.5), base))
    ratio = np.interp(13.0, np.arange(25), ours) / np.interp(13.0, np.arange(25), theirs)
    assert skewed.seconds[0, -1] == pytest.approx(ratio * table.seconds[0, -1], rel=1e-6)


def loaded(step: StepModel, load: ExpertLoad | str) -> StepModel:
    kit = step._kit
    return StepModel(step.model, step.device, step.engine, step.precision, kit.ops, load)


def test_a_step_waits_for_the_busiest_device(step_model: Steps) -> None:
    step = step_model("deepseek-v3", "h200_sxm", fmt="fp8_block")
    layout = parse_layout("attn:TP1DP16 ffn:TP1EP16 PP1")
    work = StepWork.of(prefill_sequences=2, prefill_tokens=4000)

    def seconds(load: ExpertLoad | str, *names: str) -> float:
        calls = [c for c in loaded(step, load).measured_calls(layout, work) if c.name in names]
        assert calls
        return float(sum(call.time.seconds[call.index[0], 0] for call in calls))

    for names in (("routed_experts",), ("dispatch", "combine")):
        assert seconds(UNIFORM, *names) == pytest.approx(seconds("balanced", *names))
        rising = [seconds(power(e), *names) for e in (0.0, 0.5, 1.0, 1.5)]
        assert rising == sorted(rising)
        assert rising[-1] > 1.2 * rising[0]
        assert seconds(power(1.0, placement="balanced"), *names) <= seconds(power(1.0), *names)
    # Where tokens are gathered instead, the exchange does not feel the skew; the experts do.
    whole = ("routed_experts", "dispatch", "combine")
    for exponent in (0.5, 1.0):
        even = seconds(power(exponent, placement="balanced"), *whole)
        assert even < seconds(power(exponent), *whole)


def test_copies_take_memory(step_model: Steps) -> None:
    step = step_model("deepseek-v3", "h200_sxm", fmt="fp8_block")
    layout, one = parse_layout("attn:TP1DP16 ffn:TP1EP16 PP1"), np.ones((1, 1))
    work = StepWork.of(prefill_sequences=1, prefill_tokens=4000)

    def memory(load: ExpertLoad | None) -> Any:
        parts = step.model, step.device, step.engine, step.precision
        return replica_memory(*parts, layout, work, one, one * 5000, load)

    bare, even = memory(None), memory(UNIFORM)
    assert even.weights == bare.weights
    copied = memory(power(1.0, placement="balanced", redundant_experts=32))
    model = load_model("deepseek-v3")
    sparse = next(group for group in model.groups if group.feed_forward.is_moe)
    expert = sparse.feed_forward.expert_parameters(model.hidden) * step.precision.bytes("experts")
    added = float(copied.weights[0, 0] - bare.weights[0, 0])
    assert added == pytest.approx(sparse.count * 2 * expert)
    assert memory(power(1.5)).activations[0, 0] > even.activations[0, 0]


@pytest.mark.parametrize(
    ("name", "text", "read"),
    [
        ("one.csv", "3, 1,2\n", ((3.0, 1.0, 2.0),)),
        ("layers.csv", "# tokens\n3,1\n\n0,5\n", ((3.0, 1.0), (0.0, 5.0))),
        ("column.csv", "3\n1\n2\n", ((3.0, 1.0, 2.0),)),
        ("one.json", "[3, 1, 2]", ((3.0, 1.0, 2.0),)),
        ("layers.json", "[[3, 1], [0, 5.5]]", ((3.0, 1.0), (0.0, 5.5))),
    ],
)
def test_counts_of_a_file(tmp_path: Path, name: str, text: str, read: Any) -> None:
    (tmp_path / name).write_text(text)
    assert read_counts(tmp_path / name) == read


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "1,2\n3,x\n", "a.csv:2: expected counts from zero up, got 'x'"),
        ("a.csv", "1,2\n3\n", "a.csv:2: expected 2 counts as before, got 1"),
        ("a.csv", "1,-2\n", "a.csv:1: expected counts from zero up, got '-2'"),
        ("a.csv", "1,2\n0,0\n", "a.csv:2: expected at least one expert with tokens"),
        ("a.csv", "", "a.csv: expected counts of tokens by expert, got none"),
        ("a.json", "[1, [2]]", "a.json: expected a list of counts"),
        ("a.json", "[[1, true]]", "a.json: layer 0: expected counts from zero up, got True"),
        ("a.json", "[1,", "a.json:1:4: not valid JSON"),
        ("a.json", "{}", "a.json: expected a list of counts"),
    ],
)
def test_bad_counts(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_counts(tmp_path / name)
    assert f"{tmp_path}/{said}" in str(caught.value)
    with pytest.raises(ConfigError, match="no such file"):
        read_counts(tmp_path / "missing.csv")
