"""What importers of measured tables share: their report, one row per shape, atomic writing."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from perfmodel.database.schema import Family

Status = Literal["written", "missing", "withheld", "refused"]

Progress = Callable[[str, float], None]
"""Is told what comes next, and the share done."""


def in_silence(_what: str, _share: float) -> None:
    """Progress that nobody wants to know of."""


@dataclass(frozen=True)
class ImportedTable:
    """What became of one table.

    Attributes:
        status: `written`; `missing` (the source has no such table); `withheld` (it is
            known to be physically impossible); or `refused` (it is malformed). Nothing is
            written but in the first case: an older table at the destination stays.
        version: engine version taken; empty if missing.
        rows: rows written.
        merged: rows left out because another of the same shape stands for them.
        reason: why it was withheld, or refused with file, column and row; of a written
            table, why rows were dropped.
        dropped: rows left out because they measure nothing.
    """

    device: str
    engine: str
    family: str
    status: Status
    version: str = ""
    rows: int = 0
    merged: int = 0
    reason: str = ""
    dropped: int = 0


def settled(rows: pl.DataFrame, family: Family) -> pl.DataFrame:
    """One row per shape, sorted.

    Of several kernels the first of the rows is kept; of several runs of it, the median.

    Args:
        rows: checked rows; those of a kernel that is to win come first.
        family: theirs.
    """
    key = list(family.key_names)
    kept = rows.filter(pl.col("kernel") == pl.col("kernel").first().over(key))
    optional = [c.name for c in family.optional if c.name in rows.columns]
    averaged = ["time_s", *optional]
    others = [c.name for c in family.columns if c.name not in (*key, "time_s")]
    return (
        kept.group_by(key, maintain_order=True)
        .agg(
            *(pl.col(name).median() for name in averaged),
            *(pl.col(name).first() for name in others),
        )
        .select(*(column.name for column in family.columns), *optional)
        .sort(key)
    )


def write_table(table: pl.DataFrame, path: Path) -> None:
    """Write a table so that a reader sees the old file or the whole new one.

    Raises:
        OSError: the folder cannot be written to, or is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.stem}.", dir=path.parent)
    os.close(handle)
    try:
        # Level 19 is 7 % smaller than the default, reads as fast, and is paid for once. By way of
        # memory, for a full disk to be an OSError, which Polars would make an error of its own.
        content = io.BytesIO()
        table.write_parquet(content, compression="zstd", compression_level=19)
        Path(temporary).write_bytes(content.getvalue())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
