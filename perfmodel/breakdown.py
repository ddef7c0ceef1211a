"""One configuration taken apart: every operator of a step, and what the time is made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from perfmodel.layout import Layouts
from perfmodel.modules import BOUNDARY, EMBEDDING, HEAD, LAYER, Call
from perfmodel.operators import Bound, Kind
from perfmodel.overlap import halved, section
from perfmodel.step import StepModel
from perfmodel.work import StepWork, stages


@dataclass(frozen=True)
class OperatorShare:
    """One operator in the slowest pipeline stage of a step.

    Attributes:
        calls: how often the stage runs it.
        seconds: one call.
        floor_s: the roofline of one call.
        kind: measured, extrapolated, analytic.
        bound: compute, bandwidth, link, latency.
    """

    name: str
    module: str
    calls: int
    seconds: float
    floor_s: float
    kind: str
    bound: str

    @property
    def total_s(self) -> float:
        """All calls."""
        return self.calls * self.seconds


@dataclass(frozen=True)
class Breakdown:
    """The slowest stage's operators; they and the engine's overhead make up its pace.

    Attributes:
        overhead_s: the engine's own.
        hidden_s: what of all this runs beside the rest, where two half batches overlap.
    """

    operators: tuple[OperatorShare, ...]
    overhead_s: float
    hidden_s: float = 0.0

    @property
    def busy_s(self) -> float:
        """Operators and overhead, one after another."""
        return self.overhead_s + sum(op.total_s for op in self.operators)

    @property
    def total_s(self) -> float:
        """The stage's time, equal to `StepTime.pace_s`."""
        return self.busy_s - self.hidden_s

    def shares(self, by: str) -> dict[str, float]:
        """Share of the busy time by `kind`, `bound` or `module`, overhead apart, largest first."""
        totals: dict[str, float] = {}
        for op in self.operators:
            key = getattr(op, by)
            totals[key] = totals.get(key, 0.0) + op.total_s
        whole = self.busy_s
        if self.overhead_s:
            # The engine's fixed cost is an assumption, not a measurement.
            own = {"kind": Kind.ANALYTIC.name.lower(), "bound": "latency", "module": "engine"}[by]
            totals[own] = totals.get(own, 0.0) + self.overhead_s
        ordered = sorted(totals.items(), key=lambda item: -item[1])
        return {key: value / whole for key, value in ordered}


def breakdown(step: StepModel, layout: Layouts, work: StepWork) -> Breakdown:
    """The slowest stage of one layout under one column of work."""
    calls = list(step.calls(layout, work))
    halves = step.half_batches(layout, work)
    half_calls = [] if halves is None else list(step.calls(layout, halved(work)))
    gap = float((step.overhead_s(1, work) - step.overhead_s(0, work))[0])
    pp = int(layout.pp[0])
    candidates = []
    for stage in stages(step.model, pp):
        ends = {EMBEDDING: int(stage.first), BOUNDARY: int(pp > 1), HEAD: int(stage.last)}
        whole = [_share(call, ends[call.part]) for call in calls if call.part != LAYER]
        overhead = float(step.overhead_s(sum(stage.counts), work)[0])
        hidden = 0.0
        for g, count in enumerate(stage.counts):
            layers = [_share(c, count) for c in calls if c.part == LAYER and c.group == g]
            if halves is not None and g in halves.sections and halves.possible[0]:
                of_group = [c for c in half_calls if c.part == LAYER and c.group == g]
                split = [_share(c, 2 * count, halves.factor(section(c))[0]) for c in of_group]
                own = 2 * count * float(halves.layer_overhead_s[0])
                at_once = float(halves.layers(g, FIRST, count).after(count)[0, 0])
                if at_once < count * gap + sum(op.total_s for op in layers):
                    layers = split
                    overhead += own - count * gap
                    hidden += own + sum(op.total_s for op in split) - at_once
            whole += layers
        present = tuple(op for op in whole if op.calls and op.seconds > 0)
        candidates.append(Breakdown(present, overhead, hidden))
    return max(candidates, key=lambda b: b.total_s)


FIRST = np.zeros(1, dtype=np.intp)


def _share(call: Call, count: int, factor: float = 1.0) -> OperatorShare:
    row = call.index[0]
    time = call.time
    return OperatorShare(
        name=call.name,
        module=call.module,
        calls=count,
        seconds=float(time.seconds[row, 0]) * factor,
        floor_s=float(time.floor_s[row, 0]),
        kind=Kind(int(time.kind[row, 0])).name.lower(),
        bound=Bound(int(time.bound[row, 0])).name.lower(),
    )


def mean_shares(parts: Iterable[tuple[float, Breakdown]], by: str) -> dict[str, float]:
    """Shares over several steps, each weighted by how much time is spent in it."""
    parts = list(parts)
    whole = sum(weight * part.total_s for weight, part in parts)
    totals: dict[str, float] = {}
    for weight, part in parts:
        for key, share in part.shares(by).items():
            totals[key] = totals.get(key, 0.0) + weight * part.total_s * share / whole
    return dict(sorted(totals.items(), key=lambda item: -item[1]))
