"""The `planner perfdb` commands: the measured tables."""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from planner.cli_progress import Quiet, Verbose, progress_bar
from planner.cli_shared import BAD_INPUT, PerfdbPath, SearchPath, console, fail

if TYPE_CHECKING:
    from perfmodel.coverage import ModelCoverage
    from perfmodel.database import PerfStore
    from perfmodel.database.coverage import TableCheck
    from perfmodel.provenance import PhaseProvenance

perfdb = typer.Typer(
    help="The measured-performance database.\n\nExample: planner perfdb list", no_args_is_help=True
)


@perfdb.command("list")
def perfdb_list(
    path: Annotated[
        list[Path] | None, typer.Argument(help="Folders before the shipped one.")
    ] = None,
) -> None:
    """List measured tables: device, engine, version, rows.

    Example: planner perfdb list my_tables
    """
    from rich.table import Table

    from perfmodel.database import PerfStore
    from perfmodel.errors import InputError

    table = Table("device", "engine", box=None, padding=(0, 2, 0, 0))
    table.add_column("version", overflow="fold")
    table.add_column("family", no_wrap=True)
    table.add_column("rows", justify="right")
    try:
        for info in PerfStore(path or []).describe():
            table.add_row(
                info.device, info.engine, " ".join(info.versions), info.family, f"{info.rows:,}"
            )
    except InputError as error:
        fail(str(error))
    console().print(table)


@perfdb.command("import")
def perfdb_import(
    source: Annotated[
        Path, typer.Argument(help="Folder of an unpacked aiconfigurator-core, or Vidur's.")
    ],
    destination: Annotated[Path, typer.Argument(help="Folder to write tables to.")],
    device: Annotated[list[str] | None, typer.Option(help="Only this device; repeatable.")] = None,
    engine: Annotated[list[str] | None, typer.Option(help="Only this engine; repeatable.")] = None,
    format: Annotated[
        str | None, typer.Option(help="aiconfigurator or vidur; by default what is found.")
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Import measured operator tables of others; use them with `solve --perfdb`.

    Example: planner perfdb import site-packages/aiconfigurator_core my_tables
    """
    from perfmodel.database import import_aiconfigurator, import_vidur
    from perfmodel.errors import InputError
    from planner.perfdb_report import imported_table

    producer = format or _producer(source)
    if producer not in ("aiconfigurator", "vidur"):
        fail(f"--format: expected aiconfigurator or vidur, got {producer!r}")
    if producer == "vidur" and set(engine or []) - {import_vidur.ENGINE}:
        fail(f"--engine: Vidur's tables are all of engine {import_vidur.ENGINE}")
    try:
        with progress_bar(verbose, quiet) as progress:
            if producer == "vidur":
                tables = import_vidur.import_tables(
                    source, destination, device or None, progress=progress
                )
            else:
                tables = import_aiconfigurator.import_tables(
                    source, destination, device or None, engine or None, progress=progress
                )
    except InputError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or destination}: {error.strerror or error}")
    console().print(imported_table(tables))
    refused = [table for table in tables if table.status == "refused"]
    if refused:
        fail(f"{len(refused)} of {len(tables)} tables refused; nothing was written for them")


def _producer(source: Path) -> str:
    """Whose tables a folder holds."""
    if (source / "systems" / "data").is_dir():
        return "aiconfigurator"
    if (source / "data" / "profiling").is_dir():
        return "vidur"
    fail(f"{source}: expected systems/data (aiconfigurator-core) or data/profiling (Vidur) in it")


@perfdb.command("show")
def perfdb_show(
    device: Annotated[str, typer.Argument(help="Device; see `planner perfdb list`.")],
    engine: Annotated[str, typer.Argument(help="trtllm, vllm, sglang, nccl or pytorch.")],
    family: Annotated[str, typer.Argument(help="Family of operators, such as gemm.")],
    where: Annotated[
        list[str] | None, typer.Option(help="Only rows with COLUMN=VALUE; repeatable.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many rows (default: 20; all as CSV).")
    ] = None,
    columns: Annotated[bool, typer.Option("--columns", help="Explain the columns.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Every column, as CSV.")] = False,
    perfdb_path: PerfdbPath = None,
) -> None:
    """Show the rows of one table.

    Example: planner perfdb show h200_sxm trtllm gemm --where dtype=fp8 --where m=64
    """
    from perfmodel.database import FAMILIES, PerfStore
    from perfmodel.errors import InputError
    from planner.perfdb_report import columns_table, print_rows, selected

    try:
        store = PerfStore(perfdb_path or [])
        _known(store, device, engine)
        _one_of("family", family, store.families(device, engine), FAMILIES)
        table = store.table(device, engine, family)
        assert table is not None
        rows = selected(table, FAMILIES[family], where or [])
    except InputError as error:
        fail(str(error))
    if columns:
        console().print(columns_table(FAMILIES[family], table))
    elif csv:
        typer.echo(rows.head(limit or rows.height).write_csv(), nl=False)
    else:
        print_rows(rows, FAMILIES[family], limit or 20, console())


@perfdb.command("check")
def perfdb_check(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Folders of tables (default: the shipped one).")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Print sound tables too.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Read every table whole: schema, values, shapes given twice, collectors' checksums.

    Prints the tables with problems or warnings, and how many are sound.

    Rows that cannot well be true are warnings: more than 10 % faster than their roofline, or
    more than twice as slow as the next larger call along the token axis.

    Example: planner perfdb check my_tables
    """
    from rich.padding import Padding
    from rich.text import Text

    from perfmodel.database.coverage import check_folder
    from perfmodel.database.store import SHIPPED
    from perfmodel.errors import InputError

    folders = folders or [SHIPPED]
    count = sum(1 for folder in folders for _ in folder.glob("*/*/*.parquet"))
    checked: list[tuple[TableCheck, list[str]]] = []
    problems = []
    with progress_bar(verbose, quiet) as progress:
        for folder in folders:
            try:
                for found in check_folder(folder):
                    doubts = [] if found.problem else _implausible(folder, *found.name.split("/"))
                    checked.append((found, doubts))
                    progress(found.name, min(len(checked) / max(count, 1), 1.0))
            except InputError as error:
                problems.append(str(error))
    for found, doubts in checked:
        if everything or found.problem or doubts:
            state = "BAD" if found.problem else "ok "
            manifest = ", checksum" if found.manifest and not found.problem else ""
            typer.echo(
                f"{state} {found.name}: {found.rows:,} rows, "
                f"{found.duplicates:,} duplicates{manifest}"
            )
        for warning in doubts:
            console().print(Padding(Text(f"warning: {warning}"), (0, 0, 0, 4)))
    problems += [found.problem for found, _ in checked if found.problem]
    rows = sum(found.rows for found, _ in checked)
    sound = sum(not (found.problem or doubts) for found, doubts in checked)
    warnings = sum(len(doubts) for _, doubts in checked)
    typer.echo(
        f"{len(checked):,} tables, {rows:,} rows, {sound:,} sound, {len(problems)} problems, "
        f"{warnings:,} warnings"
    )
    for problem in problems:
        typer.echo(f"error: {problem}", err=True)
    if problems:
        raise typer.Exit(BAD_INPUT)


def _implausible(folder: Path, device: str, engine: str, family: str) -> list[str]:
    """What physics says against a sound table; a device without a file has no rooflines."""
    from perfmodel.database import FAMILIES, PerfStore
    from perfmodel.database.audit import physics
    from perfmodel.hardware import device_names, load_device

    table = PerfStore([folder], shipped=False).table(device, engine, family)
    assert table is not None
    machine = load_device(device, [folder]) if device in device_names([folder]) else None
    return physics(table, FAMILIES[family], machine, engine).warnings


@perfdb.command("collect")
def perfdb_collect(
    destination: Annotated[Path, typer.Argument(help="Folder to write tables to.")],
    device: Annotated[str, typer.Option(help="What to measure: cpu or cuda.")],
    name: Annotated[
        str | None, typer.Option(help="The device's name (default: local_cpu or local_cuda).")
    ] = None,
    family: Annotated[list[str] | None, typer.Option(help="Only this family; repeatable.")] = None,
    budget_s: Annotated[float, typer.Option(help="Seconds to spend.")] = 600.0,
    error: Annotated[
        float, typer.Option(help="Error of interpolation to reach at the 90th percentile.")
    ] = 0.05,
    model: Annotated[
        list[str] | None, typer.Option(help="Also this model's own shapes; repeatable.")
    ] = None,
    world: Annotated[
        int, typer.Option(help="Devices (cpu: processes) to measure collectives over.")
    ] = 1,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Measure anew what an earlier call measured.")
    ] = False,
    search_path: SearchPath = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Measure this machine's operators with PyTorch; interrupted, it goes on where it stopped.

    Several threads of a CPU that other work disturbs cannot be timed, and such shapes are left
    out: on a busy machine set OMP_NUM_THREADS=1, of which the time it had a core is measured.

    Example: planner perfdb collect my_tables --device cpu --budget-s 300
    """
    from perfmodel.architecture import load_model
    from perfmodel.collect import FAMILIES, collect
    from perfmodel.errors import InputError
    from planner.perfdb_report import print_collected

    if device != "cpu" and device != "cuda":
        fail(f"--device: expected cpu or cuda, got {device!r}")
    for option, value in (("--budget-s", budget_s), ("--error", error)):
        if not value > 0:
            fail(f"{option}: expected more than 0, got {value:g}")
    kind: Literal["cpu", "cuda"] = "cuda" if device == "cuda" else "cpu"

    try:
        with progress_bar(verbose, quiet) as progress:
            report = collect(
                kind,
                destination,
                name=name or f"local_{device}",
                families=family or FAMILIES,
                budget_s=budget_s,
                error_bound=error,
                resume=not fresh,
                progress=lambda share, text: progress(text, share),
                world=world,
                models=[load_model(one, search_path or []) for one in model or []],
                warn=lambda text: typer.echo(f"warning: {text}", err=True),
            )
    except InputError as problem:
        fail(str(problem))
    except OSError as problem:
        fail(f"{problem.filename or destination}: {problem.strerror or problem}")
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command goes on where it stopped", err=True)
        raise typer.Exit(130) from None
    print_collected(report, console())


@perfdb.command("coverage")
def perfdb_coverage(
    device: Annotated[str, typer.Argument(help="Device; see `planner perfdb list`.")],
    engine: Annotated[str, typer.Option(help="trtllm, vllm, sglang or pytorch.")] = "trtllm",
    model: Annotated[str | None, typer.Option(help="Also how its steps are known.")] = None,
    layout: Annotated[
        str | None, typer.Option(help="Such as 'attn:TP8 ffn:TP8' (default: TP over one host).")
    ] = None,
    format: Annotated[
        str | None, typer.Option(help="Weight format (default: the checkpoint's own).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Draw the model's shapes: FILE.svg, .png or .html.")
    ] = None,
    search_path: SearchPath = None,
    perfdb_path: PerfdbPath = None,
) -> None:
    """What is measured of a device, and how much of a model's steps that covers.

    Example: planner perfdb coverage h200_sxm --model llama-3.1-70b --layout 'attn:TP4 ffn:TP4'
    """
    from perfmodel.database import PerfStore
    from perfmodel.database.coverage import family_coverage
    from perfmodel.errors import InputError
    from perfmodel.hardware import device_names
    from planner.figures import check_ending
    from planner.perfdb_report import draw_coverage, print_families, print_model_coverage

    for option, value in (("--layout", layout), ("--format", format), ("--out", out)):
        if value is not None and model is None:
            fail(f"{option}: needs --model")
    try:
        if out is not None:
            check_ending(out)
        store = PerfStore(perfdb_path or [])
        places = [*(search_path or []), *(perfdb_path or [])]
        if model is None or device not in device_names(places) or device in store.devices():
            _known(store, device, engine)
        # Collectives of NCCL serve every engine.
        others = ["nccl"] if engine != "nccl" and "nccl" in store.engines(device) else []
        families = [f for e in (engine, *others) for f in family_coverage(store, device, e)]
        found = None
        why: list[PhaseProvenance] = []
        if model is not None:
            found, why = _model_coverage(store, device, engine, model, layout, format, places)
    except InputError as error:
        fail(str(error))
    if families:
        print_families(families, console())
    else:
        console().print(f"no {engine} tables of {device}")
    if found is not None:
        print_model_coverage(found, why, console())
        if out is not None:
            try:
                draw_coverage(found, store, device, out)
            except InputError as error:
                fail(str(error))


def _model_coverage(
    store: PerfStore,
    device: str,
    engine: str,
    model: str,
    layout: str | None,
    weights: str | None,
    search_path: list[Path],
) -> tuple[ModelCoverage, list[PhaseProvenance]]:
    """How a model's steps are known; the same objects that a query is solved with.

    Raises:
        InputError: one of them is unknown, or they do not suit each other.
    """
    from perfmodel.architecture import load_model
    from perfmodel.coverage import grids, model_coverage
    from perfmodel.engine import engine_profile
    from perfmodel.hardware import load_device
    from perfmodel.layout import parse_layout
    from perfmodel.operators import Operators
    from perfmodel.provenance import phase_provenance
    from perfmodel.step import StepModel
    from planner.perfdb_report import chosen_precision

    shape = load_model(model, search_path)
    machine = load_device(device, search_path)
    profile = engine_profile(engine)
    tp = machine.host_devices
    spelled = layout or f"attn:TP{tp} ffn:TP{tp}"
    precision = chosen_precision(shape, weights).on(machine.peak_flops_per_s)
    operators = Operators(machine, profile.name, store)
    layouts = parse_layout(spelled)
    found = model_coverage(shape, machine, profile, precision, operators, layouts)
    # Operators of its own: those above are watched for their shapes.
    operators = Operators(machine, profile.name, store)
    step = StepModel(shape, machine, profile, precision, operators)
    why = [phase_provenance(phase, step, operators, layouts, w) for phase, w in grids().items()]
    return found, why


def _known(store: PerfStore, device: str, engine: str) -> None:
    """Refuse a device or engine without tables, naming those that have some."""
    _one_of("device", device, store.devices())
    _one_of(f"engine of {device}", engine, store.engines(device))


def _one_of(what: str, name: str, valid: Sequence[str], known: Container[str] = ()) -> None:
    from perfmodel.errors import InputError

    if name not in valid:
        state = "not measured" if name in known else "unknown"
        raise InputError(f"{what} {name!r}: {state}; expected one of {', '.join(valid)}")
