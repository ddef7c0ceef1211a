"""Whole blocks of latent attention, timed as one: the part that dense and sparse ones share.

A block is projections, inner norms, rotary embedding, an indexer if it has one, attention and
output projection of the heads on a device, without collectives.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from perfmodel.operators.attention import causal_area
from perfmodel.operators.base import OperatorModel, Roofline, largest
from perfmodel.precision import ACTIVATION_BYTES, FORMATS

INDEX_SCALE_BYTES = 4.0
"""Beside each cached fp8 key of an indexer."""

Dimensions = Mapping[str, float]
"""Widths and ranks of a block: hidden, q_lora_rank, kv_lora_rank, rope_dim, nope_dim, v_dim,
index_heads, index_dim, index_top_k (0: no choice is made)."""


@dataclass
class LatentBlock(OperatorModel):
    """Shape columns: `heads` on the device, `batch`, the phase's lengths and, where a model may
    not be the measured one, its `Dimensions`.

    Categories: `gemm_dtype` of the projections' weights, `dtype` of queries, `kv_dtype`, and
    what subclasses add.

    Class attributes:
        projects_down: the projections to the latents of queries and keys are part of it.
    """

    slices: ClassVar[Mapping[str, float]] = {"heads": 1.0}
    relatives: ClassVar[int] = 0
    projects_down: ClassVar[bool] = True
    efficiency: ClassVar[Roofline] = Roofline(0.4, 0.6, 1.0)

    @abstractmethod
    def measured(self, categories: Mapping[str, str]) -> Dimensions:
        """The dimensions of the model in the table."""

    @abstractmethod
    def has_measured_widths(self, shape: Mapping[str, Any]) -> bool:
        """Whether the shape's dimensions are those of a model in some table."""

    def as_measured(self, shape: Mapping[str, Any], known: Dimensions) -> bool:
        """Whether the shape's dimensions, but for those that are 0, are the known ones."""
        given = {name: np.asarray(v) for name, v in shape.items() if name in known}
        return all(bool(np.all((v == known[name]) | (v == 0))) for name, v in given.items())

    def least(
        self, categories: Mapping[str, str], shape: Mapping[str, Any], tokens: Any, prefix: Any
    ) -> tuple[Roofline, Any]:
        """Roofline, and the time of what absorbed attention computes beyond it.

        The floor counts the products of expanded keys and values; kernels that work on the
        latent itself have over three times the operations.
        """
        d = {**self.measured(categories), **shape}
        heads, top_k = shape["heads"], d["index_top_k"]
        new = shape["batch"] * tokens
        context = tokens + prefix
        latent = d["kv_lora_rank"] + d["rope_dim"]
        query = heads * (d["nope_dim"] + d["rope_dim"])
        down = d["q_lora_rank"] + latent if self.projects_down else 0.0
        elements = d["hidden"] * (down + heads * d["v_dim"])
        elements = elements + d["q_lora_rank"] * query
        elements = elements + d["kv_lora_rank"] * heads * (d["nope_dim"] + d["v_dim"])
        own_index = categories.get("variant") == "dsa"
        if own_index:
            elements = elements + d["index_dim"] * (
                d["q_lora_rank"] * d["index_heads"] + d["hidden"]
            )
        peaks = self.device.peak_flops_per_s
        weights = FORMATS[categories["gemm_dtype"]]
        compute = 2.0 * new * elements / peaks.get(weights.peak, peaks["bf16"])
        pairs = shape["batch"] * causal_area(tokens, prefix, top_k)
        widths = d["nope_dim"] + d["rope_dim"] + d["v_dim"]
        compute = compute + 2.0 * pairs * heads * widths / peaks["bf16"]
        reached = np.where(top_k > 0, np.minimum(context, tokens * top_k), context)
        read = reached * latent * FORMATS[categories["kv_dtype"]].bytes
        if own_index:
            # Up to top_k tokens there is nothing to choose.
            needed = np.where(context > top_k, 1.0, 0.0)
            scored = shape["batch"] * causal_area(tokens, prefix) * needed
            rate = peaks.get("fp8", peaks["bf16"])
            compute = compute + 2.0 * scored * d["index_heads"] * d["index_dim"] / rate
            read = read + needed * context * (d["index_dim"] + INDEX_SCALE_BYTES)
        moved = elements * weights.bytes + shape["batch"] * read
        moved = moved + 2.0 * new * d["hidden"] * ACTIVATION_BYTES
        absorbed = 2.0 * d["kv_lora_rank"] + d["rope_dim"] - widths
        beyond = 2.0 * pairs * heads * np.maximum(absorbed, 0.0) / peaks["bf16"]
        floor = Roofline(compute, moved / self.device.memory_bandwidth_bytes_per_s)
        return floor, beyond


class LatentDecodeBlock(LatentBlock):
    """Decode; lengths `context_tokens` and `query_tokens` (verified together; tables: one)."""

    axes: ClassVar[tuple[str, ...]] = ("batch", "context_tokens")

    def roofline(self, categories: Mapping[str, str], shape: Mapping[str, Any]) -> Roofline:
        """Weights and the latents that are attended to read once."""
        return self._parts(categories, shape)[0]

    def work(self, categories: Mapping[str, str], shape: Mapping[str, Any]) -> Any:
        """With the operations of absorbed attention."""
        floor, beyond = self._parts(categories, shape)
        return largest(Roofline(np.asarray(floor.compute_s) + beyond, floor.bandwidth_s))

    def _parts(
        self, categories: Mapping[str, str], shape: Mapping[str, Any]
    ) -> tuple[Roofline, Any]:
        queries = np.asarray(shape.get("query_tokens", 1.0))
        before = np.maximum(shape["context_tokens"] - queries, 0.0)
        return self.least(categories, shape, queries, before)

    def tabulated(self, shape: Mapping[str, Any]) -> Any:
        """With one query token and a measured model's widths."""
        alone = np.asarray(shape.get("query_tokens", 1.0)) <= 1.0
        return alone & self.has_measured_widths(shape)
