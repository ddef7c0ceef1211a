"""A DeepSeek-style transformer in plain PyTorch, random weights: latent attention, routed experts.

Written as `llama_in_torch.py` is: prefill over expanded keys and values, decode over the cached
latents with the expansion absorbed into two batched products, a shared expert beside routed
ones that run one by one (on CUDA as grouped products). Used by `accuracy_own_machine.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812


class DeepSeek:
    """The network and its cache, in bf16.

    Args:
        config: fields of a Hugging Face DeepSeek-V3 configuration, queries not compressed.
        batch, tokens: largest batch, and cache length, that will be run.
    """

    def __init__(self, config: dict[str, Any], device: str, batch: int, tokens: int) -> None:
        self.device, self.hidden = device, config["hidden_size"]
        self.heads, self.latent = config["num_attention_heads"], config["kv_lora_rank"]
        self.nope, self.rope = config["qk_nope_head_dim"], config["qk_rope_head_dim"]
        self.value, self.top_k = config["v_head_dim"], config["num_experts_per_tok"]
        dense = config["first_k_dense_replace"]
        self.layers = [
            self._attention_weights()
            | (self._expert_weights(config) if i >= dense else {})
            | self._network_weights(
                config["moe_intermediate_size"] * config["n_shared_experts"]
                if i >= dense
                else config["intermediate_size"]
            )
            for i in range(config["num_hidden_layers"])
        ]
        # As large as what layers add, and the cache's tokens unlike: else tokens grow alike, and
        # all choose the same experts.
        self.embedding = self._weight(config["vocab_size"], self.hidden) * self.hidden**0.5
        self.head = self._weight(config["vocab_size"], self.hidden)
        self.norm = self._ones(self.hidden)
        shape = (len(self.layers), batch, tokens, self.latent + self.rope)
        self.cache = torch.randn(shape, dtype=torch.bfloat16, device=device)
        half = self.rope // 2
        rates = 10000.0 ** (-torch.arange(half, device=device) / half)
        angles = torch.arange(tokens, device=device)[:, None, None] * rates
        self.cos = angles.cos().to(torch.bfloat16)
        self.sin = angles.sin().to(torch.bfloat16)

    def step(self, tokens: Any, start: int) -> Any:
        """One forward step: [batch, new] token ids at positions from `start`; the last logits."""
        x = F.embedding(tokens, self.embedding)
        for layer, cache in zip(self.layers, self.cache, strict=True):
            x = x + self._attend(layer, self._norm(x, layer["norm"]), cache, start)
            x = x + self._feed_forward(layer, self._norm(x, layer["ffn_norm"]))
        return F.linear(self._norm(x[:, -1], self.norm), self.head).argmax(-1)

    def _attend(self, layer: Any, x: Any, cache: Any, start: int) -> Any:
        batch, new, _ = x.shape
        end = start + new
        cos, sin = self.cos[start:end], self.sin[start:end]
        q = F.linear(x, layer["query"]).view(batch, new, self.heads, self.nope + self.rope)
        plain, turned = q[..., : self.nope], _rotate(q[..., self.nope :], cos, sin)
        down = F.linear(x, layer["down"])
        latent = self._norm(down[..., : self.latent], layer["latent_norm"])
        key = _rotate(down[..., None, self.latent :], cos, sin)
        cache[:batch, start:end] = torch.cat((latent, key[:, :, 0]), -1)
        if new > 1:
            both = F.linear(latent, layer["up"]).view(batch, new, self.heads, -1)
            key = key.expand(-1, -1, self.heads, -1)
            k = torch.cat((both[..., : self.nope], key), -1).transpose(1, 2)
            v = both[..., self.nope :].transpose(1, 2)
            if self.device == "cpu":
                # The fused kernel knows one width only.
                v = F.pad(v, (0, self.nope + self.rope - self.value))
            q = torch.cat((plain, turned), -1).transpose(1, 2)
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            mixed = mixed[..., : self.value].transpose(1, 2)
        else:
            absorbed = torch.bmm(plain[:, 0].transpose(0, 1), layer["absorb_query"])
            q = torch.cat((absorbed.transpose(0, 1), turned[:, 0]), -1)
            seen = cache[:batch, :end]
            mixed = self._decode(q * (self.nope + self.rope) ** -0.5, seen)
            mixed = torch.bmm(mixed.transpose(0, 1), layer["absorb_value"]).transpose(0, 1)
        return F.linear(mixed.reshape(batch, new, -1), layer["out"])

    def _decode(self, q: Any, seen: Any) -> Any:
        if self.device == "cuda":
            shares = torch.matmul(q, seen.transpose(1, 2)).softmax(-1)
            return torch.matmul(shares, seen[..., : self.latent])
        # Batched products on a CPU copy a cache that is cut from a longer one.
        mixed = [
            torch.mm(torch.mm(one, its.t()).softmax(-1), its[:, : self.latent])
            for one, its in zip(q, seen, strict=True)
        ]
        return torch.stack(mixed)

    def _feed_forward(self, layer: Any, x: Any) -> Any:
        shape, x = x.shape, x.flatten(0, 1)
        y = F.linear(_silu_mul(F.linear(x, layer["gate_up"])), layer["narrow"])
        if "router" in layer:
            shares, chosen = F.linear(x, layer["router"]).float().softmax(-1).topk(self.top_k)
            expert, order = chosen.flatten().sort()
            token = order // self.top_k
            routed = self._experts(layer, x[token], expert)
            shares = shares.flatten()[order, None].to(x.dtype)
            y.index_add_(0, token, routed * shares)
        return y.view(shape)

    def _experts(self, layer: Any, rows: Any, expert: Any) -> Any:
        up, down = layer["experts_up"], layer["experts_down"]
        ids = torch.arange(len(up), device=rows.device)
        ends = torch.searchsorted(expert, ids, right=True)
        if self.device == "cuda":
            wide = torch._grouped_mm(rows, up.transpose(1, 2), offs=ends.to(torch.int32))
            return torch._grouped_mm(
                _silu_mul(wide), down.transpose(1, 2), offs=ends.to(torch.int32)
            )
        parts, begin = [], 0
        for e, end in enumerate(ends.tolist()):
            if end > begin:
                parts.append(F.linear(_silu_mul(F.linear(rows[begin:end], up[e])), down[e]))
            begin = end
        return torch.cat(parts)

    def _attention_weights(self) -> dict[str, Any]:
        heads, latent = self.heads, self.latent
        up = self._weight(heads * (self.nope + self.value), latent)
        of_head = up.view(heads, -1, latent)
        return {
            "norm": self._ones(self.hidden),
            "query": self._weight(heads * (self.nope + self.rope), self.hidden),
            "down": self._weight(latent + self.rope, self.hidden),
            "latent_norm": self._ones(latent),
            "up": up,
            "absorb_query": of_head[:, : self.nope].contiguous(),
            "absorb_value": of_head[:, self.nope :].transpose(1, 2).contiguous(),
            "out": self._weight(self.hidden, heads * self.value),
        }

    def _network_weights(self, inner: int) -> dict[str, Any]:
        return {
            "ffn_norm": self._ones(self.hidden),
            "gate_up": self._weight(2 * inner, self.hidden),
            "narrow": self._weight(self.hidden, inner),
        }

    def _expert_weights(self, config: dict[str, Any]) -> dict[str, Any]:
        experts, inner = config["n_routed_experts"], config["moe_intermediate_size"]
        return {
            "router": self._weight(experts, self.hidden),
            "experts_up": self._weight(experts, 2 * inner, self.hidden),
            "experts_down": self._weight(experts, self.hidden, inner),
        }

    def _norm(self, x: Any, weight: Any) -> Any:
        return F.rms_norm(x, (x.shape[-1],), weight, 1e-5)

    def _ones(self, width: int) -> Any:
        return torch.ones(width, dtype=torch.bfloat16, device=self.device)

    def _weight(self, *shape: int) -> Any:
        weight = torch.randn(*shape, dtype=torch.bfloat16, device=self.device)
        return weight.mul_(shape[-1] ** -0.5)


def _silu_mul(wide: Any) -> Any:
    gate, up = wide.chunk(2, -1)
    return F.silu(gate) * up


def _rotate(x: Any, cos: Any, sin: Any) -> Any:
    left, right = x.chunk(2, -1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), -1)
