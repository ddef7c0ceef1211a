"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434): its kernels per device.

Prefill expands the latent into per-head keys and values; decode absorbs the
expansion into two batched products around attention over the latent itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from perfmodel.operators.attention import causal_area
from perfmodel.operators.base import OperatorModel, Roofline
from perfmodel.precision import ACTIVATION_BYTES, FORMATS

# The measured tables are of DeepSeek-V3's dimensions; a model with others is scaled by roofline.
LATENT, ROPE, NOPE, VALUE = 512, 64, 128, 128


@dataclass
class _Mla(OperatorModel):
    def stand_ins(self, categories: Mapping[str, str]) -> list[Mapping[str, str]]:
        bf16 = dict.fromkeys(categories, "bf16")
        return [bf16] if bf16 != dict(categories) else []

    def _rate(self, dtype: str) -> float:
        peaks = self.device.peak_flops_per_s
        return peaks.get(FORMATS[dtype].peak, peaks["bf16"])


class MlaContext(_Mla):
    """Prefill attention with expanded keys and values; columns `heads`, `batch`, `tokens`."""

    family: ClassVar[str] = "mla_context"
    axes: ClassVar[tuple[str, ...]] = ("batch", "tokens")
    slices: ClassVar[Mapping[str, float]] = {"heads": 1.0}
    # A block of work is a head of a sequence.
    similar: ClassVar[Mapping[str, Mapping[str, float]]] = {"heads": {"batch": 1.0}}
    efficiency: ClassVar[Roofline] = Roofline(0.5, 0.7, 1.0)

    def roofline(self, categories: Mapping[str, str], shape: Mapping[str, Any]) -> Roofline:
        """Keys of 192, values of 128 dimensions per head; all moved once."""
        area = causal_area(shape["tokens"], shape.get("prefix_tokens", 0.0))
        scale = shape["batch"] * shape["heads"]
        operations = 2.0 * scale * area * (NOPE + ROPE + VALUE)
        moved = scale * shape["tokens"] * 2.0 * (NOPE + ROPE + VALUE) * ACTIVATION_BYTES
        return Roofline(
            operations / self._rate(categories["dtype"]),
            moved / self.device.memory_bandwidth_bytes_per_s,
        )


class MlaGeneration(_Mla):
    """Decode attention over the latent cache; columns `heads`, `batch`, `context_tokens`.

    `query_tokens` of each sequence are verified together; no table has more than one.
    """

    family: ClassVar[str] = "mla_generation"
    axes: ClassVar[tuple[str, ...]] = ("batch", "context_tokens")
    slices: ClassVar[Mapping[str, float]] = {"heads": 1.0}
    efficiency: ClassVar[Roofline] = Roofline(0.5, 0.6, 1.0)

    def roofline(self, categories: Mapping[str, str], shape: Mapping[str, Any]) -> Roofline:
        """Each head scores 576 and sums 512 dimensions; the latent cache is read once."""
        tokens = shape["batch"] * shape["context_tokens"]
        queries = shape["heads"] * shape.get("query_tokens", 1.0)
        operations = 2.0 * tokens * queries * (LATENT + ROPE + LATENT)
        moved = tokens * (LATENT + ROPE) * FORMATS[categories["kv_dtype"]].bytes
        return Roofline(
            operations / self._rate("bf16"), moved / self.device.memory_bandwidth_bytes_per_s
        )

    def tabulated(self, shape: Mapping[str, Any]) -> Any:
        """With one query token."""
        return np.asarray(shape.get("query_tokens", 1.0)) <= 1.0


class MlaAbsorb(_Mla):
    """The batched products that absorb the expansion; columns `heads`, `tokens`.

    Category `stage`: `pre` maps queries into the latent, `post` maps the result out of it.
    """

    family: ClassVar[str] = "mla_bmm"
    axes: ClassVar[tuple[str, ...]] = ("heads", "tokens")

    def roofline(self, categories: Mapping[str, str], shape: Mapping[str, Any]) -> Roofline:
        """One `[tokens, 128] x [128, 512]` product per head."""
        weights = FORMATS[categories["dtype"]]
        inner = float(NOPE if categories["stage"] == "pre" else VALUE) * LATENT
        side = (NOPE + LATENT) * ACTIVATION_BYTES
        moved = shape["heads"] * (inner * weights.bytes + shape["tokens"] * side)
        return Roofline(
            2.0 * shape["heads"] * shape["tokens"] * inner / self._rate(categories["dtype"]),
            moved / self.device.memory_bandwidth_bytes_per_s,
        )

    def stand_ins(self, categories: Mapping[str, str]) -> list[Mapping[str, str]]:
        """The bf16 product of the same stage."""
        bf16 = {"dtype": "bf16", "stage": categories["stage"]}
        return [bf16] if bf16 != dict(categories) else []
