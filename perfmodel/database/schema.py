"""The families of measured tables: columns, units, and what exactly was timed.

One Parquet file holds one family of one device under one engine. A row is one
measurement: a shape, and `time_s`, the time that one call takes on one device. Rows
are unique in the columns other than `kernel`, `time_s` and the provenance.

All head counts and widths are those that reach the kernel, so after tensor
parallelism, except where a column says otherwise. Times are of the steady state
(warmed up, autotuned where the engine autotunes, launched from a CUDA graph where the
engine's collector could capture one), so they exclude the launch overhead of eager mode.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["text", "integer", "real"]


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        name: its name in the file.
        kind: `text`, `integer` or `real`.
        unit: unit of the value; empty for names and counts.
        meaning: what it is.
        minimum: smallest value of an integer.
        choices: the only values of a text; empty if open.
        storage: polars type that the value has in memory and in shipped files.
    """

    name: str
    kind: Kind
    unit: str
    meaning: str
    minimum: int = 1
    choices: tuple[str, ...] = ()
    storage: str = "Int32"


def _text(name: str, meaning: str, choices: tuple[str, ...] = ()) -> Column:
    return Column(name, "text", "", meaning, choices=choices, storage="String")


def _count(name: str, meaning: str, unit: str = "", minimum: int = 1) -> Column:
    return Column(name, "integer", unit, meaning, minimum)


# Single precision: its 6e-8 is far below the repeatability of a measurement (repeated rows
# of one shape differ by about 1 % in the median), and it halves the shipped size.
TIME = Column("time_s", "real", "s", "time of one call on one device", storage="Float32")

PROVENANCE = (
    _text("device", "device's name, as in the device files and the folder"),
    _text("engine", "trtllm, vllm, sglang, or nccl for tables shared by all engines"),
    _text("engine_version", "version that was measured"),
    _text("kernel", "implementation timed, as its producer names it"),
    _text("origin", "the file, in the package or folder, that the row was taken from"),
    _text("licence", "SPDX id of the licence of the row"),
)

_DTYPE = _text("dtype", "number format of the weights (of queries, for attention)")
_KV_DTYPE = _text("kv_dtype", "number format of the KV cache")
_BATCH = _count("batch", "sequences in the call")
_NEW = _count("tokens", "new tokens per sequence, all of the same length", "tokens")
_PREFIX = _count("prefix_tokens", "tokens per sequence already in the cache", "tokens", 0)
_CONTEXT = _count(
    "context_tokens", "cache length that the step attends to, its own token included", "tokens"
)
_HEADS = _count("heads", "query heads on this device")
_GQA = (
    _count("q_heads", "query heads on this device"),
    _count("kv_heads", "key-value heads on this device (equal to q_heads: multi-head attention)"),
    _count("head_dim", "dimensions of a head"),
    _count("window_tokens", "sliding window; 0 is full attention", "tokens", 0),
    _DTYPE,
    _KV_DTYPE,
)
_MESSAGE = Column("message_bytes", "integer", "bytes", "payload, see the family", storage="Int64")
_DEVICES = _count("devices", "devices in the group, all in one fast domain", minimum=2)
_MODULE = (
    _text("gemm_dtype", "number format of the projections' weights"),
    _HEADS,
    _DTYPE,
    _KV_DTYPE,
    _BATCH,
)


@dataclass(frozen=True)
class Family:
    """One kind of operator.

    Attributes:
        name: file name without its ending.
        meaning: what one call does, what the time includes and what it leaves out.
        key: shape columns, unique together; in the order by which shipped files are sorted.
    """

    name: str
    meaning: str
    key: tuple[Column, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        """Every column, in file order."""
        return (*self.key, TIME, *PROVENANCE)

    @property
    def key_names(self) -> tuple[str, ...]:
        """Names of the shape columns."""
        return tuple(column.name for column in self.key)


FAMILIES = {
    family.name: family
    for family in (
        Family(
            "gemm",
            "A linear layer [m, k] x [k, n], bf16 in and out. 8-bit and 4-bit formats include "
            "the quantization of its input with scales found on the fly: as n goes to zero "
            "their time stays at that of quantizing [m, k].",
            (
                _DTYPE,
                _count("n", "output width"),
                _count("k", "input width"),
                _count("m", "rows: tokens in the call", "tokens"),
            ),
        ),
        Family(
            "attention_context",
            "Causal prefill attention, its rotary embedding and cache write included where "
            "the engine fuses them. dtype is that of the products: fp8 needs an fp8 cache.",
            (*_GQA, _BATCH, _NEW, _PREFIX),
        ),
        Family(
            "attention_generation",
            "Decode attention of one new token per sequence over its cache. With a window "
            "only its last tokens are read; context_tokens still counts the whole history.",
            (*_GQA, _BATCH, _CONTEXT),
        ),
        Family(
            "mla_context",
            "Prefill attention of DeepSeek-V3's MLA over expanded keys (192 per head) and "
            "values (128 per head), without the projections.",
            (_HEADS, _DTYPE, _KV_DTYPE, _BATCH, _NEW, _PREFIX),
        ),
        Family(
            "mla_generation",
            "Decode attention of DeepSeek-V3's MLA over the cached latent (512 + 64 per "
            "token, not sharded by TP), without the absorbed products around it.",
            (_HEADS, _DTYPE, _KV_DTYPE, _BATCH, _CONTEXT),
        ),
        Family(
            "mla_bmm",
            "One of the batched products around MLA decode: pre maps each head's 128 query "
            "dimensions to the latent's 512, post maps 512 back to 128 value dimensions.",
            (
                _text("stage", "before or after attention", ("pre", "post")),
                _DTYPE,
                _HEADS,
                _count("tokens", "rows per head: tokens in the call", "tokens"),
            ),
        ),
        Family(
            "mla_context_module",
            "DeepSeek-V3's whole attention block in prefill: projections, norms, rotary "
            "embedding, attention and output projection of the heads on this device; no "
            "collective. Takes the place of mla_context and its products.",
            (*_MODULE, _NEW, _PREFIX),
        ),
        Family(
            "mla_generation_module",
            "DeepSeek-V3's whole attention block in decode, one new token per sequence; as "
            "mla_context_module.",
            (*_MODULE, _CONTEXT),
        ),
        Family(
            "moe",
            "Routed experts of one layer on the busiest device of the expert group: top-k "
            "of given router scores, quantization of bf16 activations, permutation, up (and "
            "gate) products, activation, down product, weighted sum; no collective, no "
            "shared expert, no router product. Each device is given all tokens of the group "
            "and computes those routed to its experts.",
            (
                _DTYPE,
                _count("hidden", "model width"),
                _count("intermediate", "one expert's width, before tensor parallelism"),
                _count("top_k", "experts per token"),
                _count("experts", "experts of the layer, before expert parallelism"),
                _count("tp", "tensor parallelism inside an expert"),
                _count("ep", "expert parallelism"),
                _text(
                    "routing",
                    "distribution of tokens over experts: balanced, or power_law_A with "
                    "loads drawn from a power law of exponent A (mean of five draws)",
                ),
                _text(
                    "activation",
                    "gated (SwiGLU and its kin: three products) or plain (squared ReLU: two)",
                    ("gated", "plain"),
                ),
                _count(
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
            (_DTYPE, _DEVICES, _MESSAGE),
        ),
        Family(
            "collective",
            "NCCL, as measured by nccl-tests. message_bytes is the size of: all_reduce, the "
            "tensor on each device; all_gather, the gathered output (each device gives 1/n); "
            "reduce_scatter, the input on each device (each ends with 1/n); alltoall, all "
            "that one device holds to send, the 1/n it keeps included. So each device sends "
            "(n-1)/n of message_bytes, twice that for a ring all-reduce. dtype bf16 stands "
            "for any 2-byte format (fp16 was timed).",
            (
                _text(
                    "operation",
                    "which collective",
                    ("all_gather", "all_reduce", "alltoall", "reduce_scatter"),
                ),
                _DTYPE,
                _DEVICES,
                _MESSAGE,
            ),
        ),
    )
}
"""All families by name."""
