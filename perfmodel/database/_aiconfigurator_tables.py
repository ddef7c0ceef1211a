"""How each table of NVIDIA's aiconfigurator-core is read as one of our families.

Only the facts of a row are taken; units and names become ours. What the producer's
columns mean was settled from how the SDK of release 0.12.0 reads them and from physics:

- `latency` is in milliseconds.
- Communication `message_size` counts elements, not bytes: 2^28 fp16 elements take as long
  as 2^29 int8 ones, and only so do large messages reach the links' known rate (all-gather
  over 8 H200: 337 GB/s of 450 per direction). It is the whole tensor, not one rank's part.
- Decode `step` counts tokens cached before the step, so attention sees `isl + step` (isl
  is 1). In the MLA module tables `step` already includes the new token.
- Head counts are per device; `tp_size` beside them only tells how the producer came there.
- MoE `num_tokens` enter the whole group; `inter_size` and `num_experts` are the model's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import polars as pl

ENGINES = ("trtllm", "vllm", "sglang")

NUMBER_FORMATS = {
    "bfloat16": "bf16",
    # Collectives of fp16 move what those of bf16 do.
    "half": "bf16",
    "int8": "int8",
    "fp8": "fp8",
    "fp8_e4m3": "fp8",
    "fp8_block": "fp8_block",
    "nvfp4": "nvfp4",
    "fp4": "nvfp4",
    # TensorRT-LLM's SmoothQuant: int8 weights and activations.
    "sq": "int8",
    "int8_wo": "int8_weight_only",
    "int4_wo": "int4",
    "w4a16_mxfp4": "mxfp4",
    "w4a8_mxfp4_mxfp8": "mxfp4_mxfp8",
    "w4afp8": "int4_fp8",
}
"""The producer's names of number formats, and ours. Any other is refused."""

# (hidden, intermediate, top_k, experts) of the layers whose experts have no gate: exactly those
# that TensorRT-LLM's rows mark as non-gated. Other engines measured them too, unmarked.
PLAIN_EXPERTS = {
    (1024, 2688, 22, 512),
    (2048, 5120, 22, 512),
    (2688, 1856, 6, 128),
    (4096, 2688, 22, 512),
    (8192, 5120, 22, 512),
}

MIN_LATENCY_TOKENS = 128
"""TensorRT-LLM's low-latency nvfp4 expert kernel is used up to this many tokens."""

MIN_LATENCY_EXPERTS = 16
"""And from this many experts: with 8, its rows would need 26 TB/s of an 8 TB/s memory."""

GROUP_LIMITED = {("sglang", "0.5.14"), ("vllm", "0.24.0")}
"""Engines whose DeepSeek-V3 rows were routed through its group-limited gate (4 groups of 8).

Scores made for balanced loads tie there, and all tokens go to the same half of the experts
and most of all to the first device: at EP 64 a "balanced" batch of 8,192 tokens takes 4.2 ms
where TensorRT-LLM's, routed without groups, takes 0.23.
"""

DEEPSEEK_V3 = {"hidden": 7168, "intermediate": 2048, "top_k": 8, "experts": 256}

WITHHELD = {
    ("a100_sxm", "trtllm", "attention_generation"): (
        "long contexts are read at 3.4 TB/s by a device of 2.04 TB/s, as if keys and values "
        "shared one buffer; other engines on it stay below 85 % of its bandwidth"
    ),
}
"""(system, engine, family) of tables that are physically impossible as a whole, and why."""

Rank = Callable[[pl.DataFrame], pl.DataFrame]


@dataclass(frozen=True)
class Recipe:
    """How one family is read.

    Attributes:
        group: the producer's folder.
        file: the producer's table.
        columns: our column -> the producer's.
        optional: our column -> its value where the producer's column is absent.
        formats: our columns that hold a number format.
        values: our column -> the producer's words in ours.
        derived: our columns, computed from the producer's, by name.
        engines: engines whose table is taken.
        prefer: drops rows of kernels that an engine would not run.
        seconds: time of a row, from the producer's columns; their latency is in ms.
        only: which of the file's rows this reads; None is all.
        drop: why rows are left out -> which, on the producer's columns. With any, times of
            zero in the file are no reason to refuse it.
        version: the one version that is taken; empty for the engine's current or newest.
    """

    group: str
    file: str
    columns: Mapping[str, str]
    formats: tuple[str, ...] = ("dtype",)
    optional: Mapping[str, int] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    derived: Mapping[str, pl.Expr] = field(default_factory=dict)
    engines: tuple[str, ...] = ENGINES
    prefer: Rank = lambda rows: rows
    seconds: pl.Expr = field(default_factory=lambda: pl.col("latency") / 1e3)
    only: pl.Expr | None = None
    drop: Mapping[str, pl.Expr] = field(default_factory=dict)
    version: str = ""


def _graph_launched(rows: pl.DataFrame) -> pl.DataFrame:
    """Engines decode from CUDA graphs: the eager rows add launch overhead."""
    return rows.filter(~pl.col("kernel").str.ends_with("_eager"))


def _serving_attention(rows: pl.DataFrame) -> pl.DataFrame:
    """SGLang on Blackwell runs TensorRT-LLM's kernels unless a model pins another."""
    return first_choice(rows, pl.col("kernel") != "trtllm_mha")


def _serving_experts(rows: pl.DataFrame) -> pl.DataFrame:
    """The low-latency kernel where it is used, and nowhere else; no balance in name only."""
    low_latency = pl.col("kernel") == "moe_torch_flow_min_latency"
    balanced = pl.col("routing") == "balanced"
    used = (
        (pl.col("tokens") <= MIN_LATENCY_TOKENS)
        & (pl.col("experts") >= MIN_LATENCY_EXPERTS)
        & (pl.col("activation") == "gated")
        # This kernel was always timed behind DeepSeek-V3's gate.
        & ~balanced
    )
    engines = pl.struct("engine", "engine_version").is_in(
        [{"engine": engine, "engine_version": version} for engine, version in GROUP_LIMITED]
    )
    skewed = (
        engines
        & balanced
        & pl.all_horizontal(pl.col(name) == value for name, value in DEEPSEEK_V3.items())
    )
    rows = rows.filter((~low_latency | used) & ~skewed)
    return first_choice(rows, ~low_latency)


def first_choice(rows: pl.DataFrame, later: pl.Expr) -> pl.DataFrame:
    """Stable sort: rows for which `later` is false come first, and win against the others."""
    return (
        rows.with_columns(later.alias("_later")).sort("_later", maintain_order=True).drop("_later")
    )


_GQA = {
    "q_heads": "num_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "window_tokens": "window_size",
    "dtype": "attn_dtype",
    "kv_dtype": "kv_cache_dtype",
    "batch": "batch_size",
}
_MLA = {
    "heads": "num_heads",
    "dtype": "mla_dtype",
    "kv_dtype": "kv_cache_dtype",
    "batch": "batch_size",
}
_ATTENDED = {"context_tokens": pl.col("isl") + pl.col("step")}
_PREFILL = {"tokens": "isl", "prefix_tokens": "step"}
_ATTENTION_FORMATS = ("dtype", "kv_dtype")
_ELEMENT_BYTES = {"half": 2, "bfloat16": 2, "int8": 1}


def _payload(dtype: str) -> dict[str, pl.Expr]:
    width = pl.col(dtype).replace_strict(_ELEMENT_BYTES, default=None, return_dtype=pl.Int64)
    return {"message_bytes": pl.col("message_size") * width}


RECIPES: dict[str, Recipe] = {
    "gemm": Recipe(
        "gemm", "gemm_perf.parquet", {"dtype": "gemm_dtype", "n": "n", "k": "k", "m": "m"}
    ),
    "attention_context": Recipe(
        "attention",
        "context_attention_perf.parquet",
        {**_GQA, **_PREFILL},
        formats=_ATTENTION_FORMATS,
        optional={"window_tokens": 0},
        prefer=_serving_attention,
    ),
    "attention_generation": Recipe(
        "attention",
        "generation_attention_perf.parquet",
        _GQA,
        formats=_ATTENTION_FORMATS,
        optional={"window_tokens": 0},
        derived=_ATTENDED,
        prefer=_serving_attention,
    ),
    "mla_context": Recipe(
        "mla", "context_mla_perf.parquet", {**_MLA, **_PREFILL}, formats=_ATTENTION_FORMATS
    ),
    "mla_generation": Recipe(
        "mla",
        "generation_mla_perf.parquet",
        _MLA,
        formats=_ATTENTION_FORMATS,
        derived=_ATTENDED,
    ),
    "mla_bmm": Recipe(
        "mla_bmm",
        "mla_bmm_perf.parquet",
        {"stage": "op_name", "dtype": "bmm_dtype", "heads": "num_heads", "tokens": "num_tokens"},
        values={"stage": {"mla_gen_pre": "pre", "mla_gen_post": "post"}},
    ),
    # The other engines have the separate kernels, which also serve other models' projections.
    "mla_context_module": Recipe(
        "mla",
        "mla_context_module_perf.parquet",
        {"gemm_dtype": "gemm_type", **_MLA, **_PREFILL},
        formats=("gemm_dtype", *_ATTENTION_FORMATS),
        engines=("vllm",),
    ),
    "mla_generation_module": Recipe(
        "mla",
        "mla_generation_module_perf.parquet",
        {"gemm_dtype": "gemm_type", **_MLA, "context_tokens": "step"},
        formats=("gemm_dtype", *_ATTENTION_FORMATS),
        engines=("vllm",),
    ),
    "moe": Recipe(
        "moe",
        "moe_perf.parquet",
        {
            "dtype": "moe_dtype",
            "hidden": "hidden_size",
            "intermediate": "inter_size",
            "top_k": "topk",
            "experts": "num_experts",
            "tp": "moe_tp_size",
            "ep": "moe_ep_size",
            "routing": "distribution",
            "tokens": "num_tokens",
        },
        derived={
            "activation": pl.when(
                pl.any_horizontal(
                    pl.all_horizontal(
                        pl.col("hidden_size") == hidden,
                        pl.col("inter_size") == intermediate,
                        pl.col("topk") == top_k,
                        pl.col("num_experts") == experts,
                    )
                    for hidden, intermediate, top_k, experts in sorted(PLAIN_EXPERTS)
                )
            )
            .then(pl.lit("plain"))
            .otherwise(pl.lit("gated"))
        },
        prefer=_serving_experts,
    ),
    "all_reduce": Recipe(
        "comm",
        "custom_allreduce_perf.parquet",
        {"dtype": "allreduce_dtype", "devices": "num_gpus"},
        derived=_payload("allreduce_dtype"),
        prefer=_graph_launched,
    ),
    "collective": Recipe(
        "comm",
        "nccl_perf.parquet",
        {"operation": "op_name", "dtype": "nccl_dtype", "devices": "num_gpus"},
        derived=_payload("nccl_dtype"),
        engines=("nccl",),
    ),
}
"""By family name."""
