"""What stored tables hold, family by family, and whether their files are sound."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfmodel.database.checks import TableError
from perfmodel.database.schema import FAMILIES, Column
from perfmodel.database.store import PerfStore

if TYPE_CHECKING:
    import polars as pl

FORMAT_COLUMNS = ("dtype", "kv_dtype", "gemm_dtype")
"""Columns whose values are number formats."""

MANIFEST = "MANIFEST.json"
"""What the collector leaves beside its tables."""


@dataclass(frozen=True)
class ColumnSpan:
    """What one key column ranges over.

    Attributes:
        distinct: how many values it takes.
        low, high: the ends of a number's range; None for text.
        values: all values of a text, sorted; empty for numbers.
    """

    name: str
    distinct: int
    low: float | None = None
    high: float | None = None
    values: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.name} {', '.join(self.values)}"
        if self.low == self.high:
            return f"{self.name} {self.low:.0f}"
        return f"{self.name} {self.low:.0f}..{self.high:.0f} ({self.distinct})"


@dataclass(frozen=True)
class FamilyCoverage:
    """What is measured of one family.

    Attributes:
        rows: measurements.
        formats: combinations of number formats, e.g. `bf16` or `bf16/fp8`, sorted.
        spans: of the key columns that are no formats, in the family's order.
    """

    engine: str
    family: str
    rows: int
    formats: tuple[str, ...]
    spans: tuple[ColumnSpan, ...]


@dataclass(frozen=True)
class TableCheck:
    """The outcome of checking one file.

    Attributes:
        name: `device/engine/family`, as in the folder.
        rows: measurements; 0 if it is not readable.
        duplicates: rows whose shape an earlier row has already.
        manifest: whether a manifest's checksum was held against it.
        problem: what is wrong with it, the file named; empty if nothing.
    """

    name: str
    path: Path
    rows: int = 0
    duplicates: int = 0
    manifest: bool = False
    problem: str = ""


def family_coverage(store: PerfStore, device: str, engine: str) -> list[FamilyCoverage]:
    """Every family measured on a device under an engine.

    Raises:
        TableError: a table is malformed.
    """
    found = []
    for name in store.families(device, engine):
        table = store.table(device, engine, name)
        assert table is not None
        key = FAMILIES[name].key
        formats = [c.name for c in key if c.name in FORMAT_COLUMNS]
        spans = tuple(_span(table[c.name], c) for c in key if c.name not in formats)
        combinations = table.select(formats).unique().rows() if formats else []
        spelled = tuple(sorted("/".join(row) for row in combinations))
        found.append(FamilyCoverage(engine, name, table.height, spelled, spans))
    return found


def _span(values: pl.Series, column: Column) -> ColumnSpan:
    distinct = values.n_unique()
    if column.kind == "text":
        return ColumnSpan(column.name, distinct, values=tuple(values.unique().sort()))
    low: Any = values.min()
    high: Any = values.max()
    return ColumnSpan(column.name, distinct, low, high)


def check_folder(folder: Path) -> Iterator[TableCheck]:
    """Check every table of a folder, one by one; what is wrong is reported, not raised.

    Where the collector left a manifest, a table must have the checksum it states. A listed
    table that is absent is reported too, as is a manifest that cannot be read.

    Raises:
        TableError: no such folder, or it has no tables.
    """
    if not folder.is_dir():
        raise TableError(folder, "no such folder of measured tables")
    paths = sorted(folder.glob("*/*/*.parquet"))
    manifests = sorted(folder.glob(f"*/*/{MANIFEST}"))
    if not paths and not manifests:
        raise TableError(folder, "no tables; expected DEVICE/ENGINE/FAMILY.parquet in it")
    sums: dict[Path, str] = {}
    for manifest in manifests:
        try:
            listed = _checksums(manifest)
        except TableError as error:
            yield TableCheck(_name(manifest), manifest, problem=str(error))
            continue
        for path in sorted(set(listed) - set(paths)):
            problem = str(TableError(path, f"no such file, but {MANIFEST} lists it"))
            yield TableCheck(_name(path), path, problem=problem)
        sums |= listed
    for path in paths:
        yield _check(folder, path, sums.get(path, ""))


def _check(folder: Path, path: Path, checksum: str) -> TableCheck:
    device, engine, family = path.parent.parent.name, path.parent.name, path.stem
    name = _name(path)
    if family not in FAMILIES:
        problem = f"no family of this name; expected one of {', '.join(FAMILIES)}"
        return TableCheck(name, path, problem=str(TableError(path, problem)))
    try:
        # A store of its own: tables are read one at a time, not kept.
        table = PerfStore([folder], shipped=False).table(device, engine, family)
        assert table is not None
    except TableError as error:
        return TableCheck(name, path, manifest=bool(checksum), problem=str(error))
    key = list(FAMILIES[family].key_names)
    duplicates = table.height - table.select(key).n_unique()
    problem = ""
    if checksum and hashlib.sha256(path.read_bytes()).hexdigest() != checksum:
        problem = str(TableError(path, f"its checksum is not the one in {MANIFEST}"))
    elif duplicates:
        what = "1 row repeats" if duplicates == 1 else f"{duplicates:,} rows repeat"
        problem = str(TableError(path, f"{what} the shape of another; expected one row per shape"))
    return TableCheck(name, path, table.height, duplicates, bool(checksum), problem)


def _name(path: Path) -> str:
    return "/".join((*path.parent.parts[-2:], path.stem))


def _checksums(manifest: Path) -> dict[Path, str]:
    """The tables that a manifest lists, and their SHA-256.

    Raises:
        TableError: it cannot be read, or is no manifest.
    """
    try:
        tables = json.loads(manifest.read_text(encoding="utf-8"))["tables"]
        return {manifest.with_name(str(t["file"])): str(t["sha256"]) for t in tables.values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TableError(manifest, f"not a collector's manifest ({error})") from None
