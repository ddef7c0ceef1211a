"""The graph execution simulator: operators on the streams of a device.

A graph is a sequence of nodes in the order of their launch. Streams and lanes are CUDA's
streams and events: a node starts once its stream has run what was launched on it before,
its lane (the chain of operators that need each other's results) has ended, and so have
the lanes that it joins. Times are arrays over configurations, all simulated at once.

| name | what |
|---|---|
| `Node` | one operator: its stream, its lane, its seconds |
| `run` | when each node of a graph starts and ends |
| `repeat` | the time of a graph that follows on itself, such as a model's layers |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

COMPUTE, COMMUNICATION, HOST = "compute", "communication", "host"
"""Streams: kernels, transfers between devices, and the thread that launches both."""

SETTLED = 1e-9
"""Relative change between repetitions below which a schedule repeats itself."""


@dataclass(frozen=True)
class Node:
    """One operator.

    Attributes:
        stream: runs its nodes one after another, in the order of the graph.
        lane: its nodes too wait for each other; one micro-batch, or one branch of it.
        seconds: an array over configurations, or a number.
        joins: lanes that must have come to an end as well before the node starts.
    """

    name: str
    stream: str
    lane: str
    seconds: FloatArray | float
    joins: tuple[str, ...] = ()


@dataclass(frozen=True)
class State:
    """When each stream and each lane is free, in seconds; those not named are from the start."""

    streams: Mapping[str, FloatArray | float]
    lanes: Mapping[str, FloatArray | float]

    @property
    def end(self) -> FloatArray:
        """When all has ended."""
        times = [*self.streams.values(), *self.lanes.values()]
        latest = np.asarray(times[0] if times else 0.0, dtype=float)
        for time in times[1:]:
            latest = np.maximum(latest, time)
        return latest


IDLE = State({}, {})
"""Before the first node."""


@dataclass(frozen=True)
class Timeline:
    """A graph that was run.

    Attributes:
        start: of each node, in seconds.
        end: of each node, in seconds.
        state: after the last.
    """

    nodes: tuple[Node, ...]
    start: tuple[FloatArray, ...]
    end: tuple[FloatArray, ...]
    state: State

    @property
    def makespan(self) -> FloatArray:
        """From time zero to the end of the last node, in seconds."""
        return self.state.end

    def busy(self, stream: str) -> FloatArray:
        """Time that a stream works, in seconds."""
        spans = [n.seconds for n in self.nodes if n.stream == stream]
        return np.asarray(sum(spans, 0.0), dtype=float)


def run(nodes: Sequence[Node], state: State = IDLE) -> Timeline:
    """Run a graph on streams that are free at the times of `state`.

    The makespan is at least the work of each stream and of each lane, and at most the sum
    of all nodes.
    """
    streams, lanes = dict(state.streams), dict(state.lanes)
    starts, ends = [], []
    for node in nodes:
        start = np.asarray(streams.get(node.stream, 0.0), dtype=float)
        for lane in (node.lane, *node.joins):
            if lane in lanes:
                start = np.maximum(start, lanes[lane])
        end = start + node.seconds
        streams[node.stream] = lanes[node.lane] = end
        starts.append(start)
        ends.append(end)
    return Timeline(tuple(nodes), tuple(starts), tuple(ends), State(streams, lanes))


@dataclass(frozen=True)
class Repetition:
    """A graph that follows on itself.

    Attributes:
        ends: when the first repetitions have ended, in seconds, until they follow evenly.
        period_s: by which each further one ends later.
    """

    ends: tuple[FloatArray, ...]
    period_s: FloatArray

    def after(self, count: int) -> FloatArray:
        """When `count` repetitions have ended, in seconds."""
        if count == 0:
            return np.zeros_like(self.period_s)
        known = min(count, len(self.ends))
        return np.asarray(self.ends[known - 1] + (count - known) * self.period_s)


def repeat(nodes: Sequence[Node], most: int) -> Repetition:
    """Run a graph again and again, each time from where the last left its streams and lanes.

    It is solved once it repeats itself: when every stream and lane is later by as much as
    it was the time before. Ends after that are a multiple of the period.

    Args:
        most: repetitions that are asked for; no more are simulated.
    """
    state, ends = IDLE, []
    shift: list[FloatArray] | None = None
    for _ in range(most):
        before, state = state, run(nodes, state).state
        ends.append(state.end)
        last, shift = shift, _shift(before, state)
        if last is not None and all(
            np.allclose(a, b, rtol=SETTLED, atol=0.0) for a, b in zip(last, shift, strict=True)
        ):
            break
    period = ends[-1] - ends[-2] if len(ends) > 1 else (ends[0] if ends else np.zeros(()))
    return Repetition(tuple(ends), np.asarray(period))


def _shift(before: State, after: State) -> list[FloatArray]:
    """By how much each stream and lane is later."""
    pairs = ((after.streams, before.streams), (after.lanes, before.lanes))
    return [
        np.asarray(time - then.get(key, 0.0)) for now, then in pairs for key, time in now.items()
    ]
