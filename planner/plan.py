"""The answer: a fleet, its alternatives, and how the search came to it.

These values are what `--json` and `--yaml` write. `SCHEMA` changes whenever a field is
renamed, removed or changes meaning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from perfmodel.documents import kind_of, parse_json, parse_yaml, read_text
from perfmodel.errors import ConfigError
from planner.files import as_text, atomic_write
from planner.plan_energy import EnergyPlan

SCHEMA = "planner.plan/1"


@dataclass(frozen=True)
class HostPlan:
    """Hosts of one device type.

    Attributes:
        owned_usd_per_hour: the terms that a device's price adds up, if it is owned.
    """

    device: str
    hosts: int
    devices_per_host: int
    usd_per_device_hour: float
    price_source: str
    used_devices: int
    owned_usd_per_hour: Mapping[str, float] | None = None

    @property
    def devices(self) -> int:
        """Devices in all hosts."""
        return self.hosts * self.devices_per_host


@dataclass(frozen=True)
class PoolPlan:
    """Identical replicas that serve one role.

    Attributes:
        batch: sequences (prefill: prompts) per attention rank and pipeline micro-batch.
        chunk_tokens: prefill tokens per rank and iteration (continuous batching).
        draft_tokens: tokens that speculation drafts per sequence and step; 0: none.
        two_batch_overlap: its steps run two half batches at once.
        draft_model: that drafts them; None for the checkpoint's own module.
        acceptance: share of them accepted, each given that those before it were.
        tokens_per_step: tokens that a decoded sequence gains per step.
        qps_per_replica: capacity at full load.
        sequences_in_flight: decode slots of one replica.
        service_s: mean first-token service time, idle.
        ttit_slo_s: time between tokens at the SLO's statistic.
        prefill_time_share: share of device time spent on prompts.
        memory_bytes: by term, on the fullest device.
        time_by_kind: share of step time that is measured, extrapolated, analytic.
        time_by_bound: share of step time bound by compute, bandwidth, link, latency.
        limits: what keeps the batch from growing.
    """

    role: str
    device: str
    precision: dict[str, str]
    layout: str
    batch: int
    chunk_tokens: int | None
    draft_tokens: int
    two_batch_overlap: bool
    draft_model: str | None
    acceptance: float | None
    tokens_per_step: float | None
    replicas: int
    devices_per_replica: int
    qps_per_replica: float
    sequences_in_flight: int | None
    service_s: float
    ttit_mean_s: float | None
    ttit_slo_s: float | None
    prefill_time_share: float
    memory_bytes: dict[str, float]
    memory_capacity_bytes: float
    time_by_kind: dict[str, float]
    time_by_bound: dict[str, float]
    limits: tuple[str, ...]


@dataclass(frozen=True)
class TtftPlan:
    """Time to first token and its parts; `slo_s` is at the SLO's percentile, if it has one.

    Attributes:
        service_s: steps that compute the prompt.
        encoder_s: of these, the vision encoder's share.
        encoder_pool_s: in an encoder pool, its waiting and the embeddings' transfer included.
        waiting_s: for those steps, and under continuous batching for a slot.
        admission_s: for a slot of the decode pool.
        handling_s: network, tokenizer, routing; how late the engine sends a first token.
        transfer_s: of the KV cache.
    """

    mean_s: float
    service_s: float
    waiting_s: float
    admission_s: float
    handling_s: float
    transfer_s: float
    slo_s: float | None
    encoder_s: float = 0.0
    encoder_pool_s: float = 0.0


@dataclass(frozen=True)
class EncoderPlan:
    """Devices that encode images, one replica each.

    Attributes:
        utilization: demand over capacity.
        service_s: the images of one request.
        waiting_s: in front of the pool, mean.
        transfer_s: of the embeddings to the pool that takes the prompt.
        time_by_kind: share of `service_s` that is measured, extrapolated, analytic.
    """

    device: str
    replicas: int
    qps_per_replica: float
    utilization: float
    service_s: float
    waiting_s: float
    transfer_s: float
    memory_bytes: float
    memory_capacity_bytes: float
    time_by_kind: dict[str, float]


@dataclass(frozen=True)
class TransferPlan:
    """One request's KV cache on its way between the pools of a disaggregated fleet.

    Attributes:
        overlap: `none` (sent when the prompt is computed) or `layerwise`.
        cache_bytes: of the mean prompt: its new tokens, and a prefix loaded from the host.
        sent_bytes_per_device, received_bytes_per_device: by the busiest device of each pool.
        sources: prefill devices from which a decode device pulls.
        alone_s: it takes, not overlapped with anything.
        added_s: it adds to the first token.
        sender_utilization, receiver_utilization: share of the busiest device's network
            bandwidth that the demand takes.
    """

    overlap: str
    cache_bytes: float
    sent_bytes_per_device: float
    received_bytes_per_device: float
    sources: int
    alone_s: float
    added_s: float
    sender_utilization: float
    receiver_utilization: float


@dataclass(frozen=True)
class PrefixPlan:
    """Cached prompt prefixes, of the pool that takes prompts.

    Attributes:
        tier: where they lie: `device`, `host`, or `none` (computed anew).
        hit: share of prompt tokens that could be found.
        cached_tokens: of a mean prompt, found or computed anew.
        device_bytes, host_bytes: that the cache takes in the memory of the fullest device, and
            of its host for it; 0 where the query does not say how many tokens are kept.
        loaded_bytes: from the host to the busiest device for a mean prompt.
        load_s: that takes; 0 unless they lie on the host.
        added_s: of it, what the first token waits for.
        compute_s: computing them would take, or takes.
        link_utilization: share of the busiest device's host link that the demand takes.
    """

    tier: str
    hit: float
    cached_tokens: float
    device_bytes: float
    host_bytes: float
    loaded_bytes: float
    load_s: float
    added_s: float
    compute_s: float
    link_utilization: float


@dataclass(frozen=True)
class FleetPlan:
    """One fleet that serves the demand.

    Attributes:
        kind: continuous, disaggregated (one device type) or heterogeneous.
        transfer: of KV caches between its pools, where it has two.
        prefix: of cached prompt prefixes, where the workload has any.
        ttit_mean_s: with every slot taken: what the SLO is held against.
        ttit_at_load_s: at the demand, with as many sequences in flight as it keeps.
        capacity_qps: of its weaker pool at full load, without regard to queueing.
        usd_per_hour_per_qps_at_scale: price of each request/s in a fleet so large that whole
            replicas, whole hosts and queueing no longer count.
        usd_per_million_input_tokens: the fleet's price times the share of device time spent
            on prompts, over prompt tokens; likewise for output.
        encoder: the pool that encodes images, if they have one of their own.
    """

    kind: str
    usd_per_hour: float
    hosts: tuple[HostPlan, ...]
    pools: tuple[PoolPlan, ...]
    qps: float
    capacity_qps: float
    ttft: TtftPlan
    transfer: TransferPlan | None
    prefix: PrefixPlan | None
    ttit_mean_s: float
    ttit_at_load_s: float
    ttit_slo_s: float | None
    e2e_mean_s: float
    qps_per_usd_hour: float
    qps_per_device: float
    usd_per_million_input_tokens: float
    usd_per_million_output_tokens: float
    usd_per_thousand_requests: float
    usd_per_hour_per_qps_at_scale: float
    usd_per_year: float
    energy: EnergyPlan
    encoder: EncoderPlan | None = None

    @property
    def devices(self) -> int:
        """Devices in all hosts."""
        return sum(host.devices for host in self.hosts)

    @property
    def hosts_text(self) -> str:
        """`1 x 8 h100_sxm + 2 x 8 b200_sxm`."""
        return hosts_text((h.hosts, h.devices_per_host, h.device) for h in self.hosts)

    @property
    def measured_share(self) -> float:
        """Share of step time that is measured, of the pool where it is least."""
        return min(pool.time_by_kind.get("measured", 0.0) for pool in self.pools)


@dataclass(frozen=True)
class FunnelPlan:
    """Configurations left after each constraint, of one role on one device."""

    role: str
    device: str
    precision: str
    stages: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class SearchPlan:
    """How the answer was found.

    Attributes:
        evaluated: phase configurations whose time and memory were estimated.
        feasible: of those, the ones that fit and meet the SLO on an idle system.
        pairs: prefill x decode pairs that the feasible ones stand for.
        proven: whether no configuration of the space is cheaper under the model.
        gap: by how much QPS per dollar of the optimum may exceed the answer's, at most; None
            where nothing bounds it.
    """

    method: str
    proven: bool
    gap: float | None
    statement: str
    evaluated: int
    feasible: int
    pairs: int
    seconds: float
    funnels: tuple[FunnelPlan, ...]


@dataclass(frozen=True)
class Plan:
    """The whole answer.

    Attributes:
        assumptions: of each candidate device, what its price and energy rest on: name, as in
            a query's `costs` -> value, unit and source.
    """

    query: dict[str, Any]
    model: dict[str, Any]
    statistics: dict[str, str]
    best: FleetPlan
    alternatives: tuple[FleetPlan, ...]
    search: SearchPlan
    notes: tuple[str, ...] = ()
    assumptions: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    schema: str = field(default=SCHEMA)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the schema first."""
        data = asdict(self)
        return {"schema": data.pop("schema"), **data}


def hosts_text(hosts: Iterable[tuple[int, int, str]]) -> str:
    """Hosts, the devices of each, and their type: `1 x 8 h100_sxm + 2 x 8 b200_sxm`."""
    return " + ".join(f"{count} x {size} {device}" for count, size, device in hosts)


def fleet_hosts_text(fleet: Mapping[str, Any]) -> str:
    """The same of a fleet as `Plan.to_dict` has it."""
    return hosts_text((h["hosts"], h["devices_per_host"], h["device"]) for h in fleet["hosts"])


def write_plan(plan: Plan, path: Path) -> None:
    """Write a plan as JSON, or as YAML if the name ends in .yaml or .yml; whole or not at all.

    Raises:
        ConfigError: the file cannot be written.
    """
    atomic_write(path, as_text(plan.to_dict(), path))


def incomplete(source: str, error: Exception) -> ConfigError:
    """What is wrong with a plan file, by the error that its reading ended with."""
    from pydantic import ValidationError

    from perfmodel.documents import message

    what = str(error)
    if isinstance(error, ValidationError):
        problem = error.errors(include_url=False)[0]
        what = f"query.{problem['loc'][0] if problem['loc'] else ''}: {message(problem)}"
    elif isinstance(error, KeyError):
        what = f"{error}: this field is required"
    elif isinstance(error, AttributeError | TypeError):
        what = "a field is of another kind than `planner solve` writes"
    return ConfigError(f"not a complete plan: {what}", source=source)


def read_plan(path: Path) -> dict[str, Any]:
    """Read a plan file back as plain data.

    Raises:
        ConfigError: missing, not JSON or YAML, or not a plan of this schema.
    """
    text = read_text(path, "JSON or YAML")
    if path.suffix in (".yaml", ".yml"):
        data = parse_yaml(text, path).data
    else:
        data = parse_json(text, path)
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else kind_of(data)
        raise ConfigError(f"{path}: expected a plan of schema {SCHEMA}, got {found!r}")
    return data
