"""How each operator time of a model's steps is known, and why not better.

The estimator's own step model is run while its operators are watched, so that what is said
here is what an estimate does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from perfmodel.layout import Layouts
from perfmodel.modules import BOUNDARY, LAYER, Call
from perfmodel.operators import Kind, OperatorModel, Operators, OperatorTime
from perfmodel.operators.base import Number
from perfmodel.step import StepModel
from perfmodel.work import StepWork

FloatArray = NDArray[np.float64]
Reasons = NDArray[np.object_]

PREFILL_TOKENS = tuple(2**i for i in range(7, 16))
DECODE_BATCHES = tuple(2**i for i in range(10))
DECODE_CONTEXTS = tuple(4**i for i in range(4, 9))
"""The grid of steps looked at; lengths stop at the model's longest context."""

SAME = 1e-6
"""Coordinates nearer than this, in octaves, are the same."""

NO_LINK_TABLE = "no table of this link: alpha-beta"
ENGINE_OVERHEAD = "engine overhead"


@dataclass(frozen=True)
class Lookup:
    """What an operator model was asked for during a step's columns of work, and its answer.

    Attributes:
        operator: name of the call that asked.
        shape: by column, (C,).
        kind: `Kind` of each, (C,).
    """

    operator: str
    family: str
    categories: Mapping[str, str]
    shape: Mapping[str, FloatArray]
    kind: NDArray[np.uint8]


@dataclass(frozen=True)
class OperatorProvenance:
    """How one operator of a step is known over a grid of work.

    Attributes:
        time_share: its share of the steps' time, mean over the grid.
        kinds: share of the grid by `measured`, `extrapolated`, `analytic`.
        reasons: share of the grid by why it isn't measured, largest first.
    """

    name: str
    module: str
    time_share: float
    kinds: Mapping[str, float]
    reasons: Mapping[str, float]


@dataclass(frozen=True)
class PhaseProvenance:
    """How the steps of one phase are known.

    Attributes:
        points: steps in the grid.
        kinds: share of the steps' time by kind, mean over the grid.
        operators: in the order of the step, the engine's overhead last.
        lookups: every question asked of an operator's table.
    """

    phase: str
    points: int
    kinds: Mapping[str, float]
    operators: tuple[OperatorProvenance, ...]
    lookups: tuple[Lookup, ...]


def prefill_grid(longest: int) -> StepWork:
    """One prompt per attention rank, of several lengths."""
    lengths = [t for t in PREFILL_TOKENS if t <= longest] or [longest]
    return StepWork.of(prefill_sequences=1.0, prefill_tokens=lengths)


def decode_grid(longest: int) -> StepWork:
    """Batches per attention rank, by cache lengths."""
    contexts = [c for c in DECODE_CONTEXTS if c <= longest] or [longest]
    batch, context = np.meshgrid(DECODE_BATCHES, contexts, indexing="ij")
    return StepWork.of(decode_sequences=batch.ravel(), context_tokens=context.ravel())


def model_provenance(
    step: StepModel, operators: Operators, layout: Layouts
) -> tuple[PhaseProvenance, ...]:
    """How prefill and decode steps of one layout are known.

    Args:
        step: the estimator's model of a step.
        operators: those that it was made with.
        layout: a single one.
    """
    longest = step.model.max_context_tokens
    return (
        phase_provenance("prefill", step, operators, layout, prefill_grid(longest)),
        phase_provenance("decode", step, operators, layout, decode_grid(longest)),
    )


def phase_provenance(
    phase: str, step: StepModel, operators: Operators, layout: Layouts, work: StepWork
) -> PhaseProvenance:
    """How steps of the given work are known; arguments as `model_provenance`."""
    tallies: dict[str, _Tally] = {}
    lookups: list[Lookup] = []
    # Calls of a step may share an operator's time; what is known of it goes by the time.
    known: dict[int, tuple[OperatorTime, Reasons]] = {}
    pp = int(layout.pp[0])
    with _watched(operators) as asked:
        for call in step.measured_calls(layout, work):
            if id(call.time) not in known:
                known[id(call.time)] = (call.time, _reasons(call, asked, len(work)))
            present = np.broadcast_to(call.time.seconds[call.index[0]], (len(work),)) > 0
            lookups += [question.lookup(call.name, present) for question in asked]
            asked.clear()
            tally = tallies.setdefault(call.name, _Tally(call.module, len(work)))
            served = step.in_service(call, work)
            tally.add(served, _runs(call, step, pp), known[id(call.time)][1])
    overhead = _Tally("engine", len(work))
    overhead.seconds[Kind.ANALYTIC] = step.overhead_s(step.model.layers, work)
    overhead.seconds[Kind.ANALYTIC] += (pp - 1) * step.overhead_s(0, work)
    overhead.cells[Kind.ANALYTIC] = 1.0
    overhead.reasons["assumed, or fitted to deployments"] = 1.0
    tallies[ENGINE_OVERHEAD] = overhead
    whole = np.sum([tally.total for tally in tallies.values()], axis=0)
    by_kind = np.sum([tally.seconds for tally in tallies.values()], axis=0)
    return PhaseProvenance(
        phase,
        len(work),
        {kind.name.lower(): float((by_kind[kind] / whole).mean()) for kind in Kind},
        tuple(tally.result(name, whole) for name, tally in tallies.items() if tally.total.any()),
        tuple(found for found in lookups if len(found.kind)),
    )


def _runs(call: Call, step: StepModel, pp: int) -> int:
    """How often a token meets the call on its way through the pipeline."""
    if call.part == LAYER:
        return step.model.groups[call.group].count
    return pp - 1 if call.part == BOUNDARY else 1


@dataclass
class _Tally:
    """One operator, added up over the parts of the model that run it."""

    module: str
    columns: int
    seconds: FloatArray = field(init=False)
    cells: FloatArray = field(init=False)
    reasons: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.seconds = np.zeros((len(Kind), self.columns))
        self.cells = np.zeros(len(Kind))

    @property
    def total(self) -> FloatArray:
        total: FloatArray = self.seconds.sum(axis=0)
        return total

    def add(self, call: Call, count: int, reasons: Reasons) -> None:
        shape = (self.columns,)
        row = call.index[0]
        seconds = count * np.broadcast_to(call.time.seconds[row], shape)
        kinds = np.broadcast_to(call.time.kind[row], shape)
        for kind in Kind:
            here = (kinds == kind) & (seconds > 0)
            self.seconds[kind] += np.where(here, seconds, 0.0)
            self.cells[kind] += count * here.sum()
            for reason in reasons[here] if kind != Kind.MEASURED else ():
                self.reasons[reason] = self.reasons.get(reason, 0.0) + count

    def result(self, name: str, whole: FloatArray) -> OperatorProvenance:
        cells = self.cells.sum()
        ordered = sorted(self.reasons.items(), key=lambda item: -item[1])
        return OperatorProvenance(
            name,
            self.module,
            float((self.total / whole).mean()),
            {kind.name.lower(): float(self.cells[kind] / cells) for kind in Kind},
            {reason: float(count / cells) for reason, count in ordered},
        )


@dataclass(frozen=True)
class _Question:
    """One call of an operator model's `time`, flattened to the columns of work."""

    model: OperatorModel
    categories: Mapping[str, str]
    shape: Mapping[str, FloatArray]
    kind: NDArray[np.uint8]

    def lookup(self, operator: str, present: NDArray[np.bool_]) -> Lookup:
        shape = {n: np.broadcast_to(v, present.shape)[present] for n, v in self.shape.items()}
        kind = np.broadcast_to(self.kind, present.shape)[present]
        return Lookup(operator, self.model.family, self.categories, shape, kind)


@contextmanager
def _watched(operators: Operators) -> Iterator[list[_Question]]:
    """Collect what the operator models are asked, until the end of the block."""
    asked: list[_Question] = []
    collectives = vars(operators.collectives).values()
    watched = [m for m in (*vars(operators).values(), *collectives) if isinstance(m, OperatorModel)]

    def watch(model: OperatorModel) -> None:
        ask = model.time

        def time(categories: Mapping[str, str], shape: Mapping[str, Number]) -> OperatorTime:
            answer = ask(categories, shape)
            flat = {name: np.ravel(np.asarray(v, dtype=float)) for name, v in shape.items()}
            asked.append(_Question(model, categories, flat, answer.kind.reshape(-1)))
            return answer

        # On the instance, in front of the class's: other models of the class are left alone.
        vars(model)["time"] = time

    for model in watched:
        watch(model)
    try:
        yield asked
    finally:
        for model in watched:
            vars(model).pop("time", None)


def _reasons(call: Call, asked: Sequence[_Question], columns: int) -> Reasons:
    """Why each column's time isn't measured; where it is, what stands there has no meaning."""
    kinds = np.broadcast_to(call.time.kind[call.index[0]], (columns,))
    reasons = np.full(columns, NO_LINK_TABLE, dtype=object)
    for question in reversed(asked):
        # Of several kernels behind one call, those that are known as badly as the call.
        alike = np.broadcast_to(question.kind, (columns,)) == kinds
        reasons = np.where(alike, _why(question, columns), reasons)
    return reasons


def _why(question: _Question, columns: int) -> Reasons:
    model, categories = question.model, question.categories
    loaded = model._table(categories)
    reasons = np.full(columns, "", dtype=object)
    if loaded is None:
        reasons[:] = f"no {model.family} table"
        if model.has_table:
            reasons[:] = f"no {model.family} rows of {_spelled(categories)}"
        return reasons
    table, own = loaded
    if not own:
        reasons[:] = _stand_in(model, categories)
        return reasons
    shape = {name: np.broadcast_to(v, (columns,)) for name, v in question.shape.items()}
    reasons[:] = "outside this slice's measured points"
    axes = model.coordinates(shape)
    for name, axis in zip(model.axes, table.axes, strict=True):
        x = np.log2(np.maximum(np.asarray(axes[name], dtype=float), 0.5))
        reasons[x > axis[-1] + SAME] = f"beyond the largest {name}, {2 ** axis[-1]:,.0f}"
        reasons[x < axis[0] - SAME] = f"below the smallest {name}, {2 ** axis[0]:,.0f}"
    if model.slices:
        keys = np.stack([np.broadcast_to(shape[name], (columns,)) for name in model.slices], axis=1)
        logs = np.log2(np.where(keys > 0, keys, 0.5))
        near = np.abs(logs[:, None, :] - table.keys[None, :, :]).max(axis=2).min(axis=1)
        for i in np.flatnonzero(near > SAME):
            missing = " ".join(f"{n}={keys[i, j]:g}" for j, n in enumerate(model.slices))
            reasons[i] = f"nearest slices: none of {missing}"
    return reasons


def _stand_in(model: OperatorModel, categories: Mapping[str, str]) -> str:
    """Whose rows stand in."""
    found = model.source(categories)
    assert found is not None, "the operator model found rows"
    engine, choice, _ = found
    other = {n: v for n, v in choice.items() if v != categories.get(n)}
    parts = [f"{engine}'s table"] if engine != model.table_engine else []
    if other:
        wanted = {name: categories[name] for name in other}
        parts.append(f"{_spelled(other)} stands in for {_spelled(wanted)}")
    return ", ".join(parts)


def _spelled(categories: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in categories.items())
