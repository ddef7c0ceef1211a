"""Runs in the peer's own environment: what its sweep estimates, and how fast.

Started by `bench_configurations_per_s.py`, a JSON query on standard input. A configuration is
one worker (layout, batch, and chunk) whose step times the peer computes, in whatever phase: every
call of its backends that does so is counted, also those of which it keeps no result.
"""

from __future__ import annotations

import functools
import json
import logging
import sys
import time
import warnings
from typing import Any

warnings.simplefilter("ignore")

ESTIMATES = ("run_static", "run_static_latency_only", "run_agg", "run_mixed")


def counted(counts: dict[str, int]) -> None:
    """Count the outermost calls of the backends' estimates."""
    from aiconfigurator.sdk.backends import base_backend

    inside = 0

    def wrapped(name: str, call: Any) -> Any:
        @functools.wraps(call)
        def run(*args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            if not inside:
                counts[name] = counts.get(name, 0) + 1
            inside += 1
            try:
                return call(*args, **kwargs)
            finally:
                inside -= 1

        return run

    def subclasses(kind: type) -> list[type]:
        return [kind, *(s for direct in kind.__subclasses__() for s in subclasses(direct))]

    for kind in subclasses(base_backend.BaseBackend):
        for name in ESTIMATES:
            if name in vars(kind):
                setattr(kind, name, wrapped(name, vars(kind)[name]))


def main() -> None:
    """Sweep the query on standard input, tables warm and cold."""
    query = json.load(sys.stdin)
    sweeps = query.pop("sweeps")
    output, sys.stdout = sys.stdout, sys.stderr
    logging.disable(logging.CRITICAL)
    import aiconfigurator.sdk.backends.factory  # noqa: F401  (registers the backends)
    from aiconfigurator.cli.api import cli_default

    counts: dict[str, int] = {}
    counted(counts)
    runs = []
    for _ in range(sweeps):
        counts.clear()
        wall, cpu = time.perf_counter(), time.process_time()
        cli_default(**query)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        runs.append({"wall_s": wall, "cpu_s": cpu, "counts": dict(counts)})
    json.dump(runs, output)


if __name__ == "__main__":
    main()
