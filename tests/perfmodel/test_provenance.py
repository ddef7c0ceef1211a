"""Why each operator of a step is not measured, on cases where it is known."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from perfmodel.architecture import load_model
from perfmodel.breakdown import breakdown
from perfmodel.database import PerfStore
from perfmodel.engine import engine_profile
from perfmodel.hardware import load_device
from perfmodel.layout import parse_layout
from perfmodel.operators import Operators
from perfmodel.precision import Precision
from perfmodel.provenance import OperatorProvenance, phase_provenance
from perfmodel.step import StepModel
from perfmodel.work import StepWork


def setup(
    store: PerfStore, model: str, device: str, layout: str, fmt: str = "bf16"
) -> tuple[StepModel, Operators]:
    machine = load_device(device)
    operators = Operators(machine, "trtllm", store)
    precision = Precision(fmt, fmt, fmt, "bf16").on(machine.peak_flops_per_s)
    profile = engine_profile("trtllm")
    return StepModel(load_model(model), machine, profile, precision, operators), operators


def decode(
    store: PerfStore, model: str, device: str, layout: str, fmt: str = "bf16"
) -> tuple[Mapping[str, float], dict[str, OperatorProvenance]]:
    step, operators = setup(store, model, device, layout, fmt)
    work = StepWork.of(decode_sequences=[8.0, 64.0], context_tokens=1024.0)
    found = phase_provenance("decode", step, operators, parse_layout(layout), work)
    assert sum(one.time_share for one in found.operators) == pytest.approx(1.0)
    assert sum(found.kinds.values()) == pytest.approx(1.0)
    for one in found.operators:
        assert sum(one.kinds.values()) == pytest.approx(1.0)
        assert sum(one.reasons.values()) == pytest.approx(1.0 - one.kinds["measured"])
    return found.kinds, {one.name: one for one in found.operators}


def test_measured_products_have_no_reason(store: PerfStore) -> None:
    kinds, by_name = decode(store, "llama-3.1-70b", "h200_sxm", "attn:TP8 ffn:TP8", "fp8")
    assert kinds["measured"] > 0.6
    assert by_name["qkv_proj"].reasons == {}
    assert by_name["generation_attention"].kinds["measured"] == 1.0
    assert by_name["input_norm"].reasons == {"no elementwise table": 1.0}


def test_a_device_without_tables_is_analytic(store: PerfStore) -> None:
    kinds, by_name = decode(store, "llama-3.1-70b", "mi300x", "attn:TP4 ffn:TP4 PP2")
    assert kinds["analytic"] == pytest.approx(1.0)
    assert by_name["qkv_proj"].reasons == {"no gemm table": 1.0}
    assert by_name["ffn_all_reduce"].reasons == by_name["attention_all_reduce"].reasons
    assert by_name["pipeline_send"].reasons == {"no table of this link: alpha-beta": 1.0}


def test_beyond_the_largest_width(store: PerfStore) -> None:
    _, by_name = decode(store, "deepseek-v3", "h200_sxm", "attn:DP8 ffn:EP8", "fp8_block")
    assert by_name["lm_head"].reasons == {"beyond the largest n, 65,536": 1.0}


def test_shares_are_those_of_the_breakdown(store: PerfStore) -> None:
    layout = parse_layout("attn:TP2 ffn:TP2")
    step, operators = setup(store, "qwen3-8b", "h200_sxm", "attn:TP2 ffn:TP2")
    work = StepWork.of(decode_sequences=32.0, context_tokens=2048.0)
    found = phase_provenance("decode", step, operators, layout, work)
    expected = breakdown(step, layout, work).shares("kind")
    assert {k: v for k, v in found.kinds.items() if v} == pytest.approx(expected)


def test_operators_are_left_as_they_were(store: PerfStore) -> None:
    layout = parse_layout("attn:TP2 ffn:TP2")
    step, operators = setup(store, "qwen3-8b", "h200_sxm", "attn:TP2 ffn:TP2")
    work = StepWork.of(prefill_sequences=1.0, prefill_tokens=512.0)
    phase_provenance("prefill", step, operators, layout, work)
    assert "time" not in vars(operators.gemm)
