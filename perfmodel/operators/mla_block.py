"""Latent attention's whole block, for engines whose tables time it so.

vLLM's do in any layout, SGLang's for ranks whose tokens are dispatched to experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from perfmodel.operators.attention_block import Dimensions, LatentBlock, LatentDecodeBlock
from perfmodel.operators.base import Roofline, largest
from perfmodel.precision import FORMATS

if TYPE_CHECKING:
    import polars as pl

DEEPSEEK: Dimensions = {
    "hidden": 7168,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "rope_dim": 64,
    "nope_dim": 128,
    "v_dim": 128,
    "index_heads": 0,
    "index_dim": 0,
    "index_top_k": 0,
}
"""The tables are of DeepSeek-V3, whose widths Kimi K2 has too."""

_GEMM_STAND_INS = ("fp8_block", "bf16")


class _MlaModule(LatentBlock):
    def measured(self, categories: Mapping[str, str]) -> Dimensions:
        """DeepSeek-V3's."""
        return DEEPSEEK

    def has_measured_widths(self, shape: Mapping[str, Any]) -> bool:
        """Whether they are DeepSeek-V3's."""
        return self.as_measured(shape, DEEPSEEK)

    @property
    def has_table(self) -> bool:
        """Whether this engine's blocks were measured on this device."""
        return self.store.table(self.device.tables, self.engine, self.family) is not None

    def stand_ins(self, categories: Mapping[str, str]) -> list[Mapping[str, str]]:
        """Another cache format, then other weights."""
        own = dict(categories)
        choices = [
            {**own, "gemm_dtype": gemm, "kv_dtype": cache}
            for gemm in dict.fromkeys((own["gemm_dtype"], *_GEMM_STAND_INS))
            for cache in dict.fromkeys((own["kv_dtype"], "bf16", "fp8"))
        ]
        return [choice for choice in choices if choice != own]


class MlaContextModule(_MlaModule):
    """Prefill with expanded keys and values; lengths `tokens` (new) and `prefix_tokens`."""

    family: ClassVar[str] = "mla_context_module"
    axes: ClassVar[tuple[str, ...]] = ("batch", "tokens")
    beside: ClassVar[tuple[str, ...]] = ("prefix_tokens",)

    def roofline(self, categories: Mapping[str, str], shape: Mapping[str, Any]) -> Roofline:
        """Projections and causal attention; weights and cache moved once."""
        return self.least(categories, shape, shape["tokens"], shape["prefix_tokens"])[0]

    def work(self, categories: Mapping[str, str], shape: Mapping[str, Any]) -> Any:
        """A cached prefix is expanded again."""
        d = {**DEEPSEEK, **shape}
        floor = self.roofline(categories, shape)
        peaks = self.device.peak_flops_per_s
        rate = peaks.get(FORMATS[categories["gemm_dtype"]].peak, peaks["bf16"])
        expansion = d["kv_lora_rank"] * shape["heads"] * (d["nope_dim"] + d["v_dim"])
        again = 2.0 * shape["batch"] * shape["prefix_tokens"] * expansion / rate
        return largest(Roofline(np.asarray(floor.compute_s) + again, floor.bandwidth_s))

    def tabulated(self, shape: Mapping[str, Any]) -> Any:
        """With DeepSeek-V3's widths and no prefix."""
        return (np.asarray(shape["prefix_tokens"]) <= 0) & self.has_measured_widths(shape)


class MlaGenerationModule(LatentDecodeBlock, _MlaModule):
    """Decode on the latent."""

    family: ClassVar[str] = "mla_generation_module"


class _WideMla(_MlaModule):
    """As SGLang runs it beside dispatched experts: without the down projections before it."""

    projects_down: ClassVar[bool] = False

    def _select(self, frame: pl.DataFrame, categories: Mapping[str, str]) -> pl.DataFrame:
        """The tables' `dtype` repeats that of the weights."""
        return super()._select(frame, {n: v for n, v in categories.items() if n != "dtype"})


class WideMlaContext(_WideMla, MlaContextModule):
    """Prefill."""

    family: ClassVar[str] = "wideep_mla_context"


class WideMlaGeneration(_WideMla, MlaGenerationModule):
    """Decode."""

    family: ClassVar[str] = "wideep_mla_generation"
