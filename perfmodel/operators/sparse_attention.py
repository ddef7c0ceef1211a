"""DeepSeek's sparse attention (V3.2, arXiv:2512.02556): a whole layer's block per device.

An indexer scores every cached token with a few small heads in fp8; attention then reads the
latents of the best `index_top_k`. The tables time the block as one: projections, inner norms,
rotary embedding, indexer, attention and output projection, without collectives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from perfmodel.operators.attention_block import Dimensions, LatentBlock, LatentDecodeBlock
from perfmodel.operators.base import Roofline, largest

if TYPE_CHECKING:
    import polars as pl

DIMENSIONS: dict[str, dict[str, float]] = {
    "deepseek-v3.2": {
        "hidden": 7168,
        "q_lora_rank": 1536,
        "kv_lora_rank": 512,
        "rope_dim": 64,
        "nope_dim": 128,
        "v_dim": 128,
        "index_heads": 64,
        "index_dim": 128,
        "index_top_k": 2048,
    },
    "glm-5": {
        "hidden": 6144,
        "q_lora_rank": 2048,
        "kv_lora_rank": 512,
        "rope_dim": 64,
        "nope_dim": 192,
        "v_dim": 256,
        "index_heads": 32,
        "index_dim": 128,
        "index_top_k": 2048,
    },
}
"""Widths and ranks of the models in the tables, which have no column for them."""

_GEMM_STAND_INS = ("fp8_block", "bf16", "nvfp4")


def nearest_model(dimensions: Mapping[str, float]) -> str:
    """The measured model whose widths and ranks are nearest, in octaves."""

    def distance(name: str) -> float:
        # A layer that reuses another's choice has no indexer to compare.
        return sum(
            abs(float(np.log2(dimensions[key] / value)))
            for key, value in DIMENSIONS[name].items()
            if dimensions[key]
        )

    return min(DIMENSIONS, key=distance)


@dataclass
class _SparseModule(LatentBlock):
    """Categories besides a block's: `variant` (`dsa`; `dsa_reuse`, without an indexer), `model`."""

    def measured(self, categories: Mapping[str, str]) -> Dimensions:
        """Those of the category's model."""
        return DIMENSIONS[categories["model"]]

    def stand_ins(self, categories: Mapping[str, str]) -> list[Mapping[str, str]]:
        """Another cache format, then other weights, then the other measured model."""
        own = dict(categories)
        gemms = dict.fromkeys((own["gemm_dtype"], *_GEMM_STAND_INS))
        caches = dict.fromkeys((own["kv_dtype"], "bf16", "fp8"))
        models = dict.fromkeys((own["model"], *DIMENSIONS))
        choices = [
            {**own, "model": model, "gemm_dtype": gemm, "kv_dtype": cache}
            for model in models
            for gemm in gemms
            for cache in caches
        ]
        return [choice for choice in choices if choice != own]

    def has_measured_widths(self, shape: Mapping[str, Any]) -> bool:
        """Whether they are those of either model."""
        return any(self.as_measured(shape, known) for known in DIMENSIONS.values())


class SparseContextModule(_SparseModule):
    """Prefill; lengths `tokens` (new) and `prefix_tokens`."""

    family: ClassVar[str] = "sparse_attention_context_module"
    axes: ClassVar[tuple[str, ...]] = ("batch", "tokens", "prefix_tokens")

    def roofline(self, categories: Mapping[str, str], shape: Mapping[str, Any]) -> Roofline:
        """Projections and causal attention to at most `index_top_k` tokens; weights moved once."""
        return self.least(categories, shape, shape["tokens"], shape["prefix_tokens"])[0]

    def work(self, categories: Mapping[str, str], shape: Mapping[str, Any]) -> Any:
        """With the operations of absorbed attention where tokens are chosen."""
        floor, beyond = self.least(categories, shape, shape["tokens"], shape["prefix_tokens"])
        top_k = shape.get("index_top_k", self.measured(categories)["index_top_k"])
        chosen = shape["tokens"] + shape["prefix_tokens"] > top_k
        compute = np.asarray(floor.compute_s) + np.where(chosen, beyond, 0.0)
        return largest(Roofline(compute, floor.bandwidth_s))

    def tabulated(self, shape: Mapping[str, Any]) -> Any:
        """With a measured model's widths."""
        return self.has_measured_widths(shape)

    def _select(self, frame: pl.DataFrame, categories: Mapping[str, str]) -> pl.DataFrame:
        """Tables have up to hundreds of prefixes, each in a few rows: octaves of them suffice."""
        rows = super()._select(frame, categories)
        prefix = rows["prefix_tokens"].to_numpy()
        octave = (prefix >= LEAST_PREFIX) & (prefix & (prefix - 1) == 0)
        return rows.filter(octave | (prefix == 0))


LEAST_PREFIX = 128
"""Shorter prefixes change no time in the tables."""


class SparseGenerationModule(LatentDecodeBlock, _SparseModule):
    """Decode; the indexer's keys are read whole."""

    family: ClassVar[str] = "sparse_attention_generation_module"
