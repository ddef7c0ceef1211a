"""Rows of a stored table that cannot well be true: rooflines beaten, times that fall."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from perfmodel.database.schema import Family
from perfmodel.database.store import PerfStore
from perfmodel.hardware import Device
from perfmodel.operators.attention import ContextAttention, GenerationAttention
from perfmodel.operators.base import OperatorModel, largest
from perfmodel.operators.collective import AllReduce, NcclCollective
from perfmodel.operators.elementwise import Elementwise
from perfmodel.operators.gemm import Gemm
from perfmodel.operators.mla import MlaAbsorb, MlaContext, MlaGeneration
from perfmodel.operators.moe import RoutedExperts

FloatArray = NDArray[np.float64]

MODELS: Mapping[str, type[OperatorModel]] = {
    model.family: model
    for model in (
        Gemm,
        ContextAttention,
        GenerationAttention,
        MlaContext,
        MlaGeneration,
        MlaAbsorb,
        RoutedExperts,
        AllReduce,
        NcclCollective,
        Elementwise,
    )
}
"""The operator model that reads each family; other families are stored, not yet used."""

TOKEN_AXES = ("m", "tokens", "context_tokens", "message_bytes")
"""The axis of a family along which a call has more to do: the first of these that it has."""

FLOOR_MARGIN = 1.1
"""A row may beat its roofline by so much: clocks are boosted, and some operands lie in cache."""

UNEVEN = 2.0
"""A call with more to do may be so much faster than its neighbour: kernels change with size."""


@dataclass(frozen=True)
class Finding:
    """Rows that cannot well be true.

    Attributes:
        count: how many.
        worst: by what factor the worst is off; 0 if there is none.
        row: its shape.
    """

    count: int = 0
    worst: float = 0.0
    row: str = ""


@dataclass(frozen=True)
class Physics:
    """One table held against physics.

    Attributes:
        too_fast: rows more than `FLOOR_MARGIN` faster than their roofline; None if the
            device or the operator's roofline isn't known, or is an expectation only.
        uneven: rows that take more than `UNEVEN` times as long as the next larger one along
            the token axis.
    """

    too_fast: Finding | None
    uneven: Finding

    @property
    def warnings(self) -> list[str]:
        """A line on each kind of finding."""
        found = []
        for finding, what in (
            (self.too_fast, "faster than the roofline"),
            (self.uneven, "slower than the next larger call"),
        ):
            if finding is not None and finding.count:
                found.append(
                    f"{finding.count:,} {what}, worst {finding.worst:.2g} times ({finding.row})"
                )
        return found


def physics(frame: pl.DataFrame, family: Family, device: Device | None, engine: str) -> Physics:
    """Check a table's rows.

    Args:
        frame: rows that satisfy the family's schema.
        family: theirs.
        device: the machine they were measured on; None if its figures are not known.
        engine: whose table it is.
    """
    fast = None if device is None else _too_fast(frame, family, device, engine)
    return Physics(fast, _uneven(frame, family))


def _too_fast(frame: pl.DataFrame, family: Family, device: Device, engine: str) -> Finding | None:
    kind = MODELS.get(family.name)
    if kind is None or not kind.floor_is_exact:
        return None
    model = kind(device, engine, PerfStore(shipped=False))
    texts = [column.name for column in family.key if column.kind == "text"]
    total = Finding()
    for rows in frame.partition_by(texts) if texts else [frame]:
        categories = {name: str(rows[name][0]) for name in texts}
        numbers = [name for name in family.key_names if name not in texts]
        shape = {name: rows[name].to_numpy().astype(float) for name in numbers}
        try:
            floor = largest(model.roofline(categories, shape))
        except KeyError:  # a number format that isn't ours: its width is unknown
            continue
        excess = np.broadcast_to(floor, (rows.height,)) / rows["time_s"].to_numpy()
        total = _merged(total, rows, family, excess, FLOOR_MARGIN)
    return total


def _uneven(frame: pl.DataFrame, family: Family) -> Finding:
    axis = next((name for name in TOKEN_AXES if name in family.key_names), None)
    if axis is None or frame.is_empty():
        return Finding()
    others = [name for name in family.key_names if name != axis]
    rows = frame.sort([*others, axis])
    following = pl.col("time_s").shift(-1)
    same = pl.struct(others) == pl.struct(others).shift(-1) if others else pl.lit(value=True)
    drop = rows.select(
        pl.when(same).then(pl.col("time_s") / following).otherwise(0.0).fill_null(0.0)
    ).to_series()
    return _merged(Finding(), rows, family, drop.to_numpy(), UNEVEN)


def _merged(
    so_far: Finding, rows: pl.DataFrame, family: Family, factor: FloatArray, limit: float
) -> Finding:
    """Findings with those among the rows whose factor is above the limit."""
    count = int((factor > limit).sum())
    if not count:
        return so_far
    at = int(factor.argmax())
    worst = float(factor[at])
    row = " ".join(f"{name}={rows[name][at]}" for name in family.key_names)
    if worst <= so_far.worst:
        worst, row = so_far.worst, so_far.row
    return Finding(so_far.count + count, worst, row)
