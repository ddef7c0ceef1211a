"""Step times of one replica under one load, tabulated once for a request-level simulation.

A simulation asks for hundreds of thousands of steps; they lie on a smooth surface over a
few numbers. The surface is kept by kind of operator, so that corrections can be tried
without evaluating an operator again.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perfmodel.correction import Correction, operator_kind
from perfmodel.layout import Layouts
from perfmodel.modules import BOUNDARY, EMBEDDING, HEAD, LAYER
from perfmodel.step import StepModel
from perfmodel.work import StepWork

FloatArray = NDArray[np.float64]

BATCHES, FILLS = 12, 14
"""Batch sizes, and prompt tokens of a step, tabulated from one to the largest."""

POOLED = ("routed", "communication")
"""Kinds of operators that work on the tokens of all attention ranks together."""


class Surface:
    """Bilinear interpolation over two coordinates; held at its edges.

    Args:
        x, y: ascending coordinates.
        values: (X, Y).
    """

    def __init__(self, x: FloatArray, y: FloatArray, values: FloatArray) -> None:
        self._axes = x.tolist(), y.tolist()
        self._values = values.tolist()
        self._known: dict[tuple[int, int], float] = {}

    def __call__(self, x: float, y: float) -> float:
        """The value at (x, y), both rounded to whole numbers."""
        key = (int(x), int(y))
        if key not in self._known:
            self._known[key] = self._at(*key)
        return self._known[key]

    def _at(self, x: float, y: float) -> float:
        (i, u), (j, w) = (_cell(axis, v) for axis, v in zip(self._axes, (x, y), strict=True))
        values = self._values
        i2, j2 = min(i + 1, len(values) - 1), min(j + 1, len(values[0]) - 1)
        low = (1 - w) * values[i][j] + w * values[i][j2]
        high = (1 - w) * values[i2][j] + w * values[i2][j2]
        return float((1 - u) * low + u * high)


def _cell(axis: list[float], value: float) -> tuple[int, float]:
    if len(axis) == 1:
        return 0, 0.0
    i = min(max(bisect_right(axis, value) - 1, 0), len(axis) - 2)
    return i, min(max((value - axis[i]) / (axis[i + 1] - axis[i]), 0.0), 1.0)


@dataclass(frozen=True)
class Parts:
    """Time of columns of work by kind of operator, (C,) each, in seconds, without corrections."""

    work: StepWork
    by_kind: dict[str, FloatArray]
    layers: int

    @classmethod
    def of(cls, step: StepModel, layout: Layouts, work: StepWork) -> Parts:
        """The slowest stage is taken to be the mean one: all layers, once through.

        Args:
            layout: a single one.
        """
        kinds: dict[str, FloatArray] = {}
        boundaries = int(layout.pp[0]) - 1
        for call in step.measured_calls(layout, work):
            layers = step.model.groups[call.group].count
            count = {LAYER: layers, EMBEDDING: 1, HEAD: 1, BOUNDARY: boundaries}[call.part]
            kind = operator_kind(call.name, call.module)
            row = count * np.broadcast_to(call.time.seconds[call.index[0]], (len(work),))
            kinds[kind] = kinds.get(kind, np.zeros(len(work))) + row
        return cls(work, kinds, step.model.layers)

    def seconds(self, correction: Correction) -> FloatArray:
        """Step times in service, (C,)."""
        return self.local_s(correction) + self.pooled_s(correction)

    def local_s(self, correction: Correction) -> FloatArray:
        """What one attention rank does by itself, and the engine, (C,)."""
        total = self._operators_s(correction, [k for k in self.by_kind if k not in POOLED])
        total += self.layers * correction.layer_overhead_s(self.work)
        return total + correction.step_overhead_s(self.work)

    def pooled_s(self, correction: Correction) -> FloatArray:
        """What all attention ranks do together (see `POOLED`), (C,)."""
        return self._operators_s(correction, [k for k in self.by_kind if k in POOLED])

    def _operators_s(self, correction: Correction, kinds: list[str]) -> FloatArray:
        total = np.zeros(len(self.work))
        for kind in kinds:
            total += correction.operator_factor(kind) * self.by_kind[kind]
        total *= correction.token_factor(self.work)
        return total


class MixedSurface:
    """Steps with prompts, where the ranks of a replica may have different numbers of tokens.

    Args:
        local, pooled: seconds over (sequences per rank beside, prompt tokens per rank).
    """

    def __init__(self, local: Surface, pooled: Surface) -> None:
        self._local, self._pooled = local, pooled

    def __call__(self, beside: float, fullest: float, mean: float) -> float:
        """Seconds, by the prompt tokens of the fullest rank and of the mean one."""
        return self._local(beside, fullest) + self._pooled(beside, mean)


@dataclass(frozen=True)
class StepTable:
    """Steps of one replica: decodes alone, and decodes with prompt tokens.

    Attributes:
        batches: sequences per attention rank, (B,); `mixed` has 0 before them.
        contexts: cache lengths, (X,).
        fill: prompt tokens per attention rank, (P,).
        decode: (B * X,) columns; None if this replica never decodes.
        mixed: ((B + 1) * P,) columns, or (P,) if it never decodes; None if it never prefills.
        ranks: attention data-parallel ranks.
        stages: of the pipeline; sequences are those of one micro-batch.
        drafts: tokens that speculation drafts per step.
    """

    batches: FloatArray
    contexts: FloatArray
    fill: FloatArray
    decode: Parts | None
    mixed: Parts | None
    ranks: int
    drafts: int = 0
    stages: int = 1

    @classmethod
    def of(
        cls,
        step: StepModel,
        layout: Layouts,
        *,
        sequences: int,
        isl: float,
        osl: float,
        step_tokens: float,
        prefills: bool = True,
        decodes: bool = True,
        drafts: int = 0,
    ) -> StepTable:
        """Tabulate up to `sequences` in flight on the replica, prompts of `isl` tokens.

        Args:
            step_tokens: prompt tokens of a step per attention rank, at most.
        """
        ranks, stages = int(layout.dp_a[0]), int(layout.pp[0])
        most = max(-(-sequences // (ranks * stages)), 1)
        batches = np.unique(np.round(np.geomspace(1, most, BATCHES)))
        contexts = np.unique([isl, isl + osl / 2, isl + osl])
        fill = np.unique(np.round([*np.geomspace(1, step_tokens, FILLS), min(isl, step_tokens)]))
        decode = mixed = None
        if decodes:
            b, x = (v.ravel() for v in np.meshgrid(batches, contexts, indexing="ij"))
            work = StepWork.of(decode_sequences=b, context_tokens=x, decode_tokens=drafts + 1)
            decode = Parts.of(step, layout, work)
        if prefills:
            beside = np.concatenate([[0.0], batches]) if decodes else np.zeros(1)
            b, p = (v.ravel() for v in np.meshgrid(beside, fill, indexing="ij"))
            tokens = np.minimum(p, isl)
            work = StepWork.of(
                decode_sequences=b,
                context_tokens=isl + osl / 2,
                prefill_sequences=p / tokens,
                prefill_tokens=tokens,
                prefix_tokens=(isl - tokens) / 2,
                decode_tokens=drafts + 1,
            )
            mixed = Parts.of(step, layout, work)
        return cls(batches, contexts, fill, decode, mixed, ranks, drafts, stages)

    def decode_surface(self, correction: Correction) -> Surface:
        """Step seconds over (sequences per rank, context tokens)."""
        assert self.decode is not None
        seconds = self.decode.seconds(correction)
        return Surface(self.batches, self.contexts, seconds.reshape(len(self.batches), -1))

    def mixed_surface(self, correction: Correction) -> MixedSurface:
        """Step seconds over (sequences per rank beside, prompt tokens per rank)."""
        assert self.mixed is not None
        beside = np.zeros(1) if self.decode is None else np.concatenate([[0.0], self.batches])

        def surface(seconds: FloatArray) -> Surface:
            return Surface(beside, self.fill, seconds.reshape(len(beside), -1))

        mixed = self.mixed
        return MixedSurface(surface(mixed.local_s(correction)), surface(mixed.pooled_s(correction)))
