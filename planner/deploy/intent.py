"""What a plan asks a runtime to run, in no runtime's words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from perfmodel.architecture import ModelArchitecture
from perfmodel.errors import InputError
from perfmodel.expert_load import ExpertLoad
from perfmodel.layout import DEGREES, Layouts, format_layout, parse_layout
from perfmodel.model_shapes import QUANTIZATION_GROUP
from perfmodel.precision import FORMATS, Precision
from planner.candidates import Role
from planner.plan import incomplete
from planner.problem import Problem, resolve
from planner.query import Query
from planner.query_choices import SyntheticModel
from planner.target import engine_of
from spaces.constraints import structure_constraints
from spaces.enumeration import all_layouts
from spaces.expressible import Place, Traits, expressible

PORT = 8000
"""On which every server and router listens."""

STARTUP_S = 3600
"""How long a server may take to fetch and load weights before it is given up."""

DraftMethod = Literal["module", "model"]


@dataclass(frozen=True)
class Drafting:
    """Speculation: so many tokens by the checkpoint's module, or by a model of its own."""

    tokens: int
    model: str | None
    tp: int

    @property
    def method(self) -> DraftMethod:
        """Who drafts."""
        return "module" if self.model is None else "model"


@dataclass(frozen=True)
class PoolSpec:
    """One pool: identical replicas of one layout.

    Attributes:
        layout: one row.
        sequence_parallel: tokens are split over TP between modules.
        batch: sequences (prefill: prompts) per attention rank and pipeline micro-batch.
        chunk_tokens: prompt tokens per rank and iteration (continuous); None: whole prompts.
        host_devices: devices of a host (of a rack: of a tray), which has one operating system.
        rack: its hosts are trays that share a fast domain.
        memory_bytes, capacity_bytes: of the plan, on the fullest device.
    """

    role: Role
    device: str
    replicas: int
    layout: Layouts
    sequence_parallel: bool
    batch: int
    chunk_tokens: int | None
    drafting: Drafting | None
    two_batch_overlap: bool
    precision: Precision
    host_devices: int
    rack: bool
    memory_bytes: Mapping[str, float]
    capacity_bytes: float

    def degree(self, name: str) -> int:
        """One of the layout's degrees."""
        return int(getattr(self.layout, name)[0])

    @property
    def stage(self) -> int:
        """Devices of one pipeline stage."""
        return int(self.layout.stage_world[0])

    @property
    def world(self) -> int:
        """Devices of one replica."""
        return int(self.layout.world[0])

    @property
    def hosts(self) -> int:
        """Hosts of one replica."""
        return math.ceil(self.world / self.host_devices)

    @property
    def devices_per_host(self) -> int:
        """Devices that one replica takes of a host."""
        return self.world // self.hosts

    @property
    def dispatched(self) -> bool:
        """Tokens travel to experts on devices that do not share them."""
        return bool(self.layout.dispatched[0])

    @property
    def spelled(self) -> str:
        """The layout as plans write it."""
        return format_layout(self.layout)

    @property
    def draft_tokens(self) -> int:
        """Tokens drafted per step."""
        return self.drafting.tokens if self.drafting else 0

    @property
    def decode_tokens(self) -> int:
        """Tokens of one rank's decodes in one step."""
        return self.batch * (1 + self.draft_tokens) if self.role != "prefill" else 0


@dataclass(frozen=True)
class Gap:
    """Something that a runtime cannot be told, and the nearest that it can."""

    what: str
    nearest: str


@dataclass(frozen=True)
class Rollout:
    """A fleet to deploy.

    Attributes:
        engine: that runs it; `planned` is the one whose times the plan rests on.
        checkpoint: number formats of the checkpoint, by those modules that the model has.
        checkpoint_kv: of its cache.
        checkpoint_bytes: of its files, drafters' included.
        experts: of a layer; 0 for dense models.
        balanced: a load balancer places experts; `redundant` are spare copies of the busiest.
        longest_prompt, longest: tokens of a prompt, and of a prompt and its answer, at most.
        prefix_tier: where prompt prefixes are kept; None: the workload has none.
        prefix_host_bytes: that they take of a host's memory, per device.
        kv_overlap: `none` or `layerwise`.
        encoder_pool: images are encoded by a pool of their own.
    """

    model: str
    engine: str
    planned: str
    kind: str
    pools: tuple[PoolSpec, ...]
    checkpoint: Mapping[str, str]
    checkpoint_kv: str
    checkpoint_bytes: float
    experts: int
    balanced: bool
    redundant: int
    longest_prompt: int
    longest: int
    prefix_tier: str | None
    prefix_host_bytes: float
    kv_overlap: str
    cuda_graphs: bool
    encoder_pool: bool
    images: bool

    @property
    def is_moe(self) -> bool:
        """The model has routed experts."""
        return self.experts > 0

    @property
    def disaggregated(self) -> bool:
        """Prefill and decode are pools of their own."""
        return len(self.pools) == 2

    @property
    def devices(self) -> tuple[str, ...]:
        """Kinds of devices."""
        return tuple(dict.fromkeys(pool.device for pool in self.pools))

    @property
    def splits_context(self) -> bool:
        """A pool splits caches over context-parallel ranks, which the other must know."""
        return any(pool.degree("cp_a") > 1 for pool in self.pools)


def read_rollout(
    data: Mapping[str, Any],
    source: str,
    which: int,
    target: str,
    search_path: Sequence[Path] = (),
) -> tuple[Rollout, Problem]:
    """What one of a plan's fleets (0: the best) asks to run.

    Raises:
        InputError: the plan lacks a field, has no such fleet, or nothing that can be served.
    """
    try:
        query = Query.model_validate(data["query"])
        fleets = [data["best"], *data["alternatives"]]
        if which >= len(fleets):
            raise InputError(f"--fleet {which}: the plan has fleets 0 to {len(fleets) - 1}")
        if isinstance(query.model, SyntheticModel):
            raise InputError(f"{source}: a synthetic model has no checkpoint to serve")
        problem = resolve(query, search_path)
        return _rollout(problem, fleets[which], engine_of(target, query.engine)), problem
    except InputError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise incomplete(source, error) from None


def _rollout(problem: Problem, fleet: Mapping[str, Any], engine: str) -> Rollout:
    query, model, traffic = problem.query, problem.model, problem.traffic
    prefix = fleet.get("prefix") or {}
    routing = problem.routing
    stated = isinstance(routing, ExpertLoad)
    feed_forwards = [group.feed_forward for group in model.groups]
    return Rollout(
        model=str(query.model),
        engine=engine,
        planned=query.engine,
        kind=fleet["kind"],
        pools=_pools(fleet, problem),
        checkpoint=stored_formats(model),
        checkpoint_kv=model.kv_quantization,
        checkpoint_bytes=_stored_bytes(model),
        experts=max(ffn.experts if ffn.is_moe else 0 for ffn in feed_forwards),
        balanced=routing.placement == "balanced"
        if isinstance(routing, ExpertLoad)
        else routing.endswith("_eplb"),
        redundant=routing.redundant_experts if isinstance(routing, ExpertLoad) and stated else 0,
        longest_prompt=math.ceil(traffic.inputs.maximum),
        longest=math.ceil(traffic.inputs.maximum + traffic.outputs.maximum),
        prefix_tier=prefix.get("tier"),
        prefix_host_bytes=float(prefix.get("host_bytes") or 0.0),
        kv_overlap=problem.kv_overlap if len(fleet["pools"]) == 2 else "none",
        cuda_graphs=query.execution.cuda_graphs,
        encoder_pool=fleet.get("encoder") is not None,
        images=query.workload.images is not None,
    )


def stored_formats(model: ModelArchitecture) -> dict[str, str]:
    """Number formats of the checkpoint, by those modules that the model has."""
    return {
        QUANTIZATION_GROUP[module]: model.weight_format(module)
        for module, count in model.parameters_by_module().items()
        if count and QUANTIZATION_GROUP[module]
    }


def _stored_bytes(model: ModelArchitecture) -> float:
    """Weights as the checkpoint holds them, and a drafter's."""
    own = sum(
        count * FORMATS[model.weight_format(module)].bytes
        for module, count in model.parameters_by_module().items()
    )
    return own + (_stored_bytes(model.drafter.model) if model.drafter else 0.0)


def _pools(fleet: Mapping[str, Any], problem: Problem) -> tuple[PoolSpec, ...]:
    """A fleet's pools. One that computes prompts fills the drafter's cache too, so drafts as well.

    vLLM's NIXL handshake compares the drafter (`compute_nixl_compatibility_hash`), and SGLang's
    servers exchange its caches (`draft_token_to_kv_pool` in disaggregation/prefill.py).
    """
    hosts = {host["device"]: int(host["devices_per_host"]) for host in fleet["hosts"]}
    trays = {offer.device.name: offer.device.node_devices for offer in problem.offers}
    data: list[Mapping[str, Any]] = list(fleet["pools"])
    drafts = {name: data[-1].get(name) for name in ("draft_tokens", "draft_model")}
    return tuple(
        _pool({**pool, **drafts}, hosts[pool["device"]], trays[pool["device"]], problem)
        for pool in data
    )


def _pool(
    data: Mapping[str, Any], host_devices: int, tray: int | None, problem: Problem
) -> PoolSpec:
    layout = parse_layout(data["layout"])
    if (counted := int(layout.world[0])) != int(data["devices_per_replica"]):
        raise InputError(
            f"{data['layout']} has {counted} devices, the plan's replica "
            f"{data['devices_per_replica']}"
        )
    if data["role"] not in ("continuous", "prefill", "decode"):
        raise InputError(f"expected a role of continuous, prefill or decode, got {data['role']!r}")
    drafts = int(data.get("draft_tokens") or 0)
    speculation = problem.query.speculation
    whole = speculation is None or speculation.draft_tp == "target"
    return PoolSpec(
        role=data["role"],
        device=data["device"],
        replicas=int(data["replicas"]),
        layout=layout,
        sequence_parallel="SP" in data["layout"],
        batch=int(data["batch"]),
        chunk_tokens=data["chunk_tokens"],
        drafting=Drafting(drafts, data.get("draft_model"), int(layout.tp_a[0]) if whole else 1)
        if drafts
        else None,
        two_batch_overlap=bool(data["two_batch_overlap"]),
        precision=Precision(**data["precision"]),
        host_devices=min(host_devices, tray or host_devices),
        rack=tray is not None,
        memory_bytes=data["memory_bytes"],
        capacity_bytes=float(data["memory_capacity_bytes"]),
    )


def fit_layouts(rollout: Rollout, problem: Problem) -> tuple[Rollout, list[Gap]]:
    """The rollout with layouts that its engine can express, and where they differ.

    The nearest layout has as many devices, and the fewest degrees doubled or halved.

    Raises:
        InputError: no expressible layout of the model has as many devices.
    """
    pools: list[PoolSpec] = []
    gaps: list[Gap] = []
    traits = Traits.of(problem.model)
    devices = {offer.device.name: offer.device for offer in problem.offers}
    for pool in reversed(rollout.pools):  # what a prefill pool may be hangs on the decode pool
        decode_tp = pools[0].degree("tp_a") if pools else 1
        place = Place(
            pool.role,
            devices[pool.device],
            pool.precision.kv,
            pool.drafting is not None,
            decode_tp,
        )
        rule = expressible(rollout.engine, traits, place)
        if rule.of(pool.layout)[0]:
            pools.insert(0, pool)
            continue
        others = all_layouts(pool.world)
        others = others[others.world == pool.world]
        for constraint in [*structure_constraints(problem.model), rule]:
            others = others[constraint.of(others)]
        if len(others) == 0:
            raise InputError(
                f"{pool.role}: {pool.spelled} is none of the {rule.name}, and none of these has "
                f"{pool.world} devices"
            )
        own = np.log2(pool.layout.rows())
        away = np.abs(np.log2(others.rows()) - own).sum(axis=1)
        best = others[np.array([int(away.argmin())])]
        pools.insert(0, replace(pool, layout=best))
        gaps.insert(
            0,
            Gap(
                f"{pool.role}: layout {pool.spelled} is none of the {rule.name}",
                f"{format_layout(best)}, whose memory and times are not the plan's",
            ),
        )
    return replace(rollout, pools=tuple(pools)), gaps


def layout_row(**degrees: int) -> Layouts:
    """One layout by its degrees; those not named are 1."""
    return Layouts.from_rows([[degrees.get(name, 1) for name in DEGREES]])
