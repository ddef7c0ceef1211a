"""The `planner whatif` commands: what changes if something else does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planner.cli_catalog import read_catalog
from planner.cli_progress import Quiet, Verbose, progress_bar
from planner.cli_shared import (
    BAD_INPUT,
    INFEASIBLE,
    PageReport,
    PerfdbPath,
    SearchPath,
    fail,
    show_answer,
    status_of,
)

if TYPE_CHECKING:
    from planner.query import Query

whatif = typer.Typer(
    help="What-ifs: grids of changed queries, break-even prices, shadow prices, sensitivities.\n\n"
    "Fields are named as a query names them, devices by name: slo.ttit, workload.qps, "
    "devices.mi300x.usd_per_device_hour. Values: 20ms,40ms or 1..6:6 (from, to, how many) or "
    "x0.5,x1 (times the query's own).",
    no_args_is_help=True,
)

Question = Annotated[Path, typer.Argument(help="Query file, or a plan that `planner solve` wrote.")]
Inventories = Annotated[
    list[str] | None,
    typer.Option("--inventory", help="DEVICE=DEVICES at hand (0: none, unlimited); repeatable."),
]
Prices = Annotated[
    list[str] | None,
    typer.Option("--price", help="DEVICE=PRICES, USD per device-hour; repeatable."),
]
Fixed = Annotated[
    list[str] | None,
    typer.Option("--set", help="FIELD=VALUE, changed before all else; repeatable."),
]
AddDevice = Annotated[
    list[str] | None,
    typer.Option("--add-device", help="A further candidate, by name or file; repeatable."),
]
Json = Annotated[Path | None, typer.Option(help="Write the answer to this JSON (or YAML) file.")]
Csv = Annotated[Path | None, typer.Option(help="Write the table to this CSV file.")]
Figure = Annotated[
    Path | None, typer.Option(help="Draw it: a file that ends in .svg, .png or .html.")
]


@whatif.command()
def grid(
    query: Question,
    vary: Annotated[
        list[str] | None, typer.Option(help="FIELD=VALUES, an axis of the grid; repeatable.")
    ] = None,
    inventory: Inventories = None,
    price: Prices = None,
    changes: Annotated[
        Path | None, typer.Option(help="File of changes (YAML): fields, scenarios, devices.")
    ] = None,
    fixed: Fixed = None,
    add_device: AddDevice = None,
    csv: Csv = None,
    json: Json = None,
    figure: Figure = None,
    report: PageReport = None,
    search_path: SearchPath = None,
    perfdb_path: PerfdbPath = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """The cheapest fleet of every combination of changes.

    Example: planner whatif grid examples/text_agent_llama3_70b.yaml
    --vary slo.ttit=20ms,30ms,40ms,60ms --vary workload.qps=x1,x5 --figure cost.svg
    """
    from planner.whatif.axes import Changes, cells, read_changes, read_options
    from planner.whatif.charts import grid_chart
    from planner.whatif.grid import answer_grid
    from planner.whatif.report import print_grid

    with _answering(csv, json, figure, report) as answer:
        from_file = Changes() if changes is None else read_changes(changes)
        axes = (*from_file.axes, *read_options(vary or [], inventory or [], price or []))
        devices = [*from_file.devices, *(add_device or [])]
        base = _question(query, fixed, devices, search_path)
        asked = cells(base, axes, from_file.folder, search_path or [])
        with progress_bar(verbose, quiet) as progress:
            found = answer_grid(
                asked,
                axes,
                search_path=search_path or [],
                store=_store(perfdb_path),
                progress=progress,
            )
        show, chart = partial(print_grid, found), partial(grid_chart, found)
        answer("What if", "grid", found.to_dict(), show, chart, found.rows())
    if all(answer.plan is None for answer in found.answers):
        raise typer.Exit(INFEASIBLE)


@whatif.command()
def price(
    query: Question,
    device: Annotated[str, typer.Argument(help="A device of the query, by name.")],
    fixed: Fixed = None,
    add_device: AddDevice = None,
    json: Json = None,
    figure: Figure = None,
    report: PageReport = None,
    search_path: SearchPath = None,
    perfdb_path: PerfdbPath = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Below which price a device is in the best fleet, and below which it is alone there.

    Example: planner whatif price examples/safety_llama3_8b.yaml mi300x
    """
    from planner.evaluated import evaluate
    from planner.whatif.charts import price_chart
    from planner.whatif.price import price_curve
    from planner.whatif.report import print_price

    with _answering(None, json, figure, report) as answer:
        base = _question(query, fixed, add_device or [], search_path)
        with progress_bar(verbose, quiet) as progress:
            store, places = _store(perfdb_path), search_path or []
            evaluated = evaluate(base, search_path=places, store=store, progress=progress)
            found = price_curve(evaluated, device)
        show, chart = partial(print_price, found), partial(price_chart, found)
        answer("Break-even price", "price", found.to_dict(), show, chart)


@whatif.command()
def pairing(
    query: Question,
    first: Annotated[str, typer.Argument(help="A device of the query, by name.")],
    second: Annotated[str, typer.Argument(help="Another.")],
    fixed: Fixed = None,
    add_device: AddDevice = None,
    json: Json = None,
    figure: Figure = None,
    report: PageReport = None,
    search_path: SearchPath = None,
    perfdb_path: PerfdbPath = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """At which prices pools of two device types beat the best fleet of one of them.

    Example: planner whatif pairing examples/text_agent_llama3_70b.yaml h100_sxm b200_sxm
    --set workload.qps=400 --figure pairing.svg
    """
    from planner.evaluated import evaluate
    from planner.whatif.charts import pairing_chart
    from planner.whatif.pairing import pairing as pair
    from planner.whatif.report import print_pairing

    with _answering(None, json, figure, report) as answer:
        base = _question(query, fixed, add_device or [], search_path)
        with progress_bar(verbose, quiet) as progress:
            store, places = _store(perfdb_path), search_path or []
            evaluated = evaluate(base, search_path=places, store=store, progress=progress)
            found = pair(evaluated, first, second)
        show, chart = partial(print_pairing, found), partial(pairing_chart, found)
        answer("Pairing of two device types", "pairing", found.to_dict(), show, chart)


@whatif.command()
def shadow(
    query: Question,
    within: Annotated[
        float, typer.Option(help="Targets are loosened and tightened by up to this factor.")
    ] = 2.0,
    fixed: Fixed = None,
    add_device: AddDevice = None,
    json: Json = None,
    report: PageReport = None,
    search_path: SearchPath = None,
    perfdb_path: PerfdbPath = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """What each latency target costs per millisecond, and each inventory per further host.

    Example: planner whatif shadow examples/text_agent_llama3_70b.yaml
    --set devices.b200_sxm.inventory=16 --set workload.qps=200
    """
    from planner.whatif.report import print_shadow
    from planner.whatif.shadow import shadow_prices

    with _answering(None, json, None, report) as answer:
        base = _question(query, fixed, add_device or [], search_path)
        with progress_bar(verbose, quiet) as progress:
            found = shadow_prices(
                base,
                within=within,
                search_path=search_path or [],
                store=_store(perfdb_path),
                progress=progress,
            )
        answer("Shadow prices", "shadow", found.to_dict(), partial(print_shadow, found))


@whatif.command()
def tornado(
    query: Question,
    by: Annotated[float, typer.Option(help="Share by which each input is changed.")] = 0.1,
    fixed: Fixed = None,
    add_device: AddDevice = None,
    csv: Csv = None,
    json: Json = None,
    figure: Figure = None,
    report: PageReport = None,
    search_path: SearchPath = None,
    perfdb_path: PerfdbPath = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Is the choice robust? Prices, demand, targets, lengths, and the estimator's own error.

    Example: planner whatif tornado examples/text_agent_llama3_70b.yaml --figure tornado.svg
    """
    from planner.whatif.charts import tornado_chart
    from planner.whatif.report import print_tornado
    from planner.whatif.sensitivity import swing_rows
    from planner.whatif.sensitivity import tornado as sensitivities

    with _answering(csv, json, figure, report) as answer:
        base = _question(query, fixed, add_device or [], search_path)
        with progress_bar(verbose, quiet) as progress:
            found = sensitivities(
                base,
                by=by,
                search_path=search_path or [],
                store=_store(perfdb_path),
                progress=progress,
            )
        show, chart = partial(print_tornado, found), partial(tornado_chart, found)
        rows = swing_rows(found)
        answer("Is the choice robust?", "tornado", found.to_dict(), show, chart, rows)


@whatif.command()
def catalog(
    services: Annotated[
        Path, typer.Argument(help="Catalog (YAML), or a folder of query files, one a service.")
    ],
    results: Annotated[Path, typer.Option(help="Folder of results, which `planner batch` uses.")],
    inventory: Inventories = None,
    price: Prices = None,
    seconds: Annotated[float, typer.Option(min=1, help="Time for each assignment.")] = 60.0,
    csv: Csv = None,
    json: Json = None,
    report: PageReport = None,
    search_path: SearchPath = None,
    perfdb_path: PerfdbPath = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """A catalog's fleet at other inventories and prices; without any, what a further host saves.

    Services choose among the plans that a batch has found, or now finds, for each. DEVICE@REGION
    is the inventory or price of one region.

    Example: planner whatif catalog examples/catalogs/three_services.yaml --results results
    --inventory h100_sxm=16,24,32 --price h200_sxm=x0.5,x1
    """
    from perfmodel.units import format_count
    from planner.catalog import Settings, local_processes, run_batch
    from planner.whatif.axes import read_options
    from planner.whatif.catalog import answer_catalog, catalog_host_prices
    from planner.whatif.catalog_report import grid_rows, host_rows, print_rows

    with _answering(csv, json, None, report) as answer:
        axes = read_options((), inventory or [], price or [])
        read, wrong = read_catalog(services, search_path)
        settings = Settings(
            search_path=tuple(search_path or ()), perfdb_path=tuple(perfdb_path or ())
        )
        with local_processes(None) as (executor, count), progress_bar(verbose, quiet) as progress:
            progress(f"solving {format_count(len(read.services), 'service')}", 0.0)
            solved = run_batch(read.services, results, settings, executor, count, progress)
        left_out = [result for result in solved if result.plan is None]
        for result in left_out:
            typer.echo(f"error: {result.name}: left out: {result.error}", err=True)
        places, limit = search_path or [], seconds
        with progress_bar(verbose, quiet) as progress:
            progress("assigning services to hosts", 0.0)
            if axes:
                cells = answer_catalog(read, solved, axes, search_path=places, limit_s=limit)
                rows = grid_rows(cells)
            else:
                hosts = catalog_host_prices(read, solved, search_path=places, limit_s=limit)
                rows = host_rows(hosts)
        show = partial(print_rows, rows)
        answer("A catalog's fleet, if", "catalog", {"rows": rows}, show, rows=rows)
    if wrong or left_out or all(row["usd_per_hour"] is None for row in rows):
        raise typer.Exit(BAD_INPUT if wrong else INFEASIBLE)


@contextmanager
def _answering(
    csv: Path | None, json: Path | None, figure: Path | None, report: Path | None
) -> Iterator[Callable[..., None]]:
    """Refuse files that can't be written before any work; print what is wrong, and exit.

    Gives `_answer` for these files.
    """
    from perfmodel.errors import InputError
    from planner.figures import check_ending
    from planner.files import check_writable

    try:
        check_writable(csv, json, report)
        if figure is not None:
            check_ending(figure)
        yield partial(_answer, csv=csv, json=json, figure=figure, report=report)
    except InputError as error:
        fail(str(error), status_of(error))


def _answer(
    title: str,
    kind: str,
    data: Mapping[str, Any],
    show: Callable[[Any], None],
    chart: Callable[[], Any] | None = None,
    rows: Sequence[Mapping[str, Any]] = (),
    *,
    csv: Path | None,
    json: Path | None,
    figure: Path | None,
    report: Path | None,
) -> None:
    """Write an answer to the files that are asked for, and print it.

    Args:
        title: of the page, and of its figure.
        kind: of what-if, for the schema of the JSON file.
        show: prints to the console that it is given.
        rows: of the CSV file.
    """
    from planner.whatif.files import write_data, write_rows

    if csv is not None:
        write_rows(rows, csv)
    if json is not None:
        write_data(kind, data, json)
    show_answer(title, show, figure, report, chart)


def _question(
    path: Path, fixed: list[str] | None, devices: list[str], search_path: list[Path] | None
) -> Query:
    """The query, with further devices and other values."""
    from perfmodel.errors import InputError
    from planner.whatif.axes import read_options
    from planner.whatif.fields import with_devices, with_values
    from planner.whatif.files import read_question

    query = with_devices(read_question(path), devices)
    axes = read_options(fixed or [], option="--set")
    for axis in axes:
        if len(axis.settings) > 1:
            raise InputError(f"--set {axis.name}: expected one value, got {len(axis.settings)}")
    changes = [change for axis in axes for change in axis.settings[0].changes]
    return with_values(query, changes, search_path=search_path or [])


def _store(perfdb_path: list[Path] | None) -> Any:
    from perfmodel.database import PerfStore

    return PerfStore(perfdb_path or [])
