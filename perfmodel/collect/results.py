"""What a collection leaves: tables of the store, a manifest, and the device's file."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from perfmodel.collect.journal import RowId
from perfmodel.collect.measure import Machine, Sample
from perfmodel.collect.rooflines import LINK_LATENCY_S, Rooflines, provisional_device
from perfmodel.database import FAMILIES
from perfmodel.database.checks import checked
from perfmodel.engine import PYTORCH
from perfmodel.precision import FORMATS

Rows = Mapping[RowId, Sample | None]

ORIGIN = "perfmodel.collect"
LICENCE = "LicenseRef-own-measurement"


@dataclass(frozen=True)
class FamilyReport:
    """How well one family is known.

    Attributes:
        rows: measured.
        tests: held-out midpoints behind the errors.
        median_error, p90_error: relative errors of interpolation there; None without a test.
        reached: every slice of the family met the bound.
        spread: median over rows of the repeats' relative half-width between quartiles: what no
            table can know better.
    """

    rows: int
    tests: int
    median_error: float | None
    p90_error: float | None
    reached: bool
    spread: float


@dataclass(frozen=True)
class Report:
    """The outcome of a collection.

    Attributes:
        device: name under which the tables are stored.
        device_file: the YAML file that describes the machine.
        machine: its figures, raised to the best rates that any row reached.
        families: by name.
        measured: rows measured by this call; the others were in the journal.
        seconds: this call took.
        notes: what was left out, and why.
    """

    device: str
    device_file: Path
    machine: Machine
    families: Mapping[str, FamilyReport]
    measured: int
    seconds: float
    notes: tuple[str, ...]


def raised_peaks(name: str, machine: Machine, rows: Rows) -> Machine:
    """The machine with peaks that no row beats: the roofline must hold for each."""
    rooflines = Rooflines(provisional_device(name, machine))
    peaks = dict(machine.peak_flops_per_s)
    factor = dict.fromkeys(peaks, 1.0)
    bandwidth = peer = 1.0
    peers = machine.peers
    for (family, items), sample in rows.items():
        # Operands in the cache, or beyond a link, say nothing of the peaks.
        if sample is None or not rooflines.exact(family):
            continue
        key = dict(items)
        roofline = rooflines.of(family, key)
        # Attention's products run at the rate of its queries' format, or of bf16.
        peak = FORMATS[str(key["dtype"])].peak
        peak = peak if peak in peaks else "bf16"
        factor[peak] = max(factor[peak], float(roofline.compute_s) / sample.time_s)
        bandwidth = max(bandwidth, float(roofline.bandwidth_s) / sample.time_s)
        if family == "collective":
            peer = max(peer, float(roofline.link_s) / sample.time_s)
            peers = max(peers, int(key["devices"]))
    return replace(
        machine,
        memory_bandwidth_bytes_per_s=machine.memory_bandwidth_bytes_per_s * bandwidth,
        peak_flops_per_s={peak: rate * factor[peak] for peak, rate in peaks.items()},
        peer_bytes_per_s=rooflines.peer_bytes_per_s * peer if peers > 1 else 0.0,
        peers=peers,
    )


def write_tables(folder: Path, device: str, version: str, rows: Rows) -> dict[str, Path]:
    """Write a Parquet table per family to `folder/device/pytorch`; returns their files.

    Raises:
        TableError: a row does not suit its family's schema.
    """
    import polars as pl

    from perfmodel.database.importing import write_table

    by_family: dict[str, list[dict[str, Any]]] = {}
    for (family, items), sample in rows.items():
        if sample is None:
            continue
        by_family.setdefault(family, []).append(
            dict(items)
            | {
                "time_s": sample.time_s,
                "device": device,
                "engine": PYTORCH.name,
                "engine_version": version,
                "kernel": sample.kernel,
                "origin": ORIGIN,
                "licence": LICENCE,
            }
        )
    files: dict[str, Path] = {}
    for family, found in by_family.items():
        path = folder / device / PYTORCH.name / f"{family}.parquet"
        schema = FAMILIES[family]
        frame = pl.DataFrame(found, infer_schema_length=None).sort(schema.key_names)
        write_table(checked(frame, schema, path), path)
        files[family] = path
    return files


def write_manifest(
    path: Path,
    files: Mapping[str, Path],
    version: str,
    machine: Machine,
    reports: Mapping[str, FamilyReport],
    error_bound: float,
    notes: tuple[str, ...],
) -> None:
    """Write what was measured by what, with a checksum of each table."""
    tables = {
        family: {
            "file": file.name,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            **asdict(reports[family]),
        }
        for family, file in files.items()
    }
    content = {
        "torch": version,
        "machine": asdict(machine),
        "error_bound": error_bound,
        "tables": tables,
        "notes": list(notes),
    }
    _write(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def write_device(path: Path, name: str, machine: Machine, version: str) -> None:
    """Write the machine as a device file, each figure with how it came about."""
    import yaml

    def figure(value: float, unit: str, source: str) -> dict[str, str]:
        return {"value": f"{_rounded_up(value):.4g}{unit}", "source": source}

    with_torch = f"with PyTorch {version}"
    best = "the best of a probe and every collected row"
    link = machine.link_bytes_per_s
    latency = f"{LINK_LATENCY_S * 1e6:.0f}us"
    peer = {
        "name": "peer",
        "span": machine.peers,
        "bandwidth": f"{_rounded_up(machine.peer_bytes_per_s or 1.0) / 1e9:.4g}GB/s",
        "latency": latency,
        "source": f"bandwidth measured {with_torch}: the best of collectives; latency assumed",
    }
    content = {
        "name": name,
        "title": machine.title,
        "memory": {
            "value": f"{machine.memory_bytes:.0f}B",
            "source": "as the system reports it",
        },
        "memory_bandwidth": figure(
            machine.memory_bandwidth_bytes_per_s / 1e9, "GB/s", f"measured {with_torch}: {best}"
        ),
        "peak": {
            peak: figure(rate / 1e9, "GFLOP/s", f"measured {with_torch}: {best}")
            for peak, rate in sorted(machine.peak_flops_per_s.items())
        },
        "tdp": {
            "value": f"{machine.tdp_w or 1.0:.4g}W",
            "source": "as the driver reports it" if machine.tdp_w else "not measured: stands in",
        },
        "host": {
            "devices": max(machine.devices, machine.peers),
            "source": "devices that PyTorch finds, or processes that communicated",
        },
        "platform": "weak-scale-out",
        "links": [
            *([peer] if machine.peer_bytes_per_s else []),
            {
                "name": "host",
                "span": "unlimited",
                "bandwidth": f"{(link or machine.memory_bandwidth_bytes_per_s) / 1e9:.4g}GB/s",
                "latency": latency,
                "source": (
                    f"bandwidth measured {with_torch}: page-locked host memory to the device; "
                    if link
                    else "no link: the memory's bandwidth stands in; "
                )
                + "latency assumed",
            },
        ],
        "notes": "Written by the collector; its tables are stored under the same name.",
    }
    text = yaml.safe_dump(content, sort_keys=False, width=100, allow_unicode=True)
    _write(path, text)


def _rounded_up(value: float) -> float:
    """To four digits, never down: a peak must not fall below the rate it was read from."""
    scale = 10.0 ** (math.floor(math.log10(value)) - 3)
    return math.ceil(value / scale * (1 + 1e-6)) * scale


def _write(path: Path, text: str) -> None:
    """Replace a file as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
