"""The `planner calibrate` command: an engine's constants from measured deployments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli_perfdb import console, fail

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
) -> None:
    """Fit engines' constants to measured deployments, and say how far predictions then are.

    A query uses them with `corrections: FILE`. Columns: id, model_path, system, backend, mode
    (agg or disagg), isl, osl, gemm_quant_mode, tp_size, ..., silicon_ttft_ms,
    silicon_tpot_ms; perfmodel/deployments.py documents them all.

    Example: planner calibrate measured.csv --out corrections.yaml
    """
    from rich.console import Console
    from rich.progress import track
    from rich.text import Text

    from perfmodel.calibration import LEAST_ROWS
    from perfmodel.correction import dump_corrections
    from perfmodel.errors import InputError
    from perfmodel.validation import cross_validate, fit_engines, fitted_to, held_out, serve_all
    from planner.plan import atomic_write

    aside = Console(stderr=True)

    def shown(items: Sequence[Row]) -> Iterable[Row]:
        silent = not aside.is_terminal
        return track(items, "reading", console=aside, transient=True, disable=silent)

    def refused(reason: str) -> None:
        typer.echo(f"left out: {reason}", err=True)

    if not out.absolute().parent.is_dir():
        fail(f"{out}: the folder does not exist")
    try:
        served = serve_all(rows, refused, shown)
        fitted = fit_engines(served)
        atomic_write(out, dump_corrections(fitted, COMMENT))
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
        _report(cross_validate(served), held_out(served))


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
