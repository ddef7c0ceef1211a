"""vLLM: `vllm serve`.

Flags as `vllm/engine/arg_utils.py` and `vllm/config/` of the version below have them. A rank of
data parallelism is an engine of its own, with a scheduler and `--max-num-seqs` of its own;
experts are spread over the tensor-, context- and data-parallel ranks together.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from planner.deploy.engine import (
    Engine,
    Launch,
    Settings,
    planned_share,
    served,
    step_budget,
)
from planner.deploy.flags import ADDRESS, LEADER, RANK, Flags
from planner.deploy.intent import PORT, STARTUP_S, Gap, PoolSpec, Rollout, layout_row
from planner.target import takes_step

NIXL_PORT = 5600
"""Of the side channel on which NIXL's agents find each other."""

CAPTURED = 512
"""Tokens of the largest decode step that it captures by itself (1,024 on Blackwell)."""

ROLES = {"prefill": "kv_producer", "decode": "kv_consumer"}


class Vllm(Engine):
    """vLLM."""

    name = "vllm"
    title = "vLLM"
    version = "0.33.0"
    image = "vllm/vllm-openai:v0.33.0"
    router_package = "vllm-router==0.1.17"
    known_flags = (
        "--host",
        "--port",
        "--tensor-parallel-size",
        "--pipeline-parallel-size",
        "--data-parallel-size",
        "--prefill-context-parallel-size",
        "--decode-context-parallel-size",
        "--dcp-comm-backend",
        "--attention-backend",
        "--enable-expert-parallel",
        "--max-model-len",
        "--max-num-seqs",
        "--max-num-batched-tokens",
        "--gpu-memory-utilization",
        "--kv-cache-dtype",
        "--quantization",
        "--enable-prefix-caching",
        "--no-enable-prefix-caching",
        "--kv-offloading-size",
        "--enforce-eager",
        "--max-cudagraph-capture-size",
        "--enable-dbo",
        "--all2all-backend",
        "--enable-eplb",
        "--eplb-config",
        "--speculative-config",
        "--kv-transfer-config",
        "--nnodes",
        "--node-rank",
        "--master-addr",
        "--data-parallel-address",
        "--headless",
    )
    online_formats = MappingProxyType({"fp8": "fp8_per_tensor", "fp8_block": "fp8_per_block"})

    def launch(self, rollout: Rollout, pool: PoolSpec) -> Launch:
        """`vllm serve` of one replica."""
        dp = pool.degree("dp_a")
        several = {
            "--nnodes": pool.hosts,
            "--node-rank": RANK,
            "--master-addr": LEADER,
            "--data-parallel-address": LEADER if dp > 1 else None,
        }
        environment = {}
        if rollout.disaggregated:
            environment["VLLM_NIXL_SIDE_CHANNEL_PORT"] = str(NIXL_PORT)
            environment["VLLM_NIXL_SIDE_CHANNEL_HOST"] = ADDRESS
        return Launch(
            command=("vllm", "serve"),
            model=(rollout.model,),
            flags=_flags(self, rollout, pool),
            multi_host=several if pool.hosts > 1 else {},
            worker={"--headless": True},
            environment=environment,
        )

    def settings(self, flags: Flags, *, is_moe: bool, role: str) -> Settings:
        """The layout and batch that the flags make vLLM run."""
        tp, pp, dp = (
            int(flags.get(f"--{name}-parallel-size", 1)) for name in ("tensor", "pipeline", "data")
        )
        cp = int(flags.get("--prefill-context-parallel-size") or 1)
        spread = bool(flags.get("--enable-expert-parallel")) and is_moe
        ranks = tp * cp * dp if is_moe else tp
        drafts = int((flags.get("--speculative-config") or {}).get("num_speculative_tokens", 0))
        batch = int(flags["--max-num-seqs"]) // pp
        budget = int(flags["--max-num-batched-tokens"])
        return Settings(
            layout_row(
                pp=pp,
                tp_a=tp,
                cp_a=cp,
                dp_a=dp,
                tp_f=1 if spread else ranks,
                ep_f=ranks if spread else 1,
            ),
            batch,
            budget - batch * (1 + drafts) if role == "continuous" else None,
            drafts,
        )

    def gaps(self, rollout: Rollout, pool: PoolSpec) -> list[Gap]:
        """Besides the common ones: chunks that are small beside the sequences of all stages."""
        found = super().gaps(rollout, pool)
        chunk, stages = pool.chunk_tokens, pool.degree("pp")
        sizes = {"stages": stages, "batch": pool.batch, "drafts": pool.draft_tokens}
        if chunk is not None and not takes_step(self.name, chunk=chunk, **sizes):
            least = _most_tokens(rollout, pool) - pool.decode_tokens
            found.append(
                Gap(
                    f"{pool.role}: chunks of {chunk} tokens beside {pool.batch} sequences in each "
                    f"of {stages} stages (a step takes no fewer tokens than there are sequences)",
                    f"chunks of {least} tokens",
                )
            )
        return found

    def conditions(self, rollout: Rollout, pool: PoolSpec) -> list[str]:
        """Besides the common ones: what NIXL compares when two servers meet."""
        found = super().conditions(rollout, pool)
        if rollout.disaggregated and pool.role == "decode" and len(rollout.devices) > 1:
            found.append(
                f"{' and '.join(rollout.devices)} must choose the same attention backend, which "
                "NIXL's handshake compares: name one that both have with `--attention-backend`"
            )
        return found

    def overlap_excluded(self, rollout: Rollout, pool: PoolSpec) -> str | None:
        """`--enable-dbo` goes with little else."""
        for what, there in (
            ("without experts on other devices", not pool.dispatched),
            ("beside pipelines", pool.degree("pp") > 1),
            ("beside context parallelism", pool.degree("cp_a") > 1),
            ("beside speculation", pool.drafting is not None),
            ("beside images", rollout.images),
        ):
            if there:
                return what
        return None

    def router(self, rollout: Rollout, urls: Mapping[str, list[str]]) -> Launch:
        """vllm-router, which has a prompt computed and then decoded elsewhere."""
        named = [w for role in ROLES for url in urls[role] for w in (f"--{role}", url)]
        return Launch(
            ("python3", "-m", "vllm_router.launch_router"),
            ("--vllm-pd-disaggregation", *named),
            {**served(), "--worker-startup-timeout-secs": STARTUP_S},
        )


def _flags(engine: Vllm, rollout: Rollout, pool: PoolSpec) -> dict[str, Any]:
    """Flags of every host, those that do not apply as None."""
    precision = pool.precision
    tier = rollout.prefix_tier
    native = rollout.checkpoint_kv in ("bf16", "", None)
    overlaps = engine.overlaps(rollout, pool)
    latency = pool.role == "decode"
    spread = pool.degree("ep_f") > 1
    cp = pool.degree("cp_a")
    graphs = pool.decode_tokens if rollout.cuda_graphs else 0
    return {
        **served(PORT),
        "--tensor-parallel-size": pool.degree("tp_a"),
        "--pipeline-parallel-size": pool.degree("pp"),
        "--data-parallel-size": pool.degree("dp_a"),
        # Alone, the first would split the computation and leave whole caches on every rank.
        "--prefill-context-parallel-size": cp if cp > 1 else None,
        "--decode-context-parallel-size": cp if cp > 1 else None,
        "--dcp-comm-backend": "ag_rs" if cp > 1 else None,
        "--attention-backend": "FLASHMLA_SPARSE" if rollout.splits_context else None,
        "--enable-expert-parallel": spread,
        "--enable-eplb": spread and rollout.balanced,
        "--eplb-config": {"num_redundant_experts": rollout.redundant}
        if spread and rollout.balanced and rollout.redundant
        else None,
        "--enable-dbo": overlaps,
        "--all2all-backend": f"deepep_{'low_latency' if latency else 'high_throughput'}"
        if overlaps
        else None,
        "--max-model-len": rollout.longest,
        "--max-num-seqs": _sequences(pool),
        "--max-num-batched-tokens": _most_tokens(rollout, pool),
        "--gpu-memory-utilization": planned_share(pool, "reserve", "fragmentation"),
        "--kv-cache-dtype": "fp8" if precision.kv == "fp8" else "auto" if native else "bfloat16",
        "--quantization": engine.quantization(rollout, pool),
        "--enable-prefix-caching": tier in ("device", "host"),
        "--no-enable-prefix-caching": tier not in ("device", "host"),
        "--kv-offloading-size": None if rollout.disaggregated else _offloaded_gib(rollout, pool),
        "--enforce-eager": not rollout.cuda_graphs,
        "--max-cudagraph-capture-size": graphs if graphs > CAPTURED else None,
        "--speculative-config": _speculation(pool),
        "--kv-transfer-config": _connector(rollout, pool) if rollout.disaggregated else None,
    }


def _sequences(pool: PoolSpec) -> int:
    """Of one engine, in all its stages."""
    return pool.batch * pool.degree("pp")


def _most_tokens(rollout: Rollout, pool: PoolSpec) -> int:
    """Of one step; vLLM refuses fewer than it has sequences."""
    return max(step_budget(rollout, pool), _sequences(pool))


def _connector(rollout: Rollout, pool: PoolSpec) -> dict[str, Any]:
    """NIXL; beside cached prefixes in host memory, whose flag would take its place, both."""
    nixl = {"kv_connector": "NixlConnector", "kv_role": ROLES[pool.role]}
    gib = _offloaded_gib(rollout, pool)
    if gib is None:
        return nixl
    kept = {
        "kv_connector": "OffloadingConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"cpu_bytes_to_use": int(gib * 2**30)},
    }
    return {
        "kv_connector": "MultiConnector",
        "kv_role": ROLES[pool.role],
        "kv_connector_extra_config": {"connectors": [nixl, kept]},
    }


def _offloaded_gib(rollout: Rollout, pool: PoolSpec) -> float | None:
    """Host memory for cached prefixes, of all ranks of one engine together."""
    if rollout.prefix_tier != "host" or pool.role == "decode":
        return None
    ranks = pool.degree("tp_a") * pool.degree("cp_a") * pool.degree("pp")
    return round(rollout.prefix_host_bytes * ranks / 2**30, 1) or None


def _speculation(pool: PoolSpec) -> dict[str, Any] | None:
    drafting = pool.drafting
    if drafting is None:
        return None
    if drafting.model is None:
        return {"method": "mtp", "num_speculative_tokens": drafting.tokens}
    return {
        "method": "draft_model",
        "model": drafting.model,
        "num_speculative_tokens": drafting.tokens,
        "draft_tensor_parallel_size": drafting.tp,
    }
