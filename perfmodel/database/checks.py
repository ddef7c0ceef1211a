"""Does a table hold what its family promises? One answer for stored and for imported files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perfmodel.database.schema import Column, Family
from perfmodel.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import polars as pl


class TableError(InputError):
    """A measured table cannot be read, or does not hold what its family promises.

    Args:
        source: the file.
        problem: what was found and what was expected.
        column: the column at fault; empty if the file as a whole is.
        row: the row at fault, counted from 1; 0 if all rows are.
    """

    def __init__(self, source: object, problem: str, column: str = "", row: int = 0) -> None:
        """Join the parts into one printable message."""
        self.source = str(source)
        self.problem = problem
        self.column = column
        self.row = row
        parts = [
            self.source,
            f"column {column}" if column else "",
            f"row {row}" if row else "",
            problem,
        ]
        super().__init__(": ".join(part for part in parts if part))

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the parts apart on the way out of a worker process."""
        return TableError, (self.source, self.problem, self.column, self.row)


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Read a Parquet file.

    Raises:
        TableError: the file is missing, truncated or not Parquet.
    """
    import polars as pl

    try:
        # From memory: a table that is replaced while it is read must not tear a mapping.
        data = path.read_bytes()
        return pl.read_parquet(data, columns=list(columns) if columns is not None else None)
    except FileNotFoundError:
        raise TableError(path, "no such file") from None
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TableError(path, f"not a readable Parquet file ({reason})") from None


def checked(frame: pl.DataFrame, family: Family, source: object) -> pl.DataFrame:
    """The table with its columns in the family's order and types.

    Optional columns follow the others if the frame has them.

    Args:
        frame: rows as read; any integer or real type is accepted where the values fit.
        family: what it must hold.
        source: file to name in errors.

    Raises:
        TableError: a column is missing, unknown or of the wrong kind; or a value is absent,
            out of range or not finite (first such row named).
    """
    expected = [column.name for column in family.columns]
    for name in expected:
        if name not in frame.columns:
            raise TableError(
                source, f"missing; {family.name} tables have {', '.join(expected)}", name
            )
    optional = [column for column in family.optional if column.name in frame.columns]
    known = {*expected, *(column.name for column in optional)}
    unknown = [name for name in frame.columns if name not in known]
    if unknown:
        raise TableError(
            source, f"unknown; {family.name} tables have {', '.join(expected)}", unknown[0]
        )
    columns = (*family.columns, *optional)
    return frame.select(check_column(frame[c.name], c, source) for c in columns)


def check_column(values: pl.Series, column: Column, source: object) -> pl.Series:
    """The values in the column's stored type.

    Raises:
        TableError: as `checked`.
    """
    import polars as pl

    if column.nullable and values.dtype == pl.Null:
        return values.cast(pl.Float32)
    is_kind = {
        "text": values.dtype in (pl.String, pl.Categorical) or isinstance(values.dtype, pl.Enum),
        "integer": values.dtype.is_integer(),
        "real": values.dtype.is_numeric(),
    }[column.kind]
    if not is_kind:
        raise TableError(source, f"expected {column.kind}, got {values.dtype}", column.name)
    if not column.nullable:
        _refuse(values, values.is_null(), "is empty", column, source)
    if column.kind == "text":
        text = values.cast(pl.String)
        _refuse(text, text.str.len_bytes() == 0, "is empty", column, source)
        if column.choices:
            wrong = ~text.is_in(column.choices)
            _refuse(text, wrong, f"expected {' or '.join(column.choices)}", column, source)
        return text
    if column.kind == "real":
        real = values.cast(pl.Float64)
        _refuse(values, ~real.is_finite(), "expected a finite number", column, source)
        if column.zero:
            _refuse(values, real < 0, "expected at least 0", column, source)
        else:
            _refuse(values, real <= 0, "expected more than 0", column, source)
        return real.cast(pl.Float32)
    _refuse(values, values < column.minimum, f"expected at least {column.minimum}", column, source)
    stored = {"Int32": pl.Int32, "Int64": pl.Int64}[column.storage]
    most = 2**31 - 1 if column.storage == "Int32" else 2**63 - 1
    _refuse(values, values > most, f"expected at most {most}", column, source)
    return values.cast(stored)


def _refuse(
    values: pl.Series, wrong: pl.Series, expectation: str, column: Column, source: object
) -> None:
    wrong = wrong.fill_null(False)
    if wrong.any():
        position = wrong.arg_max()
        assert position is not None
        value = values[position]
        found = expectation if value is None else f"{expectation}, got {value!r}"
        raise TableError(source, found, column.name, position + 1)
