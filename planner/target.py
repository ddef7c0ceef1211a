"""What a query may be deployed on: runtimes, and the engine that each runs."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfmodel.hardware import is_amd

RuntimeTarget = Literal["vllm", "sglang", "trtllm", "dynamo", "llm-d"]

TARGETS: tuple[RuntimeTarget, ...] = ("vllm", "sglang", "trtllm", "dynamo", "llm-d")
"""Targets of `planner deploy`; the last two orchestrate engines on Kubernetes."""

OWN_ENGINE: dict[str, str] = {
    "vllm": "vllm",
    "sglang": "sglang",
    "trtllm": "trtllm",
    "llm-d": "vllm",
}
"""The engine of targets that run but one; Dynamo runs any."""


def engine_of(target: str, engine: str) -> str:
    """The engine that a target runs.

    Args:
        engine: the plan's, which a target that runs any takes.
    """
    return OWN_ENGINE.get(target, engine)


def overlaps_halves(engine: str, *, drafts: bool, images: bool, recurrent: bool) -> bool:
    """Whether an engine's overlap of two half batches goes with the rest of a query.

    vLLM refuses it with speculation, with multimodal and with hybrid models.
    """
    return engine != "vllm" or not (drafts or images or recurrent)


def takes_step(
    engine: str, *, stages: ArrayLike, batch: ArrayLike, chunk: ArrayLike, drafts: ArrayLike
) -> NDArray[np.bool_]:
    """Whether an engine takes steps of one micro-batch's decodes and a chunk.

    vLLM counts sequences over all stages, and does not start where its steps may have fewer tokens
    than that (`max_num_batched_tokens` below `max_num_seqs`, in `SchedulerConfig`).

    Args:
        stages: of the pipeline.
        batch, chunk, drafts: per attention rank and micro-batch, as plans have them.
    """
    sequences = np.asarray(batch) * np.asarray(stages)
    tokens = np.asarray(chunk) + np.asarray(batch) * (1 + np.asarray(drafts))
    return np.asarray((tokens >= sequences) | (engine != "vllm"))


def runs_on(engine: str, device: str) -> bool:
    """Whether an engine runs on a device: TensorRT-LLM on NVIDIA's alone."""
    return engine != "trtllm" or not is_amd(device)
