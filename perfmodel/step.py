"""The time of one forward step, for arrays of layouts and arrays of work.

A step is written once, as the operator calls of `modules.step_calls`; the sweep sums their
times over a pipeline's stages, and `breakdown` lists them. Operators wait for each other, but
where an engine runs two half batches at once (`overlap`): those layers are simulated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from perfmodel.architecture import ModelArchitecture
from perfmodel.bundles import Bundles
from perfmodel.correction import operator_kind
from perfmodel.engine import EngineProfile
from perfmodel.expert_load import ExpertLoad
from perfmodel.hardware import Device
from perfmodel.layout import Layouts
from perfmodel.modules import (
    BOUNDARY,
    EMBEDDING,
    HEAD,
    LAYER,
    Call,
    ModuleKit,
    encode,
    step_calls,
)
from perfmodel.operators import Operators
from perfmodel.overlap import HalfBatches, halved
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


@dataclass(frozen=True)
class _Overheads:
    """What no operator accounts for, by column: of a pipeline stage, and of each layer."""

    step_s: FloatArray
    layer_s: FloatArray

    def of(self, layers: int) -> FloatArray:
        return self.step_s + layers * self.layer_s


class StepModel:
    """Step times of one model on one device under one engine and precision.

    Args:
        operators: the device's operator models, shared between precisions.
        routing: the distribution of tokens over experts: a measured one's name, or a stated one.
    """

    def __init__(
        self,
        model: ModelArchitecture,
        device: Device,
        engine: EngineProfile,
        precision: Precision,
        operators: Operators,
        routing: str | ExpertLoad = "power_law_1.01",
    ) -> None:
        self.model = model
        self.device = device
        self.engine = engine
        self.precision = precision
        self.load = routing if isinstance(routing, ExpertLoad) else None
        self._kit = ModuleKit(model, precision, operators, routing, engine.shards_sequence)

    def measured_calls(self, layouts: Layouts, work: StepWork) -> Iterator[Call]:
        """Every operator call of the step, at the times of the tables."""
        return step_calls(self._kit, layouts, work)

    def calls(self, layouts: Layouts, work: StepWork) -> Iterator[Call]:
        """Every operator call of the step, at its time in service."""
        return (self.in_service(call, work) for call in self.measured_calls(layouts, work))

    def in_service(self, call: Call, work: StepWork) -> Call:
        """A measured call at its time in service: under the engine's correction, on this device.

        It is not below its roofline but for what is hidden.
        """
        correction = self.engine.correction
        own = correction.operator_factor(operator_kind(call.name, call.module))
        factors = own * correction.token_factor(work) * self.device.time_factor
        if np.all(factors == 1.0):
            return call
        time = call.time
        floor = time.floor_s * own
        seconds = np.maximum(time.seconds * factors, np.minimum(time.seconds, floor))
        return replace(call, time=replace(time, seconds=seconds, floor_s=floor))

    def encoder_calls(self, layouts: Layouts, work: StepWork) -> Iterator[Call]:
        """Of these, those of the vision encoder alone; none without images."""
        calls = encode(self._kit, layouts, work) if work.vision_sequences.any() else iter(())
        return (self.in_service(call, work) for call in calls)

    def overhead_s(self, layers: int, work: StepWork) -> FloatArray:
        """What no operator accounts for in a pipeline stage of so many layers, (C,)."""
        return self._overheads(work).of(layers)

    def _overheads(self, work: StepWork) -> _Overheads:
        step_s, layer_s = self.engine.correction.step_overhead_s, self.engine.layer_overhead_s
        factor = self.device.time_factor
        return _Overheads(step_s(work) * factor, layer_s(work) * factor)

    @property
    def _splits_batches(self) -> bool:
        """Whether half batches may overlap: the engine can, and tokens travel to experts.

        The kernels that leave the travel to the links are made for NVLink and NICs that read
        the devices' memory; on PCIe alone there are none.
        """
        able = self.engine.splits_batches and self.device.platform != "weak-scale-out"
        return able and self.model.is_moe

    def half_batches(self, layouts: Layouts, work: StepWork) -> HalfBatches | None:
        """The layers of half batches, if two are run at once and tokens travel."""
        if not self._splits_batches or layouts.aligned.all():
            return None
        half = halved(work)
        halves = HalfBatches.of(self.calls(layouts, half), self._overheads(half).layer_s, work)
        return halves if halves.sections and halves.possible.any() else None

    def time(self, layouts: Layouts, work: StepWork) -> StepTime:
        """Pace and latency of every layout (L) under every column of work (C)."""
        parts = self._parts(self.calls(layouts, work))
        halves = self.half_batches(layouts, work)
        return self._pipelines(layouts, parts, self._overheads(work), halves)

    def least(self, layouts: Layouts, work: StepWork, bundles: Bundles) -> StepTime:
        """Lower bounds on weighted step times of bundles of columns, (L, G) each.

        Of every operator the least of a bundle is taken before layouts add them up: layouts are
        many and unique shapes are few, so that a bundle costs little more than one column. No
        column of the bundle takes less. Where half batches may overlap, tokens travel for free
        and no operator takes more than twice what half the batch takes.
        """
        calls = self.calls(layouts, work)
        if self._splits_batches:
            calls = _hidden(calls, self.calls(layouts, halved(work)))
        parts = {
            part: [(bundles.least(seconds, len(work)), index) for seconds, index in gathers]
            for part, gathers in self._parts(calls).items()
        }
        own = self._overheads(work)
        least = _Overheads(*(bundles.least(s, len(work)) for s in (own.step_s, own.layer_s)))
        return self._pipelines(layouts, parts, least, None)

    def _pipelines(
        self,
        layouts: Layouts,
        parts: dict[Part, list[Gather]],
        own: _Overheads,
        halves: HalfBatches | None,
    ) -> StepTime:
        travels = np.zeros(len(layouts), dtype=bool) if halves is None else ~layouts.aligned
        pace, latency = (np.empty((len(layouts), len(own.step_s))) for _ in range(2))
        for pp in np.unique(layouts.pp):
            for travelling in (False, True):
                alike = np.flatnonzero((layouts.pp == pp) & (travels == travelling))
                split = halves if travelling else None
                for start in range(0, len(alike), ROWS):
                    rows = alike[start : start + ROWS]
                    pace[rows], latency[rows] = self._pipeline(int(pp), rows, parts, own, split)
        return StepTime(pace, latency)

    @staticmethod
    def _parts(calls: Iterable[Call]) -> dict[Part, list[Gather]]:
        """Times of unique shapes by part of the model; calls over the same shapes are added up."""
        sums: dict[tuple[Part, int], Gather] = {}
        for call in calls:
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
        self,
        pp: int,
        rows: NDArray[np.intp],
        parts: dict[Part, list[Gather]],
        own: _Overheads,
        halves: HalfBatches | None,
    ) -> tuple[FloatArray, FloatArray]:
        """Pace and latency of layouts with the same number of stages."""

        def total(part: Part) -> FloatArray | float:
            return sum((seconds[index[rows]] for seconds, index in parts.get(part, ())), 0.0)

        groups = self.model.groups
        layer = [total((LAYER, g)) for g in range(len(groups))]
        first, last = total((EMBEDDING, 0)), total((HEAD, 0))
        boundary = total((BOUNDARY, 0)) if pp > 1 else 0.0
        kinds = stages(self.model, pp)
        split: dict[int, dict[int, FloatArray]] = {}
        if halves is not None:
            for g in halves.sections:
                counts = {groups[g].count, *(stage.counts[g] for stage in kinds)}
                split[g] = halves.faster(g, rows, counts, layer[g] + own.layer_s)

        def add(seconds: FloatArray | float, counts: Sequence[int]) -> FloatArray | float:
            """The layers of a stage on top, so many of each group."""
            for g, count in enumerate(counts):
                seconds = seconds + (split[g][count] if g in split else count * layer[g])
            return seconds

        def overhead(counts: Sequence[int]) -> FloatArray:
            return own.of(sum(c for g, c in enumerate(counts) if g not in split))

        pace: FloatArray | float = 0.0
        for stage in kinds:
            seconds = boundary + overhead(stage.counts) + stage.first * first + stage.last * last
            pace = np.maximum(pace, add(seconds, stage.counts))
        whole = [group.count for group in groups]
        fixed = overhead(whole) + (pp - 1) * own.of(0)
        latency = add(first + last + (pp - 1) * boundary + fixed, whole)
        return np.asarray(pace), np.asarray(latency)


def _hidden(calls: Iterable[Call], halves: Iterable[Call]) -> Iterator[Call]:
    """Calls at what they take at least where half batches may overlap; `halves` those of one."""
    for call, half in zip(calls, halves, strict=True):
        least = np.minimum(call.time.seconds, 2.0 * half.time.seconds)
        if call.name in ("dispatch", "combine"):
            least = np.zeros_like(least)
        yield replace(call, time=replace(call.time, seconds=least))
