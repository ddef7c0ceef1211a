"""Where to measure next: a coarse grid, halved where interpolation fails.

The points of a slice form a tree. The outermost axis has a sorted list of values, each of
which holds a list of values of the next axis, and so on inwards. An interval between two
neighbouring values is split at its middle (of the logarithms). The first point measured
there is a held-out test of the table as it was: only if the table missed it by more than the
bound is the new value given the whole coarse grid of the axes inside it. So a value of an
outer axis is never known at a few far-apart points only, between which `RatioTable` would
draw a straight line over detail that its neighbours know.

Error estimates decide the order. Before a test an interval's is taken from the bend of the
log-ratio at its ends; after one it is half the error found (interpolation across a kink
improves linearly with the distance), or a quarter where the test passed (smooth: by its
square). When the intervals' length-weighted 90th percentile is within the bound, a random
sample of midpoints is measured: if their 90th percentile is within the bound too, the slice
is done, and that sample is the error reported. Otherwise refinement goes on from there.
"""

from __future__ import annotations

import bisect
import math
import random
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from perfmodel.collect.measure import Key, Sample
from perfmodel.database.grid import RatioTable, Rows

Point = tuple[int, ...]
Node = tuple[int, Point]
Interval = tuple[Node, int, int]

QUANTILE = 0.9
CLOSEST = 1.1
"""Values nearer than this ratio are not told apart."""

BATCH, BATCH_SHARE = 24, 0.1
"""Intervals split between two builds of the table: a number, or if more a share of them all.

Building takes time in proportion to the table, so that the share keeps it small per row.
"""

VALIDATIONS = (8, 48)
"""Fewest and most midpoints of the final held-out sample; between them, 10 % of intervals."""


@dataclass(frozen=True)
class Axis:
    """One interpolated column.

    Attributes:
        name: the column.
        coarse: ascending values measured in any case.
        step: new values are multiples of it, as kernels' tiles and models' widths are.
    """

    name: str
    coarse: tuple[int, ...]
    step: int = 1

    def middle(self, low: int, high: int) -> int | None:
        """The value halfway between two in logarithms; None if they are too near."""
        value = round(math.sqrt(low * high) / self.step) * self.step
        apart = value > low * CLOSEST and high > value * CLOSEST
        return value if apart else None


@dataclass(frozen=True)
class Slice:
    """Shapes of one family that share all columns but the axes.

    Attributes:
        axes: innermost (refined most freely) first, in the order of the operator's axes.
    """

    family: str
    fixed: Mapping[str, int | str]
    axes: tuple[Axis, ...]

    def key(self, point: Point) -> Key:
        """The shape columns of a point."""
        named = {axis.name: value for axis, value in zip(self.axes, point, strict=True)}
        return {**self.fixed, **named}

    def __str__(self) -> str:
        return f"{self.family} " + " ".join(f"{k}={v}" for k, v in self.fixed.items())


@dataclass
class Start:
    """The shortest call of a table so far; the slices of one table share it.

    What estimates interpolate is the ratio of a time to the work plus this, so the errors
    found here are those that they will make.
    """

    seconds: float = math.inf


@dataclass
class Refinement:
    """One slice under way.

    Args:
        part: the slice.
        work_s: time in proportion to which a shape's time is carried to others (its roofline).
        measure: times a shape, or None where it cannot be measured.
        bound: relative error to reach at the 90th percentile of midpoints.
        start: that of the slice's table.

    Attributes:
        times: measured seconds by point.
        errors: relative errors of the latest held-out sample.
        done: the bound is reached, or nothing is left to split.
    """

    part: Slice
    work_s: Callable[[Key], float]
    measure: Callable[[Key], Sample | None]
    bound: float
    start: Start = field(default_factory=Start)
    times: dict[Point, float] = field(default_factory=dict)
    errors: list[float] = field(default_factory=list)
    done: bool = False
    _values: dict[Node, list[int]] = field(default_factory=dict)
    _known: dict[Interval, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # The same draws after an interrupt: rows of the journal are then met again.
        self._random = random.Random(zlib.crc32(str(self.part).encode()))
        self._spreads: dict[Point, float] = {}
        self._works: dict[Point, float] = {}

    def coarse(self) -> None:
        """Measure the coarse grid."""
        outer = len(self.part.axes) - 1
        for value in self.part.axes[outer].coarse:
            self._insert((outer, ()), value)
        if len(self.times) < 2:
            self.done = True

    def round(self) -> None:
        """Split the intervals of largest error; or, where all seem fine, test at random."""
        estimates = dict(self._estimates())
        if not estimates:
            self.done = True
            return
        poor = sorted((e, i) for i, e in estimates.items() if e > self.bound)[::-1]
        if poor and _percentile(estimates) > self.bound:
            count = max(BATCH, int(BATCH_SHARE * len(estimates)))
            self._split([interval for _, interval in poor[:count]])
        else:
            self.validate()

    def validate(self) -> None:
        """Test the table at random midpoints; `errors` are theirs, and decide if it is done."""
        estimates = dict(self._estimates())
        fewest, most = VALIDATIONS
        count = min(most, max(fewest, len(estimates) // 10))
        # Each axis gets an equal share: outer axes have fewer intervals, but not a smaller part.
        per_axis: dict[int, int] = {}
        for (axis, _), _, _ in estimates:
            per_axis[axis] = per_axis.get(axis, 0) + 1
        chosen = _draw(
            self._random,
            {i: math.log(i[2] / i[1]) / per_axis[i[0][0]] for i in estimates},
            count,
        )
        errors = self._split(chosen)
        if not errors:
            self.done = True
            return
        self.errors = errors
        self.done = float(np.quantile(errors, QUANTILE)) <= self.bound

    @property
    def urgency(self) -> float:
        """Estimated 90th percentile of the error: the slice with most is refined first."""
        return 0.0 if self.done else _percentile(dict(self._estimates()))

    def _insert(self, node: Node, value: int) -> None:
        """Add a value to a node, with the whole coarse grid inside it."""
        axis, outer = node
        values = self._values.setdefault(node, [])
        if value not in values:
            bisect.insort(values, value)
        point = (value, *outer)
        if axis == 0:
            self._take(point)
            return
        for inner in self.part.axes[axis - 1].coarse:
            self._insert((axis - 1, point), inner)

    def _take(self, point: Point) -> float | None:
        """Measure a point into the table; its time, or None if it cannot be measured."""
        if point not in self.times:
            key = self.part.key(point)
            sample = self.measure(key)
            if sample is None:
                return None
            self.times[point] = sample.time_s
            self._works[point] = self.work_s(key)
            self._spreads[point] = sample.spread
            self.start.seconds = min(self.start.seconds, sample.time_s)
        return self.times[point]

    def _split(self, intervals: list[Interval]) -> list[float]:
        """Measure the middles of intervals; returns the table's errors there."""
        probes: list[tuple[Interval, int, Point]] = []
        for interval in intervals:
            (axis, outer), low, high = interval
            middle = self.part.axes[axis].middle(low, high)
            assert middle is not None
            node = interval[0]
            # Inside, somewhere that could be measured at both ends.
            below, above = self._profile(node, low), self._profile(node, high)
            inner = self._random.choice(sorted(below.keys() & above.keys() or below or above))
            probes.append((interval, middle, (*inner, middle, *outer)))
        expected = self._predict([point for _, _, point in probes])
        errors: list[float] = []
        for (interval, middle, point), seconds in zip(probes, expected, strict=True):
            fresh = point not in self.times
            found = self._take(point)
            if found is None:
                self._known[interval] = 0.0
                continue
            error = abs(seconds / found - 1.0)
            if fresh:
                errors.append(error)
            # What lies within the repeats' spread is no fault of the interpolation.
            excess = max(0.0, error - self._spreads[point])
            node, low, high = interval
            missed = excess > self.bound
            child = excess / 2.0 if missed else excess / 4.0
            if node[0] == 0 or missed:
                self._insert(node, middle)
                self._known[node, low, middle] = self._known[node, middle, high] = child
            else:
                self._known[interval] = child
        return errors

    def _predict(self, points: list[Point]) -> list[float]:
        """What the table as it is says of points, seconds."""
        if not points:
            return []
        known = np.array(list(self.times), dtype=float)
        rows, start_s = Rows.of_times(
            np.zeros((len(known), 0)),
            known,
            np.array(list(self.times.values())),
            np.array(list(self._works.values())),
            self.start.seconds,
        )
        table = RatioTable.build(rows, [], start_s)
        columns = list(np.array(points, dtype=float).T)
        ratio, _ = table.lookup(np.zeros(len(points), dtype=np.intp), columns)
        work = np.array([self.work_s(self.part.key(point)) for point in points])
        return [float(value) for value in ratio * (work + table.start_s)]

    def _estimates(self) -> Iterator[tuple[Interval, float]]:
        """Every interval that can be split, and its estimated error."""
        for node, values in self._values.items():
            axis = self.part.axes[node[0]]
            logs = [self._profile(node, value) for value in values]
            bends = [
                _bend(values[i - 1 : i + 2], logs[i - 1 : i + 2])
                if 0 < i < len(values) - 1
                else 0.0
                for i in range(len(values))
            ]
            for i, (low, high) in enumerate(pairwise(values)):
                if axis.middle(low, high) is None or not (logs[i] or logs[i + 1]):
                    continue
                interval = (node, low, high)
                # Two values have no bend: nothing is known of what lies between them.
                unknown = 1.5 * self.bound if len(values) < 3 else 0.0
                guess = max(max(bends[i], bends[i + 1]) / 2.0, unknown)
                yield interval, self._known.get(interval, guess)

    def _profile(self, node: Node, value: int) -> dict[Point, float]:
        """Log-ratios at a value of a node, by the coarse position on the inner axes."""
        axis, outer = node
        inner: list[Point] = [()]
        for a in self.part.axes[:axis]:
            inner = [(*point, v) for point in inner for v in a.coarse]
        at = {point: self._log_ratio((*point, value, *outer)) for point in inner}
        return {point: ratio for point, ratio in at.items() if ratio is not None}

    def _log_ratio(self, point: Point) -> float | None:
        """What is interpolated, at a point; None if it was not measured."""
        time = self.times.get(point)
        if time is None:
            return None
        return math.log(time / (self._works[point] + self.start.seconds))


def _bend(values: list[int], logs: list[dict[Point, float]]) -> float:
    """How far the middle of three values lies from the line between the others (median)."""
    x = [math.log(value) for value in values]
    weight = (x[1] - x[0]) / (x[2] - x[0])
    common = logs[0].keys() & logs[1].keys() & logs[2].keys()
    bends = [abs(logs[1][p] - (1.0 - weight) * logs[0][p] - weight * logs[2][p]) for p in common]
    return float(np.median(bends)) if bends else 0.0


def _percentile(estimates: Mapping[Interval, float]) -> float:
    """90th percentile of the estimates, intervals weighted by their length, axes equally."""
    if not estimates:
        return 0.0
    totals: dict[int, float] = {}
    for (axis, _), low, high in estimates:
        totals[axis] = totals.get(axis, 0.0) + math.log(high / low)
    ordered = sorted((e, math.log(i[2] / i[1]) / totals[i[0][0]]) for i, e in estimates.items())
    reached, goal = 0.0, QUANTILE * len(totals)
    for error, weight in ordered:
        reached += weight
        if reached >= goal:
            return error
    return ordered[-1][0]


def _draw(source: random.Random, weights: Mapping[Interval, float], count: int) -> list[Interval]:
    """Draw without replacement with probability by weight (exponential keys)."""
    keyed = [(source.expovariate(1.0) / weight, i) for i, weight in weights.items()]
    return [interval for _, interval in sorted(keyed)[:count]]
