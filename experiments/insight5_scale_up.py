"""Claim 5: dense models need scale-up; mixtures scale on hosts with NICs; when is the price paid?

    python experiments/insight5_scale_up.py
    python experiments/insight5_scale_up.py --quick

Two models of 1.8 T parameters (`synthetic/dense-1.8t`; `synthetic/moe-1.8t`: 16 experts, 2 per
token, 245 B active) on hosts of 8 devices with a NIC each, and in one fast domain of 72: decode
throughput per device against the time between tokens, and their ratio at equal time. That ratio is
the premium per device that scale-up is worth. Two ratios: of the same device in both surroundings
(B200 in a domain of 72, which nobody sells, isolates the domain), and of what is sold (GB200
NVL72, whose device is a little faster, over B200), beside what price lists ask. The whole fleet,
prefill included, is shown too: prompts gain less.

Assumptions: 2,000 tokens in, 150 out, FP8 (the reference gives neither); every slot taken, no
queues; TensorRT-LLM's tables (B200, GB200), SGLang's for H200; mild skew of tokens over experts
(power_law_1.01). `dense-1.8t` has 208 heads, so that attention's TP ends at 16: a dense model of
256 heads, which TP64 divides, is shown beside it, and FP4 weights, with which one host holds
either model.

Kinds of knowledge differ: exchanges of tokens between hosts of B200 were not measured (alpha-beta
of the links, an ideal kernel), those inside NVLink domains were (TensorRT-LLM's two-sided kernels,
which start slowly): the mixture's premium on B200 and GB200 is a low estimate. On H200 SGLang's
exchanges between hosts are measured (DeepEP), those in a domain of 72 extrapolated from 8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import insight
import numpy as np
from insight import Check, Insight
from scale_up_premium import SHOWN_MS, TTIT_S, Comparison, at, compare, less_needed, pays_to

from perfmodel.breakdown import breakdown
from perfmodel.layout import parse_layout
from perfmodel.work import StepWork
from planner import figures
from planner.evaluated import Evaluated, evaluate
from planner.query import Query

CLAIM = (
    "Dense models require scale-up, for scale-out TP is bound by all-reduces between hosts; "
    "mixtures of experts scale better on scale-out by EP; scale-up still performs best."
)

HERE = Path(__file__).parent / "devices"
DOMAIN, FAST_NIC, H200_DOMAIN = (
    str(HERE / f"{name}.yaml") for name in ("b200_domain72", "b200_fast_nic", "h200_domain72")
)
MODELS: Mapping[str, Any] = {"dense": "synthetic/dense-1.8t", "mixture": "synthetic/moe-1.8t"}
WIDE: Any = {"recipe": {"parameters": "1.8T", "heads": 256}}
PREMIUMS = {"Oracle": 16.00 / 14.00, "CoreWeave": 10.50 / 8.60}
"""GB200 NVL72 over B200 per device, on-demand (planner/data/prices.yaml)."""
WORTH = 1.1
"""A premium from which scale-up counts as needed."""


def query(model: Any, devices: Sequence[str], engine: str, weights: str) -> Query:
    """Both phases, disaggregated, at a loose target."""
    return Query.model_validate(
        {
            "model": model,
            "workload": {"qps": 1, "input_tokens": 2000, "output_tokens": 150},
            "slo": {"ttit": f"{TTIT_S[-1]}s"},
            "devices": [{"name": name, "usd_per_device_hour": 1.0} for name in devices],
            "runtime": "disaggregated",
            "engine": engine,
            "precision": {"weights": weights, "kv": "fp8"},
        }
    )


def premium_rows(found: Sequence[Comparison], fleet: bool = False) -> list[dict[str, Any]]:
    """Premiums by target."""
    rows = []
    for c in found:
        curve = c.fleet_premium if fleet else c.premium
        texts = {}
        for ttit_ms in SHOWN_MS:
            value = at(curve, ttit_ms)
            alone = at(c.decode[1], ttit_ms) is not None
            texts[f"{ttit_ms} ms"] = f"{value:.2f}" if value else "up only" if alone else "-"
        rows.append({"model and platforms": f"{c.model}, {c.pair}"} | texts)
    return rows


def reduce_rows(found: Evaluated, layout: str, batch: int) -> list[dict[str, Any]]:
    """What a dense decode step on each platform waits for."""
    space = next(iter(found.spaces.values()))
    rows = []
    for offer, precision in space.pairs():
        work = StepWork.of(decode_sequences=batch, context_tokens=2075)
        step = breakdown(space.step_model(offer, precision), parse_layout(layout), work)
        reduces = sum(op.total_s for op in step.operators if op.name.endswith("all_reduce"))
        rows.append(
            {
                "platform": offer.device.name,
                "step, ms": 1e3 * step.busy_s,
                "all-reduces, ms": 1e3 * reduces,
                "share": f"{reduces / step.busy_s:.0%}",
            }
        )
    return rows


def chart(found: Sequence[Comparison]) -> Any:
    """Decode throughput and the premium over time between tokens."""
    import altair as alt

    sold = [c for c in found if "GB200" in c.pair]
    same = [c for c in found if c.pair.endswith("in domain") and c.pair.startswith("B200")]
    rows = [
        {"ttit": 1e3 * t, "qps": q, "model": c.model, "platform": name}
        for c in same
        for name, curve in zip(("hosts of 8", "domain of 72"), c.decode, strict=True)
        for t, q in zip(TTIT_S, curve, strict=True)
        if q > 0
    ]
    x = alt.X(
        "ttit:Q",
        scale=alt.Scale(type="log", domain=[10, 200]),
        axis=alt.Axis(values=[10, 15, 20, 30, 50, 70, 100, 200]),
        title="time between tokens, ms",
    )
    colour = alt.Color("model:N", scale=figures.colours(list(MODELS)), title=None)
    left = (
        alt.Chart(figures.data(rows))
        .mark_line()
        .encode(
            x=x,
            y=alt.Y(
                "qps:Q",
                scale=alt.Scale(type="log"),
                title="decode, requests/s per device",
                axis=alt.Axis(format="~g"),
            ),
            color=colour,
            strokeDash=alt.StrokeDash("platform:N", title="B200"),
        )
        .properties(width=330, height=280, title="the same device in both")
    )
    ratios = [
        {"ttit": 1e3 * t, "premium": min(float(p), 4.0), "model": c.model, "pair": c.pair}
        for c in (*same, *sold)
        for t, p in zip(TTIT_S, c.premium, strict=True)
        if np.isfinite(p)
    ]
    asked = [{"premium": ratio} for ratio in PREMIUMS.values()]
    lists = ", ".join(f"{name} {ratio:.2f}" for name, ratio in PREMIUMS.items())
    rules = (
        alt.Chart(figures.data(asked))
        .mark_rule(color="#777777", strokeDash=[2, 2])
        .encode(y="premium:Q")
    )
    right = (
        alt.Chart(figures.data(ratios))
        .mark_line()
        .encode(
            x=x,
            y=alt.Y(
                "premium:Q",
                scale=alt.Scale(domain=[0.8, 4]),
                title="scale-up / scale-out, 4 and more at 4",
            ),
            color=colour,
            strokeDash=alt.StrokeDash("pair:N", title=None),
        )
        .properties(width=330, height=280, title="premium per device that decode justifies")
    )
    whole = alt.hconcat(left, right + rules).resolve_scale(strokeDash="independent")
    return figures.titled(
        whole,
        "1.8 T parameters on hosts with NICs and in a domain of 72",
        [f"FP8, 2,000 tokens in and 150 out. Dotted: GB200 over B200 at price lists ({lists})."],
    )


def main() -> None:
    """Judge the claim and show the numbers."""
    given = insight.options(__doc__)
    pairs = {
        "B200 in domain": ("b200_sxm", "b200_domain72"),
        "GB200 over B200": ("b200_sxm", "gb200_nvl72"),
    }
    devices = ["b200_sxm", DOMAIN, "gb200_nvl72"]
    if not given.quick:
        pairs["B200, 800G NICs"] = ("b200_fast_nic", "b200_domain72")
        devices.append(FAST_NIC)
    searches = {
        name: evaluate(query(model, devices, "trtllm", "fp8")) for name, model in MODELS.items()
    }
    found = [c for name, search in searches.items() for c in compare(name, search, pairs)]
    beside = []
    if not given.quick:
        h200 = {"H200 in domain": ("h200_sxm", "h200_domain72")}
        main_pair = {"B200 in domain": pairs["B200 in domain"]}
        for name, model in MODELS.items():
            asked = query(model, ["h200_sxm", H200_DOMAIN], "sglang", "fp8")
            beside += compare(name, evaluate(asked), h200)
            four = query(model, ["b200_sxm", DOMAIN], "trtllm", "nvfp4")
            beside += compare(f"{name}, FP4", evaluate(four), main_pair)
        wide = query(WIDE, ["b200_sxm", DOMAIN], "trtllm", "fp8")
        beside += compare("dense, 256 heads", evaluate(wide), main_pair)
    reduces = reduce_rows(searches["dense"], "attn:TP16 ffn:TP16", 32)

    by = {(c.model, c.pair): c for c in found}
    dense, mixture = (by[model, "B200 in domain"] for model in MODELS)
    sold = {model: by[model, "GB200 over B200"] for model in MODELS}
    tight, loose = SHOWN_MS[3], SHOWN_MS[6]
    alike = {"B200": (dense, mixture)}
    if beside:
        h200_by = {c.model: c for c in beside if c.pair == "H200 in domain"}
        alike["H200"] = (h200_by["dense"], h200_by["mixture"])
    needs_less = {name: less_needed(*models) for name, models in alike.items()}
    least = {
        f"{name}, {c.model}": float(np.nanmin(c.premium))
        for name, models in alike.items()
        for c in models
    }

    def worth(c: Comparison, ttit_ms: float) -> float:
        value = at(c.premium, ttit_ms)
        return float("inf") if value is None else value

    faster = dense.fastest_s[0] / dense.fastest_s[1]
    steps = {row["platform"]: row for row in reduces}
    lost_ms = steps["b200_sxm"]["step, ms"] - steps["b200_domain72"]["step, ms"]
    out_ms, up_ms = (steps[name]["all-reduces, ms"] for name in ("b200_sxm", "b200_domain72"))
    pays = {
        (model, name, whole): pays_to(c.fleet_premium if whole else c.premium, price)
        for model, c in sold.items()
        for name, price in PREMIUMS.items()
        for whole in (False, True)
    }

    def paid(whole: bool) -> str:
        return "; ".join(
            f"{model}, {name} ({PREMIUMS[name]:.2f}): "
            + ("nowhere" if ttit is None else f"to {ttit:.0f} ms")
            for (model, name, of_fleet), ttit in pays.items()
            if of_fleet == whole
        )

    checks = [
        Check(
            f"dense, the same device: the domain is worth {WORTH:g} and more at {tight} ms",
            f"{worth(dense, tight):.2f} at {tight} ms, {worth(dense, 50):.2f} at 50 ms",
            worth(dense, tight) >= WORTH,
        ),
        Check(
            f"and at {loose} ms, where tokens are slow",
            f"{worth(dense, loose):.2f}: pipelines of single hosts do as well",
            worth(dense, loose) >= WORTH,
        ),
        Check(
            "dense on TP16, 32 sequences: at least 90 % of what hosts lose to the domain is "
            "all-reduces",
            f"{(out_ms - up_ms) / lost_ms:.0%} of {lost_ms:.1f} ms; all-reduces are "
            f"{out_ms:.1f} ms of {steps['b200_sxm']['step, ms']:.1f} on hosts, {up_ms:.1f} in the "
            f"domain. The fastest token takes {faster:.2f} times as long on hosts",
            out_ms - up_ms >= 0.9 * lost_ms,
        ),
        Check(
            "the mixture needs the domain no more than the dense model (within 2 %), at nine "
            "tenths of the TTITs that both reach on hosts, on B200 and on H200",
            "; ".join(
                f"{name}: {np.mean(less):.0%} of targets from {start:.0f} ms"
                for name, (less, start) in needs_less.items()
            )
            + f"; on B200 at {tight} ms {worth(mixture, tight):.2f} against "
            f"{worth(dense, tight):.2f}",
            all(np.mean(less) >= 0.9 for less, _ in needs_less.values()),
        ),
        Check(
            "the mixture on hosts comes within 10 % of the domain at every TTIT from 30 ms",
            "B200: " + ", ".join(f"{t} ms {worth(mixture, t):.2f}" for t in SHOWN_MS),
            all(worth(mixture, t) <= WORTH for t in SHOWN_MS if t >= 30),
        ),
        Check(
            "scale-up performs best: at no TTIT is the domain worth less than 0.99",
            "least: " + ", ".join(f"{name} {value:.2f}" for name, value in least.items()),
            min(least.values()) >= 0.99,
        ),
        Check("GB200 NVL72 at list prices pays for decode", paid(False), None),
        Check("and for the whole fleet, prefill included", paid(True), None),
    ]
    curves = [
        {
            "ttit_ms": round(float(1e3 * t), 2),
            **{
                f"{c.model}, {c.pair}": [round(float(curve[i]), 4) for curve in c.decode]
                for c in (*found, *beside)
            },
        }
        for i, t in enumerate(TTIT_S)
    ]
    best = [
        {"model": c.model, "platform": name} | {f"{t} ms": at(curve, t) for t in SHOWN_MS}
        for c in (dense, mixture)
        for name, curve in zip(("B200, hosts of 8", "B200, domain of 72"), c.decode, strict=True)
    ]
    tables = {
        "Decode, requests/s per device": best,
        "Premium that decode justifies (requests/s per device, scale-up over scale-out)": (
            premium_rows([*found, *beside])
        ),
        "Premium that the whole fleet justifies, prefill included": premium_rows(found, fleet=True),
        "One decode step, dense, TP16, 32 sequences": reduces,
    }
    numbers = {
        "premiums": premium_rows([*found, *beside]),
        "fleet_premiums": premium_rows(found, fleet=True),
        "pays_to_ms": [
            {"model": model, "list": name, "whole_fleet": whole, "ttit_ms": ttit}
            for (model, name, whole), ttit in pays.items()
        ],
        "all_reduces": reduces,
        "decode_qps_per_device_out_and_up": curves,
    }
    set_up = (
        "Two synthetic models of 1.8 T parameters, FP8, 2,000 in and 150 out, disaggregated.",
        "Hosts of 8 B200 or H200, 400 Gb/s NICs; both in a domain of 72 (what-if); GB200 NVL72.",
        "Premium: ratio of the most requests/s per device at equal TTIT, every slot taken.",
    )
    outcome = Insight("insight5_scale_up", CLAIM, set_up, checks, tables, chart(found), numbers)
    insight.show(outcome, given.out)


if __name__ == "__main__":
    main()
