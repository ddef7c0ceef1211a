"""Plans that speculate: when drafting tokens pays, and that a plan says what it rests on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from perfmodel import phases
from perfmodel.errors import ConfigError
from planner.candidates import Candidates
from planner.explain import explain_plan
from planner.infeasible import InfeasibleError
from planner.plan import Plan
from planner.problem import Problem
from planner.report import print_plan
from planner.sweep import Space
from spaces.constraints import least_latency_s

Solved = Callable[..., Plan]

TIGHT: dict[str, Any] = {
    "model": "deepseek-ai/DeepSeek-V3",
    "workload": {"qps": 4, "input_tokens": 2000, "output_tokens": 500},
    "slo": {"ttft": "2s", "ttit": "15ms"},
    "devices": ["h200_sxm"],
    "search": {"max_replica_devices": 16},
}
OFFLINE = TIGHT | {"slo": {}, "workload": {**TIGHT["workload"], "qps": 400, "arrivals": "steady"}}
OFFLINE["workload"] |= {"input_tokens": 500, "output_tokens": 2000}


def drafting(acceptance: float, tokens: object = (0, 1, 2, 3)) -> dict[str, Any]:
    return {"speculation": {"draft_tokens": tokens, "acceptance": acceptance}}


def fleets(plan: Plan) -> list[Any]:
    return [plan.best, *plan.alternatives]


@pytest.mark.parametrize("query", [TIGHT, OFFLINE], ids=["tight", "offline"])
def test_drafts_never_accepted_are_never_chosen(solved: Solved, query: dict[str, Any]) -> None:
    plain, drafted = solved(**query), solved(**query, **drafting(0.0))
    assert fleets(drafted) == fleets(plain)
    assert all(not pool.draft_tokens for fleet in fleets(drafted) for pool in fleet.pools)
    assert any("does not pay" in note for note in drafted.notes)
    assert not any("does not pay" in note for note in plain.notes)


@pytest.mark.parametrize("acceptance", [0.0, 0.9])
def test_nothing_drafted_is_no_speculation(solved: Solved, acceptance: float) -> None:
    plain, idle = solved(**TIGHT), solved(**TIGHT, **drafting(acceptance, 0))
    assert fleets(idle) == fleets(plain)
    assert replace(idle.search, seconds=0.0) == replace(plain.search, seconds=0.0)


def test_more_acceptance_never_costs_more(solved: Solved) -> None:
    prices = [solved(**TIGHT).best.usd_per_hour]
    prices += [solved(**TIGHT, **drafting(a)).best.usd_per_hour for a in (0.2, 0.5, 0.7, 0.9)]
    assert prices == sorted(prices, reverse=True)
    assert prices[-1] < prices[0]


def test_drafts_pay_under_a_tight_ttit(solved: Solved) -> None:
    plan = solved(**TIGHT, **drafting(0.7))
    pool = plan.best.pools[-1]
    assert pool.draft_tokens in (1, 2, 3)
    assert pool.acceptance == 0.7
    gain = sum(0.7**i for i in range(pool.draft_tokens + 1))
    assert pool.tokens_per_step == pytest.approx(gain)
    assert plan.best.ttit_mean_s <= 0.015
    assert 0 < pool.prefill_time_share < 1


def test_drafts_do_not_pay_for_large_batches(solved: Solved) -> None:
    plan = solved(**OFFLINE, **drafting(0.5))
    assert plan.best.pools[-1].batch >= 64
    assert plan.best.pools[-1].draft_tokens == 0
    # Whoever drafts all the same, pays for it.
    forced = solved(**OFFLINE, **drafting(0.5, 3))
    assert forced.best.usd_per_hour_per_qps_at_scale > plan.best.usd_per_hour_per_qps_at_scale


def test_prefill_pools_draft_nothing(solved: Solved) -> None:
    plan = solved(**TIGHT, **drafting(0.7, 2), runtime="disaggregated")
    prefill, decode = plan.best.pools
    assert (prefill.draft_tokens, prefill.acceptance, prefill.tokens_per_step) == (0, None, None)
    assert decode.draft_tokens == 2


@pytest.mark.parametrize("runtime", ["continuous", "disaggregated"])
@pytest.mark.parametrize("ttit", ["15ms", {"p99": "30ms"}], ids=str)
def test_a_plan_is_printed_and_explained(solved: Solved, runtime: str, ttit: Any) -> None:
    query = TIGHT | {"slo": {"ttft": "2s", "ttit": ttit}}
    plan = solved(**query, **drafting(0.7, [1, 3]), runtime=runtime)
    data = json.loads(json.dumps(plan.to_dict()))
    console = Console(file=StringIO(), width=200)
    print_plan(plan, console)
    explain_plan(data, "plan.json", 0, console)
    assert isinstance(console.file, StringIO)
    said = console.file.getvalue()
    drafts, gain = plan.best.pools[-1].draft_tokens, plan.best.pools[-1].tokens_per_step
    assert gain is not None
    assert f"{drafts} tokens drafted per step, 70% accepted: {gain:.3g} tokens per step" in said
    assert f"= {gain:.4g} tokens per step" in said
    assert "draft_routed_experts" in said
    assert "DIFFERS" not in said
    # A draft length that the query does not offer is not derived again.
    data["best"]["pools"][-1]["draft_tokens"] = 2
    with pytest.raises(Exception, match="does not fit or does not meet the SLO"):
        explain_plan(data, "plan.json", 0, console)


def test_candidates_are_what_the_phases_estimate(
    pools_of: Callable[..., list[Candidates]], space_of: Callable[..., Space]
) -> None:
    changes = TIGHT | drafting(0.7)
    space = space_of(**changes)
    traffic = space.problem.traffic
    for pool in pools_of(**changes):
        assert set(pool.drafts) <= ({0} if pool.role == "prefill" else {0, 1, 2, 3})
        if pool.role == "prefill":
            continue
        for index in np.random.default_rng(0).integers(len(pool), size=20):
            one = pool.take(np.array([index]))
            step = space.step_model(one.offer, one.precision)
            layout = one.layouts[one.layout]
            drafts = one.drafts
            again: phases.DecodeEstimate | phases.ContinuousEstimate = (
                phases.decode(step, layout, traffic, one.batch, drafts=drafts, acceptance=0.7)
                if pool.role == "decode"
                else phases.continuous(
                    step, layout, traffic, one.batch, one.chunk, drafts=drafts, acceptance=0.7
                )
            )
            assert one.ttit_s == pytest.approx(again.ttit_s[0])
            assert one.qps == pytest.approx(again.qps[0])
            assert again.memory.total.item() <= one.offer.device.memory_bytes


@pytest.mark.parametrize("role", ["decode", "continuous"])
def test_no_iteration_beats_its_roofline(
    pools_of: Callable[..., list[Candidates]], space_of: Callable[..., Space], role: str
) -> None:
    changes = TIGHT | drafting(0.7)
    problem = space_of(**changes).problem
    for pool in (pool for pool in pools_of(**changes) if pool.role == role):
        device, layouts = pool.offer.device, pool.layouts
        _, floor = least_latency_s(problem.model, device, pool.precision, layouts, problem.traffic)
        assert len(np.unique(pool.drafts)) > 1
        assert np.all(pool.iteration_s >= floor[pool.layout])


def test_an_impossible_ttit_counts_what_drafts_gain(solved: Solved) -> None:
    impossible = TIGHT | {"slo": {"ttit": "1ms"}} | drafting(0.7)
    with pytest.raises(InfeasibleError, match=r"with \d tokens drafted") as caught:
        solved(**impossible)
    found = re.search(r"Smallest feasible: ttit: ([\d.]+)ms", str(caught.value))
    assert found
    least = float(found.group(1))
    solved(**impossible | {"slo": {"ttit": f"{least}ms"}})
    # No plan without drafts comes as near.
    with pytest.raises(InfeasibleError):
        solved(**TIGHT | {"slo": {"ttit": f"{least}ms"}})


def test_sampling_drafts(solved: Solved) -> None:
    sampled = solved(options={"search": "tpe", "trials": 40}, **TIGHT, **drafting(0.7))
    assert sampled.best.usd_per_hour >= solved(**TIGHT, **drafting(0.7)).best.usd_per_hour
    assert sampled.best.pools[-1].draft_tokens


def test_a_model_without_a_module_is_refused(problem_of: Callable[..., Problem]) -> None:
    with pytest.raises(ConfigError, match=r"Qwen3-8B brings no multi-token-prediction") as caught:
        problem_of(**drafting(0.7))
    assert "speculation.draft_tokens" in str(caught.value)
    assert problem_of(**drafting(0.7, 0)).draft_tokens == (0,)


SMALL: dict[str, Any] = {
    "model": "Qwen/Qwen3-32B",
    "workload": {"qps": 4, "input_tokens": 1000, "output_tokens": 300},
    "slo": {"ttft": "1s", "ttit": "9ms"},
    "search": {"max_replica_devices": 8},
}


def by_a_model(name: str = "Qwen/Qwen3-0.6B", **fields: Any) -> dict[str, Any]:
    found = drafting(0.8, [0, 1, 3])
    found["speculation"] |= {"draft_model": name, **fields}
    return found


@pytest.mark.parametrize("runtime", ["continuous", "disaggregated"])
def test_a_draft_model_pays_where_tokens_are_late(solved: Solved, runtime: str) -> None:
    plain, drafted = (solved(**SMALL, runtime=runtime, **c) for c in ({}, by_a_model()))
    assert drafted.best.usd_per_hour <= plain.best.usd_per_hour
    at_scale = [plan.best.usd_per_hour_per_qps_at_scale for plan in (plain, drafted)]
    assert at_scale[1] < at_scale[0]
    pool = drafted.best.pools[-1]
    assert pool.draft_model == "Qwen/Qwen3-0.6B"
    assert pool.draft_tokens
    console = Console(file=StringIO(), width=200)
    print_plan(drafted, console)
    explain_plan(json.loads(json.dumps(drafted.to_dict())), "plan.json", 0, console)
    assert isinstance(console.file, StringIO)
    said = console.file.getvalue()
    assert f"{pool.draft_tokens} tokens drafted per step by Qwen/Qwen3-0.6B, 80% accepted" in said
    assert "draft_ffn_up_proj" in said
    assert "DIFFERS" not in said


def test_a_draft_model_on_one_device_is_slower(solved: Solved) -> None:
    split, alone = (
        solved(**SMALL, runtime="continuous", **by_a_model(draft_tp=tp)) for tp in ("target", 1)
    )
    each = [plan.best.usd_per_hour_per_qps_at_scale for plan in (split, alone)]
    assert each[0] != each[1]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("meta-llama/Llama-3.1-8B", r"vocabulary of 128,256 tokens, Qwen/Qwen3-32B one of 151,936"),
        ("Qwen/Qwen9", "unknown model"),
    ],
)
def test_a_draft_model_that_cannot_is_refused(
    problem_of: Callable[..., Problem], name: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        problem_of(**SMALL, **by_a_model(name))
    assert "speculation.draft_model" in str(caught.value)


def test_a_draft_model_that_drafts_nothing_is_none(problem_of: Callable[..., Problem]) -> None:
    idle = problem_of(**SMALL, **by_a_model(draft_tokens=[0]))
    assert idle.model.drafter is None
