"""Memory-bound glue: norms, activations, rotary embedding, quantization."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from perfmodel.operators.base import OperatorModel, Roofline


class Elementwise(OperatorModel):
    """A pass over `moved_bytes` of device memory; analytic until a table is measured."""

    family: ClassVar[str] = "elementwise"
    axes: ClassVar[tuple[str, ...]] = ("moved_bytes",)
    efficiency: ClassVar[Roofline] = Roofline(1.0, 0.8, 1.0)
    launch_s: ClassVar[float] = 2e-6

    def roofline(self, categories: Mapping[str, str], shape: Mapping[str, Any]) -> Roofline:
        """Bytes over memory bandwidth."""
        moved = shape["moved_bytes"]
        return Roofline(bandwidth_s=moved / self.device.memory_bandwidth_bytes_per_s)
