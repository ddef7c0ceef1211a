"""Where measured tables lie, and reading the one that is asked for.

A table is a file `<folder>/<device>/<engine>/<family>.parquet`. Folders are searched in
order, the user's before the shipped one; the first that has the file gives the whole
table. So a user replaces one table, or adds a device, without touching the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from perfmodel.database.checks import TableError, checked, read_parquet
from perfmodel.database.schema import FAMILIES

if TYPE_CHECKING:
    import polars as pl

Kept = TypeVar("Kept")

MOST_KEPT = 16
"""Things made of tables that a store keeps, such as a device's operator models."""

SHIPPED = Path(__file__).resolve().parent.parent / "data" / "perfdb"
"""The folder of tables that comes with the package."""


@dataclass(frozen=True)
class TableInfo:
    """What a stored table is, for listings.

    Attributes:
        rows: measurements.
        file_bytes: size of its file.
        versions: engine versions that were measured.
    """

    device: str
    engine: str
    family: str
    rows: int
    file_bytes: int
    versions: tuple[str, ...]
    path: Path


class PerfStore:
    """Measured tables of all devices and engines.

    Lifetime: made once per process and passed to every operator model. Making one reads
    nothing; `table` reads a file on its first request and keeps it.

    Attributes:
        models: of `Operators.shared`, by device and engine.

    Args:
        folders: the user's folders, searched in order before the shipped one.
        shipped: whether to search the shipped folder too.

    Raises:
        TableError: a given folder does not exist.
    """

    def __init__(self, folders: Iterable[Path | str] = (), *, shipped: bool = True) -> None:
        own = [Path(folder) for folder in folders]
        for folder in own:
            if not folder.is_dir():
                raise TableError(folder, "no such folder of measured tables")
        self.folders = (*own, SHIPPED) if shipped else tuple(own)
        self._tables: dict[tuple[str, str, str], pl.DataFrame | None] = {}
        self._kept: dict[tuple[str, ...], Any] = {}

    def kept(self, key: tuple[str, ...], make: Callable[[], Kept]) -> Kept:
        """What is made of the tables and serves as long as they do: made on the first request.

        Those asked for latest are kept, `MOST_KEPT` of them.
        """
        found: Kept = self._kept.pop(key) if key in self._kept else make()
        self._kept[key] = found
        if len(self._kept) > MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        return found

    def table(self, device: str, engine: str, family: str) -> pl.DataFrame | None:
        """The table of a family, or None if nothing was measured.

        Columns are those of `FAMILIES[family].columns`, in that order. Callers share the
        frame.

        Raises:
            TableError: the file is corrupt or not of the family's schema, or names another
                device or engine than its folders do.
            KeyError: unknown family.
        """
        key = (device, engine, family)
        if key not in self._tables:
            path = self.path(device, engine, family)
            self._tables[key] = None if path is None else _read(path, device, engine, family)
        return self._tables[key]

    def path(self, device: str, engine: str, family: str) -> Path | None:
        """The file that `table` reads, or None.

        Raises:
            KeyError: unknown family.
        """
        name = f"{FAMILIES[family].name}.parquet"
        for folder in self.folders:
            path = folder / device / engine / name
            if path.is_file():
                return path
        return None

    def devices(self) -> list[str]:
        """Devices with at least one table, sorted."""
        return sorted({device for device, _, _ in self._stored()})

    def engines(self, device: str) -> list[str]:
        """Engines with at least one table of the device, sorted."""
        return sorted({engine for d, engine, _ in self._stored() if d == device})

    def families(self, device: str, engine: str) -> list[str]:
        """Families stored for a device and engine, in the order of `FAMILIES`."""
        stored = {family for d, e, family in self._stored() if (d, e) == (device, engine)}
        return [family for family in FAMILIES if family in stored]

    def describe(self) -> list[TableInfo]:
        """Every table that `table` would return, in order of device, engine and family.

        Raises:
            TableError: a file is not readable.
        """
        import polars as pl

        found = []
        for device, engine, family in sorted(set(self._stored())):
            path = self.path(device, engine, family)
            assert path is not None
            versions = read_parquet(path, ["engine_version"])["engine_version"]
            found.append(
                TableInfo(
                    device,
                    engine,
                    family,
                    len(versions),
                    path.stat().st_size,
                    tuple(versions.cast(pl.String).unique().sort()),
                    path,
                )
            )
        return found

    def _stored(self) -> Iterator[tuple[str, str, str]]:
        """(device, engine, family) of each file.

        Raises:
            TableError: a file is named for no family: a slip that would else go unnoticed.
        """
        for folder in self.folders:
            for path in folder.glob("*/*/*.parquet"):
                if path.stem not in FAMILIES:
                    raise TableError(
                        path, f"no family of this name; expected one of {', '.join(FAMILIES)}"
                    )
                yield path.parent.parent.name, path.parent.name, path.stem


def _read(path: Path, device: str, engine: str, family: str) -> pl.DataFrame:
    frame = checked(read_parquet(path), FAMILIES[family], path)
    for name, expected in (("device", device), ("engine", engine)):
        wrong = frame[name] != expected
        if wrong.any():
            row = wrong.arg_max() or 0
            problem = f"expected {expected!r} (as the folder), got {frame[name][row]!r}"
            raise TableError(path, problem, name, row + 1)
    return frame
