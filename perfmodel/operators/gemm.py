"""Dense matrix products: `[m, k] x [k, n]`, weights of shape `[k, n]` streamed once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from perfmodel.operators.base import OperatorModel, Roofline
from perfmodel.precision import ACTIVATION_BYTES, FORMATS

# A format's efficiency stands in for another's in this order.
_STAND_INS = ("bf16", "fp8", "fp8_block", "nvfp4")


class Gemm(OperatorModel):
    """A projection; shape columns `m` (tokens), `n` (outputs), `k` (inputs)."""

    family: ClassVar[str] = "gemm"
    axes: ClassVar[tuple[str, ...]] = ("m", "n", "k")

    def roofline(self, categories: Mapping[str, str], shape: Mapping[str, Any]) -> Roofline:
        """2mnk operations; weights, inputs and outputs each moved once."""
        return gemm_roofline(self.device, categories["dtype"], shape["m"], shape["n"], shape["k"])

    def stand_ins(self, categories: Mapping[str, str]) -> list[Mapping[str, str]]:
        """The same device's other formats: their share of the roofline carries over."""
        return [{"dtype": name} for name in _STAND_INS if name != categories["dtype"]]


def gemm_roofline(device: Any, dtype: str, m: Any, n: Any, k: Any) -> Roofline:
    """Roofline of one product on `device` with weights stored as `dtype`."""
    weights = FORMATS[dtype]
    # A format that the device cannot multiply natively is expanded to bf16 on the way in.
    rate = device.peak_flops_per_s.get(weights.peak, device.peak_flops_per_s["bf16"])
    moved = n * k * weights.bytes + (m * k + m * n) * ACTIVATION_BYTES
    return Roofline(2.0 * m * n * k / rate, moved / device.memory_bandwidth_bytes_per_s)
