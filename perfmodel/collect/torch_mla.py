"""Multi-head latent attention, as PyTorch runs it, of DeepSeek-V3's widths.

`mla_context` and `mla_generation` are all that lies between the projections: the latent's norm,
the rotary embedding, the write to the cache, joining a head's two parts, and attention. What
serving engines fuse with attention PyTorch runs one by one; no other family counts it.
"""

from __future__ import annotations

from typing import Any

from perfmodel.collect.measure import Key
from perfmodel.collect.torch_pool import MOST_VIEWS, Built, Pool, rms_norm, rotate
from perfmodel.operators.mla import LATENT, NOPE, ROPE, VALUE

SCALE = float(NOPE + ROPE) ** -0.5


def latents(torch: Any, down: Any, norm: Any, cos: Any, sin: Any) -> Any:
    """What is cached of [batch, tokens, 512 + 64]: the normed latent and the rotated key."""
    key = rotate(torch, down[..., None, LATENT:], cos, sin)[..., 0, :]
    return torch.cat((rms_norm(torch, down[..., :LATENT], norm), key), dim=-1)


def attend_expanded(
    torch: Any, q: Any, cached: Any, expanded: Any, cos: Any, sin: Any, pad: bool
) -> Any:
    """Prefill over keys and values expanded from the latent; [batch, tokens, heads, 128].

    Args:
        q: [batch, tokens, heads, 128 + 64], not yet rotated.
        cached: [batch, tokens, 512 + 64], of which the rotated keys are taken.
        expanded: [batch, tokens, heads, 128 + 128], each head's key and value.
        pad: widen values to the keys' width, for kernels that know one width only.
    """
    heads = q.shape[2]
    q = torch.cat((q[..., :NOPE], rotate(torch, q[..., NOPE:], cos, sin)), dim=-1)
    shared = cached[..., None, LATENT:].expand(-1, -1, heads, -1)
    k = torch.cat((expanded[..., :NOPE], shared), dim=-1)
    v = expanded[..., NOPE:]
    if pad:
        v = torch.nn.functional.pad(v, (0, NOPE + ROPE - VALUE))
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    return mixed[..., :VALUE].transpose(1, 2)


def attend_latent(torch: Any, absorbed: Any, rope: Any, cache: Any, cos: Any, sin: Any) -> Any:
    """Decode over the latent cache itself; [batch, heads, 512].

    Args:
        absorbed: [heads, batch, 512], queries mapped into the latent.
        rope: [batch, heads, 64], the queries' part to be rotated.
        cache: [batch, context, 512 + 64].
    """
    turned = rotate(torch, rope, cos, sin)
    q = torch.cat((absorbed.transpose(0, 1), turned), dim=-1) * SCALE
    if cache.is_cuda:
        shares = torch.matmul(q, cache.transpose(1, 2)).softmax(-1)
        return torch.matmul(shares, cache[..., :LATENT])
    # Batched products on a CPU copy a cache that is cut from a longer one.
    mixed = [
        torch.mm(torch.mm(one, seen.t()).softmax(-1), seen[:, :LATENT])
        for one, seen in zip(q, cache, strict=True)
    ]
    return torch.stack(mixed)


def build_mla(pool: Pool, family: str, key: Key, on_cuda: bool) -> Built:
    """The operation of a row of one of MLA's families."""
    if family == "mla_context":
        return _context(pool, key, on_cuda)
    if family == "mla_generation":
        return _generation(pool, key, on_cuda)
    return _absorb(pool, key)


def _context(pool: Pool, key: Key, on_cuda: bool) -> Built:
    torch = pool.torch
    batch, tokens, heads = (int(key[name]) for name in ("batch", "tokens", "heads"))
    q = pool.views((batch, tokens, heads, NOPE + ROPE), most=1)[0]
    expanded = pool.views((batch, tokens, heads, NOPE + VALUE), most=2)[-1]
    down = pool.views((batch, tokens, LATENT + ROPE), most=1)[0]
    cache = torch.empty_like(down)
    norm = pool.views((LATENT,), most=1)[0]
    angles = pool.views((tokens, 1, ROPE // 2), most=1)[0]

    def run(i: int) -> Any:
        cache.copy_(latents(torch, down, norm, angles, angles))
        return attend_expanded(torch, q, cache, expanded, angles, angles, pad=not on_cuda)

    name = "torch rms_norm, rope, cat, scaled_dot_product_attention"
    if not on_cuda:
        return Built(run, f"{name} (padded values)")
    from torch.nn.attention import SDPBackend, sdpa_kernel

    # Flash attention knows one width only; without any fused kernel the row cannot be measured.
    backends = [SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]

    def fused(i: int) -> Any:
        with sdpa_kernel(backends):
            return run(i)

    return Built(fused, f"{name} (cudnn, efficient)")


def _generation(pool: Pool, key: Key, on_cuda: bool) -> Built:
    torch = pool.torch
    batch, context, heads = (int(key[name]) for name in ("batch", "context_tokens", "heads"))
    caches = pool.views((batch, context, LATENT + ROPE), most=MOST_VIEWS)
    absorbed = pool.views((heads, batch, LATENT), most=1)[0]
    rope = pool.views((batch, heads, NOPE + ROPE), most=1)[0][..., NOPE:]
    down = pool.views((batch, LATENT + ROPE), most=1)[0].clone()
    norm = pool.views((LATENT,), most=1)[0]
    angles = pool.views((1, 1, ROPE // 2), most=1)[0][0]

    def run(i: int) -> Any:
        cache = caches[i % len(caches)]
        cache[:, -1] = latents(torch, down, norm, angles, angles)
        return attend_latent(torch, absorbed, rope, cache, angles, angles)

    products = "matmul" if on_cuda else "mm, sequence by sequence"
    return Built(run, f"torch rms_norm, rope, cat, {products}; softmax")


def _absorb(pool: Pool, key: Key) -> Built:
    torch = pool.torch
    heads, tokens = int(key["heads"]), int(key["tokens"])
    if key["stage"] == "pre":
        # Queries come with the part that is to be rotated beside them.
        x = pool.views((tokens, heads, NOPE + ROPE), most=1)[0][..., :NOPE]
        weights = pool.views((heads, NOPE, LATENT))
    else:
        x = pool.views((tokens, heads, LATENT), most=1)[0]
        weights = pool.views((heads, LATENT, VALUE))
    rows = x.transpose(0, 1)
    return Built(lambda i: torch.bmm(rows, weights[i % len(weights)]), "torch.bmm")
