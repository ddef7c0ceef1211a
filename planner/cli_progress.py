"""A progress bar on standard error, for what takes longer than two seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE_S = 2.0
"""What is done sooner shows no bar."""


@contextmanager
def progress_bar() -> Iterator[Callable[[str, float], None]]:
    """A function that is told what is being done, and the share done; silent where nobody looks."""
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
