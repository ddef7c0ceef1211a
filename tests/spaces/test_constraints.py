"""Constraints: each removes what cannot run, and never what can."""

from __future__ import annotations

import numpy as np
import pytest

from perfmodel.architecture import load_model
from perfmodel.database import PerfStore
from perfmodel.engine import engine_profile
from perfmodel.hardware import load_device
from perfmodel.layout import Layouts, format_layout, parse_layout
from perfmodel.operators import Operators
from perfmodel.phases import continuous, decode, prefill
from perfmodel.precision import Precision
from perfmodel.step import StepModel
from perfmodel.traffic import Lengths, Traffic
from spaces import LayoutConstraint, enumerate_layouts, structure_constraints
from spaces.constraints import (
    host_constraint,
    least_latency_s,
    memory_constraint,
    world_constraint,
)

STORE = PerfStore()
TRAFFIC = Traffic(Lengths.from_histogram([500, 4000], [1, 1]), Lengths.from_histogram([100], [1]))
ONE = np.array([1], dtype=np.int64)


def named(model: str) -> dict[str, LayoutConstraint]:
    return {c.name: c for c in structure_constraints(load_model(model))}


def holds(constraint: LayoutConstraint, layout: str) -> bool:
    return bool(constraint.of(parse_layout(layout))[0])


def all_hold(model: str, layout: str) -> bool:
    return all(holds(c, layout) for c in structure_constraints(load_model(model)))


@pytest.mark.parametrize(
    ("model", "layout", "expected"),
    [
        ("meta-llama/Llama-3.1-70B", "attn:TP8 ffn:TP8", True),
        ("meta-llama/Llama-3.1-70B", "attn:TP64 ffn:TP64", True),
        ("meta-llama/Llama-3.1-70B", "attn:TP128 ffn:TP128", False),
        ("meta-llama/Llama-3.1-70B", "attn:TP8 ffn:TP4EP2", False),
        ("meta-llama/Llama-3.1-70B", "attn:TP8 ffn:TP8 PP64", True),
        ("meta-llama/Llama-3.1-70B", "attn:TP8 ffn:TP8 PP80", True),
        ("meta-llama/Llama-3.1-70B", "attn:TP8 ffn:TP8 PP81", False),
        ("meta-llama/Llama-3.1-70B", "attn:TP1DP2 ffn:TP1", False),
        ("meta-llama/Llama-3.1-70B", "attn:TP1DP2 ffn:TP2", True),
        ("mistralai/Mixtral-8x7B-v0.1", "attn:TP8 ffn:EP8", True),
        ("mistralai/Mixtral-8x7B-v0.1", "attn:TP16 ffn:EP16", False),
        ("mistralai/Mixtral-8x7B-v0.1", "attn:TP16 ffn:TP2EP8", True),
        ("deepseek-ai/DeepSeek-V3", "attn:DP256 ffn:EP256", True),
        ("deepseek-ai/DeepSeek-V3", "attn:TP2CP2DP2 ffn:TP2EP4", True),
        ("openai/gpt-oss-120b", "attn:TP8 ffn:TP64", False),
        ("openai/gpt-oss-120b", "attn:TP8CP8 ffn:TP64", True),
    ],
)
def test_known_layouts(model: str, layout: str, expected: bool) -> None:
    try:
        assert all_hold(model, layout) == expected
    except ValueError:  # the two modules do not cover the same devices: no layout at all
        assert not expected


def test_uneven_kv_heads_are_refused() -> None:
    heads = named("meta-llama/Llama-3.1-70B")["attention heads"]
    assert [tp for tp in (1, 2, 3, 4, 8, 16, 64, 128) if holds(heads, f"attn:TP{tp} ffn:TP{tp}")]
    assert not holds(heads, "attn:TP3 ffn:TP3")


def test_hosts_are_shared_inside_or_taken_whole() -> None:
    whole = host_constraint(load_device("h100_sxm"), 8)
    for layout, expected in {
        "attn:TP2 ffn:TP2": True,
        "attn:TP8 ffn:TP8": True,
        "attn:TP4 ffn:TP4 PP3": False,
        "attn:TP4 ffn:TP4 PP4": True,
    }.items():
        assert holds(whole, layout) == expected
    assert not holds(host_constraint(load_device("gb200_nvl72"), 72), "attn:TP128 ffn:TP128")


def test_the_inventory_limits_the_world() -> None:
    limit = world_constraint(16)
    assert holds(limit, "attn:TP8 ffn:TP8 PP2")
    assert not holds(limit, "attn:TP8 ffn:TP8 PP4")


def step_on(model: str, device: str, fmt: str) -> StepModel:
    which = load_device(device)
    precision = Precision(fmt, fmt, fmt, "bf16").on(which.peak_flops_per_s)
    operators = Operators(which, "vllm", STORE)
    return StepModel(load_model(model), which, engine_profile("vllm"), precision, operators)


CASES = [
    ("meta-llama/Llama-3.1-405B", "h100_sxm", "bf16"),
    ("deepseek-ai/DeepSeek-V3", "h100_sxm", "fp8_block"),
    ("deepseek-ai/DeepSeek-V3", "l40s", "bf16"),
    ("openai/gpt-oss-120b", "l40s", "mxfp4"),
    ("Qwen/Qwen3-235B-A22B", "a100_sxm", "bf16"),
    ("mistralai/Mixtral-8x7B-v0.1", "mi300x", "bf16"),
]


@pytest.mark.parametrize(("model", "device", "fmt"), CASES)
def test_memory_removes_nothing_that_fits(model: str, device: str, fmt: str) -> None:
    step = step_on(model, device, fmt)
    layouts = enumerate_layouts(structure_constraints(step.model), 64)
    constraint = memory_constraint(
        step.model, [(step.device, step.precision)], step.engine, TRAFFIC
    )
    kept = constraint.of(layouts)
    assert step.device.name == "mi300x" or not kept.all()
    estimates = [
        prefill(step, layouts, TRAFFIC, ONE),
        decode(step, layouts, TRAFFIC, ONE),
        continuous(step, layouts, TRAFFIC, ONE, 256 * ONE),
    ]
    for estimate in estimates:
        fits = (estimate.memory.total <= step.device.memory_bytes)[:, 0]
        lost = np.flatnonzero(fits & ~kept)
        assert not len(lost), format_layout(layouts, lost[0])
    # It is no idle constraint either: most of what it keeps fits at a batch of one.
    fits = (estimates[1].memory.total <= step.device.memory_bytes)[:, 0]
    assert fits[kept].mean() > 0.8


def test_memory_is_satisfied_by_any_of_the_devices() -> None:
    model, engine = load_model("meta-llama/Llama-3.1-70B"), engine_profile("vllm")
    layouts = enumerate_layouts(structure_constraints(model), 16)
    small, large = load_device("l40s"), load_device("mi300x")

    def kept(*names: str) -> np.ndarray:
        choices = [(load_device(name), Precision()) for name in names]
        return memory_constraint(model, choices, engine, TRAFFIC).of(layouts)

    assert kept("l40s").sum() < kept("mi300x").sum()
    assert np.array_equal(kept("l40s", "mi300x"), kept("l40s") | kept("mi300x"))
    assert small.memory_bytes < large.memory_bytes


@pytest.mark.parametrize(("model", "device", "fmt"), CASES)
def test_no_estimate_beats_the_least_latency(model: str, device: str, fmt: str) -> None:
    step = step_on(model, device, fmt)
    layouts = enumerate_layouts(structure_constraints(step.model), 64)
    ttft, ttit = least_latency_s(step.model, step.device, step.precision, layouts, TRAFFIC)
    first = prefill(step, layouts, TRAFFIC, ONE).latency_s.min(axis=2)[:, 0]
    token = decode(step, layouts, TRAFFIC, ONE).ttit_s[:, 0]
    for name, bound, estimate in (("TTFT", ttft, first), ("TTIT", ttit, token)):
        worst = int((bound / estimate).argmax())
        assert bound[worst] <= estimate[worst], (name, format_layout(layouts, worst))
        assert bound[worst] > 0.05 * estimate[worst]


def test_bounds_fall_with_sharding() -> None:
    model, device = load_model("meta-llama/Llama-3.1-70B"), load_device("h100_sxm")
    rows = [parse_layout(f"attn:TP{tp} ffn:TP{tp}").rows()[0] for tp in (1, 2, 4, 8)]
    ttft, ttit = least_latency_s(model, device, Precision(), Layouts.from_rows(rows), TRAFFIC)
    assert np.all(np.diff(ttft) < 0)
    assert np.all(np.diff(ttit) < 0)
    weights = 2 * (model.parameters() - 2 * model.embedding_parameters)
    assert ttit[0] == pytest.approx(weights / 3.35e12, rel=1e-3)
