"""How aiconfigurator-core's tables beyond dense layers are read as ours.

What their columns mean, beside what `_aiconfigurator_tables` says:

- `computescale` of vllm and sglang is the dynamic kernel's time less the static one's, set to
  zero where negative. SGLang's dynamic kernel is the faster one in 1,610 to 1,627 of 1,628
  shapes, so nothing is left of that table and it isn't read.
- DeepEP's `num_token` are of one device: 65,536 of 7,168 wide over 8 H200 would otherwise
  move at less than a tenth of the links' rate. SGLang's normal dispatch carries fp8: at 2 bytes
  it would move 570 GB/s over links of 450; its low-latency kernels report bandwidths of one
  byte and its scales out, two bytes back. Times are in microseconds, `moe_a2a`'s latency too.
- `wideep` experts: `num_tokens` enter the whole group, as in `moe` (per device they would need
  8.8 of 2 PFLOP/s on an H200).
- `step` of DSA decode under trtllm and vllm includes the new token, elsewhere it doesn't: the
  former grids are powers of two from 2 on, the latter one less, or end one below a limit.
- SGLang's wide MLA decode has its context in `isl`.
- Widths of models without influence on a scan's kernel (`d_model`) are dropped: rows that differ
  in it alone agree to 0.3 % in the median.
"""

from __future__ import annotations

import polars as pl

from perfmodel.database._aiconfigurator_tables import Recipe, first_choice

MIN_LATENCY_MS = 1e-4
"""A difference of two timings below this is their noise."""

SPARSE_MODELS = {
    "deepseek-ai/DeepSeek-V3.2": "deepseek-v3.2",
    # GLM-5.2 has GLM-5's attention; its variants differ in the format of the weights.
    "zai-org/GLM-5": "glm-5",
    "zai-org/GLM-5-FP8": "glm-5",
    "zai-org/GLM-5.2": "glm-5",
    "zai-org/GLM-5.2-FP8": "glm-5",
    "nvidia/GLM-5.2-NVFP4": "glm-5",
    "MiniMaxAI/MiniMax-M3": "minimax-m3",
    "deepseek-ai/DeepSeek-V4-Pro": "deepseek-v4-pro",
    "sgl-project/DeepSeek-V4-Pro-FP8": "deepseek-v4-pro",
    "deepseek-ai/DeepSeek-V4-Flash": "deepseek-v4-flash",
    "sgl-project/DeepSeek-V4-Flash-FP8": "deepseek-v4-flash",
}

_BF16 = {"dtype": pl.lit("bf16")}
_CONTEXT_LENGTH = pl.col("isl") + pl.col("step")


def _quantize(file: str, operation: str, **more: object) -> Recipe:
    return Recipe(
        "quantize",
        file,
        {"dtype": "quant_dtype", "k": "k", "m": "m"},
        derived={"operation": pl.lit(operation)},
        **more,  # type: ignore[arg-type]
    )


_SCAN = {"phase": "phase", "conv_width": "d_conv", "batch": "batch_size", "tokens": "seq_len"}
_OLD_SGLANG = pl.col("version") == "0.5.10"
_FUSED = ("kda_fused_decode", "fused_kda_decode", "fused_kda_decode_mtp_dspark")
_OPERATION = (
    pl.when(pl.col("kernel_source").str.starts_with("causal_conv1d"))
    .then(pl.lit("conv"))
    .when(pl.col("kernel_source").is_in(_FUSED))
    .then(pl.lit("fused"))
    .otherwise(pl.lit("scan"))
)


# TensorRT-LLM's collector, and SGLang's of 0.5.10, convolve the keys' channels alone: 16 to
# 64 value heads take the same time, up to 5 times less than reading all channels would.
_PARTIAL_CONV = (
    (pl.col("framework") == "TRTLLM") | ((pl.col("framework") == "SGLang") & _OLD_SGLANG)
) & pl.col("kernel_source").str.starts_with("causal_conv1d")
# vLLM's rows start at 0.76 ms, a launch from Python; so they don't grow with tokens as they
# should either (L40S, 32,768 tokens: 2.8 TB/s of 0.86).
_LAUNCHED_CONV = (pl.col("framework") == "VLLM") & (
    pl.col("kernel_source") == "causal_conv1d_fn_qkv3"
)


def _delta(group: str, file: str, engines: tuple[str, ...]) -> Recipe:
    return Recipe(
        group,
        file,
        {
            **_SCAN,
            "k_heads": "num_k_heads",
            "k_dim": "head_k_dim",
            "v_heads": "num_v_heads",
            "v_dim": "head_v_dim",
        },
        formats=(),
        derived={"operation": _OPERATION, **_BF16},
        engines=engines,
        drop={
            "the convolution ran over a part of the channels": _PARTIAL_CONV,
            "the convolution's launch from Python hides its time": _LAUNCHED_CONV,
        },
    )


def _sparse(
    group: str,
    variant: str,
    file: str,
    context_tokens: pl.Expr | None = None,
    engines: tuple[str, ...] = ("trtllm", "vllm", "sglang"),
) -> Recipe:
    """A module's table; decode if the context's length is given."""
    columns = {
        "model": "model",
        "gemm_dtype": "gemm_type",
        "heads": "num_heads",
        "dtype": "mla_dtype",
        "kv_dtype": "kv_cache_dtype",
        "batch": "batch_size",
    }
    derived = {"variant": pl.lit(variant)}
    if variant == "dsa":
        reuse = pl.col("op_name").str.ends_with("_skip_indexer")
        derived["variant"] = pl.when(reuse).then(pl.lit("dsa_reuse")).otherwise(pl.lit("dsa"))
    if context_tokens is None:
        columns |= {"tokens": "isl", "prefix_tokens": "step"}
    else:
        derived["context_tokens"] = context_tokens
    return Recipe(
        group,
        file,
        columns,
        formats=("gemm_dtype", "dtype", "kv_dtype"),
        values={"model": SPARSE_MODELS},
        derived=derived,
        engines=engines,
    )


def _serving_mla(rows: pl.DataFrame) -> pl.DataFrame:
    """SGLang on Hopper runs FlashAttention 3 unless told otherwise."""
    return first_choice(rows, pl.col("kernel") != "fa3")


def _wide_mla(file: str, *, decode: bool) -> Recipe:
    columns = {
        "gemm_dtype": "gemm_type",
        "heads": "num_heads",
        "dtype": "mla_dtype",
        "kv_dtype": "kv_cache_dtype",
        "batch": "batch_size",
    }
    if not decode:
        columns |= {"tokens": "isl", "prefix_tokens": "step"}
    return Recipe(
        "mla",
        file,
        columns,
        formats=("gemm_dtype", "dtype", "kv_dtype"),
        derived={"context_tokens": _CONTEXT_LENGTH} if decode else {},
        engines=("sglang",),
        prefer=_serving_mla,
    )


# Devices of a node: the producer's files name nodes only.
_PER_NODE = pl.when(pl.col("_system").str.starts_with("gb")).then(4).otherwise(8)
_DEEPEP = {
    "nodes": "node_num",
    "hidden": "hidden_size",
    "top_k": "num_topk",
    "experts": "num_experts",
    "tokens": "num_token",
}
_OLDER = {"version": "0.5.6.post2", "only": pl.col("node_num") > 1}
"""Several nodes were timed with this version only."""


def _deepep(mode: str, operation: str, **more: object) -> Recipe:
    normal = mode == "normal"
    time = f"{operation}_transmit_us" if normal else f"{operation}_avg_t_us"
    notify = pl.col(f"{operation}_notify_us") if normal else pl.lit(0.0)
    return Recipe(
        "comm",
        f"wideep_deepep_{'normal' if normal else 'll'}_perf.parquet",
        {**_DEEPEP, "sms": f"{operation}_sms"} if normal else _DEEPEP,
        formats=(),
        derived={
            "operation": pl.lit(operation),
            "mode": pl.lit(mode),
            "dtype": pl.lit("fp8" if operation == "dispatch" else "bf16"),
            "devices": pl.col("node_num") * _PER_NODE,
            **({} if normal else {"sms": pl.lit(0, pl.Int32)}),
        },
        engines=("sglang",),
        seconds=(pl.col(time) + notify) / 1e6,
        drop={"no time": pl.col(time) <= 0},
        **more,  # type: ignore[arg-type]
    )


_A2A = Recipe(
    "comm",
    "moe_a2a_perf.parquet",
    {
        "operation": "phase",
        "mode": "comm_backend",
        "dtype": "comm_dtype",
        "devices": "ep_size",
        "nodes": "node_num",
        "hidden": "hidden_size",
        "top_k": "topk",
        "experts": "num_experts",
        "sms": "sms",
        "tokens": "num_tokens",
    },
    formats=(),
    values={
        "mode": {
            "trtllm_deepep_ht": "normal",
            "trtllm_deepep_ll": "low_latency",
            "deepep_ht": "normal",
            "deepep_ll": "low_latency",
            "deepep_v2_context": "v2_context",
            "deepep_v2_generation": "v2_generation",
        },
        "dtype": {
            "bfloat16": "bf16",
            "fp8": "fp8",
            "nvfp4": "nvfp4",
            "fp4": "nvfp4",
            "default": "unstated",
        },
    },
    seconds=pl.col("latency") / 1e6,
    engines=("trtllm", "vllm"),
)
_NVLINK = Recipe(
    "comm",
    "trtllm_alltoall_perf.parquet",
    {
        "operation": "op_name",
        "mode": "kernel_source",
        "dtype": "moe_dtype",
        "devices": "moe_ep_size",
        "hidden": "hidden_size",
        "top_k": "topk",
        "experts": "num_experts",
        "tokens": "num_tokens",
    },
    values={
        "operation": {
            "alltoall_prepare": "prepare",
            "alltoall_dispatch": "dispatch",
            "alltoall_combine": "combine",
            "alltoall_combine_low_precision": "combine_low_precision",
        },
        "mode": {"NVLinkOneSided": "nvlink_one_sided", "NVLinkTwoSided": "nvlink_two_sided"},
    },
    derived={"nodes": pl.lit(1, pl.Int32), "sms": pl.lit(0, pl.Int32)},
    engines=("trtllm",),
)

_EXPERTS = {
    "dtype": "moe_dtype",
    "hidden": "hidden_size",
    "intermediate": "inter_size",
    "top_k": "topk",
    "experts": "num_experts",
    "ep": "moe_ep_size",
    "tokens": "num_tokens",
}
_ROUTING = pl.col("distribution").replace({"uniform": "balanced"})


def _dispatched(phase: str) -> Recipe:
    if phase == "any":
        file, columns, engine = "wideep_moe", {**_EXPERTS, "slots": "num_slots"}, "trtllm"
    else:
        file, columns, engine = f"wideep_{phase}_moe", _EXPERTS, "sglang"
    derived = {"phase": pl.lit(phase), "routing": _ROUTING}
    if phase != "any":
        derived["slots"] = pl.col("num_experts")
    return Recipe("moe", f"{file}_perf.parquet", columns, derived=derived, engines=(engine,))


MORE_RECIPES: dict[str, tuple[Recipe, ...]] = {
    "quantize": (
        _quantize("scale_matrix_perf.parquet", "apply"),
        _quantize(
            "computescale_perf.parquet",
            "find",
            engines=("trtllm", "vllm"),
            drop={
                "finding the scales took no more time than repeated runs differ by": (
                    pl.col("latency") < MIN_LATENCY_MS
                )
            },
        ),
    ),
    "mamba2": (
        Recipe(
            "linear_attention",
            "mamba2_perf.parquet",
            {
                **_SCAN,
                "heads": "nheads",
                "head_dim": "head_dim",
                "state": "d_state",
                "groups": "n_groups",
                "chunk": "chunk_size",
            },
            formats=(),
            derived={"operation": _OPERATION, **_BF16},
            engines=("trtllm",),
        ),
    ),
    "gated_delta_net": (
        _delta("linear_attention", "gdn_perf.parquet", ("trtllm", "vllm", "sglang")),
    ),
    "kda": (_delta("kda", "kda_perf.parquet", ("vllm", "sglang")),),
    "encoder_attention": (
        Recipe(
            "encoder_attention",
            "encoder_attention_perf.parquet",
            {
                "dtype": "attn_dtype",
                "heads": "num_heads",
                "head_dim": "head_dim",
                "batch": "batch_size",
                "tokens": "isl",
            },
        ),
    ),
    "sparse_attention_context_module": (
        _sparse("sparse_attention", "dsa", "dsa_context_module_perf.parquet"),
        _sparse("msa", "msa", "msa_context_module_perf.parquet"),
        _sparse("sparse_attention", "csa", "dsv4_csa_context_module_perf.parquet"),
        _sparse("sparse_attention", "hca", "dsv4_hca_context_module_perf.parquet"),
    ),
    "sparse_attention_generation_module": (
        _sparse(
            "sparse_attention",
            "dsa",
            "dsa_generation_module_perf.parquet",
            pl.col("step"),
            ("trtllm", "vllm"),
        ),
        _sparse(
            "sparse_attention",
            "dsa",
            "dsa_generation_module_perf.parquet",
            _CONTEXT_LENGTH,
            ("sglang",),
        ),
        _sparse("msa", "msa", "msa_generation_module_perf.parquet", _CONTEXT_LENGTH),
        *(
            _sparse(
                "sparse_attention",
                variant,
                f"dsv4_{variant}_generation_module_perf.parquet",
                _CONTEXT_LENGTH,
            )
            for variant in ("csa", "hca")
        ),
    ),
    "wideep_mla_context": (_wide_mla("wideep_context_mla_perf.parquet", decode=False),),
    "wideep_mla_generation": (_wide_mla("wideep_generation_mla_perf.parquet", decode=True),),
    "all_to_all": (
        *(
            _deepep(mode, operation, **more)
            for mode in ("normal", "low_latency")
            for operation in ("dispatch", "combine")
            for more in ({}, _OLDER)
        ),
        _A2A,
        _NVLINK,
    ),
    "moe_dispatched": tuple(_dispatched(phase) for phase in ("any", "context", "generation")),
}
"""By family name: the tables that together make it."""
