"""What the modules of a layer share: operator calls, unique shapes, token counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.architecture import LayerGroup, ModelArchitecture
from perfmodel.expert_load import ExpertLoad
from perfmodel.layout import Layouts
from perfmodel.operators import Operators, OperatorTime
from perfmodel.operators.elementwise import Part
from perfmodel.precision import ACTIVATION_BYTES, FORMATS, Precision
from perfmodel.work import StepWork

FloatArray = NDArray[np.float64]

LAYER, EMBEDDING, HEAD, BOUNDARY = "layer", "embedding", "lm_head", "boundary"

POOLING = ("pooled_ranks", "pooled_groups", "decode_copies")
"""What the number of tokens in an FFN group depends on."""


@dataclass(frozen=True)
class Call:
    """One operator call of a step.

    Attributes:
        name: what it computes, e.g. `qkv_proj`.
        module: attention, ffn, or communication.
        part: `LAYER` (once per layer of `group`), `EMBEDDING`, `HEAD`, or `BOUNDARY`
            (between two pipeline stages).
        time: over (U, C) unique shapes.
        index: (L,) which unique shape each layout has.
    """

    name: str
    module: str
    part: str
    group: int
    time: OperatorTime
    index: NDArray[np.intp]


class Shapes:
    """The distinct combinations of some degrees among the layouts, as (U, 1) columns."""

    def __init__(self, layouts: Layouts, *names: str) -> None:
        columns = {name: np.asarray(getattr(layouts, name), dtype=np.int64) for name in names}
        packed = np.zeros(len(layouts), dtype=np.int64)
        for column in columns.values():
            packed = packed * 4096 + column
        _, first, index = np.unique(packed, return_index=True, return_inverse=True)
        self.index: NDArray[np.intp] = index.reshape(-1)
        self._rows = {
            name: column[first].astype(float)[:, None] for name, column in columns.items()
        }

    def __getitem__(self, name: str) -> FloatArray:
        return self._rows[name]


@dataclass(frozen=True)
class ModuleKit:
    """What every module needs to name its operator calls.

    Attributes:
        routing: the distribution of tokens over experts: a measured one's name, or a stated one.
        shards_sequence: the engine may split tokens between tensor-parallel modules.
    """

    model: ModelArchitecture
    precision: Precision
    ops: Operators
    routing: str | ExpertLoad
    shards_sequence: bool = False

    def peak(self, module: str) -> str:
        """The device peak at which a module's products run."""
        return FORMATS[self.precision.by_module()[module]].peak

    def gemm(self, module: str, m: FloatArray, n: object, k: object) -> OperatorTime:
        """A projection of a module, its weights in the module's format."""
        shape = {"m": m, "n": np.asarray(n, dtype=float), "k": np.asarray(k, dtype=float)}
        return self.ops.gemm.time({"dtype": self.precision.by_module()[module]}, shape)

    def memory_pass(self, moved_bytes: FloatArray, *parts: Part) -> OperatorTime:
        """An elementwise kernel that moves so many bytes, or the operations it consists of."""
        return self.ops.elementwise.fused(moved_bytes, parts)

    def norm(self, tokens: FloatArray) -> OperatorTime:
        """Residual add and norm in one pass: two streams read, two written."""
        hidden = self.model.hidden
        moved = tokens * hidden * 4 * ACTIVATION_BYTES
        return self.memory_pass(moved, ("add", tokens, hidden), ("rms_norm", tokens, hidden))


def rank_tokens(work: StepWork, cp: FloatArray) -> FloatArray:
    """Tokens on one attention rank: a prompt is split over context parallelism, decodes are not."""
    tokens: FloatArray = np.maximum(
        work.decoded + work.prefill_sequences * work.prefill_tokens / cp, 1.0
    )
    return tokens


def group_tokens(work: StepWork, shapes: Shapes) -> FloatArray:
    """Tokens entering one FFN shard group: those of all attention ranks, over its replicas.

    `shapes` of `POOLING`.
    """
    decoded = work.decoded * shapes["decode_copies"]
    new = decoded + work.prefill_sequences * work.prefill_tokens
    tokens: FloatArray = np.maximum(new * shapes["pooled_ranks"] / shapes["pooled_groups"], 1.0)
    return tokens


def where_present(present: NDArray[np.bool_], time: OperatorTime) -> OperatorTime:
    """Zero the columns of work in which the operator has nothing to do."""
    return replace(
        time,
        seconds=np.where(present, time.seconds, 0.0),
        floor_s=np.where(present, time.floor_s, 0.0),
    )


Module = Callable[[ModuleKit, int, LayerGroup, Layouts, StepWork], Iterator[Call]]
"""The calls that one module of a layer makes."""


def by_layout(
    kit: ModuleKit,
    g: int,
    group: LayerGroup,
    layouts: Layouts,
    work: StepWork,
    parts: Iterable[tuple[NDArray[np.bool_], Module]],
) -> Iterator[Call]:
    """A module that differs between layouts: each part serves those of its mask, (L,)."""
    for chosen, module in parts:
        rows = np.flatnonzero(chosen)
        if len(rows):
            part = layouts[rows] if len(rows) < len(layouts) else layouts
            for call in module(kit, g, group, part, work):
                yield spread(call, rows, len(layouts))


def spread(call: Call, rows: NDArray[np.intp], count: int) -> Call:
    """Extend a call over some of the layouts to all, the others taking no time."""
    if len(rows) == count:
        return call
    time = call.time
    empty = np.zeros((1, time.seconds.shape[1]))

    def padded(values: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate(
            [np.broadcast_to(values, time.seconds.shape), empty.astype(values.dtype)]
        )

    index = np.full(count, len(time.seconds), dtype=np.intp)
    index[rows] = call.index
    return replace(
        call,
        index=index,
        time=OperatorTime(
            padded(time.seconds), padded(time.kind), padded(time.bound), padded(time.floor_s)
        ),
    )
