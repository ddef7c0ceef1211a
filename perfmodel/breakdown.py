"""One configuration taken apart: every operator of a step, and what the time is made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from perfmodel.layout import Layouts
from perfmodel.modules import BOUNDARY, EMBEDDING, LAYER
from perfmodel.operators import Bound, Kind
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
    """The slowest stage's operators; they and the engine's overhead add up to its pace."""

    operators: tuple[OperatorShare, ...]
    overhead_s: float

    @property
    def total_s(self) -> float:
        """The stage's time, equal to `StepTime.pace_s`."""
        return self.overhead_s + sum(op.total_s for op in self.operators)

    def shares(self, by: str) -> dict[str, float]:
        """Share of the time by `kind`, `bound` or `module`, overhead apart, largest first."""
        totals: dict[str, float] = {}
        for op in self.operators:
            key = getattr(op, by)
            totals[key] = totals.get(key, 0.0) + op.total_s
        whole = self.total_s
        if self.overhead_s:
            # The engine's fixed cost is an assumption, not a measurement.
            own = {"kind": Kind.ANALYTIC.name.lower(), "bound": "latency", "module": "engine"}[by]
            totals[own] = totals.get(own, 0.0) + self.overhead_s
        ordered = sorted(totals.items(), key=lambda item: -item[1])
        return {key: value / whole for key, value in ordered}


def breakdown(step: StepModel, layout: Layouts, work: StepWork) -> Breakdown:
    """The slowest stage of one layout under one column of work."""
    calls = list(step.calls(layout, work))
    boundary = int(layout.pp[0]) > 1
    candidates = []
    for stage in stages(step.model, int(layout.pp[0])):
        shares = []
        for call in calls:
            if call.part == LAYER:
                count = stage.counts[call.group]
            elif call.part == EMBEDDING:
                count = int(stage.first)
            elif call.part == BOUNDARY:
                count = int(boundary)
            else:
                count = int(stage.last)
            row = call.index[0]
            seconds = float(call.time.seconds[row, 0])
            if count and seconds > 0:
                shares.append(
                    OperatorShare(
                        name=call.name,
                        module=call.module,
                        calls=count,
                        seconds=seconds,
                        floor_s=float(call.time.floor_s[row, 0]),
                        kind=Kind(int(call.time.kind[row, 0])).name.lower(),
                        bound=Bound(int(call.time.bound[row, 0])).name.lower(),
                    )
                )
        overhead = float(step.overhead_s(sum(stage.counts), work)[0])
        candidates.append(Breakdown(tuple(shares), overhead))
    return max(candidates, key=lambda b: b.total_s)


def mean_shares(parts: Iterable[tuple[float, Breakdown]], by: str) -> dict[str, float]:
    """Shares over several steps, each weighted by how much time is spent in it."""
    parts = list(parts)
    whole = sum(weight * part.total_s for weight, part in parts)
    totals: dict[str, float] = {}
    for weight, part in parts:
        for key, share in part.shares(by).items():
            totals[key] = totals.get(key, 0.0) + weight * part.total_s * share / whole
    return dict(sorted(totals.items(), key=lambda item: -item[1]))
