"""Layouts that a serving engine can be told to run.

An engine takes a few degrees as flags and derives the others, so that not every layout of the
space can be written down for it; and between pools its connector moves KV caches only so far.
The versions read are those that `planner.deploy` writes for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perfmodel.architecture import ModelArchitecture
from perfmodel.engine import ENGINES
from perfmodel.hardware import Device, is_amd
from perfmodel.layer_shapes import Attention
from perfmodel.layout import DEGREES
from spaces.constraints import Degrees, LayoutConstraint

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Traits:
    """What of a model decides how engines may divide it.

    Attributes:
        is_moe: has routed experts.
        kv_heads: that a cache can be cut into; None: a latent, or a state beside the caches.
        latent: attention is multi-head latent attention.
        indexed: and reads the tokens that an index selects (DeepSeek-V3.2, GLM-5).
        drafter: a model of its own drafts tokens.
    """

    is_moe: bool
    kv_heads: int | None = None
    latent: bool = False
    indexed: bool = False
    drafter: bool = False

    @classmethod
    def of(cls, model: ModelArchitecture) -> Traits:
        """The traits of a model."""
        layers = [group.attention for group in model.groups]
        keys = [layer for layer in layers if isinstance(layer, Attention)]
        latent = any(layer.kind == "mla" for layer in keys)
        whole = latent or model.is_recurrent
        return cls(
            is_moe=model.is_moe,
            kv_heads=None if whole else min(layer.kv_heads for layer in keys),
            latent=latent,
            indexed=any(layer.index_top_k > 0 for layer in keys),
            drafter=model.drafter is not None,
        )


@dataclass(frozen=True)
class Place:
    """Where a layout is to run.

    Attributes:
        role: of the pool: `continuous`, `prefill` or `decode`.
        device: None: on any.
        kv: number format of its caches; None: any.
        drafts: tokens are drafted.
        decode_tp: to a prefill pool, the tensor parallelism of the pool that its caches go to.
    """

    role: str = "continuous"
    device: Device | None = None
    kv: str | None = None
    drafts: bool = False
    decode_tp: int = 1

    def offers(self, peak: str) -> bool:
        """Whether the device may be one of NVIDIA's that multiplies at this precision."""
        device = self.device
        return device is None or (device.supports(peak) and not is_amd(device.name))


ANYWHERE = Place()

Rule = Callable[[Degrees, Traits, Place], BoolArray]


def _vllm(d: Degrees, model: Traits, place: Place) -> BoolArray:
    """TP and DP flags; experts are spread over all their ranks, whole (EP) or cut (TP).

    Overlap of two half batches, which plans take where DP ranks exchange tokens, excludes
    pipelines and context parallelism. The latter splits prompts and, where attention reads what
    an index selects, caches too (`validate_config` in v1/worker/gpu/pcp_manager.py), in fp8 for
    FlashMLA's kernels; between pools on prefill servers of TP 1 alone (`NixlConnector.__init__`).

    NixlConnector refuses pipelined consumers, and pipelined producers unless they push
    (nixl/base_worker.py); there `_validate_remote_agent_handshake` refuses caches whose KV heads
    several prefill ranks hold, to a decode side of fewer ranks.
    """
    if model.is_moe:
        kept = (d["tp_f"] == 1) | (d["ep_f"] == 1)
        kept &= (d["pp"] == 1) | (d["dp_a"] == 1)
    else:
        kept = d["dp_a"] == 1
    split = model.indexed and place.role != "decode" and place.kv in (None, "fp8")
    split &= place.offers("fp8")
    context = (d["pp"] == 1) & (d["ep_f"] == 1) & split
    if place.role != "continuous":
        kept &= d["pp"] == 1
        context &= d["tp_a"] == 1
    if place.role == "prefill" and model.kv_heads is not None:
        kept &= d["tp_a"] <= max(model.kv_heads, place.decode_tp)
    return np.asarray(kept & (context | (d["cp_a"] == 1)))


def _sglang(d: Degrees, model: Traits, place: Place) -> BoolArray:
    """Attention DP divides the TP group, experts any part of it.

    Where DP ranks exchange tokens, DeepEP carries them to whole experts. Of its dense model
    classes some have attention data parallelism (Qwen3's) and some have not (Llama's, Qwen2's):
    none is relied upon. Context parallelism (--attn-cp-size) is for prompts alone and leaves the
    whole cache on every rank, unless --enable-kv-cache-sharding splits it, for prefill servers
    of a few kinds (arg_groups/kv_shard_hook.py): not what plans mean by it. Beside a draft model
    it refuses attention DP (arg_groups/speculative_hook.py) and pipelines (validation_hook.py).

    A decode side must have the prefill side's stages or one (`_resolve_rank_mapping` in
    disaggregation/common/conn.py); tensor parallelism may differ.
    """
    kept = (d["cp_a"] == 1) & (d["dp_a"] == 1)
    if model.is_moe:
        kept |= (d["cp_a"] == 1) & ((d["ep_f"] == 1) | (d["tp_f"] == 1))
    if model.drafter:
        kept &= (d["dp_a"] == 1) & (d["pp"] == 1)
    return np.asarray(kept & (d["pp"] == 1) if place.role == "decode" else kept)


def _trtllm(d: Degrees, model: Traits, place: Place) -> BoolArray:
    """Attention is either tensor or data parallel over the whole group (a switch).

    Context parallelism that splits caches is Helix: on servers that decode, of models with latent
    attention, on Blackwell, without drafts but Eagle 3's (docs/source/features/helix.md). Its cache
    transceiver takes any TP and PP on either side (`inquireSupport` in
    cpp/tensorrt_llm/batch_manager/cacheFormatter.cpp).
    """
    helix = place.role == "decode" and model.latent and not model.indexed
    helix &= place.offers("fp4") and not place.drafts
    kept = (d["cp_a"] == 1) | helix
    attention = (d["dp_a"] == 1) | ((d["tp_a"] == 1) & model.is_moe)
    return np.asarray(kept & attention)


RULES: dict[str, Rule] = {"vllm": _vllm, "sglang": _sglang, "trtllm": _trtllm}
"""By engine, what its flags can say, and its connector can move between pools."""


def expressible(engine: str, model: Traits, place: Place = ANYWHERE) -> LayoutConstraint:
    """What a layout must satisfy to be written as flags of an engine.

    No engine keeps several copies of the FFN inside one replica.
    """

    def holds(d: Degrees) -> BoolArray:
        kept = (d["dp_f"] == 1) & RULES[engine](d, model, place)
        return np.asarray(kept if model.is_moe else kept & (d["ep_f"] == 1))

    return LayoutConstraint(f"layouts that {ENGINES[engine].title} can express", DEGREES, holds)
