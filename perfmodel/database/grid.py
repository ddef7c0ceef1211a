"""Piecewise-linear interpolation of measured operator times.

A table's times are divided by the operator's roofline and kept as log-ratios on a
grid of log-coordinates. Inside the hull the ratio is interpolated linearly; outside
it is held at the hull's edge, so that the time continues by the roofline ratio and
is continuous at the hull.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


SPIKE = 3.0
"""A measurement this many times as far from its roofline as both neighbours is an outlier."""

UNKNOWN_CORNERS = 0.1
"""A point counts as measured while unmeasured corners of its grid cell weigh at most this."""


@dataclass(frozen=True)
class RatioTable:
    """Time-to-roofline ratios of one operator, in slices over a common grid.

    Attributes:
        keys: (S, K) log2 of the slice coordinates (shapes matched, not interpolated).
        weights: (K,) how much a distance in each key counts in the choice of a slice.
        axes: D ascending arrays of log2 grid coordinates.
        log_ratio: (S, n_1, ..., n_D) log of time/roofline, holes filled.
        inside: same shape, True where the value was measured or lies between measurements.
    """

    keys: FloatArray
    weights: FloatArray
    axes: tuple[FloatArray, ...]
    log_ratio: FloatArray
    inside: BoolArray

    @classmethod
    def build(
        cls,
        keys: FloatArray,
        weights: Sequence[float],
        coordinates: FloatArray,
        ratio: FloatArray,
    ) -> RatioTable:
        """From N scattered rows: keys (N, K), coordinates (N, D), ratio (N,), all positive.

        Rows that repeat a point count once, by their median.
        """
        slices, slice_of_row = np.unique(_log2(keys), axis=0, return_inverse=True)
        slice_of_row = slice_of_row.reshape(-1)
        axes: list[FloatArray] = []
        cell = slice_of_row
        for column in _log2(coordinates).T:
            values, position = np.unique(column, return_inverse=True)
            axes.append(values)
            cell = cell * len(values) + position.reshape(-1)
        shape = (len(slices), *(len(axis) for axis in axes))
        grid = np.full(int(np.prod(shape)), np.nan)
        order = np.argsort(cell, kind="stable")
        cells, starts = np.unique(cell[order], return_index=True)
        logs = np.log(ratio)[order]
        if len(cells) == len(logs):
            grid[cells] = logs
        else:
            grid[cells] = [np.median(part) for part in np.split(logs, starts[1:])]
        log_ratio, inside = _fill(_without_spikes(grid.reshape(shape)), axes)
        return cls(slices, np.asarray(weights, dtype=float), tuple(axes), log_ratio, inside)

    def nearest_slice(self, keys: FloatArray) -> tuple[NDArray[np.intp], BoolArray]:
        """For each of U rows of keys (U, K): the nearest slice, and whether it matches exactly."""
        if self.keys.shape[1] == 0:
            return np.zeros(len(keys), dtype=np.intp), np.ones(len(keys), dtype=bool)
        difference = np.abs(_log2(keys)[:, None, :] - self.keys[None, :, :])
        distance = difference @ self.weights
        index = distance.argmin(axis=1)
        exact: BoolArray = distance[np.arange(len(keys)), index] < 1e-9
        return index, exact

    def floor(self, axis: int) -> float:
        """Smallest measured coordinate of an axis."""
        return float(2.0 ** self.axes[axis][0])

    def lookup(
        self, slices: NDArray[np.intp], coordinates: Sequence[FloatArray]
    ) -> tuple[FloatArray, BoolArray]:
        """Interpolate at broadcastable slice indices and coordinates.

        Returns:
            ratio of time to roofline, and whether the point lies inside the measured hull.
        """
        shape = np.broadcast_shapes(slices.shape, *(c.shape for c in coordinates))
        low: list[NDArray[np.intp]] = []
        weight: list[FloatArray] = []
        within = np.ones(shape, dtype=bool)
        for axis, coordinate in zip(self.axes, coordinates, strict=True):
            x = _log2(coordinate)
            i = np.clip(np.searchsorted(axis, x, side="right") - 1, 0, max(len(axis) - 2, 0))
            w = (x - axis[i]) / (axis[i + 1] - axis[i]) if len(axis) > 1 else np.zeros_like(x)
            within &= (x >= axis[0] - 1e-9) & (x <= axis[-1] + 1e-9)
            low.append(i)
            weight.append(np.clip(w, 0.0, 1.0))
        total = np.zeros(shape)
        unknown = np.zeros(shape)
        for corner in range(2 ** len(self.axes)):
            index: list[NDArray[np.intp]] = [slices]
            factor: FloatArray = np.ones(shape)
            for d, axis in enumerate(self.axes):
                upper = (corner >> d) & 1
                index.append(np.minimum(low[d] + upper, len(axis) - 1))
                factor = factor * (weight[d] if upper else 1.0 - weight[d])
            total += factor * self.log_ratio[tuple(index)]
            unknown += factor * ~self.inside[tuple(index)]
        return np.exp(total), within & (unknown <= UNKNOWN_CORNERS)


def _log2(values: FloatArray) -> FloatArray:
    """log2 with 0 mapped to -1: a zero (no window, no prefix) is a category of its own."""
    values = np.asarray(values, dtype=float)
    result: FloatArray = np.log2(np.where(values > 0, values, 0.5))
    return result


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


def _fill(grid: FloatArray, axes: Sequence[FloatArray]) -> tuple[FloatArray, BoolArray]:
    """Fill holes: linearly between measurements along an axis, else by the nearest one.

    A hole between two measurements counts as inside the hull, an outer one does not.
    """
    inside = ~np.isnan(grid)
    filled = grid.copy()
    for interpolate in (True, False):
        for d, axis in enumerate(axes, start=1):
            if not np.isnan(filled).any():
                break
            lines = np.moveaxis(filled, d, -1).reshape(-1, len(axis))
            known = ~np.isnan(lines)
            flags = np.moveaxis(inside, d, -1).reshape(-1, len(axis))
            for row in np.flatnonzero(known.any(axis=1) & ~known.all(axis=1)):
                have = known[row]
                first, last = np.flatnonzero(have)[[0, -1]]
                between = np.zeros(len(axis), dtype=bool)
                between[first : last + 1] = True
                target = ~have & (between if interpolate else True)
                lines[row, target] = np.interp(axis[target], axis[have], lines[row, have])
                flags[row] |= between & interpolate & flags[row][have].all()
            moved = tuple(np.moveaxis(filled, d, -1).shape)
            filled = np.moveaxis(lines.reshape(moved), -1, d).copy()
            inside = np.moveaxis(flags.reshape(moved), -1, d).copy()
    return np.nan_to_num(filled, nan=0.0), inside
