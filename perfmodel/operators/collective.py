"""Collectives over a hierarchy of links.

A group is laid out innermost first. The part inside the fast domain uses measured tables
where there are any, everything else the fastest of `perfmodel.operators.algorithms`. A group
that leaves the domain runs level by level, each outer level carrying only each inner group's
share of the payload, or pipelined through all levels, whichever is faster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from perfmodel.database.grid import Rows
from perfmodel.engine import ENGINES, PYTORCH
from perfmodel.hardware import Device, Link
from perfmodel.operators.algorithms import ALGORITHMS, Level, fastest
from perfmodel.operators.base import (
    LATENCY_RATIO,
    Bound,
    FloatArray,
    Kind,
    Number,
    OperatorModel,
    OperatorTime,
    Roofline,
)

if TYPE_CHECKING:
    from perfmodel.database import PerfStore


@dataclass(frozen=True)
class Group:
    """Communicating devices: `size` of them, each `stride` devices from the next; shape (U, 1)."""

    size: FloatArray
    stride: FloatArray

    def levels(self, links: tuple[Link, ...]) -> list[Level]:
        """What the group has at each link, innermost first."""
        inner = np.ones_like(self.size)
        found = []
        for i, link in enumerate(links):
            reach = np.maximum(link.span / self.stride, 1.0)
            # Degrees are powers of two; a domain of 72 holds groups of at most 64.
            reach = np.minimum(2.0 ** np.floor(np.log2(reach)), self.size)
            members = np.maximum(reach / inner, 1.0)
            found.append(Level(link, members, inner, innermost=i == 0))
            inner = inner * members
        return found


class AllReduce(OperatorModel):
    """The engine's own all-reduce kernels inside the fast domain.

    Shape columns: `devices`, `message_bytes` (the reduced tensor, on every device).
    """

    family: ClassVar[str] = "all_reduce"
    axes: ClassVar[tuple[str, ...]] = ("message_bytes",)
    slices: ClassVar[Mapping[str, float]] = {"devices": 1.0}

    def roofline(self, categories: Mapping[str, str], shape: Mapping[str, Any]) -> Roofline:
        """Every device's traffic, at least: once the tensor where switches add up."""
        level = _inside(self.device, shape["devices"])
        return Roofline(link_s=level.all_reduce_floor_s(shape["message_bytes"]))

    def work(self, categories: Mapping[str, str], shape: Mapping[str, Any]) -> FloatArray:
        """A ring's traffic: unlike the floor, it grows with the group."""
        level = _inside(self.device, shape["devices"])
        return 2.0 * level.one_way_floor_s(shape["message_bytes"])

    def analytic(self, floors: Roofline, shape: Mapping[str, Any]) -> FloatArray:
        """The fastest algorithm."""
        level = _inside(self.device, shape["devices"])
        return fastest(ALGORITHMS["all_reduce"], [level], shape["message_bytes"])

    def _others(self, engine: str, categories: Mapping[str, str]) -> list[Rows]:
        """And NCCL's, which engines call where their own kernels don't reach."""
        nccl = NcclCollective(self.device, self.engine, self.store)
        found = nccl.source({"operation": "all_reduce", **categories})
        beside = [] if found is None else [self._ratios(found[2], categories)[0]]
        return [*super()._others(engine, categories), *beside]


class NcclCollective(OperatorModel):
    """NCCL's collectives inside the fast domain; category `operation`.

    Shape columns: `devices`, `message_bytes`: the full tensor (all-reduce, and all-gather's
    output or reduce-scatter's input), or what one device sends in all (all-to-all).
    """

    family: ClassVar[str] = "collective"
    axes: ClassVar[tuple[str, ...]] = ("message_bytes",)
    slices: ClassVar[Mapping[str, float]] = {"devices": 1.0}
    relatives: ClassVar[int] = 4  # the other format, and the three other operations

    @property
    def table_engine(self) -> str:
        """NCCL's tables are the same under every engine; but a machine's own come first."""
        if self.engine != PYTORCH.name:
            return "nccl"
        own = self.store.table(self.device.tables, self.engine, self.family)
        return "nccl" if own is None else self.engine

    @property
    def table_engines(self) -> tuple[str, ...]:
        """The machine's own table, then NCCL's."""
        others = () if self.engine == PYTORCH.name else ENGINES
        return tuple(dict.fromkeys((self.table_engine, "nccl", *others)))

    def roofline(self, categories: Mapping[str, str], shape: Mapping[str, Any]) -> Roofline:
        """Every byte that another device needs leaves (or enters) this one once."""
        level = _inside(self.device, shape["devices"])
        return Roofline(link_s=level.one_way_floor_s(shape["message_bytes"]))

    def time(self, categories: Mapping[str, str], shape: Mapping[str, Number]) -> OperatorTime:
        """As the base class; without a table, the fastest algorithm of the operation."""
        if self._table(categories) is not None:
            return super().time(categories, shape)
        level = _inside(self.device, shape["devices"])
        message = np.asarray(shape["message_bytes"], dtype=float)
        seconds = fastest(ALGORITHMS[categories["operation"]], [level], message)
        return _analytic(seconds, level.one_way_floor_s(message))


def _inside(device: Device, devices: Any) -> Level:
    """A group inside the fast domain."""
    members = np.maximum(np.asarray(devices, dtype=float), 1.0)
    return Level(device.fast_link, members, np.ones_like(members), innermost=True)


NETWORK_START_S = 1e-5
"""Time a collective takes to go out to the network at all, hops apart.

With 5 us hops it makes a small all-reduce over two hosts of eight take 25 us; NCCL's own
tuning model says 25.9 us (4 KiB, 16 H100; log in NVIDIA/nccl issue 1453, where the
measurement was slower still)."""


class Collectives:
    """All collectives of one device and its fabric under one engine."""

    def __init__(self, device: Device, engine: str, store: PerfStore) -> None:
        self.links = device.links
        self._all_reduce = AllReduce(device, engine, store)
        self._nccl = NcclCollective(device, engine, store)

    def all_reduce(self, group: Group, message_bytes: Number) -> OperatorTime:
        """Sum a tensor of `message_bytes` over the group; every device ends with it."""
        message = np.asarray(message_bytes, dtype=float)
        first, *outer = levels = group.levels(self.links)
        times = [_masked(self._all_reduce_inside(first, message), first)]
        for level in outer:
            seconds = fastest(ALGORITHMS["all_reduce"], [level.alone()], message / level.inner)
            times.append(_analytic(seconds, level.all_reduce_floor_s(message)))
        return _across("all_reduce", levels, message, times)

    def _all_reduce_inside(self, level: Level, message: FloatArray) -> OperatorTime:
        """The faster of the engine's own kernels and NCCL's.

        Beyond what either was measured at it stays with the one that was faster at the end of
        the measurements, so that the time continues from there.
        """

        def both(at: FloatArray) -> tuple[OperatorTime, OperatorTime]:
            shape = {"devices": level.members, "message_bytes": at}
            own = self._all_reduce.time({"dtype": "bf16"}, shape)
            return own, self._nccl.time({"operation": "all_reduce", "dtype": "bf16"}, shape)

        own, nccl = both(message)
        low, high = self._measured_messages()
        choice = _is_faster(own, nccl)
        beyond = (message < low) | (message > high)
        if beyond.any():
            choice = np.where(beyond, _is_faster(*both(np.clip(message, low, high))), choice)
        return _chosen(choice, own, nccl)

    def _measured_messages(self) -> tuple[float, float]:
        """The smallest and the largest all-reduce in any table; without one, no limits."""
        tables = (
            self._all_reduce.measured_range({"dtype": "bf16"}, 0),
            self._nccl.measured_range({"operation": "all_reduce", "dtype": "bf16"}, 0),
        )
        found = [table for table in tables if table is not None]
        if not found:
            return 0.0, np.inf
        return min(low for low, _ in found), max(high for _, high in found)

    def all_gather(self, group: Group, message_bytes: Number) -> OperatorTime:
        """Every device ends with the group's `message_bytes`, of which it held 1/size."""
        return self._one_way("all_gather", group, message_bytes)

    def reduce_scatter(self, group: Group, message_bytes: Number) -> OperatorTime:
        """Sum `message_bytes` over the group; each device ends with 1/size of the sum."""
        return self._one_way("reduce_scatter", group, message_bytes)

    def _one_way(self, operation: str, group: Group, message_bytes: Number) -> OperatorTime:
        message = np.asarray(message_bytes, dtype=float)
        first, *outer = levels = group.levels(self.links)
        shape = {"devices": first.members, "message_bytes": message}
        categories = {"operation": operation, "dtype": "bf16"}
        times = [_masked(self._nccl.time(categories, shape), first)]
        for level in outer:
            seconds = fastest(ALGORITHMS[operation], [level.alone()], message / level.inner)
            times.append(_analytic(seconds, level.one_way_floor_s(message)))
        return _across(operation, levels, message, times)

    def dispatch(
        self, group: Group, token_bytes: Number, tokens: Number, top_k: int
    ) -> OperatorTime:
        """All-to-all of `tokens` per device to the devices of their `top_k` experts.

        The faster of two ways: straight to each device, over the outermost link between the
        two; or hierarchically, to each outer domain at most once and forwarded inside it, as
        DeepEP's kernels for prompts do. Links of several levels work at once. Routing is
        taken as balanced. The combine is the same traffic the other way.
        """
        first, *outer = group.levels(self.links)
        payload = np.asarray(tokens, dtype=float) * token_bytes
        size = group.size

        def reached(parts: FloatArray) -> FloatArray:
            """Of so many equal parts of the experts, those that a token is sent to."""
            least = np.minimum(1.0 / parts, 1 - 1e-12)
            return np.asarray(parts * -np.expm1(top_k * np.log1p(-least)))

        copies = payload * reached(size)
        straight = [self._exchange_inside(first, copies * first.members / size)]
        forwarded = [self._exchange_inside(first, copies)]
        for level in outer:
            share = (level.members - 1.0) * level.inner / size
            straight.append(_exchange(level, copies * share, 1.0))
            domains = payload * reached(size / level.inner)
            crossing = domains * (level.members - 1.0) / level.members
            forwarded.append(_exchange(level, crossing, 0.0))
        direct = _together(straight, [])
        staged = _together(forwarded, [level.steps_s(1.0) for level in outer])
        return _started(_chosen(direct.seconds <= staged.seconds, direct, staged), outer)

    def _exchange_inside(self, level: Level, sent_bytes: FloatArray) -> OperatorTime:
        shape = {"devices": level.members, "message_bytes": sent_bytes}
        categories = {"operation": "alltoall", "dtype": "bf16"}
        return _masked(self._nccl.time(categories, shape), level)

    def send(self, stride: FloatArray, message_bytes: Number) -> OperatorTime:
        """One device to the one `stride` devices on: the link that joins them."""
        times = []
        below = np.zeros_like(stride, dtype=bool)
        for link in self.links:
            here = (stride < link.span) & ~below
            below = below | here
            floor = np.asarray(message_bytes) * here / link.pair_bytes_per_s
            times.append(_analytic(here * link.latency_s + floor / link.achieved, floor))
        return _sum(times)


def _exchange(level: Level, crossing_bytes: FloatArray, steps: float) -> OperatorTime:
    """What leaves each device over an outer level in an all-to-all."""
    floor = np.where(level.joins, crossing_bytes / level.bytes_per_s, 0.0)
    return _analytic(level.steps_s(steps) + floor / level.link.achieved, floor)


def _across(
    operation: str, levels: Sequence[Level], message: FloatArray, times: Sequence[OperatorTime]
) -> OperatorTime:
    """The faster of level after level, whose times these are, and all levels at once."""
    outer = [level for level in levels[1:] if level.joins.any()]
    if not outer:
        return _sum(times)
    staged = _sum(times)
    # A pipeline is no faster than what the group inside takes by itself, as measured.
    seconds = np.maximum(fastest(ALGORITHMS[operation], levels, message), times[0].seconds)
    piped = _analytic(seconds, staged.floor_s)
    leaves = np.any(np.stack([level.joins for level in outer]), axis=0)
    return _started(_chosen(~leaves | (staged.seconds <= piped.seconds), staged, piped), outer)


def _started(time: OperatorTime, outer: Sequence[Level]) -> OperatorTime:
    """With the start-up of the network, where a group reaches it."""
    if not outer:
        return time
    leaves = np.any(np.stack([level.joins for level in outer]), axis=0)
    return replace(time, seconds=time.seconds + np.where(leaves, NETWORK_START_S, 0.0))


def _analytic(seconds: FloatArray, floor: Any) -> OperatorTime:
    floor = np.broadcast_to(floor, seconds.shape)
    kind = np.full(seconds.shape, Kind.ANALYTIC, dtype=np.uint8)
    bound = np.where(seconds > LATENCY_RATIO * floor, Bound.LATENCY, Bound.LINK).astype(np.uint8)
    return OperatorTime(seconds, kind, bound, floor)


def _masked(time: OperatorTime, level: Level) -> OperatorTime:
    """A group of one does not communicate."""
    alone = np.broadcast_to(~level.joins, time.seconds.shape)
    return replace(
        time,
        seconds=np.where(alone, 0.0, time.seconds),
        floor_s=np.where(alone, 0.0, time.floor_s),
    )


def _is_faster(a: OperatorTime, b: OperatorTime) -> Any:
    """Whether the first is, but never an unmeasured one over a measured one."""
    return np.where(a.kind == b.kind, a.seconds <= b.seconds, a.kind < b.kind)


def _chosen(first: Any, a: OperatorTime, b: OperatorTime) -> OperatorTime:
    return OperatorTime(
        np.where(first, a.seconds, b.seconds),
        np.where(first, a.kind, b.kind),
        np.where(first, a.bound, b.bound),
        np.minimum(a.floor_s, b.floor_s),
    )


def _sum(times: Sequence[OperatorTime]) -> OperatorTime:
    """Levels one after another."""
    longest = _longest(times)
    return replace(longest, seconds=np.sum(_stacked(times, "seconds"), axis=0))


def _together(times: Sequence[OperatorTime], latencies: Sequence[FloatArray]) -> OperatorTime:
    """Levels at once, after so many steps at others."""
    longest = _longest(times)
    return replace(longest, seconds=longest.seconds + sum(latencies, 0.0))


def _longest(times: Sequence[OperatorTime]) -> OperatorTime:
    """The longest of several levels' times; no level can be faster than the slowest's floor."""
    if len(times) == 1:
        return times[0]
    at = _stacked(times, "seconds").argmax(axis=0)[None]

    def of(name: str) -> Any:
        return np.take_along_axis(_stacked(times, name), at, axis=0)[0]

    floor = _stacked(times, "floor_s").max(axis=0)
    return OperatorTime(of("seconds"), of("kind"), of("bound"), floor)


def _stacked(times: Sequence[OperatorTime], name: str) -> Any:
    shape = np.broadcast_shapes(*(time.seconds.shape for time in times))
    return np.stack([np.broadcast_to(getattr(time, name), shape) for time in times])
