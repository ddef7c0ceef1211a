"""Both tools on the same six queries: each one's best plan, our estimate of its plan, the time.

    python experiments/compare_aiconfigurator.py [--peer-python PYTHON] [--only NAME]

Without `--peer-python` the peer (aiconfigurator 0.12.0) is installed from PyPI into a
virtual environment of its own; it is never a dependency of ours. Like for like means
`arrivals: steady` here, since the peer has no arrival process; our plan under Poisson
arrivals is shown next to it. Writes results/compare_aiconfigurator.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

from perfmodel import phases
from perfmodel.breakdown import breakdown
from perfmodel.errors import InputError
from perfmodel.layout import Layouts, parse_layout
from perfmodel.queueing import mean_wait_s
from perfmodel.step import StepModel
from perfmodel.work import StepWork
from planner.plan import FleetPlan
from planner.problem import resolve
from planner.query import Query
from planner.solve import solve
from planner.sweep import Space

HERE = Path(__file__).parent
PEER = "aiconfigurator==0.12.0"
GIB = 2.0**30
LIMIT = 0.10
"""Estimates of one step that differ by more are taken apart by operator."""


@dataclass(frozen=True)
class Case:
    """One query in both tools' terms; `weights` and `kv` are those that the peer infers."""

    name: str
    model: str
    peer_model: str
    device: str
    devices: int
    isl: int
    osl: int
    ttft_ms: float
    ttit_ms: float
    weights: str = "native"
    kv: str = "bf16"

    def query(self, runtime: str, arrivals: str) -> dict[str, Any]:
        """Our query: as many requests per second as the devices can serve."""
        return {
            "model": self.model,
            "workload": {
                "qps": "max",
                "input_tokens": self.isl,
                "output_tokens": self.osl,
                "arrivals": arrivals,
            },
            "slo": {"ttft": f"{self.ttft_ms:g}ms", "ttit": f"{self.ttit_ms:g}ms"},
            "devices": [{"name": self.device, "inventory": self.devices}],
            "runtime": runtime,
            "precision": {"weights": self.weights, "kv": self.kv},
        }

    def peer_query(self) -> dict[str, Any]:
        """The peer's query."""
        return {
            "model_path": self.peer_model,
            "total_gpus": self.devices,
            "system": self.device,
            "isl": self.isl,
            "osl": self.osl,
            "ttft": self.ttft_ms,
            "tpot": self.ttit_ms,
        }


CASES = (
    Case("llama-70b", "meta-llama/Llama-3.1-70B", "meta-llama/Meta-Llama-3.1-70B",
         "h200_sxm", 32, 4000, 500, 1000, 40),
    Case("llama-405b", "meta-llama/Llama-3.1-405B", "meta-llama/Meta-Llama-3.1-405B",
         "h200_sxm", 64, 2000, 150, 500, 40),
    Case("qwen3-235b", "Qwen/Qwen3-235B-A22B-FP8", "Qwen/Qwen3-235B-A22B-FP8",
         "h100_sxm", 32, 2000, 500, 1000, 40, kv="fp8"),
    Case("deepseek-v3", "deepseek-ai/DeepSeek-V3", "deepseek-ai/DeepSeek-V3",
         "h200_sxm", 32, 4000, 1000, 2000, 50, kv="fp8"),
    Case("qwen3-32b", "Qwen/Qwen3-32B", "Qwen/Qwen3-32B", "l40s", 16, 2000, 300, 2000, 60),
    Case("gpt-oss-120b", "openai/gpt-oss-120b", "openai/gpt-oss-120b",
         "b200_sxm", 16, 8000, 1000, 1000, 20),
)  # fmt: skip


# --- the two tools -----------------------------------------------------------------------


def peer_python(given: Path | None, folder: Path) -> Path:
    """The peer's interpreter: the one given, or that of a fresh virtual environment."""
    if given is not None:
        return given
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", PEER], check=True)
    return python


def ask_peer(python: Path, jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run jobs in one fresh process of the peer."""
    run = subprocess.run(
        [python, HERE / "peer_aiconfigurator.py"],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        raise SystemExit(f"the peer's process failed:\n{run.stderr[-2000:]}")
    answers: list[dict[str, Any]] = json.loads(run.stdout)
    return answers


def our_command_s(case: Case) -> float:
    """Wall time of the whole process of `planner solve` on both runtimes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "query.yaml"
        path.write_text(yaml.safe_dump(case.query("both", "steady")))
        command = [sys.executable, "-c", "from planner.cli import main; main()", "solve", path]
        started = time.perf_counter()
        subprocess.run(command, capture_output=True, check=False)
        return time.perf_counter() - started


def our_plans(case: Case) -> dict[str, Any]:
    """Our best plan by runtime and arrivals, or why there is none."""
    plans: dict[str, Any] = {}
    for runtime in ("disaggregated", "continuous"):
        for arrivals in ("steady", "poisson"):
            try:
                plan = solve(Query.model_validate(case.query(runtime, arrivals)))
            except InputError as error:
                plans[f"{runtime} {arrivals}"] = {"error": str(error)}
            else:
                plans[f"{runtime} {arrivals}"] = fleet(plan.best) | {
                    "seconds": plan.search.seconds
                }
    return plans


def fleet(plan: FleetPlan) -> dict[str, Any]:
    """What is compared of a plan of ours."""
    return {
        "qps": plan.qps,
        "ttft_ms": plan.ttft.mean_s * 1e3,
        "tpot_ms": plan.ttit_mean_s * 1e3,
        "pools": [
            f"{pool.replicas} x {pool.role} {pool.layout} batch {pool.batch}"
            + (f" chunk {pool.chunk_tokens}" if pool.chunk_tokens else "")
            for pool in plan.pools
        ],
        "devices": sum(host.used_devices for host in plan.hosts),
        "measured_share": plan.measured_share,
    }
