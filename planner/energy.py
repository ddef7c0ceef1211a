"""Power, energy and carbon of a fleet at its load.

No shipped operator table holds measured power, so that it is modelled: by each device's thermal
design power, the share of it that a phase draws at full load, and the load of the pool
(`planner.tco.device_power_w`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from perfmodel.traffic import Traffic
from planner.choice import Choice
from planner.plan import PoolPlan
from planner.plan_energy import EnergyPlan, PowerPlan
from planner.problem import Offer
from planner.tco import device_power_w

SECONDS_PER_HOUR = 3600.0

IDLE = "idle"
"""The role of devices that no pool takes of the fleet's whole hosts."""


def energy_plan(
    choice: Choice, pools: Sequence[PoolPlan], qps: float, traffic: Traffic
) -> EnergyPlan:
    """What a fleet draws while it serves `qps` requests/s, devices of no pool included."""
    offers = {offer.device.name: offer for offer, _ in choice.hosts}
    drawn = _with_idle(choice, _at_work(choice, pools, qps))
    site_w, prompts_w, grams, prompts_g, paid_usd = 0.0, 0.0, 0.0, 0.0, 0.0
    for power in drawn:
        offer = offers[power.device]
        watts = power.power_w * offer.costs.pue
        site_w += watts
        prompts_w += watts * power.prompts_share
        grams += watts / 1e3 * offer.costs.carbon_g_per_kwh
        prompts_g += watts / 1e3 * offer.costs.carbon_g_per_kwh * power.prompts_share
        if offer.owned_usd_per_hour is not None:
            paid_usd += watts / 1e3 * offer.costs.electricity_usd_per_kwh
    requests = qps * SECONDS_PER_HOUR
    inputs, outputs = (
        requests * mean / 1e6 for mean in (traffic.inputs.mean, traffic.outputs.mean)
    )
    return EnergyPlan(
        it_power_w=sum(power.power_w for power in drawn),
        site_power_w=site_w,
        wh_per_request=site_w / requests,
        kwh_per_million_input_tokens=prompts_w / 1e3 / inputs,
        kwh_per_million_output_tokens=(site_w - prompts_w) / 1e3 / outputs,
        gco2e_per_million_input_tokens=prompts_g / inputs,
        gco2e_per_million_output_tokens=(grams - prompts_g) / outputs,
        owned_electricity_usd_per_hour=paid_usd,
        drawn=drawn,
    )


def _at_work(choice: Choice, pools: Sequence[PoolPlan], qps: float) -> list[PowerPlan]:
    """What the devices of every pool draw."""
    found = []
    for pool, plan in zip(choice.pools, pools, strict=True):
        prompts = plan.prefill_time_share
        devices, load = pool.world * pool.replicas, min(qps / pool.qps, 1.0)
        found.append(_power(plan.role, pool.offer, devices, load, prompts))
    if (encoder := choice.encoder) is not None:
        load = min(qps / encoder.qps, 1.0)
        found.append(_power("encoder", encoder.offer, encoder.replicas, load, 1.0))
    return found


def _power(role: str, offer: Offer, devices: int, load: float, prompts: float) -> PowerPlan:
    """Of devices that spend the share `prompts` of their time on prompts."""
    costs = offer.costs
    of_prompts = prompts * costs.prefill_power_share
    busy = of_prompts + (1.0 - prompts) * costs.decode_power_share
    return PowerPlan(
        role=role,
        device=offer.device.name,
        devices=devices,
        load=load,
        busy_share=busy,
        watts_per_device=device_power_w(costs, offer.device.tdp_w, load, busy),
        prompts_share=of_prompts / busy if busy else prompts,
    )


def _with_idle(choice: Choice, at_work: list[PowerPlan]) -> tuple[PowerPlan, ...]:
    """With the devices that no pool takes; they are kept for prompts and outputs alike."""
    whole = sum(power.power_w for power in at_work)
    prompts = sum(power.power_w * power.prompts_share for power in at_work)
    drawn = list(at_work)
    for offer, hosts in choice.hosts:
        name = offer.device.name
        used = sum(power.devices for power in at_work if power.device == name)
        if idle := hosts * offer.host_devices - used:
            one = _power(IDLE, offer, idle, 0.0, 0.0)
            drawn.append(replace(one, prompts_share=prompts / whole if whole else 0.0))
    return tuple(drawn)
