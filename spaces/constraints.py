"""What a layout must satisfy, each constraint said once.

A constraint is a predicate over arrays of the degrees it reads. CP-SAT takes it as a
table over just those degrees; the sweep and the tests evaluate it directly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perfmodel.architecture import ModelArchitecture
from perfmodel.engine import EngineProfile
from perfmodel.hardware import Device
from perfmodel.layout import DEGREES, Layouts
from perfmodel.memory import attention_weight_bytes, replica_memory
from perfmodel.precision import FORMATS, Precision
from perfmodel.traffic import Traffic
from perfmodel.work import StepWork

Degrees = Mapping[str, NDArray[np.int64]]
BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class LayoutConstraint:
    """A named condition on some of a layout's degrees.

    Attributes:
        name: what the search funnel calls it.
        reads: the degrees it depends on.
        holds: over arrays of those degrees, where it is satisfied.
    """

    name: str
    reads: tuple[str, ...]
    holds: Callable[[Degrees], BoolArray]

    def of(self, layouts: Layouts) -> BoolArray:
        """Where it holds among layouts, (L,)."""
        return self.holds({name: getattr(layouts, name) for name in self.reads})


def structure_constraints(model: ModelArchitecture) -> list[LayoutConstraint]:
    """Divisibility: what the model's own shape allows, on any device.

    Heads divide over tensor parallelism (KV heads may be replicated, evenly); FFN columns
    divide; experts divide over expert parallelism, which a dense model has none of; every
    pipeline stage holds a layer; recurrent layers take a sequence whole.
    """
    constraints = [
        LayoutConstraint("pipeline stages", ("pp",), lambda d: d["pp"] <= model.layers),
    ]

    def coupled(d: Degrees) -> BoolArray:
        # Data-parallel ranks that each hold whole FFN shards of their own exchange nothing:
        # they are several replicas, which the fleet counts as such.
        return np.asarray(d["dp_a"] == 1) | (d["tp_f"] * d["ep_f"] > d["tp_a"] * d["cp_a"])

    mixers = list(dict.fromkeys(group.attention for group in model.groups))

    def heads_divide(d: Degrees) -> BoolArray:
        return np.asarray(np.all([mixer.splits_over(d["tp_a"]) for mixer in mixers], axis=0))

    widths = sorted(
        {g.feed_forward.intermediate for g in model.groups if g.feed_forward.is_moe == model.is_moe}
    )

    def columns_divide(d: Degrees) -> BoolArray:
        return np.asarray(np.all([w % d["tp_f"] == 0 for w in widths], axis=0))

    experts = sorted({g.feed_forward.experts for g in model.groups if g.feed_forward.is_moe})

    def experts_divide(d: Degrees) -> BoolArray:
        ep = d["ep_f"]
        if not experts:
            return np.asarray(ep == 1)
        return np.asarray(np.all([e % ep == 0 for e in experts], axis=0))

    constraints.append(
        LayoutConstraint(
            "no independent replicas", ("tp_a", "cp_a", "dp_a", "tp_f", "ep_f"), coupled
        )
    )
    constraints.append(LayoutConstraint("attention heads", ("tp_a",), heads_divide))
    if model.is_recurrent:
        # A recurrence passes over a sequence in order: no engine splits one over devices.
        constraints.append(
            LayoutConstraint(
                "recurrent layers without context parallelism", ("cp_a",), lambda d: d["cp_a"] == 1
            )
        )
    constraints.append(LayoutConstraint("FFN columns", ("tp_f",), columns_divide))
    constraints.append(LayoutConstraint("experts", ("ep_f",), experts_divide))
    return constraints


def host_constraint(device: Device, host_devices: int) -> LayoutConstraint:
    """A replica lies inside one host, or on whole hosts."""

    def whole(d: Degrees) -> BoolArray:
        world = d["pp"] * d["tp_a"] * d["cp_a"] * d["dp_a"]
        return np.asarray((world <= host_devices) | (world % host_devices == 0))

    return LayoutConstraint(f"{device.name} hosts of {host_devices}", PLACED, whole)


PLACED = ("pp", "tp_a", "cp_a", "dp_a")


def world_constraint(limit: int) -> LayoutConstraint:
    """A replica has at most `limit` devices (the inventory, or the largest world)."""

    def within(d: Degrees) -> BoolArray:
        return np.asarray(d["pp"] * d["tp_a"] * d["cp_a"] * d["dp_a"] <= limit)

    return LayoutConstraint(f"at most {limit} devices", PLACED, within)


def memory_constraint(
    model: ModelArchitecture,
    choices: Sequence[tuple[Device, Precision]],
    engine: EngineProfile,
    traffic: Traffic,
) -> LayoutConstraint:
    """Weights and the cache of one sequence fit on at least one of the devices.

    Activations are left to the estimate at a batch: they are never negative, so nothing that
    fits is removed here.
    """

    def fits(d: Degrees) -> BoolArray:
        one = np.ones_like(d["pp"])
        layouts = Layouts(d["pp"], d["tp_a"], d["cp_a"], one, d["tp_f"], d["ep_f"], one)
        shortest = np.array([min(traffic.inputs.tokens)])
        ok = np.zeros(len(layouts), dtype=bool)
        for device, precision in choices:
            memory = replica_memory(
                model, device, engine, precision, layouts, StepWork.of(), np.ones((1, 1)), shortest
            )
            ok |= (memory.total <= device.memory_bytes)[:, 0]
        return ok

    return LayoutConstraint("memory", ("pp", "tp_a", "cp_a", "tp_f", "ep_f"), fits)


def one_of(layouts: Layouts, name: str) -> LayoutConstraint:
    """A layout must be one of these."""

    def packed(degrees: Degrees) -> NDArray[np.int64]:
        codes = np.zeros_like(degrees["pp"])
        for degree in DEGREES:
            # Degrees are powers of two.
            codes = codes * 16 + np.log2(degrees[degree]).astype(np.int64)
        return codes

    allowed = packed({degree: getattr(layouts, degree) for degree in DEGREES})
    return LayoutConstraint(name, DEGREES, lambda d: np.isin(packed(d), allowed))


def least_latency_s(
    model: ModelArchitecture,
    device: Device,
    precision: Precision,
    layouts: Layouts,
    traffic: Traffic,
) -> tuple[FloatArray, FloatArray]:
    """Lower bounds on TTFT and TTIT of each layout, (L,) each, from rooflines alone.

    TTFT: the shortest prompt's products with every weight it meets, spread over attention's
    tensor and context parallelism. TTIT: every layer's weights that one token needs,
    streamed from memory once; a token passes through all pipeline stages.
    """
    tp, tp_f, ep = (getattr(layouts, name).astype(float) for name in ("tp_a", "tp_f", "ep_f"))
    hidden = model.hidden
    dense_tp = (layouts.dense_tp if model.is_moe else layouts.tp_f).astype(float)
    streamed = np.zeros(len(layouts))
    compute_s = np.zeros(len(layouts))
    peaks = device.peak_flops_per_s

    def rate(module: str) -> float:
        return peaks[FORMATS[precision.by_module()[module]].peak]

    for group in model.groups:
        ffn = group.feed_forward
        attention = attention_weight_bytes(group.attention, hidden, tp, precision)
        dense = ffn.dense_parameters(hidden) + ffn.shared_parameters(hidden)
        # One token reaches top_k experts; the device with most of them holds a ceil share.
        routed = np.ceil(ffn.top_k / ep) * ffn.expert_parameters(hidden) / tp_f
        streamed += group.count * (
            attention
            + (dense / dense_tp + ffn.latent_parameters(hidden)) * precision.bytes("ffn")
            + routed * precision.bytes("experts")
        )
        compute_s += (
            group.count
            * 2.0
            * (
                sum(group.attention.projections(hidden).values()) / rate("attention")
                + (dense + ffn.latent_parameters(hidden)) / rate("ffn")
                + ffn.top_k * ffn.expert_parameters(hidden) / rate("experts")
            )
        )
    spread = (layouts.tp_a * layouts.cp_a).astype(float)
    return (
        compute_s * float(traffic.new_tokens.min()) / spread,
        streamed / device.memory_bandwidth_bytes_per_s,
    )
