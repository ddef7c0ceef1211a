"""What clients of a deployment see: its layouts decided, its steps tabulated, its loop played."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from perfmodel import public_runs, readings
from perfmodel.architecture import ModelArchitecture, load_model
from perfmodel.closed_loop import Experience, Load, Pools, Scheduling, continuous, disaggregated
from perfmodel.correction import Correction
from perfmodel.database import PerfStore
from perfmodel.deployments import Degrees, Deployment
from perfmodel.engine import ENGINES, EngineProfile, engine_profile
from perfmodel.errors import InputError
from perfmodel.hardware import Device, load_device
from perfmodel.layout import Layouts, format_layout
from perfmodel.memory import replica_memory
from perfmodel.operators import Operators
from perfmodel.precision import Precision
from perfmodel.step import StepModel
from perfmodel.step_table import StepTable
from perfmodel.work import StepWork

SATURATION = 1.2
"""Prefill load, in workers' capacities, up to which public runs get by with as many workers.

Of 0.9, 1.2 and 1.6 the value that explains the TTFT of such runs best (median error 44 %
under TensorRT-LLM and 35 % under SGLang, against 63 and 40 %, and 58 and 35 %): they are
driven to the edge of what prefill gives."""


@dataclass(frozen=True)
class Served:
    """A deployment ready to be played under any correction.

    Attributes:
        tables: of `agg`, or of `prefill` and `decode`.
        slots: sequences for which there is cache.
        workers: (prefill, decode); 0 prefill workers: as many as the load needs.
    """

    deployment: Deployment
    profile: EngineProfile
    tables: dict[str, StepTable]
    layouts: dict[str, Layouts]
    slots: int
    workers: tuple[int, int] = (1, 1)

    def play(self, correction: Correction | None = None) -> Experience:
        """What the clients see, by default under the engine's shipped correction."""
        chosen = self.profile.correction if correction is None else correction
        load = self.deployment.load
        if "agg" in self.tables:
            return continuous(self.tables["agg"], chosen, load, self.scheduling)
        prefill, decode = self.tables["prefill"], self.tables["decode"]
        tokens = _batch_tokens(self.profile, load)
        workers = self.workers[0] or self._prefill_workers(chosen)
        pools = Pools(workers, self.workers[1], self.slots, tokens)
        return disaggregated(prefill, decode, chosen, load, pools)

    @property
    def scheduling(self) -> Scheduling:
        """How the engine of a continuous deployment admits prompts."""
        row, ranks = self.deployment, self.tables["agg"].ranks
        usual = Scheduling(self.slots, self.profile.step_tokens, self.profile.mixes_prefill)
        if not row.source.is_public:
            return usual
        return replace(
            usual,
            poll_steps=public_runs.poll_steps(row.engine, row.device, row.model, row.load.clients),
            gather_steps=public_runs.gather_steps(row.engine, ranks),
        )

    def _prefill_workers(self, correction: Correction) -> int:
        """The fewest prefill workers that the load does not saturate."""
        load = self.deployment.load
        prefill, decode = self.tables["prefill"], self.tables["decode"]
        service = prefill.mixed_surface(correction)(0, load.isl, load.isl)
        service /= prefill.ranks * prefill.stages
        lanes = self.workers[1] * decode.ranks * decode.stages
        batch = -(-min(load.clients, self.slots) // lanes)
        tpot = decode.decode_surface(correction)(batch, load.isl + load.osl / 2)
        tpot /= correction.step_tokens(decode.drafts)
        request = service + correction.handover_s + load.osl * tpot
        rate = load.clients / request
        return max(int(np.ceil(rate * service / SATURATION)), 1)


@dataclass
class Server:
    """Makes deployments ready; shares operators between those of a device and engine."""

    store: PerfStore = field(default_factory=PerfStore)
    _operators: dict[tuple[str, str], Operators] = field(default_factory=dict, repr=False)

    def serve(self, deployment: Deployment) -> Served:
        """Decide what the row leaves open and tabulate its steps.

        Raises:
            InputError: unknown model, device or engine, or one that cannot hold the model.
        """
        model, device = load_model(deployment.model), load_device(deployment.device)
        if deployment.engine not in ENGINES:
            raise InputError(
                f"unknown engine {deployment.engine!r}; expected one of {', '.join(ENGINES)}"
            )
        profile = engine_profile(deployment.engine)
        precision = deployment.precision(model.quantization, model.is_moe)
        if not model.is_moe:
            deployment = _replicas(deployment)
        load, pools, public = deployment.load, deployment.pools, deployment.source.is_public
        sampled = deployment.source.is_sample
        if sampled and "agg" in pools and model.is_moe and pools["agg"].moe_tp > readings.HOST:
            pools = readings.split(pools["agg"])
        said = "agg" in pools or pools["decode"].workers > 0
        if public and model.is_moe and not said:
            pools = readings.unsaid(pools, deployment)
        spread = max(pool.moe_ep for pool in pools.values())
        routing = public_runs.routing(profile.name, spread if public else 1)
        step = self._step(model, device, profile, precision, routing)
        if "agg" in pools:
            layout = _layout(step, pools["agg"], load, load.clients, sampled)
            drafts = _drafts(deployment, model, int(layout.dp_a[0]))
            table = _table(step, layout, load, load.clients, drafts=drafts)
            slots = _slots(step, layout, load, drafts)
            return Served(deployment, profile, {"agg": table}, {"agg": layout}, slots)
        decode = _layout(step, pools["decode"], load, load.clients, sampled, roomy=True)
        drafts = _drafts(deployment, model, int(decode.dp_a[0]))
        held = _slots(step, decode, load, drafts)
        decoders = pools["decode"].workers or 1
        if not said and sampled:
            # Nobody publishes a pool that most clients cannot get into.
            decoders = max(decoders, -(-load.clients // held))
        share = -(-load.clients // decoders)
        prefill = _layout(step, pools["prefill"], load, 1, sampled, decodes=False)
        tables = {
            "prefill": _table(step, prefill, load, 1, decodes=False),
            "decode": _table(step, decode, load, share, prefills=False, drafts=drafts),
        }
        slots = held * decoders
        if public:
            slots = min(slots, public_runs.decode_slots(deployment.engine, load.clients))
        workers = (pools["prefill"].workers, decoders)
        layouts = {"prefill": prefill, "decode": decode}
        return Served(deployment, profile, tables, layouts, slots, workers)

    def _step(
        self,
        model: ModelArchitecture,
        device: Device,
        profile: EngineProfile,
        precision: Precision,
        routing: str,
    ) -> StepModel:
        key = (device.name, profile.name)
        if key not in self._operators:
            self._operators[key] = Operators(device, profile.name, self.store)
        on_device = precision.on(device.peak_flops_per_s)
        return StepModel(model, device, profile, on_device, self._operators[key], routing)


def _batch_tokens(engine: EngineProfile, load: Load) -> int:
    """Prompt tokens of one prefill batch per attention rank: whole prompts, at least one."""
    return max(engine.step_tokens, int(np.ceil(load.isl * (1 + load.spread))))


def _drafts(deployment: Deployment, model: ModelArchitecture, attention_dp: int) -> int:
    """Tokens that speculation drafts per step: what the row says, or what its engine did."""
    if not model.draft_modules:
        return 0
    if deployment.draft_tokens is not None:
        return deployment.draft_tokens
    if "agg" not in deployment.pools or not deployment.source.is_public:
        return 0
    return public_runs.draft_tokens(
        deployment.engine, deployment.version, deployment.source.measured, attention_dp
    )


def _table(
    step: StepModel,
    layout: Layouts,
    load: Load,
    sequences: int,
    *,
    prefills: bool = True,
    decodes: bool = True,
    drafts: int = 0,
) -> StepTable:
    return StepTable.of(
        step,
        layout,
        sequences=sequences,
        isl=load.isl,
        osl=load.osl,
        step_tokens=step.engine.step_tokens if decodes else _batch_tokens(step.engine, load),
        prefills=prefills,
        decodes=decodes,
        drafts=drafts,
    )


def _slots(step: StepModel, layout: Layouts, load: Load, drafts: int = 0) -> int:
    """Sequences of mean length for which a replica has cache.

    Where it drafts tokens, the module that does takes memory, and has a cache of its own.
    """
    per_rank = np.unique(np.round(2.0 ** np.arange(0, 13, 0.125)))
    work = StepWork.of(
        decode_sequences=per_rank, context_tokens=load.isl + load.osl, decode_tokens=drafts + 1.0
    )
    resident = np.full(len(per_rank), load.isl + load.osl / 2)
    memory = replica_memory(
        step.model, step.device, step.engine, step.precision, layout, work, per_rank, resident
    )
    fits = memory.total[0] <= step.device.memory_bytes
    return int(per_rank[fits].max()) * int(layout.dp_a[0]) if fits.any() else 0


def _replicas(deployment: Deployment) -> Deployment:
    """A dense model's data parallelism as what it is: replicas, among which clients spread."""
    if "agg" in deployment.pools:
        clients = -(-deployment.load.clients // deployment.pools["agg"].dp)
        return replace(deployment, load=replace(deployment.load, clients=clients))
    pools = {
        name: replace(pool, dp=1, workers=pool.workers * pool.dp)
        for name, pool in deployment.pools.items()
    }
    return replace(deployment, pools=pools)


def _layout(
    step: StepModel,
    degrees: Degrees,
    load: Load,
    sequences: int,
    sampled: bool,
    *,
    decodes: bool = True,
    roomy: bool = False,
) -> Layouts:
    """A pool's layout: a row of the public sample is read, any other taken at its word.

    Raises:
        InputError: no layout, or one that does not hold the model.
    """
    if sampled:
        return _choose(step, degrees, load, sequences, decodes=decodes, roomy=roomy)
    layout = readings.stated(step.model, degrees)
    if not _slots(step, layout, load):
        raise InputError(
            f"{step.model.name} does not fit on {format_layout(layout)} of {step.device.name}"
        )
    return layout


def _choose(
    step: StepModel,
    degrees: Degrees,
    load: Load,
    sequences: int,
    *,
    decodes: bool = True,
    roomy: bool = False,
) -> Layouts:
    """Of the layouts that the row may mean, those that hold the load; of these, the fastest.

    Args:
        roomy: a layout without room for `sequences` gives way to one that has more.

    Raises:
        InputError: none holds the model.
    """
    best: tuple[int, float, Layouts] | None = None
    for tier in readings.readings(step.model, degrees):
        for layout in tier:
            slots = _slots(step, layout, load)
            if slots == 0:
                continue
            if decodes:
                batch = max(-(-min(sequences, slots) // int(layout.dp_a[0])), 1)
                work = StepWork.of(decode_sequences=batch, context_tokens=load.isl + load.osl / 2)
            else:
                work = StepWork.of(prefill_sequences=1, prefill_tokens=load.isl)
            seconds = float(step.time(layout, work).pace_s[0, 0])
            found = (-min(slots, sequences), seconds, layout)
            if best is None or found[:2] < best[:2]:
                best = found
        if best is not None and (not roomy or -best[0] >= sequences):
            return best[2]
    if best is not None:
        return best[2]
    raise InputError(f"{step.model.name} does not fit on {degrees} of {step.device.name}")
