"""Sequence parallelism: between tensor-parallel modules each device keeps its share of tokens.

An all-reduce becomes a reduce-scatter before the norm and an all-gather after it; the norm and
the residual then are each device's share (Korthikanti et al., "Reducing activation
recomputation in large transformer models", 2022; vLLM's `pass_config.enable_sp`). Engines do
so from some number of tokens on (`sp_min_token_num`): here, in steps with prompts in which it
is faster.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perfmodel.modules.base import FloatArray, ModuleKit, where_present
from perfmodel.operators import Group, OperatorTime
from perfmodel.precision import ACTIVATION_BYTES
from perfmodel.work import StepWork


@dataclass(frozen=True)
class Boundary:
    """What lies between two modules split over `tp` devices, times over (U, C).

    Attributes:
        sharded: whether tokens are split there; the other two then take the place of `whole`.
    """

    sharded: NDArray[np.bool_]
    whole: OperatorTime
    scatter: OperatorTime
    gather: OperatorTime
    norm: OperatorTime


def boundary(kit: ModuleKit, tp: FloatArray, tokens: FloatArray, work: StepWork) -> Boundary:
    """The faster of both ways, the norm included.

    Args:
        tp: (U, 1) devices over which both modules are split; 1 where tokens travel instead.
        tokens: (U, C) of the group.
    """
    group = Group(tp, np.ones_like(tp))
    payload = tokens * kit.model.hidden * ACTIVATION_BYTES
    collectives = kit.ops.collectives
    whole, norm = collectives.all_reduce(group, payload), kit.norm(tokens)
    scatter = collectives.reduce_scatter(group, payload)
    gather = collectives.all_gather(group, payload)
    share = kit.norm(np.maximum(tokens / tp, 1.0))
    split_s = scatter.seconds + gather.seconds + share.seconds
    sharded = (tp > 1) & (work.prefill_sequences > 0) & (split_s < whole.seconds + norm.seconds)
    chosen = OperatorTime(
        np.where(sharded, share.seconds, norm.seconds),
        np.where(sharded, share.kind, norm.kind),
        np.where(sharded, share.bound, norm.bound),
        np.where(sharded, share.floor_s, norm.floor_s),
    )
    return Boundary(
        sharded,
        where_present(~sharded, whole),
        where_present(sharded, scatter),
        where_present(sharded, gather),
        chosen,
    )


def norm(kit: ModuleKit, tokens: FloatArray, tp: FloatArray, work: StepWork) -> OperatorTime:
    """The norm after a module: of the device's share of tokens where the sequence is split."""
    if not kit.shards_sequence:
        return kit.norm(tokens)
    return boundary(kit, tp, tokens, work).norm
