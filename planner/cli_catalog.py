"""The `planner batch` and `planner fleet` commands: whole catalogs of services."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli_perfdb import PerfdbPath, SearchPath, console, fail

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
    search_path: SearchPath = None,
    perfdb_path: PerfdbPath = None,
) -> None:
    """Solve every service of a catalog; repeated, only what has changed.

    Example: planner batch examples --out results
    """
    from perfmodel.errors import InputError

    try:
        read = _read(catalog, search_path)
        results = _solved(read, out, workers, scheduler, search, search_path, perfdb_path)
    except InputError as error:
        fail(str(error))
    computed = sum(r.computed for r in results)
    failed = [r for r in results if r.plan is None]
    console().print(
        f"{len(results)} services: {computed} computed, {len(results) - computed} known already, "
        f"{len(failed)} without a plan; {out}"
    )
    for result in failed:
        typer.echo(f"error: {result.name}: {result.error}", err=True)
    if failed:
        raise typer.Exit(FAILED)


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
    from planner.catalog.schedule_figure import draw_schedule
    from planner.catalog.schedule_report import print_schedule
    from planner.figures import check_ending
    from planner.melange import is_melange

    try:
        if is_melange(catalog):
            for_catalogs = {
                "results": results,
                "current": current,
                "scheduler": scheduler,
                "figure": figure,
            }
            _mix(catalog, out, seconds, [f"--{k}" for k, v in for_catalogs.items() if v])
            return
        if results is None:
            fail("--results: expected the folder of the services' results")
        today = NOTHING if current is None else read_current(current)
        read = _read(catalog, search_path)
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
            print_schedule(scheduled, console(), moving=moving)
            left_out = scheduled.left_out
        else:
            found = plan_fleet(read, solved, current=today, search_path=folders, limit_s=seconds)
            write_fleet(found, out)
            print_fleet(found, console(), moving=moving)
            left_out = found.left_out
    except InputError as error:
        fail(str(error), FAILED)
    for name, error_text in left_out.items():
        typer.echo(f"error: {name}: {error_text}", err=True)
    if left_out:
        raise typer.Exit(FAILED)


def _mix(path: Path, out: Path | None, limit_s: float, misplaced: Sequence[str]) -> None:
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
    print_mix(found, console())


def _read(path: Path, search_path: Sequence[Path] | None) -> Catalog:
    """The catalog; what is wrong with single services is said and stops nothing."""
    from planner.catalog import check_prices, load_catalog

    catalog, errors = load_catalog(path)
    for error in errors:
        typer.echo(f"error: {error}", err=True)
    check_prices(catalog, search_path or ())
    return catalog


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
