"""A pool of devices that do nothing but encode images, beside the pools that generate text.

An encoder needs little memory and much arithmetic: a device that would serve the language
model badly may encode best, and the pools beside it are sized without the encoder's time. Each
device holds the encoder whole and takes the images of one request at a time; embeddings cross
the network to the pool that takes the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from perfmodel.layout import parse_layout
from perfmodel.memory import encoder_memory_bytes
from perfmodel.operators import Kind
from perfmodel.precision import ACTIVATION_BYTES, Precision
from perfmodel.queueing import mean_wait_s
from perfmodel.work import StepWork
from planner.candidates import Candidates
from planner.choice import KINDS, Choice, make_choice, preference
from planner.encoder_pool import EncoderPool
from planner.pairing import cheapest_fleets
from planner.problem import Offer, Problem, image_load
from planner.sweep import Space

ONE = parse_layout("attn:TP1 ffn:TP1 PP1")
"""The layout of an encoder's replica: one device."""

ADMISSION_SHARE = 0.05
"""A pool has as many devices that waiting takes at most this share of the TTFT target."""


def apart(space: Space) -> Space:
    """The same space with images encoded elsewhere: no time or memory of the encoder's."""
    traffic = replace(space.problem.traffic, vision=None)
    return space.under(replace(space.problem, traffic=traffic))


def beside(space: Space, pool: EncoderPool) -> Space:
    """That space, with what an encoder pool adds to every first token."""
    return space.under(replace(space.problem, encoder_delay_s=pool.delay_s))


def encoder_pools(space: Space, receiver: Offer, qps: float) -> list[EncoderPool]:
    """An encoder pool of every device that can be one, sized for a demand.

    The fewest devices within the highest utilization before which waiting takes at most
    `ADMISSION_SHARE` of the TTFT target.

    Args:
        space: with the encoder's work in its traffic.
        receiver: the device of the pool that takes the prompts.
    """
    found = (_sized(space, offer, receiver, qps) for offer in space.problem.offers)
    return [pool for pool in found if pool is not None]


def encoder_pool(
    space: Space, device: str, receiver: str, replicas: int, qps: float
) -> EncoderPool | None:
    """The encoder pool of so many devices of that name; None if it can't be."""
    offers = {offer.device.name: offer for offer in space.problem.offers}
    if device not in offers or receiver not in offers:
        return None
    one = _one_device(space, offers[device], offers[receiver])
    return None if one is None else _waited(space.problem, one, np.array([replicas]), qps)[0]


def _one_device(space: Space, offer: Offer, receiver: Offer) -> EncoderPool | None:
    """A pool of one device, idle; None where the encoder does not fit."""
    problem, device = space.problem, offer.device
    image, vision, images = (
        image_load(problem.query, problem.model),
        problem.model.vision,
        problem.query.workload.images,
    )
    if image is None or vision is None or images is None or problem.traffic.vision is None:
        return None
    # The prompt is processed elsewhere, but says that this is a step of prompts.
    work = StepWork.of(prefill_sequences=1, prefill_tokens=1, **problem.traffic.images_of(1))
    memory = encoder_memory_bytes(problem.model, device, problem.engine, ONE, work)
    if memory > device.memory_bytes:
        return None
    step = space.step_model(offer, Precision())
    calls = list(step.encoder_calls(ONE, work))
    overhead = float(step.overhead_s(vision.layers, work)[0])
    kinds = {"analytic": overhead}
    for call in calls:
        name = Kind(int(call.time.kind[call.index[0], 0])).name.lower()
        kinds[name] = kinds.get(name, 0.0) + float(call.time.seconds[call.index[0], 0])
    service = sum(kinds.values())
    embeddings = images.per_request * image.tokens * vision.output_width * ACTIVATION_BYTES
    links = device.network, receiver.device.network
    sent = embeddings / min(n.pair_bytes_per_s * n.achieved for n in links)
    return EncoderPool(
        offer=offer,
        replicas=1,
        service_s=service,
        waiting_s=0.0,
        transfer_s=max(link.latency_s for link in links) + sent,
        qps_each=1.0 / max(service, sent),
        memory_bytes=memory,
        kinds=kinds,
    )


def _sized(space: Space, offer: Offer, receiver: Offer, qps: float) -> EncoderPool | None:
    problem, one = space.problem, _one_device(space, offer, receiver)
    if one is None:
        return None
    least = max(int(np.ceil(qps / (one.qps_each * problem.max_utilization) * (1 - 1e-9))), 1)
    counts = np.arange(least, 2 * least + 64)
    if offer.most_devices is not None:
        counts = counts[counts <= offer.most_devices]
    if len(counts) == 0:
        return None
    target = problem.slo.ttft
    pools = _waited(problem, one, counts, qps)
    if target is None:
        return pools[0]
    prompt = [p for p in pools if p.waiting_s <= ADMISSION_SHARE * target.seconds]
    return prompt[0] if prompt else None


def _waited(
    problem: Problem, one: EncoderPool, counts: NDArray[np.int64], qps: float
) -> list[EncoderPool]:
    """Pools of several counts of devices, with the waiting in front of each."""
    servers = counts.astype(float)
    load = qps / (one.qps_each * servers)
    service = np.full_like(servers, 1.0 / one.qps_each)
    waits = mean_wait_s(servers, load, service, problem.arrival_cv2, 0.0)
    return [
        replace(one, replicas=int(count), waiting_s=float(wait))
        for count, wait in zip(counts, waits, strict=True)
    ]


def fleets_with_encoder(
    space: Space,
    candidates: Sequence[Candidates],
    qps: float,
    kinds: Sequence[str] = KINDS,
    encoders: Sequence[str] | None = None,
) -> list[Choice]:
    """The cheapest fleets whose images a pool of their own encodes, one per device combination.

    For each encoder pool the cheapest pools beside it are chosen: its devices join their hosts
    where there is room, or take hosts of their own.

    Args:
        space: with the encoder's work in its traffic.
        candidates: of `apart(space)`.
        encoders: names of devices that may encode; all if not given.
    """
    cheapest: dict[tuple[str, ...], Choice] = {}
    bare = apart(space)
    for receiver in space.problem.offers:
        beside_it = [c for c in candidates if c.role == "decode" or c.offer == receiver]
        pools = encoder_pools(space, receiver, qps)
        if encoders is not None:
            pools = [pool for pool in pools if pool.offer.device.name in encoders]
        for pool in _worthwhile(pools, receiver):
            problem = beside(bare, pool).problem
            for choice in cheapest_fleets(problem, _sharing(beside_it, pool), qps, kinds):
                whole = make_choice(choice.pools, choice.transfer_s, pool)
                if whole is None:
                    continue
                whole = replace(whole, margin=choice.margin)
                names = (choice.kind, *(p.offer.device.name for p in choice.pools))
                known = cheapest.get(names)
                if known is None or preference(whole) < preference(known):
                    cheapest[names] = whole
    return list(cheapest.values())


def _sharing(candidates: Sequence[Candidates], pool: EncoderPool) -> list[Candidates]:
    """Candidates on hosts of which an encoder pool takes devices, if they are of its kind."""
    taken = replace(pool.offer, taken=pool.replicas)
    return [replace(c, offer=taken) if c.offer == pool.offer else c for c in candidates]


def _worthwhile(pools: Sequence[EncoderPool], receiver: Offer) -> list[EncoderPool]:
    """Without pools that another beats in price and delay; the receiver's kind shares its hosts."""

    def beaten(pool: EncoderPool) -> bool:
        return any(
            other.usd_per_hour <= pool.usd_per_hour and other.delay_s < pool.delay_s
            for other in pools
        )

    return [pool for pool in pools if pool.offer == receiver or not beaten(pool)]
