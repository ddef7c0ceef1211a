"""Claim 4: expert parallelism makes a mixture of experts scale where a dense model does not.

    python experiments/insight4_experts.py
    python experiments/insight4_experts.py --quick

Two models of 405 B parameters (`synthetic/dense-405b`, and `synthetic/moe-405b`: 16 experts, 2 per
token, 56 B active) on H100 hosts: prefill at TP8; decode on 8 to 128 devices, dense by TP8, TP16,
..., the mixture by the reference's family, attention TP8DPk and FFN TP8EPk (16 devices: its
TP8DP2-TP8EP2); the same with tokens ever less evenly spread over experts; and when expert
parallelism pays at all, against the best layout without it.

Assumptions: 2,000 tokens in, 150 out (the reference gives none for these models), FP8, every slot
taken, no queueing; the models are ours, solved from their size. SGLang's operator tables: its
kernels take the same time for any distribution of the same tokens per device, as they must where
weights are read anyway. TensorRT-LLM's on H100 do not (TP8, 192 tokens: 646 us balanced, 374 us
skewed), so that its sweep of imbalance would show the tables' tuning; its figures are given beside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import insight
import polars as pl
from insight import Check, Insight

from planner import figures
from planner.evaluated import evaluate
from planner.fronts import configurations
from planner.query import Query

CLAIM = (
    "Expert parallelism makes mixtures of experts scale: of equal parameters, a mixture on "
    "TP8DP2-TP8EP2 is ahead of a dense model on TP16, in prefill at TP8 and in decode, and the "
    "more so the more devices decode."
)

DENSE, MIXTURE = "synthetic/dense-405b", "synthetic/moe-405b"
DEVICE = "h100_sxm"
FAST_NIC = Path(__file__).parent / "devices" / "h100_fast_nic.yaml"
SIZES = (8, 16, 32, 64, 128)
TTIT_MS = (15, 20, 25, 30, 40, 50, 70, 100)
SHOWN_MS = (20, 30, 50, 100)
EXPONENTS = (0.0, 0.3, 0.6, 0.9, 1.2)
REDUNDANT = {
    "distribution": "power_law",
    "exponent": 1.2,
    "placement": "balanced",
    "redundant_experts": 16,
}
HALF = 0.5


def query(model: str, devices: Sequence[str], engine: str = "sglang", routing: Any = None) -> Query:
    """Both phases of a model, disaggregated, at the loosest target."""
    document: dict[str, Any] = {
        "model": model,
        "workload": {"qps": 1, "input_tokens": 2000, "output_tokens": 150},
        "slo": {"ttit": f"{TTIT_MS[-1]}ms"},
        "devices": [{"name": name, "usd_per_device_hour": 10} for name in devices],
        "runtime": "disaggregated",
        "engine": engine,
        "precision": {"weights": "fp8", "kv": "fp8"},
        "search": {"max_replica_devices": SIZES[-1]},
    }
    return Query.model_validate(document | ({"routing": routing} if routing else {}))


def power_law(exponent: float) -> dict[str, Any]:
    """A query's routing: popularity falls as a power of the rank, experts placed as they come."""
    if exponent == 0.0:
        return {"distribution": "uniform"}
    return {"distribution": "power_law", "exponent": exponent}


def found(*arguments: Any, **more: Any) -> pl.DataFrame:
    """All feasible configurations."""
    return configurations(evaluate(query(*arguments, **more)))


def most(frame: pl.DataFrame, *conditions: pl.Expr, ttit_ms: float | None = None) -> float | None:
    """The largest requests/s per device; None where nothing meets the conditions."""
    if ttit_ms is not None:
        conditions = (*conditions, pl.col("role") == "decode", pl.col("ttit_s") <= ttit_ms / 1e3)
    value = frame.filter(*conditions)["qps_per_device"].max()
    return None if value is None else float(value)  # type: ignore[arg-type]


def degrees(**values: int) -> pl.Expr:
    """Layouts of these degrees."""
    return pl.all_horizontal(pl.col(name) == value for name, value in values.items())


def dense_on(devices: int) -> pl.Expr:
    """Tensor parallelism over all devices."""
    return degrees(tp_a=devices, tp_f=devices, pp=1)


def mixture_on(devices: int) -> pl.Expr:
    """The reference's family: TP8 in a host, data and expert parallelism over hosts."""
    hosts = devices // 8
    return degrees(tp_a=8, dp_a=hosts, tp_f=8, ep_f=hosts, cp_a=1, pp=1)


def ratio(a: float | None, b: float | None) -> float | None:
    """One over the other, where both exist."""
    return a / b if a is not None and b is not None else None


def expert_gain(
    frame: pl.DataFrame, ttit_ms: float, without: pl.DataFrame | None = None
) -> float | None:
    """The best layout with expert parallelism over the best without, per device.

    The latter are another search's, where the first's expert copies would only cost them memory.
    """
    with_ep = most(frame, pl.col("ep_f") > 1, ttit_ms=ttit_ms)
    alone = frame if without is None else without
    return ratio(with_ep, most(alone, pl.col("ep_f") == 1, ttit_ms=ttit_ms))


def busiest(exponent: float, experts: int = 16) -> float:
    """Tokens of the busiest expert over the mean."""
    return experts / sum(math.pow(rank, -exponent) for rank in range(1, experts + 1))


def scaling_rows(dense: pl.DataFrame, mixture: pl.DataFrame) -> list[dict[str, Any]]:
    """Requests/s per device of both families, by target and devices."""
    rows = []
    for ttit_ms in TTIT_MS:
        for devices in SIZES:
            a = most(dense, dense_on(devices), ttit_ms=ttit_ms)
            b = most(mixture, mixture_on(devices), ttit_ms=ttit_ms)
            rows.append(
                {"TTIT ms": ttit_ms, "devices": devices, "dense": a, "mixture": b}
                | {"mixture/dense": ratio(b, a)}
            )
    return rows


def kept(rows: Sequence[dict[str, Any]], model: str, ttit_ms: float) -> float | None:
    """Per-device rate on the most devices over that on the fewest."""
    own = {row["devices"]: row[model] for row in rows if row["TTIT ms"] == ttit_ms}
    return ratio(own[SIZES[-1]], own[SIZES[0]])


def leads(rows: Sequence[dict[str, Any]], ttit_ms: float) -> tuple[float | None, float | None]:
    """The mixture's lead on the fewest devices and on the most, where either may be replicas.

    Each then takes replicas of as many devices as serve most per device.
    """
    own = [row for row in rows if row["TTIT ms"] == ttit_ms]

    def best(model: str, devices: int) -> float | None:
        rates = [row[model] for row in own if row["devices"] <= devices and row[model] is not None]
        return max(rates, default=None)

    few, many = (ratio(best("mixture", n), best("dense", n)) for n in (SIZES[0], SIZES[-1]))
    return few, many


def prefill_rows(dense: pl.DataFrame, mixture: pl.DataFrame) -> list[dict[str, Any]]:
    """Prompts on one host of eight: dense TP8, the mixture's experts by TP8 or EP8."""
    eight = pl.col("role") == "prefill", degrees(tp_a=8, cp_a=1, dp_a=1, pp=1)
    rows = []
    for name, frame, ffn in (
        ("dense", dense, degrees(tp_f=8)),
        ("mixture, experts TP8", mixture, degrees(tp_f=8, ep_f=1)),
        ("mixture, experts EP8", mixture, degrees(tp_f=1, ep_f=8)),
    ):
        own = frame.filter(*eight, ffn)
        rows.append(
            {
                "model": name,
                "one prompt, ms": 1e3 * float(own["ttft_s"].min()),  # type: ignore[arg-type]
                "QPS of 8": 8 * float(own["qps_per_device"].max()),  # type: ignore[arg-type]
            }
        )
    return rows


def chart(scaling: Sequence[dict[str, Any]], gains: Sequence[dict[str, Any]]) -> Any:
    """Scaling of decode, and the gain of expert parallelism over imbalance."""
    import altair as alt

    lines = [
        {
            "devices": row["devices"],
            "qps": row[model],
            "model": model,
            "TTIT": f"{row['TTIT ms']} ms",
        }
        for row in scaling
        for model in ("dense", "mixture")
        if row["TTIT ms"] in SHOWN_MS and row[model] is not None
    ]
    x = alt.X("devices:Q", scale=alt.Scale(type="log", base=2), axis=alt.Axis(values=list(SIZES)))
    left = (
        alt.Chart(figures.data(lines))
        .mark_line(point=True)
        .encode(
            x=x,
            y=alt.Y(
                "qps:Q",
                scale=alt.Scale(type="log", domain=[0.05, 20]),
                title="decode, requests/s per device",
                axis=alt.Axis(format="~g"),
            ),
            color=alt.Color("model:N", scale=figures.colours(["dense", "mixture"]), title=None),
            strokeDash=alt.StrokeDash("TTIT:N", sort=[f"{t} ms" for t in SHOWN_MS]),
        )
        .properties(width=330, height=280, title="dense TP-n, mixture TP8DPk-TP8EPk")
    )
    names = [f"{t} ms" for t in SHOWN_MS]
    points = [
        {"exponent": row["exponent"], "gain": row[name], "TTIT": name}
        for row in gains
        for name in names
        if row[name] is not None and row["exponent"] is not None
    ]
    right = (
        alt.Chart(figures.data(points))
        .mark_line(point=True)
        .encode(
            x=alt.X("exponent:Q", title="popularity of experts falls as rank to this power"),
            y=alt.Y("gain:Q", title="best with EP / best without, per device"),
            color=alt.Color("TTIT:N", scale=figures.colours(names), sort=names),
        )
        .properties(width=330, height=280, title="gain of expert parallelism under imbalance")
    )
    one = alt.Chart(figures.data([{"y": 1.0}])).mark_rule(color="#555555").encode(y="y:Q")
    whole = alt.hconcat(left, right + one).resolve_scale(
        color="independent", strokeDash="independent"
    )
    return figures.titled(
        whole,
        "405 B parameters, dense and as a mixture of experts, on H100",
        ["FP8, 2,000 tokens in and 150 out, SGLang's operator tables."],
    )


def main() -> None:
    """Judge the claim and show the numbers."""
    given = insight.options(__doc__)
    exponents = EXPONENTS[::4] if given.quick else EXPONENTS
    dense = found(DENSE, [DEVICE])
    mixtures = {e: found(MIXTURE, [DEVICE], routing=power_law(e)) for e in exponents}
    even = mixtures[0.0]
    scaling = scaling_rows(dense, even)
    prompts = prefill_rows(dense, even)
    gains: list[dict[str, Any]] = [
        {"tokens over experts": f"power {e:g}", "exponent": e}
        | {f"{t} ms": expert_gain(frame, t) for t in TTIT_MS}
        for e, frame in mixtures.items()
    ]
    others: dict[str, pl.DataFrame] = {}
    if not given.quick:
        others["power 1.2, 16 copies, balanced"] = found(MIXTURE, [DEVICE], routing=REDUNDANT)
        others["even, NIC of 400 GB/s"] = found(MIXTURE, [str(FAST_NIC)], routing=power_law(0.0))
        others["even, H200"] = found(MIXTURE, ["h200_sxm"], routing=power_law(0.0))
        for name in ("balanced", "power_law_1.01", "power_law_1.2"):
            others[f"TensorRT-LLM, {name}"] = found(MIXTURE, [DEVICE], "trtllm", name)
    gains += [
        {"tokens over experts": name, "exponent": None}
        | {
            f"{t} ms": expert_gain(frame, t, mixtures[1.2] if "copies" in name else None)
            for t in TTIT_MS
        }
        for name, frame in others.items()
    ]
    named = {f"power {e:g}": frame for e, frame in mixtures.items()} | others
    families = [
        {"tokens over experts": name}
        | {f"{n}": most(frame, mixture_on(n), ttit_ms=50) for n in SIZES}
        | {f"{n} at 20 ms": most(frame, mixture_on(n), ttit_ms=20) for n in SIZES[::4]}
        for name, frame in named.items()
    ]

    faster = prompts[1]["QPS of 8"] / prompts[0]["QPS of 8"]
    pair = [row for row in scaling if row["devices"] == 16 and row["mixture"] is not None]
    ahead = [row["mixture/dense"] for row in pair if row["mixture/dense"] is not None]
    alone = [f"{row['TTIT ms']} ms" for row in pair if row["dense"] is None]
    held = {t: kept(scaling, "mixture", t) for t in SHOWN_MS}
    lost = {t: kept(scaling, "dense", t) for t in SHOWN_MS}
    lead = {t: leads(scaling, t) for t in SHOWN_MS}
    at_even = {t: expert_gain(even, t) for t in TTIT_MS}
    skewed = {t: expert_gain(mixtures[EXPONENTS[-1]], t) for t in TTIT_MS}

    def listed(values: dict[int, float | None]) -> str:
        return ", ".join(f"{t} ms {insight.cell(v)}" for t, v in values.items())

    checks = [
        Check(
            "prefill at TP8: the mixture serves at least twice the dense model's requests",
            f"{faster:.2f}x (7.2 times fewer active parameters)",
            faster >= 2.0,
        ),
        Check(
            "decode on 16 devices: TP8DP2-TP8EP2 ahead of dense TP16 at every target",
            f"{insight.spread(ahead)}x; at {' and '.join(alone) or 'no target'} the dense model "
            "serves nothing",
            all(value > 1.0 for value in ahead),
        ),
        Check(
            "the mixture keeps at least half of its rate per device from 8 to 128",
            listed(held),
            all(v is not None and v >= HALF for v in held.values()),
        ),
        Check(
            "the dense model keeps less than half",
            listed(lost) + " (dash: it serves nothing on 8 or on 128)",
            all(v is None or v < HALF for v in lost.values()),
        ),
        Check(
            "the mixture's lead grows by a tenth or more from 8 to 128 devices, where either model "
            "may also be replicas on fewer devices",
            ", ".join(
                f"{t} ms {insight.cell(few)} to {insight.cell(many)}"
                for t, (few, many) in lead.items()
            ),
            all(few is None or (many or 0.0) >= 1.1 * few for few, many in lead.values()),
        ),
        Check(
            "tokens even: expert parallelism beats the best layout without it, per device",
            listed(at_even),
            all(v is not None and v > 1.0 for v in at_even.values()),
        ),
        Check(
            f"tokens by a power of {EXPONENTS[-1]:g} (the busiest expert has "
            f"{busiest(EXPONENTS[-1]):.1f} times the mean): still",
            listed(skewed),
            all(v is not None and v > 1.0 for v in skewed.values()),
        ),
    ]
    for name in (n for n in others if n.startswith("TensorRT-LLM")):
        own = {t: expert_gain(others[name], t) for t in TTIT_MS}
        checks.append(Check(f"{name}: the same", listed(own), None))
    shown = [row for row in scaling if row["TTIT ms"] in SHOWN_MS]
    tables = {
        "Prefill on 8 devices": prompts,
        "Decode, requests/s per device, tokens even": shown,
        "Best layout with expert parallelism over best without, by target": [
            {k: v for k, v in row.items() if k != "exponent"} for row in gains
        ],
        "The reference's family by devices: requests/s per device at 50 ms": families,
    }
    numbers = {"prefill": prompts, "decode": scaling, "gain_of_ep": gains, "families": families}
    set_up = (
        "Two synthetic models of 405 B parameters, FP8, 2,000 in and 150 out, H100 hosts of 8.",
        "Decode: the most requests/s per device at a TTIT target, every slot taken, no queues.",
        "SGLang's operator tables; tokens over experts even, then by power laws (contiguous).",
    )
    outcome = Insight(
        "insight4_experts", CLAIM, set_up, checks, tables, chart(scaling, gains), numbers
    )
    insight.show(outcome, given.out)


if __name__ == "__main__":
    main()
