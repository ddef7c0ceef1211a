"""The layers of each supported model family, spelled out in order from its configuration.

One function per family, each following the family's reference implementation in
`transformers` (or in the model's own repository): `FAMILIES` maps a configuration's
`model_type` to it. To add a family, write its function and name it there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

from perfmodel.config_fields import Fields
from perfmodel.layer_shapes import Attention, FeedForward
from perfmodel.recurrent_shapes import Recurrent

#: Values of `layer_types` that are understood.
ATTENTION_KINDS = ("full_attention", "sliding_attention", "chunked_attention")

Layer = tuple[Attention | Recurrent, FeedForward]

# Longer than any real model; keeps a slip of the finger from building millions of layers.
_MOST_LAYERS = 10_000


def layer_count(fields: Fields) -> int:
    """Decoder layers of the model."""
    return fields.count("num_hidden_layers", maximum=_MOST_LAYERS)


def per_layer(fields: Fields, field: str, values: list[Any]) -> list[Any]:
    """`values` if there is one for each layer; a list of another length is refused."""
    if len(values) != layer_count(fields):
        fields.fail(field, f"expected {layer_count(fields)} (one per layer), got {len(values)}")
    return values


def _windows(fields: Fields, *, opt_in: bool = False) -> list[int]:
    """Each layer's window in tokens, 0 for full attention.

    `opt_in`: as in Qwen's models, a window counts only where `use_sliding_window` is true, and
    only from layer `max_window_layers` on. Elsewhere (Mistral) it holds for all layers.
    """
    layers = layer_count(fields)
    if fields.has("layer_types"):
        kinds = per_layer(fields, "layer_types", fields.strings("layer_types"))
        size_fields = {
            "sliding_attention": "sliding_window",
            "chunked_attention": "attention_chunk_size",
        }
        sizes = {kind: fields.count(size_fields[kind]) for kind in set(kinds) & set(size_fields)}
        return [sizes.get(kind, 0) for kind in kinds]
    if not fields.has("sliding_window") or not fields.flag("use_sliding_window", not opt_in):
        return [0] * layers
    # 28 is the default of the reference implementation.
    first_windowed = fields.count("max_window_layers", 28, minimum=0) if opt_in else 0
    window = fields.count("sliding_window")
    return [window if layer >= first_windowed else 0 for layer in range(layers)]


def _head_dim(fields: Fields, heads: int) -> int:
    if fields.has("head_dim"):
        return fields.count("head_dim")
    hidden = fields.count("hidden_size")
    if hidden % heads:
        fields.fail("head_dim", f"this field is required where {heads} heads don't divide {hidden}")
    return hidden // heads


def grouped_query(
    fields: Fields,
    windows: list[int] | None = None,
    *,
    window_kind: Literal["sliding", "chunked"] = "sliding",
    bias: bool = False,
    output_bias: bool = False,
    norm: str = "",
    sinks: bool = False,
    output_gate: bool = False,
    head_dim: int | None = None,
) -> list[Attention]:
    """Grouped-query attention of every layer.

    `windows` are read from the usual fields unless given; `norm` says what one norm on q or
    k spans: `"head"`, `"layer"` (all heads of the layer) or nothing.
    """
    heads = fields.count("num_attention_heads")
    kv_heads = fields.count("num_key_value_heads", heads, maximum=heads)
    if heads % kv_heads:
        fields.fail(
            "num_key_value_heads",
            f"expected a divisor of num_attention_heads = {heads}, got {kv_heads}",
        )
    head_dim = head_dim or _head_dim(fields, heads)
    norm_weights = {"": 0, "head": 2 * head_dim, "layer": (heads + kv_heads) * head_dim}
    return [
        Attention(
            kind="gqa",
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            v_head_dim=head_dim,
            window_tokens=window,
            window_kind=window_kind if window else "sliding",
            bias=bias,
            output_bias=output_bias,
            qk_norm_parameters=norm_weights[norm],
            sinks=sinks,
            output_gate=output_gate,
        )
        for window in (_windows(fields) if windows is None else windows)
    ]


def top_k(fields: Fields, experts: int) -> int:
    """Routed experts that each token visits."""
    return fields.count("num_experts_per_tok", maximum=experts)


def dense(fields: Fields, width: str = "intermediate_size", *, bias: bool = False) -> FeedForward:
    """A dense network of the width in a field."""
    return FeedForward(fields.count(width), bias=bias)


def _repeat(attentions: Iterable[Attention], feed_forward: FeedForward) -> list[Layer]:
    return [(attention, feed_forward) for attention in attentions]


def _llama(fields: Fields) -> list[Layer]:
    bias = fields.flag("attention_bias")
    attentions = grouped_query(fields, bias=bias, output_bias=bias)
    return _repeat(attentions, dense(fields, bias=fields.flag("mlp_bias")))


def _qwen2(fields: Fields) -> list[Layer]:
    # q, k and v always have biases; there is no field for it. MiMo inherits this layer.
    windows = _windows(fields, opt_in=True)
    return _repeat(grouped_query(fields, windows, bias=True), dense(fields))


def _qwen3_attention(fields: Fields) -> list[Attention]:
    bias = fields.flag("attention_bias")
    windows = _windows(fields, opt_in=True)
    return grouped_query(fields, windows, bias=bias, output_bias=bias, norm="head")


def _qwen3(fields: Fields) -> list[Layer]:
    return _repeat(_qwen3_attention(fields), dense(fields))


def _qwen3_moe(fields: Fields) -> list[Layer]:
    experts = fields.count("num_experts")
    sparse = FeedForward(
        fields.count("moe_intermediate_size"), experts=experts, top_k=top_k(fields, experts)
    )
    dense_layers = set(fields.counts("mlp_only_layers"))
    step = fields.count("decoder_sparse_step", 1)
    return [
        (
            attention,
            sparse if layer not in dense_layers and (layer + 1) % step == 0 else dense(fields),
        )
        for layer, attention in enumerate(_qwen3_attention(fields))
    ]


def _mixtral(fields: Fields) -> list[Layer]:
    experts = fields.count("num_local_experts")
    sparse = FeedForward(
        fields.count("intermediate_size"), experts=experts, top_k=top_k(fields, experts)
    )
    return _repeat(grouped_query(fields), sparse)


def _minimax_m2(fields: Fields) -> list[Layer]:
    experts = fields.count("num_local_experts")
    if fields.count("shared_intermediate_size", 0, minimum=0):
        fields.fail("shared_intermediate_size", "shared experts of minimax_m2 are not supported")
    norm = ""
    if fields.flag("use_qk_norm"):
        norm = {"per_layer": "layer", "per_head": "head"}.get(fields.string("qk_norm_type"), "?")
        if norm == "?":
            fields.fail("qk_norm_type", "expected 'per_layer' or 'per_head'")
    sparse = FeedForward(
        fields.count("intermediate_size"),
        experts=experts,
        top_k=top_k(fields, experts),
        router_bias=fields.flag("use_routing_bias"),
    )
    return _repeat(grouped_query(fields, norm=norm), sparse)


def _deepseek(fields: Fields) -> list[Layer]:
    attention = latent_attention(fields)
    return list(zip([attention] * layer_count(fields), deepseek_experts(fields), strict=True))


def latent_attention(fields: Fields) -> Attention:
    """DeepSeek's latent attention, the same in every layer."""
    rope, nope = fields.count("qk_rope_head_dim"), fields.count("qk_nope_head_dim")
    bias = fields.flag("attention_bias")
    heads = fields.count("num_attention_heads")
    return Attention(
        kind="mla",
        heads=heads,
        kv_heads=heads,
        head_dim=nope + rope,
        v_head_dim=fields.count("v_head_dim"),
        q_lora_rank=fields.count("q_lora_rank", 0),
        kv_lora_rank=fields.count("kv_lora_rank"),
        rope_head_dim=rope,
        bias=bias,
        output_bias=bias,
    )


def deepseek_experts(fields: Fields) -> list[FeedForward]:
    """DeepSeek's networks by layer: the first dense, the others experts beside shared ones."""
    experts = fields.count("n_routed_experts")
    width = fields.count("moe_intermediate_size")
    sparse = FeedForward(
        width,
        experts=experts,
        top_k=top_k(fields, experts),
        shared_intermediate=width * fields.count("n_shared_experts", 0, minimum=0),
        router_bias=fields.string("topk_method") == "noaux_tc",
    )
    plain = dense(fields)
    first_sparse = fields.count("first_k_dense_replace", 0, minimum=0)
    every = fields.count("moe_layer_freq", 1)
    return [
        sparse if layer >= first_sparse and layer % every == 0 else plain
        for layer in range(layer_count(fields))
    ]


def _gpt_oss(fields: Fields) -> list[Layer]:
    if not fields.has("layer_types"):
        fields.fail("layer_types", "this field is required; expected one attention kind per layer")
    experts = fields.count("num_local_experts")
    sparse = FeedForward(
        fields.count("intermediate_size"),
        experts=experts,
        top_k=top_k(fields, experts),
        bias=True,
        router_bias=True,
    )
    bias = fields.flag("attention_bias", True)
    return _repeat(grouped_query(fields, bias=bias, output_bias=bias, sinks=True), sparse)


def _llama4_windows(fields: Fields) -> list[int]:
    """Layers with rotary positions see one chunk; those without see everything."""
    layers = layer_count(fields)
    chunk = fields.count("attention_chunk_size", 0)
    if fields.has("layer_types"):
        return _windows(fields)
    rotary = fields.counts("no_rope_layers")  # despite its name, 1 where there is RoPE
    if rotary:
        per_layer(fields, "no_rope_layers", rotary)
    else:
        every = fields.count("no_rope_layer_interval", 4)
        rotary = [int((layer + 1) % every != 0) for layer in range(layers)]
    return [chunk if has_rope else 0 for has_rope in rotary]


def _llama4(fields: Fields) -> list[Layer]:
    bias = fields.flag("attention_bias")
    # The norm on q and k has no weights here, so `use_qk_norm` changes no count.
    attentions = grouped_query(
        fields, _llama4_windows(fields), window_kind="chunked", bias=bias, output_bias=bias
    )
    experts = fields.count("num_local_experts")
    width = fields.count("intermediate_size")
    sparse = FeedForward(
        width, experts=experts, top_k=top_k(fields, experts), shared_intermediate=width
    )
    step = fields.count("interleave_moe_layer_step", 1)
    every_step = range(step - 1, len(attentions), step)
    sparse_layers = set(fields.counts("moe_layers") or every_step)
    return [
        (
            attention,
            sparse if layer in sparse_layers else dense(fields, "intermediate_size_mlp"),
        )
        for layer, attention in enumerate(attentions)
    ]


FAMILIES: dict[str, Callable[[Fields], list[Layer]]] = {
    "deepseek_v2": _deepseek,
    "deepseek_v3": _deepseek,
    "gpt_oss": _gpt_oss,
    "kimi_k2": _deepseek,
    "llama": _llama,
    "llama4_text": _llama4,
    "mimo": _qwen2,
    "minimax_m2": _minimax_m2,
    "mistral": _llama,
    "mixtral": _mixtral,
    "qwen2": _qwen2,
    "qwen2_5_vl": _qwen2,
    "qwen2_5_vl_text": _qwen2,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe,
    "qwen3_vl_moe_text": _qwen3_moe,
    "qwen3_vl_text": _qwen3,
}
