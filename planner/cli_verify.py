"""The `planner verify` command: a deployed plan against what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli_shared import PerfdbPath, SearchPath, console, fail

if TYPE_CHECKING:
    from planner.verify import Measured, Verdict

MOST_LOAD = 0.99
"""Share of the planned capacity at which a fleet is assessed, at most: beyond it queues grow."""


def verify(
    plan: Annotated[Path, typer.Argument(help="Plan file that `solve --json` or --yaml wrote.")],
    measured: Annotated[
        Path,
        typer.Option(
            help="Results of vllm bench serve, AIPerf or genai-perf (JSON or CSV), GuideLLM or "
            "inference-perf; told apart by what they hold."
        ),
    ],
    fleet: Annotated[
        int, typer.Option(min=0, help="0: the best fleet, 1 and on: its alternatives.")
    ] = 0,
    benchmark: Annotated[
        int | None, typer.Option(min=0, help="Which of a GuideLLM file's; the last if not given.")
    ] = None,
    rows: Annotated[
        Path | None,
        typer.Option(help="Add the run to this file of rows for `planner calibrate` (CSV)."),
    ] = None,
    search_path: SearchPath = None,
    perfdb_path: PerfdbPath = None,
) -> None:
    """Compare a load generator's results with a plan, and say where they differ.

    The plan is evaluated at the measured request rate. Differences are held against the error
    that such predictions are known to have.

    Example: planner verify plan.json --measured bench.json --rows measured.csv
    """
    from dataclasses import replace

    from perfmodel.database import PerfStore
    from perfmodel.errors import InputError
    from planner.assess import assess
    from planner.files import check_writable
    from planner.plan import read_plan
    from planner.reopen import reopen
    from planner.verify import append_row, compare, read_results, row_of

    try:
        check_writable(rows)
        seen = read_results(measured, benchmark)
        store = PerfStore(perfdb_path or [])
        opened = reopen(read_plan(plan), str(plan), fleet, search_path or [], store)
        data, space, choice = opened.fleet, opened.space, opened.choice
        if seen.qps <= 0:
            raise InputError(f"{measured}: no request was finished")
        planned = assess(space, choice, opened.qps)
        load = min(seen.qps, MOST_LOAD * planned.capacity_qps)
        expected = replace(assess(space, choice, load), qps=load)
        verdict = compare(space.problem, expected, seen, store)
        if rows is not None:
            append_row(rows, row_of(space.problem, data, seen, f"{plan.stem}-{measured.stem}"))
    except InputError as error:
        fail(str(error))
    _report(seen, verdict)
    if rows is not None:
        typer.echo(f"{rows}: one row added")


def _report(seen: Measured, verdict: Verdict) -> None:
    from rich.table import Table
    from rich.text import Text

    from perfmodel.units import format_time

    table = Table(f"by {seen.tool}", box=None)
    for name in ("planned", "measured", "difference", "known error"):
        table.add_column(name, justify="right")
    for one in verdict.comparisons:
        shown = format_time if one.unit == "s" else "{:,.4g}".format
        off = f"{one.difference:+.0%}"
        table.add_row(one.name, shown(one.planned), shown(one.measured), off, one.usual)
    console().print(table)
    for line in verdict.findings:
        console().print(Text(line))
    for name, kept in verdict.kept:
        console().print(Text(f"target {name}: {'met' if kept else 'MISSED'}"))
    for line in verdict.cautions:
        console().print(Text(f"caution: {line}"))
