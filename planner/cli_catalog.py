"""The `planner batch` and `planner fleet` commands: whole catalogs of services."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planner.cli_perfdb import (
    BAD_INPUT,
    PageReport,
    PerfdbPath,
    SearchPath,
    console,
    fail,
)

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from planner.catalog import Catalog, Result

FAILED = 3
"""Exit status where a service has no plan, or the inventories do not suffice."""

CatalogPath = Annotated[
    Path, typer.Argument(help="Catalog (YAML), or a folder of query files, one a service.")
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes; as many as processors if not given.")
]
Scheduler = Annotated[
    str | None, typer.Option(help="A Dask scheduler (tcp://host:port) instead of processes.")
]


def batch(
    catalog: CatalogPath,
    out: Annotated[Path, typer.Option(help="Folder for a result per service, and a summary.")],
    workers: Workers = None,
    scheduler: Scheduler = None,
    search: Annotated[str, typer.Option(help="exhaustive or tpe.")] = "exhaustive",
    report: PageReport = None,
    search_path: SearchPath = None,
    perfdb_path: PerfdbPath = None,
) -> None:
    """Solve every service of a catalog; repeated, only what has changed.

    Example: planner batch examples --out results
    """
    from perfmodel.errors import InputError
    from planner.catalog.report import print_results
    from planner.web.pages import write_page

    try:
        _writable(report)
        read, wrong = _read(catalog, search_path)
        results = _solved(read, out, workers, scheduler, search, search_path, perfdb_path)
        if report is not None:
            write_page(report, f"Services of {catalog}", partial(print_results, results), {})
    except InputError as error:
        fail(str(error))
    computed = sum(r.computed for r in results)
    failed = [r for r in results if r.plan is None]
    console().print(
        f"{len(results)} services: {computed} computed, {len(results) - computed} known already, "
        f"{len(failed)} without a plan{_not_read(wrong)}; {out}"
    )
    found = [r.plan["best"]["usd_per_hour"] for r in results if r.plan is not None]
    if found:
        console().print(
            f"${sum(found):,.2f} per hour, each on hosts of its own and without the catalog's "
            "inventories and spare hosts, with which `planner fleet` plans all together"
        )
    for result in failed:
        typer.echo(f"error: {result.name}: {result.error}", err=True)
    if wrong or failed:
        raise typer.Exit(BAD_INPUT if wrong else FAILED)


def fleet(
    catalog: Annotated[
        Path,
        typer.Argument(
            help="Catalog (YAML), a folder of query files, or requests by size and what devices "
            "serve of them (JSON)."
        ),
    ],
    results: Annotated[
        Path | None,
        typer.Option(help="Folder of results, which `batch` also uses; a catalog needs it."),
    ] = None,
    current: Annotated[
        Path | None, typer.Option(help="Today's fleet (YAML): what should be moved?")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the fleet to this file.")] = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    search: Annotated[str, typer.Option(help="exhaustive or tpe.")] = "exhaustive",
    seconds: Annotated[float, typer.Option(min=1, help="Time for the assignment.")] = 60.0,
    figure: Annotated[
        Path | None,
        typer.Option(help="Draw the hosts over time: a file that ends in .svg, .png or .html."),
    ] = None,
    report: PageReport = None,
    search_path: SearchPath = None,
    perfdb_path: PerfdbPath = None,
) -> None:
    """The cheapest hosts for all services of a catalog together, and who runs on which.

    A JSON file in Mélange's form (workload_distribution, gpu_info, total_request_rate,
    slice_factor) is answered with the cheapest mix of device types.

    Example: planner fleet examples/catalogs/three_services.yaml --results results
    """
    from perfmodel.errors import InputError
    from planner.catalog import NOTHING, plan_fleet, plan_over_time, read_current, write_fleet
    from planner.catalog.report import print_fleet
    from planner.catalog.schedule_figure import draw_schedule, schedule_figure
    from planner.catalog.schedule_report import print_schedule
    from planner.figures import check_ending
    from planner.melange import is_melange

    try:
        _writable(report)
        if is_melange(catalog):
            for_catalogs = {
                "results": results,
                "current": current,
                "scheduler": scheduler,
                "figure": figure,
            }
            misplaced = [f"--{k}" for k, v in for_catalogs.items() if v]
            _mix(catalog, out, seconds, misplaced, report)
            return
        if results is None:
            fail("--results: expected the folder of the services' results")
        today = NOTHING if current is None else read_current(current)
        read, wrong = _read(catalog, search_path)
        if figure is not None:
            check_ending(figure)
            if not read.over_time:
                fail("--figure: nothing in this catalog changes over time (no demand, no prices)")
        solved = _solved(read, results, workers, scheduler, search, search_path, perfdb_path)
    except InputError as error:
        fail(str(error))
    moving = current is not None
    folders = search_path or []
    try:
        if read.over_time:
            scheduled = plan_over_time(
                read, solved, current=today, search_path=folders, limit_s=seconds
            )
            write_fleet(scheduled, out)
            draw_schedule(scheduled, figure)
            show: Callable[[Any], None] = partial(print_schedule, scheduled, moving=moving)
            charts = {"Hosts over time": schedule_figure(scheduled)} if report else {}
            left_out = scheduled.left_out
        else:
            found = plan_fleet(read, solved, current=today, search_path=folders, limit_s=seconds)
            write_fleet(found, out)
            show, charts = partial(print_fleet, found, moving=moving), {}
            left_out = found.left_out
        _show(catalog, show, report, charts)
    except InputError as error:
        fail(str(error), FAILED)
    for name, error_text in left_out.items():
        typer.echo(f"error: {name}: {error_text}", err=True)
    if wrong:
        typer.echo(f"error: the fleet is without{_not_read(wrong)[1:]}", err=True)
    if wrong or left_out:
        raise typer.Exit(BAD_INPUT if wrong else FAILED)


def _writable(report: Path | None) -> None:
    """Refuse a page that can't be written, before any work."""
    from perfmodel.errors import ConfigError

    if report is not None and not report.absolute().parent.is_dir():
        raise ConfigError(f"{report}: the folder does not exist")


def _show(
    catalog: Path,
    show: Callable[[Any], None],
    report: Path | None,
    charts: Mapping[str, Any] | None = None,
) -> None:
    """Print the answer, and write its page, where that is asked for."""
    show(console())
    if report is not None:
        from planner.web.pages import write_page

        write_page(report, f"The fleet of {catalog}", show, charts or {})


def _mix(
    path: Path, out: Path | None, limit_s: float, misplaced: Sequence[str], report: Path | None
) -> None:
    """Answer Mélange's problem."""
    from perfmodel.errors import ConfigError
    from planner.melange import cheapest_mix, read_melange, write_mix
    from planner.melange_report import print_mix

    if misplaced:
        raise ConfigError(f"{', '.join(misplaced)}: for catalogs; {path} has no services")
    try:
        found = cheapest_mix(read_melange(path), limit_s=limit_s)
    except TimeoutError as error:
        fail(str(error), FAILED)
    if out is not None:
        write_mix(found, out)
    _show(path, partial(print_mix, found), report)


def _not_read(wrong: int) -> str:
    """How many services are wrong, to go on with; empty if none."""
    return f", {wrong} service{'s' * (wrong != 1)} with bad input" if wrong else ""


def _read(path: Path, search_path: Sequence[Path] | None) -> tuple[Catalog, int]:
    """The catalog, and how many services are wrong: that is said, and stops no others."""
    from planner.catalog import check_devices, load_catalog

    catalog, errors = load_catalog(path)
    for error in errors:
        typer.echo(f"error: {error}", err=True)
    check_devices(catalog, search_path or ())
    return catalog, len(errors)


def _solved(
    catalog: Catalog,
    folder: Path,
    workers: int | None,
    scheduler: str | None,
    search: str,
    search_path: Sequence[Path] | None,
    perfdb_path: Sequence[Path] | None,
) -> list[Result]:
    """A result for each of the services."""
    from rich.console import Console
    from rich.progress import Progress

    from perfmodel.errors import ConfigError
    from planner.catalog import Settings, dask_cluster, local_processes, run_batch

    if search not in ("exhaustive", "tpe"):
        raise ConfigError(f"--search: expected exhaustive or tpe, got {search!r}")
    settings = Settings(
        search=search,
        search_path=tuple(search_path or ()),
        perfdb_path=tuple(perfdb_path or ()),
    )
    where: AbstractContextManager[tuple[Executor, int]] = (
        dask_cluster(scheduler) if scheduler else local_processes(workers)
    )
    aside = Console(stderr=True)
    with (
        where as (executor, count),
        Progress(console=aside, transient=True, disable=not aside.is_terminal) as bar,
    ):
        task = bar.add_task("solving", total=1.0)
        return run_batch(
            catalog.services,
            folder,
            settings,
            executor,
            count,
            lambda name, share: bar.update(task, description=name, completed=share),
        )
