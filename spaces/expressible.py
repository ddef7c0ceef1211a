"""Layouts that a serving engine can be told to run.

An engine takes a few degrees as flags and derives the others, so that not every layout of the
space can be written down for it. The versions read are those that `planner.deploy` writes for.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from perfmodel.engine import ENGINES
from perfmodel.layout import DEGREES
from spaces.constraints import Degrees, LayoutConstraint

BoolArray = NDArray[np.bool_]
Rule = Callable[[Degrees, bool], BoolArray]

PREFILL_AND_DECODE = ("prefill", "decode")
"""Roles of pools between which KV caches move."""


def _vllm(d: Degrees, is_moe: bool) -> BoolArray:
    """TP and DP flags; experts are spread over all their ranks, whole (EP) or cut (TP).

    Overlap of two half batches, which plans take where DP ranks exchange tokens, excludes
    pipelines.
    """
    experts = (d["tp_f"] == 1) | (d["ep_f"] == 1)
    return np.asarray(experts & ((d["pp"] == 1) | (d["dp_a"] == 1)) if is_moe else d["dp_a"] == 1)


def _sglang(d: Degrees, is_moe: bool) -> BoolArray:
    """Attention DP divides the TP group, experts any part of it.

    Where DP ranks exchange tokens, DeepEP carries them to whole experts. Few of its dense model
    classes have attention data parallelism: none is relied upon.
    """
    alone = d["dp_a"] == 1
    return np.asarray(alone | (d["ep_f"] == 1) | (d["tp_f"] == 1) if is_moe else alone)


def _trtllm(d: Degrees, is_moe: bool) -> BoolArray:
    """Attention is either tensor or data parallel over the whole group (a switch)."""
    attention = (d["dp_a"] == 1) | (d["tp_a"] == 1)
    return np.asarray(attention if is_moe else d["dp_a"] == 1)


RULES: dict[str, Rule] = {"vllm": _vllm, "sglang": _sglang, "trtllm": _trtllm}
"""By engine, what its flags can say of tensor, expert and attention data parallelism."""

SINGLE_STAGE: dict[str, tuple[str, ...]] = {
    "vllm": PREFILL_AND_DECODE,
    "sglang": ("decode",),
    "trtllm": (),
}
"""By engine, roles that must not be pipelined.

vLLM's NixlConnector refuses pipelined consumers, and a pipelined producer unless it pushes;
SGLang's decode side must have the prefill side's stages or one.
"""


def expressible(engine: str, is_moe: bool, role: str = "continuous") -> LayoutConstraint:
    """What a layout must satisfy to be written as flags of an engine.

    No engine splits both attention and its cache over context-parallel ranks as the space
    does, and none keeps several copies of the FFN inside one replica.

    Args:
        is_moe: the model has routed experts.
        role: of the pool.
    """
    rule, single = RULES[engine], role in SINGLE_STAGE[engine]

    def holds(d: Degrees) -> BoolArray:
        kept = (d["cp_a"] == 1) & (d["dp_f"] == 1) & rule(d, is_moe)
        if not is_moe:
            kept &= d["ep_f"] == 1
        return np.asarray(kept & (d["pp"] == 1) if single else kept)

    return LayoutConstraint(f"layouts that {ENGINES[engine].title} can express", DEGREES, holds)
