"""The `planner deploy` command: the files that run a plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from planner.cli_shared import INFEASIBLE, SearchPath, console, fail


def deploy(
    plan: Annotated[Path, typer.Argument(help="Plan file that `solve --json` or --yaml wrote.")],
    target: Annotated[str, typer.Option(help="vllm, sglang, trtllm, dynamo or llm-d.")],
    out: Annotated[Path, typer.Option(help="Folder to write; new or empty.")],
    fleet: Annotated[
        int, typer.Option(min=0, help="0: the best fleet, 1 and on: its alternatives.")
    ] = 0,
    approximate: Annotated[
        bool,
        typer.Option(
            "--approximate", help="Take the nearest to what the target cannot express, and say so."
        ),
    ] = False,
    search_path: SearchPath = None,
) -> None:
    """Write engine flags, launch scripts and Kubernetes manifests that run a plan.

    What the target cannot express is an error, with the nearest that it can; `planner solve
    --target` searches only what it can.

    Example: planner deploy plan.json --target vllm --out deployment
    """
    from rich.text import Text

    from perfmodel.errors import InputError
    from planner.deploy import InexpressibleError, write_deployment
    from planner.plan import read_plan

    try:
        written, gaps = write_deployment(
            read_plan(plan),
            str(plan),
            target,
            out,
            fleet=fleet,
            approximate=approximate,
            search_path=search_path or [],
        )
    except InexpressibleError as error:
        fail(str(error), INFEASIBLE)
    except InputError as error:
        fail(str(error))
    for path in written:
        console().print(Text(str(path)))
    for gap in gaps:
        typer.echo(f"not as planned: {gap.what}; instead: {gap.nearest}", err=True)
