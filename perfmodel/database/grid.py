"""Piecewise-linear interpolation of measured operator times.

A table's times are divided by a base, the operator's roofline plus the time that its
shortest call takes, and kept as log-ratios on a grid of log-coordinates. With the shortest
call in it the base follows small shapes too, whose time is that of a launch. Inside the hull
the ratio is interpolated linearly; outside it is held at the hull's edge, so that the time
continues by the ratio of bases (for large shapes, of rooflines) and is continuous there.

Shapes that no axis joins are slices. A shape with no slice of its own takes the ratio of the
nearest ones, averaged in logarithms, each read where it does the same work. A slice of few
points that ends far below the others was broken off: it says nothing of large shapes, and is none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from perfmodel.database._holes import Kin, Surroundings, fill, share_of_holes

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IndexArray = NDArray[np.intp]

SPIKE = 3.0
"""A measurement this many times as far from its roofline as both neighbours is an outlier."""

UNKNOWN_CORNERS = 0.1
"""A point counts as measured while unmeasured corners of its grid cell weigh at most this."""

NEIGHBOURS = 4
"""Slices that speak for a shape without one of its own."""

KIN = 8
"""Slices consulted for the holes of another."""

SHORT = 6.0
"""A slice that ends this many octaves below the median one, along some axis, was broken off.

In the shipped tables those that broke off end 7.7 to 14 octaves early; those that ran out of
memory, at most 5.
"""

FEW = 0.5
"""A slice that was broken off still speaks for itself with this share of the median one's points.

The shipped ones have at most 0.3, but for three of decode attention that lack long contexts and
have 0.7; filled from their kin these three agree better with shapes near them than a blend does.
"""

FEW_HOLES = 0.01
"""No other table is read for holes of at most this share of the measured points."""

FALL_OFF = 2.0
"""Each of them counts by its distance to minus this power."""

SAME = 1e-9
"""Coordinates nearer than this, in octaves, are the same."""


@dataclass(frozen=True)
class Rows:
    """N scattered measurements, all figures positive (a key may be zero).

    Attributes:
        keys: (N, K) slice coordinates.
        coordinates: (N, D) grid coordinates.
        ratio: (N,) time over base.
    """

    keys: FloatArray
    coordinates: FloatArray
    ratio: FloatArray

    def only(self, wanted: BoolArray) -> Rows:
        """Those of a mask."""
        return Rows(self.keys[wanted], self.coordinates[wanted], self.ratio[wanted])

    @classmethod
    def of_times(
        cls,
        keys: FloatArray,
        coordinates: FloatArray,
        times: FloatArray,
        work: FloatArray,
        start_s: float | None = None,
    ) -> tuple[Rows, float]:
        """From measured times: their ratios to the work plus the shortest call, and that call.

        Args:
            times: (N,) seconds.
            work: (N,) seconds in proportion to which a time is carried between shapes.
            start_s: the shortest call, where rows left out here count too.
        """
        start = float(times.min()) if start_s is None else start_s
        return cls(keys, coordinates, times / (work + start)), start


@dataclass(frozen=True)
class Blend:
    """For U wanted shapes, the J slices that speak for each.

    Attributes:
        index: (U, J) slices.
        weight: (U, J) their shares.
        octaves: (U, J, D) how much further up each is read.
        exact: (U,) whether the first is the shape's own, and the only one.
    """

    index: IndexArray
    weight: FloatArray
    octaves: FloatArray
    exact: BoolArray


@dataclass(frozen=True)
class RatioTable:
    """Time-to-roofline ratios of one operator, in slices over a common grid.

    Attributes:
        keys: (S, K) log2 of the slice coordinates.
        weights: (K,) how much a distance in each key counts in the choice of a slice.
        axes: D ascending arrays of log2 grid coordinates.
        log_ratio: (S, n_1, ..., n_D) log of time/base, holes filled.
        inside: same shape, True where the value was measured or lies between measurements.
        start_s: what the base adds to the roofline.
    """

    keys: FloatArray
    weights: FloatArray
    axes: tuple[FloatArray, ...]
    log_ratio: FloatArray
    inside: BoolArray
    start_s: float = 0.0

    @classmethod
    def build(
        cls,
        rows: Rows,
        weights: Sequence[float],
        start_s: float = 0.0,
        shifts: FloatArray | None = None,
        relatives: Sequence[Rows] = (),
        others: Callable[[], Sequence[Rows]] = tuple,
    ) -> RatioTable:
        """From scattered rows; those that repeat a point count once, by their median.

        Args:
            rows: the table's own.
            weights: (K,) of distances in each key.
            start_s: what the base adds to the roofline.
            shifts: as in `blend`, for slices that help to fill another's holes.
            relatives: rows of the same operator in other number formats, whose jumps help
                to fill holes.
            others: gives more of them, which take time to read; asked where holes are many.
        """
        keys = _Lattice.of(rows.keys)
        codes, own = np.unique(keys.code(rows.keys), return_inverse=True)
        whole = _whole(own, rows.coordinates)
        codes = codes[whole]
        rows = rows.only(whole[own])
        slices = keys.point(codes)
        axes = _Lattice.of(rows.coordinates)
        shape = (len(slices), *(len(axis) for axis in axes.values))

        def gridded(part: Rows) -> FloatArray:
            wanted, cell = keys.code(part.keys), axes.code(part.coordinates)
            at = np.minimum(np.searchsorted(codes, wanted), len(codes) - 1)
            on_grid = (codes[at] == wanted) & (cell >= 0)
            cells = (at * int(np.prod(shape[1:])) + cell)[on_grid]
            return _medians(cells, np.log(part.ratio[on_grid]), shape)

        wide = np.asarray(weights, dtype=float)
        if shifts is None:
            shifts = np.zeros((len(wide), len(axes.values)))
        grid = _without_spikes(gridded(rows))
        if share_of_holes(grid) > FEW_HOLES:
            relatives = (*relatives, *others())
        around = Surroundings(
            axes.values, _kin(slices, wide, shifts), [gridded(part) for part in relatives]
        )
        log_ratio, inside = fill(grid, around)
        return cls(slices, wide, tuple(axes.values), log_ratio, inside, start_s)

    def blend(self, keys: FloatArray, shifts: FloatArray) -> Blend:
        """For each of U rows of keys (U, K): the slices that speak for it.

        Args:
            keys: wanted slice coordinates.
            shifts: (K, D) octaves per octave of a key: a shape with twice a slice's key does
                at x what the slice does at `x * 2**shift`.
        """
        if self.keys.shape[1] == 0:
            one = np.zeros((len(keys), 1))
            alone = np.ones(len(keys), dtype=bool)
            return Blend(one.astype(np.intp), one + 1.0, one[:, :, None] + shifts.sum(0), alone)
        difference = _log2(keys)[:, None, :] - self.keys[None, :, :]
        distance = np.abs(difference) @ self.weights
        first = distance.argmin(axis=1)
        exact: BoolArray = distance[np.arange(len(keys)), first] < SAME
        if exact.all():
            none = np.zeros((len(keys), 1, len(self.axes)))
            return Blend(first[:, None], np.ones((len(keys), 1)), none, exact)
        index, least = _nearest(distance, NEIGHBOURS)
        octaves = np.take_along_axis(difference, index[:, :, None], axis=1) @ shifts
        return Blend(index, _shares(least), octaves, exact)

    def floor(self, axis: int) -> float:
        """Smallest measured coordinate of an axis."""
        return float(2.0 ** self.axes[axis][0])

    def lookup_blend(
        self, blend: Blend, coordinates: Sequence[FloatArray]
    ) -> tuple[FloatArray, BoolArray]:
        """Interpolate for U rows of slices, at coordinates broadcastable to (U, C).

        Returns:
            ratio of time to base, and whether the row has a slice of its own and the point
            lies inside its measured hull.
        """
        first = blend.index[:, :1]
        if blend.exact.all():
            return self.lookup(first, coordinates)
        shape = np.broadcast_shapes(first.shape, *(c.shape for c in coordinates))
        at = [_log2(np.atleast_2d(c)) for c in coordinates]
        total = np.zeros(shape)
        inside = np.zeros(shape, dtype=bool)
        own, mixed = np.flatnonzero(blend.exact), np.flatnonzero(~blend.exact)
        if len(first) == 1:
            # One row of keys may serve many of coordinates: there is nothing to divide.
            rows: IndexArray | slice = slice(None)
        else:
            rows = mixed
        if len(own):
            total[own], inside[own] = self._at(first[own], [_rows(x, own) for x in at])
        # (neighbour, row, column)
        moved = [
            _rows(x, rows)[None] + blend.octaves[mixed, :, d].T[:, :, None]
            for d, x in enumerate(at)
        ]
        values, _ = self._at(blend.index[mixed].T[:, :, None], moved)
        total[rows] = (values * blend.weight[mixed].T[:, :, None]).sum(axis=0)
        return np.exp(total), inside

    def lookup(
        self, slices: IndexArray, coordinates: Sequence[FloatArray]
    ) -> tuple[FloatArray, BoolArray]:
        """Interpolate at broadcastable slice indices and coordinates.

        Returns:
            ratio of time to base, and whether the point lies inside the measured hull.
        """
        value, inside = self._at(slices, [_log2(c) for c in coordinates])
        return np.exp(value), inside

    def _at(
        self, slices: IndexArray, coordinates: Sequence[FloatArray]
    ) -> tuple[FloatArray, BoolArray]:
        """As `lookup`, in logarithms."""
        shape = np.broadcast_shapes(slices.shape, *(x.shape for x in coordinates))
        weight: list[FloatArray] = []
        within = np.ones(shape, dtype=bool)
        sizes = [len(axis) for axis in self.axes]
        strides = [int(np.prod(sizes[d + 1 :])) for d in range(len(sizes))]
        cell = slices * int(np.prod(sizes))
        for axis, stride, x in zip(self.axes, strides, coordinates, strict=True):
            i = np.clip(np.searchsorted(axis, x, side="right") - 1, 0, max(len(axis) - 2, 0))
            w = (x - axis[i]) / (axis[i + 1] - axis[i]) if len(axis) > 1 else np.zeros_like(x)
            within &= (x >= axis[0] - SAME) & (x <= axis[-1] + SAME)
            cell = cell + i * stride
            weight.append(np.clip(w, 0.0, 1.0))
        total = np.zeros(shape)
        unknown = np.zeros(shape)
        values, outside = self.log_ratio.reshape(-1), ~self.inside.reshape(-1)
        for upper in product(*((0, 1) if size > 1 else (0,) for size in sizes)):
            factor: FloatArray = np.ones(())
            for w, up in zip(weight, upper, strict=True):
                factor = factor * (w if up else 1.0 - w)
            corner = cell + sum(up * stride for up, stride in zip(upper, strides, strict=True))
            total += factor * values[corner]
            unknown += factor * outside[corner]
        return total, within & (unknown <= UNKNOWN_CORNERS)


def _log2(values: FloatArray) -> FloatArray:
    """log2 with 0 mapped to -1: a zero (no window, no prefix) is a category of its own."""
    values = np.asarray(values, dtype=float)
    result: FloatArray = np.log2(np.where(values > 0, values, 0.5))
    return result


def _rows(values: FloatArray, index: IndexArray | slice) -> FloatArray:
    """Rows of an array that is broadcastable to (U, C)."""
    return values[index] if len(values) > 1 else values


def _nearest(distance: FloatArray, count: int) -> tuple[IndexArray, FloatArray]:
    """The `count` least of each row, in order: columns and distances."""
    count = min(count, distance.shape[1])
    index = np.argpartition(distance, count - 1, axis=1)[:, :count]
    least = np.take_along_axis(distance, index, axis=1)
    order = np.argsort(least, axis=1, kind="stable")
    return np.take_along_axis(index, order, axis=1), np.take_along_axis(least, order, axis=1)


def _shares(distance: FloatArray) -> FloatArray:
    weight = np.maximum(distance, SAME) ** -FALL_OFF
    shares: FloatArray = weight / weight.sum(axis=1, keepdims=True)
    return shares


def _kin(keys: FloatArray, weights: FloatArray, shifts: FloatArray) -> Kin:
    """For each slice, those nearest to it, itself apart."""
    count = min(KIN, len(keys) - 1)
    if count < 1 or not keys.shape[1]:
        none = np.zeros((len(keys), 0))
        return Kin(none.astype(np.intp), none, np.zeros((len(keys), 0, shifts.shape[1])))
    difference = keys[:, None, :] - keys[None, :, :]
    distance = np.abs(difference) @ weights
    np.fill_diagonal(distance, np.inf)
    index, least = _nearest(distance, count)
    octaves = np.take_along_axis(difference, index[:, :, None], axis=1) @ shifts
    return Kin(index, _shares(least), octaves)


@dataclass(frozen=True)
class _Lattice:
    """All combinations of the values that C columns take, numbered in order.

    Attributes:
        values: C ascending arrays of log2 coordinates.
    """

    values: tuple[FloatArray, ...]

    @classmethod
    def of(cls, columns: FloatArray) -> _Lattice:
        return cls(tuple(np.unique(column) for column in _log2(columns).T))

    def code(self, columns: FloatArray) -> IndexArray:
        """(N,) numbers of N points, -1 where a point is none of the lattice's."""
        code = np.zeros(len(columns), dtype=np.intp)
        missing = np.zeros(len(columns), dtype=bool)
        for column, values in zip(_log2(columns).T, self.values, strict=True):
            i = np.minimum(np.searchsorted(values, column), len(values) - 1)
            missing |= values[i] != column
            code = code * len(values) + i
        return np.where(missing, -1, code)

    def point(self, code: IndexArray) -> FloatArray:
        """(N, C) coordinates of N numbers."""
        columns: list[FloatArray] = []
        for values in reversed(self.values):
            code, i = np.divmod(code, len(values))
            columns.insert(0, values[i])
        return np.stack(columns, axis=1) if columns else np.zeros((len(code), 0))


def _whole(slices: IndexArray, coordinates: FloatArray) -> BoolArray:
    """(S,) which slices reach about as far as the others along every axis, or have many points.

    Args:
        slices: (N,) each row's slice.
        coordinates: (N, D) of the rows.
    """
    reach = np.full((int(slices.max()) + 1, coordinates.shape[1]), -np.inf)
    np.maximum.at(reach, slices, _log2(coordinates))
    # A zero is a category of its own, and no early end.
    short = (reach < np.median(reach, axis=0) - SHORT) & (reach >= 0.0)
    count = np.bincount(slices)
    whole: BoolArray = ~short.any(axis=1) | (count >= FEW * np.median(count))
    return whole if whole.any() else np.ones_like(whole)


def _medians(cells: IndexArray, logs: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """A grid of the medians of what falls into each cell; NaN where nothing does."""
    grid = np.full(int(np.prod(shape)), np.nan)
    order = np.argsort(cells, kind="stable")
    own, starts = np.unique(cells[order], return_index=True)
    logs = logs[order]
    grid[own] = logs[starts]
    repeated = np.flatnonzero(np.diff(np.append(starts, len(logs))) > 1)
    ends = np.append(starts[1:], len(logs))
    for i in repeated:
        grid[own[i]] = np.median(logs[starts[i] : ends[i]])
    return grid.reshape(shape)


def _without_spikes(grid: FloatArray) -> FloatArray:
    """Take out points that cost several times both their neighbours along an axis.

    Kernels change between neighbouring shapes, but none is slow at one size alone: such a
    point is a benchmark that was disturbed.
    """
    spikes = np.zeros(grid.shape, dtype=bool)
    for d in range(1, grid.ndim):
        lines = np.moveaxis(grid, d, -1)
        inner = lines[..., 1:-1]
        higher = np.maximum(lines[..., :-2], lines[..., 2:])
        np.moveaxis(spikes, d, -1)[..., 1:-1] |= inner > higher + np.log(SPIKE)
    return np.where(spikes, np.nan, grid)
