"""Serving engines: what they add to the operators' time and to a device's memory."""

from __future__ import annotations

from dataclasses import dataclass

from perfmodel.errors import InputError

GIB = 2.0**30


@dataclass(frozen=True)
class EngineProfile:
    """A runtime's fixed costs.

    Attributes:
        iteration_overhead_s: scheduling, sampling and launch time of a step that no
            operator accounts for.
        reserve_bytes: device memory taken by the driver context, libraries and captured graphs.
        group_buffer_bytes: communication buffers of a replica of more than one device.
        fragmentation: share of the device's memory that the allocator cannot use.
    """

    name: str
    title: str
    iteration_overhead_s: float
    reserve_bytes: float
    group_buffer_bytes: float
    fragmentation: float


# Assumed, not measured: engines by default leave about a tenth of a device's memory outside
# weights and cache (TensorRT-LLM's free_gpu_memory_fraction and vLLM's
# gpu_memory_utilization are both 0.9).
ENGINES = {
    profile.name: profile
    for profile in (
        EngineProfile("trtllm", "TensorRT-LLM", 0.5e-3, 3 * GIB, 0.5 * GIB, 0.05),
        EngineProfile("vllm", "vLLM", 1.0e-3, 3 * GIB, 0.5 * GIB, 0.05),
        EngineProfile("sglang", "SGLang", 1.0e-3, 3 * GIB, 0.5 * GIB, 0.05),
    )
}


def engine_profile(name: str) -> EngineProfile:
    """The profile of an engine.

    Raises:
        InputError: unknown engine.
    """
    if name not in ENGINES:
        raise InputError(f"unknown engine {name!r}; expected one of {', '.join(ENGINES)}")
    return ENGINES[name]
