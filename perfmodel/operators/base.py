"""The operator interface: shapes in, time with its provenance out.

Lifetime: one `OperatorModel` is made per (device, engine, store) and kept for a
process. Its `time` is called with arrays of the unique shapes a sweep needs; the
first call for a combination of categories (number formats, routing) loads and grids
the measured table, later calls only interpolate. Subclasses say what the shape is,
which part of it is interpolated, and what the roofline of a shape is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from perfmodel.database.grid import RatioTable, Rows
from perfmodel.database.schema import FAMILIES
from perfmodel.engine import ENGINES, PYTORCH
from perfmodel.hardware import Device, load_device

if TYPE_CHECKING:
    import polars as pl

    from perfmodel.database import PerfStore

FloatArray = NDArray[np.float64]
Number = float | int | NDArray[Any]


class Kind(IntEnum):
    """How an operator's time is known."""

    MEASURED = 0
    EXTRAPOLATED = 1
    ANALYTIC = 2


class Bound(IntEnum):
    """What an operator's time is spent on."""

    COMPUTE = 0
    BANDWIDTH = 1
    LINK = 2
    LATENCY = 3


@dataclass(frozen=True)
class OperatorTime:
    """Times of one operator over an array of shapes.

    Attributes:
        seconds: time of one call.
        kind: `Kind` of each, uint8.
        bound: `Bound` of each, uint8.
        floor_s: the roofline each cannot beat.
    """

    seconds: FloatArray
    kind: NDArray[np.uint8]
    bound: NDArray[np.uint8]
    floor_s: FloatArray


@dataclass(frozen=True)
class Roofline:
    """Least time of a shape by resource, each broadcastable to the call's shape, in seconds.

    Attributes:
        compute_s: operations over the peak of their precision.
        bandwidth_s: bytes that must move through device memory over its bandwidth.
        link_s: bytes that must cross a link over its bandwidth.
    """

    compute_s: Number = 0.0
    bandwidth_s: Number = 0.0
    link_s: Number = 0.0


TYPICAL = Roofline(0.7, 0.8, 0.7)
"""Shares of the roofline that large products, copies and collectives usually reach."""

LATENCY_RATIO = 3.0
"""A call this many times slower than its roofline is bound by latency, not by a resource."""


@dataclass
class OperatorModel(ABC):
    """One operator family on one device under one engine.

    Class attributes:
        family: the measured table's name.
        axes: columns interpolated between measurements.
        slices: columns matched to the nearest measured shapes, with the weight of a
            log2 distance in each.
        similar: for a slice column, by how many octaves per octave of it each axis is read
            further up in a slice that stands in: twice the heads at a batch keep a device as
            busy as half of them at twice the batch.
        relatives: how many other categories (number formats, routings) of a table are consulted
            to fill holes in it: their kernels are alike, and change at the same shapes. Where
            holes are many, so are the same categories of other engines and of like devices.
        beside: columns that the roofline reads besides axes and slices.
        efficiency: fractions of the compute, memory and link roofline reached where
            nothing was measured.
        floor_is_exact: the roofline holds for every shape; False where it is an expectation,
            as of experts reached under balanced routing.
        launch_s: least time of a kernel where nothing was measured.
    """

    family: ClassVar[str]
    axes: ClassVar[tuple[str, ...]]
    slices: ClassVar[Mapping[str, float]] = {}
    similar: ClassVar[Mapping[str, Mapping[str, float]]] = {}
    relatives: ClassVar[int] = 3
    beside: ClassVar[tuple[str, ...]] = ()
    efficiency: ClassVar[Roofline] = TYPICAL
    launch_s: ClassVar[float] = 3e-6
    floor_is_exact: ClassVar[bool] = True

    device: Device
    engine: str
    store: PerfStore
    _tables: dict[tuple[tuple[str, str], ...], tuple[RatioTable, bool] | None] = field(
        default_factory=dict, init=False, repr=False
    )

    @abstractmethod
    def roofline(self, categories: Mapping[str, str], shape: Mapping[str, Any]) -> Roofline:
        """Least time of a shape; `shape` holds broadcastable arrays by column name."""

    def analytic(self, floors: Roofline, shape: Mapping[str, Any]) -> FloatArray:
        """Time where nothing was measured: a share of the roofline, at least a launch."""
        reached = largest(_scaled(floors, self.analytic_efficiency()))
        seconds: FloatArray = np.maximum(reached, self.launch_s)
        return seconds

    def analytic_efficiency(self) -> Roofline:
        """Shares of the roofline assumed: the operator's, scaled to what the device is known for.

        A device's published shares are of large products and copies; an operator keeps its
        distance from those.
        """
        compute, bandwidth = self.device.achieved_compute, self.device.achieved_bandwidth
        return Roofline(
            self.efficiency.compute_s * (compute / TYPICAL.compute_s if compute else 1.0),
            self.efficiency.bandwidth_s * (bandwidth / TYPICAL.bandwidth_s if bandwidth else 1.0),
            self.efficiency.link_s,
        )

    def work(self, categories: Mapping[str, str], shape: Mapping[str, Any]) -> FloatArray:
        """Time in proportion to which measurements are carried between shapes: the roofline."""
        return largest(self.roofline(categories, shape))

    def stand_ins(self, categories: Mapping[str, str]) -> list[Mapping[str, str]]:
        """Other categories whose efficiency may stand in, best first, when none is measured."""
        return []

    def coordinates(self, shape: Mapping[str, Any]) -> Mapping[str, Any]:
        """Shape columns as the table's axes understand them (default: unchanged)."""
        return shape

    def tabulated(self, shape: Mapping[str, Any]) -> Any:
        """Whether the table's columns say all of a shape; else its time is by roofline ratio."""
        return True

    def time(self, categories: Mapping[str, str], shape: Mapping[str, Number]) -> OperatorTime:
        """Time of every shape.

        Args:
            categories: exact-match columns, e.g. `{"dtype": "bf16"}`.
            shape: column name -> array; slice columns have shape (U, 1), axis columns
                anything broadcastable to (U, C).
        """
        arrays = {name: np.asarray(value, dtype=float) for name, value in shape.items()}
        full = np.broadcast_shapes(*(a.shape for a in arrays.values()))
        floors = self.roofline(categories, arrays)
        floor = np.broadcast_to(largest(floors), full)
        loaded = self._table(categories)
        if loaded is None:
            seconds = np.broadcast_to(self.analytic(floors, arrays), full)
            kind = np.full(full, Kind.ANALYTIC, dtype=np.uint8)
            # Held against what it is assumed to reach, not against the peak.
            floors = _scaled(floors, self.analytic_efficiency())
        else:
            seconds, measured = self._interpolate(loaded[0], categories, arrays, full)
            known = measured & loaded[1] & self.tabulated(arrays)
            known = known & self._as_measured(floor, arrays, categories)
            kind = np.where(known, Kind.MEASURED, Kind.EXTRAPOLATED)
            seconds = np.maximum(seconds, floor)
        bound = _bound(floors, seconds, full)
        return OperatorTime(seconds, kind.astype(np.uint8), bound, floor)

    def _interpolate(
        self,
        table: RatioTable,
        categories: Mapping[str, str],
        arrays: Mapping[str, FloatArray],
        full: tuple[int, ...],
    ) -> tuple[FloatArray, NDArray[np.bool_]]:
        coordinates = self.coordinates(arrays)
        axes = [np.asarray(coordinates[name], dtype=float) for name in self.axes]
        # Below the smallest measurement a kernel does not get faster: hold its time there.
        held = dict(arrays)
        for i, name in enumerate(self.axes):
            held[name] = np.maximum(arrays[name], table.floor(i))
        rows = np.broadcast_shapes((1, 1), *(arrays[name].shape for name in self.slices))[0]
        keys = (
            np.stack(
                [np.broadcast_to(arrays[name], (rows, 1))[:, 0] for name in self.slices], axis=1
            )
            if self.slices
            else np.zeros((1, 0))
        )
        ratio, inside = table.lookup_blend(table.blend(keys, self._shifts()), axes)
        base = np.broadcast_to(self.work(categories, held) + table.start_s, full)
        return base * ratio, np.broadcast_to(inside, full)

    def _shifts(self) -> FloatArray:
        return np.array(
            [
                [self.similar.get(key, {}).get(axis, 0.0) for axis in self.axes]
                for key in self.slices
            ]
        ).reshape(len(self.slices), len(self.axes))

    def _table(self, categories: Mapping[str, str]) -> tuple[RatioTable, bool] | None:
        """The table for these categories, and whether it is theirs (not a stand-in's)."""
        key = tuple(sorted(categories.items()))
        if key not in self._tables:
            origin = self._measured_model
            self._tables[key] = origin._table(categories) if origin else self._load(categories)
        return self._tables[key]

    def labels(self, name: str, categories: Mapping[str, str]) -> set[str]:
        """Values of a category in the first table with rows of these others (any, if none)."""
        for engine in self.table_engines:
            frame = self.store.table(self.device.tables, engine, self.family)
            if frame is None:
                continue
            rows = self._select(frame, categories)
            return set((rows if len(rows) else frame)[name].unique().to_list())
        return set()

    def measured_range(
        self, categories: Mapping[str, str], axis: int
    ) -> tuple[float, float] | None:
        """The smallest and the largest measured coordinate of an axis; None without a table."""
        loaded = self._table(categories)
        if loaded is None:
            return None
        return loaded[0].floor(axis), float(2.0 ** loaded[0].axes[axis][-1])

    @cached_property
    def _measured_model(self) -> OperatorModel | None:
        """Of a variant, the model of the device that was measured: its ratios carry over.

        They are held against the rooflines of the device they were measured on, and multiply
        those of the variant: twice the memory bandwidth halves what is bound by it.
        """
        device = self.device.measured
        return None if device is None else type(self)(device, self.engine, self.store)

    def _as_measured(
        self, floor: FloatArray, shape: Mapping[str, Any], categories: Mapping[str, str]
    ) -> Any:
        """Whether the device's roofline of a shape is that of the device that was measured."""
        origin = self._measured_model
        if origin is None:
            return True
        same = np.isclose(floor, largest(origin.roofline(categories, shape)), rtol=1e-6, atol=0.0)
        return same & origin._as_measured(floor, shape, categories)

    def _load(self, categories: Mapping[str, str]) -> tuple[RatioTable, bool] | None:
        if self.family not in FAMILIES:
            return None
        found = self.source(categories)
        if found is None:
            return None
        engine, choice, rows = found
        own = engine == self.table_engine and choice is categories
        return self._grid(rows, choice), own

    def source(
        self, categories: Mapping[str, str]
    ) -> tuple[str, Mapping[str, str], pl.DataFrame] | None:
        """Whose rows say these categories' times: engine, categories and rows; None: no one's.

        Another engine's kernels on the same device are nearer than no measurement at all.
        """
        for engine in self.engines_for(categories):
            frame = self.store.table(self.device.tables, engine, self.family)
            if frame is None:
                continue
            for choice in [categories, *self.stand_ins(categories)]:
                rows = self._select(frame, choice)
                if len(rows):
                    return engine, choice, rows
        return None

    @property
    def has_table(self) -> bool:
        """Whether any engine's were measured on this device."""
        tables = (self.store.table(self.device.tables, e, self.family) for e in self.table_engines)
        return any(table is not None for table in tables)

    def engines_for(self, categories: Mapping[str, str]) -> tuple[str, ...]:
        """Whose tables are looked into for these categories, in this order."""
        return self.table_engines

    @property
    def table_engine(self) -> str:
        """Under which engine's name the table is stored."""
        return self.engine

    @property
    def table_engines(self) -> tuple[str, ...]:
        """Whose tables are looked into, in this order."""
        if self.engine == PYTORCH.name:
            return (self.table_engine,)
        return (self.table_engine, *(e for e in ENGINES if e != self.table_engine))

    def _select(self, frame: pl.DataFrame, categories: Mapping[str, str]) -> pl.DataFrame:
        import polars as pl

        return frame.filter(*(pl.col(name) == value for name, value in categories.items()))

    def columns(self, rows: pl.DataFrame) -> dict[str, FloatArray]:
        """What rows of the table say of a shape, by column."""
        names = [*self.slices, *self.axes, *self.beside]
        return {name: rows[name].to_numpy().astype(float) for name in names}

    def _grid(self, rows: pl.DataFrame, categories: Mapping[str, str]) -> RatioTable:
        frame = self.store.table(self.device.tables, rows["engine"][0], self.family)
        assert frame is not None
        relatives = self._relatives(frame, categories)
        own, start_s = self._ratios(rows, categories)
        return RatioTable.build(
            own,
            weights=list(self.slices.values()),
            start_s=start_s,
            shifts=self._shifts(),
            relatives=[self._ratios(self._select(frame, c), c)[0] for c in relatives],
            others=lambda: self._others(rows["engine"][0], categories),
        )

    def _others(self, engine: str, categories: Mapping[str, str]) -> list[Rows]:
        """The same categories of the device's other engines, and of devices like it."""
        alike = [type(self)(load_device(n), self.engine, self.store) for n in self.device.alike]
        models = [(self, e) for e in self.table_engines if e != engine]
        found = []
        for model, e in (*models, *((model, engine) for model in alike)):
            frame = self.store.table(model.device.tables, e, self.family)
            rows = None if frame is None else model._select(frame, categories)
            if rows is not None and len(rows):
                found.append(model._ratios(rows, categories)[0])
        return found

    def _relatives(
        self, frame: pl.DataFrame, categories: Mapping[str, str]
    ) -> list[dict[str, str]]:
        """Other categories in a table that share most labels with these."""
        if not self.relatives:
            return []
        found = frame.select(*categories).unique().sort(*categories).to_dicts()
        others = [other for other in found if other != dict(categories)]
        others.sort(key=lambda other: sum(other[name] != categories[name] for name in other))
        return others[: self.relatives]

    def _ratios(self, rows: pl.DataFrame, categories: Mapping[str, str]) -> tuple[Rows, float]:
        """Measurements as ratios to the base, and what the base adds to the roofline."""
        columns = self.columns(rows)
        floor = np.broadcast_to(largest(self.roofline(categories, columns)), (len(rows),))
        table_axes = self.coordinates(columns)
        times = rows["time_s"].to_numpy().astype(float)
        # A benchmark that beats the roofline found its operands in cache. A step in service does
        # not: such a point says nothing, and its neighbours stand in for it.
        sound = (times >= floor) | (not self.floor_is_exact)
        if not sound.any():
            times, sound = np.array(floor), np.ones(len(rows), dtype=bool)
        work = np.broadcast_to(self.work(categories, columns), (len(rows),))
        return Rows.of_times(
            _columns(columns, self.slices, len(rows))[sound],
            _columns(table_axes, self.axes, len(rows))[sound],
            times[sound],
            work[sound],
        )


def _columns(values: Mapping[str, Any], names: Any, count: int) -> FloatArray:
    stacked = [np.broadcast_to(np.asarray(values[name], dtype=float), (count,)) for name in names]
    return np.stack(stacked, axis=1) if stacked else np.zeros((count, 0))


def largest(floors: Roofline) -> FloatArray:
    """The binding resource's time."""
    return np.maximum(np.maximum(floors.compute_s, floors.bandwidth_s), floors.link_s)


def _scaled(floors: Roofline, efficiency: Roofline) -> Roofline:
    return Roofline(
        np.asarray(floors.compute_s) / efficiency.compute_s,
        np.asarray(floors.bandwidth_s) / efficiency.bandwidth_s,
        np.asarray(floors.link_s) / efficiency.link_s,
    )


def _bound(floors: Roofline, seconds: FloatArray, full: tuple[int, ...]) -> NDArray[np.uint8]:
    stacked = np.stack(
        [
            np.broadcast_to(np.asarray(part, dtype=float), full)
            for part in (floors.compute_s, floors.bandwidth_s, floors.link_s)
        ]
    )
    largest = stacked.argmax(axis=0)
    slow = seconds > LATENCY_RATIO * stacked.max(axis=0)
    return np.where(slow, Bound.LATENCY, largest).astype(np.uint8)
