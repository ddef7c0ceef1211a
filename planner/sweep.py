"""Sweep: every feasible configuration of one role on one device, evaluated at once.

A role is what a pool of replicas does: `prefill`, `decode`, or `continuous`. The sweep
keeps, as arrays, the configurations that fit in memory and meet the SLO in the limit of
an idle system; queueing is added when a fleet is sized.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel import bounds, phases
from perfmodel.database import PerfStore
from perfmodel.kv_transfer import cache_heads
from perfmodel.layout import Layouts
from perfmodel.operators import Operators, operators_of
from perfmodel.precision import Precision
from perfmodel.prefix_cache import fits_host
from perfmodel.step import StepModel
from perfmodel.work import step_tokens
from planner.candidates import Axes, Candidates, Estimates, Funnel, Role
from planner.problem import Offer, Problem, supported
from planner.query_workload import Target
from planner.target import engine_of, runs_on, takes_step
from spaces.constraints import (
    Degrees,
    LayoutConstraint,
    host_constraint,
    least_latency_s,
    memory_constraint,
    structure_constraints,
    world_constraint,
)
from spaces.enumeration import all_layouts, enumerate_layouts
from spaces.expressible import Place, Traits, expressible
from spaces.variables import CHUNKS, PREFILL_BATCHES, STEP_TOKENS, RawSpace, decode_batches

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

BLOCK_CELLS = 2**20
"""Layouts times columns evaluated at a time, to bound memory (8 MiB an array)."""


class Space:
    """The configuration space of a problem: structure enumerated once, shared by devices."""

    def __init__(self, problem: Problem, store: PerfStore | None = None) -> None:
        self.problem = problem
        self.store = store or PerfStore()
        named = self.target_constraints(*map(Place, self.roles))
        self.constraints = [*structure_constraints(problem.model), *named]
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

    def under(self, problem: Problem) -> Space:
        """The same space of a problem that differs in traffic or delays, sharing its tables."""
        other = copy(self)
        other.problem = problem
        return other

    def pairs(self) -> Iterator[tuple[Offer, Precision]]:
        """Every device with every distinct precision it can run."""
        query = self.problem.query
        for offer in self.problem.offers:
            if query.target is not None:
                engine = engine_of(query.target, query.engine)
                if not runs_on(engine, offer.device.name):
                    continue
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
        """The step model of a device, sharing its operators' tables with all of the store's."""
        problem, device = self.problem, offer.device
        if device.name not in self._operators:
            self._operators[device.name] = operators_of(device, problem.engine.name, self.store)
        operators = self._operators[device.name]
        return StepModel(
            problem.model, device, problem.engine, precision, operators, problem.routing
        )

    def _structure_counts(self) -> list[tuple[str, int]]:
        layouts = all_layouts(self.max_world)
        kept = np.ones(len(layouts), dtype=bool)
        counts = []
        for constraint in self.constraints:
            kept &= constraint.of(layouts)
            counts.append((constraint.name, int(kept.sum())))
        return counts

    def target_constraints(self, *places: Place) -> list[LayoutConstraint]:
        """What the runtime that the query is deployed on can express in one of the places."""
        query = self.problem.query
        if query.target is None:
            return []
        engine = engine_of(query.target, query.engine)
        traits = Traits.of(self.problem.model)
        rules = [expressible(engine, traits, place) for place in places]

        def any_holds(d: Degrees) -> BoolArray:
            return np.asarray(np.any([rule.holds(d) for rule in rules], axis=0))

        return [replace(rules[0], holds=any_holds)]

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
        funnel.add("raw", RawSpace(self.max_world).layouts * len(axes))
        for name, count in self.structure:
            funnel.add(name, count)
        layouts = self.layouts
        funnel.add("fits some device", len(layouts))
        drafts = max(problem.draft_tokens) > 0
        place = Place(role, offer.device, precision.kv, drafts)
        named = self.target_constraints(place)
        for constraint in [*named, *self.device_constraints(offer)]:
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
            possible &= ttft + problem.least_handling_s <= problem.slo.ttft.seconds
        if problem.slo.ttit is not None and role != "prefill":
            # An iteration takes as long at least, but may gain several tokens.
            gain = step_tokens(max(problem.draft_tokens), problem.acceptance)
            possible &= ttit <= problem.slo.ttit.seconds * gain
        return possible

    def axes(self, role: Role) -> Axes:
        """The swept axes of a role."""
        traffic = self.problem.traffic
        if role == "prefill":
            longest = traffic.new_tokens.max()
            few = PREFILL_BATCHES[(PREFILL_BATCHES * longest <= STEP_TOKENS)]
            batches = few if len(few) else PREFILL_BATCHES[:1]
            none = np.zeros_like(batches)
            return Axes(batches, none, traffic, none)
        lengths, acceptance = np.array(self.problem.draft_tokens), self.problem.acceptance
        chunks = CHUNKS if role == "continuous" else np.zeros(1, dtype=np.int64)
        drafts, batch, chunk = (
            a.ravel() for a in np.meshgrid(lengths, decode_batches(), chunks, indexing="ij")
        )
        if role == "decode":
            return Axes(batch, chunk, traffic, drafts, acceptance)
        # A chunk that keeps the slots filled (or one slot as far as it goes)...
        gained = batch * step_tokens(drafts, acceptance)
        needed = gained * traffic.mean_new_tokens / traffic.outputs.mean
        kept = (needed <= chunk) | (batch == 1)
        # ...and no larger than a prompt, or than the prompts that arrive in an iteration: prompts
        # are not held back to fill it.
        enough = np.maximum(needed, traffic.mean_new_tokens)[:, None] <= CHUNKS
        largest = np.where(enough.any(axis=1), CHUNKS[enough.argmax(axis=1)], CHUNKS[-1])
        kept &= chunk <= largest
        return Axes(batch[kept], chunk[kept], traffic, drafts[kept], acceptance)

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
        rows: NDArray[np.int64] | None = None,
        columns: NDArray[np.int64] | None = None,
    ) -> Candidates:
        """Evaluate layouts (or some rows of them) on the role's grid of axes (or some columns).

        What fits and meets the SLO on an idle system is kept.
        """
        step = self.step_model(offer, precision)
        axes = self.axes(role)
        none, heads = np.zeros(0, dtype=np.int64), cache_heads(self.problem.model)
        whole = Candidates(
            role, offer, precision, layouts, axes, heads, none, none, _none(role, axes)
        )
        blocks = [whole]
        counts = np.zeros(3, dtype=np.int64)
        rows = np.arange(len(layouts)) if rows is None else rows
        # One draft length at a time: more columns in a block would leave it fewer layouts, and
        # those of every block pay for their shapes anew.
        asked = np.arange(len(axes)) if columns is None else columns
        for drafts in np.unique(axes.drafts[asked]):
            alike = asked[axes.drafts[asked] == drafts]
            swept = axes.take(alike)
            size = max(BLOCK_CELLS // len(alike), 1)
            for start in range(0, len(rows), size):
                part = rows[start : start + size]
                fits, meets, estimates = self._estimate(role, step, layouts[part], swept)
                said = self._expressible(role, layouts[part], swept)
                fits = fits & said
                keep = fits & meets
                layout, column = np.nonzero(keep)
                counts += [int(said.sum()), int(fits.sum()), int(keep.sum())]
                blocks.append(whole.subset(part[layout], alike[column], estimates.take(keep)))
        if funnel is not None:
            for name, count in zip(("evaluated", "memory", "SLO"), counts, strict=True):
                funnel.add(name, int(count))
        return Candidates.concatenate(blocks)

    def _expressible(self, role: Role, layouts: Layouts, axes: Axes) -> BoolArray:
        """Of layouts (L) times columns (C): what the runtime deployed on can be told."""
        query = self.problem.query
        if query.target is None or role != "continuous":
            return np.ones((len(layouts), len(axes)), dtype=bool)
        return takes_step(
            engine_of(query.target, query.engine),
            stages=layouts.pp[:, None],
            batch=axes.batch,
            chunk=axes.chunk,
            drafts=axes.drafts,
        )

    def _estimate(
        self, role: Role, step: StepModel, layouts: Layouts, axes: Axes
    ) -> tuple[BoolArray, BoolArray, Estimates]:
        """Of layouts (L) times columns (C): what fits, what meets the SLO idle, and times."""
        traffic, slo = self.problem.traffic, self.problem.slo
        drafts, acceptance = axes.drafts, axes.acceptance
        shape = (len(layouts), len(axes))
        zeros = np.zeros(shape)
        meets = np.ones(shape, dtype=bool)
        if role == "prefill":
            p = phases.prefill(step, layouts, traffic, axes.batch)
            memory = p.memory
            estimates = Estimates(p.latency_s, p.pace_s, p.pace_cv2, zeros, zeros)
            meets = self.first_token_in_time(p.latency_s)
        elif role == "decode":
            d = phases.decode(
                step,
                layouts,
                traffic,
                axes.batch,
                _percentile(slo.ttit),
                drafts=drafts,
                acceptance=acceptance,
            )
            memory = d.memory
            estimates = Estimates(np.zeros((*shape, 0)), zeros, zeros, d.ttit_s, d.ttit_slo_s)
            if slo.ttit is not None:
                meets = d.ttit_slo_s <= slo.ttit.seconds
            if slo.e2e is not None:
                meets = meets & (traffic.outputs.mean * d.ttit_s <= slo.e2e.seconds)
        else:
            c = phases.continuous(
                step,
                layouts,
                traffic,
                axes.batch,
                axes.chunk,
                _percentile(slo.ttit),
                drafts=drafts,
                acceptance=acceptance,
            )
            memory = c.memory
            steps = c.mixed_s[:, :, None]
            if traffic.loads_prefix:
                steps = np.concatenate([steps, c.load_s], axis=2)
            estimates = Estimates(steps, zeros, zeros, c.ttit_s, c.ttit_slo_s)
            if slo.ttft is not None:
                meets = self.first_token_in_time(c.prefill_s)
            if slo.ttit is not None:
                meets = meets & (c.ttit_slo_s <= slo.ttit.seconds)
        fits = np.broadcast_to(memory.total <= step.device.memory_bytes, shape)
        if traffic.loads_prefix and role != "decode":
            kept = (step.model, step.device, step.precision, layouts, traffic.prefix_tokens)
            fits = fits & fits_host(*kept)[:, None]
        return fits, meets, estimates

    def most_qps(
        self, role: Role, offer: Offer, precision: Precision, layouts: Layouts
    ) -> FloatArray:
        """Requests/s that no configuration of each layout exceeds, (L,); zero: none is feasible.

        By bounds on groups of batches, at a fraction of what evaluating them costs.
        """
        step, axes = self.step_model(offer, precision), self.axes(role)
        size = max(BLOCK_CELLS // len(axes), 1)
        parts = [
            self._most_qps(role, step, layouts[np.arange(start, min(start + size, len(layouts)))])
            for start in range(0, len(layouts), size)
        ]
        return np.concatenate([np.zeros(0), *parts])

    def _most_qps(self, role: Role, step: StepModel, layouts: Layouts) -> FloatArray:
        traffic, slo, axes = self.problem.traffic, self.problem.slo, self.axes(role)
        percentile = _percentile(slo.ttit)
        drafting: Any = {"drafts": axes.drafts, "acceptance": axes.acceptance}
        if role == "prefill":
            found = bounds.prefill(step, layouts, traffic, axes.batch)
        elif role == "decode":
            found = bounds.decode(step, layouts, traffic, axes.batch, percentile, **drafting)
        else:
            found = bounds.continuous(
                step, layouts, traffic, axes.batch, axes.chunk, percentile, **drafting
            )
        possible = np.broadcast_to(
            found.memory.total <= step.device.memory_bytes, found.most_qps.shape
        ).copy()
        if role != "decode":
            possible &= self.first_token_in_time(found.latency_s)
        if slo.ttit is not None:
            possible &= found.ttit_slo_s <= slo.ttit.seconds
        if slo.e2e is not None and role == "decode":
            possible &= traffic.outputs.mean * found.ttit_s <= slo.e2e.seconds
        return np.asarray(np.where(possible, found.most_qps, 0.0).max(axis=1))

    def first_token_in_time(self, latency_s: FloatArray) -> BoolArray:
        """Where a first token without any waiting meets the target; latency by input, (L, C, J)."""
        target = self.problem.slo.ttft
        weights = np.array(self.problem.traffic.inputs.weights)
        if target is None:
            return np.ones(latency_s.shape[:2], dtype=bool)
        latency_s = latency_s + self.problem.least_handling_s
        if target.percentile is None:
            return np.asarray(latency_s @ weights <= target.seconds)
        late = (latency_s > target.seconds) @ weights
        return np.asarray(late <= 1.0 - target.percentile / 100.0 + 1e-12)


def _none(role: Role, axes: Axes) -> Estimates:
    """Estimates of no configuration."""
    inputs = len(axes.traffic.inputs.weights)
    loads = inputs * axes.traffic.loads_prefix
    width = {"prefill": inputs, "continuous": 1 + loads, "decode": 0}[role]
    none = np.zeros(0)
    return Estimates(np.zeros((0, width)), none, none, none, none)


def _percentile(target: Target | None) -> float | None:
    return None if target is None else target.percentile
