"""Collectives over a hierarchy of links.

A group is laid out innermost first; the part inside the fast domain uses measured
tables where there are any, each outer level alpha-beta. A reduction or gather crosses
an outer level with only each inner group's share of the payload (hierarchical
algorithms, as in NCCL).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from perfmodel.engine import ENGINES, PYTORCH
from perfmodel.hardware import Device, Link
from perfmodel.operators.base import (
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

    def levels(self, links: tuple[Link, ...]) -> Iterator[tuple[Link, FloatArray, FloatArray]]:
        """For each link, innermost first: members joined at it, and those joined below it."""
        inner = np.ones_like(self.size)
        for link in links:
            reach = np.maximum(link.span / self.stride, 1.0)
            # Degrees are powers of two; a domain of 72 holds groups of at most 64.
            reach = np.minimum(2.0 ** np.floor(np.log2(reach)), self.size)
            members = np.maximum(reach / inner, 1.0)
            yield link, members, inner
            inner = inner * members


class AllReduce(OperatorModel):
    """The engine's own all-reduce kernels inside the fast domain.

    Shape columns: `devices`, `message_bytes` (the reduced tensor, on every device).
    """

    family: ClassVar[str] = "all_reduce"
    axes: ClassVar[tuple[str, ...]] = ("message_bytes",)
    slices: ClassVar[Mapping[str, float]] = {"devices": 1.0}

    def roofline(self, categories: Mapping[str, str], shape: Mapping[str, Any]) -> Roofline:
        """Each device sends and receives the tensor once (reduction in the switch)."""
        bandwidth = self.device.fast_link.bandwidth_bytes_per_s
        return Roofline(link_s=shape["message_bytes"] * (shape["devices"] > 1) / bandwidth)

    def work(self, categories: Mapping[str, str], shape: Mapping[str, Any]) -> FloatArray:
        """A ring's traffic: unlike the floor, it grows with the group."""
        n = np.maximum(np.asarray(shape["devices"], dtype=float), 1.0)
        crossing = 2.0 * (n - 1.0) / n * shape["message_bytes"]
        seconds: FloatArray = crossing / self.device.fast_link.bandwidth_bytes_per_s
        return seconds

    def analytic(self, floors: Roofline, shape: Mapping[str, Any]) -> FloatArray:
        """Ring bandwidth term, tree latency term."""
        link = self.device.fast_link
        return ring_all_reduce_s(link, shape["devices"], shape["message_bytes"])


class NcclCollective(OperatorModel):
    """NCCL's collectives inside the fast domain; category `operation`.

    Shape columns: `devices`, `message_bytes`: the full tensor (all-reduce, and all-gather's
    output or reduce-scatter's input), or what one device sends in all (all-to-all).
    """

    family: ClassVar[str] = "collective"
    axes: ClassVar[tuple[str, ...]] = ("message_bytes",)
    slices: ClassVar[Mapping[str, float]] = {"devices": 1.0}

    @property
    def table_engine(self) -> str:
        """NCCL's tables are the same under every engine; but a machine's own come first."""
        if self.engine != PYTORCH.name:
            return "nccl"
        own = self.store.table(self.device.name, self.engine, self.family)
        return "nccl" if own is None else self.engine

    @property
    def table_engines(self) -> tuple[str, ...]:
        """The machine's own table, then NCCL's."""
        others = () if self.engine == PYTORCH.name else ENGINES
        return tuple(dict.fromkeys((self.table_engine, "nccl", *others)))

    def roofline(self, categories: Mapping[str, str], shape: Mapping[str, Any]) -> Roofline:
        """Every byte that another device needs leaves (or enters) this one once."""
        n = np.maximum(shape["devices"], 1.0)
        crossing = shape["message_bytes"] * (n - 1.0) / n
        return Roofline(link_s=crossing / self.device.fast_link.bandwidth_bytes_per_s)

    def analytic(self, floors: Roofline, shape: Mapping[str, Any]) -> FloatArray:
        """Alpha-beta: log2(n) latencies and the roofline at the usual bus efficiency."""
        steps = np.ceil(np.log2(np.maximum(shape["devices"], 1.0)))
        seconds: FloatArray = (
            steps * self.device.fast_link.latency_s
            + np.asarray(floors.link_s) / self.efficiency.link_s
        )
        return seconds


def ring_all_reduce_s(link: Link, devices: Any, message_bytes: Any) -> FloatArray:
    """Alpha-beta all-reduce: 2(n-1)/n of the payload over the link, 2 log2(n) latencies."""
    n = np.maximum(np.asarray(devices, dtype=float), 1.0)
    payload = 2.0 * (n - 1.0) / n * message_bytes
    seconds: FloatArray = (
        payload / (link.bandwidth_bytes_per_s * NETWORK_EFFICIENCY)
        + 2.0 * np.ceil(np.log2(n)) * link.latency_s
    )
    return seconds


NETWORK_START_S = 1e-5
"""Time a collective takes to go out to the network at all, hops apart.

With 5 us hops it makes a small all-reduce over two hosts of eight take 25 us; NCCL's own
tuning model says 25.9 us (4 KiB, 16 H100; log in NVIDIA/nccl issue 1453, where the
measurement was slower still)."""

NETWORK_EFFICIENCY = 0.8
"""Share of a link's line rate that large collectives reach where nothing was measured."""


class Collectives:
    """All collectives of one device and its fabric under one engine."""

    def __init__(self, device: Device, engine: str, store: PerfStore) -> None:
        self.links = device.links
        self._all_reduce = AllReduce(device, engine, store)
        self._nccl = NcclCollective(device, engine, store)

    def all_reduce(self, group: Group, message_bytes: Number) -> OperatorTime:
        """Sum a tensor of `message_bytes` over the group; every device ends with it."""
        times = []
        for level, (link, members, inner) in enumerate(group.levels(self.links)):
            if level == 0:
                shape = {"devices": members, "message_bytes": np.asarray(message_bytes)}
                own = self._all_reduce.time({"dtype": "bf16"}, shape)
                nccl = self._nccl.time({"operation": "all_reduce", "dtype": "bf16"}, shape)
                times.append(_masked(_faster(own, nccl), members))
            else:
                share = np.asarray(message_bytes) / inner
                seconds = ring_all_reduce_s(link, members, share) + _start(members)
                times.append(_network(seconds, share * (members > 1), link))
        return _sum(times)

    def all_gather(self, group: Group, message_bytes: Number) -> OperatorTime:
        """Every device ends with the group's `message_bytes`, of which it held 1/size."""
        return self._one_way("all_gather", group, message_bytes)

    def reduce_scatter(self, group: Group, message_bytes: Number) -> OperatorTime:
        """Sum `message_bytes` over the group; each device ends with 1/size of the sum."""
        return self._one_way("reduce_scatter", group, message_bytes)

    def _one_way(self, operation: str, group: Group, message_bytes: Number) -> OperatorTime:
        times = []
        for level, (link, members, inner) in enumerate(group.levels(self.links)):
            share = np.asarray(message_bytes) / inner
            if level == 0:
                shape = {"devices": members, "message_bytes": share}
                categories = {"operation": operation, "dtype": "bf16"}
                times.append(_masked(self._nccl.time(categories, shape), members))
            else:
                crossing = share * (members - 1.0) / members
                seconds = _alpha_beta(link, members, crossing) + _start(members)
                times.append(_network(seconds, crossing, link))
        return _sum(times)

    def dispatch(
        self, group: Group, token_bytes: Number, tokens: Number, top_k: int
    ) -> OperatorTime:
        """All-to-all of `tokens` per device to the devices of their `top_k` experts.

        A token crosses to each device, and to each outer domain, at most once; routing
        is taken as balanced. The combine is the same traffic the other way.
        """
        times = []
        payload = np.asarray(tokens) * token_bytes
        for level, (link, members, inner) in enumerate(group.levels(self.links)):
            parts = group.size / inner if level else group.size
            reached = parts * -np.expm1(top_k * np.log1p(-np.minimum(1.0 / parts, 1 - 1e-12)))
            if level == 0:
                shape = {"devices": members, "message_bytes": payload * reached * members / parts}
                categories = {"operation": "alltoall", "dtype": "bf16"}
                times.append(_masked(self._nccl.time(categories, shape), members))
            else:
                crossing = payload * reached * (members - 1.0) / members
                seconds = _alpha_beta(link, members, crossing) + _start(members)
                times.append(_network(seconds, crossing, link))
        return _sum(times)

    def send(self, stride: FloatArray, message_bytes: Number) -> OperatorTime:
        """One device to the one `stride` devices on: the link that joins them."""
        times = []
        below = np.zeros_like(stride, dtype=bool)
        for link in self.links:
            here = (stride < link.span) & ~below
            below = below | here
            payload = np.asarray(message_bytes) * here
            seconds = here * link.latency_s + payload / (
                link.bandwidth_bytes_per_s * NETWORK_EFFICIENCY
            )
            times.append(_network(seconds, payload, link))
        return _sum(times)


def _start(members: FloatArray) -> FloatArray:
    """Start-up of the network level of a collective, where there is one."""
    return np.where(members > 1, NETWORK_START_S, 0.0)


def _alpha_beta(link: Link, members: FloatArray, crossing: FloatArray) -> FloatArray:
    seconds: FloatArray = np.ceil(np.log2(members)) * link.latency_s + crossing / (
        link.bandwidth_bytes_per_s * NETWORK_EFFICIENCY
    )
    return seconds


def _network(seconds: FloatArray, crossing: Any, link: Link) -> OperatorTime:
    floor = np.broadcast_to(np.asarray(crossing) / link.bandwidth_bytes_per_s, seconds.shape)
    kind = np.full(seconds.shape, Kind.ANALYTIC, dtype=np.uint8)
    bound = np.where(seconds > 3 * floor, Bound.LATENCY, Bound.LINK).astype(np.uint8)
    return OperatorTime(seconds, kind, bound, floor)


def _masked(time: OperatorTime, members: FloatArray) -> OperatorTime:
    """A group of one does not communicate."""
    alone = np.broadcast_to(members <= 1, time.seconds.shape)
    return OperatorTime(
        np.where(alone, 0.0, time.seconds),
        time.kind,
        time.bound,
        np.where(alone, 0.0, time.floor_s),
    )


def _faster(a: OperatorTime, b: OperatorTime) -> OperatorTime:
    """The faster of two algorithms, but never an unmeasured one over a measured one."""
    first = np.where(a.kind == b.kind, a.seconds <= b.seconds, a.kind < b.kind)
    return OperatorTime(
        np.where(first, a.seconds, b.seconds),
        np.where(first, a.kind, b.kind),
        np.where(first, a.bound, b.bound),
        np.minimum(a.floor_s, b.floor_s),
    )


def _sum(times: list[OperatorTime]) -> OperatorTime:
    """Levels one after another; provenance and bound are those of the longest."""
    shape = np.broadcast_shapes(*(t.seconds.shape for t in times))
    seconds = np.stack([np.broadcast_to(t.seconds, shape) for t in times])
    longest = seconds.argmax(axis=0)[None]

    def of_longest(name: str) -> Any:
        stacked = np.stack([np.broadcast_to(getattr(t, name), shape) for t in times])
        return np.take_along_axis(stacked, longest, axis=0)[0]

    floor = np.sum([np.broadcast_to(t.floor_s, shape) for t in times], axis=0)
    return OperatorTime(seconds.sum(axis=0), of_longest("kind"), of_longest("bound"), floor)
