"""A query resolved: names turned into models, devices, prices and units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perfmodel.architecture import Drafter, ImageLoad, ModelArchitecture, load_model
from perfmodel.correction import load_corrections
from perfmodel.engine import ENGINES, EngineProfile, engine_profile
from perfmodel.errors import ConfigError, InputError
from perfmodel.expert_load import ExpertLoad, read_counts
from perfmodel.hardware import Device, load_device
from perfmodel.precision import FORMATS, Precision
from perfmodel.recipe_solver import from_recipe
from perfmodel.traffic import Traffic, VisionLoad
from planner.costs import Costs, costs_of
from planner.prices import price_list
from planner.query import DeviceChoice, Query
from planner.query_choices import SyntheticModel
from planner.query_costs import CostChoice
from planner.query_workload import Slo
from planner.target import engine_of, overlaps_halves, runs_on
from planner.tco import usd_per_device_hour

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Offer:
    """A device as it can be had.

    Attributes:
        host_devices: the unit of purchase; a fleet has whole hosts.
        inventory: devices at hand, None if unlimited.
        price_source: where the price comes from.
        costs: assumptions on its power and carbon and, if it is owned, its price.
        owned_usd_per_hour: the terms that the price of an owned device adds up.
        taken: devices of its hosts that another pool of the fleet takes.
    """

    device: Device
    usd_per_device_hour: float
    host_devices: int
    inventory: int | None
    price_source: str
    costs: Costs
    owned_usd_per_hour: Mapping[str, float] | None = None
    taken: int = 0

    @property
    def most_devices(self) -> int | None:
        """Devices in the whole hosts of the inventory."""
        if self.inventory is None:
            return None
        return self.inventory // self.host_devices * self.host_devices


@dataclass(frozen=True)
class Problem:
    """Everything a solver needs, resolved and in SI units.

    Attributes:
        routing: how tokens spread over experts: a measured distribution's name, or a stated one.
        encoder_delay_s: what images that a pool of their own encodes add to a first token.
    """

    query: Query
    model: ModelArchitecture
    offers: tuple[Offer, ...]
    engine: EngineProfile
    traffic: Traffic
    slo: Slo
    precisions: tuple[Precision, ...]
    routing: str | ExpertLoad = "power_law_1.01"
    encoder_delay_s: float = 0.0

    @property
    def qps(self) -> float | None:
        """Requests per second to serve; None for as many as possible."""
        return None if self.query.workload.qps == "max" else float(self.query.workload.qps)

    @property
    def arrival_cv2(self) -> float:
        """Squared coefficient of variation of inter-arrival times."""
        return 1.0 if self.query.workload.arrivals == "poisson" else 0.0

    @property
    def max_utilization(self) -> float:
        """Load over capacity of any pool, at most."""
        chosen = self.query.search.max_utilization
        if chosen is not None:
            return chosen
        return 0.95 if self.arrival_cv2 else 1.0

    @property
    def draft_tokens(self) -> tuple[int, ...]:
        """Numbers of tokens that a decode step may draft per sequence, ascending."""
        chosen = self.query.speculation
        return (0,) if chosen is None else chosen.draft_tokens

    @property
    def acceptance(self) -> float:
        """Share of drafted tokens accepted, each given that those before it were."""
        chosen = self.query.speculation
        return 0.0 if chosen is None else chosen.acceptance

    @property
    def kv_overlap(self) -> str:
        """When a prefill pool sends KV caches, of `perfmodel.kv_transfer.OVERLAPS`."""
        return self.query.kv_transfer.overlap or self.engine.kv_overlap

    def handling_s(self, iteration_s: FloatArray, *, disaggregated: bool) -> FloatArray:
        """What the engine adds to a first token's time besides steps and waiting, seconds.

        Network, tokenizer and admission of a request; an encoder pool, if it has one; under
        disaggregation, routing it to both pools; and the decode iterations by which engines
        send first tokens late.

        Args:
            iteration_s: an iteration of the pool that decodes.
        """
        constants = self.engine.correction
        fixed = constants.request_overhead_s + disaggregated * constants.handover_s
        fixed += self.encoder_delay_s
        return np.asarray(fixed + constants.first_token_steps * iteration_s)

    @property
    def least_handling_s(self) -> float:
        """The part of it that no configuration escapes."""
        return self.engine.correction.request_overhead_s + self.encoder_delay_s


def resolve(query: Query, search_path: Sequence[Path] = ()) -> Problem:
    """Look up everything a query names.

    Raises:
        ConfigError: unknown model or device, no price known, an inventory below one host, a
            context longer than the model's, a prefix cache smaller than a prefix, speculation
            with a model that brings no module for it or by one of another vocabulary, bad
            corrections; names the field.
    """
    model = _model(query, search_path)
    traffic = _traffic(query, model)
    longest = traffic.inputs.maximum + traffic.outputs.maximum
    if longest > model.max_context_tokens:
        raise ConfigError(
            f"input and output reach {longest:,.0f} tokens; "
            f"{model.name} accepts at most {model.max_context_tokens:,}",
            field="workload",
        )
    model = _with_drafter(query, model, search_path, longest)
    offers = tuple(
        offer_of(choice, i, query.costs, search_path) for i, choice in enumerate(query.devices)
    )
    names = [offer.device.name for offer in offers]
    if query.target is not None:
        engine = engine_of(query.target, query.engine)
        if not any(runs_on(engine, name) for name in names):
            raise ConfigError(
                f"{ENGINES[engine].title} runs on none of {', '.join(names)}", field="devices"
            )
    for position, name in enumerate(names):
        if name in names[:position]:
            raise ConfigError(f"{name} is given twice", field=f"devices.{position}")
    return Problem(
        query=query,
        model=model,
        offers=offers,
        engine=_engine(query, model),
        traffic=traffic,
        routing=_routing(query, model),
        slo=query.slo,
        precisions=_precisions(query, model),
    )


def alternatives(problem: Problem) -> list[Problem]:
    """One problem for each place in which the query lets cached prefixes lie.

    Each has the devices that can: those without a host link hold none on the host.

    Raises:
        ConfigError: the query names one place only, and no device can.
    """
    tiers = problem.query.prefix_cache.tier
    found = []
    for tier in tiers:
        traffic = problem.traffic
        hit = 0.0 if tier == "none" else traffic.prefix_hit
        traffic = replace(traffic, prefix_hit=hit, prefix_tier=tier)
        offers = tuple(o for o in problem.offers if tier != "host" or _has_host(o.device))
        if offers:
            found.append(replace(problem, traffic=traffic, offers=offers))
    if found:
        return found
    names = ", ".join(offer.device.name for offer in problem.offers)
    raise ConfigError(
        f"host: no device file gives host.memory and host.link ({names})",
        field="prefix_cache.tier",
    )


def _has_host(device: Device) -> bool:
    return None not in (device.host_memory_bytes, device.host_bandwidth_bytes_per_s)


def _with_drafter(
    query: Query, model: ModelArchitecture, search_path: Sequence[Path], longest: float
) -> ModelArchitecture:
    """The model with what drafts tokens for it, where the query asks for any."""
    speculation = query.speculation
    if speculation is None or not max(speculation.draft_tokens):
        return model
    name, field = speculation.draft_model, "speculation.draft_model"
    if name is None:
        if model.draft_modules:
            return model
        raise ConfigError(
            f"{model.name} brings no multi-token-prediction module to draft tokens with: "
            "give a draft_model, leave speculation out, or draft 0",
            field="speculation.draft_tokens",
        )
    try:
        small = load_model(name, search_path)
    except InputError as error:
        raise ConfigError(str(error), field=field) from None
    if small.vocab != model.vocab:
        raise ConfigError(
            f"{small.name} has a vocabulary of {small.vocab:,} tokens, {model.name} one of "
            f"{model.vocab:,}: a draft model needs the target's",
            field=field,
        )
    if longest > small.max_context_tokens:
        raise ConfigError(
            f"input and output reach {longest:,.0f} tokens; "
            f"{small.name} accepts at most {small.max_context_tokens:,}",
            field=field,
        )
    precision = Precision(**_checkpoint_formats(small), kv=_native_kv(small))
    return replace(model, drafter=Drafter(small, precision, speculation.draft_tp == "target"))


def _native_kv(model: ModelArchitecture) -> str:
    return model.kv_quantization if model.kv_quantization in FORMATS else "bf16"


def _model(query: Query, search_path: Sequence[Path]) -> ModelArchitecture:
    if isinstance(query.model, SyntheticModel):
        try:
            return from_recipe(query.model.recipe)
        except ConfigError as error:
            raise ConfigError(error.problem, field=f"model.recipe.{error.field}") from None
    try:
        return load_model(query.model, search_path)
    except InputError as error:
        raise ConfigError(str(error), field="model") from None


def image_load(query: Query, model: ModelArchitecture) -> ImageLoad | None:
    """What one image of the workload is to the model; None without images.

    Raises:
        ConfigError: a model without a vision encoder, or an image that it does not take.
    """
    images = query.workload.images
    if images is None:
        return None
    if model.vision is None:
        raise ConfigError(
            f"{model.name} has no vision encoder (or none that is modelled): leave images out",
            field="workload.images",
        )
    if images.width is None or images.height is None:
        return model.vision.images.of_tokens(images.tokens or 1)
    try:
        return model.vision.images.of_size(images.width, images.height)
    except InputError as error:
        raise ConfigError(str(error), field="workload.images") from None


def _traffic(query: Query, model: ModelArchitecture) -> Traffic:
    """The requests, images among their prompts."""
    kept = query.prefix_cache.tokens or 0.0
    workload, image = query.workload, image_load(query, model)
    inputs, vision = workload.input_tokens, None
    if image is not None and workload.images is not None:
        count = workload.images.per_request
        inputs = inputs.longer_by(count * image.tokens)
        vision = VisionLoad(count * image.sequences, float(image.patches))
    traffic = Traffic(
        inputs,
        workload.output_tokens,
        workload.prefix_cache_hit,
        prefix_tokens=kept,
        vision=vision,
    )
    longest = float(traffic.cached_tokens.max())
    if kept and kept < longest:
        raise ConfigError(
            f"{kept:,.0f} tokens do not hold the longest cached prefix: expected at least "
            f"{longest:,.0f}",
            field="prefix_cache.tokens",
        )
    return traffic


def _routing(query: Query, model: ModelArchitecture) -> str | ExpertLoad:
    """The distribution of tokens over experts, which must suit the model's."""
    choice = query.routing
    if isinstance(choice, str):
        return choice
    layers = [group for group in model.groups if group.feed_forward.is_moe]
    if not layers:
        raise ConfigError(f"{model.name} has no experts: leave it out", field="routing")
    counts = read_counts(Path(choice.file)) if choice.file is not None else ()
    sparse = sum(group.count for group in layers)
    if len(counts) not in (0, 1, sparse):
        raise ConfigError(
            f"expected counts of one layer or of the {sparse} with experts, got {len(counts)}",
            field="routing.file",
        )
    for experts in {group.feed_forward.experts for group in layers}:
        if counts and len(counts[0]) != experts:
            raise ConfigError(
                f"expected counts of the {experts} experts of a layer, got {len(counts[0])}",
                field="routing.file",
            )
    return ExpertLoad(
        distribution=choice.distribution,
        exponent=choice.exponent or 0.0,
        counts=counts,
        placement=choice.placement,
        redundant_experts=choice.redundant_experts,
    )


def _engine(query: Query, model: ModelArchitecture) -> EngineProfile:
    profile = engine_profile(query.engine)
    runs = profile if query.target is None else ENGINES[engine_of(query.target, query.engine)]
    drafts = query.speculation is not None and max(query.speculation.draft_tokens) > 0
    overlaps = query.target is None or overlaps_halves(
        runs.name,
        drafts=drafts,
        images=query.workload.images is not None,
        recurrent=model.is_recurrent,
    )
    if query.execution.sequence_parallelism and not profile.can_shard_sequence:
        raise ConfigError(
            f"{profile.title} has no sequence parallelism (vllm has)",
            field="execution.sequence_parallelism",
        )
    profile = replace(
        profile,
        splits_batches=profile.splits_batches
        and runs.splits_batches
        and overlaps
        and query.execution.two_batch_overlap,
        shards_sequence=query.execution.sequence_parallelism,
        captures_decode=profile.captures_decode and query.execution.cuda_graphs,
    )
    if query.corrections is None:
        return profile
    known = load_corrections(Path(query.corrections))
    if query.engine not in known:
        raise ConfigError(
            f"{query.corrections} has no constants of {query.engine}", field="corrections"
        )
    return replace(profile, correction=known[query.engine])


def offer_of(
    choice: DeviceChoice, position: int, shared: CostChoice, search_path: Sequence[Path]
) -> Offer:
    """A device of a query as it can be had.

    Args:
        position: among the query's devices, for messages.
        shared: the query's assumptions on costs.

    Raises:
        ConfigError: unknown, without a price, or an inventory below one host.
    """
    field = f"devices.{position}"
    try:
        device = load_device(choice.name, search_path)
    except ConfigError as error:
        raise ConfigError(str(error), field=field) from None
    host = choice.host_devices or device.host_devices
    smaller = host < device.host_devices
    if smaller and host < device.fast_link.span and device.platform != "scale-up":
        # A smaller host is a smaller fast domain.
        inner = device.fast_link.within(host)
        device = replace(device, links=(inner, *device.links[1:]))
    device = replace(device, time_factor=choice.time_factor)
    costs, terms = _costs(choice, device, shared, field), None
    if choice.usd_per_device_hour is not None:  # what varies a price sets it beside the costs
        price, source = choice.usd_per_device_hour, "query"
    elif choice.cost is not None:
        terms = usd_per_device_hour(costs, device.tdp_w)
        price, source = sum(terms.values()), f"owned, capex ${costs.capex_usd:,.0f}"
        if not price > 0:
            raise ConfigError("its costs add up to nothing: give one", field=f"{field}.cost")
    else:
        listed = price_list().get(device.name)
        if listed is None:
            raise ConfigError(
                f"no price known for {device.name}: give usd_per_device_hour, or cost (owned)",
                field=field,
            )
        price, source = listed
    if choice.inventory is not None and choice.inventory < host:
        raise ConfigError(
            f"inventory of {device.name} is {choice.inventory}, below one host of {host}: "
            f"{host - choice.inventory} devices are missing (or set host_devices)",
            field=field,
        )
    return Offer(device, price, host, choice.inventory, source, costs, terms)


def _costs(choice: DeviceChoice, device: Device, shared: CostChoice, field: str) -> Costs:
    try:
        return costs_of(device.name, shared, choice.cost)
    except ConfigError as error:
        stated = choice.cost is not None and (
            error.field == "capex" or getattr(choice.cost, error.field) is not None
        )
        at = f"{field}.cost.{error.field}" if stated else f"costs.{error.field}"
        raise ConfigError(error.problem, field=at) from None


def _precisions(query: Query, model: ModelArchitecture) -> tuple[Precision, ...]:
    """Every combination of the chosen formats, without repetition.

    Raises:
        ConfigError: a format is asked for a module that the model lacks.
    """
    choice, native = query.precision, _checkpoint_formats(model)
    if choice.experts is not None and not model.is_moe:
        raise ConfigError(f"{model.name} has no experts", field="precision.experts")
    modules = {name: getattr(choice, name) or ("",) for name in native}
    found: dict[Precision, None] = {}
    for weights, kv, head in product(choice.weights, choice.kv, choice.lm_head):
        for given in product(*modules.values()):
            wanted = {name: own or weights for name, own in zip(modules, given, strict=True)}
            if not model.is_moe:
                wanted["experts"] = wanted["ffn"]
            precision = Precision(
                **{m: native[m] if f == "native" else f for m, f in wanted.items()},
                kv=_native_kv(model) if kv == "native" else kv,
                lm_head="bf16" if head == "native" else head,
            )
            for activations in choice.activations:
                expanded = precision.with_bf16_activations()
                found[expanded if activations == "bf16" else precision] = None
    return tuple(found)


def _checkpoint_formats(model: ModelArchitecture) -> dict[str, str]:
    """The checkpoint's format of each module; one that the model lacks takes another's."""
    counts = model.parameters_by_module()
    formats = {"attention": model.weight_format("attention")}
    modules = {"ffn": ("dense_ffn", "shared_experts"), "experts": ("routed_experts",)}
    for field, names in modules.items():
        present = [name for name in names if counts[name]]
        formats[field] = model.weight_format(present[0]) if present else ""
    formats["ffn"] = formats["ffn"] or formats["experts"]
    formats["experts"] = formats["experts"] or formats["ffn"]
    return formats


def supported(precision: Precision, device: Device) -> bool:
    """Whether the device can run the precision (after expanding what it cannot multiply)."""
    peaks = [FORMATS[name].peak for m, name in precision.by_module().items() if m != "kv"]
    return bool(np.all([device.supports(peak) for peak in peaks]))
