"""Routed experts of a wide group, on tokens that have been brought to their devices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from perfmodel.engine import PYTORCH
from perfmodel.expert_load import ExpertLoad
from perfmodel.operators.base import FloatArray, OperatorTime, Roofline
from perfmodel.operators.groups import Filled, LargestGroupHeld, up_to
from perfmodel.operators.moe import (
    BALANCED,
    RoutedExperts,
    nearest_routings,
    touched_experts,
)

if TYPE_CHECKING:
    import polars as pl

TILE = 128
"""Rows to which a grouped product pads each expert's tokens (DeepGEMM's contiguous layout)."""

_FORMATS = ("fp8_block", "fp8", "nvfp4", "bf16")

_NEAREST = {
    # DeepEP's layouts are SGLang's and vLLM's; of vLLM's experts on them there is no table.
    "vllm": ("vllm", "sglang", "trtllm"),
    "sglang": ("sglang", "trtllm"),
    "trtllm": ("trtllm", "sglang"),
}


class DispatchedExperts(LargestGroupHeld, RoutedExperts):
    """Up, gate and down products on the busiest device of a group that tokens travel in.

    Unlike `RoutedExperts` a device sees only the tokens of its own experts. Shape columns:
    `tokens` (entering the whole group), `hidden`, `intermediate`, `top_k`, `experts`, `ep`,
    and `slots`, the copies of experts in the whole group. Categories: `phase`, `context` (tokens
    in one row after another) or `generation` (padded per expert, in a captured graph);
    `dtype`; `routing`.
    """

    family: ClassVar[str] = "moe_dispatched"
    slices: ClassVar[Mapping[str, float]] = {
        "hidden": 8.0,
        "intermediate": 8.0,
        "top_k": 8.0,
        "experts": 8.0,
        "slots": 4.0,
        "ep": 1.0,
    }
    # As many tokens for each expert, whatever the group: `similar` is that of `RoutedExperts`.
    sizes: ClassVar[tuple[str, ...]] = ("ep",)

    def roofline(self, categories: Mapping[str, str], shape: Mapping[str, Any]) -> Roofline:
        """As `RoutedExperts`, of slots."""
        slots = touched_experts(shape["tokens"], shape["top_k"], shape["slots"])
        return self.of_rank(categories, shape, 1.0, slots / shape["ep"])

    def of_rank(
        self, categories: Mapping[str, str], shape: Mapping[str, Any], pairs: Any, reached: Any
    ) -> Roofline:
        """As `RoutedExperts`; an expert is gated, or `intermediate` stands for it."""
        gated = {**categories, "activation": "gated"}
        return super().of_rank(gated, {**shape, "tp": 1.0}, pairs, reached)

    def base_table(
        self, load: ExpertLoad, categories: Mapping[str, str], experts: int, top_k: int
    ) -> str:
        """The even one, which every table has or has the like of."""
        return BALANCED

    def analytic(self, floors: Roofline, shape: Mapping[str, Any]) -> FloatArray:
        """With each expert's tokens padded to a tile, loads taken as even."""
        pairs = np.asarray(shape["tokens"] * shape["top_k"] / shape["slots"], dtype=float)
        reached = -np.expm1(-pairs)
        padded = np.ceil(pairs / np.maximum(reached, 1e-9) / TILE) * TILE * reached
        tiled = Roofline(np.asarray(floors.compute_s) * padded / pairs, floors.bandwidth_s)
        return super().analytic(tiled, shape)

    def stand_ins(self, categories: Mapping[str, str]) -> list[Mapping[str, str]]:
        """The same format under the nearest other routing, then other formats."""
        own = categories["dtype"]
        routings = nearest_routings(categories["routing"])
        formats = dict.fromkeys((own, *_FORMATS))
        choices = [{**categories, "dtype": f, "routing": r} for f in formats for r in routings]
        return [c for c in choices if c != dict(categories)]

    @property
    def table_engines(self) -> tuple[str, ...]:
        """The engine's own table, then that of the nearest kernels."""
        if self.engine == PYTORCH.name:
            return (self.engine,)
        return _NEAREST.get(self.engine, (self.engine,))

    def _select(self, frame: pl.DataFrame, categories: Mapping[str, str]) -> pl.DataFrame:
        """A kernel for both phases serves either."""
        import polars as pl

        rest = {name: value for name, value in categories.items() if name != "phase"}
        phase = pl.col("phase").is_in([categories["phase"], "any"])
        return super()._select(frame.filter(phase), rest)

    def _relatives(
        self, frame: pl.DataFrame, categories: Mapping[str, str]
    ) -> list[dict[str, str]]:
        """Of the same phase: the other's kernel is another."""
        import polars as pl

        rest = {name: value for name, value in categories.items() if name != "phase"}
        alike = frame.filter(pl.col("phase").is_in([categories["phase"], "any"]))
        found = super()._relatives(alike, rest)
        return [{**other, "phase": categories["phase"]} for other in found]

    def serve(
        self,
        dtype: str,
        routing: ExpertLoad | str,
        shape: Mapping[str, FloatArray],
        prompts: NDArray[np.bool_],
        few_tokens: FloatArray,
    ) -> OperatorTime:
        """Times in steps with prompts and of decodes alone.

        Args:
            routing: a measured distribution of tokens, or a stated one.
            shape: columns of (U, 1), but for `tokens`, (U, C).
            prompts: whether a step has prompts in it, (C,).
            few_tokens: tokens of one device up to which decodes come by the low-latency
                kernels, which pad them per expert, (U, 1); more are laid out as prompts are.
        """
        most = few_tokens * shape["ep"]
        tokens = np.broadcast_to(shape["tokens"], (len(most), len(prompts)))

        def timed(phase: str, count: FloatArray) -> OperatorTime:
            labels, asked = {"phase": phase, "dtype": dtype}, {**shape, "tokens": count}
            if isinstance(routing, ExpertLoad):
                return self.under_load(routing, labels, asked)
            return self.time({**labels, "routing": routing}, asked)

        whole, rows = Filled(tokens.shape), np.arange(len(most))
        for phase, chosen in (("context", prompts), ("generation", ~prompts)):
            at = np.flatnonzero(chosen)
            if not len(at):
                continue
            count = tokens[:, at]
            if phase == "context":
                whole.put(rows, at, timed(phase, count))
                continue
            time, within = timed(phase, np.minimum(count, most)), count <= most
            if not within.all():
                time = up_to(within, time, timed("context", count))
            whole.put(rows, at, time)
        return whole.time()


class SpreadExperts(RoutedExperts):
    """`RoutedExperts` of a wide group on devices of which no dispatched ones were measured.

    TensorRT-LLM's kernels take hardly longer for tokens that are not their own (GB200, EP32,
    128 tokens per device: 131 us; 130 dispatched), where others' sort all of the group's.
    """

    @property
    def table_engines(self) -> tuple[str, ...]:
        """TensorRT-LLM's first."""
        own = super().table_engines
        return own if self.engine == PYTORCH.name else tuple(dict.fromkeys(("trtllm", *own)))
