"""Runs in the peer's own environment: JSON jobs on standard input, JSON answers on output.

Started by `compare_aiconfigurator.py`; uses only the public Python interface of the
`aiconfigurator` package (`cli_default`, `cli_estimate`) and reads its results.
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
    "rate_matching_prefill_degradation_factor",
    "rate_matching_decode_degradation_factor",
)


def search(arguments: dict[str, Any]) -> dict[str, Any]:
    """Its best plan of each serving mode, one replica each, and its correction factors."""
    from aiconfigurator.cli.api import cli_default

    result = cli_default(**arguments)
    answer: dict[str, Any] = {"corrections": {}}
    for mode, frame in result.best_configs.items():
        answer[mode] = plain(frame.iloc[0].to_dict()) if len(frame) else None
    for task in result.tasks.values():
        for name in CORRECTIONS:
            value = getattr(task, name, None)
            if value is not None:
                answer["corrections"][name] = float(value)
    return answer


def estimate(arguments: dict[str, Any]) -> dict[str, Any]:
    """One step without corrections: milliseconds by operator, and memory in GiB."""
    from aiconfigurator.cli.api import cli_estimate

    result = cli_estimate(**arguments)
    answer = {"ttft_ms": result.ttft, "tpot_ms": result.tpot, "memory_gib": result.raw["memory"]}
    if result.mode == "agg":
        steps = result.per_ops_data
        answer |= {"mixed": steps["mix_step"], "pure": steps.get("genonly_step", {})}
        answer["scheduling"] = steps["scheduling"]
    elif result.mode == "static_ctx":
        answer["prefill"] = result.summary.get_context_latency_dict()
    else:
        tokens = arguments["osl"] - 1
        times = result.summary.get_generation_latency_dict()
        answer["decode"] = {name: value / tokens for name, value in times.items()}
    return plain(answer)


def plain(value: Any) -> Any:
    """Numbers, strings and mappings of them; what is neither is left out."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items() if not str(k).startswith("_")}
    if hasattr(value, "item"):
        return value.item()
    return value if isinstance(value, int | float | str | type(None)) else str(value)


def main() -> None:
    """Answer every job; a job that fails answers with its error."""
    jobs = json.load(sys.stdin)
    output, sys.stdout = sys.stdout, sys.stderr  # the peer prints reports and plots
    logging.disable(logging.CRITICAL)
    answers = []
    for job in jobs:
        started = time.perf_counter()
        try:
            answer = {"search": search, "estimate": estimate}[job["do"]](job["arguments"])
        except (Exception, SystemExit) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.append(answer | {"seconds": time.perf_counter() - started})
    json.dump(answers, output)


if __name__ == "__main__":
    main()
