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

    def calls(self, layouts: Layouts, work: StepWork) -> Iterator[Call]:
        """Every operator call of the step."""
        return step_calls(self._kit, layouts, work)

    def time(self, layouts: Layouts, work: StepWork) -> StepTime:
        """Pace and latency of every layout (L) under every column of work (C)."""
        shape = (len(layouts), len(work))
        layer = [np.zeros(shape) for _ in self.model.groups]
        ends = {EMBEDDING: np.zeros(shape), HEAD: np.zeros(shape), BOUNDARY: np.zeros(shape)}
        for call in self.calls(layouts, work):
            target = layer[call.group] if call.part == LAYER else ends[call.part]
            target += call.time.seconds[call.index]
        pace, latency = np.zeros(shape), np.zeros(shape)
        for pp in np.unique(layouts.pp):
            rows = np.flatnonzero(layouts.pp == pp)
            boundary = ends[BOUNDARY][rows] if pp > 1 else 0.0
            for stage in stages(self.model, int(pp)):
                seconds = boundary + self.engine.iteration_overhead_s
                for count, time in zip(stage.counts, layer, strict=True):
                    if count:
                        seconds = seconds + count * time[rows]
                if stage.first:
                    seconds = seconds + ends[EMBEDDING][rows]
                if stage.last:
                    seconds = seconds + ends[HEAD][rows]
                pace[rows] = np.maximum(pace[rows], seconds)
            total = (ends[EMBEDDING] + ends[HEAD])[rows]
            total = total + (pp - 1) * boundary + pp * self.engine.iteration_overhead_s
            for group, time in zip(self.model.groups, layer, strict=True):
                total = total + group.count * time[rows]
            latency[rows] = total
        return StepTime(pace, latency)
