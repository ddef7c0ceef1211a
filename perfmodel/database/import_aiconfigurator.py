"""Make measured tables from those of NVIDIA's aiconfigurator-core (Apache-2.0).

The package is read once, here, and isn't needed afterwards. Its tables lie under
`systems/data/<system>/<group>/<framework>/<version>/<table>.parquet`; one version is
taken per engine and device: the one it declares current, or, for a table that this
version lacks, the newest other that has it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import polars as pl

from perfmodel.database._aiconfigurator_more import MORE_RECIPES
from perfmodel.database._aiconfigurator_tables import (
    ENGINES,
    NUMBER_FORMATS,
    RECIPES,
    WITHHELD,
    Recipe,
)
from perfmodel.database.checks import TableError, check_column, checked, read_parquet
from perfmodel.database.importing import (
    ImportedTable,
    Progress,
    Status,
    in_silence,
    settled,
    write_table,
)
from perfmodel.database.schema import FAMILIES, Column, Family
from perfmodel.documents import read_yaml

__all__ = ["ImportedTable", "Status", "import_tables", "version_order", "write_table"]

LICENCE = "Apache-2.0"
RELEASE = "0.12.0"
"""The release that the shipped tables came from."""

SHIPPED_DEVICES = (
    "h100_sxm",
    "h200_sxm",
    "b200_sxm",
    "b300_sxm",
    "gb200_nvl72",
    "gb300_nvl72",
    "a100_sxm",
    "l40s",
)

_DEVICE_NAMES = {"gb200": "gb200_nvl72", "gb300": "gb300_nvl72"}
"""The producer's systems whose name is not ours."""

_PARTS: dict[str, tuple[Recipe, ...]] = {
    **{name: (recipe,) for name, recipe in RECIPES.items()},
    **MORE_RECIPES,
}
"""By family name: the producer's tables that make one of ours."""


def import_tables(
    source_root: Path,
    destination: Path,
    devices: Iterable[str] | None = None,
    engines: Iterable[str] | None = None,
    *,
    families: Iterable[str] | None = None,
    release: str = RELEASE,
    progress: Progress = in_silence,
) -> list[ImportedTable]:
    """Import every family of the given devices and engines.

    Args:
        source_root: the unpacked package's folder, the one that holds `systems`.
        destination: folder of tables to write to, made if need be.
        devices: our names of devices (default: those shipped).
        engines: among trtllm, vllm, sglang and nccl (default: all).
        families: names of families (default: all that the package has).
        release: the package's release, named in each row's origin.
        progress: told which tables come next, and the share done.

    Returns:
        One entry per device, engine and family.

    Raises:
        TableError: `source_root` is no such package, or has no such device, engine or family.
        ConfigError: its list of versions is not readable.
    """
    data = source_root / "systems" / "data"
    if not data.is_dir():
        raise TableError(source_root, "expected the package's folder, with systems/data in it")
    wanted_families = list(_PARTS if families is None else families)
    for name in wanted_families:
        if name not in _PARTS:
            raise TableError(data, f"no {name!r}; families are {', '.join(_PARTS)}")
    current = _current_versions(source_root / "systems" / "query_versions.yaml")
    system_of = {_DEVICE_NAMES.get(p.name, p.name): p.name for p in data.iterdir() if p.is_dir()}
    pairs = list(
        product(
            SHIPPED_DEVICES if devices is None else devices,
            (*ENGINES, "nccl") if engines is None else engines,
        )
    )
    for device, engine in pairs:
        if device not in system_of:
            raise TableError(data, f"no {device!r}; it has {', '.join(sorted(system_of))}")
        if engine not in (*ENGINES, "nccl"):
            raise TableError(data, f"no {engine!r}; engines are {', '.join(ENGINES)}, nccl")
    report = []
    for i, (device, engine) in enumerate(pairs):
        progress(f"{engine} on {device}", i / len(pairs))
        system = system_of[device]
        wanted = current.get((system, engine)) or current.get(("", engine), "")
        for name in wanted_families:
            parts = tuple(part for part in _PARTS[name] if engine in part.engines)
            if parts:
                family = FAMILIES[name]
                sources = [_Part(data, system, device, engine, family, p, release) for p in parts]
                report.append(_import_table(sources, wanted, destination))
    return report


def _import_table(parts: list[_Part], wanted: str, destination: Path) -> ImportedTable:
    """Read, translate, check and write; a bad file is reported, not raised."""
    family = parts[0].family
    names = (parts[0].device, parts[0].engine, family.name)
    found = [(part, path) for part in parts if (path := part.choose(wanted)) is not None]
    if not found:
        return ImportedTable(*names, "missing")
    version = ", ".join(sorted({path.parent.name for _, path in found}, key=version_order))
    if reason := WITHHELD.get((parts[0].system, parts[0].engine, family.name)):
        return ImportedTable(*names, "withheld", version, reason=reason)
    left_out: dict[str, int] = {}
    try:
        read = [part.recipe.prefer(part.translate(path, left_out)) for part, path in found]
        rows = pl.concat(read, how="diagonal")
        if rows.is_empty():
            reasons = "; ".join(left_out) or "no row is of a kernel that the engine serves with"
            return ImportedTable(*names, "withheld", version, reason=reasons)
        table = settled(rows, family)
        write_table(table, destination.joinpath(*names).with_suffix(".parquet"))
    except TableError as error:
        return ImportedTable(*names, "refused", version, reason=str(error))
    dropped = sum(left_out.values())
    return ImportedTable(
        *names,
        "written",
        version,
        table.height,
        sum(frame.height for frame in read) - table.height,
        "; ".join(f"{rows} rows left out: {why}" for why, rows in left_out.items()),
        dropped,
    )


@dataclass(frozen=True)
class _Part:
    """One of the producer's tables to read, for one of ours."""

    data: Path
    system: str
    device: str
    engine: str
    family: Family
    recipe: Recipe
    release: str

    def choose(self, wanted: str) -> Path | None:
        """The wanted version's table, else the newest one; None if there is none."""
        folder = self.data / self.system / self.recipe.group / self.engine
        found = {path.parent.name: path for path in folder.glob(f"*/{self.recipe.file}")}
        if self.recipe.version:
            return found.get(self.recipe.version)
        if wanted in found:
            return found[wanted]
        return found[max(found, key=version_order)] if found else None

    def translate(self, path: Path, left_out: dict[str, int]) -> pl.DataFrame:
        """The file's rows in our columns and units, in its order.

        Args:
            path: the file.
            left_out: counts of rows that are left out are added here, by reason.

        Raises:
            TableError: unreadable, a column missing or of the wrong kind, or a bad value.
        """
        source = read_parquet(path).with_columns(pl.lit(self.system).alias("_system"))
        self.require(source, path)
        source = source.with_row_index("_row", offset=1)
        if self.recipe.only is not None:
            source = source.filter(self.recipe.only)
        for reason, impossible in self.recipe.drop.items():
            kept = source.filter(~impossible.fill_null(value=False))
            if kept.height < source.height:
                left_out[reason] = left_out.get(reason, 0) + source.height - kept.height
            source = kept
        try:
            return self.renamed(source, path)
        except TableError as error:
            # Counted in what is left of the file: say which row of the file it is.
            row = source["_row"][error.row - 1] if error.row else 0
            raise TableError(path, error.problem, error.column, row) from None

    def renamed(self, source: pl.DataFrame, path: Path) -> pl.DataFrame:
        """The rows in our columns and units.

        Raises:
            TableError: a bad value.
        """
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
            "time_s": self.recipe.seconds,
            "device": pl.lit(self.device),
            "engine": pl.lit(self.engine),
            "engine_version": version,
            "kernel": pl.col("kernel_source"),
            "origin": pl.lit(
                f"aiconfigurator-core {self.release}: {path.relative_to(self.data).as_posix()}"
            ),
            "licence": pl.lit(LICENCE),
        }
        ours = [c.name for c in self.family.columns]
        if "power" in source.columns:
            columns["power_w"] = pl.when(pl.col("power") > 0).then(pl.col("power"))
            ours.append("power_w")
        return checked(source.select(columns[n].alias(n) for n in ours), self.family, path)

    def require(self, source: pl.DataFrame, path: Path) -> None:
        """Refuse a table whose columns can't be computed with.

        Raises:
            TableError: naming the column.
        """
        optional = {self.recipe.columns[name] for name in self.recipe.optional}
        names = [n for n in self.recipe.columns.values() if n not in optional]
        computed = [*self.recipe.derived.values(), *self.recipe.drop.values()]
        if self.recipe.only is not None:
            computed.append(self.recipe.only)
        for expression in computed:
            names.extend(expression.meta.root_names())
        times = self.recipe.seconds.meta.root_names()
        for name in (*dict.fromkeys(names), "kernel_source", *times):
            if name not in source.columns:
                raise TableError(path, "missing", name)
        for name in times:
            time = Column(name, "real", "", "", zero=bool(self.recipe.drop))
            check_column(source[name], time, path)


def _refuse_unknown(values: pl.Series, words: Mapping[str, str], path: Path) -> None:
    check_column(values, Column(values.name, "text", "", "", choices=tuple(words)), path)


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
