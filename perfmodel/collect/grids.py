"""What is measured: for each family its slices, and the coarse grid of each.

The grids are generic: powers of two, not the shapes of any model. A user who knows which
model will run can have that model's own slices added (`of_model`), so that its layers are
met exactly; estimates then say `measured` where they would say `extrapolated`.
"""

from __future__ import annotations

from collections.abc import Iterable

from perfmodel.architecture import Attention, FeedForward, ModelArchitecture
from perfmodel.collect.adaptive import Axis, Slice

FAMILIES = (
    "gemm",
    "attention_generation",
    "mla_generation",
    "mla_bmm",
    "moe",
    "elementwise",
    "attention_context",
    "mla_context",
    "kv_transfer",
    "collective",
)
"""In the order of measurement: products and decode first, long prompts late."""

CUDA_ONLY = ("kv_transfer",)
"""Families of a link that a CPU does not have."""

COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "alltoall")

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

ROUTINGS = ("power_law_1.01", "balanced", "uniform")
"""Distributions of tokens over experts: the estimates' usual one first."""

_CPU_MLA_HEADS = (16, 64)
_CUDA_MLA_HEADS = (8, 16, 32, 64, 128)

Experts = tuple[int, int, int, int]
"""Model width, one expert's width, experts per token, experts."""

_CPU_EXPERTS: tuple[Experts, ...] = ((2048, 1024, 2, 8), (2048, 1024, 4, 32), (4096, 1024, 2, 16))
_CUDA_EXPERTS: tuple[Experts, ...] = (
    (4096, 14336, 2, 8),
    (8192, 16384, 2, 8),
    *(
        (hidden, intermediate, top_k, experts)
        for hidden in (2048, 4096, 8192)
        for intermediate in (1024, 2048)
        for top_k, experts in ((4, 32), (8, 128), (8, 256))
    ),
)
_CUDA_SHARES = ((1, 1), (8, 1), (1, 8))
"""Degrees of tensor and expert parallelism of which one device's share is measured."""


def _powers(low: int, high: int, factor: int) -> tuple[int, ...]:
    values = [low]
    while values[-1] * factor <= high:
        values.append(values[-1] * factor)
    return tuple(values)


def slices(
    device: str, families: Iterable[str], fp8: bool = False, groups: Iterable[int] = ()
) -> list[Slice]:
    """The generic slices of some families, for `cpu` or `cuda`.

    Args:
        fp8: the device multiplies in it.
        groups: numbers of devices that collectives are run over.
    """
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
        elif family == "collective":
            # Multiples of a page: every device gets as many whole elements.
            message = Axis("message_bytes", _powers(4096, 1 << (28 if cuda else 24), 4), 4096)
            for devices in groups:
                for operation in COLLECTIVES:
                    fixed = {"operation": operation, "dtype": "bf16", "devices": devices}
                    found.append(Slice("collective", fixed, (message,)))
        elif family.startswith("mla_"):
            for heads in _CUDA_MLA_HEADS if cuda else _CPU_MLA_HEADS:
                found += _latent(family, heads, cuda)
        elif family == "moe":
            for shape in _CUDA_EXPERTS if cuda else _CPU_EXPERTS:
                for tp, ep in _CUDA_SHARES if cuda else _CUDA_SHARES[:1]:
                    found += _experts(shape, cuda, tp, ep)
        else:
            for grouped in _CUDA_HEADS if cuda else _CPU_HEADS:
                found.append(_attention(family, grouped, cuda))
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
        if not isinstance(attention, Attention):
            continue
        products = [*_projections(attention, ffn, hidden), (model.vocab, hidden)]
        latent = attention.kind == "mla"
        for family in families:
            parts: list[Slice] = []
            if family.startswith("attention") and not latent:
                heads = (attention.heads, attention.kv_heads, attention.head_dim)
                parts = [_attention(family, heads, cuda)]
            elif family.startswith("mla_") and latent:
                parts = _latent(family, attention.heads, cuda)
            elif family == "moe" and ffn.is_moe:
                shape = (hidden, ffn.intermediate, ffn.top_k, ffn.experts)
                parts = _experts(shape, cuda, gated=ffn.gated)
            found |= {str(part): part for part in parts}
            if family == "gemm":
                for n, k in products:
                    axes = (rows, Axis("n", (n,)), Axis("k", (k,)))
                    part = Slice("gemm", {"dtype": "bf16"}, axes)
                    found[f"{part} n={n} k={k}"] = part
    return list(found.values())


def _projections(attention: Attention, ffn: FeedForward, hidden: int) -> list[tuple[int, int]]:
    """Outputs and inputs of a layer's products, whole; none of the routed experts'."""
    products = [(hidden, attention.heads * attention.v_head_dim)]
    queries = attention.heads * attention.head_dim
    if attention.kind == "gqa":
        cached = attention.kv_heads * (attention.head_dim + attention.v_head_dim)
        products.append((queries + cached, hidden))
    else:
        cached = attention.kv_lora_rank + attention.rope_head_dim
        expanded = attention.head_dim - attention.rope_head_dim + attention.v_head_dim
        products.append((attention.heads * expanded, attention.kv_lora_rank))
        if attention.q_lora_rank:
            products.append((attention.q_lora_rank + cached, hidden))
            products.append((queries, attention.q_lora_rank))
        else:
            products += [(cached, hidden), (queries, hidden)]
    width = ffn.shared_intermediate if ffn.is_moe else ffn.intermediate
    if width:
        products += [((ffn.matrices - 1) * width, hidden), (hidden, width)]
    if ffn.is_moe:
        products.append((ffn.experts, hidden))
    return products


def _latent(family: str, heads: int, cuda: bool) -> list[Slice]:
    """Slices of one of MLA's families, of so many heads."""
    fixed: dict[str, int | str] = {"heads": heads, "dtype": "bf16"}
    if family == "mla_bmm":
        axis = Axis("tokens", _powers(1, 4096 if cuda else 256, 2 if cuda else 4))
        return [Slice(family, {"stage": stage, **fixed}, (axis,)) for stage in ("pre", "post")]
    fixed["kv_dtype"] = "bf16"
    if family == "mla_context":
        fixed["prefix_tokens"] = 0
    return [Slice(family, fixed, _sequences(family == "mla_generation", cuda))]


def _experts(
    shape: Experts, cuda: bool, tp: int = 1, ep: int = 1, gated: bool = True
) -> list[Slice]:
    """Slices of routed experts of one shape: one for each routing."""
    fixed: dict[str, int | str] = dict(
        zip(("hidden", "intermediate", "top_k", "experts"), shape, strict=True)
    )
    fixed |= {"dtype": "bf16", "tp": tp, "ep": ep, "activation": "gated" if gated else "plain"}
    tokens = Axis("tokens", _powers(1, 65536 if cuda else 4096, 2 if cuda else 4))
    return [Slice("moe", {**fixed, "routing": routing}, (tokens,)) for routing in ROUTINGS]


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
    return Slice(family, fixed, _sequences(decode, cuda))


def _sequences(decode: bool, cuda: bool) -> tuple[Axis, Axis]:
    """Sequences, and the new tokens of each, or in decode those that it attends to."""
    batch = _powers(1, 256 if cuda else 64, 2 if cuda else 4)
    longest = (131072 if decode else 32768) if cuda else (16384 if decode else 4096)
    tokens = _powers(16, longest, 2 if cuda else 4)
    return Axis("batch", batch), Axis("context_tokens" if decode else "tokens", tokens)
