"""Progress on standard error: a bar for what takes longer than two seconds, or a line a step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

PATIENCE_S = 2.0
"""What is done sooner shows no bar."""

Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Say each step on standard error, when it begins."),
]


@contextmanager
def progress_bar(verbose: bool = False) -> Iterator[Callable[[str, float], None]]:
    """A function that is told what is being done, and the share done; silent where nobody looks.

    Args:
        verbose: a line for each step in place of the bar, in a pipe too.
    """
    if verbose:
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    started = time.perf_counter()
    errors = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=errors,
        transient=True,
        disable=not errors.is_terminal,
    )
    task = bar.add_task("", total=1.0)
    shown = False

    def progress(what: str, share: float) -> None:
        nonlocal shown
        if not shown and time.perf_counter() - started > PATIENCE_S:
            shown = True
            bar.start()
        bar.update(task, description=what, completed=share)

    try:
        yield progress
    finally:
        if shown:
            bar.stop()


def _lines() -> Callable[[str, float], None]:
    """Progress as lines: seconds since the start, share done, and what begins."""
    started, before = time.perf_counter(), ""

    def progress(what: str, share: float) -> None:
        nonlocal before
        if what != before:
            before = what
            elapsed = time.perf_counter() - started
            typer.echo(f"{elapsed:7.1f} s {share:4.0%}  {what}", err=True)

    return progress
