"""The layouts behind the degrees of parallelism that a row of measured deployments has.

A user's row is taken at its word, or refused. The rows of the public sample (see
`perfmodel.public_runs`) leave degrees out and multiply others; what they may mean stands in
`readings`, `split` and `unsaid`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from perfmodel import public_runs
from perfmodel.architecture import ModelArchitecture
from perfmodel.deployments import Degrees, Deployment
from perfmodel.errors import InputError
from perfmodel.layout import Layouts

LARGEST_GROUP = 64


def stated(model: ModelArchitecture, degrees: Degrees) -> Layouts:
    """The layout that degrees spell out; experts' degrees may be left to what engines do.

    Without them experts are cut like attention is, or with attention data parallel dealt out
    whole. A dense model's data parallelism is no part of the layout: replicas share nothing.

    Raises:
        InputError: degrees that contradict each other, or that do not divide the model.
    """
    pp, tp, dp = degrees.pp, degrees.tp, degrees.dp if model.is_moe else 1
    devices = tp * dp
    for group in model.groups:
        if not group.attention.splits_over(np.array(tp)):
            raise InputError(f"tp_size: the heads of {model.name} do not divide by {tp}")
    if not model.is_moe:
        return _layout(pp, tp, 1, tp, 1)
    moe_tp, moe_ep = degrees.moe_tp, degrees.moe_ep
    if not moe_tp and not moe_ep:
        moe_ep = devices if dp > 1 else 1
    moe_tp = moe_tp or devices // moe_ep
    moe_ep = moe_ep or devices // moe_tp
    if moe_tp * moe_ep != devices:
        raise InputError(
            f"moe_tp_size {moe_tp} x moe_ep_size {moe_ep} are {moe_tp * moe_ep} devices, "
            f"tp_size {tp} x attention_dp_size {dp} are {devices}"
        )
    experts = next(g.feed_forward.experts for g in model.groups if g.feed_forward.is_moe)
    if experts % moe_ep:
        raise InputError(f"moe_ep_size: {experts} experts do not divide by {moe_ep}")
    return _layout(pp, tp, dp, moe_tp, moe_ep)


def readings(model: ModelArchitecture, degrees: Degrees) -> Iterator[list[Layouts]]:
    """The layouts that a row's degrees may mean, in tiers: a later one if no earlier one fits.

    Public files leave attention's data parallelism out, multiply TP by EP where both act on
    the same devices, or say one device where the model needs many. What no engine could run
    is read as the nearest that it could.
    """
    pp, tp, dp = degrees.pp, degrees.tp, degrees.dp
    if not model.is_moe:
        yield [_layout(pp, tp, 1, tp, 1)]
        return
    moe_tp, moe_ep = max(degrees.moe_tp, 1), max(degrees.moe_ep, 1)
    world = max(tp * dp, moe_tp * moe_ep)
    if is_squared(degrees):
        ranks = moe_ep if dp > 1 else 1
        yield [_layout(pp, moe_ep // ranks, ranks, 1, moe_ep)]
    elif dp > 1:
        if degrees.moe_tp == degrees.moe_ep == 0:
            moe_ep = tp * dp
        if moe_tp * moe_ep == tp * dp:
            yield [_layout(pp, tp, dp, moe_tp, moe_ep)]
    elif world <= HOST and moe_tp * moe_ep == world:
        yield [_layout(pp, world, 1, moe_tp, moe_ep)]
    size = 2 ** int(np.log2(min(world, LARGEST_GROUP)))
    for devices in [size] if world > 1 else [2, 4, 8, 16, 32]:
        tier = [_layout(pp, 1, devices, 1, devices)]
        if all(group.attention.splits_over(np.array(devices)) for group in model.groups):
            tier += [_layout(pp, devices, 1, 1, devices), _layout(pp, devices, 1, devices, 1)]
        yield tier


HOST = 8
"""Devices over which attention is usually cut by heads alone."""


def unsaid(pools: Mapping[str, Degrees], deployment: Deployment) -> dict[str, Degrees]:
    """The pools of a public row that gives one prefill and one decode worker's TP alone.

    Its decode columns repeat the prefill pool's EP.
    """
    device, load = deployment.device, deployment.load
    prefill, decode = pools["prefill"], pools["decode"]
    world = max(decode.tp * decode.dp, 1)
    crowded = public_runs.is_crowded(device, world, load.clients, load.isl)
    if world == 1 and crowded and device in public_runs.WIDE_DOMAINS:
        world = public_runs.WIDE_GROUP
    spread = crowded or prefill.moe_ep > 1
    found = {"prefill": prefill, "decode": decode}
    if world > 1:
        found["decode"] = Degrees(
            tp=1 if crowded else world,
            pp=decode.pp,
            dp=world if crowded else 1,
            moe_tp=1 if spread else world,
            moe_ep=world if spread else 1,
            workers=public_runs.decode_workers(world, load.clients, crowded),
        )
    ahead = prefill.tp * prefill.dp
    if ahead > 1 and (deployment.engine == "trtllm" or crowded):
        found["prefill"] = replace(prefill, tp=1, dp=ahead, moe_tp=1, moe_ep=ahead)
    return found


def is_squared(degrees: Degrees) -> bool:
    """TP and EP over the same devices, multiplied: `tp64, moe_tp 8, moe_ep 8` is eight devices."""
    world = degrees.tp * degrees.dp
    return degrees.moe_tp == degrees.moe_ep > 1 and world == degrees.moe_ep**2 > HOST


def split(degrees: Degrees) -> dict[str, Degrees]:
    """The pools behind a row that gives a disaggregated deployment's devices as one TP.

    No engine cuts an expert into more than a host's devices. Half the devices or more
    decode, and prefill workers take half a host each, as public recipes have it.
    """
    decode = 2 ** int(np.log2(degrees.tp - HOST // 2))
    return {
        "prefill": Degrees(HOST // 2, 1, 1, 1, HOST // 2, 0),
        "decode": Degrees(decode, 1, 1, 1, decode, 1),
    }


def _layout(pp: int, tp: int, dp: int, tp_f: int, ep: int) -> Layouts:
    return Layouts.from_rows([[pp, tp, 1, dp, tp_f, ep, max(tp * dp // (tp_f * ep), 1)]])
