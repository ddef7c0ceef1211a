"""Holes of a measured grid, filled from what was measured around them.

A hole between two measurements along some axis is inside the hull. What may be there is
offered by several predictors that see only what is around it:

- the line between the measurements on both sides, along each axis;
- the mean of the two diagonal neighbours, for each pair of axes: kernels change where the
  work does, at half the tokens for twice the batch;
- a line plus what rows on both sides of the hole, along another axis, deviate from theirs
  (a Coons patch: it carries a jump at one size over from neighbouring shapes);
- a line plus what a similar slice, read where it does the same work, or the same slice in
  another number format, under another engine or on a like device deviates from its own;
- what that slice took there, at its usual distance from this one nearby: no measurement beside
  the hole, which may be disturbed, is trusted alone.

Each offer is first tried on the known points of the table. How far it misses them near the
hole decides how much it counts, and the weighted median of the offers fills the hole: it
follows the best of them, and a disturbed measurement next to the hole moves it little.

Past the last measurement of a line its value is held, again with what similar slices do from
there on; such a cell is outside the hull.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IndexArray = NDArray[np.intp]

SHARPNESS = 4.0
"""An offer counts by its error to minus this power; the larger, the more the best decides."""

NEAR = 2.0
"""Offers are tried on points within about this many grid steps of the hole."""

AROUND = 4
"""A usual distance is that of up to this many cells on each side along every axis."""

PRIOR = 10.0
"""What an offer missed elsewhere in its slice, and in the table, counts as this many points."""

SAME = 1e-6
"""Coordinates nearer than this, in octaves, are the same."""


@dataclass(frozen=True)
class _Sides:
    """Nearest known cells before and after each cell along axis d, itself excluded.

    Attributes:
        before, after: their places along the axis, -1 and n where there is none.
        share: of the way from one to the other at which the cell lies; NaN without both.
    """

    d: int
    before: IndexArray
    after: IndexArray
    share: FloatArray

    @classmethod
    def of(cls, grid: FloatArray, d: int, axis: FloatArray) -> _Sides:
        known = ~np.isnan(np.moveaxis(grid, d, -1))
        n = len(axis)
        at = np.arange(n)
        before = np.maximum.accumulate(np.where(known, at, -1), axis=-1)
        after = np.minimum.accumulate(np.where(known, at, n)[..., ::-1], axis=-1)[..., ::-1]
        # Itself excluded: one place on.
        edge = (*known.shape[:-1], 1)
        before = np.concatenate([np.full(edge, -1), before[..., :-1]], axis=-1)
        after = np.concatenate([after[..., 1:], np.full(edge, n)], axis=-1)
        padded = np.append(axis, np.nan)
        low, high = padded[before], padded[after]
        return cls(d, before, after, (axis - low) / (high - low))

    def line(self, grid: FloatArray) -> FloatArray:
        """A grid's values on the line between these sides; NaN unless it has both."""
        lines = np.moveaxis(grid, self.d, -1)
        low = np.take_along_axis(lines, self.before, axis=-1)
        high = np.take_along_axis(lines, np.minimum(self.after, lines.shape[-1] - 1), axis=-1)
        return np.moveaxis(low + self.share * (high - low), -1, self.d)

    def held(self, grid: FloatArray) -> Iterator[FloatArray]:
        """A grid's values before, then after; NaN where there is none."""
        lines = np.moveaxis(grid, self.d, -1)
        n = lines.shape[-1]
        for place, missing in ((self.before, self.before < 0), (self.after, self.after == n)):
            value = np.take_along_axis(lines, np.where(missing, 0, place), axis=-1)
            yield np.moveaxis(np.where(missing, np.nan, value), -1, self.d)


@dataclass(frozen=True)
class Kin:
    """For each of S slices, the J others most like it.

    Attributes:
        index: (S, J) slices.
        weight: (S, J) how much each counts where they are averaged.
        octaves: (S, J, D) how much further up an axis each does the same work.
    """

    index: IndexArray
    weight: FloatArray
    octaves: FloatArray

    def take(self, slices: IndexArray) -> Kin:
        """Those of some slices only."""
        return Kin(self.index[slices], self.weight[slices], self.octaves[slices])

    def each(self, values: FloatArray, axes: Sequence[FloatArray]) -> Iterator[FloatArray]:
        """Values of every slice's first, second, ... other, read where it does the same work.

        NaN where the grid has no such coordinate.
        """
        for j in range(self.index.shape[1]):
            at = [_along(self.index[:, j][:, None], 0, values.ndim)]
            missing = np.zeros((1,) * values.ndim, dtype=bool)
            for d, axis in enumerate(axes, start=1):
                wanted = axis + self.octaves[:, j, d - 1][:, None]
                i = np.minimum(np.searchsorted(axis, wanted - SAME), len(axis) - 1)
                at.append(_along(i, d, values.ndim))
                missing = missing | _along(np.abs(axis[i] - wanted) > SAME, d, values.ndim)
            yield np.where(missing, np.nan, values[tuple(at)])

    def mean(self, values: FloatArray, axes: Sequence[FloatArray]) -> FloatArray:
        """Mean of the others' values, cell by cell, of those known; NaN where none is."""
        shape = (len(self.index), *values.shape[1:])
        total, weight = np.zeros(shape), np.zeros(shape)
        for j, others in enumerate(self.each(values, axes)):
            w = _along(self.weight[:, j][:, None], 0, values.ndim) * ~np.isnan(others)
            total += w * np.nan_to_num(others)
            weight += w
        return _ratio(total, weight)


@dataclass(frozen=True)
class Surroundings:
    """What is known around the holes of a grid.

    Attributes:
        axes: D ascending arrays of log2 coordinates.
        kin: similar slices.
        relatives: grids of the same shape measured in other number formats, under other engines
            or on like devices, NaN where not.
    """

    axes: Sequence[FloatArray]
    kin: Kin
    relatives: Sequence[FloatArray] = ()


def fill(grid: FloatArray, around: Surroundings) -> tuple[FloatArray, BoolArray]:
    """Fill NaN cells of slices over a grid: (S, n_1, ..., n_D).

    Returns:
        the filled grid, and where it was measured or lies between measurements.
    """
    filled = _filled(grid.copy(), around, _between)
    inside = ~np.isnan(filled)
    filled = _filled(filled, around, _beside)
    return np.nan_to_num(filled, nan=0.0), inside


def share_of_holes(grid: FloatArray) -> float:
    """Cells between measurements, over those measured."""
    return float(_reach(grid, both=True).sum() / (~np.isnan(grid)).sum())


Offers = list[FloatArray]
"""Values by cell of some slices; NaN where nothing is offered."""


def _filled(
    grid: FloatArray,
    around: Surroundings,
    offers: Callable[[FloatArray, IndexArray, Surroundings], Offers],
) -> FloatArray:
    """Fill what the offers can, then what they can from that, and so on."""
    least, most = np.nanmin(grid), np.nanmax(grid)
    while True:
        reach = _reach(grid, both=offers is _between)
        slices = np.flatnonzero(reach.any(axis=tuple(range(1, grid.ndim))))
        if not len(slices):
            return grid
        # A patch may overshoot where rows disagree; nothing known is as extreme.
        best = _best(grid[slices], reach[slices], offers(grid, slices, around))
        grid[reach] = np.clip(best, least, most)


def _reach(grid: FloatArray, both: bool) -> BoolArray:
    """Holes with a known cell on one side along some axis, or on both sides."""
    known = ~np.isnan(grid)
    reach = np.zeros(grid.shape, dtype=bool)
    for d in range(1, grid.ndim):
        before = np.logical_or.accumulate(known, axis=d)
        after = np.flip(np.logical_or.accumulate(np.flip(known, d), axis=d), d)
        reach |= before & after if both else before | after
    return reach & ~known


def _between(grid: FloatArray, slices: IndexArray, around: Surroundings) -> Offers:
    """What lines and patches through known cells say of each cell of some slices."""
    axes, kin = around.axes, around.kin.take(slices)
    own = grid[slices]
    sides = [_Sides.of(own, d, axis) for d, axis in enumerate(axes, start=1)]
    lines = [side.line(own) for side in sides]
    offers = list(lines)
    for d, e in combinations(range(1, own.ndim), 2):
        offers += [_diagonal(own, d, e, way) for way in (1, -1)]
        deviation = own - lines[e - 1]
        offers.append(lines[e - 1] + _Sides.of(deviation, d, axes[d - 1]).line(deviation))
    for other in (*kin.each(grid, axes), *(relative[slices] for relative in around.relatives)):
        # Held against its own line over the same cells: a hole here must be one there.
        offers += [line + other - side.line(other) for side, line in zip(sides, lines, strict=True)]
        offers.append(other + _usual(own - other))
    return offers


def _beside(grid: FloatArray, slices: IndexArray, around: Surroundings) -> Offers:
    """What the nearest known cell along each axis says, and how others go on from there."""
    axes, kin = around.axes, around.kin.take(slices)
    offers = []
    for d, axis in enumerate(axes, start=1):
        sides = _Sides.of(grid, d, axis)
        relatives = [sides.held(relative) for relative in around.relatives]
        for value, *others in zip(sides.held(grid), *relatives, strict=True):
            offers.append(value[slices])
            if kin.index.shape[1]:
                offers.append(value[slices] + kin.mean(grid - value, axes))
            offers += [
                (value + relative - other)[slices]
                for relative, other in zip(around.relatives, others, strict=True)
            ]
    return offers


def _best(grid: FloatArray, holes: BoolArray, offers: Offers) -> FloatArray:
    """Weighted median of what is offered at some holes, in their order.

    An offer's error is that at known cells near the hole; the fewer there are, the more that
    in the slice, and in the whole grid, counts.
    """
    values, weights = [], []
    for offer in offers:
        missed = np.abs(offer - grid)
        tried = ~np.isnan(missed)
        error = _missed(np.sqrt(np.where(tried, missed, 0.0)), tried)[holes] ** 2 + 1e-6
        value = offer[holes]
        values.append(np.where(np.isnan(value), np.inf, value))
        weights.append(np.where(np.isnan(value), 0.0, error**-SHARPNESS))
    return _weighted_median(np.stack(values), np.stack(weights))


def _usual(difference: FloatArray) -> FloatArray:
    """Median of the cells around each along the axes, itself excluded; NaN where none is known."""
    around = []
    for d, way in product(range(1, difference.ndim), (1, -1)):
        moved = difference
        for _ in range(AROUND):
            moved = _moved(moved, d, way)
            around.append(moved)
    ordered = np.sort(np.stack(around), axis=0)  # NaN last
    last = (~np.isnan(ordered)).sum(axis=0)[None] - 1  # of those known; none: the last, NaN
    low, high = (np.take_along_axis(ordered, at, axis=0)[0] for at in (last // 2, (last + 1) // 2))
    result: FloatArray = (low + high) / 2.0
    return result


def _missed(error: FloatArray, tried: BoolArray) -> FloatArray:
    """Mean error of one offer around each cell, from those cells where it was tried."""
    count = tried.astype(float)
    overall = error.sum() / count.sum() if tried.any() else 1.0
    inner = tuple(range(1, error.ndim))
    in_slice = (error.sum(inner, keepdims=True) + PRIOR * overall) / (
        count.sum(inner, keepdims=True) + PRIOR
    )
    for d in inner:
        steps = np.arange(error.shape[d])
        nearness = np.exp(-0.5 * ((steps - steps[:, None]) / NEAR) ** 2)
        error, count = (
            np.moveaxis(np.moveaxis(part, d, -1) @ nearness, -1, d) for part in (error, count)
        )
    result: FloatArray = (error + PRIOR * in_slice) / (count + PRIOR)
    return result


def _weighted_median(values: FloatArray, weights: FloatArray) -> FloatArray:
    """Of each column of (offers, cells): where half the weight lies below, interpolated."""
    order = np.argsort(values, axis=0)
    values = np.take_along_axis(values, order, axis=0)
    weights = np.take_along_axis(weights, order, axis=0)
    middle = np.cumsum(weights, axis=0) - weights / 2.0
    half = weights.sum(axis=0) / 2.0
    upper = np.clip((middle < half).sum(axis=0), 0, np.isfinite(values).sum(axis=0) - 1)[None]
    lower = np.maximum(upper - 1, 0)
    (m0, v0), (m1, v1) = (
        [np.take_along_axis(part, at, axis=0)[0] for part in (middle, values)]
        for at in (lower, upper)
    )
    share = np.clip((half - m0) / np.where(m1 > m0, m1 - m0, 1.0), 0.0, 1.0)
    result: FloatArray = v0 + share * (v1 - v0)
    return result


def _diagonal(grid: FloatArray, d: int, e: int, way: int) -> FloatArray:
    """Mean of the two next cells that lie up both axes, or up one and down the other."""
    up = _moved(_moved(grid, d, 1), e, way)
    down = _moved(_moved(grid, d, -1), e, -way)
    return (up + down) / 2.0


def _moved(grid: FloatArray, d: int, by: int) -> FloatArray:
    """The next cell's value (by 1) or the one's before (by -1); NaN past the edge."""
    edge = np.full_like(np.take(grid, [0], axis=d), np.nan)
    parts = (grid, edge) if by > 0 else (edge, grid)
    whole = np.concatenate(parts, axis=d)
    return np.take(whole, np.arange(grid.shape[d]) + max(by, 0), axis=d)


def _along(values: NDArray[np.generic], d: int, ndim: int) -> NDArray[np.generic]:
    """(S, n) values laid along the slices and axis d of a grid."""
    shape = [1] * ndim
    shape[0] = len(values)
    if d:
        shape[d] = values.shape[1]
    return values.reshape(shape)


def _ratio(total: FloatArray, weight: FloatArray) -> FloatArray:
    result: FloatArray = np.full(total.shape, np.nan)
    np.divide(total, weight, out=result, where=weight > 0)
    return result
