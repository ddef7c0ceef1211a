"""Holes of a measured grid, filled from what was measured around them.

A hole between two measurements along some axis is inside the hull. Each axis with
measurements on both sides offers the line between them; each pair of axes offers that line
plus what rows on both sides of the hole, along the other axis, deviate from theirs (a Coons
patch: it carries a kernel's jump at one size over from neighbouring shapes); and similar
slices offer what they deviate from theirs. How far each offer misses the known points of the
table itself decides how much it counts. Past the last measurement of a line that value is
held, again with what similar slices do from there on; such a cell is outside the hull.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IndexArray = NDArray[np.intp]

SHARPNESS = 4.0
"""An offer counts by its error to this power; the larger, the more the best decides."""


@dataclass(frozen=True)
class _Sides:
    """Nearest known cells before and after each cell along one axis, itself excluded.

    Attributes:
        before, after: their values, NaN where there is none.
        to_before, to_after: distances in octaves, NaN likewise.
    """

    before: FloatArray
    after: FloatArray
    to_before: FloatArray
    to_after: FloatArray

    @property
    def line(self) -> FloatArray:
        """Value on the line between the two sides; NaN unless both are known."""
        share = self.to_before / (self.to_before + self.to_after)
        return self.before + share * (self.after - self.before)

    @property
    def gap(self) -> FloatArray:
        """Octaves between the two sides."""
        return self.to_before + self.to_after


@dataclass(frozen=True)
class Kin:
    """For each of S slices, the J others most like it, and how much each counts: (S, J)."""

    index: IndexArray
    weight: FloatArray

    def mean(self, values: FloatArray) -> FloatArray:
        """Mean of the others' values, cell by cell, of those known; NaN where none is."""
        total, weight = np.zeros(values.shape), np.zeros(values.shape)
        known = ~np.isnan(values)
        filled = np.nan_to_num(values)
        for j in range(self.index.shape[1]):
            others = self.index[:, j]
            w = self.weight[:, j].reshape(-1, *[1] * (values.ndim - 1)) * known[others]
            total += w * filled[others]
            weight += w
        return _ratio(total, weight)


def fill(grid: FloatArray, axes: Sequence[FloatArray], kin: Kin) -> tuple[FloatArray, BoolArray]:
    """Fill NaN cells of slices over a grid: (S, n_1, ..., n_D).

    Returns:
        the filled grid, and where it was measured or lies between measurements.
    """
    filled = _filled(grid.copy(), axes, kin, _between)
    inside = ~np.isnan(filled)
    filled = _filled(filled, axes, kin, _beside)
    return np.nan_to_num(filled, nan=0.0), inside


Offers = list[tuple[FloatArray, FloatArray]]


def _filled(
    grid: FloatArray,
    axes: Sequence[FloatArray],
    kin: Kin,
    offers: Callable[[FloatArray, Sequence[FloatArray], Kin], Offers],
) -> FloatArray:
    """Fill what the offers can, then what they can from that, and so on."""
    least, most = np.nanmin(grid), np.nanmax(grid)
    while np.isnan(grid).any():
        # A patch may overshoot where rows disagree; nothing known is as extreme.
        best = np.clip(_weighted(grid, offers(grid, axes, kin)), least, most)
        target = np.isnan(grid) & ~np.isnan(best)
        if not target.any():
            break
        grid[target] = best[target]
    return grid


def _between(grid: FloatArray, axes: Sequence[FloatArray], kin: Kin) -> Offers:
    """What lines and patches through known cells say of each cell; NaN where none can."""
    sides = [_sides(grid, d, axis) for d, axis in enumerate(axes, start=1)]
    offers = []
    for e, own in enumerate(sides, start=1):
        line, deviation = own.line, grid - own.line
        offers.append((line, own.gap))
        for d, axis in enumerate(axes, start=1):
            if d < e:
                across = _sides(deviation, d, axis)
                offers.append((line + across.line, across.gap))
        if kin.index.shape[1]:
            offers.append((line + kin.mean(deviation), own.gap))
    return offers


def _beside(grid: FloatArray, axes: Sequence[FloatArray], kin: Kin) -> Offers:
    """What the nearest known cell along each axis says, and how others go on from there."""
    offers = []
    for d, axis in enumerate(axes, start=1):
        sides = _sides(grid, d, axis)
        for value, distance in ((sides.before, sides.to_before), (sides.after, sides.to_after)):
            offers.append((value, distance))
            if kin.index.shape[1]:
                offers.append((value + kin.mean(grid - value), distance))
    return offers


def _weighted(grid: FloatArray, offers: Sequence[tuple[FloatArray, FloatArray]]) -> FloatArray:
    """Offers (value, gap) by the error that each makes at known cells, per octave of gap."""
    known = ~np.isnan(grid)
    total, weight = np.zeros(grid.shape), np.zeros(grid.shape)
    for value, gap in offers:
        usable = ~np.isnan(value)
        tested = usable & known
        error, typical = 1.0, 1.0
        if tested.any():
            error = float(np.mean(np.sqrt(np.abs(value - grid)[tested]))) ** 2 + 1e-6
            typical = float(np.median(gap[tested]))
        w = np.zeros(grid.shape)
        w[usable] = (error * gap[usable] / typical) ** -SHARPNESS
        total += w * np.nan_to_num(value)
        weight += w
    return _ratio(total, weight)


def _ratio(total: FloatArray, weight: FloatArray) -> FloatArray:
    result: FloatArray = np.full(total.shape, np.nan)
    np.divide(total, weight, out=result, where=weight > 0)
    return result


def _sides(grid: FloatArray, d: int, axis: FloatArray) -> _Sides:
    lines = np.moveaxis(grid, d, -1)
    known = ~np.isnan(lines)
    n = len(axis)
    at = np.arange(n)
    before = np.maximum.accumulate(np.where(known, at, -1), axis=-1)
    after = np.minimum.accumulate(np.where(known, at, n)[..., ::-1], axis=-1)[..., ::-1]
    # Itself excluded: one place on.
    edge = (*lines.shape[:-1], 1)
    before = np.concatenate([np.full(edge, -1), before[..., :-1]], axis=-1)
    after = np.concatenate([after[..., 1:], np.full(edge, n)], axis=-1)

    def of(index: IndexArray, beyond: int) -> tuple[FloatArray, FloatArray]:
        missing = index == beyond
        safe = np.where(missing, 0, index)
        value = np.where(missing, np.nan, np.take_along_axis(lines, safe, axis=-1))
        distance = np.where(missing, np.nan, np.abs(axis[safe] - axis))
        return np.moveaxis(value, -1, d), np.moveaxis(distance, -1, d)

    (v0, d0), (v1, d1) = of(before, -1), of(after, n)
    return _Sides(v0, v1, d0, d1)
