"""Make measured tables from the profiles of Vidur (Microsoft, MIT).

Its repository keeps them as `data/profiling/compute/<device>/<organization>/<model>/*.csv` and
`data/profiling/network/<host>/*.csv`. Many `attention.csv` are kept outside of git there; where
they are absent the tables made of them are reported missing.

What was timed, as Vidur's profiler has it: PyTorch, vLLM's and Sarathi's kernels in fp16, which
stands as bf16 here (any 2-byte format). Times are medians in ms, printed to whole
microseconds: short kernels are coarse. Written under the engine `pytorch`, whose tables are of
no engine of ours; `collective` too, so that it doesn't take the place of nccl's own table, which
has more operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from perfmodel.database._vidur_tables import ATTENTION, NETWORK, Sheet, elementwise, gemm
from perfmodel.database.checks import TableError, checked
from perfmodel.database.importing import (
    ImportedTable,
    Progress,
    in_silence,
    settled,
    write_table,
)
from perfmodel.database.schema import FAMILIES, Family

ENGINE = "pytorch"
LICENCE = "MIT"
RELEASE = "7d47513"
"""The commit of Vidur that this was written for."""

DEVICES = {"a100": "a100_sxm", "h100": "h100_sxm", "a40": "a40"}
"""Vidur's folders of compute profiles, and our devices."""

HOSTS = {
    "a100_dgx": "a100_sxm",
    "h100_dgx": "h100_sxm",
    # Azure's NC hosts: PCIe cards, joined in pairs.
    "a100_pairwise_nvlink": "a100_pcie",
    "h100_pairwise_nvlink": "h100_nvl",
    "a40_pairwise_nvlink": "a40",
}
"""Vidur's folders of network profiles, and the devices of those hosts."""

WITHHELD = {
    ("h100_pairwise_nvlink", "point_to_point"): (
        "the file is a copy, byte for byte, of that of a100_pairwise_nvlink"
    ),
}
"""(host, family) of tables that can't be what their name says, and why."""

Translate = Callable[[Sheet], pl.DataFrame]


def import_tables(
    source_root: Path,
    destination: Path,
    devices: Iterable[str] | None = None,
    *,
    release: str = RELEASE,
    progress: Progress = in_silence,
) -> list[ImportedTable]:
    """Import every profile of the given devices.

    Args:
        source_root: Vidur's repository, the folder that holds `data/profiling`.
        destination: folder of tables to write to, made if need be.
        devices: our names of devices (default: all that were profiled).
        release: Vidur's commit, named in each row's origin.
        progress: told which tables come next, and the share done.

    Returns:
        One entry per device and family: a table is made of all models' profiles, or refused
        for the first bad one.

    Raises:
        TableError: `source_root` is no such repository, or has no such device.
        OSError: a file cannot be read or written.
    """
    data = source_root / "data" / "profiling"
    if not data.is_dir():
        raise TableError(source_root, "expected Vidur's repository, with data/profiling in it")
    compute = _by_device(data / "compute", DEVICES)
    network = _by_device(data / "network", HOSTS)
    known = sorted({*compute, *network})
    wanted = known if devices is None else list(devices)
    for device in wanted:
        if device not in known:
            raise TableError(data, f"no {device!r}; it has {', '.join(known)}")
    report = []
    for i, device in enumerate(wanted):
        version = f"vidur-{release}"
        jobs: list[tuple[str, list[Path], Translate]] = []
        if device in compute:
            linear = sorted(compute[device].glob("*/*/mlp.csv"))
            attention = sorted(compute[device].glob("*/*/attention.csv"))
            jobs += [("gemm", linear, gemm), ("elementwise", linear, elementwise)]
            jobs += [(name, attention, read) for name, read in ATTENTION.items()]
        if device in network:
            for name, (file, read) in NETWORK.items():
                jobs.append((name, sorted(network[device].glob(file)), read))
        for name, paths, read in jobs:
            progress(f"{name} of {device}", i / len(wanted))
            host = network[device].name if device in network else ""
            withheld = WITHHELD.get((host, name), "") if name in NETWORK else ""
            job = _Job(data, device, FAMILIES[name], release, version)
            report.append(job.run(paths, read, withheld, destination))
    return report


def _by_device(folder: Path, names: dict[str, str]) -> dict[str, Path]:
    """Our device -> its folder; a folder that we have no name for keeps its own."""
    if not folder.is_dir():
        return {}
    return {names.get(p.name, p.name): p for p in sorted(folder.iterdir()) if p.is_dir()}


@dataclass(frozen=True)
class _Job:
    """One table to import."""

    data: Path
    device: str
    family: Family
    release: str
    version: str

    def run(
        self, paths: list[Path], read: Translate, withheld: str, destination: Path
    ) -> ImportedTable:
        """Read, translate, check and write; a bad file is reported, not raised."""
        names = (self.device, ENGINE, self.family.name)
        if not paths:
            return ImportedTable(*names, "missing")
        if withheld:
            return ImportedTable(*names, "withheld", self.version, reason=withheld)
        try:
            sheets = [Sheet.of(path) for path in paths]
            rows = pl.concat([self.checked(sheet, read) for sheet in sheets])
            if rows.is_empty():
                return ImportedTable(*names, "missing")
            table = settled(rows, self.family)
            write_table(table, destination.joinpath(*names).with_suffix(".parquet"))
        except TableError as error:
            return ImportedTable(*names, "refused", self.version, reason=str(error))
        merged = rows.height - table.height
        return ImportedTable(*names, "written", self.version, table.height, merged)

    def checked(self, sheet: Sheet, read: Translate) -> pl.DataFrame:
        """A file's rows in the family's columns.

        Raises:
            TableError: naming the file, column and row.
        """
        place = sheet.path.relative_to(self.data.parent.parent).as_posix()
        frame = read(sheet).with_columns(
            device=pl.lit(self.device),
            engine=pl.lit(ENGINE),
            engine_version=pl.lit(self.version),
            origin=pl.lit(f"vidur {self.release}: {place}"),
            licence=pl.lit(LICENCE),
        )
        try:
            return checked(frame, self.family, sheet.path)
        except TableError as error:
            # Several rows come of one line: what is left to find here has no line number.
            raise TableError(sheet.path, error.problem, error.column) from None
