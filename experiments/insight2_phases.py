"""Insight 2: each phase wants its own parallelism.

    python experiments/insight2_phases.py

Claim: prefill adopts pipeline parallelism with little tensor parallelism, decode tensor parallelism
and no pipeline; one layout for both costs throughput. Of two layouts of 8 devices, prefill under
TP4PP2 answers sooner than under TP2PP4 and serves about 20 % fewer requests (told second-hand).

Set-up: as insight 1 (Llama-3.1 70B and 405B, 2,000 tokens in and 150 out, layouts to 64 devices),
in FP8 and in bf16, since the reference does not say which. Pools are those of a large fleet: fully
loaded, devices of the two phases matched. As TTIT moves, TTFT stays at 500 ms (means, of the steps
and of what the engine adds to any request).

Assumed: context parallelism spreads a prompt's attention as the estimator has it, which is up to
1.6 times too fast where it was measured (published_figures.py); so prefill without it is shown too.
MI300X is analytic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import insight
import numpy as np
import polars as pl
from insight import Check, Insight
from llama_queries import DEVICES, INPUT, NEVER, OUTPUT, query, searched
from numpy.typing import NDArray

from planner import figures
from planner.by_layout import by_layout
from planner.candidates import Candidates
from planner.evaluated import Evaluated
from planner.fronts import configurations
from planner.rates import matched_qps

SETTINGS = [
    (size, device, weights)
    for size in ("70B", "405B")
    for weights in ("fp8", "bf16")
    for device in DEVICES
]
TTFT_MS = (350, 500, 1000, 2000, 5000)
TTIT_MS = (15, 20, 30, 40, 60, 100, 300)
TIGHT_MS = 40
"""Of a person who reads along."""

LEAST_LOSS = 0.05
FEWER = (0.1, 0.3)
"""About 20 %."""

ON_EIGHT = ((1, 8), (2, 4), (4, 2), (8, 1))
"""Tensor and pipeline parallelism."""


def no_context_parallelism(one: Candidates) -> NDArray[np.bool_]:
    """Whose prompts are not split."""
    return np.asarray((one.layouts.cp_a == 1)[one.layout])


def best(rows: pl.DataFrame, role: str) -> dict[str, Any] | None:
    """The layout that serves most in one phase; of equal ones that of the fewest devices."""
    rate = f"{role}_qps_per_device"
    found = rows.drop_nulls(rate).with_columns(
        devices=pl.col("pp") * pl.col("tp_a") * pl.col("cp_a") * pl.col("dp_a")
    )
    equal = found.filter(pl.col(rate) >= pl.col(rate).max() * (1.0 - 1e-6)).sort("devices")
    return equal.row(0, named=True) if len(equal) else None


def brief(row: dict[str, Any]) -> str:
    """Attention's degrees and the pipeline's, those of 1 left out but TP's."""
    others = "".join(
        f"{name}{row[degree]}"
        for name, degree in (("CP", "cp_a"), ("DP", "dp_a"))
        if row[degree] > 1
    )
    pipeline = f" PP{row['pp']}" if row["pp"] > 1 else ""
    return f"TP{row['tp_a']}{others}{pipeline}"


def percent(share: float) -> str:
    """With its sign, and none where it rounds to zero."""
    return f"{share:+.0%}" if abs(share) >= 0.005 else "0%"


def prefill_choices(found: Evaluated, setting: tuple[str, str, str]) -> list[dict[str, Any]]:
    """The prefill layout by TTFT target, and the best one that splits no prompt."""
    size, device, weights = setting
    rows = []
    for target in (*TTFT_MS, None):
        seconds = target / 1e3 if target else NEVER
        narrowed = found.under(query(size, device, ttft=seconds, ttit=NEVER, weights=weights))
        chosen = best(by_layout(narrowed), "prefill")
        plain = best(by_layout(narrowed.where(no_context_parallelism)), "prefill")
        rows.append(
            {
                "ttft_ms": target,
                **({"layout": None} if chosen is None else _chosen(chosen, "prefill", "ttft_s")),
                "without_cp": None if plain is None else _chosen(plain, "prefill", "ttft_s"),
            }
        )
    return rows


def decode_choices(found: Evaluated, setting: tuple[str, str, str]) -> list[dict[str, Any]]:
    """The decode layout by TTIT target, and what is lost where prefill must share a layout."""
    size, device, weights = setting
    rows = []
    for target in (*TTIT_MS, None):
        asked: dict[str, Any] = {"ttft": NEVER, "ttit": NEVER}
        if target:
            asked = {"ttit": target / 1e3}
        layouts = by_layout(found.under(query(size, device, weights=weights, **asked)))
        chosen, first = best(layouts, "decode"), best(layouts, "prefill")
        row: dict[str, Any] = {"ttit_ms": target, "layout": None, "loss": None}
        if chosen is not None:
            row |= _chosen(chosen, "decode", "ttit_s")
        shared = layouts.drop_nulls("qps_per_device")
        if chosen is not None and first is not None and len(shared):
            apart = matched_qps(first["prefill_qps_per_device"], chosen["decode_qps_per_device"])
            row["shared"] = shared["layout"][0]
            row["loss"] = 1.0 - shared["qps_per_device"][0] / float(apart)
        rows.append(row)
    return rows


def _chosen(row: dict[str, Any], role: str, latency: str) -> dict[str, Any]:
    return {
        "layout": brief(row),
        "whole_layout": row["layout"],
        "tp": row["tp_a"],
        "cp": row["cp_a"],
        "pp": row["pp"],
        "batch": row[f"{role}_batch"],
        "qps_per_device": row[f"{role}_qps_per_device"],
        "latency_ms": row[latency] * 1e3,
        "devices": row["devices"],
    }


def on_eight(found: Evaluated) -> list[dict[str, Any]]:
    """A prefill replica of 8 devices that takes prompts one by one, by its layout."""
    prefill = configurations(found).filter(
        (pl.col("role") == "prefill") & (pl.col("devices") == 8) & (pl.col("batch") == 1)
    )
    rows = []
    for tp, pp in ON_EIGHT:
        one = prefill.filter((pl.col("pp") == pp) & (pl.col("tp_a") == tp) & (pl.col("tp_f") == tp))
        if len(one):
            qps, latency = one.select("qps", "ttft_s").row(0)
            rows.append({"layout": f"TP{tp}PP{pp}", "qps": qps, "latency_ms": latency * 1e3})
    return rows


def compared(rows: Sequence[dict[str, Any]]) -> tuple[float, float] | None:
    """Requests/s and latency under TP4PP2, as shares of those under TP2PP4."""
    by_name = {row["layout"]: row for row in rows}
    if not {"TP4PP2", "TP2PP4"} <= set(by_name):
        return None
    more, fewer = by_name["TP4PP2"], by_name["TP2PP4"]
    return more["qps"] / fewer["qps"], more["latency_ms"] / fewer["latency_ms"]


def checks(found: Sequence[dict[str, Any]]) -> list[Check]:
    """The claim's parts, over all settings and targets."""
    prefill = [row for one in found for row in one["prefill"] if row["layout"]]
    plain = [row["without_cp"] for row in prefill if row["without_cp"]]
    split = [row for row in prefill if row["devices"] > 1]
    tight = [
        row
        for one in found
        for row in one["decode"]
        if row["layout"] and row["ttit_ms"] and row["ttit_ms"] <= TIGHT_MS
    ]
    loose = [row for one in found for row in one["decode"] if row["layout"] and not row["ttit_ms"]]
    online = {
        one["setting"]: row["loss"]
        for one in found
        for row in one["decode"]
        if row["ttit_ms"] == TIGHT_MS and row["loss"] is not None
    }
    none = [name for name, loss in online.items() if loss < LEAST_LOSS]
    offline = [row["loss"] for one in found for row in one["decode"] if not row["ttit_ms"]]

    def share(part: Sequence[Any], rows: Sequence[Any]) -> str:
        return f"{len(part)} of {len(rows)}"

    piped = [row for row in split if row["pp"] > 1]
    little = [row for row in prefill if row["tp"] <= 2]
    plain_little = [row for row in plain if row["tp"] <= 2]
    unpiped = [row for row in tight if row["pp"] == 1]
    result = [
        Check(
            "prefill: pipelines wherever more than one device is chosen, nine times in ten",
            share(piped, split),
            len(piped) >= 0.9 * len(split),
        ),
        Check(
            "prefill: tensor parallelism of 2 at most, nine times in ten",
            f"{share(little, prefill)}; without context parallelism {share(plain_little, plain)}",
            len(little) >= 0.9 * len(prefill),
        ),
        Check(
            f"decode: no pipeline at TTIT of {TIGHT_MS} ms or less, nine times in ten",
            f"{share(unpiped, tight)}; without targets "
            f"{share([row for row in loose if row['pp'] == 1], loose)}",
            len(unpiped) >= 0.9 * len(tight),
        ),
        Check(
            f"one layout for both costs {LEAST_LOSS:.0%} or more at TTIT {TIGHT_MS} ms, everywhere",
            f"{min(online.values()):.0%} to {max(online.values()):.0%}; less: "
            f"{', '.join(none) or 'nowhere'}",
            not none,
        ),
        Check(
            "the same without targets",
            f"{min(offline):.0%} to {max(offline):.0%}",
            None,
        ),
    ]
    measured, analytic = ("H100", "H200"), ("MI300X",)
    for what, size, devices, judged in (
        ("70B on H100 and H200", "70B", measured, True),
        ("70B on MI300X (analytic)", "70B", analytic, True),
        ("405B on H100 and H200", "405B", measured, False),
    ):
        pairs = [
            pair
            for one in found
            if one["device"] in devices and one["model"] == size
            if (pair := compared(one["on_eight"])) is not None
        ]
        if not pairs:
            continue
        fewer, latency = [1.0 - qps for qps, _ in pairs], [latency for _, latency in pairs]
        holds = all(FEWER[0] <= f <= FEWER[1] for f in fewer) and max(latency) < 1.0
        result.append(
            Check(
                f"TP4PP2 serves {FEWER[0]:.0%} to {FEWER[1]:.0%} fewer prompts than TP2PP4, and "
                f"sooner: {what}",
                f"{min(fewer):.0%} to {max(fewer):.0%} fewer, in {min(latency):.2f} to "
                f"{max(latency):.2f} of the time",
                holds if judged else None,
            )
        )
    return result


def tables(found: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Layouts by target, losses, and the layouts of 8 devices."""

    def named(target: int | None) -> str:
        return f"{target:,} ms" if target else "none"

    def grid(phase: str, target: str, what: str) -> list[dict[str, Any]]:
        return [
            {"setting": one["setting"]}
            | {named(row[target]): row[what] or "-" for row in one[phase]}
            for one in found
        ]

    losses = [
        {"setting": one["setting"]}
        | {
            named(row["ttit_ms"]): "-" if row["loss"] is None else f"{row['loss']:.0%}"
            for row in one["decode"]
        }
        for one in found
    ]
    plain = [
        {"setting": one["setting"]}
        | {
            named(row["ttft_ms"]): "-"
            if not row["without_cp"]
            else f"{row['without_cp']['layout']} "
            f"{percent(row['without_cp']['qps_per_device'] / row['qps_per_device'] - 1.0)}"
            for row in one["prefill"]
        }
        for one in found
    ]
    eight = []
    for one in found:
        row = {"setting": one["setting"]}
        for layout in one["on_eight"]:
            row[layout["layout"]] = f"{layout['qps']:.1f}, {layout['latency_ms']:.0f}"
        pair = compared(one["on_eight"])
        if pair is not None and len(row) == 1 + len(ON_EIGHT):
            row["beside"] = f"{percent(pair[0] - 1.0)}, {percent(pair[1] - 1.0)}"
            eight.append(row)
    return {
        "Prefill layout by TTFT target (attention's degrees)": grid("prefill", "ttft_ms", "layout"),
        "The same without context parallelism, and its rate beside the best": plain,
        "Decode layout by TTIT target (none: no TTFT target either)": grid(
            "decode", "ttit_ms", "layout"
        ),
        "Loss of throughput where both phases share one layout, by TTIT target": losses,
        "Prefill on 8 devices, one prompt at a time: requests/s and latency in ms (and TP4PP2's "
        "beside TP2PP4's)": eight,
    }


def figure(found: Sequence[dict[str, Any]]) -> Any:
    """Chosen layouts, losses, and the layouts of 8 devices."""
    import altair as alt

    settings = [one["setting"] for one in found]

    def tiles(phase: str, target: str, title: str) -> Any:
        flat = [
            {
                "setting": one["setting"],
                "target": f"{row[target]:,}" if row[target] else "none",
                "layout": row["layout"] or "",
                "pp": row["pp"] if row["layout"] else None,
            }
            for one in found
            for row in one[phase]
        ]
        order = list(dict.fromkeys(row["target"] for row in flat))
        base = alt.Chart(figures.data(flat)).encode(
            x=alt.X("target:N", sort=order, title=title, axis=alt.Axis(grid=False, labelAngle=0)),
            y=alt.Y("setting:N", sort=settings, title=None, axis=alt.Axis(grid=False)),
        )
        scale = alt.Scale(type="log", domain=[1, 32], range=["#f3f6fa", "#2f6fad"])
        return (
            base.mark_rect().encode(color=alt.Color("pp:Q", scale=scale, title="PP"))
            + base.mark_text(fontSize=8).encode(text="layout:N")
        ).properties(width=88 * len(order), height=20 * len(settings))

    losses = [
        {"setting": one["setting"], "ttit": row["ttit_ms"], "loss": row["loss"]}
        for one in found
        for row in one["decode"]
        if row["ttit_ms"] and row["loss"] is not None and one["weights"] == "fp8"
    ]
    names = list(dict.fromkeys(row["setting"] for row in losses))
    logarithmic = alt.Scale(type="log", domain=[TTIT_MS[0], TTIT_MS[-1]], nice=False)
    lost = (
        alt.Chart(figures.data(losses))
        .mark_line(point=True)
        .encode(
            x=alt.X("ttit:Q", scale=logarithmic, title="TTIT target, ms"),
            y=alt.Y("loss:Q", axis=alt.Axis(format="%"), title="lost by one layout for both"),
            color=alt.Color("setting:N", scale=figures.colours(names), sort=names, title=None),
        )
        .properties(width=300, height=230)
    )
    points = [
        {"setting": one["setting"], **row}
        for one in found
        if one["model"] == "70B" and one["weights"] == "fp8"
        for row in one["on_eight"]
    ]
    own = list(dict.fromkeys(row["setting"] for row in points))
    base = alt.Chart(figures.data(points)).encode(
        x=alt.X("latency_ms:Q", title="latency of a prompt, ms"),
        y=alt.Y("qps:Q", title="prompts/s of 8 devices"),
        color=alt.Color("setting:N", scale=figures.colours(own), sort=own, title=None),
    )
    text = base.mark_text(dy=-8, fontSize=8).encode(text="layout:N")
    eight = (base.mark_line(point=True) + text).properties(width=360, height=230)
    lower = alt.hconcat(lost, eight).resolve_scale(color="independent")
    chosen = alt.vconcat(
        tiles("prefill", "ttft_ms", "prefill by TTFT target, ms"),
        tiles("decode", "ttit_ms", "decode by TTIT target, ms"),
    )
    return figures.titled(
        alt.vconcat(chosen, lower).resolve_scale(color="independent"),
        "Layouts that serve most, by phase and target",
        [f"{INPUT:,} tokens in, {OUTPUT} out; the darker, the more pipeline stages"],
    )


def main() -> None:
    """Run the experiment."""
    options = insight.options(__doc__)
    found = []
    for setting in SETTINGS[:2] if options.quick else SETTINGS:
        size, device, weights = setting
        evaluated = searched(size, device, weights=weights)
        found.append(
            {
                "setting": f"{size} {weights} {device}",
                "model": size,
                "device": device,
                "weights": weights,
                "prefill": prefill_choices(evaluated, setting),
                "decode": decode_choices(evaluated, setting),
                "on_eight": on_eight(evaluated),
            }
        )
    outcome = Insight(
        name="insight2_phases",
        claim="prefill wants pipelines and little tensor parallelism, decode tensor parallelism "
        "and no pipeline; sharing one layout costs throughput; prefill of 70B under TP4PP2 answers "
        "sooner than under TP2PP4 and serves about 20 % less.",
        set_up=[
            f"Llama-3.1 70B and 405B, {INPUT:,} tokens in and {OUTPUT} out, layouts to 64 devices, "
            "pools of a large fleet; TTFT 500 ms and TTIT 40 ms (means) where not said otherwise.",
            "Lengths, targets and precision are ours: the reference gives none. MI300X is "
            "analytic.",
        ],
        checks=checks(found),
        tables=tables(found),
        chart=figure(found),
        numbers={"settings": found},
    )
    insight.show(outcome, options.out)


if __name__ == "__main__":
    main()
