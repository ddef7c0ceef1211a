"""Small random spaces whole: CP-SAT, brute force and the estimator agree on what can run.

Brute force tries every combination of degrees and states each constraint once more, in
plain arithmetic on a layout; the estimator is asked about everything that passes but for
memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perfmodel.architecture import Attention, FeedForward, LayerGroup, ModelArchitecture
from perfmodel.database import PerfStore
from perfmodel.engine import engine_profile
from perfmodel.hardware import UNLIMITED, Device, Link
from perfmodel.layout import Layouts
from perfmodel.memory import replica_memory
from perfmodel.operators import Operators
from perfmodel.phases import continuous, decode, prefill
from perfmodel.precision import Precision
from perfmodel.step import StepModel
from perfmodel.traffic import Lengths, Traffic
from perfmodel.work import StepWork
from spaces import enumerate_layouts, structure_constraints
from spaces.constraints import host_constraint, memory_constraint, world_constraint

STORE = PerfStore()
ENGINE = engine_profile("vllm")
BATCHES = np.array([1, 4], dtype=np.int64)


@dataclass(frozen=True)
class Small:
    """A space to 8 or 16 devices.

    Attributes:
        limit: devices that a replica has at most, of an inventory.
    """

    model: ModelArchitecture
    device: Device
    host_devices: int
    limit: int
    max_world: int
    traffic: Traffic
    precision: Precision


def synthetic_device(memory_bytes: float, host_devices: int) -> Device:
    """A device without tables."""
    links = (
        Link("inside", host_devices, 4e11, 3e-6),
        Link("network", UNLIMITED, 5e10, 5e-6),
    )
    return Device(
        name="synthetic",
        title="Synthetic",
        memory_bytes=memory_bytes,
        memory_bandwidth_bytes_per_s=3e12,
        peak_flops_per_s={"bf16": 1e15, "fp8": 2e15},
        tdp_w=700,
        host_devices=host_devices,
        platform="strong-scale-out",
        links=links if host_devices > 1 else links[1:],
    )


@st.composite
def mixers(draw: st.DrawFn) -> Attention:
    """Grouped-query attention, its heads rarely a power of two, or latent attention."""
    if draw(st.integers(0, 3)) == 0:
        heads = draw(st.sampled_from([4, 6, 16, 20]))
        return Attention(
            "mla",
            heads,
            heads,
            192,
            128,
            q_lora_rank=1536,
            kv_lora_rank=512,
            rope_head_dim=64,
        )
    kv = draw(st.sampled_from([1, 2, 3, 4, 8]))
    return Attention("gqa", kv * draw(st.sampled_from([1, 2, 3, 4, 5])), kv, 128, 128)


@st.composite
def small_spaces(draw: st.DrawFn) -> Small:
    """A model, and a device on which it needs from a fraction to several of them."""
    attention = draw(mixers())
    width = draw(st.sampled_from([1536, 2880, 4096, 8190]))
    layers = draw(st.integers(1, 20))
    groups = []
    if draw(st.booleans()):
        experts = draw(st.sampled_from([4, 6, 8, 12, 16]))
        shared = draw(st.sampled_from([0, width]))
        ffn = FeedForward(
            width, experts=experts, top_k=draw(st.integers(1, 4)), shared_intermediate=shared
        )
        if draw(st.booleans()):
            # A dense layer first; its odd columns constrain nothing beside experts.
            groups.append(LayerGroup(attention, FeedForward(4095), 1))
        groups.append(LayerGroup(attention, ffn, layers))
    else:
        groups.append(LayerGroup(attention, FeedForward(width), layers))
    model = ModelArchitecture("synthetic", 4096, 32000, False, tuple(groups), 65536)
    precision = Precision(kv=draw(st.sampled_from(["bf16", "fp8"])))
    host = draw(st.sampled_from([1, 2, 3, 4, 6, 8, 16]))
    held = 2.0 * model.parameters() * draw(st.floats(0.03, 1.5))
    memory = (held + ENGINE.reserve_bytes) / (1.0 - ENGINE.fragmentation)
    prompts = sorted(draw(st.lists(st.sampled_from([100, 900, 7000]), min_size=1, max_size=2)))
    return Small(
        model=model,
        device=synthetic_device(memory, host),
        host_devices=host,
        limit=draw(st.integers(1, 20)),
        max_world=draw(st.sampled_from([8, 11, 16])),
        traffic=Traffic(Lengths.from_histogram(prompts, [1.0] * len(prompts)), Lengths.fixed(200)),
        precision=precision,
    )


def allowed(space: Small, degrees: tuple[int, ...]) -> bool:
    """Whether a layout is one, on these hosts, memory apart."""
    pp, tp_a, cp_a, dp_a, tp_f, ep_f, dp_f = degrees
    stage = tp_a * cp_a * dp_a
    world = pp * stage
    if stage != tp_f * ep_f * dp_f or world > min(space.max_world, space.limit):
        return False
    if world > space.host_devices and world % space.host_devices:
        return False
    if pp > space.model.layers:
        return False
    if dp_a > 1 and tp_f * ep_f <= tp_a * cp_a:
        return False  # several replicas side by side
    for group in space.model.groups:
        heads, kv = group.attention.heads, group.attention.kv_heads
        if heads % tp_a:
            return False
        if group.attention.kind == "gqa" and kv % tp_a and tp_a % kv:
            return False
        ffn = group.feed_forward
        if ffn.is_moe:
            if ffn.experts % ep_f or ffn.intermediate % tp_f:
                return False
        elif not space.model.is_moe and (ep_f > 1 or ffn.intermediate % tp_f):
            return False
    return True


def all_degrees(limit: int) -> list[tuple[int, ...]]:
    """Every combination of seven powers of two whose two products do not exceed the limit."""
    powers = [2**e for e in range(limit.bit_length()) if 2**e <= limit]
    shares = [s for s in product(powers, repeat=3) if s[0] * s[1] * s[2] <= limit]
    return [(pp, *a, *f) for pp in powers for a in shares for f in shares]


DEGREES_OF = {limit: all_degrees(limit) for limit in (8, 16)}


def rows_of(layouts: Layouts) -> set[tuple[int, ...]]:
    return {tuple(row) for row in layouts.rows().tolist()}


def holds_one(space: Small, layouts: Layouts) -> np.ndarray:
    """Where weights and the cache of one shortest prompt fit, an attention rank alone."""
    shortest = np.array([min(space.traffic.inputs.tokens)])
    memory = replica_memory(
        space.model,
        space.device,
        ENGINE,
        space.precision,
        layouts,
        StepWork.of(),
        np.ones((1, 1)),
        shortest,
    )
    # Buffers are of groups: the constraint leaves data parallelism out and them with it.
    grouped = (layouts.tp_a * layouts.cp_a * layouts.pp > 1).astype(float)[:, None]
    total = memory.total - memory.buffers + grouped * ENGINE.group_buffer_bytes
    return np.asarray((total <= space.device.memory_bytes)[:, 0])


def accepted(space: Small, layouts: Layouts) -> np.ndarray:
    """Where the estimator finds room for some batch, in any role."""
    operators = Operators(space.device, "vllm", STORE)
    step = StepModel(space.model, space.device, ENGINE, space.precision, operators)
    estimates = [
        prefill(step, layouts, space.traffic, BATCHES),
        decode(step, layouts, space.traffic, BATCHES),
        continuous(step, layouts, space.traffic, BATCHES, np.full_like(BATCHES, 512)),
    ]
    for estimate in estimates:
        assert np.all(np.isfinite(estimate.qps) & (estimate.qps > 0))
    fits = [e.memory.total <= space.device.memory_bytes for e in estimates]
    return np.asarray(np.any(np.concatenate(fits, axis=1), axis=1))


@settings(
    deadline=None,
    max_examples=200,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(small_spaces())
def test_enumeration_is_brute_force_and_loses_nothing_that_runs(space: Small) -> None:
    placed = [
        *structure_constraints(space.model),
        host_constraint(space.device, space.host_devices),
        world_constraint(space.limit),
    ]
    memory = memory_constraint(
        space.model, [(space.device, space.precision)], ENGINE, space.traffic
    )
    solved = enumerate_layouts([*placed, memory], space.max_world)
    limit = 2 ** (space.max_world.bit_length() - 1)
    possible = [d for d in DEGREES_OF[limit] if allowed(space, d)]
    assert rows_of(enumerate_layouts(placed, space.max_world)) == set(possible)
    assert possible, "one device alone is always a layout"
    brute = Layouts.from_rows(np.array(possible))
    assert rows_of(solved) == rows_of(brute[holds_one(space, brute)])
    assert len(solved) == len(rows_of(solved))
    # What the estimator accepts of the whole product is what it accepts of the enumeration.
    runs = brute[accepted(space, brute)]
    assert rows_of(runs) <= rows_of(solved)
    if len(solved):
        assert rows_of(solved[accepted(space, solved)]) == rows_of(runs)
