"""`devices[].time_factor`: steps known to take longer, or less, than estimated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from perfmodel.layout import parse_layout
from perfmodel.work import StepWork
from planner.assess import breakdowns
from planner.evaluated import evaluate, loosest
from planner.plan import Plan
from planner.problem import resolve
from planner.query import Query
from planner.sweep import Space


def _times(space: Space, work: StepWork) -> tuple[float, float]:
    (offer, precision), *_ = space.pairs()
    step = space.step_model(offer, precision).time(parse_layout("attn:TP2 ffn:TP2 PP1"), work)
    return float(step.pace_s[0, 0]), float(step.latency_s[0, 0])


DECODE = StepWork.of(decode_sequences=16, context_tokens=1050)
PREFILL = StepWork.of(prefill_sequences=1, prefill_tokens=1000)


@pytest.mark.parametrize("work", [DECODE, PREFILL])
def test_a_factor_multiplies_whole_steps(space_of: Callable[..., Space], work: StepWork) -> None:
    plain = _times(space_of(), work)
    slower = _times(space_of(devices=[{"name": "h100_sxm", "time_factor": 1.5}]), work)
    assert slower == pytest.approx([1.5 * t for t in plain], rel=1e-9)


def test_no_factor_beats_the_roofline(space_of: Callable[..., Space]) -> None:
    plain = _times(space_of(), DECODE)
    faster = _times(space_of(devices=[{"name": "h100_sxm", "time_factor": 0.01}]), DECODE)
    # The weights alone, 8 B of bf16 over two devices, take this long to read.
    least = 8e9 * 2 / 2 / 3.35e12
    assert least < faster[0] < plain[0]


def test_a_slower_device_never_serves_for_less(solved: Callable[..., Plan]) -> None:
    prices = [
        solved(
            devices=[{"name": "h100_sxm", "time_factor": factor}],
            workload={"qps": 300},
        ).best.usd_per_hour
        for factor in (0.8, 1.0, 1.5, 2.0)
    ]
    assert prices == sorted(prices)
    assert prices[0] < prices[-1]


def test_other_devices_are_as_before(solved: Callable[..., Plan]) -> None:
    both: dict[str, Any] = {"devices": [{"name": "l40s", "time_factor": 2.0}, "h100_sxm"]}
    with_slow, alone = solved(**both), solved()
    like = [
        fleet
        for fleet in (with_slow.best, *with_slow.alternatives)
        if fleet.kind == alone.best.kind and fleet.hosts == alone.best.hosts
    ]
    assert [fleet.pools for fleet in like] == [alone.best.pools]


def test_breakdowns_add_up_to_the_slower_step() -> None:
    query = Query.model_validate(
        {
            "model": "Qwen/Qwen3-8B",
            "workload": {"qps": 20, "input_tokens": 1000, "output_tokens": 100},
            "devices": [{"name": "h100_sxm", "time_factor": 1.7}],
            "search": {"max_replica_devices": 2},
        }
    )
    space = Space(resolve(query))
    pair = next(iter(space.pairs()))
    pool = space.sweep("decode", *pair)[0]
    one = pool.take(np.array([0]))
    ((_, _, found),) = breakdowns(space, one)
    assert found.total_s == pytest.approx(float(one.iteration_s[0]), rel=1e-9)


@pytest.mark.parametrize("value", [0, -1, 101, True, "fast"])
def test_bad_factors_are_refused(make_query: Callable[..., Query], value: Any) -> None:
    with pytest.raises(ValidationError, match="time_factor"):
        make_query(devices=[{"name": "h100_sxm", "time_factor": value}])


def test_other_times_are_not_covered(make_query: Callable[..., Query]) -> None:
    plain, slower = make_query(), make_query(devices=[{"name": "h100_sxm", "time_factor": 1.2}])
    assert loosest([plain, slower]) is None
    assert not evaluate(plain).covers(slower)
