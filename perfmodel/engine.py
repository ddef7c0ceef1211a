"""Serving engines: what they add to the operators' time and to a device's memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from perfmodel.correction import NEUTRAL, Correction, load_corrections
from perfmodel.errors import InputError
from perfmodel.work import StepWork

FloatArray = NDArray[np.float64]

GIB = 2.0**30


@dataclass(frozen=True)
class EngineProfile:
    """A runtime's fixed costs.

    Attributes:
        correction: what an engine's service adds to the operators' times.
        reserve_bytes: device memory taken by the driver context, libraries and captured graphs.
        group_buffer_bytes: communication buffers of a replica of more than one device.
        fragmentation: share of the device's memory that the allocator cannot use.
        mixes_prefill: decodes ride along in an iteration with prompts, by default.
        step_tokens: prompt tokens of an iteration, by default.
        splits_batches: can run two half batches at once, so that one computes while the
            other's tokens travel to their experts.
        can_shard_sequence: has sequence parallelism beside tensor parallelism.
        shards_sequence: and uses it in steps with prompts, where it is faster.
        captures_decode: decode steps replay a captured graph; otherwise they too are
            launched kernel by kernel.
        kv_overlap: when a prefill pool sends KV caches, by default (see `kv_transfer.OVERLAPS`).
    """

    name: str
    title: str
    correction: Correction
    reserve_bytes: float
    group_buffer_bytes: float
    fragmentation: float
    mixes_prefill: bool = True
    step_tokens: int = 8192
    splits_batches: bool = False
    captures_decode: bool = True
    kv_overlap: str = "none"
    can_shard_sequence: bool = False
    shards_sequence: bool = False

    def layer_overhead_s(self, work: StepWork) -> FloatArray:
        """Launch gap of one layer in each column of work, (C,).

        What was fitted to steps with prompts, which no engine captures, is paid by every
        step where none is captured.
        """
        gap = self.correction.layer_overhead_s(work)
        return gap if self.captures_decode else np.full(len(work), self.correction.layer_gap_s)


# Memory: assumed, not measured: engines by default leave about a tenth of a device's memory outside
# weights and cache (TensorRT-LLM's free_gpu_memory_fraction and vLLM's
# gpu_memory_utilization are both 0.9).
# Two half batches at once: SGLang's --enable-two-batch-overlap, vLLM's --enable-dbo.
# KV transfer: all three send a prompt's cache when it is computed. TensorRT-LLM overlaps it with
# other requests' steps, and by layer only under TRTLLM_DISAGG_LAYERWISE; vLLM's NIXL connector
# has the decode side read finished prompts; SGLang sends by chunk of a prompt, here always one.
# Sequence parallelism: vLLM's compilation pass enable_sp, off by default, which 0.31.0 has and
# 0.33.0 no longer; SGLang's --enable-layernorm-sp (0.5.23) takes few models, of those known here
# Qwen3's dense ones (SP_SUPPORTED_ARCHITECTURES in srt/layers/layernorm_sp.py), and is not planned.
ENGINES = {
    profile.name: profile
    for profile in (
        EngineProfile("trtllm", "TensorRT-LLM", NEUTRAL, 3 * GIB, 0.5 * GIB, 0.05),
        EngineProfile(
            "vllm",
            "vLLM",
            NEUTRAL,
            3 * GIB,
            0.5 * GIB,
            0.05,
            splits_batches=True,
            can_shard_sequence=True,
        ),
        EngineProfile(
            "sglang",
            "SGLang",
            NEUTRAL,
            3 * GIB,
            0.5 * GIB,
            0.05,
            mixes_prefill=False,
            splits_batches=True,
        ),
    )
}
"""Serving engines."""

PYTORCH = EngineProfile("pytorch", "PyTorch", NEUTRAL, 0.5 * GIB, 0.0, 0.05)
"""Plain PyTorch, under whose name `perfmodel.collect` stores what it measures.

Not a serving engine, and so not in `ENGINES`: nothing schedules or batches. Its timings
include the dispatch of each operator (on a CPU) or exclude it (CUDA graphs), so that no
overhead of a step is assumed.
"""

QUERY_ENGINES = (*ENGINES, PYTORCH.name)
"""Those that a query may name."""


def engine_profile(name: str) -> EngineProfile:
    """The profile of an engine, with the correction shipped for it.

    Raises:
        InputError: unknown engine.
    """
    if name == PYTORCH.name:
        return PYTORCH
    if name not in ENGINES:
        raise InputError(f"unknown engine {name!r}; expected one of {', '.join(QUERY_ENGINES)}")
    profile = ENGINES[name]
    return replace(profile, correction=load_corrections().get(name, NEUTRAL))
