"""The `planner doctor` command."""

from __future__ import annotations

import typer

from planner.cli_shared import PerfdbPath, console

UNSOUND = 1
"""Exit status where something is missing or wrong."""


def doctor(perfdb_path: PerfdbPath = None) -> None:
    """Check the installation: versions, data, extras, folders, and a query's known answer.

    Exit status: 0 if all is in place, 1 if something is missing or wrong.

    Example: planner doctor
    """
    from rich.table import Table
    from rich.text import Text

    from planner.doctor import ABSENT, BAD, OK, findings

    styles = {OK: "green", ABSENT: "yellow", BAD: "bold red"}
    found = list(findings(perfdb_path or []))
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for one in found:
        table.add_row(one.what, Text(one.state, styles[one.state]), Text(one.found))
    console().print(table)
    bad = [one.what for one in found if one.state == BAD]
    if bad:
        typer.echo(f"error: not in order: {', '.join(bad)}", err=True)
        raise typer.Exit(UNSOUND)
