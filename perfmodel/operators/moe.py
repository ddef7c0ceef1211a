"""Routed experts: the grouped products of one device's shard of an expert layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from perfmodel.expert_load import TABLES, ExpertLoad, busiest_device, nearest_table
from perfmodel.operators.base import (
    FloatArray,
    Kind,
    OperatorModel,
    OperatorTime,
    Roofline,
    largest,
)
from perfmodel.power_law import POWER_LAW, reached_experts
from perfmodel.precision import ACTIVATION_BYTES, FORMATS

BALANCED = "balanced"
EPLB = "_eplb"
"""Ends the name of a routing whose busy experts were placed so that devices' loads are even."""

_POWER_LAWS = ("power_law_1.01", "power_law_1.02", "power_law_1.2", "power_law_0.8")

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

    def roofline(self, categories: Mapping[str, str], shape: Mapping[str, Any]) -> Roofline:
        """Each device takes 1/ep of the token-expert pairs; the busiest, no less.

        The weights moved are those of the experts that at least one token reaches, as many as
        are expected under the routing, and on the slowest device at least its share of one
        token's, in whole experts.
        """
        routing = categories["routing"]
        if not routing.startswith(POWER_LAW):
            return self._independent(categories, shape)
        exponent = float(routing.removeprefix(POWER_LAW).removesuffix(EPLB))
        reached = reached_experts(exponent, shape["tokens"], shape["top_k"], shape["experts"])
        return self.of_rank(categories, shape, 1.0, reached / shape["ep"])

    def work(self, categories: Mapping[str, str], shape: Mapping[str, Any]) -> FloatArray:
        """The roofline of independent routing: unlike a power law's, smooth in the tokens."""
        return largest(self._independent(categories, shape))

    def _independent(self, categories: Mapping[str, str], shape: Mapping[str, Any]) -> Roofline:
        reached = touched_experts(shape["tokens"], shape["top_k"], shape["experts"])
        return self.of_rank(categories, shape, 1.0, reached / shape["ep"])

    def of_rank(
        self, categories: Mapping[str, str], shape: Mapping[str, Any], pairs: Any, reached: Any
    ) -> Roofline:
        """Least time of one device of the group.

        Args:
            pairs: its token-expert pairs over the mean device's.
            reached: its experts that at least one token reaches.
        """
        weights = FORMATS[categories["dtype"]]
        rate = self.device.peak_flops_per_s.get(weights.peak, self.device.peak_flops_per_s["bf16"])
        products = 3.0 if categories["activation"] == "gated" else 2.0
        expert = products * shape["hidden"] * shape["intermediate"] / shape["tp"]
        pairs = pairs * shape["tokens"] * shape["top_k"] / shape["ep"]
        reached = np.maximum(reached, np.ceil(shape["top_k"] / shape["ep"]))
        moved = reached * expert * weights.bytes
        moved = moved + 2.0 * pairs * shape["hidden"] * ACTIVATION_BYTES
        return Roofline(
            2.0 * pairs * expert / rate, moved / self.device.memory_bandwidth_bytes_per_s
        )

    def stand_ins(self, categories: Mapping[str, str]) -> list[Mapping[str, str]]:
        """The same format under the nearest other routing, then other formats, likewise."""
        routings = nearest_routings(categories["routing"])
        own = categories["dtype"]
        # mxfp4 is measured with bf16 activations under its own name, mxfp4_mxfp8 with mxfp8 ones.
        near = ("mxfp4",) if own == "mxfp4_weight_only" else ()
        formats = dict.fromkeys((own, *near, *_STAND_INS))
        choices = [{**categories, "dtype": f, "routing": r} for f in formats for r in routings]
        return [c for c in choices if c != dict(categories)]

    def base_table(
        self, load: ExpertLoad, categories: Mapping[str, str], experts: int, top_k: int
    ) -> str:
        """The routing of the table that is scaled to a stated load."""
        tables = [t for t in TABLES if t in self.labels("routing", categories)]
        return nearest_table(load, experts, top_k, tables) if tables else BALANCED

    def under_load(
        self, load: ExpertLoad, categories: Mapping[str, str], shape: Mapping[str, Any]
    ) -> OperatorTime:
        """Time under a stated load: that of the table whose load is nearest, scaled.

        The scale is the ratio of the busiest devices' rooflines, under this load and under the
        table's own distribution: pairs where products bind, experts reached where weights do.
        What is scaled counts as extrapolated.

        Args:
            categories: without `routing`.
            shape: of one layer shape: `experts` and `top_k` are the same throughout.
        """
        experts, top_k = (int(np.max(shape[name])) for name in ("experts", "top_k"))
        base = self.base_table(load, categories, experts, top_k)
        chosen = {**categories, "routing": base}
        time = self.time(chosen, shape)
        arrays = {name: np.asarray(value, dtype=float) for name, value in shape.items()}

        def busiest_s(which: ExpertLoad | str) -> FloatArray:
            device = busiest_device(which, experts, top_k, arrays["ep"], arrays["tokens"])
            return largest(self.of_rank(chosen, arrays, *device))

        busiest, table = busiest_s(load), busiest_s(base)
        scale = np.broadcast_to(busiest / table, time.seconds.shape)
        floor = np.broadcast_to(busiest, time.seconds.shape)
        known = np.maximum(time.kind, Kind.EXTRAPOLATED).astype(np.uint8)
        return OperatorTime(
            np.maximum(time.seconds * scale, floor),
            np.where(np.abs(scale - 1.0) < 1e-9, time.kind, known),
            time.bound,
            floor,
        )


def touched_experts(tokens: Any, top_k: Any, experts: Any) -> Any:
    """Expected number of experts that at least one of `tokens` reaches, each routed independently.

    `experts * (1 - (1 - top_k/experts)^tokens)`; dealing experts out in turn reaches no fewer.
    """
    return experts * -np.expm1(tokens * np.log1p(-np.minimum(top_k / experts, 1 - 1e-12)))


def nearest_routings(routing: str) -> tuple[str, ...]:
    """Routings by likeness: even loads are like balanced ones."""
    even = (BALANCED, "power_law_1.01" + EPLB, "power_law_1.2" + EPLB)
    is_even = routing == BALANCED or routing.endswith(EPLB)
    order = (*even, "power_law_0.6", *_POWER_LAWS) if is_even else (*_POWER_LAWS, *even)
    return tuple(dict.fromkeys((routing, *order)))
