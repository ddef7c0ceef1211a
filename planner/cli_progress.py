"""Progress on standard error, of what takes longer than two seconds: a bar, in a pipe lines."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

if TYPE_CHECKING:
    from rich.console import Console

PATIENCE_S = 2.0
"""What is done sooner is done in silence."""

LINE_EVERY_S = 5.0
"""Lines in a pipe are at least so far apart."""

Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Say each step on standard error, when it begins."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing of the progress.")]

Progress = Callable[[str, float], None]
"""Is told what is being done, and the share done."""


class _Shown(Protocol):
    def start(self) -> None: ...

    def update(self, what: str, share: float) -> None: ...

    def stop(self) -> None: ...


@contextmanager
def progress_bar(verbose: bool = False, quiet: bool = False) -> Iterator[Progress]:
    """A function that is told what is being done, and the share done.

    Args:
        verbose: a line for each step, from the first on; goes before `quiet`.
        quiet: nothing is shown.
    """
    from rich.console import Console

    if quiet and not verbose:
        yield lambda _what, _share: None
        return
    aside = Console(stderr=True)
    shown: _Shown = _Bar(aside)
    if verbose or not aside.is_interactive:
        shown = _Lines(every_s=0.0 if verbose else LINE_EVERY_S)
    # A timer: the first step may take longer than one has patience.
    timer = threading.Timer(PATIENCE_S, shown.start)
    timer.daemon = True
    if verbose:
        shown.start()
    else:
        timer.start()
    try:
        yield shown.update
    finally:
        timer.cancel()
        if timer.is_alive():
            timer.join()
        shown.stop()


class _Bar:
    def __init__(self, aside: Console) -> None:
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        text = TextColumn("{task.description}", markup=False)
        # Answers stay on standard output, which may be a file.
        self.bar = Bar(
            *(text, BarColumn(), TimeElapsedColumn()),
            console=aside,
            transient=True,
            redirect_stdout=False,
        )
        self.task = self.bar.add_task("", total=1.0)

    def start(self) -> None:
        self.bar.start()

    def stop(self) -> None:
        if self.bar.live.is_started:
            self.bar.stop()

    def update(self, what: str, share: float) -> None:
        self.bar.update(self.task, description=what, completed=share)


class _Lines:
    """Seconds since the start, share done, and what begins."""

    def __init__(self, every_s: float) -> None:
        self.every_s, self.began = every_s, time.perf_counter()
        self.started, self.latest, self.said, self.next_s = False, ("", 0.0), "", 0.0

    def start(self) -> None:
        self.started = True
        self._say()

    def update(self, what: str, share: float) -> None:
        self.latest = (what, share)
        if self.started:
            self._say()

    def stop(self) -> None:
        """Nothing to undo."""

    def _say(self) -> None:
        (what, share), elapsed = self.latest, time.perf_counter() - self.began
        if what != self.said and elapsed >= self.next_s:
            self.said, self.next_s = what, elapsed + self.every_s
            typer.echo(f"{elapsed:7.1f} s {share:4.0%}  {what}", err=True)
