"""Families beyond dense layers: quantization, scans, sparse attention, dispatched experts.

`elementwise`, `point_to_point` and `kv_transfer` have no shipped rows: only a user's own
measurements, or Vidur's, fill them.
"""

from __future__ import annotations

from perfmodel.database._columns import (
    BATCH,
    CONTEXT,
    DTYPE,
    HEADS,
    KV_DTYPE,
    MESSAGE,
    NEW,
    PREFIX,
    Family,
    count,
    text,
)

_PHASE = text(
    "phase",
    "context: tokens new tokens per sequence; generation: one; verify: tokens drafted ones",
    ("context", "generation", "verify"),
)
_SCAN_OPERATION = text(
    "operation",
    "conv, the short causal convolution; scan, the recurrence; fused, both in one kernel",
    ("conv", "scan", "fused"),
)
_CONV = count("conv_width", "taps of the short convolution")
_DELTA = (
    _PHASE,
    _SCAN_OPERATION,
    DTYPE,
    count("k_heads", "query and key heads on this device"),
    count("k_dim", "dimensions of such a head"),
    count("v_heads", "value heads on this device"),
    count("v_dim", "dimensions of such a head"),
    _CONV,
    BATCH,
    NEW,
)
_SPARSE = (
    text(
        "variant",
        "dsa: an indexer scores each token, attention reads the best 2,048; dsa_reuse: the same "
        "with the choice of an earlier layer, no indexer; msa: blocks of tokens are scored; csa, "
        "hca: DeepSeek-V4's compressed caches, 4 and 128 tokens to an entry",
        ("dsa", "dsa_reuse", "msa", "csa", "hca"),
    ),
    text("model", "model whose layer it is, for what heads leave open: widths and ranks"),
    text("gemm_dtype", "number format of the projections' weights"),
    HEADS,
    DTYPE,
    KV_DTYPE,
    BATCH,
)
_WIDE = (text("gemm_dtype", "number format of the projections' weights"), HEADS, DTYPE, KV_DTYPE)

MORE_FAMILIES = (
    Family(
        "quantize",
        "One step of turning bf16 activations [m, k] into dtype. apply: the cast with scales "
        "given (static quantization). find: what finding the scales adds, as a kernel of its own "
        "(trtllm) or as the dynamic kernel's time less the static one's (vllm), so it can be "
        "less than reading the input takes; dynamic quantization is both in sum. dynamic: "
        "both as one call.",
        (
            text("operation", "which step", ("apply", "find", "dynamic")),
            DTYPE,
            count("k", "width"),
            count("m", "rows: tokens in the call", "tokens"),
        ),
    ),
    Family(
        "mamba2",
        "One kernel of a Mamba-2 layer between its projections. conv runs over heads * "
        "head_dim + 2 * groups * state channels.",
        (
            _PHASE,
            _SCAN_OPERATION,
            DTYPE,
            count("heads", "heads on this device"),
            count("head_dim", "dimensions of a head"),
            count("state", "state size per head dimension"),
            count("groups", "groups that share the state's input and output"),
            _CONV,
            count("chunk", "tokens per chunk of the scan", "tokens"),
            BATCH,
            NEW,
        ),
    ),
    Family(
        "gated_delta_net",
        "One kernel of a gated delta net layer (Qwen3.5's linear attention) between its "
        "projections. conv runs over 2 * k_heads * k_dim + v_heads * v_dim channels; a "
        "sequence's state has v_heads * k_dim * v_dim numbers.",
        _DELTA,
    ),
    Family(
        "kda",
        "One kernel of a Kimi delta attention layer (gates per channel) between its "
        "projections; as gated_delta_net.",
        _DELTA,
    ),
    Family(
        "encoder_attention",
        "Attention of an encoder (vision): all tokens of a sequence attend to each other, no "
        "cache; no projections.",
        (
            DTYPE,
            HEADS,
            count("head_dim", "dimensions of a head"),
            BATCH,
            count("tokens", "tokens per sequence, all of the same length", "tokens"),
        ),
    ),
    Family(
        "sparse_attention_context_module",
        "A whole sparse attention block in prefill: projections, norms, rotary embedding, "
        "indexer, attention and output projection of the heads on this device; no collective.",
        (*_SPARSE, NEW, PREFIX),
    ),
    Family(
        "sparse_attention_generation_module",
        "A whole sparse attention block in decode, one new token per sequence; as "
        "sparse_attention_context_module.",
        (*_SPARSE, CONTEXT),
    ),
    Family(
        "wideep_mla_context",
        "DeepSeek-V3's attention block in prefill as SGLang runs it with wide expert "
        "parallelism: query and key-value up projections, attention and output projection of "
        "the heads on this device, without the down projections before them; no collective. "
        "dtype is that of the module's weights.",
        (*_WIDE, BATCH, NEW, PREFIX),
    ),
    Family(
        "wideep_mla_generation",
        "The same in decode, one new token per sequence.",
        (*_WIDE, BATCH, CONTEXT),
    ),
    Family(
        "all_to_all",
        "Moving tokens to their experts' devices and back, by DeepEP or the engine's own "
        "kernels. dispatch sends each token once to each device that holds one of its experts; "
        "combine returns and sums; prepare exchanges counts, where that is a call of its own. "
        "dtype is that on the wire; unstated where the producer does not tell.",
        (
            text(
                "operation",
                "which way",
                ("prepare", "dispatch", "combine", "combine_low_precision"),
            ),
            text(
                "mode",
                "normal: throughput kernels of DeepEP, for prefill; low_latency: its decode "
                "kernels; v2_context, v2_generation: DeepEP 2's; nvlink_one_sided, "
                "nvlink_two_sided: TensorRT-LLM's",
                (
                    "normal",
                    "low_latency",
                    "v2_context",
                    "v2_generation",
                    "nvlink_one_sided",
                    "nvlink_two_sided",
                ),
            ),
            DTYPE,
            count("devices", "devices in the group", minimum=2),
            count("nodes", "fast domains that the group spans, of devices / nodes each"),
            count("hidden", "model width"),
            count("top_k", "experts per token"),
            count("experts", "experts of the layer"),
            count("sms", "multiprocessors given to it; 0 is the kernels' own choice", minimum=0),
            count("tokens", "tokens that each device sends, each to top_k experts", "tokens"),
        ),
    ),
    Family(
        "moe_dispatched",
        "Routed experts of one layer on a device of a wide expert group, on tokens that "
        "all_to_all has brought: quantization, products and activation; no routing, no "
        "collective. tokens enter the whole group.",
        (
            text(
                "phase",
                "context, generation: SGLang's layouts for them (contiguous, padded per "
                "expert); any: one kernel for both",
                ("context", "generation", "any"),
            ),
            DTYPE,
            count("hidden", "model width"),
            count("intermediate", "one expert's width"),
            count("top_k", "experts per token"),
            count("experts", "experts of the layer, before expert parallelism"),
            count("slots", "copies of experts in the whole group; more than experts: some twice"),
            count("ep", "expert parallelism"),
            text(
                "routing",
                "balanced, or power_law_A as in moe; with _eplb after placing busy experts "
                "so that devices' loads are even",
            ),
            count("tokens", "tokens entering the whole group", "tokens"),
        ),
    ),
    Family(
        "point_to_point",
        "One message from one device to another. send_recv is timed from the start of either "
        "until both are done; send and recv on that side alone.",
        (
            text("operation", "which side is timed", ("send", "recv", "send_recv")),
            DTYPE,
            count("devices", "devices that take part: 2", minimum=2),
            count("nodes", "1: both in one fast domain; 2: one in each of two"),
            MESSAGE,
        ),
    ),
    Family(
        "kv_transfer",
        "Moving cached keys and values between a device and another place, as so many "
        "separate blocks.",
        (
            text("direction", "as from_to, of device, peer and host: device_to_host, ..."),
            text("link", "what carries it: nvlink, pcie, rdma, ..."),
            DTYPE,
            count("blocks", "separate pieces, of message_bytes / blocks each"),
            MESSAGE,
        ),
    ),
    Family(
        "elementwise",
        "A kernel whose work grows with tokens * width alone. width is that of the output, "
        "but for rope: of queries and keys in sum. add sums two tensors; silu_mul reads twice "
        "its width, gelu once; softmax is over the width.",
        (
            text("operation", "rms_norm, layer_norm, silu_mul, gelu, add, rope, softmax, ..."),
            DTYPE,
            count("width", "values per token"),
            count("tokens", "tokens in the call", "tokens"),
        ),
    ),
)
