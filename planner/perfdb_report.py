"""What the `planner perfdb` commands print and draw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from perfmodel.coverage import KINDS, ModelCoverage
from perfmodel.database import FAMILIES, Column, Family, PerfStore
from perfmodel.database.coverage import FamilyCoverage
from perfmodel.errors import InputError
from perfmodel.precision import FORMATS, Precision
from perfmodel.units import format_time
from planner.figures import write_figure

if TYPE_CHECKING:
    import polars as pl

    from perfmodel.architecture import ModelArchitecture
    from perfmodel.collect import Report
    from perfmodel.database.importing import ImportedTable
    from perfmodel.provenance import PhaseProvenance

MOST_NAMED = 30
"""So many of a column's values are listed where another was asked for."""

BINS_PER_DOUBLING = 4
"""Measured points closer than this on both axes are drawn as one."""

COLOURS = {"measured": "#1b7f3b", "extrapolated": "#e08a00", "analytic": "#c0392b"}


def imported_table(tables: Iterable[ImportedTable]) -> Table:
    """What became of each table."""
    table = Table("table", "version", "status", box=None)
    table.add_column("rows", justify="right")
    table.add_column("reason", overflow="fold")
    for one in tables:
        table.add_row(
            f"{one.device}/{one.engine}/{one.family}",
            one.version,
            one.status,
            f"{one.rows:,}" if one.status == "written" else "-",
            Text(one.reason),
        )
    return table


def selected(table: pl.DataFrame, family: Family, conditions: Iterable[str]) -> pl.DataFrame:
    """The rows that meet every `column=value`.

    Raises:
        InputError: a condition is no such, or names a column or value that there is not.
    """
    import polars as pl

    columns = {c.name: c for c in (*family.columns, *family.optional) if c.name in table.columns}
    rows = table
    for condition in conditions:
        name, sign, spelled = (part.strip() for part in condition.partition("="))
        if not sign:
            raise InputError(f"--where {condition}: expected COLUMN=VALUE")
        if name not in columns:
            raise InputError(
                f"--where {condition}: unknown column {name!r}; {family.name} has "
                + ", ".join(columns)
            )
        value = _value(columns[name], spelled, condition)
        matching = pl.col(name) == pl.lit(value).cast(table.schema[name])
        if table.filter(matching).is_empty():
            values = table[name].unique().sort()
            named = ", ".join(str(v) for v in values.head(MOST_NAMED))
            more = ", ..." if len(values) > MOST_NAMED else ""
            raise InputError(f"--where {condition}: no row has it; {name} is one of {named}{more}")
        rows = rows.filter(matching)
    return rows


def _value(column: Column, spelled: str, condition: str) -> str | int | float:
    try:
        if column.kind == "text":
            return spelled
        if column.kind == "integer":
            number = int(spelled.replace(",", ""))
            if not 0 <= number < 2 ** (31 if column.storage == "Int32" else 63):
                raise ValueError
            return number
        return float(spelled)
    except ValueError:
        kind = {"integer": "an integer", "real": "a number"}[column.kind]
        raise InputError(f"--where {condition}: {column.name} is {kind}, got {spelled!r}") from None


def print_rows(rows: pl.DataFrame, family: Family, limit: int, console: Console) -> None:
    """The first rows: shapes and times; then what they are all of."""
    shown = rows.head(limit)
    optional = [c.name for c in family.optional if c.name in rows.columns]
    table = Table(box=None, padding=(0, 1, 0, 0))
    for column in family.key:
        # Broken where names have a joint: whole names of ten columns are too wide.
        heading = column.name.replace("_", "_\n")
        justify: Literal["left", "right"] = "left" if column.kind == "text" else "right"
        table.add_column(heading, justify=justify, overflow="fold")
    for name in ("time", *optional):
        table.add_column(name.replace("_", "_\n"), justify="right", no_wrap=True)
    for row in shown.iter_rows(named=True):
        table.add_row(
            *(str(row[name]) for name in family.key_names),
            format_time(row["time_s"]),
            *("-" if row[name] is None else f"{row[name]:.3g}" for name in optional),
        )
    console.print(table)
    console.print(Text(f"{shown.height:,} of {rows.height:,} rows"))
    for name in ("engine_version", "kernel", "origin", "licence"):
        values = ", ".join(rows[name].unique().sort())
        console.print(Text(f"{name.replace('_', ' ')}: {values}"))


def columns_table(family: Family, rows: pl.DataFrame) -> Table:
    """What a family's columns mean."""
    table = Table(box=None, title=family.meaning, title_justify="left", title_style="")
    for name in ("column", "kind", "unit", "meaning"):
        table.add_column(name, overflow="fold")
    for column in (*family.columns, *family.optional):
        if column.name in rows.columns:
            unit = column.unit or "-"
            table.add_row(column.name, column.kind, unit, Text(column.meaning))
    return table


def print_families(families: Sequence[FamilyCoverage], console: Console) -> None:
    """What is measured, by family: formats, and the ranges of its columns."""
    for one in families:
        formats = ", ".join(one.formats)
        console.print(Text(f"{one.engine} {one.family}: {one.rows:,} rows; {formats}"))
        spans = "; ".join(str(span) for span in one.spans)
        console.print(Padding(Text(spans), (0, 0, 0, 4)))
    console.print(Text("    (in parentheses: distinct values)"))


def print_model_coverage(
    found: ModelCoverage, why: Sequence[PhaseProvenance], console: Console
) -> None:
    """Per phase and operator, how the times over the grid are known, and why not better."""
    reasons = {(part.phase, one.name): one for part in why for one in part.operators}
    known = {part.phase: part.kinds for part in why}
    for phase, grid in (
        ("decode", "batch 1 to 256 per attention rank, context 512 to 32,768"),
        ("prefill", "one prompt of 128 to 16,384 tokens"),
    ):
        title = f"\n{phase}: {grid}; {found.layout}, {found.precision}"
        console.print(Text(title, style="bold"))
        shares = ", ".join(f"{kind} {share:.0%}" for kind, share in known[phase].items() if share)
        console.print(Text(f"time: {shares}, the engine's overhead counted as analytic"))
        table = Table("operator", "module", box=None, padding=(0, 1, 0, 0))
        for name in ("points", *KINDS, "time"):
            table.add_column(name, justify="right")
        operators: dict[str, list[str]] = {}
        for one in found.operators:
            if one.phase == phase:
                parts = (f"{one.shares[k]:.0%}" if one.shares[k] else "-" for k in KINDS)
                more = reasons[phase, one.name]
                for reason, share in more.reasons.items():
                    part = "" if share > 0.995 else f" ({share:.0%})"
                    operators.setdefault(reason, []).append(f"{one.name}{part}")
                time = f"{more.time_share:.1%}"
                table.add_row(one.name, one.module, str(one.points), *parts, time)
        console.print(table)
        for reason, names in operators.items():
            console.print(Text(f"not measured, {reason}: {', '.join(names)}"))


def print_collected(report: Report, console: Console) -> None:
    """What a collection reached."""
    table = Table("family", box=None)
    for name in ("rows", "tests", "median error", "p90 error", "spread"):
        table.add_column(name, justify="right")
    table.add_column("bound")
    for name, one in report.families.items():
        median, high = (
            "-" if error is None else f"{error:.1%}" for error in (one.median_error, one.p90_error)
        )
        reached = "reached" if one.reached else "not reached"
        table.add_row(
            name, f"{one.rows:,}", str(one.tests), median, high, f"{one.spread:.1%}", reached
        )
    console.print(Text(f"{report.device}: {report.machine.title}", style="bold"))
    console.print(table)
    console.print(Text(f"{report.measured:,} rows measured in {format_time(report.seconds)}"))
    console.print(Text(f"device file: {report.device_file}"))
    for note in report.notes:
        console.print(Text(f"note: {note}"))


def chosen_precision(model: ModelArchitecture, weights: str | None) -> Precision:
    """Weights all in one format, or (None) as the checkpoint stores them; its own cache format.

    Raises:
        InputError: unknown format.
    """
    from planner.problem import _checkpoint_formats

    kv = model.kv_quantization if model.kv_quantization in FORMATS else "bf16"
    if weights is None:
        return Precision(**_checkpoint_formats(model), kv=kv)
    if weights not in FORMATS:
        raise InputError(
            f"--format: unknown format {weights!r}; expected one of {', '.join(FORMATS)}"
        )
    return Precision(weights, weights, weights, kv)


def draw_coverage(found: ModelCoverage, store: PerfStore, device: str, path: Path) -> None:
    """Measured points in grey, the model's coloured by how their time is known.

    Raises:
        OSError: the file cannot be written.
    """
    import altair as alt

    charts = []
    for family in dict.fromkeys(point.family for point in found.points):
        axes = _AXES[family]
        asked = [point for point in found.points if point.family == family]
        own = [{**_position(point.shape, axes), "kind": point.kind} for point in asked]
        formats = [dict(pairs) for pairs in {tuple(sorted(p.categories.items())) for p in asked}]
        table = store.table(device, found.engines[family], family)
        measured = [] if table is None else _measured(table, formats, axes)
        charts.append(_chart(alt, family, axes, measured, own))
    title = f"{device}: {found.layout}, {found.precision}; grey: measured points"
    chart = alt.concat(*charts, columns=2).resolve_scale(color="shared").properties(title=title)
    write_figure(chart, path)


Axes = tuple[tuple[str, ...], tuple[str, ...]]

_AXES: dict[str, Axes] = {
    "gemm": (("m",), ("n", "k")),
    "attention_context": (("batch",), ("tokens",)),
    "attention_generation": (("batch",), ("context_tokens",)),
    "mla_context": (("batch",), ("tokens",)),
    "mla_generation": (("batch",), ("context_tokens",)),
    "wideep_mla_context": (("batch",), ("tokens",)),
    "wideep_mla_generation": (("batch",), ("context_tokens",)),
}
"""By family: the columns whose products are drawn across and up."""


def _position(shape: Mapping[str, float], axes: Axes) -> dict[str, float]:
    position = {}
    for axis, names in zip(("x", "y"), axes, strict=True):
        position[axis] = 1.0
        for name in names:
            position[axis] *= shape[name]
    return position


def _measured(
    table: pl.DataFrame, formats: Iterable[dict[str, str]], axes: Axes
) -> list[dict[str, float]]:
    """Distinct places of the measured rows of some formats, those next to each other once."""
    import polars as pl

    wanted = pl.lit(False)
    for categories in formats:
        match = pl.lit(True)
        for name, value in categories.items():
            match &= pl.col(name) == value
        wanted |= match

    def place(names: tuple[str, ...]) -> pl.Expr:
        product = pl.lit(1.0)
        for name in names:
            product = product * pl.col(name).cast(pl.Float64)
        step = (product.log(2.0) * BINS_PER_DOUBLING).round()
        return (step / BINS_PER_DOUBLING * pl.lit(2.0).log()).exp()

    x, y = axes
    rows = table.filter(wanted).select(x=place(x), y=place(y)).unique().sort("x", "y")
    return rows.to_dicts()


def _chart(
    alt: Any,
    family: str,
    axes: Axes,
    measured: list[dict[str, float]],
    own: list[dict[str, Any]],
) -> Any:
    scale = alt.Scale(type="log")
    key = {column.name: column for column in FAMILIES[family].key}

    def title(names: tuple[str, ...]) -> str:
        unit = key[names[0]].unit if len(names) == 1 else ""
        return " x ".join(names) + (f", {unit}" if unit and unit not in names[0] else "")

    across = alt.X("x:Q", scale=scale, title=title(axes[0]))
    up = alt.Y("y:Q", scale=scale, title=title(axes[1]))
    back = (
        alt.Chart(alt.Data(values=measured))
        .mark_square(size=6, color="#b5b5b5", clip=True)
        .encode(x=across, y=up)
    )
    colour = alt.Color(
        "kind:N", title="time is", scale=alt.Scale(domain=list(KINDS), range=list(COLOURS.values()))
    )
    front = (
        alt.Chart(alt.Data(values=own))
        .mark_point(size=28, filled=True, opacity=0.8)
        .encode(x=across, y=up, color=colour)
    )
    return (back + front).properties(width=380, height=300, title=family)
