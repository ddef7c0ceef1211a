"""How our estimates compare with published end-to-end figures, nothing fitted to them.

    python experiments/published_figures.py
    python experiments/published_figures.py --only DeepSeek

Estimates every configuration of `published_figures.yaml` as its source describes it, prints
ours beside theirs, and writes `results/published_figures.json` and `.svg`. A configuration
whose engine can run two half batches at once is estimated with and without.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from perfmodel import phases
from perfmodel.architecture import load_model
from perfmodel.breakdown import Breakdown, breakdown, mean_shares
from perfmodel.database import PerfStore
from perfmodel.documents import read_yaml
from perfmodel.engine import engine_profile
from perfmodel.hardware import load_device
from perfmodel.layout import Layouts, parse_layout
from perfmodel.operators import Operators
from perfmodel.precision import Precision
from perfmodel.step import StepModel
from perfmodel.traffic import Lengths, Traffic
from perfmodel.work import StepWork

FIGURES = Path(__file__).with_suffix(".yaml")
RESULTS = Path(__file__).parent / "results"
UNITS = {
    "prefill": "input tokens/s",
    "decode": "output tokens/s",
    "batch": "output tokens/s",
    "continuous": "output tokens/s",
    "latency": "s",
}
STORE = PerfStore()


@dataclass(frozen=True)
class Comparison:
    """One published figure and ours.

    Attributes:
        speed: ours over theirs, of speeds: above 1 we are faster, also where times are compared.
        without_overlap: ours with one batch at a time, where the engine could run two halves.
        batch: sequences or prompts per attention rank that ours is for.
        memory: share of the device's memory that this takes.
        kinds, bounds: shares of our time by how it is known, and what it is spent on.
        slowest: the operators that take most of it, with their shares.
    """

    configuration: str
    source: str
    unit: str
    devices: int
    isl: int
    osl: int
    batch: int
    theirs: float
    ours: float
    speed: float
    without_overlap: float | None
    memory: float
    kinds: dict[str, float]
    bounds: dict[str, float]
    slowest: dict[str, float]


@dataclass(frozen=True)
class Estimate:
    """A figure, the batch it is for, its memory in bytes, and the steps it is made of."""

    value: float
    batch: int
    memory_bytes: float
    steps: list[tuple[float, StepWork]]


@cache
def operators(device: str, engine: str) -> Operators:
    """Operator models, shared by all configurations of a device and engine."""
    return Operators(load_device(device), engine, STORE)


def step_model(entry: dict[str, Any], overlap: bool) -> StepModel:
    """The model, device, engine and number formats of a configuration."""
    device, weights = load_device(entry["device"]), entry["weights"]
    engine = engine_profile(entry["engine"])
    engine = replace(engine, splits_batches=engine.splits_batches and overlap)
    precision = Precision(
        weights,
        entry.get("ffn", weights),
        entry.get("experts", entry.get("ffn", weights)),
        entry.get("kv", "bf16"),
    )
    return StepModel(
        load_model(entry["model"]),
        device,
        engine,
        precision.on(device.peak_flops_per_s),
        operators(entry["device"], entry["engine"]),
        entry["routing"],
    )


def estimate(
    step: StepModel, layout: Layouts, entry: dict[str, Any], figure: dict[str, Any]
) -> Estimate:
    """Ours, in the unit of `entry["runs"]`, of the whole replica."""
    isl, osl, batch = figure["isl"], figure["osl"], figure["batch"]
    traffic = Traffic(Lengths.fixed(isl), Lengths.fixed(osl))
    prompts = StepWork.of(prefill_sequences=batch, prefill_tokens=isl)
    count = np.array([batch])
    runs = entry["runs"]
    if runs in ("prefill", "latency"):
        first = phases.prefill(step, layout, traffic, count)
        value = first.qps.item() * isl if runs == "prefill" else first.latency_s.item()
        return Estimate(value, batch, first.memory.total.item(), [(1.0, prompts)])
    drafts, acceptance = entry.get("drafts", 0), entry.get("acceptance", 0.0)
    if runs == "decode":
        rest = phases.decode(step, layout, traffic, count, drafts=drafts, acceptance=acceptance)
        work = StepWork.of(
            decode_sequences=batch,
            context_tokens=traffic.context_mean,
            decode_tokens=drafts + 1,
        )
        value = rest.slots.item() / rest.ttit_s.item()
        return Estimate(value, batch, rest.memory.total.item(), [(1.0, work)])
    decodes = StepWork.of(decode_sequences=batch, context_tokens=traffic.context_mean)
    if runs == "batch":
        first = phases.prefill(step, layout, traffic, count)
        rest = phases.decode(step, layout, traffic, count)
        seconds = first.latency_s.item() + (osl - 1) * rest.ttit_s.item()
        value = batch * int(layout.dp_a[0]) * osl / seconds
        memory = rest.memory.total.item()
        return Estimate(value, batch, memory, [(1.0, prompts), (osl - 1.0, decodes)])
    # As many as fit, in as many equal waves as all requests take.
    most = np.arange(1, batch + 1)
    chunk = np.full_like(most, step.engine.step_tokens)
    kept = phases.continuous(step, layout, traffic, most, chunk).memory.total[0]
    fits = int(np.count_nonzero(kept <= step.device.memory_bytes))
    if not fits:
        return Estimate(0.0, 0, float(kept[0]), [])
    ranks = int(layout.dp_a[0])
    requests = figure.get("requests")
    if requests:
        waves = -(-requests // (fits * ranks))
        fits = max(requests // (waves * ranks), 1)
    found = phases.continuous(step, layout, traffic, most[fits - 1 : fits], chunk[:1])
    mixed = phases.mixed_work(traffic, fits, step.engine.step_tokens)
    share = found.mixed_share.item()
    alone = StepWork.of(decode_sequences=fits, context_tokens=traffic.context_mean)
    steps = [(share, mixed), (1.0 - share, alone)]
    return Estimate(found.qps.item() * osl, fits, float(kept[fits - 1]), steps)


def compare(entry: dict[str, Any]) -> Iterator[Comparison]:
    """Every figure of a configuration."""
    layout = parse_layout(entry["layout"])
    devices = int(layout.world[0])
    overlap = entry.get("two_batch_overlap", True)
    step = step_model(entry, overlap)
    plain = step_model(entry, False)
    whole = entry["runs"] == "latency"
    scale = 1.0 if whole else entry.get("per", devices) / devices
    for figure in entry["figures"]:
        ours = estimate(step, layout, entry, figure)
        value, theirs = ours.value * scale, float(figure["theirs"])
        alone = None
        if step.engine.splits_batches and step.model.is_moe and not layout.aligned[0]:
            alone = estimate(plain, layout, entry, figure).value * scale
        parts = [(n, breakdown(step, layout, work)) for n, work in ours.steps if n]
        yield Comparison(
            configuration=entry["name"],
            source=entry["source"],
            unit=UNITS[entry["runs"]],
            devices=devices,
            isl=figure["isl"],
            osl=figure["osl"],
            batch=ours.batch,
            theirs=theirs,
            ours=value,
            speed=theirs / value if whole else value / theirs,
            without_overlap=alone,
            memory=ours.memory_bytes / step.device.memory_bytes,
            kinds=mean_shares(parts, "kind") if parts else {},
            bounds=mean_shares(parts, "bound") if parts else {},
            slowest=slowest(parts),
        )


def slowest(parts: list[tuple[float, Breakdown]]) -> dict[str, float]:
    """The four operators that take most of the time, and their shares of it."""
    totals: dict[str, float] = {}
    for count, part in parts:
        for op in part.operators:
            totals[op.name] = totals.get(op.name, 0.0) + count * op.total_s
    whole = sum(count * part.busy_s for count, part in parts)
    ordered = sorted(totals.items(), key=lambda item: -item[1])
    return {name: seconds / whole for name, seconds in ordered[:4]}


def show(found: list[Comparison], console: Console) -> None:
    """One line per figure, and one per configuration with several."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("configuration", "in/out", "batch", "theirs", "ours", "ours/theirs", "measured"):
        table.add_column(name, justify="left" if name == "configuration" else "right")
    for c in found:
        value = f"{c.ours:,.1f}" if c.unit == "s" else f"{c.ours:,.0f}"
        if c.without_overlap is not None:
            value += f" ({c.without_overlap:,.0f})"
        table.add_row(
            c.configuration,
            f"{c.isl:,}/{c.osl:,}",
            str(c.batch),
            f"{c.theirs:,.1f}" if c.unit == "s" else f"{c.theirs:,.0f}",
            value,
            f"{c.speed:.2f}" + (" does not fit" if c.memory > 1 else ""),
            f"{c.kinds.get('measured', 0.0):.0%}",
        )
    console.print(table)
    for name in dict.fromkeys(c.configuration for c in found):
        speeds = [c.speed for c in found if c.configuration == name and c.speed > 0]
        if len(speeds) > 1:
            low, middle, high = min(speeds), median(speeds), max(speeds)
            console.print(f"{name}: median {middle:.2f}, {low:.2f} to {high:.2f}")


def draw(found: list[Comparison], path: Path) -> None:
    """Ours over theirs, a row per configuration, a mark per figure."""
    import altair as alt

    from planner.figures import colours, data, titled, write_figure

    names = list(dict.fromkeys(c.configuration for c in found))
    rows = [
        {"configuration": c.configuration, "speed": c.speed, "measured": share_of(c)}
        for c in found
        if c.speed > 0
    ]
    known = ["mostly measured", "half measured", "hardly measured"]
    scale = alt.Scale(type="log", domain=[0.2, 5.0])
    marks = (
        alt.Chart(data(rows))
        .mark_circle(size=55, opacity=0.75, clip=True)
        .encode(
            x=alt.X("speed:Q", scale=scale, title="our speed over the published one"),
            y=alt.Y("configuration:N", sort=names, title=None, axis=alt.Axis(labelLimit=330)),
            color=alt.Color("measured:N", scale=colours(known), title="our time is"),
        )
    )
    one = alt.Chart(data([{"x": 1.0}])).mark_rule(color="#555555").encode(x="x:Q")
    chart = (one + marks).properties(width=480, height=20 * len(names))
    write_figure(titled(chart, "Ours against published figures"), path)


def share_of(c: Comparison) -> str:
    """How much of our time rests on measurements, in a word."""
    share = c.kinds.get("measured", 0.0)
    return (
        "mostly measured"
        if share > 0.75
        else "half measured"
        if share > 0.25
        else "hardly measured"
    )


def main() -> None:
    """Compare all configurations, or those whose name contains a word."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", default="", help="configurations whose name contains this")
    only = parser.parse_args().only
    document = read_yaml(FIGURES).data
    entries = [e for e in document["configurations"] if only.lower() in e["name"].lower()]
    found = [c for entry in entries for c in compare(entry)]
    show(found, Console(width=150))
    if only:
        return
    results = {"sources": document["sources"], "figures": [asdict(c) for c in found]}
    path = RESULTS / "published_figures.json"
    path.write_text(json.dumps(results, indent=1, default=str) + "\n")
    draw(found, RESULTS / "published_figures.svg")


if __name__ == "__main__":
    main()
