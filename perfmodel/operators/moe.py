"""Routed experts: the grouped products of one device's shard of an expert layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from perfmodel.operators.base import OperatorModel, Roofline
from perfmodel.precision import ACTIVATION_BYTES, FORMATS

_STAND_INS = ("fp8_block", "fp8", "bf16", "nvfp4", "mxfp4")


class RoutedExperts(OperatorModel):
    """Up, gate and down products of the experts on the slowest device of an expert group.

    Shape columns: `tokens` (entering the whole group, before routing), `hidden`,
    `intermediate` (one expert's width), `top_k`, `experts`, and the degrees `tp`, `ep`.
    Categories: `dtype`; `routing`, the measured distribution of tokens over experts; and
    `activation`, `gated` (three products) or `plain` (two).
    """

    family: ClassVar[str] = "moe"
    axes: ClassVar[tuple[str, ...]] = ("tokens",)
    slices: ClassVar[Mapping[str, float]] = {
        "hidden": 8.0,
        "intermediate": 8.0,
        "top_k": 8.0,
        "experts": 8.0,
        "tp": 1.0,
        "ep": 1.0,
    }
    # Products are as full, and as much padded, as each expert has tokens.
    similar: ClassVar[Mapping[str, Mapping[str, float]]] = {
        "top_k": {"tokens": 1.0},
        "experts": {"tokens": -1.0},
    }
    efficiency: ClassVar[Roofline] = Roofline(0.5, 0.7, 1.0)
    launch_s: ClassVar[float] = 1e-5
    floor_is_exact: ClassVar[bool] = False

    def roofline(self, categories: Mapping[str, str], shape: Mapping[str, Any]) -> Roofline:
        """Balanced routing: each device takes 1/ep of the token-expert pairs.

        The weights moved are those of the experts that at least one token reaches,
        `experts * (1 - (1 - top_k/experts)^tokens)` in expectation, and on the slowest device
        at least its share of one token's, in whole experts.
        """
        weights = FORMATS[categories["dtype"]]
        rate = self.device.peak_flops_per_s.get(weights.peak, self.device.peak_flops_per_s["bf16"])
        products = 3.0 if categories["activation"] == "gated" else 2.0
        expert = products * shape["hidden"] * shape["intermediate"] / shape["tp"]
        pairs = shape["tokens"] * shape["top_k"] / shape["ep"]
        touched = touched_experts(shape["tokens"], shape["top_k"], shape["experts"])
        reached = np.maximum(touched / shape["ep"], np.ceil(shape["top_k"] / shape["ep"]))
        moved = reached * expert * weights.bytes
        moved = moved + 2.0 * pairs * shape["hidden"] * ACTIVATION_BYTES
        return Roofline(
            2.0 * pairs * expert / rate, moved / self.device.memory_bandwidth_bytes_per_s
        )

    def stand_ins(self, categories: Mapping[str, str]) -> list[Mapping[str, str]]:
        """The same format under another routing, then other formats."""
        routings = ("power_law_1.01", "power_law_1.2", "balanced")
        own = categories["dtype"]
        # mxfp4 is measured with bf16 activations under its own name, mxfp4_mxfp8 with mxfp8 ones.
        near = ("mxfp4",) if own == "mxfp4_weight_only" else ()
        formats = dict.fromkeys((own, *near, *_STAND_INS))
        choices = [{**categories, "dtype": f, "routing": r} for f in formats for r in routings]
        return [c for c in choices if c != dict(categories)]


def touched_experts(tokens: Any, top_k: Any, experts: Any) -> Any:
    """Expected number of experts that at least one of `tokens` reaches, balanced routing."""
    return experts * -np.expm1(tokens * np.log1p(-np.minimum(top_k / experts, 1 - 1e-12)))
