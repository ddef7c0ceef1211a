"""How large a space the exhaustive search proves its optimum over, and what that costs.

    python experiments/bench_sweep.py
    python experiments/bench_sweep.py --model Qwen/Qwen3-235B-A22B --no-scaling

One model, seven devices, both runtimes, a layout per module to 256 devices. Each run is a
process of its own, so that it loads its tables and its peak memory is its own; figures are
medians of three. Bars: at least 1,000,000 feasible configurations, more than 1e10
prefill x decode pairs, at most 10 s and 2 GB on two cores, and a cost that grows at most
linearly with the size of the space.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
MODEL = "deepseek-ai/DeepSeek-V3"
DEVICES = ("b200_sxm", "h100_sxm", "h200_sxm", "gb200_nvl72", "a100_sxm", "mi300x", "l40s")
REPEATS = 3

BARS = {"feasible": 1_000_000, "pairs": 1e10, "wall_s": 10.0, "peak_bytes": 2e9, "slope": 1.0}

SCALING = [(1, 8), (1, 16), (1, 32), (1, 64), (1, 256), (3, 64), (3, 256), (7, 128), (7, 256)]
"""How many of the devices, and the largest replica: spaces of 1e4 to 1e7 configurations."""

STAGES = (
    # Of nested ones, each counts only the time that the inner ones do not.
    ("enumeration", "planner.sweep", "Space.__init__"),
    ("table loading", "perfmodel.operators.base", "OperatorModel._load"),
    ("step times", "perfmodel.step", "StepModel.time"),
    ("memory", "perfmodel.phases", "replica_memory"),
    ("layout constraints", "planner.sweep", "Space.feasible_layouts"),
    ("masks", "planner.sweep", "Space.evaluate"),
    ("dominance", "planner.pairing", "reduce_decode"),
    ("sizing", "planner.sizing", "replicas_for_ttft"),
    ("sizing", "planner.pairing", "_size_decode"),
    ("pairing", "planner.evaluated", "_served"),
    ("assessing", "planner.solve", "assess"),
)


class Stopwatch:
    """Time by stage, each second counted once: in the innermost stage that is running."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._running: list[str] = []
        self._since = time.perf_counter()

    def _turn(self) -> None:
        now = time.perf_counter()
        stage = self._running[-1] if self._running else "rest"
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._since
        self._since = now

    def timed(self, stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time counted as the stage's."""

        def run(*args: Any, **kwargs: Any) -> Any:
            self._turn()
            self._running.append(stage)
            try:
                return call(*args, **kwargs)
            finally:
                self._turn()
                self._running.pop()

        return run

    def attach(self) -> None:
        """Time the stages of this process from now on."""
        import importlib

        for stage, module, name in STAGES:
            owner: Any = importlib.import_module(module)
            *path, last = name.split(".")
            for part in path:
                owner = getattr(owner, part)
            setattr(owner, last, self.timed(stage, getattr(owner, last)))
        self._since = time.perf_counter()


def one(fields: dict[str, Any]) -> dict[str, Any]:
    """Solve a query in this process and say what it took."""
    from planner.query import Query
    from planner.solve import solve

    query = Query.model_validate(fields)
    watch = Stopwatch()
    watch.attach()
    wall, cpu = time.perf_counter(), time.process_time()
    plan = solve(query)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    search = plan.search
    raw: dict[str, int] = {}
    for funnel in search.funnels:
        raw[funnel.role] = raw.get(funnel.role, 0) + dict(funnel.stages)["raw"]
    return {
        "raw": sum(raw.values()),
        "raw_pairs": raw["prefill"] * raw["decode"],
        "evaluated": search.evaluated,
        "feasible": search.feasible,
        "pairs": search.pairs,
        "proven": search.proven,
        "best": f"{plan.best.kind}, {plan.best.usd_per_hour:,.2f} USD per hour",
        "wall_s": wall,
        "cpu_s": cpu,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "stages_s": watch.seconds,
    }


def query_fields(model: str, devices: int, max_replica_devices: int) -> dict[str, Any]:
    """The query, on the first so many devices."""
    return {
        "model": model,
        "workload": {"qps": 200, "input_tokens": 4000, "output_tokens": 1000},
        "slo": {"ttft": "2s", "ttit": "50ms"},
        "devices": list(DEVICES[:devices]),
        "runtime": "both",
        "search": {"max_replica_devices": max_replica_devices},
    }


def measured(fields: dict[str, Any]) -> dict[str, Any]:
    """Medians of `REPEATS` runs, each in a fresh process."""
    command = [sys.executable, __file__, "--one", json.dumps(fields)]
    runs = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        run = json.loads(done.stdout)
        run["process_s"] = time.perf_counter() - started
        runs.append(run)
    result = dict(runs[0])
    for name in ("wall_s", "cpu_s", "process_s", "peak_bytes"):
        result[name] = median(run[name] for run in runs)
    result["stages_s"] = {
        stage: median(run["stages_s"].get(stage, 0.0) for run in runs)
        for stage in runs[0]["stages_s"]
    }
    result["wall_s_of_runs"] = [run["wall_s"] for run in runs]
    return result


def slope(points: list[dict[str, Any]]) -> float:
    """Exponent of the growth of CPU time with configurations evaluated, by least squares."""
    x = np.log([point["evaluated"] for point in points])
    y = np.log([point["cpu_s"] for point in points])
    return float(np.polyfit(x, y, 1)[0])


def figure(points: list[dict[str, Any]], path: Path) -> None:
    """Time against configurations evaluated, on log axes, with a line of slope one."""
    import altair as alt

    from planner import figures

    largest = max(points, key=lambda p: p["evaluated"])
    line = [
        {"evaluated": n, "cpu_s": largest["cpu_s"] * n / largest["evaluated"]}
        for n in (largest["evaluated"] / 100.0, largest["evaluated"])
    ]
    x = alt.X("evaluated:Q", scale=alt.Scale(type="log"), title="configurations evaluated")
    y = alt.Y("cpu_s:Q", scale=alt.Scale(type="log"), title="processor time of solve, s")
    ideal = alt.Chart(figures.data(line)).mark_line(strokeDash=[4, 4], color=figures.GREY)
    rows = [{**p, "devices offered": str(p["devices"])} for p in points]
    keep = ("evaluated", "cpu_s", "devices offered")
    rows = [{name: row[name] for name in keep} for row in rows]
    marks = (
        alt.Chart(figures.data(rows))
        .mark_point(size=70, filled=True)
        .encode(
            x=x,
            y=y,
            color=alt.Color("devices offered:N", scale=figures.colours(("1", "3", "7"))),
        )
    )
    chart = (ideal.encode(x=x, y=y) + marks).properties(width=420, height=320)
    subtitle = ["dashed: linear growth; each point the median of three processes"]
    figures.write_figure(figures.titled(chart, "Cost of the whole space", subtitle), path)


def report(result: dict[str, Any], console: Console) -> None:
    """Print one query's figures beside the bars."""
    table = Table("what", "measured", "bar", box=None)
    # Tables are loaded once, whatever the size of the space.
    evaluating = sum(result["stages_s"].get(s, 0.0) for s in ("step times", "memory", "masks"))

    def row(what: str, value: str, bar: str = "") -> None:
        table.add_row(what, value, bar)

    row("raw phase configurations", f"{result['raw']:,}")
    row("raw pairs", f"{result['raw_pairs']:.2e}")
    row("evaluated", f"{result['evaluated']:,}")
    row("feasible", f"{result['feasible']:,}", f">= {BARS['feasible']:,}")
    row("prefill x decode pairs", f"{result['pairs']:.2e}", f"> {BARS['pairs']:.0e}")
    row("optimum proven", str(result["proven"]))
    row("best", result["best"])
    row("solve, wall", f"{result['wall_s']:.2f} s", f"<= {BARS['wall_s']:.0f} s")
    row("solve, processor", f"{result['cpu_s']:.2f} s")
    row("process, wall", f"{result['process_s']:.2f} s")
    row(
        "peak memory",
        f"{result['peak_bytes'] / 1e9:.2f} GB",
        f"<= {BARS['peak_bytes'] / 1e9:.0f} GB",
    )
    row("evaluated per second of solve", f"{result['evaluated'] / result['wall_s']:,.0f}")
    row("evaluated per second of estimating", f"{result['evaluated'] / evaluating:,.0f}")
    console.print(table)
    stages = Table("stage", "s", "share", box=None)
    total = sum(result["stages_s"].values())
    for stage, seconds in sorted(result["stages_s"].items(), key=lambda item: -item[1]):
        stages.add_row(stage, f"{seconds:.2f}", f"{seconds / total:.0%}")
    console.print(stages)


def main() -> None:
    """Run the benchmark and save it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--no-scaling", action="store_true", help="only the whole space")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(json.loads(options.one))))
        return
    console = Console()
    load = os.getloadavg()[0]
    whole = measured(query_fields(options.model, len(DEVICES), 256))
    console.print(f"{options.model}, {len(DEVICES)} devices, replicas to 256 devices")
    report(whole, console)
    saved: dict[str, Any] = {
        "model": options.model,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load_at_start": load,
        "whole": whole,
    }
    if not options.no_scaling:
        points = []
        table = Table("devices", "replica to", "evaluated", "wall s", "processor s", box=None)
        for devices, limit in SCALING:
            fields = query_fields(options.model, devices, limit)
            point = {"devices": devices, "limit": limit, **measured(fields)}
            points.append(point)
            table.add_row(
                str(devices),
                str(limit),
                f"{point['evaluated']:,}",
                f"{point['wall_s']:.2f}",
                f"{point['cpu_s']:.2f}",
            )
        console.print(table)
        large = [p for p in points if p["evaluated"] >= 5e5]
        saved |= {"scaling": points, "slope": slope(points), "slope_of_large": slope(large)}
        console.print(
            f"cost grows as size^{saved['slope']:.2f}; from 5e5 configurations on as "
            f"size^{saved['slope_of_large']:.2f} (bar: {BARS['slope']:.0f})"
        )
        figure(points, RESULTS / "bench_sweep.svg")
    name = options.model.split("/")[-1].lower()
    path = RESULTS / f"bench_sweep_{name}.json"
    path.write_text(json.dumps(saved, indent=1) + "\n")
    console.print(f"saved {path}")


if __name__ == "__main__":
    main()
