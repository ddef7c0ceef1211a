"""Attention kernels of grouped-query models: prefill (context) and decode (generation)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from perfmodel.operators.base import OperatorModel, Roofline
from perfmodel.precision import ACTIVATION_BYTES, FORMATS


def causal_area(tokens: Any, prefix_tokens: Any = 0.0, window_tokens: Any = 0.0) -> Any:
    """Query-key pairs of one sequence: `tokens` new queries after `prefix_tokens` cached ones.

    Query i sees itself and all before it, or with a window w > 0 only the last w.
    """
    full = tokens * prefix_tokens + tokens * (tokens + 1.0) / 2.0
    w = np.asarray(window_tokens, dtype=float)
    # Queries whose history is still shorter than the window see all of it.
    short = np.clip(w - prefix_tokens, 0.0, tokens)
    windowed = short * prefix_tokens + short * (short + 1.0) / 2.0 + (tokens - short) * w
    return np.where(w > 0, np.minimum(windowed, full), full)


class ContextAttention(OperatorModel):
    """Attention of new tokens over themselves and a cached prefix, per device.

    Shape columns: `q_heads`, `kv_heads`, `head_dim`, `window_tokens` (0: full), `batch`
    (sequences), `tokens` (new tokens of each), `prefix_tokens`.
    """

    family: ClassVar[str] = "attention_context"
    axes: ClassVar[tuple[str, ...]] = ("batch", "tokens")
    slices: ClassVar[Mapping[str, float]] = {
        "head_dim": 4.0,
        "window_tokens": 2.0,
        "q_heads": 1.0,
        "kv_heads": 0.5,
    }
    # A block of work is a query head of a sequence.
    similar: ClassVar[Mapping[str, Mapping[str, float]]] = {"q_heads": {"batch": 1.0}}
    efficiency: ClassVar[Roofline] = Roofline(0.5, 0.7, 1.0)

    def roofline(self, categories: Mapping[str, str], shape: Mapping[str, Any]) -> Roofline:
        """Two products per query-key pair and head dimension; q, k, v and output moved once."""
        prefix = shape.get("prefix_tokens", 0.0)
        area = causal_area(shape["tokens"], prefix, shape["window_tokens"])
        operations = 4.0 * shape["batch"] * shape["q_heads"] * shape["head_dim"] * area
        rate = self.device.peak_flops_per_s.get(
            FORMATS[categories["dtype"]].peak, self.device.peak_flops_per_s["bf16"]
        )
        queries = 2.0 * shape["q_heads"] * shape["tokens"] * ACTIVATION_BYTES
        seen = shape["tokens"] + prefix
        keys = 2.0 * shape["kv_heads"] * seen * FORMATS[categories["kv_dtype"]].bytes
        moved = shape["batch"] * shape["head_dim"] * (queries + keys)
        return Roofline(operations / rate, moved / self.device.memory_bandwidth_bytes_per_s)

    def coordinates(self, shape: Mapping[str, Any]) -> Mapping[str, Any]:
        """A chunk after a prefix is as efficient as the prompt with as many query-key pairs."""
        prefix = shape.get("prefix_tokens", 0.0)
        pairs = causal_area(shape["tokens"], prefix)
        return {**shape, "tokens": np.sqrt(2.0 * pairs + 0.25) - 0.5}

    def stand_ins(self, categories: Mapping[str, str]) -> list[Mapping[str, str]]:
        """bf16 kernels stand in for fp8 ones that were not measured."""
        return _bf16_stand_ins(categories)


class GenerationAttention(OperatorModel):
    """Attention of one new token per sequence over its KV cache, per device.

    Shape columns: `q_heads`, `kv_heads`, `head_dim`, `window_tokens`, `batch`,
    `context_tokens` (cache length attended), `query_tokens` (of each sequence, verified
    together; no table has more than one).
    """

    family: ClassVar[str] = "attention_generation"
    axes: ClassVar[tuple[str, ...]] = ("batch", "context_tokens")
    slices: ClassVar[Mapping[str, float]] = ContextAttention.slices
    # A block of work is a key-value head of a sequence: its queries share what is read.
    similar: ClassVar[Mapping[str, Mapping[str, float]]] = {"kv_heads": {"batch": 1.0}}
    efficiency: ClassVar[Roofline] = Roofline(0.5, 0.75, 1.0)

    def roofline(self, categories: Mapping[str, str], shape: Mapping[str, Any]) -> Roofline:
        """The cache inside the window is read once; two products per cached token."""
        w = np.asarray(shape["window_tokens"], dtype=float)
        context = np.where(w > 0, np.minimum(shape["context_tokens"], w), shape["context_tokens"])
        tokens = shape["batch"] * context * shape["head_dim"]
        rate = self.device.peak_flops_per_s["bf16"]
        moved = 2.0 * shape["kv_heads"] * tokens * FORMATS[categories["kv_dtype"]].bytes
        queries = shape["q_heads"] * shape.get("query_tokens", 1.0)
        return Roofline(
            4.0 * queries * tokens / rate,
            moved / self.device.memory_bandwidth_bytes_per_s,
        )

    def tabulated(self, shape: Mapping[str, Any]) -> Any:
        """With one query token."""
        return np.asarray(shape.get("query_tokens", 1.0)) <= 1.0

    def stand_ins(self, categories: Mapping[str, str]) -> list[Mapping[str, str]]:
        """bf16 kernels stand in for fp8 ones that were not measured."""
        return _bf16_stand_ins(categories)


def _bf16_stand_ins(categories: Mapping[str, str]) -> list[Mapping[str, str]]:
    choices: list[Mapping[str, str]] = [
        {"dtype": "bf16", "kv_dtype": categories["kv_dtype"]},
        {"dtype": "bf16", "kv_dtype": "bf16"},
    ]
    return [choice for choice in choices if choice != dict(categories)]
