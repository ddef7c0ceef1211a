"""SGLang: `python -m sglang.launch_server`.

Flags as `sglang/srt/arg_groups/fields/` of the version below has them. `--tp-size` counts all
devices of a stage; attention data parallelism and experts divide it. Requests and chunks are
counted over all attention ranks together.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from planner.deploy.engine import Engine, Launch, Settings, planned_share, served
from planner.deploy.flags import LEADER, RANK, Flags
from planner.deploy.intent import PORT, STARTUP_S, PoolSpec, Rollout, layout_row

DIST_PORT = 20000
BOOTSTRAP_PORT = 8998
"""On which a prefill server tells decode servers where its caches lie."""

PAGE = 64
"""Tokens of the largest page of caches, and of all where it must be said."""


class Sglang(Engine):
    """SGLang."""

    name = "sglang"
    title = "SGLang"
    version = "0.5.23"
    image = "lmsysorg/sglang:v0.5.23"
    router_package = "sglang-router==0.3.2"
    known_flags = (
        "--model-path",
        "--host",
        "--port",
        "--tp-size",
        "--pp-size",
        "--attn-dp-size",
        "--ep-size",
        "--moe-dense-tp-size",
        "--moe-a2a-backend",
        "--deepep-mode",
        "--enable-two-batch-overlap",
        "--enable-eplb",
        "--ep-num-redundant-experts",
        "--context-length",
        "--max-running-requests",
        "--pp-max-micro-batch-size",
        "--chunked-prefill-size",
        "--max-prefill-tokens",
        "--prefill-max-requests",
        "--enable-mixed-chunk",
        "--mem-fraction-static",
        "--page-size",
        "--kv-cache-dtype",
        "--quantization",
        "--disable-radix-cache",
        "--enable-hierarchical-cache",
        "--hicache-size",
        "--disable-decode-cuda-graph",
        "--cuda-graph-max-bs-decode",
        "--disable-overlap-schedule",
        "--speculative-algorithm",
        "--speculative-draft-model-path",
        "--speculative-num-steps",
        "--speculative-eagle-topk",
        "--speculative-num-draft-tokens",
        "--disaggregation-mode",
        "--disaggregation-transfer-backend",
        "--disaggregation-bootstrap-port",
        "--nnodes",
        "--node-rank",
        "--dist-init-addr",
    )
    online_formats = MappingProxyType({"fp8": "fp8"})

    def launch(self, rollout: Rollout, pool: PoolSpec) -> Launch:
        """`sglang.launch_server` of one replica."""
        several = {
            "--nnodes": pool.hosts,
            "--node-rank": RANK,
            "--dist-init-addr": f"{LEADER}:{DIST_PORT}",
        }
        return Launch(
            command=("python3", "-m", "sglang.launch_server"),
            model=("--model-path", rollout.model),
            flags=_flags(self, rollout, pool),
            multi_host=several if pool.hosts > 1 else {},
        )

    def settings(self, flags: Flags, *, is_moe: bool, role: str) -> Settings:
        """The layout and batch that the flags make SGLang run."""
        group, pp, ep = (int(flags.get(f"--{name}-size", 1)) for name in ("tp", "pp", "ep"))
        older = flags.get("--dp-size", 1) if flags.get("--enable-dp-attention") else 1
        dp = int(flags.get("--attn-dp-size", older))
        drafts = int(flags.get("--speculative-num-steps", 0))
        chunk = int(flags["--chunked-prefill-size"])
        batch = int(flags["--max-running-requests"]) // (dp * pp)
        if role == "prefill":
            batch = int(flags["--prefill-max-requests"])
        return Settings(
            layout_row(pp=pp, tp_a=group // dp, dp_a=dp, tp_f=group // ep, ep_f=ep),
            batch,
            chunk // dp if role == "continuous" else None,
            drafts,
        )

    def overlap_excluded(self, rollout: Rollout, pool: PoolSpec) -> str | None:
        """Two half batches overlap where DeepEP carries tokens to whole experts."""
        whole = pool.degree("tp_f") == 1
        return None if pool.dispatched and whole else "without whole experts on other devices"

    def conditions(self, rollout: Rollout, pool: PoolSpec) -> list[str]:
        """Besides the common ones: what SGLang's scheduler does not mix."""
        found = super().conditions(rollout, pool)
        if pool.role == "continuous" and pool.drafting is not None:
            found.append(
                "continuous: beside speculation SGLang runs prompts in iterations of their own, "
                "where the plan has them share iterations with decodes"
            )
        return found

    def router(self, rollout: Rollout, urls: Mapping[str, list[str]]) -> Launch:
        """SGLang's router, which pairs a prefill with a decode server."""
        prefill = [w for url in urls["prefill"] for w in ("--prefill", url, str(BOOTSTRAP_PORT))]
        decode = [w for url in urls["decode"] for w in ("--decode", url)]
        return Launch(
            ("python3", "-m", "sglang_router.launch_router"),
            ("--pd-disaggregation", *prefill, *decode),
            {**served(), "--worker-startup-timeout-secs": STARTUP_S},
        )


def _flags(engine: Sglang, rollout: Rollout, pool: PoolSpec) -> dict[str, Any]:
    """Flags of every host, those that do not apply as None."""
    precision, tier = pool.precision, rollout.prefix_tier
    dp, pp = pool.degree("dp_a"), pool.degree("pp")
    native = rollout.checkpoint_kv in ("bf16", "", None)
    overlaps = engine.overlaps(rollout, pool)
    spread = pool.degree("ep_f") > 1
    prefill, decode = pool.role == "prefill", pool.role == "decode"
    # A decode server's chunks are idle; a prefill server's step holds its prompts whole. SGLang
    # refuses chunks that end inside a page of caches.
    chunk = pool.chunk_tokens or (1 if decode else pool.batch) * rollout.longest_prompt
    chunk = -(-chunk // PAGE) * PAGE
    host_cache = tier == "host" and not decode
    return {
        **served(PORT),
        "--tp-size": pool.stage,
        "--pp-size": pp,
        "--attn-dp-size": dp,
        "--ep-size": pool.degree("ep_f"),
        "--moe-dense-tp-size": 1 if rollout.is_moe and pool.dispatched else None,
        "--moe-a2a-backend": "deepep" if overlaps else None,
        "--deepep-mode": ("low_latency" if decode else "normal" if prefill else "auto")
        if overlaps
        else None,
        "--enable-two-batch-overlap": overlaps,
        "--enable-eplb": spread and rollout.balanced,
        "--ep-num-redundant-experts": rollout.redundant if spread and rollout.balanced else None,
        "--context-length": rollout.longest,
        "--max-running-requests": pool.batch * dp * pp,
        "--pp-max-micro-batch-size": pool.batch if pp > 1 else None,
        "--prefill-max-requests": pool.batch if prefill else None,
        "--chunked-prefill-size": chunk * dp,
        "--max-prefill-tokens": chunk,
        "--enable-mixed-chunk": pool.role == "continuous" and pool.drafting is None,
        "--mem-fraction-static": planned_share(
            pool, "reserve", "fragmentation", "activations", "buffers"
        ),
        # Servers that exchange caches compare it; the default hangs on the device.
        "--page-size": PAGE if len(rollout.devices) > 1 else None,
        "--kv-cache-dtype": "fp8_e4m3"
        if precision.kv == "fp8"
        else "auto"
        if native
        else "bfloat16",
        "--quantization": engine.quantization(rollout, pool),
        "--disable-radix-cache": tier not in ("device", "host"),
        "--enable-hierarchical-cache": host_cache,
        "--hicache-size": max(round(rollout.prefix_host_bytes / 1e9), 1)
        if host_cache and rollout.prefix_host_bytes
        else None,
        "--disable-decode-cuda-graph": not rollout.cuda_graphs,
        "--cuda-graph-max-bs-decode": pool.batch if rollout.cuda_graphs and not prefill else None,
        "--disable-overlap-schedule": pp > 1,
        **_speculation(pool),
        "--disaggregation-mode": pool.role if rollout.disaggregated else None,
        "--disaggregation-transfer-backend": "nixl" if rollout.disaggregated else None,
        "--disaggregation-bootstrap-port": BOOTSTRAP_PORT if prefill else None,
    }


def _speculation(pool: PoolSpec) -> dict[str, Any]:
    """A chain of drafts: one candidate per position."""
    drafting = pool.drafting
    if drafting is None:
        return {}
    return {
        "--speculative-algorithm": "EAGLE" if drafting.model is None else "STANDALONE",
        "--speculative-draft-model-path": drafting.model,
        "--speculative-num-steps": drafting.tokens,
        "--speculative-eagle-topk": 1,
        "--speculative-num-draft-tokens": drafting.tokens + 1,
    }
