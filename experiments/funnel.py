"""The search funnel of one realistic query: from the raw space to the answer.

    python experiments/funnel.py                      # the README's query
    python experiments/funnel.py examples/data_augmentation_deepseek_v3.yaml

Every bar is in configurations of one replica in one phase: a layout of attention, FFN and pipeline,
with a batch and a chunk, of one role on one device. What is left forms fleets: one pool, or a
prefill and a decode pool, in any numbers on whole hosts.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import insight
from rich.console import Console

from planner import figures
from planner.evaluated import evaluate
from planner.funnel import funnel
from planner.query import load_query
from planner.solve import answer

EXAMPLES = Path(__file__).parents[1] / "examples"

NAMES = {
    "raw": "any powers of two, any batch and chunk",
    "equal worlds": "attention and FFN on the same devices",
    "pipeline stages": "a layer for every stage",
    "no independent replicas": "not several replicas as one",
    "attention heads": "heads divide among devices",
    "FFN columns": "FFN columns divide among devices",
    "experts": "experts divide among devices",
    "fits some device": "weights fit on some device",
    "whole hosts": "fits into whole hosts",
    "memory (one sequence)": "one sequence fits on this device",
    "SLO lower bound": "rooflines do not break the targets",
    "memory": "all sequences fit (estimated)",
    "SLO": "targets met (estimated)",
}
"""What each constraint of the search asks."""


def stages(path: Path) -> dict[str, Any]:
    """What each step left, and the answer."""
    found = evaluate(load_query(path))
    plan = answer(found)
    rows: list[dict[str, Any]] = []
    for name, count in funnel(found):
        if name == "evaluated":
            continue  # as many as before: their times are estimated here
        before = rows[-1]["left"] if rows else count
        rows.append({"step": NAMES.get(name, name), "left": count, "removed": before - count})
    fleets = len(found.served())
    rows.append({"step": "cheapest fleets by kind and devices", "left": fleets, "removed": None})
    rows.append({"step": "answer", "left": 1, "removed": fleets - 1})
    best = plan.best
    return {
        "query": path.name,
        "seconds": plan.search.seconds,
        "pairs": plan.search.pairs,
        "proven": plan.search.proven,
        "answer": f"{best.kind}, {best.usd_per_hour:,.2f} USD per hour",
        "stages": rows,
    }


def figure(found: dict[str, Any]) -> Any:
    """Bars on a logarithmic axis; grey where a constraint removed nothing."""
    import altair as alt

    rows = [
        {
            "step": row["step"],
            "left": row["left"],
            "shown": max(row["left"], 1.15),
            "count": f"{row['left']:,}",
            "kind": "removes nothing here" if row["removed"] == 0 and i else "left",
        }
        for i, row in enumerate(found["stages"])
    ]
    order = [row["step"] for row in rows]
    base = alt.Chart(figures.data(rows)).encode(
        y=alt.Y("step:N", sort=order, title=None, axis=alt.Axis(labelLimit=320)),
        x=alt.X(
            "shown:Q",
            scale=alt.Scale(type="log", domainMin=1, domainMax=rows[0]["left"] * 100),
            axis=alt.Axis(format="~s", tickCount=6, labelOverlap=True),
            title="configurations left",
        ),
    )
    colour = alt.Color(
        "kind:N",
        legend=None,
        scale=figures.colours(["left"], background=["removes nothing here"]),
    )
    bars = base.mark_bar().encode(x2=alt.X2Datum(1), color=colour)
    text = base.mark_text(align="left", dx=5, fontSize=11).encode(text="count:N")
    proven = "proven optimal" if found["proven"] else "not proven optimal"
    return figures.titled(
        (bars + text).properties(width=430, height=22 * len(rows)),
        "From every configuration to the answer",
        [
            f"{found['query']}: {found['answer']}, {proven}; grey: removes nothing here",
            f"the feasible stand for {found['pairs']:.1e} prefill x decode pairs, "
            f"weighed without visiting them",
        ],
    )


def main() -> None:
    """Solve, print, and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    default = EXAMPLES / "text_agent_llama3_70b.yaml"
    parser.add_argument("query", type=Path, nargs="?", default=default)
    parser.add_argument("--out", type=Path, default=insight.RESULTS)
    options = parser.parse_args()
    found = stages(options.query)
    console = Console(width=insight.WIDEST, highlight=False)
    console.print(
        f"{found['query']}: {found['answer']}; {found['pairs']:.2e} prefill x decode pairs; "
        f"{found['seconds']:.1f} s"
    )
    console.print(insight.table(found["stages"]))
    name = "funnel" if options.query == default else f"funnel_{options.query.stem}"
    figures.write_figure(figure(found), options.out / f"{name}.svg")
    (options.out / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
