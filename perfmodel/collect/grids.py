"""What is measured: for each family its slices, and the coarse grid of each.

The grids are generic: powers of two, not the shapes of any model. A user who knows which
model will run can have that model's own slices added (`of_model`), so that its layers are
met exactly; estimates then say `measured` where they would say `extrapolated`.
"""

from __future__ import annotations

from collections.abc import Iterable

from perfmodel.architecture import Attention, ModelArchitecture
from perfmodel.collect.adaptive import Axis, Slice

FAMILIES = ("gemm", "attention_generation", "elementwise", "attention_context", "kv_transfer")
"""In the order of measurement: products and decode first, long prompts late."""

CUDA_ONLY = ("kv_transfer",)
"""Families of a link that a CPU does not have."""

OPERATIONS = ("rms_norm", "silu_mul", "rope", "add")

WIDTH_STEP = 64
"""Widths measured between coarse ones are multiples of this, as those of models are."""

HEAD_STEP = 128
"""The same for rotated widths: whole heads."""

# (q_heads, kv_heads, head_dim). Slices are matched, not interpolated between: a model's nearest
# stands in for it, so the share of query to key heads and the head's width matter most.
_CPU_HEADS = ((32, 8, 128), (16, 4, 128), (32, 32, 128), (8, 1, 128), (32, 8, 64))
_CUDA_HEADS = tuple(
    (q, kv, width)
    for width in (64, 128, 256)
    for kv in (1, 2, 4, 8, 16, 32)
    for q in (kv, 2 * kv, 4 * kv, 8 * kv, 16 * kv)
    if q <= 128
)


def _powers(low: int, high: int, factor: int) -> tuple[int, ...]:
    values = [low]
    while values[-1] * factor <= high:
        values.append(values[-1] * factor)
    return tuple(values)


def slices(device: str, families: Iterable[str], fp8: bool = False) -> list[Slice]:
    """The generic slices of some families, for `cpu` or `cuda`."""
    cuda = device == "cuda"
    step = 2 if cuda else 4
    found: list[Slice] = []
    for family in families:
        if family == "gemm":
            wide = _powers(256, 65536, 2) if cuda else (512, 2048, 8192, 32768)
            deep = _powers(256, 32768, 2) if cuda else (512, 2048, 8192)
            axes = (
                Axis("m", _powers(1, 65536 if cuda else 4096, step)),
                Axis("n", wide, WIDTH_STEP),
                Axis("k", deep, WIDTH_STEP),
            )
            for dtype in ("bf16", "fp8") if fp8 else ("bf16",):
                found.append(Slice("gemm", {"dtype": dtype}, axes))
        elif family == "elementwise":
            for operation in OPERATIONS:
                width = Axis(
                    "width",
                    _powers(256, 65536, 2 if cuda else 4),
                    HEAD_STEP if operation == "rope" else WIDTH_STEP,
                )
                tokens = Axis("tokens", _powers(1, 65536 if cuda else 4096, step))
                fixed: dict[str, int | str] = {"operation": operation, "dtype": "bf16"}
                found.append(Slice("elementwise", fixed, (tokens, width)))
        elif family == "kv_transfer":
            for direction in ("host_to_device", "device_to_host"):
                for blocks in (1, 32):
                    fixed = {"direction": direction, "link": "host", "dtype": "bf16"}
                    fixed |= {"blocks": blocks}
                    message = Axis("message_bytes", _powers(4096, 1 << 28, 4), 4096)
                    found.append(Slice("kv_transfer", fixed, (message,)))
        else:
            for heads in _CUDA_HEADS if cuda else _CPU_HEADS:
                found.append(_attention(family, heads, cuda))
    return found


def of_model(model: ModelArchitecture, device: str, families: Iterable[str]) -> list[Slice]:
    """Slices of a model's own layers, whole on one device: widths and heads met exactly.

    A product's n and k are then fixed, with only m refined.
    """
    cuda = device == "cuda"
    found: dict[str, Slice] = {}
    rows = Axis("m", _powers(1, 65536 if cuda else 4096, 2 if cuda else 4))
    for group in model.groups:
        attention, ffn, hidden = group.attention, group.feed_forward, model.hidden
        if not isinstance(attention, Attention) or attention.kind != "gqa":
            continue
        heads = (attention.heads, attention.kv_heads, attention.head_dim)
        qkv = (attention.heads + attention.kv_heads) * attention.head_dim
        qkv += attention.kv_heads * attention.v_head_dim
        products = [
            (qkv, hidden),
            (hidden, attention.heads * attention.v_head_dim),
            (model.vocab, hidden),
        ]
        if not ffn.is_moe:
            products += [
                ((ffn.matrices - 1) * ffn.intermediate, hidden),
                (hidden, ffn.intermediate),
            ]
        for family in families:
            if family.startswith("attention"):
                part = _attention(family, heads, cuda)
                found[str(part)] = part
            elif family == "gemm":
                for n, k in products:
                    axes = (rows, Axis("n", (n,)), Axis("k", (k,)))
                    part = Slice("gemm", {"dtype": "bf16"}, axes)
                    found[f"{part} n={n} k={k}"] = part
    return list(found.values())


def _attention(family: str, heads: tuple[int, int, int], cuda: bool) -> Slice:
    q_heads, kv_heads, head_dim = heads
    fixed: dict[str, int | str] = {
        "q_heads": q_heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "window_tokens": 0,
        "dtype": "bf16",
        "kv_dtype": "bf16",
    }
    decode = family == "attention_generation"
    if not decode:
        fixed["prefix_tokens"] = 0
    batch = _powers(1, 256 if cuda else 64, 2 if cuda else 4)
    longest = (131072 if decode else 32768) if cuda else (16384 if decode else 4096)
    tokens = _powers(16, longest, 2 if cuda else 4)
    name = "context_tokens" if decode else "tokens"
    return Slice(family, fixed, (Axis("batch", batch), Axis(name, tokens)))
