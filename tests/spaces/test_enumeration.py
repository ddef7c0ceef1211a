"""What CP-SAT enumerates is what brute force finds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.architecture import Attention, FeedForward, LayerGroup, ModelArchitecture, load_model
from perfmodel.engine import engine_profile
from perfmodel.hardware import load_device
from perfmodel.layout import Layouts
from perfmodel.precision import Precision
from perfmodel.traffic import Lengths, Traffic
from spaces import (
    CHUNKS,
    PREFILL_BATCHES,
    LayoutConstraint,
    decode_batches,
    enumerate_layouts,
    layout_funnel,
    structure_constraints,
)
from spaces.constraints import host_constraint, memory_constraint, world_constraint
from spaces.enumeration import all_layouts
from spaces.variables import RawSpace, exponents

MODELS = [
    "meta-llama/Llama-3.1-405B",
    "Qwen/Qwen3-0.6B",
    "mistralai/Mixtral-8x7B-v0.1",
    "deepseek-ai/DeepSeek-V3",
    "openai/gpt-oss-120b",
]


def brute_force(constraints: list[LayoutConstraint], max_world: int) -> set[tuple[int, ...]]:
    layouts = all_layouts(max_world)
    kept = np.ones(len(layouts), dtype=bool)
    for constraint in constraints:
        kept &= constraint.of(layouts)
    return as_set(layouts[kept])


def as_set(layouts: Layouts) -> set[tuple[int, ...]]:
    return {tuple(row) for row in layouts.rows().tolist()}


def same(constraints: list[LayoutConstraint], max_world: int) -> int:
    """Compare the two and return how many layouts there are."""
    solved = enumerate_layouts(constraints, max_world)
    expected = brute_force(constraints, max_world)
    assert len(solved) == len(expected)
    assert as_set(solved) == expected
    assert layout_funnel(constraints, max_world)[-1][1] == len(expected)
    return len(expected)


@pytest.mark.parametrize("model", MODELS)
def test_real_models_to_the_largest_world(model: str) -> None:
    assert same(structure_constraints(load_model(model)), 256) > 200


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("device", ["h100_sxm", "l40s"])
def test_real_models_with_every_constraint(model: str, device: str) -> None:
    which, architecture = load_device(device), load_model(model)
    traffic = Traffic(Lengths.fixed(2000), Lengths.fixed(200))
    constraints = [
        *structure_constraints(architecture),
        host_constraint(which, which.host_devices),
        world_constraint(48),
        memory_constraint(architecture, [(which, Precision())], engine_profile("vllm"), traffic),
    ]
    same(constraints, 64)


@st.composite
def models(draw: st.DrawFn) -> ModelArchitecture:
    """Small synthetic models, their counts rarely powers of two."""
    kv = draw(st.sampled_from([1, 2, 3, 4, 8]))
    heads = kv * draw(st.sampled_from([1, 2, 3, 4, 5]))
    attention = Attention("gqa", heads, kv, 64, 64)
    width = draw(st.sampled_from([3, 64, 96, 2880, 4096]))
    experts = draw(st.sampled_from([0, 1, 6, 8, 160]))
    layers = draw(st.integers(1, 9))
    groups = []
    if experts:
        top_k = draw(st.integers(1, experts))
        ffn = FeedForward(width, experts=experts, top_k=top_k, shared_intermediate=width)
        groups.append(LayerGroup(attention, ffn, layers))
        if draw(st.booleans()):
            groups.append(LayerGroup(attention, FeedForward(7), 1))
    else:
        groups.append(LayerGroup(attention, FeedForward(width), layers))
    return ModelArchitecture("synthetic", 64, 1000, False, tuple(groups), 4096)


@settings(deadline=None, max_examples=40)
@given(models(), st.integers(1, 70))
def test_synthetic_models(model: ModelArchitecture, max_world: int) -> None:
    assert same(structure_constraints(model), max_world) >= 1


@settings(deadline=None, max_examples=30)
@given(models())
def test_what_is_enumerated_divides_evenly(model: ModelArchitecture) -> None:
    layouts = enumerate_layouts(structure_constraints(model), 32)
    for pp, tp_a, cp_a, dp_a, tp_f, ep_f, dp_f in layouts.rows().tolist():
        assert tp_a * cp_a * dp_a == tp_f * ep_f * dp_f
        assert pp * tp_a * cp_a * dp_a <= 32
        assert pp <= model.layers
        for group in model.groups:
            assert group.attention.heads % tp_a == 0
            kv = group.attention.kv_heads
            assert kv % tp_a == 0 or tp_a % kv == 0
            if group.feed_forward.is_moe:
                assert group.feed_forward.experts % ep_f == 0
                assert group.feed_forward.intermediate % tp_f == 0
        assert model.is_moe or ep_f == 1


def test_rows_are_sorted_and_repeatable() -> None:
    constraints = structure_constraints(load_model("mistralai/Mixtral-8x7B-v0.1"))
    first, second = (enumerate_layouts(constraints, 64) for _ in range(2))
    assert np.array_equal(first.rows(), second.rows())
    keys = [(int(w), *row) for w, row in zip(first.world, first.rows().tolist(), strict=True)]
    assert keys == sorted(keys)


def test_counts_of_the_unconstrained_structure() -> None:
    """Pairs of ways to split 2^s devices in three, over all s and pipelines: by hand for 4."""
    assert len(all_layouts(1)) == 1
    # s=0: 1 pair x 3 pipelines; s=1: 3x3 x 2; s=2: 6x6 x 1.
    assert len(all_layouts(4)) == 3 + 18 + 36
    assert len(enumerate_layouts([], 4)) == 57
    assert len(all_layouts(256)) == 9 * 1 + 8 * 9 + 7 * 36 + 6 * 100 + 5 * 225 + 4 * 441 + (
        3 * 784 + 2 * 1296 + 2025
    )
    assert RawSpace(256).layouts == 9**7


def test_the_funnel_starts_at_the_raw_product_and_only_falls() -> None:
    constraints = structure_constraints(load_model("deepseek-ai/DeepSeek-V3"))
    funnel = layout_funnel(constraints, 64)
    assert [name for name, _ in funnel] == [
        "degrees",
        "equal worlds",
        *(c.name for c in constraints),
    ]
    counts = [count for _, count in funnel]
    assert counts[0] == 7**7
    assert counts == sorted(counts, reverse=True)


def test_an_impossible_constraint_leaves_nothing() -> None:
    nothing = LayoutConstraint("nothing", ("pp",), lambda d: d["pp"] < 0)
    assert len(enumerate_layouts([nothing], 16)) == 0
    assert layout_funnel([nothing], 16)[-1] == ("nothing", 0)


@pytest.mark.parametrize(("max_world", "expected"), [(1, 0), (2, 1), (3, 1), (6, 2), (256, 8)])
def test_worlds_round_down_to_powers_of_two(max_world: int, expected: int) -> None:
    assert exponents(max_world) == expected
    assert enumerate_layouts([], min(max_world, 8)).world.max() == 2 ** min(expected, 3)


def test_swept_axes_ascend_without_gaps() -> None:
    for axis in (PREFILL_BATCHES, CHUNKS, decode_batches(), decode_batches(100)):
        assert np.all(np.diff(axis) > 0)
        assert axis[0] >= 1
    batches = decode_batches(4096)
    assert batches[:8].tolist() == list(range(1, 9))
    assert batches[-1] == 4096
    assert np.all(np.diff(batches) / batches[:-1] <= 1.0)
    assert np.all((np.diff(batches) / batches[:-1])[8:] <= 0.126)
    assert decode_batches(100).max() <= 100
