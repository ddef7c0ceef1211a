"""A Llama-architecture transformer in plain PyTorch, random weights: what the estimate is held to.

Written as an engineer would: fused query-key-value and gate-up projections, a preallocated
cache, scaled_dot_product_attention with grouped heads. Used by `accuracy_own_machine.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812


class Llama:
    """The network and its cache, in bf16.

    Args:
        config: fields of a Hugging Face Llama configuration.
        batch, tokens: largest batch, and cache length, that will be run.
    """

    def __init__(self, config: dict[str, Any], device: str, batch: int, tokens: int) -> None:
        self.hidden, self.heads = config["hidden_size"], config["num_attention_heads"]
        self.kv_heads, self.width = config["num_key_value_heads"], config["head_dim"]
        self.device = device
        rows = (self.heads + 2 * self.kv_heads) * self.width
        inner, vocab = config["intermediate_size"], config["vocab_size"]
        self.layers = [
            {
                "norm": self._ones(),
                "qkv": self._weight(rows, self.hidden),
                "out": self._weight(self.hidden, self.heads * self.width),
                "ffn_norm": self._ones(),
                "gate_up": self._weight(2 * inner, self.hidden),
                "down": self._weight(self.hidden, inner),
            }
            for _ in range(config["num_hidden_layers"])
        ]
        self.embedding = self._weight(vocab, self.hidden)
        self.head = self._weight(vocab, self.hidden)
        self.norm = self._ones()
        shape = (len(self.layers), 2, batch, self.kv_heads, tokens, self.width)
        self.cache = torch.randn(1, device=device).to(torch.bfloat16).expand(shape).contiguous()
        half = self.width // 2
        rates = 10000.0 ** (-torch.arange(half, device=device) / half)
        angles = torch.arange(tokens, device=device)[:, None, None] * rates
        self.cos = angles.cos().to(torch.bfloat16)
        self.sin = angles.sin().to(torch.bfloat16)

    def step(self, tokens: Any, start: int) -> Any:
        """One forward step: [batch, new] token ids at positions from `start`; the last logits."""
        new = tokens.shape[1]
        x = F.embedding(tokens, self.embedding)
        cos, sin = self.cos[start : start + new], self.sin[start : start + new]
        for layer, cache in zip(self.layers, self.cache, strict=True):
            x = x + self._attend(layer, self._norm(x, layer["norm"]), cache, start, cos, sin)
            gate, up = F.linear(self._norm(x, layer["ffn_norm"]), layer["gate_up"]).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, layer["down"])
        return F.linear(self._norm(x[:, -1], self.norm), self.head).argmax(-1)

    def _attend(self, layer: Any, x: Any, cache: Any, start: int, cos: Any, sin: Any) -> Any:
        batch, new, _ = x.shape
        qkv = F.linear(x, layer["qkv"]).view(batch, new, -1, self.width)
        rotated = self.heads + self.kv_heads
        left, right = qkv[:, :, :rotated].chunk(2, -1)
        turned = torch.cat((left * cos - right * sin, right * cos + left * sin), -1)
        q, k = turned[:, :, : self.heads].transpose(1, 2), turned[:, :, self.heads :]
        end = start + new
        cache[0, :batch, :, start:end] = k.transpose(1, 2)
        cache[1, :batch, :, start:end] = qkv[:, :, rotated:].transpose(1, 2)
        keys, values = cache[0, :batch, :, :end], cache[1, :batch, :, :end]
        mixed = F.scaled_dot_product_attention(q, keys, values, is_causal=new > 1, enable_gqa=True)
        return F.linear(mixed.transpose(1, 2).reshape(batch, new, -1), layer["out"])

    def _norm(self, x: Any, weight: Any) -> Any:
        return F.rms_norm(x, (self.hidden,), weight, 1e-5)

    def _ones(self) -> Any:
        return torch.ones(self.hidden, dtype=torch.bfloat16, device=self.device)

    def _weight(self, rows: int, columns: int) -> Any:
        weight = torch.randn(rows, columns, dtype=torch.bfloat16, device=self.device)
        return weight.mul_(columns**-0.5)
