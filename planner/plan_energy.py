"""What a fleet draws, as a plan reports it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PowerPlan:
    """What equal devices draw, with their share of the host.

    Attributes:
        role: of their pool; `idle` if none takes them.
        load: demand over the pool's capacity.
        busy_share: of the thermal design power, drawn at full load.
        prompts_share: of their energy, that goes to prompts.
    """

    role: str
    device: str
    devices: int
    load: float
    busy_share: float
    watts_per_device: float
    prompts_share: float

    @property
    def power_w(self) -> float:
        """Of all of them."""
        return self.devices * self.watts_per_device


@dataclass(frozen=True)
class EnergyPlan:
    """Power, energy and carbon at the demand, by the devices' thermal design power.

    Attributes:
        it_power_w: of devices and hosts, mean.
        site_power_w: times the site's PUE; what energy and carbon are of.
        gco2e_per_million_input_tokens: of the electricity, not of making the hardware.
        owned_electricity_usd_per_hour: of owned devices at this load, whatever their price
            assumes.
        drawn: by which devices.
    """

    it_power_w: float
    site_power_w: float
    wh_per_request: float
    kwh_per_million_input_tokens: float
    kwh_per_million_output_tokens: float
    gco2e_per_million_input_tokens: float
    gco2e_per_million_output_tokens: float
    owned_electricity_usd_per_hour: float
    drawn: tuple[PowerPlan, ...]
