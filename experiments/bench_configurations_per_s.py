"""Configurations estimated per second, beside the nearest peer's own sweep.

    python experiments/bench_configurations_per_s.py --peer-python /path/to/its/python

One model on one device, both runtimes, in one run: `aiconfigurator` 0.12.0 sweeps in a process of
its own, then this package in turn. A configuration is one replica's layout, batch and (continuous)
chunk in one phase, whose step times and memory are estimated: here every cell of the sweep
(`evaluated`), there every call of its backends that estimates a worker, whether or not a result
is kept. Processor time, tables loaded (a first sweep of each is not timed); ours the median of
five, the peer's of one. Bar: 100 times as many.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from perfmodel.database import PerfStore
from planner.problem import resolve
from planner.query import Query
from planner.search import exhaustive
from planner.sweep import Space

HERE = Path(__file__).parent
REPEATS = 5
BAR = 100.0
DEVICE, DEVICES = "h200_sxm", 64
ISL, OSL, TTFT_MS, TTIT_MS = 4000, 1000, 2000, 50


def ours(model: str) -> dict[str, float]:
    """Configurations of a sweep and the median processor time of one, tables read before."""
    store = PerfStore()
    query = Query.model_validate(
        {
            "model": model,
            "workload": {"qps": 50, "input_tokens": ISL, "output_tokens": OSL},
            "slo": {"ttft": f"{TTFT_MS}ms", "ttit": f"{TTIT_MS}ms"},
            "devices": [DEVICE],
        }
    )
    problem = resolve(query)
    seconds, evaluated = [], 0
    for _ in range(REPEATS + 1):
        started = time.process_time()
        evaluated = exhaustive(Space(problem, store), lambda _what, _share: None).evaluated
        seconds.append(time.process_time() - started)
    return {"configurations": evaluated, "cpu_s": median(seconds[1:])}


def peers(python: Path, model: str) -> dict[str, float]:
    """The same of the peer."""
    query = {
        "sweeps": 2,
        "model_path": model,
        "total_gpus": DEVICES,
        "system": DEVICE,
        "isl": ISL,
        "osl": OSL,
        "ttft": TTFT_MS,
        "tpot": TTIT_MS,
    }
    done = subprocess.run(
        [python, HERE / "peer_configurations.py"],
        input=json.dumps(query),
        capture_output=True,
        text=True,
        check=True,
    )
    runs: list[dict[str, Any]] = json.loads(done.stdout)[1:]
    return {
        "configurations": median(sum(run["counts"].values()) for run in runs),
        "cpu_s": median(run["cpu_s"] for run in runs),
    }


def main() -> None:
    """Measure both, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", type=Path, required=True)
    parser.add_argument("--model", default="Qwen/Qwen3-235B-A22B-FP8")
    options = parser.parse_args()
    sides = {"peer": peers(options.peer_python, options.model), "ours": ours(options.model)}
    table = Table("sweep", "configurations", "processor s", "per second", box=None)
    for name, side in sides.items():
        side["per_s"] = side["configurations"] / side["cpu_s"]
        cells = (f"{side['configurations']:,.0f}", f"{side['cpu_s']:.2f}", f"{side['per_s']:,.0f}")
        table.add_row(name, *cells)
    console = Console()
    console.print(table)
    ratio = sides["ours"]["per_s"] / sides["peer"]["per_s"]
    console.print(f"{options.model} on {DEVICE}: {ratio:,.0f} times as many (bar: {BAR:.0f})")
    name = options.model.split("/")[-1].lower()
    path = HERE / "results" / f"bench_configurations_per_s_{name}.json"
    path.write_text(json.dumps({"model": options.model, "ratio": ratio, **sides}, indent=1) + "\n")
    console.print(f"saved results/{path.name}")


if __name__ == "__main__":
    main()
