"""Rooflines by hand, and what no estimate may do: beat its roofline, or gain from more work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.database import PerfStore
from perfmodel.hardware import Device, load_device
from perfmodel.operators import Bound, Kind, Operators, OperatorTime
from perfmodel.operators.attention import causal_area
from perfmodel.operators.moe import touched_experts
from perfmodel.power_law import drawn_loads, reached_experts

MI300X = load_device("mi300x")
BF16, FP8, HBM = 1307.4e12, 2614.9e12, 5.3e12
GEMM = {"m": 4096, "n": 8192, "k": 8192}
CONTEXT = {"q_heads": 32, "kv_heads": 8, "head_dim": 128, "window_tokens": 0, "batch": 2}
CONTEXT |= {"tokens": 4096, "prefix_tokens": 0}
GENERATION = {"q_heads": 32, "kv_heads": 8, "head_dim": 128, "window_tokens": 0, "batch": 64}
GENERATION |= {"context_tokens": 4096}
EXPERTS = {"tokens": 1, "hidden": 4096, "intermediate": 14336, "top_k": 2, "experts": 8}
EXPERTS |= {"tp": 1, "ep": 1}
BOTH_BF16 = {"dtype": "bf16", "kv_dtype": "bf16"}
GATED = {"dtype": "bf16", "routing": "balanced", "activation": "gated"}

CASES: list[tuple[str, Mapping[str, str], Mapping[str, float], float, Bound]] = [
    ("gemm", {"dtype": "bf16"}, GEMM, 2 * 4096 * 8192**2 / BF16, Bound.COMPUTE),
    ("gemm", {"dtype": "fp8"}, GEMM, 2 * 4096 * 8192**2 / FP8, Bound.COMPUTE),
    ("gemm", {"dtype": "fp8_weight_only"}, GEMM, 2 * 4096 * 8192**2 / BF16, Bound.COMPUTE),
    ("gemm", {"dtype": "nvfp4"}, GEMM, 2 * 4096 * 8192**2 / BF16, Bound.COMPUTE),
    ("gemm", {"dtype": "bf16"}, GEMM | {"m": 1}, 134_250_496 / HBM, Bound.BANDWIDTH),
    ("gemm", {"dtype": "fp8"}, GEMM | {"m": 1}, 67_141_632 / HBM, Bound.BANDWIDTH),
    ("context", BOTH_BF16, CONTEXT, 4 * 2 * 32 * 128 * 8_390_656 / BF16, Bound.COMPUTE),
    (
        "context",
        BOTH_BF16,
        CONTEXT | {"tokens": 1024, "prefix_tokens": 3072},
        4 * 2 * 32 * 128 * 3_670_528 / BF16,
        Bound.COMPUTE,
    ),
    ("generation", BOTH_BF16, GENERATION, 2**30 / HBM, Bound.BANDWIDTH),
    (
        "generation",
        {"dtype": "bf16", "kv_dtype": "fp8"},
        GENERATION | {"context_tokens": 8192},
        2**30 / HBM,
        Bound.BANDWIDTH,
    ),
    ("generation", BOTH_BF16, GENERATION | {"window_tokens": 1024}, 2**28 / HBM, Bound.BANDWIDTH),
    (
        "mla_generation",
        BOTH_BF16,
        {"heads": 16, "batch": 64, "context_tokens": 4096},
        64 * 4096 * 576 * 2 / HBM,
        Bound.BANDWIDTH,
    ),
    (
        "mla_context",
        BOTH_BF16,
        {"heads": 16, "batch": 1, "tokens": 4096},
        2 * 16 * 8_390_656 * 320 / BF16,
        Bound.COMPUTE,
    ),
    (
        "mla_absorb",
        {"dtype": "bf16", "stage": "pre"},
        {"heads": 128, "tokens": 1},
        128 * (128 * 512 + 640) * 2 / HBM,
        Bound.BANDWIDTH,
    ),
    # One token reaches two of eight experts, each of three 4096 x 14336 matrices.
    (
        "experts",
        GATED,
        EXPERTS,
        2 * (3 * 4096 * 14336 + 2 * 4096) * 2 / HBM,
        Bound.BANDWIDTH,
    ),
    (
        "experts",
        GATED | {"activation": "plain"},
        EXPERTS | {"tokens": 2**16, "ep": 4, "tp": 2},
        2 * 2**16 * 2 / 4 * 2 * 4096 * 14336 / 2 / BF16,
        Bound.COMPUTE,
    ),
    ("elementwise", {}, {"moved_bytes": 5.3e9}, 1e-3, Bound.BANDWIDTH),
]


@pytest.fixture(scope="module")
def analytic(store: PerfStore) -> Operators:
    return Operators(MI300X, "trtllm", store)


@pytest.mark.parametrize(("family", "categories", "shape", "floor_s", "bound"), CASES)
def test_rooflines_by_hand(
    analytic: Operators,
    family: str,
    categories: Mapping[str, str],
    shape: Mapping[str, float],
    floor_s: float,
    bound: Bound,
) -> None:
    time: OperatorTime = getattr(analytic, family).time(categories, columns(shape))
    assert time.floor_s.item() == pytest.approx(floor_s, rel=1e-6)
    assert time.seconds.item() > floor_s
    assert time.kind.item() == Kind.ANALYTIC
    assert time.bound.item() == bound


def columns(shape: Mapping[str, float]) -> dict[str, np.ndarray]:
    return {name: np.array([[float(value)]]) for name, value in shape.items()}


def test_a_tiny_call_is_bound_by_latency(analytic: Operators) -> None:
    time = analytic.gemm.time({"dtype": "bf16"}, columns({"m": 1, "n": 64, "k": 64}))
    assert time.bound.item() == Bound.LATENCY
    assert time.seconds.item() == pytest.approx(3e-6)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 60))
def test_causal_area_counts_query_key_pairs(tokens: int, prefix: int, window: int) -> None:
    pairs = sum(
        1
        for query in range(prefix, prefix + tokens)
        for key in range(query + 1)
        if not window or query - key < window
    )
    assert float(causal_area(float(tokens), float(prefix), float(window))) == pairs


@given(st.integers(2, 4096), st.integers(1, 5))
def test_chunks_of_a_prompt_have_the_area_of_the_whole(tokens: int, parts: int) -> None:
    edges = np.linspace(0, tokens, parts + 1).round()
    chunks = causal_area(np.diff(edges), edges[:-1])
    assert chunks.sum() == pytest.approx(float(causal_area(float(tokens))))


def test_touched_experts_match_random_routing() -> None:
    rng = np.random.default_rng(1)
    for tokens, top_k, experts in ((1, 2, 8), (5, 2, 8), (20, 8, 128), (100, 4, 64)):
        reached = [
            len({e for _ in range(tokens) for e in rng.choice(experts, top_k, replace=False)})
            for _ in range(300)
        ]
        expected = float(touched_experts(tokens, top_k, experts))
        assert np.mean(reached) == pytest.approx(expected, rel=0.03)
    assert float(touched_experts(10, 8, 8)) == pytest.approx(8)


@pytest.mark.parametrize("exponent", [1.01, 1.2])
def test_experts_reached_match_loads_drawn_from_a_power_law(exponent: float) -> None:
    rng = np.random.default_rng(1)
    for tokens, top_k, experts in ((16, 8, 256), (64, 8, 256), (100, 4, 64), (400, 8, 128)):
        drawn = [drawn_loads(rng, exponent, tokens, top_k, experts) for _ in range(1000)]
        reached = [(np.round(x / x.sum() * tokens * top_k) > 0).sum() for x in drawn]
        expected = float(reached_experts(exponent, tokens, top_k, experts))
        assert np.mean(reached) == pytest.approx(expected, rel=0.02)
    assert float(reached_experts(exponent, 1, 8, 256)) == 8.0
    assert float(reached_experts(exponent, 10**6, 8, 256)) == pytest.approx(256)


@given(st.integers(1, 4096), st.sampled_from([(8, 256), (2, 8), (1, 16), (22, 512), (8, 8)]))
def test_more_tokens_reach_no_fewer_experts_under_a_power_law(
    tokens: int, layer: tuple[int, int]
) -> None:
    fewer, more = (float(reached_experts(1.2, t, *layer)) for t in (tokens, tokens + 1))
    assert layer[0] <= fewer <= more <= layer[1] * (1 + 1e-9)


@pytest.mark.parametrize(("top_k", "ep", "experts"), [(2, 8, 1), (2, 2, 1), (8, 4, 2), (9, 4, 3)])
def test_the_slowest_device_reads_whole_experts(
    analytic: Operators, top_k: int, ep: int, experts: int
) -> None:
    shape = EXPERTS | {"top_k": top_k, "ep": ep, "experts": 64}
    floor = analytic.experts.time(GATED, columns(shape)).floor_s.item()
    assert floor == pytest.approx(experts * 3 * 4096 * 14336 * 2 / HBM, rel=1e-3)


counts = st.integers(1, 16384)
octave = st.integers(0, 6).map(lambda e: 2**e)
SHAPES: dict[str, tuple[Mapping[str, str], st.SearchStrategy[dict[str, int]], tuple[str, ...]]] = {
    "gemm": (
        {"dtype": "bf16"},
        st.fixed_dictionaries({"m": counts, "n": counts, "k": counts}),
        ("m", "n", "k"),
    ),
    "context": (
        BOTH_BF16,
        st.fixed_dictionaries(
            {
                "q_heads": st.sampled_from([8, 16, 32]),
                "kv_heads": st.sampled_from([1, 2, 8]),
                "head_dim": st.sampled_from([64, 128]),
                "window_tokens": st.sampled_from([0, 128, 4096]),
                "batch": st.integers(1, 64),
                "tokens": counts,
                "prefix_tokens": st.integers(0, 100_000),
            }
        ),
        ("batch", "tokens", "prefix_tokens", "q_heads", "kv_heads"),
    ),
    "generation": (
        {"dtype": "bf16", "kv_dtype": "fp8"},
        st.fixed_dictionaries(
            {
                "q_heads": st.sampled_from([8, 16, 32]),
                "kv_heads": st.sampled_from([1, 2, 8]),
                "head_dim": st.sampled_from([64, 128]),
                "window_tokens": st.sampled_from([0, 128, 4096]),
                "batch": st.integers(1, 2048),
                "context_tokens": st.integers(1, 200_000),
            }
        ),
        ("batch", "context_tokens", "q_heads", "kv_heads"),
    ),
    "mla_context": (
        BOTH_BF16,
        st.fixed_dictionaries(
            {
                "heads": st.sampled_from([16, 32, 64, 128]),
                "batch": st.integers(1, 64),
                "tokens": counts,
                "prefix_tokens": st.integers(0, 100_000),
            }
        ),
        ("batch", "tokens", "prefix_tokens", "heads"),
    ),
    "mla_generation": (
        BOTH_BF16,
        st.fixed_dictionaries(
            {
                "heads": st.sampled_from([16, 32, 64, 128]),
                "batch": st.integers(1, 2048),
                "context_tokens": st.integers(1, 200_000),
            }
        ),
        ("batch", "context_tokens"),
    ),
    "mla_absorb": (
        {"dtype": "bf16", "stage": "post"},
        st.fixed_dictionaries({"heads": st.sampled_from([16, 128]), "tokens": counts}),
        ("tokens", "heads"),
    ),
    "experts": (
        {"dtype": "fp8_block", "routing": "power_law_1.01", "activation": "gated"},
        st.fixed_dictionaries(
            {
                "tokens": counts,
                "hidden": st.sampled_from([2048, 4096, 7168]),
                "intermediate": st.sampled_from([768, 2048]),
                "top_k": st.sampled_from([2, 8]),
                "experts": st.sampled_from([128, 256]),
                "tp": st.sampled_from([1, 2, 4]),
                "ep": octave,
            }
        ),
        ("tokens", "hidden", "intermediate", "top_k"),
    ),
    "elementwise": ({}, st.fixed_dictionaries({"moved_bytes": st.integers(1, 2**34)}), ()),
}
FAMILIES = pytest.mark.parametrize("family", SHAPES)


@FAMILIES
@pytest.mark.parametrize("device", ["mi300x", "h100_sxm", "l40s"])
def test_no_estimate_beats_its_roofline(store: PerfStore, family: str, device: str) -> None:
    categories, shapes, _ = SHAPES[family]
    operator = getattr(Operators(load_device(device), "trtllm", store), family)

    @settings(deadline=None, max_examples=60)
    @given(st.lists(shapes, min_size=1, max_size=20))
    def check(rows: list[dict[str, int]]) -> None:
        time = operator.time(categories, stacked(rows))
        assert np.all(time.floor_s > 0)
        assert np.all(time.seconds >= time.floor_s)
        assert np.all(np.isfinite(time.seconds))

    check()


def stacked(rows: list[dict[str, int]]) -> dict[str, np.ndarray]:
    return {name: np.array([[float(row[name])] for row in rows]) for name in rows[0]}


@FAMILIES
def test_more_work_is_never_faster(analytic: Operators, family: str) -> None:
    categories, shapes, growing = SHAPES[family]

    @settings(max_examples=60)
    @given(shapes, st.sampled_from(growing or ("moved_bytes",)), st.integers(2, 8))
    def check(shape: dict[str, int], name: str, factor: int) -> None:
        larger = shape | {name: shape[name] * factor}
        before, after = (
            getattr(analytic, family).time(categories, columns(s)).seconds.item()
            for s in (shape, larger)
        )
        assert after >= before * (1 - 1e-12)

    check()


@FAMILIES
@pytest.mark.parametrize(
    "better",
    [
        lambda d: replace(d, memory_bandwidth_bytes_per_s=2 * d.memory_bandwidth_bytes_per_s),
        lambda d: replace(d, peak_flops_per_s={k: 2 * v for k, v in d.peak_flops_per_s.items()}),
    ],
    ids=["bandwidth", "compute"],
)
def test_a_better_device_is_never_slower(
    store: PerfStore, family: str, better: Callable[[Device], Device]
) -> None:
    categories, shapes, _ = SHAPES[family]
    plain, improved = (
        getattr(Operators(d, "trtllm", store), family) for d in (MI300X, better(MI300X))
    )

    @settings(max_examples=40)
    @given(st.lists(shapes, min_size=1, max_size=10))
    def check(rows: list[dict[str, int]]) -> None:
        before, after = (
            operator.time(categories, stacked(rows)).seconds for operator in (plain, improved)
        )
        assert np.all(after <= before)
        assert np.all(2 * after >= before * (1 - 1e-12))

    check()


def test_one_call_over_many_shapes_is_many_calls(store: PerfStore) -> None:
    operator = Operators(load_device("h100_sxm"), "trtllm", store).gemm
    m = np.array([[1.0, 64.0, 3000.0]])
    n = np.array([[1024.0], [5000.0]])
    many = operator.time({"dtype": "bf16"}, {"m": m, "n": n, "k": np.array([[4096.0]])})
    for i, j in np.ndindex(2, 3):
        shape: dict[str, Any] = {"m": m[0, j], "n": n[i, 0], "k": 4096.0}
        one = operator.time({"dtype": "bf16"}, columns(shape))
        assert one.seconds.item() == many.seconds[i, j]
        assert one.kind.item() == many.kind[i, j]
