"""A thousand queries: on one process and two, on Dask, and killed in the middle.

    python experiments/bench_batch.py
    python experiments/bench_batch.py --queries 60

A catalog of cheap queries, seeded: three small models, one or two device types, replicas to 8
devices, lengths and demands drawn from a few values each, so that some queries share a search
(they differ in demand alone) and most do not. Every run is `planner batch` in a process of its own
with an empty folder, and its wall time includes start-up; Dask's workers, one thread each, are
there before. Bars: two processes near twice as fast as one; Dask within 15 % of local processes;
after `kill -9` at a random moment the next run computes what was not finished and nothing else,
and leaves the same bytes as a run that nothing disturbed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
QUERIES = 1000
MODELS = ("Qwen/Qwen3-8B", "meta-llama/Llama-3.1-8B", "openai/gpt-oss-20b")
DEVICES = (["h100_sxm"], ["h200_sxm"], ["h100_sxm", "h200_sxm"], ["l40s"])
INPUTS = (200, 300, 500, 700, 1000, 1500, 2000, 3000, 4000, 6000)
OUTPUTS = (20, 50, 100, 200, 400, 800)
DEMANDS = (1, 2, 5, 10, 20, 50, 100, 200)
WITHIN = 0.15
"""Dask against local processes."""


def catalog(count: int, seed: int) -> dict[str, Any]:
    """So many cheap services."""
    rng = np.random.default_rng(seed)

    def one_of(values: Any) -> Any:
        return values[int(rng.integers(len(values)))]

    services = {
        f"service_{i:04d}": {
            "model": one_of(MODELS),
            "devices": one_of(DEVICES),
            "workload": {
                "qps": one_of(DEMANDS),
                "input_tokens": one_of(INPUTS),
                "output_tokens": one_of(OUTPUTS),
            },
        }
        for i in range(count)
    }
    defaults = {"slo": {"ttft": "1s", "ttit": "40ms"}, "search": {"max_replica_devices": 8}}
    return {"defaults": defaults, "services": services}


def searches(fields: dict[str, Any]) -> int:
    """Queries that differ in more than demand."""
    kept = ("model", "devices", "input_tokens", "output_tokens")
    return len(
        {str([{**s, **s["workload"]}[name] for name in kept]) for s in fields["services"].values()}
    )


@dataclass(frozen=True)
class Run:
    """One `planner batch`.

    Attributes:
        cpu_s: of it and its workers.
        computed: results that it wrote, by their times of modification.
    """

    wall_s: float
    cpu_s: float
    computed: int


def command(path: Path, out: Path, *options: str) -> list[str]:
    """`planner batch` by this interpreter."""
    return [sys.executable, "-m", "planner.cli", "batch", str(path), "--out", str(out), *options]


def written(folder: Path) -> dict[str, int]:
    """Times of modification of the results."""
    return {f.name: f.stat().st_mtime_ns for f in folder.glob("*.json")}


def contents(folder: Path) -> dict[str, bytes]:
    """All that a batch leaves."""
    return {f.name: f.read_bytes() for f in folder.iterdir()}


def run(path: Path, out: Path, *options: str) -> Run:
    """A whole batch."""
    before = written(out) if out.exists() else {}
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    done = subprocess.run(command(path, out, *options), capture_output=True, text=True, check=False)
    wall = time.perf_counter() - started
    if done.returncode not in (0, 3):  # 3: some query has no plan
        raise RuntimeError(done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - usage.ru_utime - usage.ru_stime
    computed = sum(before.get(name) != when for name, when in written(out).items())
    return Run(wall, cpu, computed)


def killed(path: Path, out: Path, results: int) -> int:
    """A batch on two processes, killed when so many results are there; how many there are then."""
    process = subprocess.Popen(
        command(path, out, "--workers", "2"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and len(written(out)) < results:
        time.sleep(0.01)
    if process.poll() is not None:
        raise RuntimeError("the batch ended before it was killed")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return len(written(out))


def on_dask(path: Path, out: Path) -> Run:
    """A batch on a local cluster of two workers."""
    import psutil
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        workers = [psutil.Process(worker.pid) for worker in cluster.workers.values()]

        def cpu_s() -> float:
            return sum(t.user + t.system for t in (w.cpu_times() for w in workers))

        before = cpu_s()
        found = run(path, out, "--scheduler", cluster.scheduler_address)
        return replace(found, cpu_s=found.cpu_s + cpu_s() - before)


def measured(count: int, seed: int, folder: Path, console: Console) -> dict[str, Any]:
    """All runs over one catalog."""
    fields = catalog(count, seed)
    path = folder / "catalog.yaml"
    path.write_text(yaml.safe_dump(fields))
    console.print(f"{count} queries, {searches(fields)} searches")
    out = {name: folder / name for name in ("one", "two", "dask", "killed")}
    runs = {
        "one process": run(path, out["one"], "--workers", "1"),
        "two processes": run(path, out["two"], "--workers", "2"),
        "Dask, two workers": on_dask(path, out["dask"]),
        "two processes again": run(path, out["two"], "--workers", "2"),
    }
    share = float(np.random.default_rng([seed, 1]).uniform(0.1, 0.9))
    finished = killed(path, out["killed"], max(round(share * count), 1))
    before = written(out["killed"])
    runs["after kill -9"] = run(path, out["killed"], "--workers", "2")
    same = [contents(folder) == contents(out["one"]) for folder in out.values()]
    again = written(out["killed"])
    one, two = runs["one process"].wall_s, runs["two processes"].wall_s
    dask = runs["Dask, two workers"].wall_s
    return {
        "queries": count,
        "searches": searches(fields),
        "runs": {name: asdict(found) for name, found in runs.items()},
        "speed_up": one / two,
        "dask_over_local": dask / two,
        "killed_at_share": share,
        "finished_when_killed": finished,
        "computed_again": sum(again[name] != when for name, when in before.items()),
        "all_bytes_equal": all(same),
        "bytes": sum(len(b) for b in contents(out["one"]).values()),
    }


def report(found: dict[str, Any], console: Console) -> None:
    """The runs, and what became of the bars."""
    table = Table("run", box=None)
    for name in ("wall s", "processor s", "computed", "queries/s"):
        table.add_column(name, justify="right")
    for name, one in found["runs"].items():
        table.add_row(
            name,
            f"{one['wall_s']:.1f}",
            f"{one['cpu_s']:.1f}",
            str(one["computed"]),
            f"{one['computed'] / one['wall_s']:.1f}",
        )
    console.print(table)
    console.print(f"two processes: {found['speed_up']:.2f} times as fast as one")
    within = "within" if abs(found["dask_over_local"] - 1.0) <= WITHIN else "not within"
    console.print(f"Dask takes {found['dask_over_local']:.2f} times as long: {within} {WITHIN:.0%}")
    left = found["queries"] - found["finished_when_killed"]
    console.print(
        f"killed with {found['finished_when_killed']} finished, {left} left: then computed "
        f"{found['runs']['after kill -9']['computed']}, of the finished ones "
        f"{found['computed_again']} again"
    )
    same = "equal" if found["all_bytes_equal"] else "NOT EQUAL"
    console.print(f"all bytes of all four folders: {same} ({found['bytes'] / 1e6:.0f} MB each)")


def main() -> None:
    """Run the benchmark and save it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=QUERIES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    console = Console()
    load = os.getloadavg()[0]
    folder = Path(tempfile.mkdtemp(prefix="bench_batch_"))
    try:
        found = measured(options.queries, options.seed, folder, console)
    finally:
        shutil.rmtree(folder)
    report(found, console)
    found = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load_at_start": load,
        **found,
    }
    path = options.out / "bench_batch.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    console.print(f"saved {path}")


if __name__ == "__main__":
    main()
