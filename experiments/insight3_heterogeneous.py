"""Claim 3: prefill and decode on different devices cost 15 to 25 % less than on one type.

    python experiments/insight3_heterogeneous.py
    python experiments/insight3_heterogeneous.py --quick

First the reference's table of 405B on GPU-A, B and C, from its own rates. Then the same question
for real devices (H100, H200, MI300X, B200): rates of every phase estimated at latency targets, and
dated price lists. Whether a pairing pays depends on prices, so that its saving over the better
single type is shown at every ratio of two devices' prices, with the largest saving that any ratio
gives; at several providers' lists of the same autumn; in whole hosts; and where the cheapest device
is in short supply.

Assumptions: Llama-3.1-405B in FP8 (the reference gives no precision); lengths and targets of the
reference's service classes, not its own, which it does not give; MI300X has no measured operators
(rooflines with assumed efficiencies: its caution says up to 2 times too fast), which moves the
price at which it pays, but not the largest saving. Rates are of each phase alone, whose steps meet
the targets; that decoding paces the engine's handling of first tokens couples the two, and is
counted where whole fleets are shown (in full, in hosts). A cache in FP8 would have to be converted
between NVIDIA's and AMD's formats; that is not counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import insight
from heterogeneous_cases import (
    SERVICES,
    SHORT,
    Rates,
    Service,
    cases_of,
    price_lists,
    query,
    tighter,
)
from heterogeneous_figure import LOWEST, chart, panel_of
from heterogeneous_savings import (
    SAVED,
    curve,
    curves,
    saving_at,
    scarce_rows,
    slowed,
)
from insight import Check, Insight

from planner.evaluated import Evaluated, evaluate
from planner.large_fleet import large_fleets
from planner.rates import matched_qps

CLAIM = (
    "Heterogeneous pairs (prefill on the device with the FLOPs, decode on one with memory "
    "bandwidth) match the best homogeneous QPS for 15 to 25 % less money (405B)."
)

TALK: Rates = {"GPU-A": (88.0, 77.0), "GPU-B": (88.0, 276.0), "GPU-C": (85.0, 277.0)}
TALK_USD = {"GPU-A": 2.0, "GPU-B": 3.0, "GPU-C": 1.0}
TALK_E2E = {
    ("GPU-A", "GPU-A"): 41,
    ("GPU-B", "GPU-B"): 67,
    ("GPU-C", "GPU-C"): 65,
    ("GPU-A", "GPU-B"): 67,
    ("GPU-A", "GPU-C"): 67,
}

SLOWER = (1.3, 1.6, 2.0)


MAIN_TTIT_MS = 40.0
SCARCE_HOSTS = (0, 1, 2, 3, 4, 8, 16, 24, 32)


def talk_rows() -> list[dict[str, Any]]:
    """The reference's table, computed from its rates."""
    rows = []
    for (prefill, decode), stated in TALK_E2E.items():
        p, d = TALK[prefill][0], TALK[decode][1]
        usd = TALK_USD[prefill] / p + TALK_USD[decode] / d
        rows.append(
            {
                "prefill": prefill,
                "decode": decode,
                "prefill QPS": p,
                "decode QPS": d,
                "stated": stated,
                "P D / (P + D)": round(float(matched_qps(p, d)), 2),
                "cost/QPS at 2:3:1": usd,
                "against B": f"{usd / (TALK_USD['GPU-B'] * (1 / 88 + 1 / 276)) - 1:+.1%}",
            }
        )
    return rows


def host_rows(
    found: Evaluated, service: Service, lists: Mapping[str, Mapping[str, float]], demands: Any
) -> list[dict[str, Any]]:
    """Whole hosts and queues: the planner's cheapest fleet of one type and of two."""
    rows = []
    for name, usd in lists.items():
        for qps in demands:
            asked = tighter(query(service, usd, qps=qps), MAIN_TTIT_MS)
            served = [choice for _, choice in found.under(asked).served()]
            pair = next(c for c in served if c.kind == "heterogeneous")
            alone = next(c for c in served if c.kind != "heterogeneous")
            rows.append(
                {
                    "price list": name,
                    "QPS": qps,
                    "one type": fleet_name(alone),
                    "USD/h": alone.usd_per_hour,
                    "two types": fleet_name(pair),
                    "USD/h ": pair.usd_per_hour,
                    "saves": 1 - pair.usd_per_hour / alone.usd_per_hour,
                }
            )
    return rows


def full_rows(
    found: Evaluated, service: Service, lists: Mapping[str, Mapping[str, float]]
) -> list[dict[str, Any]]:
    """Large fleets whose first tokens count in full: handling and transfers couple the pools."""
    rows = []
    for ttit_ms in service.ttit_ms:
        for name, usd in lists.items():
            fleets = large_fleets(found.under(tighter(query(service, usd), ttit_ms)))
            pair = next(f for f in fleets if f.kind == "heterogeneous")
            alone = next(f for f in fleets if f.kind != "heterogeneous")
            rows.append(
                {
                    "TTIT ms": ttit_ms,
                    "price list": name,
                    "one type": SHORT[alone.devices[0]],
                    "USD/h per QPS": alone.usd_per_hour_per_qps,
                    "two types": " + ".join(SHORT[n] for n in pair.devices),
                    "USD/h per QPS ": pair.usd_per_hour_per_qps,
                    "saves": 1 - pair.usd_per_hour_per_qps / alone.usd_per_hour_per_qps,
                }
            )
    return rows


def scarce_host_rows(
    found: Evaluated, service: Service, usd: Mapping[str, float], qps: float
) -> list[dict[str, Any]]:
    """The planner's cheapest fleet as more hosts of MI300X are at hand."""
    rows = []
    for hosts in SCARCE_HOSTS:
        prices = {n: price for n, price in usd.items() if n != "mi300x" or hosts}
        asked = tighter(query(service, prices, qps=qps), MAIN_TTIT_MS)
        devices = tuple(
            d.model_copy(update={"inventory": 8 * hosts}) if d.name == "mi300x" else d
            for d in asked.devices
        )
        _, best = found.under(asked.model_copy(update={"devices": devices})).served()[0]
        rows.append(
            {
                "MI300X hosts at hand": hosts,
                "cheapest fleet": fleet_name(best),
                "kind": best.kind,
                "USD/h": best.usd_per_hour,
            }
        )
    return rows


def fleet_name(choice: Any) -> str:
    """Hosts by device."""
    return " + ".join(f"{count} {SHORT[offer.device.name]}" for offer, count in choice.hosts)


def percent(rows: Sequence[Mapping[str, Any]], *columns: str) -> list[dict[str, Any]]:
    """The rows with shares spelt as per cent."""
    return [{k: f"{v:+.1%}" if k in columns else v for k, v in row.items()} for row in rows]


def main() -> None:
    """Judge the claim and show the numbers."""
    given = insight.options(__doc__)
    services = SERVICES[:1] if given.quick else SERVICES
    searches = {service.name: evaluate(query(service)) for service in services}
    cases = [case for s in services for case in cases_of(s, searches[s.name])]
    main_case = next(c for c in cases if c.ttit_ms == MAIN_TTIT_MS and c.kv == "fp8")
    lists = price_lists()

    talk = talk_rows()
    talk_curve = curve(TALK, "GPU-A", "GPU-B")
    assert talk_curve is not None
    listed_ab = saving_at({n: TALK[n] for n in ("GPU-A", "GPU-B")}, TALK_USD)
    with_c = saving_at(TALK, TALK_USD)
    talk_scarce = scarce_rows(TALK, TALK_USD, "GPU-C", 67.0, 21)
    decode_share = 67 / 277 / (67 / 85 + 67 / 277)
    short_c = [row for row in talk_scarce if decode_share <= row["at hand"] < 1.0]

    real = curves(main_case.rates)
    every = [(case, c) for case in cases for c in curves(case.rates)]
    widest = {
        case.name: max((c for other, c in every if other is case), key=lambda c: c.most)
        for case in cases
    }
    listed = [
        (case, name, saving_at(case.rates, usd)) for case in cases for name, usd in lists.items()
    ]
    slow = [
        (case.name, name, times, saving_at(slowed(case.rates, "mi300x", times), usd))
        for case in cases
        for name, usd in lists.items()
        for times in SLOWER
    ]
    slowest = max(slow, key=lambda item: item[-1])
    oracle = lists["Oracle Cloud"]
    scarce = scarce_rows(main_case.rates, oracle, "mi300x", 100.0, 41)
    hosts = host_rows(
        searches[services[0].name], services[0], lists, (20,) if given.quick else (20, 200)
    )

    scarce_hosts = scarce_host_rows(searches[services[0].name], services[0], oracle, 100.0)

    full = full_rows(searches[services[0].name], services[0], lists)
    without = scarce_hosts[0]["USD/h"]
    paired = [row for row in scarce_hosts if row["kind"] == "heterogeneous"]

    best_case, best_curve = max(every, key=lambda item: item[1].most)
    low, high = SAVED
    checks = [
        Check(
            "the reference's five end-to-end rates are P D / (P + D), rounded",
            f"{sum(round(r['P D / (P + D)']) == r['stated'] for r in talk)} of {len(talk)}",
            all(round(r["P D / (P + D)"]) == r["stated"] for r in talk),
        ),
        Check(
            "its A with B, at its 2:3, against the better of A and B alone: 15 to 25 %, rounded",
            f"{listed_ab:.1%}; it is 15 to 25 % where B costs {talk_curve.region} times A, at most "
            f"{talk_curve.most:.1%}",
            low <= round(listed_ab, 2) <= high,
        ),
        Check(
            "its A with C, at its 2:3:1, beats every single type, C included",
            f"{with_c:+.1%}: C alone is cheapest",
            with_c > 0,
        ),
        Check(
            "its A with C where there are too few C to serve all, but enough to decode: at least "
            "15 % below the best type at hand in full",
            insight.spread([100 * row["pair saves"] for row in short_c]) + " %",
            all(row["pair saves"] >= low for row in short_c),
        ),
        Check(
            "real devices, text agent 2000/150 at 40 ms: some ratio of two prices gives 15 %",
            "largest saving at any price: "
            + ", ".join(f"{SHORT[c.first]} and {SHORT[c.second]} {c.most:.1%}" for c in real),
            max(c.most for c in real) >= low,
        ),
        Check(
            "in some service, target and cache format of the range, some ratio gives 15 %",
            f"{sum(c.most >= low for _, c in every)} of {len(every)} pairs; most "
            f"{best_curve.most:.1%}: {SHORT[best_curve.first]} and {SHORT[best_curve.second]}, "
            f"{best_case.name}",
            best_curve.most >= low,
        ),
        Check(
            "at dated price lists the best pair saves 15 % over the best single type, somewhere",
            f"{insight.spread([100 * s for *_, s in listed])} % over {len(listed)} lists and "
            f"services; a pair is cheaper at all in {sum(s > 0 for *_, s in listed)}",
            max(s for *_, s in listed) >= low,
        ),
        Check(
            f"the same with MI300X's rates divided by {', '.join(f'{t:g}' for t in SLOWER)}",
            f"{insight.spread([100 * s for *_, s in slow])} %; at least 15 % in "
            f"{sum(s >= low for *_, s in slow)} of {len(slow)}; most: {slowest[0]}, {slowest[1]}, "
            f"divided by {slowest[2]:g}",
            slowest[-1] >= low,
        ),
        Check(
            "at those lists with first tokens in full (2000/150, 25 to 80 ms): 15 % somewhere",
            insight.spread([100 * row["saves"] for row in full]) + " %",
            max(row["saves"] for row in full) >= low,
        ),
        Check(
            "in whole hosts with MI300X in short supply a pair is cheapest (100 QPS, Oracle)",
            "at "
            + ", ".join(str(r["MI300X hosts at hand"]) for r in paired)
            + " hosts, by "
            + insight.spread([100 * (1 - r["USD/h"] / without) for r in paired])
            + " % against none of them",
            bool(paired),
        ),
        Check(
            "at those lists in whole hosts, with queues (2000/150, 40 ms): 15 %",
            insight.spread([100 * row["saves"] for row in hosts]) + " %",
            max(row["saves"] for row in hosts) >= low,
        ),
    ]
    tables = {
        "The reference's table, from its own rates": talk,
        "Rates of 128 devices, requests/s (2000/150, TTFT 500 ms, TTIT 40 ms, fp8)": [
            {
                "device": n,
                "prefill": 128 * p,
                "decode": 128 * d,
                "end to end": 128 * float(matched_qps(p, d)),
                "decode/prefill": d / p,
            }
            for n, (p, d) in main_case.rates.items()
        ],
        "Largest saving at any price, each case's best pair; ratios that give 15-25 %": percent(
            [
                {
                    "service": case.name,
                    "pair": f"{SHORT[c.first]} + {SHORT[c.second]}",
                    "at most": c.most,
                    "at ratio": c.even,
                    "15-25 %": c.region,
                }
                for case, c in every
                if case is main_case or c is widest[case.name]
            ],
            "at most",
        ),
        "Best pair against best single type at price lists, in a large fleet": percent(
            [
                {"service": case.name} | {name: s for other, name, s in listed if other is case}
                for case in cases
            ],
            *lists,
        ),
        "In whole hosts, with queues (2000/150, 40 ms)": percent(hosts, "saves"),
        "MI300X in short supply, 100 QPS at Oracle's list": percent(
            scarce[::4], "at hand", "pair saves", "saves", "in prefill", "in decode"
        ),
        "The same in whole hosts, with queues": scarce_hosts,
        "Large fleets at price lists, first tokens in full (2000/150)": percent(full, "saves"),
    }
    drawn = [
        (case, c)
        for case, c in every
        if case.service is services[0] and case.kv == "fp8" and case.ttit_ms in (25, 40)
    ]
    points: list[dict[str, Any]] = [
        {
            "panel": panel_of(case),
            "pair": f"{SHORT[c.first]} and {SHORT[c.second]}",
            "ratio": usd[c.second] / usd[c.first],
            "saving": saving_at({n: case.rates[n] for n in (c.first, c.second)}, usd),
        }
        for case, c in drawn
        for usd in lists.values()
        if c.first in usd and c.second in usd
    ]
    points = [point for point in points if point["saving"] >= LOWEST]
    numbers = {
        "talk": talk,
        "talk_scarce_c": talk_scarce,
        "rates": {case.name: case.rates for case in cases},
        "price_lists": lists,
        "pairs": [
            {
                "case": case.name,
                "first": c.first,
                "second": c.second,
                "most": c.most,
                "ratio": c.even,
                "ratios_15_to_25": c.region,
            }
            for case, c in every
        ],
        "at_lists": [{"case": case.name, "list": name, "saving": s} for case, name, s in listed],
        "whole_hosts": hosts,
        "first_tokens_in_full": full,
        "scarce_mi300x": scarce,
        "scarce_mi300x_hosts": scarce_hosts,
    }
    set_up = (
        "Reference: rates of one budget per phase, GPU-A, B, C; $$, $$$, $ read as 2, 3, 1.",
        "Ours: Llama-3.1-405B, FP8 weights, on "
        + ", ".join(SHORT.values())
        + " (MI300X analytic).",
        "Rates: the most requests/s per device of any layout that meets the targets unloaded.",
        "Single type: prefill and decode on the same device. Price lists: on-demand, "
        + ", ".join(lists),
    )
    panels = [("the reference's devices", c) for c in curves(TALK)]
    panels += [
        (panel_of(case), replace(c, first=SHORT[c.first], second=SHORT[c.second]))
        for case, c in sorted(drawn, key=lambda item: -item[0].ttit_ms)
    ]
    outcome = Insight(
        "insight3_heterogeneous",
        CLAIM,
        set_up,
        checks,
        tables,
        chart(panels, points, scarce),
        numbers,
    )
    insight.show(outcome, given.out)


if __name__ == "__main__":
    main()
