"""The families of measured tables: columns, units, and what exactly was timed.

One Parquet file holds one family of one device under one engine. A row is one
measurement: a shape, and `time_s`, the time that one call takes on one device. Rows
are unique in the columns other than `kernel`, `time_s` and the provenance.

All head counts and widths are those that reach the kernel, so after tensor
parallelism, except where a column says otherwise. Times are of the steady state
(warmed up, autotuned where the engine autotunes, launched from a CUDA graph where the
engine's collector could capture one), so they exclude the launch overhead of eager mode.

Every table may have the columns `power_w` and `spread` besides, empty where unknown.
"""

from __future__ import annotations

from perfmodel.database._columns import (
    BATCH,
    CONTEXT,
    DEVICES,
    DTYPE,
    GQA,
    HEADS,
    KV_DTYPE,
    MESSAGE,
    MODULE,
    NEW,
    OPTIONAL,
    POWER,
    PREFIX,
    PROVENANCE,
    SPREAD,
    TIME,
    Column,
    Family,
    Kind,
    count,
    text,
)
from perfmodel.database._more_families import MORE_FAMILIES

__all__ = [
    "FAMILIES",
    "OPTIONAL",
    "POWER",
    "PROVENANCE",
    "SPREAD",
    "TIME",
    "Column",
    "Family",
    "Kind",
]

FAMILIES = {
    family.name: family
    for family in (
        Family(
            "gemm",
            "A linear layer [m, k] x [k, n], bf16 in and out. 8-bit and 4-bit formats include "
            "the quantization of its input with scales found on the fly: as n goes to zero "
            "their time stays at that of quantizing [m, k].",
            (
                DTYPE,
                count("n", "output width"),
                count("k", "input width"),
                count("m", "rows: tokens in the call", "tokens"),
            ),
        ),
        Family(
            "attention_context",
            "Causal prefill attention, its rotary embedding and cache write included where "
            "the engine fuses them. dtype is that of the products: fp8 needs an fp8 cache.",
            (*GQA, BATCH, NEW, PREFIX),
        ),
        Family(
            "attention_generation",
            "Decode attention of one new token per sequence over its cache. With a window "
            "only its last tokens are read; context_tokens still counts the whole history.",
            (*GQA, BATCH, CONTEXT),
        ),
        Family(
            "mla_context",
            "Prefill attention of DeepSeek-V3's MLA over expanded keys (192 per head) and "
            "values (128 per head), without the projections. Of pytorch, which fuses nothing, "
            "with all that lies between them: the latent's norm, rotary embedding, cache write.",
            (HEADS, DTYPE, KV_DTYPE, BATCH, NEW, PREFIX),
        ),
        Family(
            "mla_generation",
            "Decode attention of DeepSeek-V3's MLA over the cached latent (512 + 64 per "
            "token, not sharded by TP), without the absorbed products around it; of pytorch "
            "as mla_context.",
            (HEADS, DTYPE, KV_DTYPE, BATCH, CONTEXT),
        ),
        Family(
            "mla_bmm",
            "One of the batched products around MLA decode: pre maps each head's 128 query "
            "dimensions to the latent's 512, post maps 512 back to 128 value dimensions.",
            (
                text("stage", "before or after attention", ("pre", "post")),
                DTYPE,
                HEADS,
                count("tokens", "rows per head: tokens in the call", "tokens"),
            ),
        ),
        Family(
            "mla_context_module",
            "DeepSeek-V3's whole attention block in prefill: projections, norms, rotary "
            "embedding, attention and output projection of the heads on this device; no "
            "collective. Takes the place of mla_context and its products.",
            (*MODULE, NEW, PREFIX),
        ),
        Family(
            "mla_generation_module",
            "DeepSeek-V3's whole attention block in decode, one new token per sequence; as "
            "mla_context_module.",
            (*MODULE, CONTEXT),
        ),
        Family(
            "moe",
            "Routed experts of one layer on the busiest device of the expert group: top-k "
            "of given router scores, quantization of bf16 activations, permutation, up (and "
            "gate) products, activation, down product, weighted sum; no collective, no "
            "shared expert, no router product. Each device is given all tokens of the group "
            "and computes those routed to its experts.",
            (
                DTYPE,
                count("hidden", "model width"),
                count("intermediate", "one expert's width, before tensor parallelism"),
                count("top_k", "experts per token"),
                count("experts", "experts of the layer, before expert parallelism"),
                count("tp", "tensor parallelism inside an expert"),
                count("ep", "expert parallelism"),
                text(
                    "routing",
                    "distribution of tokens over experts: balanced; power_law_A with "
                    "loads drawn from a power law of exponent A (mean of five draws); or "
                    "uniform, each token's drawn independently (mean of five draws)",
                ),
                text(
                    "activation",
                    "gated (SwiGLU and its kin: three products) or plain (squared ReLU: two)",
                    ("gated", "plain"),
                ),
                count(
                    "tokens",
                    "tokens entering the whole group, each routed to top_k experts",
                    "tokens",
                ),
            ),
        ),
        Family(
            "all_reduce",
            "The engine's own all-reduce, launched from a CUDA graph. message_bytes is the "
            "tensor's size, the same on every device.",
            (DTYPE, DEVICES, MESSAGE),
        ),
        Family(
            "collective",
            "NCCL, as measured by nccl-tests (of pytorch by a loop of calls; between CPU "
            "processes gloo). message_bytes is the size of: all_reduce, the "
            "tensor on each device; all_gather, the gathered output (each device gives 1/n); "
            "reduce_scatter, the input on each device (each ends with 1/n); alltoall, all "
            "that one device holds to send, the 1/n it keeps included. So each device sends "
            "(n-1)/n of message_bytes, twice that for a ring all-reduce. dtype bf16 stands "
            "for any 2-byte format (fp16 was timed).",
            (
                text(
                    "operation",
                    "which collective",
                    ("all_gather", "all_reduce", "alltoall", "reduce_scatter"),
                ),
                DTYPE,
                DEVICES,
                MESSAGE,
            ),
        ),
        *MORE_FAMILIES,
    )
}
"""All families by name."""
