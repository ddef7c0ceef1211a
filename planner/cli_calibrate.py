"""The `planner calibrate` command: an engine's constants from measured deployments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli_progress import Quiet, Verbose, progress_bar
from planner.cli_shared import console, fail

if TYPE_CHECKING:
    from perfmodel.validation import Row, Seen

COMMENT = """\
Of a request: fitted by `planner calibrate` to measured deployments. Of a step: expected of
any engine. perfmodel/correction.py says what each constant is."""

FEW = {
    "agg": "so few hardly hold the constants",
    "disagg": "so few are not fitted to, and what is expected of hand-overs stands",
}
"""What it means that a mode has few rows."""


def calibrate(
    rows: Annotated[Path, typer.Argument(help="Measured deployments (CSV).")],
    out: Annotated[Path, typer.Option(help="Write the fitted constants to this YAML file.")],
    check: Annotated[
        bool, typer.Option(help="Report errors on rows that the fit did not see.")
    ] = True,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Fit engines' constants to measured deployments, and say how far predictions then are.

    A query uses them with `corrections: FILE`. Columns: id, model_path, system, backend, mode
    (agg or disagg), isl, osl, gemm_quant_mode, tp_size, ..., silicon_ttft_ms,
    silicon_tpot_ms; perfmodel/deployments.py documents them all.

    Example: planner calibrate measured.csv --out corrections.yaml
    """
    from rich.text import Text

    from perfmodel.calibration import LEAST_ROWS
    from perfmodel.correction import dump_corrections
    from perfmodel.errors import InputError
    from perfmodel.validation import cross_validate, fit_engines, fitted_to, held_out, serve_all
    from planner.files import atomic_write, check_writable

    def refused(reason: str) -> None:
        typer.echo(f"left out: {reason}", err=True)

    try:
        check_writable(out)
        with progress_bar(verbose, quiet) as progress:

            def predicting(items: Sequence[Row]) -> Iterator[Row]:
                for i, row in enumerate(items):
                    progress(f"predicting {len(items):,} rows", 0.4 * i / len(items))
                    yield row

            served = serve_all(rows, refused, predicting)
            progress("fitting", 0.4)
            fitted = fit_engines(served)
            atomic_write(out, dump_corrections(fitted, COMMENT))
            progress("predicting rows from fits without them", 0.5)
            seen = cross_validate(served) if check else []
    except InputError as error:
        fail(str(error))
    for engine, modes in fitted_to(served).items():
        count = sum(modes.values())
        parts = ", ".join(f"{number:,} {mode}" for mode, number in modes.items())
        line = f"{out}: constants of {engine} from {count:,} measured row{'s' * (count != 1)}"
        console().print(Text(f"{line} ({parts})"))
        for mode, number in modes.items():
            if number < LEAST_ROWS:
                console().print(
                    Text(
                        f"caution: {number} {mode} row{'s' * (number != 1)} of {engine}: "
                        f"{FEW[mode]} (expected: at least {LEAST_ROWS})"
                    )
                )
    if check:
        _report(seen, held_out(served))


def _report(seen: list[Seen], held_out: Mapping[str, str]) -> None:
    """Median and mean errors by group, before and after the fit."""
    from rich.table import Table
    from rich.text import Text

    from perfmodel.validation import by_group, errors

    table = Table("group", box=None)
    for name in ("rows", "TPOT before", "after", "mean", "TTFT before", "after", "mean"):
        table.add_column(name, justify="right")
    for group, rows in by_group(seen).items():
        cells = [group, f"{len(rows):,}"]
        for metric in (1, 0):
            before = errors((row.before[metric], row.measured[metric]) for row in rows)
            after = errors((row.after[metric], row.measured[metric]) for row in rows)
            values = (before["median"], after["median"], after["mean"])
            cells += [f"{value:.1%}" for value in values]
        table.add_row(*cells)
    tested = "; ".join(f"{engine}: {rows}" for engine, rows in held_out.items())
    console().print(
        Text(
            "Median (and mean) absolute errors; before: operators alone; "
            f"after: by constants fitted to other rows ({tested})"
        )
    )
    console().print(table)
