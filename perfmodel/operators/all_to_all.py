"""Tokens to the devices of their experts and back: DeepEP's kernels, and TensorRT-LLM's.

The tables time one dispatch or combine of a whole group. Where none has the device or the
links that a group spans, the exchange is costed as alpha-beta (`Collectives.dispatch`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from perfmodel.engine import PYTORCH
from perfmodel.operators.base import FloatArray, Number, OperatorTime, Roofline
from perfmodel.operators.collective import Collectives, Group
from perfmodel.operators.groups import Filled, LargestGroupHeld, up_to
from perfmodel.precision import ACTIVATION_BYTES

if TYPE_CHECKING:
    import polars as pl

    from perfmodel.database import PerfStore
    from perfmodel.hardware import Device

PROMPTS = ("nvlink_one_sided", "nvlink_two_sided", "normal")
DECODES = ("nvlink_one_sided", "nvlink_two_sided", "low_latency", "normal")
"""Kernels in the order in which an engine that has them takes them."""

FEW_TOKENS = "low_latency"
"""The mode whose buffers bound how many tokens a device may send."""

DOMAIN, NETWORK = "domain", "network"
"""Whether a group lies in one fast domain, or spans several."""

SMS = 20
"""Multiprocessors given to DeepEP's kernels for prompts by default (`Buffer.num_sms`)."""

# Scales: one fp32 per 128 values of fp8, one fp8 per 16 of nvfp4.
WIRE_BYTES = {"bf16": 2.0, "fp8": 1.0 + 4 / 128, "nvfp4": 4.5 / 8, "unstated": 1.0}
"""A value on the wire. Unstated: the least that a dispatch may be."""

INDEX_BYTES = 8.0
"""An expert's number and weight, of what is prepared for a token."""

_FORMATS = ("unstated", "fp8", "bf16", "nvfp4")
_NEAREST = {
    "vllm": ("vllm", "sglang", "trtllm"),
    "sglang": ("sglang", "vllm", "trtllm"),
    "trtllm": ("trtllm", "sglang", "vllm"),
}


class AllToAll(LargestGroupHeld):
    """One way of an exchange of tokens.

    Shape columns: `tokens` (that each device sends), `hidden`, `top_k`, `experts`, `devices`,
    `nodes` (fast domains that they span). Categories: `operation`; `mode`; `dtype`, that on the
    wire; `reach`, `domain` or `network`.
    """

    family: ClassVar[str] = "all_to_all"
    axes: ClassVar[tuple[str, ...]] = ("tokens",)
    slices: ClassVar[Mapping[str, float]] = {
        "hidden": 4.0,
        "top_k": 4.0,
        "experts": 0.5,
        "devices": 1.0,
        "nodes": 1.0,
    }
    sizes: ClassVar[tuple[str, ...]] = ("devices", "nodes")
    relatives: ClassVar[int] = 0

    def roofline(self, categories: Mapping[str, str], shape: Mapping[str, Any]) -> Roofline:
        """What must leave each device, over its link; the levels of links at once.

        A token crosses to each device and to each other domain once, but with the
        low-latency kernels once per expert. What returns is bf16.
        """
        devices, nodes, top_k = shape["devices"], shape["nodes"], shape["top_k"]
        payload = shape["tokens"] * _token_bytes(categories, shape)
        domain = devices / nodes
        if categories["mode"] == FEW_TOKENS:
            near, far = top_k * (domain - 1.0) / devices, top_k * (devices - domain) / devices
        else:
            near = _reached(devices, top_k) * (domain - 1.0) / devices
            far = _reached(nodes, top_k) * (nodes - 1.0) / nodes
        first, *outer = self.device.links
        seconds = payload * near / first.group_bytes_per_s(domain)
        parts = nodes
        for inner, link in pairwise([first, *outer]):
            if inner is not first:
                # Beyond the hosts: what leaves a leaf passes its links to the spine as well.
                parts = np.maximum(devices / inner.span, 1.0)
                if categories["mode"] == FEW_TOKENS:
                    far = top_k * (devices - devices / parts) / devices
                else:
                    far = _reached(parts, top_k) * (parts - 1.0) / parts
            seconds = np.maximum(seconds, payload * far / link.group_bytes_per_s(parts))
        return Roofline(link_s=seconds)

    def stand_ins(self, categories: Mapping[str, str]) -> list[Mapping[str, str]]:
        """The same exchange in another format."""
        own = dict(categories)
        return [{**own, "dtype": f} for f in _FORMATS if f != own["dtype"]]

    @property
    def table_engines(self) -> tuple[str, ...]:
        """The engine's own table, then those of others."""
        if self.engine == PYTORCH.name:
            return (self.engine,)
        return _NEAREST.get(self.engine, (self.engine,))

    def mode(self, prompts: bool, reach: str) -> str | None:
        """The kernels that the engine takes, else another engine's; None: none was measured."""
        for engine in self.table_engines:
            frame = self.store.table(self.device.tables, engine, self.family)
            if frame is None:
                continue
            present = set(_reaching(frame, reach)["mode"].unique())
            for mode in PROMPTS if prompts else DECODES:
                if mode in present:
                    return mode
        return None

    def largest_tokens(self, categories: Mapping[str, str]) -> float:
        """The most tokens per device that were measured."""
        loaded = self._table(categories)
        return np.inf if loaded is None else float(2.0 ** loaded[0].axes[0][-1])

    def _select(self, frame: pl.DataFrame, categories: Mapping[str, str]) -> pl.DataFrame:
        import polars as pl

        rest = {name: categories[name] for name in ("operation", "mode")}
        rows = super()._select(_reaching(frame, categories["reach"]), rest)
        labels = rows["dtype"].unique().sort().to_list()
        wanted = categories["dtype"]
        if categories["operation"] == "combine" and wanted not in labels and labels:
            # Whatever was sent, bf16 returns.
            wanted = labels[0]
        rows = rows.filter(pl.col("dtype") == wanted)
        default = rows.filter(pl.col("sms") == SMS)
        return default if len(default) else rows


def _reaching(frame: pl.DataFrame, reach: str) -> pl.DataFrame:
    import polars as pl

    return frame.filter((pl.col("nodes") == 1) if reach == DOMAIN else (pl.col("nodes") > 1))


def _token_bytes(categories: Mapping[str, str], shape: Mapping[str, Any]) -> Any:
    if categories["operation"] == "prepare":
        return shape["top_k"] * INDEX_BYTES
    returns = categories["operation"] == "combine"
    return shape["hidden"] * WIRE_BYTES["bf16" if returns else categories["dtype"]]


def _reached(parts: Any, top_k: Any) -> Any:
    """How many of `parts` hold at least one of a token's experts, balanced routing."""
    return parts * -np.expm1(top_k * np.log1p(-np.minimum(1.0 / parts, 1 - 1e-12)))


@dataclass(frozen=True)
class Tokens:
    """What travels.

    Attributes:
        count: per device, broadcastable to (U, C).
        hidden: values of each.
        top_k: experts of each.
        experts: of the layer.
        sent: number format on the way to the experts: bf16, fp8 or nvfp4.
        prompts: whether the step has prompts in it, (C,).
    """

    count: FloatArray
    hidden: int
    top_k: int
    experts: int
    sent: str
    prompts: NDArray[np.bool_]


class TokenExchange:
    """Dispatch and combine of one device under one engine."""

    def __init__(
        self, device: Device, engine: str, store: PerfStore, collectives: Collectives
    ) -> None:
        self.model = AllToAll(device, engine, store)
        self._modes: dict[tuple[bool, str], str | None] = {}
        self._collectives = collectives
        self._links = device.links

    def dispatch(self, group: Group, tokens: Tokens) -> OperatorTime:
        """Every token to the devices of its experts."""
        return self._time("dispatch", group, tokens, tokens.sent)

    def combine(self, group: Group, tokens: Tokens) -> OperatorTime:
        """What the experts made of every token back to its device, summed there."""
        return self._time("combine", group, tokens, "bf16")

    def few_tokens(self, group: Group) -> FloatArray:
        """Tokens per device up to which decodes take the low-latency kernels, (U, 1)."""
        _, nodes = self._span(group)
        limits = {reach: self._few(reach) for reach in (DOMAIN, NETWORK)}
        return np.where(nodes > 1, limits[NETWORK], limits[DOMAIN])

    def _mode(self, prompts: bool, reach: str) -> str | None:
        key = (prompts, reach)
        if key not in self._modes:
            self._modes[key] = self.model.mode(prompts, reach)
        return self._modes[key]

    def _few(self, reach: str) -> float:
        mode = self._mode(False, reach)
        if mode != FEW_TOKENS:
            return np.inf
        return self.model.largest_tokens(_labels("dispatch", mode, "fp8", reach))

    def _span(self, group: Group) -> tuple[FloatArray, FloatArray]:
        """Devices of a group in a fast domain, and over how many domains it lies."""
        inside = group.levels(self._links)[0].members
        return inside, np.asarray(group.size / inside)

    def _time(self, operation: str, group: Group, tokens: Tokens, fmt: str) -> OperatorTime:
        _, nodes = self._span(group)
        count = np.asarray(tokens.count, dtype=float)
        columns = len(tokens.prompts)
        count = np.broadcast_to(count, (len(group.size), columns))
        whole = Filled(count.shape)
        for prompts in (True, False):
            at = np.flatnonzero(tokens.prompts == prompts)
            for reach in (DOMAIN, NETWORK):
                rows = np.flatnonzero(
                    ((nodes[:, 0] > 1) == (reach == NETWORK)) & (group.size[:, 0] > 1)
                )
                if len(at) and len(rows):
                    part = Group(group.size[rows], group.stride[rows])
                    sent = count[np.ix_(rows, at)]
                    time = self._part(operation, part, tokens, fmt, sent, prompts, reach)
                    whole.put(rows, at, time)
        return whole.time()

    def _part(
        self,
        operation: str,
        group: Group,
        tokens: Tokens,
        fmt: str,
        count: FloatArray,
        prompts: bool,
        reach: str,
    ) -> OperatorTime:
        """Of groups that reach as far, in steps that are alike."""
        mode = self._mode(prompts, reach)
        if mode is None:
            size = ACTIVATION_BYTES if fmt == "bf16" else WIRE_BYTES[fmt]
            return self._collectives.dispatch(group, tokens.hidden * size, count, tokens.top_k)
        _, nodes = self._span(group)
        one = np.ones_like(nodes)
        shape: dict[str, Number] = {
            "hidden": tokens.hidden * one,
            "top_k": tokens.top_k * one,
            "experts": tokens.experts * one,
            "devices": group.size,
            "nodes": nodes,
        }

        def by(mode: str, count: FloatArray) -> OperatorTime:
            time = self.model.time(_labels(operation, mode, fmt, reach), {**shape, "tokens": count})
            if mode == "nvlink_two_sided" and operation == "dispatch":
                labels = _labels("prepare", mode, fmt, reach)
                if self.model._table(labels) is not None:
                    time = _both(time, self.model.time(labels, {**shape, "tokens": count}))
            return time

        if mode != FEW_TOKENS:
            return by(mode, count)
        most = self._few(reach)
        few, within = by(mode, np.minimum(count, most)), count <= most
        if within.all():
            return few
        other = self._mode(True, reach)
        return up_to(within, few, by(mode if other is None else other, count))


def _labels(operation: str, mode: str, fmt: str, reach: str) -> dict[str, str]:
    return {"operation": operation, "mode": mode, "dtype": fmt, "reach": reach}


def _both(a: OperatorTime, b: OperatorTime) -> OperatorTime:
    """One after the other."""
    return OperatorTime(
        a.seconds + b.seconds, np.maximum(a.kind, b.kind), a.bound, np.asarray(a.floor_s)
    )
