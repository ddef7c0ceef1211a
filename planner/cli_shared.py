"""What all commands share: options, exit statuses, and how answers and errors leave them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console

BAD_INPUT = 2
INFEASIBLE = 3
"""No fleet serves what is asked, or a deployment's target cannot be told all of a plan."""

SearchPath = Annotated[
    list[Path] | None,
    typer.Option("--search-path", help="Folder with further device or model files; repeatable."),
]
PerfdbPath = Annotated[
    list[Path] | None,
    typer.Option("--perfdb", help="Folder of measured tables, searched first; repeatable."),
]
PageReport = Annotated[
    Path | None,
    typer.Option("--report", help="Write it as a page of HTML that opens without a network."),
]


def console() -> Console:
    """Where answers are printed."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=False)


def fail(message: str, status: int = BAD_INPUT) -> NoReturn:
    """End the command with a message on standard error."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(status)


def status_of(error: Exception) -> int:
    """The exit status of a command that ends with this error."""
    from planner.infeasible import InfeasibleError

    return INFEASIBLE if isinstance(error, InfeasibleError) else BAD_INPUT


def show_answer(
    title: str,
    show: Callable[[Any], None],
    figure: Path | None,
    report: Path | None,
    chart: Callable[[], Any] | None = None,
    caption: str = "",
) -> None:
    """Print an answer; draw it, and write its page, where that is asked for.

    Args:
        title: of the page.
        show: prints to the console that it is given.
        chart: the figure, which the page has too; None: there is none.
        caption: of the figure on the page; the title if not given.
    """
    show(console())
    drawn = chart() if chart is not None and (figure or report) else None
    if figure is not None and drawn is not None:
        from planner.figures import write_figure

        write_figure(drawn, figure)
    if report is not None:
        from planner.web.pages import write_page

        write_page(report, title, show, {} if drawn is None else {caption or title: drawn})
