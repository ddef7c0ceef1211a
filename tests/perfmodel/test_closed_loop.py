"""The closed loop against cases that can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.closed_loop import Load, Pools, Scheduling, continuous, disaggregated
from perfmodel.correction import NEUTRAL, Correction
from perfmodel.step_table import Parts, StepTable, Surface
from perfmodel.work import StepWork

STEP, PROMPT = 0.01, 0.1
"""Seconds of every decode step, and of a thousand prompt tokens."""


def table(*, ranks: int = 1, drafts: int = 0) -> StepTable:
    """Decode steps all alike; prompts cost in proportion to their tokens, decodes beside not."""
    batches, contexts = np.array([1.0, 1024.0]), np.array([1000.0, 2000.0])
    fill = np.array([250.0, 500.0, 1000.0, 2000.0, 4000.0, 8000.0])
    b, x = (v.ravel() for v in np.meshgrid(batches, contexts, indexing="ij"))
    decode = StepWork.of(decode_sequences=b, context_tokens=x)
    b, p = (v.ravel() for v in np.meshgrid([0.0, 1.0, 1024.0], fill, indexing="ij"))
    mixed = StepWork.of(decode_sequences=b, prefill_sequences=1, prefill_tokens=p)
    return StepTable(
        batches,
        contexts,
        fill,
        Parts(decode, {"other": np.full(len(decode), STEP)}, 1),
        Parts(mixed, {"other": PROMPT * p / 1000}, 1),
        ranks,
        drafts,
    )


def run(load: Load, *, slots: int = 1000, mixes: bool = True) -> tuple[float, float]:
    seen = continuous(table(), NEUTRAL, load, Scheduling(slots, 8000, mixes))
    return seen.ttft_s, seen.tpot_s


def test_one_client_never_waits() -> None:
    ttft, tpot = run(Load(1, 1000, 100))
    assert ttft == pytest.approx(PROMPT)
    assert tpot == pytest.approx(STEP)


def test_first_wave_shares_its_prefill() -> None:
    # Eight prompts fit in one step: all wait for all, in every wave.
    ttft, tpot = run(Load(8, 1000, 100))
    assert ttft == pytest.approx(8 * PROMPT)
    assert tpot == pytest.approx(STEP)


def test_wave_of_more_than_a_step_holds_queues() -> None:
    # 16 prompts: half wait one step of 0.8 s, half wait two. Afterwards the halves alternate,
    # and each half's prompts stall the other's outputs once.
    ttft, tpot = run(Load(16, 1000, 101, waves=1))
    assert ttft == pytest.approx(1.2)
    assert tpot == pytest.approx((STEP * 100 + (STEP * 99 + 0.8)) / 200, rel=0.02)


def test_without_slots_clients_wait_for_each_other() -> None:
    ttft, _ = run(Load(2, 1000, 101, waves=50), slots=1)
    # The other's whole request comes between.
    assert ttft == pytest.approx(2 * PROMPT + 100 * STEP, rel=0.02)


def test_unmixed_prompts_stall_decodes_by_their_own_time() -> None:
    load = Load(4, 1000, 200, spread=0.5)
    assert run(load, mixes=False)[1] >= run(load, mixes=True)[1] * 0.999


@given(clients=st.integers(1, 40), osl=st.integers(2, 300), spread=st.sampled_from([0.0, 0.2]))
@settings(max_examples=30, deadline=None)
def test_nothing_beats_service_and_littles_law_holds(clients: int, osl: int, spread: float) -> None:
    load = Load(clients, 1000, osl, spread)
    ttft, tpot = run(load)
    assert ttft >= PROMPT * (1 - spread) * 0.999
    assert tpot >= STEP * 0.999
    lengths = load.lengths()
    # All prompts must be computed: the run lasts at least that long, so that clients do.
    busy = sum(isl for isl, _ in lengths) / 1000 * PROMPT
    mean_output = np.mean([out for _, out in lengths])
    lasted = load.waves * (ttft + (mean_output - 1) * tpot)
    assert lasted >= busy * 0.9


def test_request_costs_are_added() -> None:
    late = Correction(request_overhead_s=0.05, first_token_steps=3)
    seen = continuous(table(), late, Load(1, 1000, 100), Scheduling(9, 8000, True))
    assert seen.ttft_s == pytest.approx(PROMPT + 0.05 + 3 * STEP)


def test_pools_work_side_by_side() -> None:
    load, steps = Load(1, 1000, 101), table()
    alone = disaggregated(steps, steps, NEUTRAL, load, Pools(1, 1, 100, 1000))
    assert alone.ttft_s == pytest.approx(PROMPT)
    assert alone.tpot_s == pytest.approx(STEP)
    # Decodes never stall, however many prompts wait.
    many = Load(16, 1000, 101, waves=5)
    one = disaggregated(steps, steps, NEUTRAL, many, Pools(1, 1, 100, 1000))
    four = disaggregated(steps, steps, NEUTRAL, many, Pools(4, 1, 100, 1000))
    assert one.tpot_s == pytest.approx(STEP)
    assert four.ttft_s < one.ttft_s
    # The prompts alone keep one worker busy: 16 clients share its rate.
    assert one.ttft_s + 100 * STEP == pytest.approx(16 * PROMPT, rel=0.1)


def test_speculation_and_handover() -> None:
    load, steps = Load(1, 1000, 101), table(drafts=2)
    constants = Correction(acceptance=0.5, handover_s=0.3)
    # One token, and of two drafts the first with probability 1/2, the second with 1/4.
    assert constants.step_tokens(2) == pytest.approx(1.75)
    seen = disaggregated(steps, steps, constants, load, Pools(1, 1, 100, 1000))
    assert seen.tpot_s == pytest.approx(STEP / 1.75)
    assert seen.ttft_s == pytest.approx(PROMPT + 0.3)
    mixed = continuous(steps, constants, load, Scheduling(100, 8000, True))
    assert mixed.tpot_s == pytest.approx(STEP / 1.75, rel=0.02)
    # Engines are late by iterations, not by tokens.
    late = replace(constants, first_token_steps=4.0)
    again = continuous(steps, late, load, Scheduling(100, 8000, True))
    assert again.ttft_s - mixed.ttft_s == pytest.approx(4 * STEP, rel=0.02)
    # Nothing drafted, nothing gained.
    assert constants.step_tokens(0) == 1.0


def test_requests_wait_for_the_next_poll() -> None:
    load = Load(2, 1000, 1000, spread=0.2, waves=40)
    rare = continuous(table(), NEUTRAL, load, Scheduling(100, 8000, True, poll_steps=50))
    often = continuous(table(), NEUTRAL, load, Scheduling(100, 8000, True))
    # The other request decodes on; a look every 50 steps comes 25 steps late on average.
    assert rare.ttft_s - often.ttft_s == pytest.approx(25 * STEP, rel=0.35)


def test_prompts_wait_until_every_rank_has_one_or_patience_ends() -> None:
    load = Load(16, 1000, 1000, spread=0.2, waves=20)
    steps = table(ranks=8)
    eager = continuous(steps, NEUTRAL, load, Scheduling(100, 8000, True))
    short = continuous(steps, NEUTRAL, load, Scheduling(100, 8000, True, gather_steps=20))
    long = continuous(steps, NEUTRAL, load, Scheduling(100, 8000, True, gather_steps=200))
    assert eager.ttft_s < short.ttft_s < long.ttft_s
    assert short.ttft_s <= eager.ttft_s + 20 * STEP + PROMPT


def test_surface_is_exact_at_its_points_and_held_beyond() -> None:
    values = np.array([[1.0, 2.0], [3.0, 5.0]])
    surface = Surface(np.array([1.0, 5.0]), np.array([8.0, 32.0]), values)
    assert surface(1, 8) == 1.0
    assert surface(5, 32) == 5.0
    assert surface(3, 8) == pytest.approx(2.0)
    assert surface(3, 20) == pytest.approx(2.75)
    assert surface(100, 100) == 5.0
    assert surface(0, 1) == 1.0
