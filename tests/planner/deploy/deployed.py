"""Rollouts by hand: layouts that an engine can express, and all that a pool may ask for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from perfmodel.layout import Layouts
from perfmodel.precision import Precision
from planner.deploy.intent import Drafting, PoolSpec, Rollout
from spaces.enumeration import all_layouts
from spaces.expressible import Place, Traits, expressible

ENGINE_NAMES = ("vllm", "sglang", "trtllm")
LAYOUTS = all_layouts(64)
GIB = 2.0**30


DENSE, EXPERTS = Traits(is_moe=False, kv_heads=8), Traits(is_moe=True, kv_heads=4)
LATENT = Traits(is_moe=True, latent=True)
INDEXED = Traits(is_moe=True, latent=True, indexed=True)
KINDS = (DENSE, EXPERTS, LATENT, INDEXED)


def layouts_of(engine: str, model: Traits, place: Place) -> Layouts:
    """Every layout to 64 devices that the engine can express."""
    return LAYOUTS[expressible(engine, model, place).of(LAYOUTS)]


def pool_of(layout: Layouts, **changes: Any) -> PoolSpec:
    """A pool of one layout."""
    fields: dict[str, Any] = {
        "role": "continuous",
        "device": "h100_sxm",
        "replicas": 2,
        "layout": layout,
        "sequence_parallel": False,
        "batch": 12,
        "chunk_tokens": 1024,
        "drafting": None,
        "two_batch_overlap": False,
        "precision": Precision(),
        "host_devices": 8,
        "rack": False,
        "memory_bytes": {
            "weights": 30 * GIB,
            "kv_cache": 20 * GIB,
            "activations": GIB,
            "buffers": GIB / 2,
            "reserve": 3 * GIB,
            "fragmentation": 4 * GIB,
        },
        "capacity_bytes": 80 * GIB,
    }
    return PoolSpec(**{**fields, **changes})


def rollout_of(engine: str, *pools: PoolSpec, **changes: Any) -> Rollout:
    """A fleet of such pools."""
    fields: dict[str, Any] = {
        "model": "Qwen/Qwen3-30B-A3B",
        "engine": engine,
        "planned": engine,
        "kind": "disaggregated" if len(pools) == 2 else "continuous",
        "pools": pools,
        "checkpoint": dict.fromkeys(("attention", "ffn", "experts"), "bf16"),
        "checkpoint_kv": "bf16",
        "checkpoint_bytes": 60e9,
        "experts": 128,
        "balanced": False,
        "redundant": 0,
        "longest_prompt": 2000,
        "longest": 2600,
        "prefix_tier": None,
        "prefix_host_bytes": 0.0,
        "kv_overlap": "none",
        "cuda_graphs": True,
        "encoder_pool": False,
        "images": False,
    }
    return Rollout(**{**fields, **changes})


@st.composite
def rollouts(draw: st.DrawFn, engine: str) -> Rollout:
    """Any rollout of which the engine can express everything."""
    model = draw(st.sampled_from(KINDS))
    roles = draw(st.sampled_from((("continuous",), ("prefill", "decode"))))
    drafts = draw(st.integers(0, 4))
    drafter = draw(st.sampled_from((None, "Qwen/Qwen3-0.6B")))
    weights = draw(st.sampled_from(("bf16", "fp8", "nvfp4", "fp8_weight_only")))
    precision = Precision(weights, weights, weights, draw(st.sampled_from(("bf16", "fp8"))))
    pools = []
    for role in roles:
        drafted = replace(model, drafter=bool(drafts) and drafter is not None)
        possible = layouts_of(engine, drafted, Place(role, kv=precision.kv, drafts=drafts > 0))
        layout = possible[np.array([draw(st.integers(0, len(possible) - 1))])]
        tp = int(layout.tp_a[0])
        drafting = Drafting(drafts, drafter, tp) if drafts else None
        batch, chunk = draw(st.integers(1, 512)), draw(st.sampled_from((256, 1024, 16384)))
        if engine == "vllm":  # which takes no smaller ones beside so many sequences
            chunk = max(chunk, batch * (int(layout.pp[0]) - 1))
        pool = pool_of(
            layout,
            role=role,
            batch=batch,
            chunk_tokens=chunk if role == "continuous" else None,
            drafting=drafting,
            replicas=draw(st.integers(1, 3)),
            precision=precision,
            host_devices=draw(st.sampled_from((4, 8))),
            two_batch_overlap=engine != "trtllm"
            and bool(layout.dispatched[0])
            and drafting is None
            and draw(st.booleans()),
        )
        pools.append(pool)
    tier = draw(st.sampled_from((None, "device", "host", "none")))
    return rollout_of(
        engine,
        *pools,
        experts=128 if model.is_moe else 0,
        balanced=draw(st.booleans()),
        redundant=draw(st.sampled_from((0, 16))),
        prefix_tier=tier,
        prefix_host_bytes=40 * GIB if tier == "host" else 0.0,
        cuda_graphs=draw(st.booleans()),
        kv_overlap="layerwise" if engine == "trtllm" and draw(st.booleans()) else "none",
    )
