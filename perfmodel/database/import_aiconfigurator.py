"""Make measured tables from those of NVIDIA's aiconfigurator-core (Apache-2.0).

The package is read once, here, and isn't needed afterwards. Its tables lie under
`systems/data/<system>/<group>/<framework>/<version>/<table>.parquet`; one version is
taken per engine and device: the one it declares current, or, for a table that this
version lacks, the newest other that has it.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from perfmodel.database._aiconfigurator_tables import (
    ENGINES,
    NUMBER_FORMATS,
    RECIPES,
    WITHHELD,
    Recipe,
)
from perfmodel.database.checks import TableError, check_column, checked, read_parquet
from perfmodel.database.schema import FAMILIES, Column, Family
from perfmodel.documents import read_yaml

LICENCE = "Apache-2.0"
RELEASE = "0.12.0"
"""The release that the shipped tables came from."""

SHIPPED_DEVICES = ("h100_sxm", "h200_sxm", "b200_sxm", "gb200_nvl72", "a100_sxm", "l40s")

_DEVICE_NAMES = {"gb200": "gb200_nvl72", "gb300": "gb300_nvl72"}
"""The producer's systems whose name is not ours."""

Status = Literal["written", "missing", "withheld", "refused"]


@dataclass(frozen=True)
class ImportedTable:
    """What became of one table.

    Attributes:
        status: `written`; `missing` (the package has no such table); `withheld` (it is
            known to be physically impossible); or `refused` (it is malformed). Nothing is
            written but in the first case: an older table at the destination stays.
        version: engine version taken; empty if missing.
        rows: rows written.
        merged: rows left out because another of the same shape stands for them.
        reason: why it was withheld, or refused with file, column and row.
    """

    device: str
    engine: str
    family: str
    status: Status
    version: str = ""
    rows: int = 0
    merged: int = 0
    reason: str = ""


def import_tables(
    source_root: Path,
    destination: Path,
    devices: Iterable[str] | None = None,
    engines: Iterable[str] | None = None,
    *,
    release: str = RELEASE,
) -> list[ImportedTable]:
    """Import every family of the given devices and engines.

    Args:
        source_root: the unpacked package's folder, the one that holds `systems`.
        destination: folder of tables to write to, made if need be.
        devices: our names of devices (default: those shipped).
        engines: among trtllm, vllm, sglang and nccl (default: all).
        release: the package's release, named in each row's origin.

    Returns:
        One entry per device, engine and family.

    Raises:
        TableError: `source_root` is no such package, or has no such device or engine.
        ConfigError: its list of versions is not readable.
    """
    data = source_root / "systems" / "data"
    if not data.is_dir():
        raise TableError(source_root, "expected the package's folder, with systems/data in it")
    current = _current_versions(source_root / "systems" / "query_versions.yaml")
    system_of = {_DEVICE_NAMES.get(p.name, p.name): p.name for p in data.iterdir() if p.is_dir()}
    report = []
    for device in SHIPPED_DEVICES if devices is None else devices:
        if device not in system_of:
            raise TableError(data, f"no {device!r}; it has {', '.join(sorted(system_of))}")
        system = system_of[device]
        for engine in (*ENGINES, "nccl") if engines is None else engines:
            if engine not in (*ENGINES, "nccl"):
                raise TableError(data, f"no {engine!r}; engines are {', '.join(ENGINES)}, nccl")
            wanted = current.get((system, engine)) or current.get(("", engine), "")
            for name, recipe in RECIPES.items():
                if engine in recipe.engines:
                    job = _Job(data, system, device, engine, FAMILIES[name], recipe, release)
                    report.append(job.run(wanted, destination))
    return report


@dataclass(frozen=True)
class _Job:
    """One table to import."""

    data: Path
    system: str
    device: str
    engine: str
    family: Family
    recipe: Recipe
    release: str

    def run(self, wanted: str, destination: Path) -> ImportedTable:
        """Read, translate, check and write; a bad file is reported, not raised."""
        names = (self.device, self.engine, self.family.name)
        path = self.choose(wanted)
        if path is None:
            return ImportedTable(*names, "missing")
        version = path.parent.name
        if reason := WITHHELD.get((self.system, self.engine, self.family.name)):
            return ImportedTable(*names, "withheld", version, reason=reason)
        try:
            rows = self.translate(path)
            unique = self.settle(rows)
            write_table(unique, destination.joinpath(*names).with_suffix(".parquet"))
        except TableError as error:
            return ImportedTable(*names, "refused", version, reason=str(error))
        return ImportedTable(*names, "written", version, unique.height, rows.height - unique.height)

    def choose(self, wanted: str) -> Path | None:
        """The wanted version's table, else the newest one; None if there is none."""
        folder = self.data / self.system / self.recipe.group / self.engine
        found = {path.parent.name: path for path in folder.glob(f"*/{self.recipe.file}")}
        if wanted in found:
            return found[wanted]
        return found[max(found, key=version_order)] if found else None

    def translate(self, path: Path) -> pl.DataFrame:
        """The file's rows in our columns and units, in its order.

        Raises:
            TableError: unreadable, a column missing or of the wrong kind, or a bad value.
        """
        source = read_parquet(path)
        self.require(source, path)
        columns: dict[str, pl.Expr] = {}
        for name, theirs in self.recipe.columns.items():
            if theirs in source.columns:
                columns[name] = pl.col(theirs)
            else:
                columns[name] = pl.lit(self.recipe.optional[name])
            words = NUMBER_FORMATS if name in self.recipe.formats else self.recipe.values.get(name)
            if words is not None:
                _refuse_unknown(source[theirs], words, path)
                columns[name] = columns[name].replace_strict(words, return_dtype=pl.String)
        columns.update(self.recipe.derived)
        version = pl.col("version") if "version" in source.columns else pl.lit(path.parent.name)
        columns |= {
            "time_s": pl.col("latency") / 1e3,
            "device": pl.lit(self.device),
            "engine": pl.lit(self.engine),
            "engine_version": version,
            "kernel": pl.col("kernel_source"),
            "origin": pl.lit(
                f"aiconfigurator-core {self.release}: {path.relative_to(self.data).as_posix()}"
            ),
            "licence": pl.lit(LICENCE),
        }
        frame = source.select(columns[c.name].alias(c.name) for c in self.family.columns)
        return checked(frame, self.family, path)

    def require(self, source: pl.DataFrame, path: Path) -> None:
        """Refuse a table whose columns can't be computed with.

        Raises:
            TableError: naming the column.
        """
        optional = {self.recipe.columns[name] for name in self.recipe.optional}
        names = [n for n in self.recipe.columns.values() if n not in optional]
        for expression in self.recipe.derived.values():
            names.extend(expression.meta.root_names())
        for name in (*dict.fromkeys(names), "kernel_source", "latency"):
            if name not in source.columns:
                raise TableError(path, "missing", name)
        check_column(source["latency"], Column("latency", "real", "ms", ""), path)

    def settle(self, rows: pl.DataFrame) -> pl.DataFrame:
        """One row per shape, sorted.

        Of several kernels the one that the engine would run is kept, else the first
        in the file; of several runs of it, the median.
        """
        key = list(self.family.key_names)
        rows = self.recipe.prefer(rows)
        kept = rows.filter(pl.col("kernel") == pl.col("kernel").first().over(key))
        others = [c.name for c in self.family.columns if c.name not in (*key, "time_s")]
        return (
            kept.group_by(key, maintain_order=True)
            .agg(pl.col("time_s").median(), *(pl.col(name).first() for name in others))
            .select(column.name for column in self.family.columns)
            .sort(key)
        )


def _refuse_unknown(values: pl.Series, words: Mapping[str, str], path: Path) -> None:
    check_column(values, Column(values.name, "text", "", "", choices=tuple(words)), path)


def write_table(table: pl.DataFrame, path: Path) -> None:
    """Write a table so that a reader sees the old file or the whole new one.

    Raises:
        OSError: the folder cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.stem}.", dir=path.parent)
    os.close(handle)
    try:
        # Level 19 is 7 % smaller than the default, reads as fast, and is paid for once.
        table.write_parquet(temporary, compression="zstd", compression_level=19)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def version_order(version: str) -> tuple[tuple[int, int], ...]:
    """Sort key of a version: numbers by value, pre-releases before and post-releases after."""
    marks = {"dev": -2, "a": -1, "b": -1, "rc": -1, "post": 1}
    parts = re.findall(r"\d+|dev|rc|post|[ab](?=\d)", version.partition("+")[0])
    order = [(2, int(p)) if p.isdigit() else (marks[p], 0) for p in parts]
    return (*order, (0, 0))


def _current_versions(path: Path) -> dict[tuple[str, str], str]:
    """(system, framework) -> current version; system is empty for the default."""
    found: dict[tuple[str, str], str] = {}
    content = read_yaml(path).data
    try:
        for framework, slots in content["defaults"].items():
            found["", framework] = str(slots["current"])
        for system, frameworks in content.get("overrides", {}).items():
            for framework, slots in frameworks.items():
                found[system, framework] = str(slots["current"])
    except (TypeError, KeyError, AttributeError) as error:
        raise TableError(path, f"expected defaults and overrides of versions ({error})") from None
    return found
