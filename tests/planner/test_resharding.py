"""A pool that serves both phases by turns: what moves, what a cycle serves, and who waits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple
from typing import Any

import numpy as np
import pytest

from perfmodel.database import PerfStore
from perfmodel.layout import parse_layout
from perfmodel.precision import Precision
from planner.candidates import Candidates
from planner.evaluated import Evaluated, evaluate
from planner.problem import Problem
from planner.query import Query
from planner.rates import matched_qps
from planner.resharding import best_alternating, moved_bytes, turns

STORE = PerfStore()
NEVER = "1000000s"


def query(ttft: Any = NEVER, ttit: Any = NEVER, **changes: Any) -> Query:
    base: dict[str, Any] = {
        "model": "Qwen/Qwen3-8B",
        "workload": {"qps": 20, "input_tokens": 1000, "output_tokens": 100, "arrivals": "steady"},
        "slo": {"ttft": ttft, "ttit": ttit},
        "devices": ["h100_sxm"],
        "runtime": "disaggregated",
        "search": {"max_replica_devices": 4},
    }
    return Query.model_validate({**base, **changes})


@pytest.fixture(scope="module")
def found() -> Evaluated:
    return evaluate(query(), store=STORE)


def pools(evaluated: Evaluated) -> tuple[Candidates, Candidates]:
    """A few dozens of each role."""
    prefill, decode = evaluated.candidates
    return tuple(c.take(np.arange(0, len(c), max(len(c) // 40, 1))) for c in (prefill, decode))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("prefill", "decode", "there", "back"),
    [
        ("TP2 PP1", "TP2 PP1", 0.0, 0.0),
        ("TP1 PP1", "TP4 PP1", 0.0, 3 / 4),
        # Both are eighths; the first device keeps half of its own, others find nothing in place.
        ("TP4 PP2", "TP8 PP1", 1 / 8, 1 / 8),
        # Stage 1 of 2 is columns 0 to 1 of layers 1/2 to 1; of that 1/2 columns are device 1's.
        ("TP1 PP2", "TP2 PP1", 1 / 4, 1 / 4),
    ],
)
def test_a_device_gets_what_it_lacks(
    problem_of: Callable[..., Problem], prefill: str, decode: str, there: float, back: float
) -> None:
    problem = problem_of()
    layouts = [
        parse_layout(f"attn:{tp} ffn:{tp} {pp}")
        for tp, pp in (x.split() for x in (prefill, decode))
    ]
    moved = moved_bytes(problem, Precision(), *layouts)
    whole = problem.model.parameters() - 2 * problem.model.vocab * problem.model.hidden
    for amount, share in zip(moved, (there, back), strict=True):
        assert amount[0, 0] == pytest.approx(share * whole * 2.0, rel=1e-3)


def test_a_cycle_by_hand(found: Evaluated) -> None:
    space = found.spaces["device"]
    prefill, decode = found.candidates
    alone = [
        c.take(np.flatnonzero((c.world == 1) & (c.batch == size))[:1])
        for c, size in ((prefill, 1), (decode, 64))
    ]
    one = turns(space, *alone)
    prompt_s = 1.0 / float(alone[0].qps[0])
    step_s = float(alone[1].ttit_s[0])
    # One layout, one device: nothing moves. 64 prompts, then 100 steps of 64 sequences.
    assert one.prompts[0, 0] == 64
    assert one.switch_s[0, 0] == 0
    assert one.pause_s[0, 0] == pytest.approx(64 * prompt_s)
    assert one.cycle_s[0, 0] == pytest.approx(64 * prompt_s + 100 * step_s)
    assert one.qps_per_device[0, 0] == pytest.approx(64 / one.cycle_s[0, 0])
    # A sequence waits for half of the others' prompts once.
    assert one.ttit_s[0, 0] == pytest.approx(step_s + 32 * prompt_s / 100)
    handling = space.problem.handling_s(alone[1].iteration_s, disaggregated=False)[0]
    waited = one.ttft_s[0, 0] - handling - float(alone[0].service_s[0])
    assert waited == pytest.approx(100 * step_s / 2)


def test_no_more_than_matched_pools_and_no_more_than_the_slots(found: Evaluated) -> None:
    prefill, decode = pools(found)
    by_turns = turns(found.spaces["device"], prefill, decode)
    per_device = (prefill.qps / prefill.world)[:, None], decode.qps / decode.world
    assert (by_turns.qps_per_device <= matched_qps(*per_device) * (1 + 1e-9)).all()
    assert (by_turns.ttit_s > decode.ttit_s).all()
    # Little: no more sequences between their first and their last token than slots.
    qps = by_turns.qps_per_device * np.maximum(prefill.world[:, None], decode.world)
    slots = decode.slots * np.maximum(prefill.world[:, None] / decode.world, 1.0)
    served = qps > 0
    decoding = qps[served] * 100 * by_turns.ttit_s[served]
    assert served.sum() > 100
    assert (decoding <= np.broadcast_to(slots, qps.shape)[served] * (1 + 1e-9)).all()


def test_a_first_token_in_time_takes_short_cycles(found: Evaluated) -> None:
    served = []
    for ttft in ("200ms", "500ms", "2s", NEVER):
        (best,) = best_alternating(found.under(query(ttft, "30ms")))
        assert best.ttit_s <= 0.03
        assert best.ttft_s <= (1e6 if ttft == NEVER else {"2s": 2.0}.get(ttft, 0.5)) * (1 + 1e-9)
        served.append(best.qps_per_device)
    assert served == sorted(served)
    assert served[0] < served[-1]
    assert best_alternating(found.under(query("1ms", "30ms"))) == []


def test_caches_need_room_beside_the_prompts_weights(found: Evaluated) -> None:
    prefill, decode = found.candidates
    space = found.spaces["device"]
    split = decode.take((decode.world == 4) & (decode.layouts.tp_a[decode.layout] == 4))
    degrees = prefill.layouts[prefill.layout]
    quarter = prefill.take(np.flatnonzero((degrees.tp_a == 4) & (degrees.tp_f == 4))[:1])
    whole = prefill.take(np.flatnonzero(prefill.world == 1)[:1])
    most = [
        split.slots[turns(space, one, split).qps_per_device[0] > 0].max()
        for one in (quarter, whole)
    ]
    # 12 GB of weights more leave room for fewer of the caches: 40 MB per device and sequence.
    assert most[0] - most[1] == pytest.approx(12e9 / 40e6, rel=0.5)


def test_means_only_and_one_device_type(found: Evaluated) -> None:
    late = evaluate(query({"p99": "1s"}), store=STORE)
    with pytest.raises(ValueError, match="means"):
        best_alternating(late)
    other = evaluate(query(devices=["l40s"]), store=STORE)
    prefill, decode = found.candidates[0], other.candidates[1]
    with pytest.raises(ValueError, match="one type"):
        turns(found.spaces["device"], prefill, decode)
    assert all(np.isfinite(astuple(best)[3:]).all() for best in best_alternating(found))
