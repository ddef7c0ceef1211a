"""Runs in the peer's own environment: one JSON query on standard input, its answer on output.

Started by `compare_aiconfigurator.py`; calls the `aiconfigurator` package and reads its
results. Besides its best plan of each serving mode it returns the steps that the plan is
made of, by operator and before the package's corrections, and those of other plans.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from typing import Any

warnings.simplefilter("ignore")

CORRECTIONS = (
    "prefill_latency_correction",
    "decode_latency_correction",
    "autoscale_ttft_correction_factor",
    "rate_match_prefill_degradation",
    "rate_match_decode_degradation",
)
PREFIX = {"agg": "", "prefill": "(p)", "decode": "(d)"}


def steps(task: Any, role: str, degrees: list[int], batch: int, chunk: int = 0) -> dict[str, Any]:
    """Uncorrected milliseconds of a worker's steps by operator, and its memory in GiB.

    Args:
        role: agg, prefill or decode.
        degrees: tensor, pipeline and data parallelism, then the experts' tensor and expert
            parallelism.
        chunk: prompt tokens of a mixed step.
    """
    from aiconfigurator.sdk.backends.factory import get_backend
    from aiconfigurator.sdk.inference_session import InferenceSession
    from aiconfigurator.sdk.models import get_model

    side = "" if role == "agg" else f"{role}_"
    database = task._load_database(
        *(
            getattr(task, f"{side}{name}")
            for name in ("system_name", "backend_name", "backend_version")
        )
    )
    backend = getattr(task, f"{side}backend_name")
    config = task.build_model_config(role=role, parallel=(*degrees, 1))
    model = get_model(getattr(task, f"{side}model_path"), config, backend)
    session = InferenceSession(model, database, get_backend(backend))
    runtime = task.build_runtime_config(batch_size=batch)
    if role == "agg":
        summary = session.run_agg(runtime, ctx_tokens=chunk)
        found = summary.get_per_ops_data()
        times = {"mixed": found["mix_step"], "decode": found.get("genonly_step", {})}
        times["counts"] = found["scheduling"]
        memory = summary.get_result_dict()["memory"]
    else:
        mode = {"prefill": "static_ctx", "decode": "static_gen"}[role]
        summary = session.run_static(runtime, mode=mode)
        if role == "prefill":
            times = {"prefill": summary.get_context_latency_dict()}
        else:
            total = summary.get_generation_latency_dict()
            times = {"decode": {k: v / (task.osl - 1) for k, v in total.items()}}
        memory = summary.get_summary_df().iloc[0]["memory"]
    return {"steps": times, "memory_gib": memory}


def attempt(function: Any, *arguments: Any) -> Any:
    """A result, or the error as an answer."""
    try:
        return function(*arguments)
    except (Exception, SystemExit) as error:
        message = str(error).split(" at /")[0]  # without paths of this machine
        return {"error": f"{type(error).__name__}: {message}"}


def answer(query: dict[str, Any], others: list[dict[str, Any]]) -> dict[str, Any]:
    """Its best plan of each mode with its steps, and the steps of `others`."""
    from aiconfigurator.cli.api import cli_default
    from aiconfigurator.cli.main import build_default_tasks

    started = time.perf_counter()
    result = attempt(lambda: cli_default(**query))
    found: dict[str, Any] = {"search_s": time.perf_counter() - started}
    failed = isinstance(result, dict)
    if failed:
        found |= result
    tasks = build_default_tasks(**query) if failed else result.tasks
    found["corrections"] = {
        name: getattr(tasks["disagg"], name)
        for name in CORRECTIONS
        if hasattr(tasks["disagg"], name)
    }
    frames = {} if failed else result.best_configs
    for mode, roles in (("agg", ("agg",)), ("disagg", ("prefill", "decode"))):
        frame = frames.get(mode)
        if frame is None or not len(frame):
            continue
        row = frame.iloc[0].to_dict()
        found[mode] = {"row": row, "workers": {}}
        for role in roles:
            get = {k.removeprefix(PREFIX[role]): v for k, v in row.items()}
            degrees = [get[name] for name in ("tp", "pp", "dp", "moe_tp", "moe_ep")]
            chunk = row.get("ctx_tokens", 0)
            worker = attempt(steps, tasks[mode], role, degrees, get["bs"], chunk)
            found[mode]["workers"][role] = {"degrees": degrees, "batch": get["bs"]} | worker
    found["others"] = [
        attempt(steps, tasks["agg" if other["role"] == "agg" else "disagg"], *other.values())
        for other in others
    ]
    return found


def plain(value: Any) -> Any:
    """Numbers, strings, lists and mappings; private columns are left out."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items() if not str(k).startswith("_")}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if hasattr(value, "item"):
        return value.item()
    return value if isinstance(value, int | float | str | type(None)) else str(value)


def main() -> None:
    """Answer the query on standard input."""
    job = json.load(sys.stdin)
    output, sys.stdout = sys.stdout, sys.stderr  # the peer prints reports and plots
    logging.disable(logging.CRITICAL)
    json.dump(plain(answer(job["query"], job["others"])), output)


if __name__ == "__main__":
    main()
