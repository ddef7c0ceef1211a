"""The cheapest mix of device types for requests of many sizes: Mélange's problem.

Requests fall into buckets by input and output length. A device of a type serves so many
requests/s of a bucket's size, at a price; a fleet is a count of each type, and who serves
which bucket. The form of the input and the meaning of slices are those of

    T. Griggs et al., "Mélange: Cost Efficient Large Language Model Serving by Exploiting GPU
    Heterogeneity", arXiv 2404.14527.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Discriminator, Field, Tag

from perfmodel.documents import Document, read_json_document, validate
from perfmodel.errors import ConfigError
from planner.files import as_text, atomic_write
from planner.query_choices import Strict

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

SCHEMA = "planner.mix/1"

LOAD_TOLERANCE = 1e-6
"""Devices by which a type's load may exceed their count: what HiGHS takes for satisfied."""

GAP_TOLERANCE = 1e-6
"""Share of the price up to which HiGHS takes a bound for met."""

SHARES_TOLERANCE = 0.01
"""By which the shares of all buckets may miss 1: they may be rounded."""

Number = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
Matrix = Annotated[
    tuple[Annotated[tuple[Number, ...], Field(min_length=1)], ...], Field(min_length=1)
]


class DeviceEntry(Strict):
    """A device type of `gpu_info`."""

    name: str | None = Field(default=None, description="The mapping's key if not given.")
    cost: Number = Field(description="USD per hour of one.")
    tputs: Matrix = Field(
        description="Requests/s that one serves at most, by bucket; 0: it cannot serve them."
    )


class NamedEntry(DeviceEntry):
    """A device type of `gpu_info` as a list."""

    name: str


def _form(value: Any) -> str:
    return "list" if isinstance(value, list) else "dict"


class MelangeFile(Strict):
    """Mélange's input."""

    workload_distribution: Matrix = Field(
        description="Share of the requests by input length (rows) and output length (columns); "
        "1 in all."
    )
    gpu_info: Annotated[
        Annotated[dict[str, DeviceEntry], Field(min_length=1), Tag("dict")]
        | Annotated[tuple[NamedEntry, ...], Field(min_length=1), Tag("list")],
        Discriminator(_form),
    ] = Field(description="Device types: a mapping by name, or a list of entries with a `name`.")
    total_request_rate: float = Field(
        gt=0, allow_inf_nan=False, strict=True, description="Requests/s of all buckets."
    )
    slice_factor: int | None = Field(
        default=None,
        ge=1,
        strict=True,
        description="Equal slices of each bucket, each served by one device type; a bucket may be "
        "split at will if not given.",
    )


@dataclass(frozen=True)
class DeviceType:
    """What can be rented.

    Attributes:
        qps: requests/s of each bucket that one serves at most, (R, C); 0: none.
    """

    name: str
    usd_per_hour: float
    qps: FloatArray


@dataclass(frozen=True)
class MixProblem:
    """Demand by bucket, and who may serve it.

    Attributes:
        qps: demand of each bucket, requests/s, (R, C): by input length and output length.
        slices: equal parts of a bucket, none of which is split further; None: any split.
    """

    qps: FloatArray
    devices: tuple[DeviceType, ...]
    slices: int | None = None

    @property
    def loads(self) -> FloatArray:
        """Devices that each bucket keeps busy if one type serves it all, (G, R, C); or infinite."""
        with np.errstate(divide="ignore", invalid="ignore"):
            loads = np.stack([self.qps / device.qps for device in self.devices])
        return np.where(self.qps > 0, loads, 0.0)

    @property
    def prices(self) -> FloatArray:
        """USD per hour of a device, (G,)."""
        return np.array([device.usd_per_hour for device in self.devices])


@dataclass(frozen=True)
class Mix:
    """The answer.

    Attributes:
        counts: devices of each type, (G,).
        shares: of each bucket that each type serves, (G, R, C); zero where there is no demand.
        bound_usd_per_hour: no mix costs less.
        seconds: of the solver.
    """

    problem: MixProblem
    counts: IntArray
    shares: FloatArray
    bound_usd_per_hour: float
    seconds: float

    @property
    def usd_per_hour(self) -> float:
        """Of all devices."""
        return float(self.counts @ self.problem.prices)

    @property
    def loads(self) -> FloatArray:
        """Devices of each type that are kept busy, (G,)."""
        return _loads(self.problem, self.shares)

    @property
    def gap(self) -> float:
        """By how much the price may exceed the least possible, as a share of it."""
        if self.usd_per_hour <= 0:
            return 0.0
        gap = (self.usd_per_hour - self.bound_usd_per_hour) / self.usd_per_hour
        return gap if gap > GAP_TOLERANCE else 0.0

    def served_by(self) -> Iterator[tuple[tuple[int, int], float, dict[str, float]]]:
        """Each bucket with demand: its place, requests/s, and the share of each type."""
        for row, column in np.argwhere(self.problem.qps > 0):
            shares = self.shares[:, row, column]
            who = {d.name: float(s) for d, s in zip(self.problem.devices, shares, strict=True) if s}
            yield (int(row), int(column)), float(self.problem.qps[row, column]), who

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the schema first."""
        alone = alone_usd_per_hour(self.problem)
        return {
            "schema": SCHEMA,
            "usd_per_hour": self.usd_per_hour,
            "bound_usd_per_hour": self.bound_usd_per_hour,
            "gap": self.gap,
            "proven": self.gap == 0.0,
            "slice_factor": self.problem.slices,
            "devices": [
                {
                    "name": device.name,
                    "count": int(count),
                    "busy_devices": float(load),
                    "usd_per_device_hour": device.usd_per_hour,
                    "alone_usd_per_hour": float(price) if np.isfinite(price) else None,
                }
                for device, count, load, price in zip(
                    self.problem.devices, self.counts, self.loads, alone, strict=True
                )
            ],
            "buckets": [
                {"row": row, "column": column, "qps": qps, "served_by": who}
                for (row, column), qps, who in self.served_by()
            ],
            "seconds": self.seconds,
        }


def is_melange(path: Path) -> bool:
    """Whether a file asks for a mix rather than describing a catalog of services.

    Raises:
        ConfigError: it is named .json, and can't be read as JSON.
    """
    if path.suffix.lower() != ".json" or path.is_dir():
        return False
    data = read_json_document(path).data
    return not (isinstance(data, dict) and "services" in data)


def read_melange(path: Path) -> MixProblem:
    """Read Mélange's input.

    Raises:
        ConfigError: file, line, field and what was expected.
    """
    document = read_json_document(path)
    file = validate(document, MelangeFile)
    shares = _matrix(document, ("workload_distribution",), file.workload_distribution)
    named: list[tuple[str | int, str, DeviceEntry]]
    if isinstance(file.gpu_info, dict):
        named = [(key, entry.name or key, entry) for key, entry in file.gpu_info.items()]
    else:
        named = [(i, entry.name, entry) for i, entry in enumerate(file.gpu_info)]
    devices: dict[str, DeviceType] = {}
    for key, name, entry in named:
        at = ("gpu_info", key)
        if name in devices:
            raise ConfigError(f"{document.where(at)}: a second device type of the name {name!r}")
        qps = _matrix(document, (*at, "tputs"), entry.tputs)
        if qps.shape != shares.shape:
            raise ConfigError(
                f"{document.where((*at, 'tputs'))}: expected {_size(shares)} as "
                f"workload_distribution has, got {_size(qps)}"
            )
        devices[name] = DeviceType(name, entry.cost, qps)
    if not shares.any():
        where = document.where(("workload_distribution",))
        raise ConfigError(f"{where}: expected a share above zero in some bucket")
    if abs(shares.sum() - 1.0) > SHARES_TOLERANCE:
        where = document.where(("workload_distribution",))
        raise ConfigError(
            f"{where}: expected shares that add up to 1, got {shares.sum():.6g} together: "
            f"total_request_rate would not be the total"
        )
    served = np.any([device.qps > 0 for device in devices.values()], axis=0)
    for row, column in np.argwhere((shares > 0) & ~served):
        where = document.where(("workload_distribution", int(row), int(column)))
        raise ConfigError(
            f"{where}: no device type serves this bucket: its entry in tputs is 0 for each of "
            f"{', '.join(devices)}"
        )
    return MixProblem(shares * file.total_request_rate, tuple(devices.values()), file.slice_factor)


def _matrix(
    document: Document, at: tuple[str | int, ...], rows: tuple[tuple[float, ...], ...]
) -> FloatArray:
    for i, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise ConfigError(
                f"{document.where((*at, i))}: expected {len(rows[0])} numbers as in the first "
                f"row, got {len(row)}"
            )
    return np.array(rows, dtype=float)


def _size(matrix: FloatArray) -> str:
    return f"{matrix.shape[0]} x {matrix.shape[1]} numbers"


def cheapest_mix(problem: MixProblem, *, gap: float = 0.0, limit_s: float = 60.0) -> Mix:
    """The cheapest counts of devices, and who serves which bucket, by HiGHS.

    Minimizes `sum(price * count)` where the parts of every bucket add up to the whole, and those
    that a type serves keep no more devices busy than there are. The slices of one bucket are
    alike, so that whole numbers of them are assigned rather than each.

    Args:
        gap: share of the price at which the solver may stop.
        limit_s: after which it stops with what it has found.

    Raises:
        ValueError: a bucket with demand that no type serves.
        TimeoutError: no mix was found within the limit.
    """
    from scipy import sparse
    from scipy.optimize import Bounds, LinearConstraint, milp

    started = time.perf_counter()
    wanted = problem.qps > 0
    whole = problem.loads[:, wanted]
    kind, bucket = np.nonzero(np.isfinite(whole))
    kinds, buckets, parts = len(problem.devices), int(wanted.sum()), len(kind)
    if len(np.unique(bucket)) < buckets:
        raise ValueError("no device type serves one of the buckets")
    per_bucket = float(problem.slices or 1)
    # Variables: parts of a bucket by the type that serves them; devices of each type.
    busy = whole[kind, bucket] / per_bucket
    most = np.ceil(np.bincount(kind, busy * per_bucket, kinds))
    part = np.arange(parts)
    assigned = sparse.csr_matrix((np.ones(parts), (bucket, part)), (buckets, parts + kinds))
    carried = sparse.hstack(
        [sparse.csr_matrix((busy, (kind, part)), (kinds, parts)), -sparse.eye(kinds)]
    )
    # A type that serves any part of a bucket has a device, however little that part is.
    rented = sparse.hstack(
        [
            sparse.eye(parts),
            sparse.csr_matrix((np.full(parts, -per_bucket), (part, kind)), (parts, kinds)),
        ]
    )
    found = milp(
        np.concatenate([np.zeros(parts), problem.prices]),
        constraints=[
            LinearConstraint(assigned, per_bucket, per_bucket),
            LinearConstraint(carried.tocsr(), -np.inf, 0),
            LinearConstraint(rented.tocsr(), -np.inf, 0),
        ],
        integrality=np.concatenate([np.full(parts, problem.slices is not None), np.ones(kinds)]),
        bounds=Bounds(0, np.concatenate([np.full(parts, per_bucket), most])),
        options={"mip_rel_gap": gap, "time_limit": limit_s},
    )
    if found.x is None:
        raise TimeoutError(f"no mix was found within {limit_s:g} s")
    values = found.x[:parts]
    values = np.round(values) if problem.slices else np.where(values > 1e-9, values, 0.0)
    served = np.zeros((kinds, buckets))
    served[kind, bucket] = values / np.bincount(bucket, values)[bucket]
    shares = np.zeros((kinds, *problem.qps.shape))
    shares[:, wanted] = served
    return Mix(
        problem,
        _counts(_loads(problem, shares), served),
        shares,
        max(float(found.mip_dual_bound), 0.0),
        time.perf_counter() - started,
    )


def _loads(problem: MixProblem, shares: FloatArray) -> FloatArray:
    """Devices of each type kept busy by shares (G, R, C) of the buckets, (G,)."""
    busy = np.where(shares > 0, shares, 0.0) * np.where(shares > 0, problem.loads, 0.0)
    return np.asarray(busy.sum(axis=(1, 2)))


def _counts(loads: FloatArray, served: FloatArray) -> IntArray:
    counts = np.ceil(loads - LOAD_TOLERANCE)
    return np.maximum(counts, served.any(axis=1)).astype(np.int64)


def alone_usd_per_hour(problem: MixProblem) -> FloatArray:
    """USD per hour if one type serves everything, (G,); infinite where it can't."""
    loads = problem.loads.sum(axis=(1, 2))
    return np.asarray(problem.prices * np.maximum(np.ceil(loads - LOAD_TOLERANCE), 1.0))


def write_mix(mix: Mix, path: Path) -> None:
    """Write a mix as JSON, or as YAML if the name ends in .yaml or .yml.

    Raises:
        ConfigError: the file cannot be written.
    """
    atomic_write(path, as_text(mix.to_dict(), path))
