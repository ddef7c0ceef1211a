"""Large fleets: what plans of a large demand approach, within all targets."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest

from perfmodel.database import PerfStore
from planner.candidates import Candidates
from planner.evaluated import Evaluated, evaluate
from planner.fronts import front
from planner.large_fleet import large_fleets, usd_per_hour_per_qps
from planner.problem import Problem
from planner.query import Query
from planner.transfer import receiving_s, sending_s, transfer_s

STORE = PerfStore()


def query(ttft: Any = "300ms", ttit: Any = "30ms", qps: float = 50_000) -> Query:
    return Query.model_validate(
        {
            "model": "Qwen/Qwen3-8B",
            "workload": {
                "qps": qps,
                "input_tokens": {"tokens": [500, 2000], "weights": [0.7, 0.3]},
                "output_tokens": 100,
                "arrivals": "steady",
            },
            "slo": {"ttft": ttft, "ttit": ttit},
            "devices": ["h100_sxm", "l40s"],
            "search": {"max_replica_devices": 4},
        }
    )


@pytest.fixture(scope="module")
def found() -> Evaluated:
    return evaluate(query(), store=STORE)


@pytest.fixture(scope="module")
def short() -> Evaluated:
    """Short answers: what links carry between pools takes longer than to compute."""
    fields = query("2s", "50ms", 20_000).model_dump(mode="json", exclude_defaults=True)
    fields["workload"] |= {"input_tokens": 1000, "output_tokens": 20}
    return evaluate(
        Query.model_validate(fields | {"search": {"max_replica_devices": 2}}), store=STORE
    )


def pair_price(problem: Problem, prefill: Candidates, decode: Candidates) -> Any:
    """Of every pair, (P, D)."""
    sending = sending_s(problem, prefill, decode)
    dear = [
        pool.world * pool.offer.usd_per_device_hour * np.maximum(1 / pool.qps, link_s)
        for pool, link_s in ((prefill, sending.T), (decode, receiving_s(problem, decode)))
    ]
    return dear[0].T + dear[1]


def test_pools_serve_as_much_as_their_links_carry(short: Evaluated) -> None:
    large = {fleet.devices: fleet for fleet in large_fleets(short)}
    for choice in short.fleets(20_000):
        fleet = large[tuple(pool.offer.device.name for pool in choice.pools)]
        ratio = choice.usd_per_hour / 20_000 / fleet.usd_per_hour_per_qps
        assert 1.0 - 1e-9 <= ratio < 1.02, fleet.devices
    # A request's cache, 147 MB, comes in halves over the links of two L40S at 5 GB/s each; what
    # they decode meanwhile is more, so that of all that serve as much the soonest is taken.
    bound = large["h100_sxm", "l40s"]
    assert bound.link_s[1] == pytest.approx(147.456e6 / 2 / 5e9)
    assert bound.devices_per_qps[1] == pytest.approx(2 * bound.link_s[1])
    decode = next(
        c for c in short.candidates if c.role == "decode" and c.offer.device.name == "l40s"
    )
    assert (decode.qps / decode.world).max() * bound.devices_per_qps[1] > 1.5


def test_plans_of_a_large_demand_approach_them(found: Evaluated) -> None:
    large = {(fleet.kind, *fleet.devices): fleet for fleet in large_fleets(found)}
    choices = found.fleets(50_000)
    names = {(c.kind, *(pool.offer.device.name for pool in c.pools)): c for c in choices}
    assert names.keys() == large.keys()
    for name, choice in names.items():
        ratio = choice.usd_per_hour / 50_000 / large[name].usd_per_hour_per_qps
        # Prompts of two lengths queue a little even when they come evenly.
        assert 1.0 - 1e-9 <= ratio < 1.05, name


def test_every_prompt_is_in_time_at_a_percentile() -> None:
    fleets = large_fleets(evaluate(query({"p99": "350ms"}), store=STORE))
    assert fleets
    for fleet in fleets:
        # Of two lengths, none is as rare as one in a hundred.
        assert fleet.pools[0].latency_s.max() + fleet.delay_s <= 0.35
        assert fleet.pools[-1].ttit_s[0] <= 0.03


def test_nothing_cheaper_is_in_time() -> None:
    narrow = evaluate(query("220ms"), store=STORE)
    problem = narrow.problem
    prefill, decode = (
        next(c for c in narrow.candidates if c.role == r and c.offer.device.name == "h100_sxm")
        for r in ("prefill", "decode")
    )
    decode = decode.take(np.argsort(usd_per_hour_per_qps(decode))[:300])
    handling = problem.handling_s(decode.iteration_s, disaggregated=True)
    ttft_s = prefill.service_s[:, None] + handling + transfer_s(problem, prefill, decode)
    price = pair_price(problem, prefill, decode)
    (own,) = (f for f in large_fleets(narrow) if f.devices == ("h100_sxm", "h100_sxm"))
    assert own.ttft_s <= 0.22
    assert price.min() < own.usd_per_hour_per_qps
    assert own.usd_per_hour_per_qps == pytest.approx(price[ttft_s <= 0.22].min(), rel=1e-6)


@pytest.mark.parametrize("against", ["ttft", "ttit"])
@pytest.mark.parametrize("devices", [("h100_sxm", "h100_sxm"), ("l40s", "h100_sxm")])
@pytest.mark.parametrize("case", ["found", "short"])
def test_no_pair_is_ahead_of_the_front(
    request: pytest.FixtureRequest,
    case: str,
    against: Literal["ttft", "ttit"],
    devices: tuple[str, str],
) -> None:
    """Also where another split of the cache, by a dearer candidate, is sent sooner."""
    narrow: Evaluated = request.getfixturevalue(case)
    narrow = narrow.under(narrow.query.model_copy(update={"slo": query("150ms").slo}))
    problem = narrow.problem
    prefill, decode = (
        next(c for c in narrow.candidates if c.role == role and c.offer.device.name == device)
        for role, device in zip(("prefill", "decode"), devices, strict=True)
    )
    decode = decode.take(np.argsort(decode.batch, kind="stable")[::7])
    handling = problem.handling_s(decode.iteration_s, disaggregated=True)
    ttft_s = prefill.service_s[:, None] + handling + transfer_s(problem, prefill, decode)
    price = pair_price(problem, prefill, decode)
    latency_s = ttft_s if against == "ttft" else np.broadcast_to(decode.ttit_s, price.shape)
    rows = front(narrow, against)
    rows = rows.filter(
        (rows["devices"] == " + ".join(dict.fromkeys(devices))) & (rows["kind"] != "continuous")
    )
    known = rows.select(f"{against}_s", "usd_per_hour_per_qps").to_numpy()
    for latency in np.geomspace(latency_s.min(), latency_s.max(), 60):
        pairs = price[(ttft_s <= 0.15) & (latency_s <= latency)]
        if len(pairs):
            reached = known[known[:, 0] <= latency * (1 + 1e-9), 1]
            assert reached.min() <= pairs.min() * (1 + 1e-9)


def test_without_a_target_they_end_the_fronts(found: Evaluated) -> None:
    loose = evaluate(query("1000000s", "1000000s"), store=STORE)
    rows = front(loose)
    for fleet in large_fleets(loose):
        names = " + ".join(dict.fromkeys(fleet.devices))
        own = rows.filter((rows["kind"] == fleet.kind) & (rows["devices"] == names))
        assert fleet.usd_per_hour_per_qps == pytest.approx(own["usd_per_hour_per_qps"].min())
        best = own.sort("usd_per_hour_per_qps").row(0, named=True)
        assert fleet.qps_per_device == pytest.approx(best["qps_per_device"])


def test_only_the_kinds_asked_for_and_none_in_time(found: Evaluated) -> None:
    assert {fleet.kind for fleet in large_fleets(found, ["continuous"])} == {"continuous"}
    assert large_fleets(found.under(query("1ms"))) == []
