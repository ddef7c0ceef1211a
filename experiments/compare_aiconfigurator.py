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

import yaml
from peer_same_step import SameStep
from rich.console import Console
from rich.table import Table

from perfmodel.errors import InputError
from perfmodel.layout import parse_layout
from planner.query import Query
from planner.solve import solve

HERE = Path(__file__).parent
PEER = "aiconfigurator==0.12.0"
LIMIT = 0.10
"""Estimates of one step that differ by more are taken apart by operator."""


@dataclass(frozen=True)
class Case:
    """One query in both tools' terms; `kv` is what the peer infers."""

    name: str
    model: str
    peer_model: str
    device: str
    devices: int
    isl: int
    osl: int
    ttft_ms: float
    ttit_ms: float
    kv: str = "bf16"
    probes: tuple[tuple[str, int, int], ...] = ()  # role, TP, batch to ask of the peer besides

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
            "precision": {"weights": "native", "kv": self.kv},
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
         "h200_sxm", 64, 2000, 150, 500, 40,
         probes=(("prefill", 8, 1), ("decode", 8, 16), ("agg", 8, 2))),
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


def ask_peer(python: Path, case: Case, others: list[dict[str, Any]]) -> dict[str, Any]:
    """The peer's answer, and its estimate of other workers' steps, in a process of its own."""
    job = {"query": case.peer_query(), "others": others}
    run = subprocess.run(
        [python, HERE / "peer_aiconfigurator.py"],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        return {"error": run.stderr.strip()[-300:], "search_s": float("nan"), "others": []}
    answer: dict[str, Any] = json.loads(run.stdout)
    return answer


def command_s(command: list[Any]) -> float:
    """Wall time of a whole process."""
    started = time.perf_counter()
    subprocess.run(command, capture_output=True, check=False)
    return time.perf_counter() - started


def commands(case: Case, python: Path) -> dict[str, float]:
    """Wall time of each tool's command line, start to end, both runtimes searched."""
    options = {
        "--model-path": case.peer_model,
        "--total-gpus": case.devices,
        "--system": case.device,
        "--isl": case.isl,
        "--osl": case.osl,
        "--ttft": case.ttft_ms,
        "--tpot": case.ttit_ms,
    }
    peer = [python.parent / "aiconfigurator", "cli", "default"]
    peer += [str(part) for option in options.items() for part in option]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "query.yaml"
        path.write_text(yaml.safe_dump(case.query("both", "steady")))
        ours = [sys.executable, "-c", "from planner.cli import main; main()", "solve", path]
        return {"ours": command_s(ours), "peer": command_s(peer)}


def our_plan(case: Case, runtime: str, arrivals: str) -> dict[str, Any]:
    """Our best plan of a runtime, or why there is none."""
    try:
        plan = solve(Query.model_validate(case.query(runtime, arrivals)))
    except InputError as error:
        return {"error": str(error)}
    best = plan.best
    return {
        "qps": best.qps,
        "ttft_ms": best.ttft.mean_s * 1e3,
        "tpot_ms": best.ttit_mean_s * 1e3,
        "pools": [asdict(pool) for pool in best.pools],
        "devices": sum(host.used_devices for host in best.hosts),
        "measured_share": best.measured_share,
        "seconds": plan.search.seconds,
    }


def peer_terms(pool: dict[str, Any], moe: bool) -> dict[str, Any] | None:
    """A pool of ours as the peer spells it; None where its space has no such layout."""
    at = parse_layout(pool["layout"])
    tp, pp, dp, cp, dp_f = (int(getattr(at, n)[0]) for n in ("tp_a", "pp", "dp_a", "cp_a", "dp_f"))
    if cp > 1 or dp_f > 1 or (dp > 1 and not moe):
        return None
    experts = [int(at.tp_f[0]), int(at.ep_f[0])] if moe else [1, 1]
    role = "agg" if pool["role"] == "continuous" else pool["role"]
    chunk = pool["chunk_tokens"] or 0
    return {"role": role, "degrees": [tp, pp, dp, *experts], "batch": pool["batch"], "chunk": chunk}


# --- report ------------------------------------------------------------------------------


def run(case: Case, python: Path) -> dict[str, Any]:
    """Everything about one case."""
    query = Query.model_validate(case.query("both", "steady"))
    same = SameStep(query, case.isl, case.devices)
    plans = {
        f"{runtime} {arrivals}": our_plan(case, runtime, arrivals)
        for runtime in ("disaggregated", "continuous")
        for arrivals in ("steady", "poisson")
    }
    pools = [
        pool
        for runtime in ("disaggregated", "continuous")
        for pool in plans[f"{runtime} steady"].get("pools", ())
    ]
    asked = [terms for pool in pools if (terms := peer_terms(pool, same.moe))]
    asked += [
        {"role": role, "degrees": [tp, 1, 1, 1, 1], "batch": batch, "chunk": case.isl}
        for role, tp, batch in case.probes
    ]
    peer = ask_peer(python, case, asked)
    result = {"query": asdict(case), "ours": plans, "peer": peer, "wall_s": commands(case, python)}
    result["their_plans"] = {
        mode: getattr(same, name)(peer[mode])
        for mode, name in (("disagg", "disaggregated"), ("agg", "continuous"))
        if mode in peer
    }
    result["their_steps"] = [
        row
        for mode in ("disagg", "agg")
        for worker in peer.get(mode, {}).get("workers", {}).values()
        for row in same.compare(worker["degrees"], worker["batch"], worker)
    ]
    result["unanswered"] = [
        {**terms, "error": answer["error"]}
        for terms, answer in zip(asked, peer["others"], strict=False)
        if "error" in answer
    ]
    result["our_steps"] = [
        row
        for terms, answer in zip(asked, peer["others"], strict=False)
        for row in same.compare(terms["degrees"], terms["batch"], answer)
    ]
    return result


def show(result: dict[str, Any], console: Console) -> None:
    """Print one case."""
    query, peer, wall = result["query"], result["peer"], result["wall_s"]
    console.rule(
        f"{query['name']}: {query['devices']} x {query['device']}, ISL {query['isl']}, "
        f"OSL {query['osl']}, TTFT {query['ttft_ms']} ms, TTIT {query['ttit_ms']} ms"
    )
    table = Table("plan", "req/s", "TTFT ms", "TPOT ms", "GPUs", "what")
    for name, plan in result["ours"].items():
        if "error" in plan:
            table.add_row(f"ours, {name}", "-", "-", "-", "-", plan["error"])
            continue
        what = [
            f"{p['replicas']} x {p['role']} {p['layout']} batch {p['batch']}"
            + (f" chunk {p['chunk_tokens']}" if p["chunk_tokens"] else "")
            for p in plan["pools"]
        ]
        table.add_row(*figures(f"ours, {name}", plan), str(plan["devices"]), "; ".join(what))
    for mode in ("disagg", "agg"):
        if mode not in peer:
            table.add_row(f"peer, {mode}", "-", "-", "-", "-", peer.get("error", "none"))
            continue
        row = peer[mode]["row"]
        units = query["devices"] // row["num_total_gpus"]
        theirs = {
            "qps": row["request_rate"] * units,
            "ttft_ms": row["ttft"],
            "tpot_ms": row["tpot"],
        }
        what = (
            f"{units} x ({row['(p)workers']} x prefill {row['(p)parallel']} batch {row['(p)bs']}; "
            f"{row['(d)workers']} x decode {row['(d)parallel']} batch {row['(d)bs']})"
            if mode == "disagg"
            else f"{units} x {row['parallel']} batch {row['bs']} chunk {row['ctx_tokens']}"
        )
        table.add_row(*figures(f"peer, {mode}", theirs), str(units * row["num_total_gpus"]), what)
        ours = result["their_plans"][mode]
        note = (
            f"without its corrections; TTFT {ours['ttft_poisson_ms']:.0f} ms with Poisson queueing "
            f"at its rate; memory {ours['memory_share']:.0%} full"
        )
        table.add_row(*figures("  by our estimate", ours), "", note)
    console.print(table)
    steps = Table("same step, uncorrected", "layout", "batch", "peer ms", "ours ms", "difference")
    for kind, rows in (("its plan", result["their_steps"]), ("asked", result["our_steps"])):
        for row in rows:
            steps.add_row(
                f"{kind}: {row['step']}", row["layout"], str(row["batch"]),
                f"{row['peer_ms']:.2f}", f"{row['ours_ms']:.2f}", f"{row['difference']:+.1%}",
            )  # fmt: skip
            if abs(row["difference"]) > LIMIT:
                for name, part in row["operators"].items():
                    steps.add_row(
                        "", f"  {name}", "", f"{part['peer_ms']:.2f}", f"{part['ours_ms']:.2f}", ""
                    )
    console.print(steps)
    for failed in result["unanswered"]:
        console.print(
            f"the peer cannot estimate {failed['role']} {failed['degrees']}: {failed['error'][:90]}"
        )
    seconds = sum(p.get("seconds", 0.0) for n, p in result["ours"].items() if "steady" in n)
    console.print(
        f"wall time, whole command: ours {wall['ours']:.1f} s, peer {wall['peer']:.1f} s; "
        f"search alone: ours {seconds:.1f} s, peer {peer['search_s']:.1f} s"
    )


def figures(name: str, plan: dict[str, Any]) -> list[str]:
    """The first columns of the table of plans."""
    return [name, f"{plan['qps']:.2f}", f"{plan['ttft_ms']:.0f}", f"{plan['tpot_ms']:.1f}"]


def main() -> None:
    """Run the cases and write their numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", type=Path, help="interpreter that has " + PEER)
    parser.add_argument("--only", choices=[c.name for c in CASES], help="print one, write nothing")
    options = parser.parse_args()
    console = Console(width=150)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        python = peer_python(options.peer_python, Path(folder))
        for case in CASES:
            if options.only in (None, case.name):
                results.append(run(case, python))
                show(results[-1], console)
    if options.only:
        return
    target = HERE / "results" / "compare_aiconfigurator.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps({"peer": PEER, "cases": results}, indent=1) + "\n")
    console.print(f"written: {target.relative_to(HERE.parent)}")


if __name__ == "__main__":
    main()
