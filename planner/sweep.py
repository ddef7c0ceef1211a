"""Sweep: every feasible configuration of one role on one device, evaluated at once.

A role is what a pool of replicas does: `prefill`, `decode`, or `continuous`. The sweep
keeps, as arrays, the configurations that fit in memory and meet the SLO in the limit of
an idle system; queueing is added when a fleet is sized.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from perfmodel import phases
from perfmodel.database import PerfStore
from perfmodel.layout import Layouts
from perfmodel.operators import Operators
from perfmodel.precision import Precision
from perfmodel.step import StepModel
from planner.problem import Offer, Problem, supported
from planner.query import Target
from spaces.constraints import (
    LayoutConstraint,
    host_constraint,
    least_latency_s,
    memory_constraint,
    structure_constraints,
    world_constraint,
)
from spaces.enumeration import all_layouts, enumerate_layouts
from spaces.variables import CHUNKS, PREFILL_BATCHES, RawSpace, decode_batches

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
Role = Literal["prefill", "decode", "continuous"]

BLOCK = 1024
"""Layouts evaluated at a time, to bound memory."""


@dataclass(frozen=True)
class Candidates:
    """Feasible configurations of one role on one device in one precision, arrays of (N,).

    Attributes:
        layout: row of `layouts`.
        batch: sequences (prefill: prompts) per attention rank and micro-batch.
        chunk: prefill tokens per rank and iteration (continuous), else 0.
        world: devices of one replica.
        qps: capacity of one replica, requests/s.
        latency_s: first-token service time by representative input, (N, J); zero for decode.
        pace_s: mean time between service completions of one server.
        pace_cv2: its squared coefficient of variation.
        servers: requests (batches) served at once by one replica, as a queue sees them.
        prefill_share: share of time a server is busy with prefill at full load.
        ttit_s: mean time between tokens with every slot taken; zero for prefill.
        slots: sequences in flight; zero for prefill.
        shards: devices of one attention rank that hold different parts of the KV cache.
    """

    role: Role
    offer: Offer
    precision: Precision
    layouts: Layouts
    layout: IntArray
    batch: IntArray
    chunk: IntArray
    world: IntArray
    qps: FloatArray
    latency_s: FloatArray
    pace_s: FloatArray
    pace_cv2: FloatArray
    servers: FloatArray
    prefill_share: FloatArray
    ttit_s: FloatArray
    slots: FloatArray
    shards: FloatArray

    def __len__(self) -> int:
        return len(self.layout)

    def take(self, index: object) -> Candidates:
        """The candidates at an index array or mask."""
        arrays = {
            name: getattr(self, name)[index]
            for name in self.__dataclass_fields__
            if name not in ("role", "offer", "precision", "layouts")
        }
        return Candidates(self.role, self.offer, self.precision, self.layouts, **arrays)


@dataclass
class Funnel:
    """How many configurations each constraint left, of one role on one device.

    Layout stages count layouts; `evaluated` and later ones count layouts times the swept axes.
    """

    role: Role
    device: str
    precision: str
    stages: list[tuple[str, int]] = field(default_factory=list)

    def add(self, name: str, count: int) -> None:
        """Record what is left after a constraint."""
        self.stages.append((name, count))

    def count(self, name: str) -> int:
        """What was left after the named stage (0 if it was never reached)."""
        return dict(self.stages).get(name, 0)


class Space:
    """The configuration space of a problem: structure enumerated once, shared by devices."""

    def __init__(self, problem: Problem, store: PerfStore | None = None) -> None:
        self.problem = problem
        self.store = store or PerfStore()
        self.constraints = structure_constraints(problem.model)
        self.max_world = problem.query.search.max_replica_devices
        fits = memory_constraint(
            problem.model,
            [(o.device, p) for o, p in self.pairs()],
            problem.engine,
            problem.traffic,
        )
        self.layouts = enumerate_layouts([*self.constraints, fits], self.max_world)
        self.structure = [
            ("equal worlds", len(all_layouts(self.max_world))),
            *self._structure_counts(),
        ]
        self._operators: dict[str, Operators] = {}

    def pairs(self) -> Iterator[tuple[Offer, Precision]]:
        """Every device with every distinct precision it can run."""
        for offer in self.problem.offers:
            adapted = {p.on(offer.device.peak_flops_per_s): None for p in self.problem.precisions}
            for precision in adapted:
                if supported(precision, offer.device):
                    yield offer, precision

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles that the query's runtimes have."""
        roles: list[Role] = []
        if "disaggregated" in self.problem.query.runtime:
            roles += ["prefill", "decode"]
        if "continuous" in self.problem.query.runtime:
            roles.append("continuous")
        return tuple(roles)

    def step_model(self, offer: Offer, precision: Precision) -> StepModel:
        """The step model of a device, sharing its operators' tables between precisions."""
        device = offer.device
        if device.name not in self._operators:
            self._operators[device.name] = Operators(device, self.problem.engine.name, self.store)
        operators = self._operators[device.name]
        problem = self.problem
        return StepModel(problem.model, device, problem.engine, precision, operators)

    def _structure_counts(self) -> list[tuple[str, int]]:
        layouts = all_layouts(self.max_world)
        kept = np.ones(len(layouts), dtype=bool)
        counts = []
        for constraint in self.constraints:
            kept &= constraint.of(layouts)
            counts.append((constraint.name, int(kept.sum())))
        return counts

    def device_constraints(self, offer: Offer) -> list[LayoutConstraint]:
        """What a device adds to the structure, memory and latency apart."""
        constraints = [host_constraint(offer.device, offer.host_devices)]
        if offer.most_devices is not None and offer.most_devices < self.max_world:
            constraints.append(world_constraint(offer.most_devices))
        return constraints

    def feasible_layouts(
        self, role: Role, offer: Offer, precision: Precision, funnel: Funnel
    ) -> Layouts:
        """Layouts that satisfy every constraint on layouts, counted into the funnel."""
        problem = self.problem
        axes = self.axes(role)
        funnel.add("raw", RawSpace(self.max_world).layouts * len(axes[0]))
        for name, count in self.structure:
            funnel.add(name, count)
        layouts = self.layouts
        funnel.add("fits some device", len(layouts))
        for constraint in self.device_constraints(offer):
            layouts = layouts[constraint.of(layouts)]
        funnel.add("whole hosts", len(layouts))
        fits = memory_constraint(
            problem.model, [(offer.device, precision)], problem.engine, problem.traffic
        )
        layouts = layouts[fits.of(layouts)]
        funnel.add("memory (one sequence)", len(layouts))
        layouts = layouts[self._slo_possible(role, offer, precision, layouts)]
        funnel.add("SLO lower bound", len(layouts))
        return layouts

    def _slo_possible(
        self, role: Role, offer: Offer, precision: Precision, layouts: Layouts
    ) -> BoolArray:
        """Where rooflines alone do not already exceed the SLO (on its most lenient input)."""
        possible = np.ones(len(layouts), dtype=bool)
        problem = self.problem
        ttft, ttit = least_latency_s(
            problem.model, offer.device, precision, layouts, problem.traffic
        )
        if problem.slo.ttft is not None and role != "decode":
            possible &= ttft <= problem.slo.ttft.seconds
        if problem.slo.ttit is not None and role != "prefill":
            possible &= ttit <= problem.slo.ttit.seconds
        return possible

    def axes(self, role: Role) -> tuple[IntArray, IntArray]:
        """The swept axes of a role, (C,) each: batch and chunk (0 where it has none)."""
        if role == "prefill":
            return PREFILL_BATCHES, np.zeros_like(PREFILL_BATCHES)
        batches = decode_batches()
        if role == "decode":
            return batches, np.zeros_like(batches)
        # A continuous replica runs as many prompts as its longest queue allows: the same grid,
        # paired with every chunk that can keep that many slots filled.
        traffic = self.problem.traffic
        batch, chunk = (a.ravel() for a in np.meshgrid(batches, CHUNKS, indexing="ij"))
        sustained = batch * traffic.mean_new_tokens / traffic.outputs.mean <= chunk
        return batch[sustained], chunk[sustained]

    def sweep(self, role: Role, offer: Offer, precision: Precision) -> tuple[Candidates, Funnel]:
        """Every configuration of a role on a device: those feasible, and the funnel."""
        funnel = Funnel(role, offer.device.name, str(precision))
        layouts = self.feasible_layouts(role, offer, precision, funnel)
        return self.evaluate(role, offer, precision, layouts, funnel), funnel

    def evaluate(
        self,
        role: Role,
        offer: Offer,
        precision: Precision,
        layouts: Layouts,
        funnel: Funnel | None = None,
        rows: IntArray | None = None,
    ) -> Candidates:
        """Evaluate layouts (or some rows of them) on the role's whole grid of axes.

        What fits and meets the SLO on an idle system is kept.
        """
        step = self.step_model(offer, precision)
        batch, chunk = self.axes(role)
        blocks: list[Candidates] = []
        counts = np.zeros(3, dtype=np.int64)
        rows = np.arange(len(layouts)) if rows is None else rows
        for start in range(0, len(rows), BLOCK):
            block, block_counts = self._evaluate_block(
                role, offer, step, layouts, rows[start : start + BLOCK], batch, chunk
            )
            counts += block_counts
            blocks.append(block)
        if funnel is not None:
            for name, count in zip(("evaluated", "memory", "SLO"), counts, strict=True):
                funnel.add(name, int(count))
        nodes = len(self.problem.traffic.inputs.weights)
        return concatenate(blocks) if blocks else empty(role, offer, precision, layouts, nodes)

    def _evaluate_block(
        self,
        role: Role,
        offer: Offer,
        step: StepModel,
        layouts: Layouts,
        rows: IntArray,
        batch: IntArray,
        chunk: IntArray,
    ) -> tuple[Candidates, IntArray]:
        traffic, slo = self.problem.traffic, self.problem.slo
        block = layouts[rows]
        shape = (len(block), len(batch))
        zeros = np.zeros(shape)
        if role == "prefill":
            p = phases.prefill(step, block, traffic, batch)
            memory, qps, latency = p.memory, p.qps, p.latency_s
            pace, cv2, servers = p.pace_s, p.pace_cv2, p.servers
            ttit, slots, share = zeros, zeros, np.ones(shape)
            meets = _meets_mean_or_percentile(latency, traffic.inputs.weights, slo.ttft)
        elif role == "decode":
            d = phases.decode(step, block, traffic, batch, _percentile(slo.ttit))
            memory, qps = d.memory, d.qps
            latency = np.zeros((*shape, len(traffic.inputs.weights)))
            pace, cv2 = d.ttit_s * traffic.outputs.mean, np.full(shape, self._output_cv2())
            servers, ttit, slots, share = d.slots, d.ttit_s, d.slots, zeros
            meets = np.ones(shape, dtype=bool)
            if slo.ttit is not None:
                meets = d.ttit_slo_s <= slo.ttit.seconds
        else:
            c = phases.continuous(step, block, traffic, batch, chunk)
            memory, qps, latency = c.memory, c.qps, c.prefill_s
            weights = np.array(traffic.inputs.weights)
            pace = latency @ weights
            cv2 = np.maximum((latency**2) @ weights / pace**2 - 1.0, 0.0)
            servers, ttit, slots, share = c.servers, c.ttit_s, c.slots, c.mixed_share
            meets = (share <= 1.0) & _meets_mean_or_percentile(
                latency, traffic.inputs.weights, slo.ttft
            )
            if slo.ttit is not None:
                meets &= c.ttit_at(_percentile(slo.ttit)) <= slo.ttit.seconds
        if slo.e2e is not None and role != "prefill":
            mean_latency = latency @ np.array(traffic.inputs.weights) if role != "decode" else zeros
            meets &= mean_latency + traffic.outputs.mean * ttit <= slo.e2e.seconds
        fits = memory.total <= offer.device.memory_bytes
        fits = np.broadcast_to(fits, shape)
        keep = fits & meets
        layout, column = np.nonzero(keep)
        counts = np.array([fits.size, fits.sum(), keep.sum()], dtype=np.int64)
        return (
            Candidates(
                role=role,
                offer=offer,
                precision=step.precision,
                layouts=layouts,
                layout=rows[layout],
                batch=batch[column],
                chunk=chunk[column],
                world=block.world[layout],
                qps=qps[keep],
                latency_s=latency[keep],
                pace_s=pace[keep],
                pace_cv2=np.broadcast_to(cv2, shape)[keep],
                servers=np.broadcast_to(servers, shape)[keep],
                prefill_share=np.broadcast_to(share, shape)[keep],
                ttit_s=ttit[keep],
                slots=np.broadcast_to(slots, shape)[keep],
                shards=kv_shards(self.problem, block)[layout],
            ),
            counts,
        )

    def _output_cv2(self) -> float:
        outputs = self.problem.traffic.outputs
        return max(outputs.mean_square / outputs.mean**2 - 1.0, 0.0)


def kv_shards(problem: Problem, layouts: Layouts) -> FloatArray:
    """Devices of one attention rank that hold different parts of a sequence's cache, (L,)."""
    kv_heads = min(
        1 if group.attention.kind == "mla" else group.attention.kv_heads
        for group in problem.model.groups
    )
    shards: FloatArray = (layouts.pp * layouts.cp_a * np.minimum(layouts.tp_a, kv_heads)).astype(
        float
    )
    return shards


def empty(
    role: Role, offer: Offer, precision: Precision, layouts: Layouts, nodes: int
) -> Candidates:
    """No candidates."""
    none, no = np.zeros(0), np.zeros(0, dtype=np.int64)
    return Candidates(
        role, offer, precision, layouts, no, no, no, no, none, np.zeros((0, nodes)), *[none] * 7
    )


def concatenate(blocks: Sequence[Candidates]) -> Candidates:
    """Candidates of the same layouts, one after another."""
    first = blocks[0]
    arrays = {
        name: np.concatenate([getattr(block, name) for block in blocks])
        for name in first.__dataclass_fields__
        if name not in ("role", "offer", "precision", "layouts")
    }
    return Candidates(first.role, first.offer, first.precision, first.layouts, **arrays)


def _percentile(target: Target | None) -> float | None:
    return None if target is None else target.percentile


def _meets_mean_or_percentile(
    latency_s: FloatArray, weights: Sequence[float], target: Target | None
) -> BoolArray:
    """Where a first token without any waiting would meet the target, (L, C)."""
    if target is None:
        return np.ones(latency_s.shape[:2], dtype=bool)
    share = np.array(weights)
    if target.percentile is None:
        return np.asarray(latency_s @ share <= target.seconds)
    late = (latency_s > target.seconds) @ share
    return np.asarray(late <= 1.0 - target.percentile / 100.0 + 1e-12)
