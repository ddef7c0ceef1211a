"""Memory-bound glue: norms, activations, rotary embedding, quantization."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from perfmodel.database.grid import RatioTable
from perfmodel.operators.base import (
    Kind,
    Number,
    OperatorModel,
    OperatorTime,
    Roofline,
    largest,
)
from perfmodel.operators.base import _bound as bound_of
from perfmodel.precision import ACTIVATION_BYTES

STREAMS = {"rms_norm": 2.0, "add": 3.0, "silu_mul": 3.0, "rope": 2.0}
"""Passes of [tokens, width] that each measured operation reads and writes together."""

Part = tuple[str, Number, Number]
"""A measured operation, its tokens and its width."""


class Elementwise(OperatorModel):
    """A pass over device memory: measured by operation where a table is, else analytic.

    Shape columns: `tokens` and `width` with the categories `operation` and `dtype`; or
    `moved_bytes` with no category, which is always analytic.
    """

    family: ClassVar[str] = "elementwise"
    axes: ClassVar[tuple[str, ...]] = ("tokens", "width")
    efficiency: ClassVar[Roofline] = Roofline(1.0, 0.8, 1.0)
    launch_s: ClassVar[float] = 2e-6
    # What the operator before has just written may still lie in the cache.
    floor_is_exact: ClassVar[bool] = False

    def roofline(self, categories: Mapping[str, str], shape: Mapping[str, Any]) -> Roofline:
        """Bytes over memory bandwidth."""
        if "moved_bytes" in shape:
            moved = shape["moved_bytes"]
        else:
            streams = STREAMS.get(categories["operation"], 2.0)
            moved = streams * shape["tokens"] * shape["width"] * ACTIVATION_BYTES
        return Roofline(bandwidth_s=moved / self.device.memory_bandwidth_bytes_per_s)

    def time(self, categories: Mapping[str, str], shape: Mapping[str, Number]) -> OperatorTime:
        """As the base class; a measured time may be shorter than the memory's roofline."""
        loaded = self._table(categories)
        if loaded is None:
            return super().time(categories, shape)
        arrays = {name: np.asarray(value, dtype=float) for name, value in shape.items()}
        full = np.broadcast_shapes(*(a.shape for a in arrays.values()))
        floors = self.roofline(categories, arrays)
        seconds, measured = self._interpolate(loaded[0], categories, arrays, full)
        floor = np.broadcast_to(largest(floors), full)
        known = measured & loaded[1] & self._as_measured(floor, arrays, categories)
        kind = np.where(known, Kind.MEASURED, Kind.EXTRAPOLATED).astype(np.uint8)
        floor = np.minimum(floor, seconds)
        return OperatorTime(seconds, kind, bound_of(floors, seconds, full), floor)

    def fused(self, moved_bytes: Number, parts: Sequence[Part] = ()) -> OperatorTime:
        """One pass of an engine's fused kernel, or the operations it consists of.

        Args:
            moved_bytes: by the fused kernel.
            parts: the operations; if every one is measured, their sum is the time, for an
                engine with such a table launches them one by one.
        """
        labels = [{"operation": operation, "dtype": "bf16"} for operation, _, _ in parts]
        if not parts or any(self._table(label) is None for label in labels):
            return self.time({}, {"moved_bytes": moved_bytes})
        times = [
            self.time(label, {"tokens": tokens, "width": width})
            for label, (_, tokens, width) in zip(labels, parts, strict=True)
        ]
        total = times[0]
        for time in times[1:]:
            total = OperatorTime(
                total.seconds + time.seconds,
                np.maximum(total.kind, time.kind),
                np.where(total.seconds >= time.seconds, total.bound, time.bound),
                total.floor_s + time.floor_s,
            )
        return total

    def _load(self, categories: Mapping[str, str]) -> tuple[RatioTable, bool] | None:
        return super()._load(categories) if "operation" in categories else None
