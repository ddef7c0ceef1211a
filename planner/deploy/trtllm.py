"""TensorRT-LLM: `trtllm-serve` with a configuration file.

Fields as `tensorrt_llm/llmapi/llm_args.py` has them, which `trtllm-serve --config` reads.
`tensor_parallel_size` counts the devices of a stage, less context parallelism; a switch makes
attention data parallel over all of them; experts divide the stage in two ways. Batch and
tokens are counted per rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planner.deploy.engine import Engine, Launch, Settings, served, step_budget
from planner.deploy.flags import CONFIG, HOSTFILE, Flags
from planner.deploy.intent import PORT, STARTUP_S, PoolSpec, Rollout, layout_row

HELIX_BLOCK = 32
"""Tokens of a cache's block under Helix, which gives the blocks to its ranks in turn."""


class Trtllm(Engine):
    """TensorRT-LLM, on its PyTorch backend."""

    name = "trtllm"
    title = "TensorRT-LLM"
    version = "1.3"
    image = "nvcr.io/nvidia/tensorrt-llm/release:1.3.0rc29"
    router_package = None
    known_flags = (
        "tensor_parallel_size",
        "pipeline_parallel_size",
        "moe_tensor_parallel_size",
        "moe_expert_parallel_size",
        "context_parallel_size",
        "cp_config.cp_type",
        "cp_config.tokens_per_block",
        "enable_attention_dp",
        "gpus_per_node",
        "max_batch_size",
        "max_num_tokens",
        "max_seq_len",
        "enable_chunked_prefill",
        "disable_overlap_scheduler",
        "kv_cache_config.dtype",
        "kv_cache_config.tokens_per_block",
        "kv_cache_config.enable_block_reuse",
        "kv_cache_config.free_gpu_memory_fraction",
        "kv_cache_config.host_cache_size",
        "cuda_graph_config",
        "cuda_graph_config.max_batch_size",
        "cuda_graph_config.enable_padding",
        "moe_config.load_balancer",
        "speculative_config.decoding_type",
        "speculative_config.num_nextn_predict_layers",
        "speculative_config.max_draft_len",
        "speculative_config.speculative_model",
        "cache_transceiver_config.backend",
        "cache_transceiver_config.max_tokens_in_buffer",
        "--host",
        "--port",
        "--config",
        "--server_start_timeout",
    )

    def launch(self, rollout: Rollout, pool: PoolSpec) -> Launch:
        """`trtllm-serve` of one replica; its ranks on several hosts are started by MPI."""
        file = f"{pool.role}.yaml"
        several = pool.hosts > 1
        mpi = ("mpirun", "--allow-run-as-root", "-n", str(pool.world), "--hostfile", HOSTFILE)
        environment = {}
        if rollout.kv_overlap == "layerwise":
            environment["TRTLLM_DISAGG_LAYERWISE"] = "1"
        # A rank that ssh starts has none of the container's variables.
        named = ("PATH", "LD_LIBRARY_PATH", "HF_HOME", "HF_TOKEN", *environment)
        ranks = (*mpi, *(w for n in named for w in ("-x", n)), "trtllm-llmapi-launch")
        return Launch(
            command=(*(ranks if several else ()), "trtllm-serve", "serve"),
            model=(rollout.model,),
            flags={**served(PORT), "--config": f"{CONFIG}/{file}"},
            environment=environment,
            config=(file, _config(rollout, pool)),
            by_mpi=several,
        )

    def settings(self, flags: Flags, *, is_moe: bool, role: str) -> Settings:
        """The layout and batch that a configuration makes TensorRT-LLM run."""
        group, pp = int(flags["tensor_parallel_size"]), int(flags["pipeline_parallel_size"])
        cp = int(flags.get("context_parallel_size", 1))
        spread = int(flags.get("moe_expert_parallel_size", 1)) if is_moe else 1
        apart = bool(flags.get("enable_attention_dp"))
        speculation = flags.get("speculative_config") or {}
        drafts = int(
            speculation.get("num_nextn_predict_layers", speculation.get("max_draft_len", 0))
        )
        batch = int(flags["max_batch_size"])
        budget = int(flags["max_num_tokens"])
        return Settings(
            layout_row(
                pp=pp,
                tp_a=1 if apart else group,
                cp_a=cp,
                dp_a=group if apart else 1,
                tp_f=group * cp // spread,
                ep_f=spread,
            ),
            batch,
            budget - batch * (1 + drafts) if role == "continuous" else None,
            drafts,
        )

    def overlap_excluded(self, rollout: Rollout, pool: PoolSpec) -> str | None:
        """It has no overlap of half batches."""
        return "at all"

    def router(self, rollout: Rollout, urls: Mapping[str, list[str]]) -> Launch:
        """`trtllm-serve disaggregated`, which sends prompts to context servers first."""

        def servers(role: str) -> dict[str, Any]:
            addresses = [url.removeprefix("http://") for url in urls[role]]
            return {"num_instances": len(addresses), "urls": addresses}

        return Launch(
            command=("trtllm-serve", "disaggregated"),
            model=(),
            flags={"--config": f"{CONFIG}/router.yaml", "--server_start_timeout": STARTUP_S},
            config=(
                "router.yaml",
                {
                    "hostname": "0.0.0.0",
                    "port": PORT,
                    "backend": "pytorch",
                    "context_servers": servers("prefill"),
                    "generation_servers": servers("decode"),
                },
            ),
        )


def _config(rollout: Rollout, pool: PoolSpec) -> dict[str, Any]:
    precision, tier = pool.precision, rollout.prefix_tier
    spread, cp = pool.degree("ep_f") > 1, pool.degree("cp_a")
    config: dict[str, Any] = {
        "tensor_parallel_size": pool.stage // cp,
        "pipeline_parallel_size": pool.degree("pp"),
        "gpus_per_node": pool.devices_per_host,
        "enable_attention_dp": pool.degree("dp_a") > 1,
        "max_batch_size": pool.batch,
        "max_num_tokens": step_budget(rollout, pool),
        "max_seq_len": rollout.longest,
        "enable_chunked_prefill": pool.role == "continuous",
        "kv_cache_config": {
            "dtype": "fp8" if precision.kv == "fp8" else "auto",
            "enable_block_reuse": tier in ("device", "host"),
            "free_gpu_memory_fraction": _cache_share(pool),
        },
        "cuda_graph_config": {"max_batch_size": pool.batch, "enable_padding": True}
        if rollout.cuda_graphs
        else None,
    }
    if rollout.splits_context:  # blocks of caches that move have one size on both sides
        config["kv_cache_config"]["tokens_per_block"] = HELIX_BLOCK
    if cp > 1:
        config["context_parallel_size"] = cp
        config["cp_config"] = {"cp_type": "HELIX", "tokens_per_block": HELIX_BLOCK}
    if rollout.is_moe:
        config["moe_tensor_parallel_size"] = pool.degree("tp_f")
        config["moe_expert_parallel_size"] = pool.degree("ep_f")
        if spread and rollout.balanced:
            slots = rollout.experts + rollout.redundant
            config["moe_config"] = {
                "load_balancer": {"num_slots": slots, "layer_updates_per_iter": 1}
            }
    if tier == "host" and pool.role != "decode" and rollout.prefix_host_bytes:
        config["kv_cache_config"]["host_cache_size"] = int(rollout.prefix_host_bytes)
    if (drafting := pool.drafting) is not None:
        config["speculative_config"] = (
            {"decoding_type": "MTP", "num_nextn_predict_layers": drafting.tokens}
            if drafting.model is None
            else {
                "decoding_type": "Draft_Target",
                "max_draft_len": drafting.tokens,
                "speculative_model": drafting.model,
            }
        )
    if rollout.disaggregated:
        config["cache_transceiver_config"] = {
            "backend": "DEFAULT",
            "max_tokens_in_buffer": rollout.longest,
        }
        # A context server hands each prompt on: there is no next step to overlap with.
        config["disable_overlap_scheduler"] = pool.role == "prefill"
    return config


def _cache_share(pool: PoolSpec) -> float:
    """Of what weights and working memory leave, the share that the plan has for caches."""
    held = {name: float(value) for name, value in pool.memory_bytes.items()}
    free = pool.capacity_bytes - sum(
        held.get(n, 0.0) for n in ("weights", "activations", "buffers")
    )
    kept = free - held.get("reserve", 0.0) - held.get("fragmentation", 0.0)
    return int(100 * kept / free) / 100
