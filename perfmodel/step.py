"""The time of one forward step, for arrays of layouts and arrays of work.

A step is written once, as the operator calls of `modules.step_calls`; the sweep sums their
times over a pipeline's stages, and `breakdown` lists them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perfmodel.architecture import ModelArchitecture
from perfmodel.engine import EngineProfile
from perfmodel.hardware import Device
from perfmodel.layout import Layouts
from perfmodel.modules import BOUNDARY, EMBEDDING, HEAD, LAYER, Call, ModuleKit, step_calls
from perfmodel.operators import Operators
from perfmodel.precision import Precision
from perfmodel.work import StepWork, stages

FloatArray = NDArray[np.float64]
Part = tuple[str, int]
Gather = tuple[FloatArray, NDArray[np.intp]]

ROWS = 256
"""Layouts added up at a time: their times stay in the processor's cache."""


@dataclass(frozen=True)
class StepTime:
    """Step times of (L, C) layouts and columns of work.

    Attributes:
        pace_s: the slowest pipeline stage: one step leaves the pipeline every `pace_s`.
        latency_s: all stages one after another.
    """

    pace_s: FloatArray
    latency_s: FloatArray


class StepModel:
    """Step times of one model on one device under one engine and precision.

    Args:
        operators: the device's operator models, shared between precisions.
        routing: the measured distribution of tokens over experts.
    """

    def __init__(
        self,
        model: ModelArchitecture,
        device: Device,
        engine: EngineProfile,
        precision: Precision,
        operators: Operators,
        routing: str = "power_law_1.01",
    ) -> None:
        self.model = model
        self.device = device
        self.engine = engine
        self.precision = precision
        self._kit = ModuleKit(model, precision, operators, routing)

    def measured_calls(self, layouts: Layouts, work: StepWork) -> Iterator[Call]:
        """Every operator call of the step, at the times of the tables."""
        return step_calls(self._kit, layouts, work)

    def calls(self, layouts: Layouts, work: StepWork) -> Iterator[Call]:
        """Every operator call of the step, at its time in service."""
        correction = self.engine.correction
        return (correction.apply(call, work) for call in self.measured_calls(layouts, work))

    def overhead_s(self, layers: int, work: StepWork) -> FloatArray:
        """What no operator accounts for in a pipeline stage of so many layers, (C,)."""
        correction = self.engine.correction
        return correction.step_overhead_s(work) + layers * correction.layer_overhead_s(work)

    def time(self, layouts: Layouts, work: StepWork) -> StepTime:
        """Pace and latency of every layout (L) under every column of work (C)."""
        parts = self._parts(layouts, work)
        pace, latency = (np.empty((len(layouts), len(work))) for _ in range(2))
        for pp in np.unique(layouts.pp):
            of_pp = np.flatnonzero(layouts.pp == pp)
            for start in range(0, len(of_pp), ROWS):
                rows = of_pp[start : start + ROWS]
                pace[rows], latency[rows] = self._pipeline(int(pp), rows, parts, work)
        return StepTime(pace, latency)

    def _parts(self, layouts: Layouts, work: StepWork) -> dict[Part, list[Gather]]:
        """Times of unique shapes by part of the model; calls over the same shapes are added up."""
        sums: dict[tuple[Part, int], Gather] = {}
        for call in self.calls(layouts, work):
            key = ((call.part, call.group), id(call.index))
            if key in sums:
                seconds, index = sums[key]
                sums[key] = (seconds + call.time.seconds, index)
            else:
                sums[key] = (call.time.seconds, call.index)
        parts: dict[Part, list[Gather]] = {}
        for (part, _), gather in sums.items():
            parts.setdefault(part, []).append(gather)
        return parts

    def _pipeline(
        self, pp: int, rows: NDArray[np.intp], parts: dict[Part, list[Gather]], work: StepWork
    ) -> tuple[FloatArray, FloatArray]:
        """Pace and latency of layouts with the same number of stages."""

        def total(part: Part) -> FloatArray | float:
            return sum((seconds[index[rows]] for seconds, index in parts.get(part, ())), 0.0)

        groups = range(len(self.model.groups))
        layer = [total((LAYER, g)) for g in groups]
        first, last = total((EMBEDDING, 0)), total((HEAD, 0))
        boundary = total((BOUNDARY, 0)) if pp > 1 else 0.0
        pace: FloatArray | float = 0.0
        for stage in stages(self.model, pp):
            overhead = self.overhead_s(sum(stage.counts), work)
            seconds = boundary + overhead + stage.first * first + stage.last * last
            for count, time in zip(stage.counts, layer, strict=True):
                seconds = seconds + count * time
            pace = np.maximum(pace, seconds)
        fixed = pp * self.overhead_s(0, work) + self.overhead_s(self.model.layers, work)
        latency = first + last + (pp - 1) * boundary + fixed - self.overhead_s(0, work)
        for group, time in zip(self.model.groups, layer, strict=True):
            latency = latency + group.count * time
        return np.asarray(pace), np.asarray(latency)
