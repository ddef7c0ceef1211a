"""How much of a model's steps the measured tables cover, operator by operator.

The steps are those of two grids: decode over batch and context, prefill over prompt length.
Each operator call of a step says how its time is known, as in any estimate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from perfmodel.architecture import ModelArchitecture
from perfmodel.engine import EngineProfile
from perfmodel.errors import InputError
from perfmodel.hardware import Device
from perfmodel.layout import Layouts, format_layout
from perfmodel.modules import BOUNDARY
from perfmodel.operators import Kind, OperatorModel, Operators, OperatorTime
from perfmodel.precision import Precision
from perfmodel.step import StepModel
from perfmodel.work import StepWork

DECODE_BATCHES = tuple(2**i for i in range(9))
"""Sequences of one attention rank: 1 to 256."""

DECODE_CONTEXTS = tuple(512 * 2**i for i in range(7))
"""512 to 32,768 tokens."""

PREFILL_TOKENS = tuple(128 * 2**i for i in range(8))
"""Of one prompt: 128 to 16,384."""

KINDS = tuple(kind.name.lower() for kind in Kind)
"""How a time is known: measured, extrapolated, analytic."""


@dataclass(frozen=True)
class OperatorCoverage:
    """How one operator's time is known over a phase's grid.

    Attributes:
        phase: decode or prefill.
        points: grid points at which the operator runs, over all layer groups that have it.
        shares: of the points, by kind; they add up to one.
    """

    phase: str
    name: str
    module: str
    points: int
    shares: Mapping[str, float]


@dataclass(frozen=True)
class ShapePoint:
    """One shape that a model's grid asks a family for.

    Attributes:
        categories: number formats and the like.
        shape: columns of the family, by name.
        kind: how the time is known.
    """

    family: str
    categories: Mapping[str, str]
    shape: Mapping[str, float]
    kind: str


@dataclass(frozen=True)
class ModelCoverage:
    """A model's grids on one device.

    Attributes:
        operators: in the order of the step, decode first.
        points: distinct shapes asked of gemm and the attention families.
        engines: by family, the engine whose table is looked up first.
    """

    layout: str
    precision: str
    operators: tuple[OperatorCoverage, ...]
    points: tuple[ShapePoint, ...]
    engines: Mapping[str, str]


WATCHED = (
    "gemm",
    "context",
    "generation",
    "mla_context",
    "mla_generation",
    "mla_context_block",
    "mla_generation_block",
    "wide_mla_context",
    "wide_mla_generation",
    "sparse_context",
    "sparse_generation",
    "delta_scan",
    "mamba_scan",
)
"""Operators whose shapes are listed."""


class _Watched:
    """An operator model that notes which shapes it is asked for."""

    def __init__(self, model: OperatorModel, points: dict[ShapeKey, ShapePoint]) -> None:
        self.model, self.points = model, points

    def time(self, categories: Mapping[str, str], shape: Mapping[str, Any]) -> OperatorTime:
        """As the model's own."""
        time = self.model.time(categories, shape)
        names = list(shape)
        columns = [
            np.broadcast_to(np.asarray(shape[n], dtype=float), time.kind.shape) for n in names
        ]
        rows = np.stack([column.ravel() for column in columns], axis=1)
        for row, kind in zip(rows.tolist(), time.kind.ravel().tolist(), strict=True):
            key = (self.model.family, tuple(sorted(categories.items())), tuple(row))
            if key not in self.points:
                spelled = dict(zip(names, row, strict=True))
                known = Kind(kind).name.lower()
                self.points[key] = ShapePoint(self.model.family, dict(categories), spelled, known)
        return time

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


ShapeKey = tuple[str, tuple[tuple[str, str], ...], tuple[float, ...]]


def model_coverage(
    model: ModelArchitecture,
    device: Device,
    engine: EngineProfile,
    precision: Precision,
    operators: Operators,
    layouts: Layouts,
) -> ModelCoverage:
    """How the times of one layout's steps are known over both grids.

    Args:
        operators: the device's; not shared, as it is watched from now on.
        layouts: one.

    Raises:
        InputError: the layout splits what the model cannot split; or a table is malformed.
    """
    _check_layout(model, layouts)
    points: dict[ShapeKey, ShapePoint] = {}
    engines: dict[str, str] = {}
    for name in WATCHED:
        original: OperatorModel = getattr(operators, name)
        engines[original.family] = original.table_engine
        setattr(operators, name, cast(OperatorModel, _Watched(original, points)))
    step = StepModel(model, device, engine, precision, operators)
    found = [
        one for phase, work in grids().items() for one in _operators(step, layouts, phase, work)
    ]
    return ModelCoverage(
        format_layout(layouts), str(precision), tuple(found), tuple(points.values()), engines
    )


def grids() -> dict[str, StepWork]:
    """Columns of work by phase."""
    batch, context = np.meshgrid(DECODE_BATCHES, DECODE_CONTEXTS, indexing="ij")
    return {
        "decode": StepWork.of(decode_sequences=batch.ravel(), context_tokens=context.ravel()),
        "prefill": StepWork.of(prefill_sequences=1.0, prefill_tokens=np.array(PREFILL_TOKENS)),
    }


def _operators(
    step: StepModel, layouts: Layouts, phase: str, work: StepWork
) -> list[OperatorCoverage]:
    """One entry per operator; calls of several layer groups are counted together."""
    counts: dict[tuple[str, str], list[int]] = {}
    for call in step.calls(layouts, work):
        if call.part == BOUNDARY and int(layouts.pp[0]) == 1:
            continue
        row = call.index[0]
        shape = call.time.seconds.shape
        # Where it takes no time there is nothing to do: nothing to know either.
        runs = call.time.seconds[row] > 0
        kinds = np.broadcast_to(call.time.kind, shape)[row][runs]
        if len(kinds):
            count = counts.setdefault((call.name, call.module), [0] * len(KINDS))
            for kind in Kind:
                count[kind] += int((kinds == kind).sum())
    found = []
    for (name, module), count in counts.items():
        points = sum(count)
        shares = {kind: n / points for kind, n in zip(KINDS, count, strict=True)}
        found.append(OperatorCoverage(phase, name, module, points, shares))
    return found


def _check_layout(model: ModelArchitecture, layouts: Layouts) -> None:
    spelled = format_layout(layouts)
    tp, ep, pp = (int(getattr(layouts, name)[0]) for name in ("tp_a", "ep_f", "pp"))
    if pp > model.layers:
        raise InputError(f"layout {spelled!r}: {model.name} has {model.layers} layers")
    for group in model.groups:
        if not group.attention.splits_over(np.array(tp)):
            raise InputError(
                f"layout {spelled!r}: {group.attention.heads} heads are not divisible by TP{tp}"
            )
    if model.is_recurrent and int(layouts.cp_a[0]) > 1:
        raise InputError(f"layout {spelled!r}: recurrent layers take a sequence whole, not over CP")
    experts = [g.feed_forward.experts for g in model.groups if g.feed_forward.is_moe]
    if ep > 1 and not experts:
        raise InputError(f"layout {spelled!r}: {model.name} has no experts to spread over EP{ep}")
    for count in experts:
        if count % ep:
            raise InputError(f"layout {spelled!r}: {count} experts are not divisible by EP{ep}")
