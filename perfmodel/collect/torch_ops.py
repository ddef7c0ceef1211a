"""The operators that are timed, as PyTorch runs them, over operands cut from one large pool.

Which operands come from memory and which from the cache is as in service. Weights and cached
keys and values were last touched a step ago: each call takes others, cut from a pool several
times the size of the last-level cache. Activations were written by the operator before: they
are the same in every call, unless they outweigh the weights (then they would not stay in the
cache in service either).
"""

from __future__ import annotations

from typing import Any

from perfmodel.collect.measure import Key
from perfmodel.collect.torch_experts import build_experts
from perfmodel.collect.torch_mla import build_mla
from perfmodel.collect.torch_pool import MOST_VIEWS, Built, Pool, rms_norm, rotate, silu_mul

E4M3_MAX = 448.0
HEAD_DIM = 128
"""Width of the heads that the rope operation rotates."""


def build(pool: Pool, family: str, key: Key, on_cuda: bool) -> Built:
    """The operation of a row.

    Raises:
        MemoryError: an operand exceeds the pool.
        KeyError: the family is none of those collected here.
    """
    if family == "gemm":
        return _gemm(pool, key)
    if family == "elementwise":
        return _elementwise(pool, key)
    if family in ("attention_context", "attention_generation"):
        return _attention(pool, family, key, on_cuda)
    if family == "kv_transfer":
        return _transfer(pool, key)
    if family.startswith("mla_"):
        return build_mla(pool, family, key, on_cuda)
    if family == "moe":
        return build_experts(pool, key, on_cuda)
    raise KeyError(family)


def _transfer(pool: Pool, key: Key) -> Built:
    """Copies between page-locked host memory and the device, one per block."""
    torch = pool.torch
    blocks = int(key["blocks"])
    size = max(1, int(key["message_bytes"]) // 2 // blocks)
    there = pool.views((size,), most=blocks)
    here = torch.empty(size * blocks, dtype=torch.bfloat16, pin_memory=True).split(size)
    to_device = key["direction"] == "host_to_device"

    def copy(i: int) -> None:
        for block in range(blocks):
            device, host = there[block % len(there)], here[block]
            target, source = (device, host) if to_device else (host, device)
            target.copy_(source, non_blocking=True)

    return Built(copy, "torch copy_, page-locked")


def _gemm(pool: Pool, key: Key) -> Built:
    torch = pool.torch
    m, n, k = (int(key[name]) for name in ("m", "n", "k"))
    cold = m * (n + k) > n * k
    inputs = pool.views((m, k), most=MOST_VIEWS if cold else 1)
    if key["dtype"] == "bf16":
        weights = pool.views((n, k))

        def linear(i: int) -> Any:
            return torch.nn.functional.linear(
                inputs[-1 - i % len(inputs)], weights[i % len(weights)]
            )

        return Built(linear, "torch.nn.functional.linear")
    weights = pool.views((n, k), torch.float8_e4m3fn)
    one = torch.ones((), device=pool.data.device)

    def scaled(i: int) -> Any:
        # Scales found on the fly, as the schema has it for 8-bit formats.
        x = inputs[-1 - i % len(inputs)]
        scale = x.abs().amax().float() / E4M3_MAX
        x8 = (x / scale).to(torch.float8_e4m3fn)
        return torch._scaled_mm(
            x8, weights[i % len(weights)].t(), scale, one, out_dtype=torch.bfloat16
        )

    return Built(scaled, "torch._scaled_mm")


def _elementwise(pool: Pool, key: Key) -> Built:
    torch = pool.torch
    tokens, width = int(key["tokens"]), int(key["width"])
    operation = key["operation"]
    if operation == "rms_norm":
        x, weight = pool.views((tokens, width))[0], pool.views((width,))[-1]
        return Built(lambda i: rms_norm(torch, x, weight), "torch.nn.functional.rms_norm")
    if operation == "silu_mul":
        both = pool.views((tokens, 2 * width))[0]
        return Built(lambda i: silu_mul(torch, both), "torch silu, mul")
    if operation == "add":
        x = pool.views((tokens, width))[0]
        y = pool.views((tokens, width))[-1]
        return Built(lambda i: x + y, "torch add")
    if operation == "rope":
        x = pool.views((tokens, width // HEAD_DIM, HEAD_DIM))[0]
        cos = pool.views((tokens, 1, HEAD_DIM // 2))[0]
        return Built(lambda i: rotate(torch, x, cos, cos), "torch chunk, mul, sub, add, cat")
    raise KeyError(str(operation))


def _attention(pool: Pool, family: str, key: Key, on_cuda: bool) -> Built:
    torch = pool.torch
    attend = torch.nn.functional.scaled_dot_product_attention
    batch, heads, kv_heads, width = (
        int(key[name]) for name in ("batch", "q_heads", "kv_heads", "head_dim")
    )
    decode = family == "attention_generation"
    queries = 1 if decode else int(key["tokens"])
    cached = int(key["context_tokens"] if decode else key["tokens"])
    # Projections leave tokens before heads; attention sees them through a transposed view.
    q = pool.views((batch, queries, heads, width), most=1)[0].transpose(1, 2)
    most = MOST_VIEWS if decode else 1
    pairs = [p.transpose(2, 3) for p in pool.views((2, batch, cached, kv_heads, width), most=most)]
    if decode:
        # A cache has each head's tokens side by side.
        pairs = pool.views((2, batch, kv_heads, cached, width))
    grouped = heads != kv_heads

    def run(i: int) -> Any:
        k, v = pairs[i % len(pairs)]
        return attend(q, k, v, is_causal=not decode, enable_gqa=grouped)

    if not on_cuda:
        return Built(run, "torch.nn.functional.scaled_dot_product_attention")
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def fused(i: int) -> Any:
        with sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION]):
            return run(i)

    return Built(fused, "torch.nn.functional.scaled_dot_product_attention (cudnn, flash)")
