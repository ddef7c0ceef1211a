"""The `planner` command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planner.cli_calibrate import calibrate
from planner.cli_catalog import batch, fleet
from planner.cli_deploy import deploy
from planner.cli_doctor import doctor
from planner.cli_perfdb import perfdb
from planner.cli_progress import Progress, Quiet, Verbose, progress_bar
from planner.cli_shared import PerfdbPath, SearchPath, console, fail, status_of
from planner.cli_tco import tco
from planner.cli_ui import ui
from planner.cli_verify import verify
from planner.cli_whatif import whatif

if TYPE_CHECKING:
    from perfmodel.database import PerfStore
    from planner.query import Query

app = typer.Typer(
    name="planner",
    help="The cheapest fleet that serves an LLM under an SLO, and how sure that is.\n\n"
    "Exit status: 0 done, 1 an installation is not in order (doctor), 2 bad input, 3 no fleet "
    "serves the query, 130 interrupted.\n\n"
    "Example: planner solve examples/text_agent_llama3_70b.yaml",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)


@app.command()
def solve(
    query: Annotated[Path, typer.Argument(help="Query file (YAML); see `planner schema`.")],
    search: Annotated[str, typer.Option(help="exhaustive or tpe.")] = "exhaustive",
    seed: Annotated[int, typer.Option(help="Seed of the TPE sampler.")] = 0,
    trials: Annotated[int, typer.Option(min=1, help="TPE trials per role.")] = 400,
    storage: Annotated[
        str | None,
        typer.Option(
            help="Keep TPE's trials in this journal file, or database (sqlite:///studies.db): an "
            "interrupted search goes on there, and several processes may share it."
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="Search only what this runtime can express, for `planner deploy`: vllm, sglang, "
            "trtllm, dynamo or llm-d; the query's `target` if not given."
        ),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the plan to this JSON file.")] = None,
    yaml: Annotated[Path | None, typer.Option(help="Write the plan to this YAML file.")] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Write a page of HTML about the plan to this file: its figures, and the price of "
            "other latencies (searched to four times the targets)."
        ),
    ] = None,
    search_path: SearchPath = None,
    perfdb_path: PerfdbPath = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print the decision alone, in a few lines.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Find the cheapest fleet for a query.

    Example: planner solve examples/text_agent_llama3_70b.yaml --json plan.json
    """
    from perfmodel.database import PerfStore
    from perfmodel.errors import InputError
    from planner.files import check_writable
    from planner.plan import write_plan
    from planner.query import load_query
    from planner.solve import solve as find

    if search not in ("exhaustive", "tpe"):
        fail(f"--search: expected exhaustive or tpe, got {search!r}")
    if storage is not None and search != "tpe":
        fail("--storage keeps the trials of --search tpe; the exhaustive search has none")
    try:
        check_writable(json, yaml, report)
        asked = load_query(query, target=target)
        places, store = search_path or [], PerfStore(perfdb_path or [])
        with progress_bar(verbose, quiet) as progress:
            plan = find(
                asked,
                search=search,
                seed=seed,
                trials=trials,
                storage=storage,
                search_path=places,
                store=store,
                progress=progress,
            )
        if json is not None:
            write_plan(plan, json)
        if yaml is not None:
            write_plan(plan, yaml)
        if report is not None:
            with progress_bar(verbose, quiet) as progress:
                _report(plan.to_dict(), str(query), asked, report, places, store, progress)
    except InputError as error:
        fail(_located(error, query), status_of(error))
    from planner.report import headline, print_plan

    if quiet:
        console().print(headline(plan))
    else:
        print_plan(plan, console())


def _report(
    plan: dict[str, Any],
    source: str,
    query: Query,
    path: Path,
    search_path: list[Path],
    store: PerfStore,
    progress: Progress,
) -> None:
    """Write the page of a plan; the fronts are searched for it."""
    from planner.web.report import fronts_of, write_report

    fronts = fronts_of(query, search_path, store, progress)
    write_report(plan, fronts, path, search_path, store, source)


@app.command()
def report(
    plan: Annotated[Path, typer.Argument(help="Plan file that `solve --json` or --yaml wrote.")],
    out: Annotated[Path, typer.Option(help="HTML file to write.")],
    search_path: SearchPath = None,
    perfdb_path: PerfdbPath = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write a page of HTML about a plan, as `solve --report` does.

    Example: planner report plan.json --out plan.html
    """
    from perfmodel.database import PerfStore
    from perfmodel.errors import InputError
    from planner.files import check_writable
    from planner.plan import read_plan
    from planner.whatif.files import query_of

    try:
        check_writable(out)
        data = read_plan(plan)
        query = query_of(data, plan)
        store = PerfStore(perfdb_path or [])
        with progress_bar(verbose, quiet) as progress:
            _report(data, str(plan), query, out, search_path or [], store, progress)
    except InputError as error:
        fail(str(error), status_of(error))


@app.command()
def explain(
    plan: Annotated[Path, typer.Argument(help="Plan file that `solve --json` or --yaml wrote.")],
    fleet: Annotated[
        int, typer.Option(min=0, help="0: the best fleet, 1 and on: its alternatives.")
    ] = 0,
    search_path: SearchPath = None,
    perfdb_path: PerfdbPath = None,
) -> None:
    """Re-derive a plan's figures, down to the operators of each step.

    Example: planner explain plan.json
    """
    from perfmodel.database import PerfStore
    from perfmodel.errors import InputError
    from planner.explain import explain_plan
    from planner.plan import read_plan

    try:
        store = PerfStore(perfdb_path or [])
        explain_plan(read_plan(plan), str(plan), fleet, console(), search_path or [], store)
    except InputError as error:
        fail(str(error), status_of(error))


app.command()(batch)
app.command()(fleet)
app.command()(tco)
app.command()(deploy)
app.command()(verify)


@app.command()
def schema(
    kind: Annotated[str, typer.Argument(help="Of which file: query, catalog, or mix.")] = "query",
    as_json: Annotated[bool, typer.Option("--json", help="The JSON Schema itself.")] = False,
) -> None:
    """Document every field of a query file, of a catalog, or of a mix's input (JSON).

    Example: planner schema catalog
    """
    from planner.schema import KINDS, file_model, json_schema, print_schema

    if kind not in KINDS:
        fail(f"expected one of {', '.join(KINDS)}, got {kind!r}")
    model = file_model(kind)
    if as_json:
        typer.echo(json_schema(model))
    else:
        print_schema(console(), model)


@app.command()
def models(
    model: Annotated[
        str | None,
        typer.Argument(help="One model, or path to a config.json or recipe (.yaml), in detail."),
    ] = None,
    search_path: SearchPath = None,
) -> None:
    """List the shipped models, or show what one is made of.

    Example: planner models synthetic/moe-1.8t
    """
    from rich.table import Table

    from perfmodel.architecture import catalog, load_model
    from perfmodel.errors import InputError

    if model is not None:
        from planner.model_report import print_model

        try:
            print_model(load_model(model, search_path or []), console())
        except InputError as error:
            fail(str(error))
        return
    table = Table(box=None)
    table.add_column("model", overflow="fold")
    for column in ("parameters", "active", "weights"):
        table.add_column(column, no_wrap=True)
    for name in catalog():
        shipped = load_model(name)
        table.add_row(
            name,
            f"{shipped.parameters() / 1e9:.1f} B",
            f"{shipped.active_parameters() / 1e9:.1f} B",
            shipped.quantization,
        )
    console().print(table)


@app.command()
def devices(
    device: Annotated[
        str | None, typer.Argument(help="One device, or path to its file, in detail.")
    ] = None,
    search_path: SearchPath = None,
    perfdb_path: PerfdbPath = None,
) -> None:
    """List devices: memory, bandwidth, peak, default price, and whose operators are measured.

    Example: planner devices h100_sxm
    """
    from rich.table import Table

    from perfmodel.database import PerfStore
    from perfmodel.errors import InputError
    from perfmodel.hardware import device_names, load_device
    from perfmodel.units import format_bytes
    from planner.prices import price_list

    # What `perfdb collect` writes is a device file beside its tables.
    places = [*(search_path or []), *(perfdb_path or [])]
    table = Table("device", "memory", "TB/s", "bf16 TFLOP/s", "host", "USD/h", "measured", box=None)
    try:
        store = PerfStore(perfdb_path or [])
        if device is not None:
            from planner.device_report import print_device

            one = load_device(device, places)
            engines = [e for e in store.engines(one.tables) if e != "nccl"]
            print_device(one, engines, console())
            return
        prices = price_list()
        for name in device_names(places):
            listed = load_device(name, places)
            price = prices.get(listed.name)
            measured = [e for e in store.engines(listed.name) if e != "nccl"]
            table.add_row(
                listed.name,
                format_bytes(listed.memory_bytes),
                f"{listed.memory_bandwidth_bytes_per_s / 1e12:.2f}",
                f"{listed.peak_flops_per_s['bf16'] / 1e12:,.0f}",
                str(listed.host_devices),
                f"{price[0]:.2f}" if price else "-",
                ", ".join(measured) or "no (analytic)",
            )
    except InputError as error:
        fail(str(error))
    console().print(table)


app.command()(calibrate)
app.command()(ui)
app.add_typer(whatif, name="whatif")
app.command()(doctor)
app.add_typer(perfdb, name="perfdb")


def _located(error: Exception, query: Path) -> str:
    """The message, with file and line where the error names a field of the query."""
    from perfmodel.documents import read_yaml
    from perfmodel.errors import ConfigError

    if not isinstance(error, ConfigError) or error.source or not error.field:
        return str(error)
    field = [int(part) if part.isdigit() else part for part in error.field.split(".")]
    return f"{read_yaml(query).where(field)}: {error.problem}"


def main() -> None:
    """Entry point of the `planner` command."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
