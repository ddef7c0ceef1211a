"""The `planner batch` and `planner fleet` commands: whole catalogs of services."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planner.cli_progress import Quiet, Verbose, progress_bar
from planner.cli_shared import (
    BAD_INPUT,
    INFEASIBLE,
    PageReport,
    PerfdbPath,
    SearchPath,
    console,
    fail,
    show_answer,
)

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from planner.catalog import Catalog, Result, Settings
    from planner.catalog.fleet import Current
    from planner.cli_progress import Progress
    from planner.melange import Mix

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
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Solve every service of a catalog; repeated, only what has changed.

    Example: planner batch examples --out results
    """
    from perfmodel.errors import InputError
    from planner.catalog.report import print_results, print_services
    from planner.files import check_writable
    from planner.web.pages import write_page

    try:
        check_writable(report)
        read, wrong = read_catalog(catalog, search_path)
        with progress_bar(verbose, quiet) as progress:
            settings = _settings(search, search_path, perfdb_path)
            results = _solved(read, out, workers, scheduler, settings, progress)
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
        if not quiet:
            print_services(results, console())
    for result in failed:
        typer.echo(f"error: {result.name}: {result.error}", err=True)
    if wrong or failed:
        raise typer.Exit(BAD_INPUT if wrong else INFEASIBLE)


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
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """The cheapest hosts for all services of a catalog together, and who runs on which.

    A JSON file in Mélange's form (workload_distribution, gpu_info, total_request_rate,
    slice_factor) is answered with the cheapest mix of device types.

    Example: planner fleet examples/catalogs/three_services.yaml --results results
    """
    from perfmodel.errors import InputError
    from planner.catalog import NOTHING, plan_fleet, plan_over_time, read_current, write_fleet
    from planner.catalog.report import print_fleet
    from planner.catalog.schedule_figure import schedule_figure
    from planner.catalog.schedule_plan import ScheduledFleet
    from planner.catalog.schedule_report import print_schedule
    from planner.figures import check_ending
    from planner.files import check_writable
    from planner.melange import is_melange, write_mix
    from planner.melange_report import print_mix

    try:
        check_writable(out, report)
        if is_melange(catalog):
            for_catalogs = {
                "results": results,
                "current": current,
                "scheduler": scheduler,
                "figure": figure,
            }
            misplaced = [f"--{k}" for k, v in for_catalogs.items() if v]
            with progress_bar(verbose, quiet) as progress:
                progress("looking for the cheapest mix", 0.0)
                mix = _mix(catalog, seconds, misplaced)
            if out is not None:
                write_mix(mix, out)
            show_answer(_title(catalog), partial(print_mix, mix), None, report)
            return
        read, wrong = read_catalog(catalog, search_path)
        if results is None:
            fail("--results: expected the folder of the services' results")
        today = NOTHING if current is None else read_current(current)
        _say_unknown(today, current, read, search_path or ())
        if figure is not None:
            check_ending(figure)
            if not read.over_time:
                fail("--figure: nothing in this catalog changes over time (no demand, no prices)")
        with progress_bar(verbose, quiet) as progress:
            settings = _settings(search, search_path, perfdb_path)
            solved = _solved(read, results, workers, scheduler, settings, progress)
    except InputError as error:
        fail(str(error))
    show: Callable[[Any], None]
    chart: Callable[[], Any] | None = None
    try:
        with progress_bar(verbose, quiet) as progress:
            progress("assigning services to hosts", 0.0)
            plan = plan_over_time if read.over_time else plan_fleet
            found = plan(
                read, solved, current=today, search_path=search_path or [], limit_s=seconds
            )
    except InputError as error:
        fail(str(error), BAD_INPUT if wrong else INFEASIBLE)
    try:
        write_fleet(found, out)
        if isinstance(found, ScheduledFleet):
            show = partial(print_schedule, found, moving=current is not None)
            chart = partial(schedule_figure, found)
        else:
            show = partial(print_fleet, found, moving=current is not None)
        show_answer(_title(catalog), show, figure, report, chart, "Hosts over time")
    except InputError as error:
        fail(str(error))
    for name, error_text in found.left_out.items():
        typer.echo(f"error: {name}: {error_text}", err=True)
    if wrong:
        typer.echo(f"error: the fleet is without{_not_read(wrong)[1:]}", err=True)
    if wrong or found.left_out:
        raise typer.Exit(BAD_INPUT if wrong else INFEASIBLE)


def _title(catalog: Path) -> str:
    return f"The fleet of {catalog}"


def _mix(path: Path, limit_s: float, misplaced: Sequence[str]) -> Mix:
    """Answer Mélange's problem."""
    from perfmodel.errors import ConfigError
    from planner.melange import cheapest_mix, read_melange

    if misplaced:
        raise ConfigError(f"{', '.join(misplaced)}: for catalogs; {path} has no services")
    try:
        return cheapest_mix(read_melange(path), limit_s=limit_s)
    except TimeoutError as error:
        fail(str(error), INFEASIBLE)


def _say_unknown(
    today: Current, source: Path | None, catalog: Catalog, search_path: Sequence[Path]
) -> None:
    """Name services of today's fleet that the catalog does not have, and unknown devices."""
    from perfmodel.errors import InputError
    from perfmodel.hardware import load_device

    known = {service.name for service in catalog.services}
    if unknown := [name for name in today.devices if name not in known]:
        typer.echo(
            f"note: {source}: no service of the catalog is called {', '.join(unknown)}; left aside",
            err=True,
        )
    for device in sorted({device for counts in today.devices.values() for device in counts}):
        try:
            load_device(device, search_path)
        except InputError as error:
            typer.echo(f"note: {source}: {error}; services on it are moved", err=True)


def _not_read(wrong: int) -> str:
    """How many services are wrong, to go on with; empty if none."""
    return f", {wrong} service{'s' * (wrong != 1)} with bad input" if wrong else ""


def read_catalog(path: Path, search_path: Sequence[Path] | None) -> tuple[Catalog, int]:
    """The catalog, and how many services are wrong: that is said, and stops no others.

    Raises:
        ConfigError: it is none, or about devices that nobody uses.
        typer.Exit: all of its services are wrong.
    """
    from planner.catalog import check_devices, load_catalog

    catalog, errors = load_catalog(path)
    for error in errors:
        typer.echo(f"error: {error}", err=True)
    if not catalog.services:
        raise typer.Exit(BAD_INPUT)
    check_devices(catalog, search_path or ())
    return catalog, len(errors)


def _settings(
    search: str, search_path: Sequence[Path] | None, perfdb_path: Sequence[Path] | None
) -> Settings:
    """How every service is solved.

    Raises:
        ConfigError: there is no such search.
    """
    from perfmodel.errors import ConfigError
    from planner.catalog import Settings

    if search not in ("exhaustive", "tpe"):
        raise ConfigError(f"--search: expected exhaustive or tpe, got {search!r}")
    return Settings(
        search=search, search_path=tuple(search_path or ()), perfdb_path=tuple(perfdb_path or ())
    )


def _solved(
    catalog: Catalog,
    folder: Path,
    workers: int | None,
    scheduler: str | None,
    settings: Settings,
    progress: Progress,
) -> list[Result]:
    """A result for each of the services."""
    from perfmodel.units import format_count
    from planner.catalog import dask_cluster, local_processes, run_batch

    progress("starting", 0.0)
    where: AbstractContextManager[tuple[Executor, int]] = (
        dask_cluster(scheduler) if scheduler else local_processes(workers)
    )
    with where as (executor, count):
        progress(f"solving {format_count(len(catalog.services), 'service')}", 0.0)
        return run_batch(catalog.services, folder, settings, executor, count, progress)
