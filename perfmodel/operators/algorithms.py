"""Algorithms of collectives: the alpha-beta time of each, over one level of links or several.

An `Algorithm` holds no state. `fastest` asks each of an operation's algorithms for its time
over arrays of groups and messages and takes the least, as libraries choose by message and
group. Given one level, an algorithm runs among that level's members; given several, it is
pipelined through them: steps at each level add up, bytes overlap and the slowest level sets
the pace. At a level beyond the innermost each device carries, over a port of its own, the
share of the message that is its among the devices inside.

Notation: n devices, M bytes, a the latency and B the achieved bandwidth of a link.

1. R. Thakur, R. Rabenseifner, W. Gropp, "Optimization of collective communication operations
   in MPICH", IJHPCA 19 (2005): ring, recursive doubling, pairwise exchange.
2. P. Sanders, J. Speck, J. L. Traeff, "Two-tree algorithms for full bandwidth broadcast,
   reduction and scan", Parallel Computing 35 (2009); NCCL 2.4's double binary trees.
3. NVIDIA NCCL, src/graph/tuning.cc: latencies of rings and trees over hosts.
4. NVIDIA/nccl issue 2140: a device's traffic in an all-reduce by NVLink SHARP.
5. NVIDIA NCCL 2.23 release notes: PAT, all-gather and reduce-scatter in log2(n) steps.
6. TensorRT-LLM and vLLM, custom all-reduce: one-shot and two-shot over peers' memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from perfmodel.links import Link

FloatArray = NDArray[np.float64]

IN_NETWORK_SHARE = 0.65 / 0.8
"""In-network reductions reach this share of the bandwidth that other algorithms do.

NVLink SHARP moves 309 GB/s of H100's 450 (0.69) and 543 of B300's 900 (0.60), against 0.8 of
rings (NVIDIA/nccl issue 2140).
"""


@dataclass(frozen=True)
class Level:
    """What a group has at one level of links; arrays of shape (U, 1).

    Attributes:
        members: devices, or groups of devices inside, that the level joins.
        inner: devices of the group inside each of them.
        innermost: the level at which devices reach each other's memory.
    """

    link: Link
    members: FloatArray
    inner: FloatArray
    innermost: bool

    @property
    def joins(self) -> NDArray[np.bool_]:
        """Whether the group communicates at this level at all."""
        return self.members > 1

    @property
    def bytes_per_s(self) -> FloatArray:
        """Line rate that each member has towards the others."""
        return self.link.group_bytes_per_s(self.members)

    def carry_s(self, message_bytes: Any, share: float = 1.0) -> FloatArray:
        """Time in which each device passes its share of a message, where any is passed."""
        achieved = self.bytes_per_s * self.link.achieved * share
        return np.where(self.joins, message_bytes / self.inner / achieved, 0.0)

    def steps_s(self, steps: Any) -> FloatArray:
        """Time of so many messages one after another, where any is sent."""
        return np.where(self.joins, steps * self.link.latency_s, 0.0)

    def alone(self) -> Level:
        """The level by itself: its members share the whole of a message."""
        return replace(self, inner=np.ones_like(self.inner))

    def all_reduce_floor_s(self, message_bytes: Any) -> FloatArray:
        """Least time of an all-reduce at line rate.

        Every device must send 2 (n - 1) / n of what it has (reference 1), or all of it once,
        where switches add up.
        """
        sent = 2.0 * (self.members - 1.0) / self.members
        if self.link.reduces:
            sent = np.minimum(sent, 1.0)
        seconds: FloatArray = sent * message_bytes / self.inner / self.bytes_per_s
        return seconds

    def one_way_floor_s(self, message_bytes: Any) -> FloatArray:
        """Least time in which every device receives (or sends) all but its own part."""
        passed = (self.members - 1.0) / self.members
        seconds: FloatArray = passed * message_bytes / self.inner / self.bytes_per_s
        return seconds


Levels = Sequence[Level]


def size(levels: Levels) -> FloatArray:
    """Devices of the group that the levels join."""
    return np.asarray(np.prod(np.stack([level.members for level in levels]), axis=0))


class Algorithm(ABC):
    """One way to carry out a collective."""

    name: ClassVar[str]

    def valid(self, levels: Levels) -> Any:
        """For which groups it can be used (default: all)."""
        return True

    @abstractmethod
    def seconds(self, levels: Levels, message_bytes: Any) -> FloatArray:
        """Time of a message over groups; 0 for a group of one. Broadcast to (U, C)."""


def fastest(algorithms: Sequence[Algorithm], levels: Levels, message_bytes: Any) -> FloatArray:
    """The least time of the valid algorithms."""
    best: FloatArray | float = np.inf
    for algorithm in algorithms:
        seconds = algorithm.seconds(levels, message_bytes)
        best = np.minimum(best, np.where(algorithm.valid(levels), seconds, np.inf))
    return np.asarray(best)


def _inside(levels: Levels) -> Any:
    """Whether all of a group reach each other's memory."""
    outside = [level.joins for level in levels if not level.innermost]
    return ~np.any(np.stack(outside), axis=0) if outside else True


def _ring(levels: Levels, message_bytes: Any, passes: float) -> FloatArray:
    """`passes` times round a ring through all devices (references 1 and 3).

    Of the steps, those between neighbours at a level take its latency; as many rings as a
    domain has devices leave it by a port each.
    """
    n = size(levels)
    latency: FloatArray | float = 0.0
    carry: FloatArray | float = 0.0
    for level in levels:
        outer = n / level.inner
        latency = latency + level.steps_s(passes * (outer - outer / level.members))
        carry = np.maximum(carry, level.carry_s(passes * (n - 1.0) / n * message_bytes))
    return np.asarray(latency + carry)


class Ring(Algorithm):
    """Reduce-scatter and all-gather on a ring: 2 (n - 1) a + 2 (n - 1) / n M / B (1)."""

    name = "ring"

    def seconds(self, levels: Levels, message_bytes: Any) -> FloatArray:
        """Two rounds of n - 1 steps."""
        return _ring(levels, message_bytes, 2.0)


class Tree(Algorithm):
    """Two binary trees, half the message up and down each: 2 log2(n) a + 2 M / B (2).

    An inner node of one tree is a leaf of the other; of two nodes each sends M in all.
    """

    name = "tree"

    def seconds(self, levels: Levels, message_bytes: Any) -> FloatArray:
        """Up and down the trees of every level."""
        latency: FloatArray | float = 0.0
        carry: FloatArray | float = 0.0
        for level in levels:
            latency = latency + level.steps_s(_up_and_down(level))
            carry = np.maximum(carry, level.carry_s(_tree_bytes(level, message_bytes)))
        return np.asarray(latency + carry)


def _up_and_down(level: Level) -> FloatArray:
    steps: FloatArray = 2.0 * np.ceil(np.log2(level.members))
    return steps


def _tree_bytes(level: Level, message_bytes: Any) -> FloatArray:
    passed: FloatArray = np.where(level.members > 2, 2.0, 1.0) * message_bytes
    return passed


class OneShot(Algorithm):
    """Every device reads all others' tensors and adds them up: a + (n - 1) M / B (6)."""

    name = "one-shot"

    def valid(self, levels: Levels) -> Any:
        """Where devices reach each other's memory."""
        return _inside(levels)

    def seconds(self, levels: Levels, message_bytes: Any) -> FloatArray:
        """One step."""
        level = levels[0]
        return level.steps_s(1.0) + level.carry_s((level.members - 1.0) * message_bytes)


class TwoShot(Algorithm):
    """Each device adds up its part, then reads the others': 2 a + 2 (n - 1) / n M / B (6)."""

    name = "two-shot"

    def valid(self, levels: Levels) -> Any:
        """Where devices reach each other's memory."""
        return _inside(levels)

    def seconds(self, levels: Levels, message_bytes: Any) -> FloatArray:
        """Two steps."""
        level, n = levels[0], levels[0].members
        return level.steps_s(2.0) + level.carry_s(2.0 * (n - 1.0) / n * message_bytes)


class InNetwork(Algorithm):
    """Switches add up on the way and send the sum to all: 2 a + M / B.

    Over NVLink a device asks for the sum of its part and sends it back, (1 + 1/n) M / B (4).
    Levels whose switches do not add up run trees.
    """

    name = "in-network"

    def valid(self, levels: Levels) -> Any:
        """Where any level's switches reduce."""
        return any(level.link.reduces for level in levels)

    def seconds(self, levels: Levels, message_bytes: Any) -> FloatArray:
        """To the switches and back, at each level."""
        latency: FloatArray | float = 0.0
        carry: FloatArray | float = 0.0
        for level in levels:
            if level.link.reduces:
                steps: Any = 2.0
                own = 1.0 / level.members if level.innermost else 0.0
                seconds = level.carry_s((1.0 + own) * message_bytes, IN_NETWORK_SHARE)
            else:
                steps = _up_and_down(level)
                seconds = level.carry_s(_tree_bytes(level, message_bytes))
            latency = latency + level.steps_s(steps)
            carry = np.maximum(carry, seconds)
        return np.asarray(latency + carry)


class RingPass(Algorithm):
    """All-gather or reduce-scatter on a ring: (n - 1) a + (n - 1) / n M / B (1)."""

    name = "ring"

    def seconds(self, levels: Levels, message_bytes: Any) -> FloatArray:
        """One round of n - 1 steps."""
        return _ring(levels, message_bytes, 1.0)


class DirectPass(Algorithm):
    """Every device reads its part of all others at once: a + (n - 1) / n M / B."""

    name = "direct"

    def valid(self, levels: Levels) -> Any:
        """Where devices reach each other's memory."""
        return _inside(levels)

    def seconds(self, levels: Levels, message_bytes: Any) -> FloatArray:
        """One step."""
        level, n = levels[0], levels[0].members
        return level.steps_s(1.0) + level.carry_s((n - 1.0) / n * message_bytes)


class TreesPass(Algorithm):
    """As many trees as devices (NCCL's PAT): log2(n) a + (n - 1) / n M / B (5).

    Among domains, whose devices each run it with their likes in the others.
    """

    name = "trees"

    def valid(self, levels: Levels) -> Any:
        """Beyond the innermost level, one device from each domain: as NCCL uses it."""
        return len(levels) == 1 and not levels[0].innermost

    def seconds(self, levels: Levels, message_bytes: Any) -> FloatArray:
        """Up or down the trees."""
        level, n = levels[0], levels[0].members
        return level.steps_s(np.ceil(np.log2(n))) + level.carry_s((n - 1.0) / n * message_bytes)


class DirectExchange(Algorithm):
    """All-to-all, everything at once to everyone: a + (n - 1) / n M / B (1, without rounds)."""

    name = "direct"

    def seconds(self, levels: Levels, message_bytes: Any) -> FloatArray:
        """One step."""
        level, n = levels[0], levels[0].members
        return level.steps_s(1.0) + level.carry_s((n - 1.0) / n * message_bytes)


ALL_REDUCE = (Ring(), Tree(), OneShot(), TwoShot(), InNetwork())
ONE_WAY = (RingPass(), DirectPass(), TreesPass())
ALL_TO_ALL = (DirectExchange(),)

ALGORITHMS = {
    "all_reduce": ALL_REDUCE,
    "all_gather": ONE_WAY,
    "reduce_scatter": ONE_WAY,
    "alltoall": ALL_TO_ALL,
}
"""By operation, as NCCL's tables name them."""
