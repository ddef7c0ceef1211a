"""A draft model beside a target: its passes are its own steps, its memory its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from perfmodel.architecture import Drafter, load_model
from perfmodel.breakdown import breakdown
from perfmodel.correction import DRAFT, NEUTRAL
from perfmodel.database import PerfStore
from perfmodel.drafter import drafter_layouts
from perfmodel.kv_transfer import cache_heads, cache_parts
from perfmodel.layout import Layouts, parse_layout
from perfmodel.memory import replica_memory
from perfmodel.operators import Operators
from perfmodel.precision import Precision
from perfmodel.step import StepModel
from perfmodel.work import StepWork

TARGET, SMALL = load_model("Qwen/Qwen3-32B"), load_model("Qwen/Qwen3-0.6B")
BF16 = Precision()
TEXTS = ["attn:TP4 ffn:TP4", "attn:TP2DP2 ffn:TP4", "attn:TP4 ffn:TP4 PP2", "attn:TP1 ffn:TP1"]
LAYOUTS = Layouts.from_rows(np.concatenate([parse_layout(text).rows() for text in TEXTS]))
STORE = PerfStore()


@pytest.fixture(scope="module")
def plain(step_model: Callable[..., StepModel]) -> StepModel:
    return step_model("Qwen/Qwen3-32B", "h100_sxm")


def beside(plain: StepModel, *, split: bool = True, small: bool = False) -> StepModel:
    """The target with its drafter, or the drafter as a model of its own."""
    drafter = Drafter(SMALL, BF16, split)
    model = SMALL if small else replace(TARGET, drafter=drafter)
    operators = Operators(plain.device, "trtllm", STORE)
    # Without an engine's constants, which are those of the whole step's mix of tokens.
    engine = replace(plain.engine, correction=NEUTRAL)
    return StepModel(model, plain.device, engine, BF16, operators)


def decoding(drafts: object, prompts: float = 0.0) -> StepWork:
    return StepWork.of(
        decode_sequences=8,
        context_tokens=2000,
        decode_tokens=np.asarray(drafts) + 1,
        prefill_sequences=prompts,
        prefill_tokens=512,
        prefix_tokens=100,
    )


def drafting_s(step: StepModel, layout: Layouts, work: StepWork) -> float:
    found = breakdown(step, layout, work).operators
    return sum(o.total_s for o in found if o.name.startswith(DRAFT))


def operators_s(step: StepModel, layout: Layouts, work: StepWork) -> float:
    found = breakdown(step, layout, work)
    return found.total_s - found.overhead_s


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("text", TEXTS)
def test_a_draft_is_a_step_of_the_small_model(plain: StepModel, text: str, split: bool) -> None:
    layout = parse_layout(text)
    tp = int(layout.tp_a[0]) if split else 1
    alone = parse_layout(f"attn:TP{tp} ffn:TP{tp}")
    one = operators_s(beside(plain, small=True), alone, decoding(0))
    for drafts in (1, 3):
        found = drafting_s(beside(plain, split=split), layout, decoding(drafts))
        assert found == pytest.approx(drafts * one)
    assert drafting_s(beside(plain), layout, decoding(0)) == 0.0


def test_prompts_are_computed_by_both(plain: StepModel) -> None:
    layout = parse_layout("attn:TP4 ffn:TP4")
    prompt = StepWork.of(prefill_sequences=1, prefill_tokens=512, prefix_tokens=100)
    small, both = beside(plain, small=True), beside(plain)
    prompt_s = operators_s(small, layout, prompt)
    token_s = operators_s(small, layout, decoding(0))
    # Beside drafts; on a prefill pool; but not where decodes draft nothing.
    assert drafting_s(both, layout, decoding(2, 1.0)) == pytest.approx(2 * token_s + prompt_s)
    assert drafting_s(both, layout, prompt) == pytest.approx(prompt_s)
    assert drafting_s(both, layout, decoding(0, 1.0)) == 0.0


def test_columns_and_layouts_do_not_depend_on_each_other(plain: StepModel) -> None:
    step, work = beside(plain), decoding([0, 1, 3, 2], 1.0)
    whole = step.time(LAYOUTS, work)
    for row in range(len(LAYOUTS)):
        for column, drafts in enumerate((0, 1, 3, 2)):
            one = step.time(LAYOUTS[np.array([row])], decoding(drafts, 1.0))
            assert whole.pace_s[row, column] == pytest.approx(one.pace_s.item())
            taken = breakdown(step, LAYOUTS[np.array([row])], decoding(drafts, 1.0))
            assert whole.pace_s[row, column] == pytest.approx(taken.total_s)


def test_memory_is_the_sum_of_both(plain: StepModel) -> None:
    def memory(
        model: object, layouts: Layouts, drafts: int, resident: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        found = replica_memory(
            model,  # type: ignore[arg-type]
            plain.device,
            plain.engine,
            BF16,
            layouts,
            decoding(drafts),
            np.array([[24.0]]),
            np.array([2500.0]),
            resident_tokens=resident,
        )
        return found.weights[:, 0], found.kv_cache[:, 0]

    both = replace(TARGET, drafter=Drafter(SMALL, BF16))
    idle, target = memory(both, LAYOUTS, 0), memory(TARGET, LAYOUTS, 0)
    assert np.all(idle[0] == target[0])
    small = memory(SMALL, drafter_layouts(both.drafter, LAYOUTS), 0)
    drafting = memory(both, LAYOUTS, 2)
    one_stage = LAYOUTS.pp == 1
    for found, alone, added in zip(drafting, target, small, strict=True):
        assert found[one_stage] == pytest.approx((alone + added)[one_stage])
        assert np.all(found >= alone)
        assert np.all(found <= alone + added)
    # Prefixes that the device keeps, it keeps for both.
    found, alone, added = (
        memory(m, where, drafts, 50_000.0)[1]
        for m, where, drafts in (
            (both, LAYOUTS, 2),
            (TARGET, LAYOUTS, 0),
            (SMALL, drafter_layouts(both.drafter, LAYOUTS), 0),  # type: ignore[union-attr]
        )
    )
    assert found[one_stage] == pytest.approx((alone + added)[one_stage])
    # 28 layers x 8 KV heads x 128 x (key and value) x 2 bytes, whole on one device.
    kept = 28 * 8 * 128 * 2 * 2 * 24 * 2500
    assert small[1][3] == pytest.approx(kept)


def test_its_tensor_parallelism_goes_as_far_as_its_shape() -> None:
    # 16 heads, FFN of 3,072 columns.
    wide = Layouts.from_rows([[1, tp, 1, 1, tp, 1, 1] for tp in (1, 2, 8, 16, 32, 64)])
    assert drafter_layouts(Drafter(SMALL, BF16), wide).tp_a.tolist() == [1, 2, 8, 16, 16, 16]
    assert set(drafter_layouts(Drafter(SMALL, BF16, split=False), wide).tp_a.tolist()) == {1}


def test_its_cache_is_moved_too() -> None:
    both = replace(TARGET, drafter=Drafter(SMALL, replace(BF16, kv="fp8")))
    own, added = cache_parts(TARGET, 1000, 2.0), cache_parts(SMALL, 1000, 1.0)
    assert cache_parts(both, 1000, 2.0) == {8: own[8] + added[8]}
    assert cache_heads(both) == (8,)
