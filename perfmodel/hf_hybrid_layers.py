"""The layers of families whose attention is not all plain: recurrent layers, or an indexer.

As `perfmodel.hf_layers`, which spells out the others. `UNDERSTOOD` names the fields that mark
such an operator and that each family reads; in a configuration of any other they are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from perfmodel.config_fields import Fields
from perfmodel.hf_layers import (
    Layer,
    deepseek_experts,
    dense,
    grouped_query,
    latent_attention,
    layer_count,
    per_layer,
    top_k,
)
from perfmodel.layer_shapes import Attention, FeedForward
from perfmodel.recurrent_shapes import Recurrent

LINEAR, FULL = "linear_attention", "full_attention"

# Of Qwen's layers every fourth has full attention unless the file says which.
_INTERVAL = 4

_STATE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

# Nemotron's patterns: one letter, or one word, per block.
_BLOCKS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
_MOST_BLOCKS = 10_000


def _state_element_bytes(fields: Fields) -> int:
    """Of the recurrent state; the reference implementations keep fp32 unless told otherwise."""
    for field in ("mamba_ssm_cache_dtype", "mamba_ssm_dtype"):
        dtype = fields.string(field)
        if dtype and dtype not in _STATE_BYTES:
            fields.fail(field, f"expected one of {', '.join(_STATE_BYTES)}, got {dtype!r}")
        if dtype:
            return _STATE_BYTES[dtype]
    return 4


def _qwen_kinds(fields: Fields) -> list[str]:
    if fields.has("layer_types"):
        return per_layer(fields, "layer_types", fields.strings("layer_types"))
    every = fields.count("full_attention_interval", _INTERVAL)
    return [FULL if (layer + 1) % every == 0 else LINEAR for layer in range(layer_count(fields))]


def _qwen_hybrid(fields: Fields) -> list[Layer]:
    """Qwen3-Next and Qwen3.5: gated delta nets, and gated attention in every fourth layer."""
    kinds = _qwen_kinds(fields)
    for kind in set(kinds) - {LINEAR, FULL}:
        fields.fail("layer_types", f"{kind!r} is not supported here; expected {LINEAR} or {FULL}")
    bias = fields.flag("attention_bias")
    gate = fields.flag("attn_output_gate", True)
    full: Attention = grouped_query(
        fields, [0], bias=bias, output_bias=bias, norm="head", output_gate=gate
    )[0]
    mixers: dict[str, Attention | Recurrent] = {FULL: full}
    if LINEAR in kinds:
        mixers[LINEAR] = Recurrent(
            kind="gated_delta_net",
            heads=fields.count("linear_num_value_heads"),
            head_dim=fields.count("linear_value_head_dim"),
            key_heads=fields.count("linear_num_key_heads"),
            key_dim=fields.count("linear_key_head_dim"),
            conv_width=fields.count("linear_conv_kernel_dim"),
            state_element_bytes=_state_element_bytes(fields),
        )
    return list(zip((mixers[kind] for kind in kinds), _qwen_networks(fields), strict=True))


def _qwen_networks(fields: Fields) -> list[FeedForward]:
    layers = layer_count(fields)
    experts = fields.count("num_experts", 0, minimum=0)
    if not experts:
        return [dense(fields)] * layers
    shared = fields.count("shared_expert_intermediate_size", 0, minimum=0)
    sparse = FeedForward(
        fields.count("moe_intermediate_size"),
        experts=experts,
        top_k=top_k(fields, experts),
        shared_intermediate=shared,
        shared_gate=shared > 0,
    )
    dense_layers = set(fields.counts("mlp_only_layers"))
    step = fields.count("decoder_sparse_step", 1)
    return [
        sparse if layer not in dense_layers and (layer + 1) % step == 0 else dense(fields)
        for layer in range(layers)
    ]


def _indexed(fields: Fields) -> list[Layer]:
    """DeepSeek-V3.2 and GLM-5: latent attention over the tokens that an indexer chooses.

    From GLM-5.2 on most layers take over the choice of an earlier one.
    """
    plain = latent_attention(fields)
    if not plain.q_lora_rank:
        fields.fail("q_lora_rank", "this field is required beside index_topk")
    chosen = fields.count("index_topk")
    shared = replace(plain, index_top_k=chosen)
    own = replace(
        shared,
        index_heads=fields.count("index_n_heads"),
        index_head_dim=fields.count("index_head_dim"),
    )
    layers = layer_count(fields)
    kinds = fields.strings("indexer_types") or ["full"] * layers
    by_kind = {"full": own, "shared": shared}
    for kind in per_layer(fields, "indexer_types", kinds):
        if kind not in by_kind:
            fields.fail("indexer_types", f"{kind!r} is not supported; expected full or shared")
    if kinds[0] != "full":
        fields.fail("indexer_types", "the first layer has no earlier one whose choice it could use")
    return list(zip((by_kind[kind] for kind in kinds), deepseek_experts(fields), strict=True))


def _nemotron_blocks(fields: Fields) -> list[str]:
    if fields.has("layers_block_type"):
        field, blocks = "layers_block_type", fields.strings("layers_block_type")
    else:
        field, pattern = "hybrid_override_pattern", fields.string("hybrid_override_pattern")
        blocks = [_BLOCKS.get(letter, letter) for letter in pattern]
    unknown = sorted(set(blocks) - set(_BLOCKS.values()))
    if not blocks or unknown or len(blocks) > _MOST_BLOCKS:
        known = ", ".join(f"{letter} ({word})" for letter, word in _BLOCKS.items())
        fields.fail(
            field, f"expected blocks among {known}, got {', '.join(unknown)[:60] or 'none'}"
        )
    count = fields.count("num_hidden_layers", len(blocks))
    if count != len(blocks):
        fields.fail(field, f"expected {count} blocks (num_hidden_layers), got {len(blocks)}")
    return blocks


def _nemotron_h(fields: Fields) -> list[Layer]:
    """Nemotron-H and Nemotron 3: a block is one mixer or one network, each with one norm.

    A layer here is a mixer with the network after it, or without one where none follows.
    """
    blocks = _nemotron_blocks(fields)
    bias = fields.flag("attention_bias")
    mixers: dict[str, Attention | Recurrent] = {}
    if "attention" in blocks:
        head_dim = fields.count("attention_head_dim", 0) or None
        mixers["attention"] = grouped_query(
            fields, [0], bias=bias, output_bias=bias, head_dim=head_dim
        )[0]
    if "mamba" in blocks:
        mixers["mamba"] = Recurrent(
            kind="mamba2",
            heads=fields.count("mamba_num_heads"),
            head_dim=fields.count("mamba_head_dim"),
            key_heads=fields.count("n_groups"),
            key_dim=fields.count("ssm_state_size"),
            conv_width=fields.count("conv_kernel"),
            conv_bias=fields.flag("use_conv_bias", True),
            bias=fields.flag("mamba_proj_bias") or fields.flag("use_bias"),
            chunk_tokens=fields.count("chunk_size"),
            state_element_bytes=_state_element_bytes(fields),
        )
    networks = {}
    if "mlp" in blocks:
        bias = fields.flag("mlp_bias")
        networks["mlp"] = FeedForward(fields.count("intermediate_size"), gated=False, bias=bias)
    if "moe" in blocks:
        experts = fields.count("n_routed_experts")
        networks["moe"] = FeedForward(
            fields.count("moe_intermediate_size"),
            gated=False,
            experts=experts,
            top_k=top_k(fields, experts),
            shared_intermediate=fields.count("moe_shared_expert_intermediate_size", 0, minimum=0),
            router_bias=True,
            latent=fields.count("moe_latent_size", 0, minimum=0),
        )
    return list(_paired(fields, blocks, mixers, networks))


def _paired(
    fields: Fields,
    blocks: list[str],
    mixers: dict[str, Attention | Recurrent],
    networks: dict[str, FeedForward],
) -> Iterator[Layer]:
    mixer: Attention | Recurrent | None = None
    for position, block in enumerate(blocks):
        if block in mixers:
            if mixer is not None:
                yield mixer, FeedForward(0)
            mixer = mixers[block]
        elif mixer is None:
            field = "layers_block_type" if fields.has("layers_block_type") else ""
            fields.fail(
                field or "hybrid_override_pattern",
                f"block {position} is a network with no mixer before it",
            )
        else:
            yield mixer, networks[block]
            mixer = None
    if mixer is not None:
        yield mixer, FeedForward(0)


HYBRID_FAMILIES: dict[str, Callable[[Fields], list[Layer]]] = {
    "deepseek_v32": _indexed,
    "glm_moe_dsa": _indexed,
    "nemotron_h": _nemotron_h,
    "qwen3_5_moe_text": _qwen_hybrid,
    "qwen3_5_text": _qwen_hybrid,
    "qwen3_next": _qwen_hybrid,
}

_QWEN_FIELDS = frozenset({"linear_num_value_heads", "full_attention_interval"})
_INDEX_FIELDS = frozenset({"index_topk"})

UNDERSTOOD: dict[str, frozenset[str]] = {
    "deepseek_v32": _INDEX_FIELDS,
    "glm_moe_dsa": _INDEX_FIELDS,
    "nemotron_h": frozenset(
        {"hybrid_override_pattern", "layers_block_type", "mamba_num_heads", "ssm_state_size"}
    ),
    "qwen3_5_moe_text": _QWEN_FIELDS,
    "qwen3_5_text": _QWEN_FIELDS,
    "qwen3_next": _QWEN_FIELDS,
}

#: Values of `layer_types` that a family understands beyond those of `hf_layers`.
KINDS: dict[str, tuple[str, ...]] = {
    "glm_moe_dsa": ("deepseek_sparse_attention",),
    "qwen3_5_moe_text": (LINEAR,),
    "qwen3_5_text": (LINEAR,),
    "qwen3_next": (LINEAR,),
}
