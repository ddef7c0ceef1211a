"""Corrections: what each constant does to a step, and what a file of them may say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from perfmodel.breakdown import breakdown
from perfmodel.correction import (
    NEUTRAL,
    Correction,
    dump_corrections,
    load_corrections,
    operator_kind,
)
from perfmodel.engine import ENGINES, engine_profile
from perfmodel.errors import ConfigError
from perfmodel.layout import parse_layout
from perfmodel.step import StepModel
from perfmodel.work import StepWork

LAYOUT = parse_layout("attn:TP8 ffn:TP8")
DECODE = StepWork.of(decode_sequences=16, context_tokens=1000)
MIXED = StepWork.of(
    decode_sequences=16, context_tokens=1000, prefill_sequences=1, prefill_tokens=1000
)


def corrected(step: StepModel, **constants: float) -> StepModel:
    engine = replace(step.engine, correction=replace(NEUTRAL, **constants))
    changed = object.__new__(StepModel)
    changed.__dict__ = {**step.__dict__, "engine": engine}
    return changed


def pace(step: StepModel, work: StepWork) -> float:
    return float(step.time(LAYOUT, work).pace_s[0, 0])


@pytest.fixture(scope="module")
def deepseek(step_model: Callable[..., StepModel]) -> StepModel:
    return step_model("deepseek-ai/DeepSeek-R1", "h200_sxm", "trtllm", "fp8_block")


def test_overheads_add_up_by_iteration_sequence_and_layer(deepseek: StepModel) -> None:
    bare = corrected(deepseek)
    layers = deepseek.model.layers
    with_fixed = corrected(deepseek, iteration_overhead_s=1e-3)
    with_sequences = corrected(deepseek, sequence_overhead_s=1e-4)
    with_gaps = corrected(deepseek, layer_gap_s=1e-4)
    assert pace(with_fixed, DECODE) - pace(bare, DECODE) == pytest.approx(1e-3)
    assert pace(with_sequences, DECODE) - pace(bare, DECODE) == pytest.approx(16e-4)
    assert pace(with_gaps, DECODE) == pytest.approx(pace(bare, DECODE))
    assert pace(with_gaps, MIXED) - pace(bare, MIXED) == pytest.approx(layers * 1e-4)


def test_hidden_experts_take_their_share_off(deepseek: StepModel) -> None:
    parts = breakdown(corrected(deepseek), LAYOUT, DECODE)
    found = (op for op in parts.operators if operator_kind(op.name, op.module) == "shared")
    spent = sum(op.total_s for op in found)
    hidden = pace(corrected(deepseek, shared_overlap=0.5), DECODE)
    assert spent > 0
    assert hidden == pytest.approx(parts.total_s - 0.5 * spent, rel=1e-6)


def test_prefill_factor_leaves_decodes_alone(deepseek: StepModel) -> None:
    slower = corrected(deepseek, prefill_factor=1.2)
    assert pace(slower, DECODE) == pytest.approx(pace(corrected(deepseek), DECODE))
    assert pace(slower, MIXED) > 1.1 * pace(corrected(deepseek), MIXED)


def test_breakdown_still_adds_up_to_the_pace(deepseek: StepModel) -> None:
    changed = corrected(deepseek, layer_gap_s=1e-4, prefill_factor=1.1, shared_overlap=0.3)
    assert breakdown(changed, LAYOUT, MIXED).total_s == pytest.approx(pace(changed, MIXED))


def test_every_engine_ships_with_fitted_constants() -> None:
    for name in ENGINES:
        correction = engine_profile(name).correction
        assert correction != NEUTRAL
        # Physical: nothing is free, no factor far from the measured operators.
        assert 0 <= correction.iteration_overhead_s < 5e-3
        assert 0.8 < correction.prefill_factor < 2.0
        assert 0 <= correction.shared_overlap <= 1


def test_file_round_trips(tmp_path: Path) -> None:
    path = tmp_path / "corrections.yaml"
    values = {"trtllm": Correction(iteration_overhead_s=4e-4, prefill_factor=0.9)}
    path.write_text(dump_corrections(values, "why\nand how"))
    assert load_corrections(path) == values
    assert path.read_text().startswith("# why\n# and how\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("engines: {vllm: {speed: 2}}", "engines.vllm.speed: unknown; constants are"),
        ("engines: {vllm: {layer_gap_s: -1}}", "expected a number of at least 0, got -1"),
        ("engines: {vllm: {layer_gap_s: fast}}", "expected a number of at least 0, got 'fast'"),
        (
            "engines: {vllm: {acceptance: 0.7, layer_gap_s: 0.0001}}",
            "engines.vllm: lacks first_token_steps, handover_s, iteration_overhead",
        ),
        ("engines: 3", "engines: expected engines by name"),
    ],
)
def test_bad_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "corrections.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"corrections\.yaml") as error:
        load_corrections(path)
    assert message in str(error.value)


def test_neutral_constants_change_nothing() -> None:
    assert all(NEUTRAL.operator_factor(kind) == 1.0 for kind in ("communication", "routed"))
    assert np.all(NEUTRAL.token_factor(MIXED) == 1.0)
    assert {field.name for field in fields(Correction)}
