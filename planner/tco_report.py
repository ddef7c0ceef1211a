"""Prices of owned devices, and energy, derived for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from perfmodel.hardware import Device
from planner.costs import Costs
from planner.plan import FleetPlan, HostPlan
from planner.plan_energy import EnergyPlan
from planner.prices import listed_prices
from planner.problem import Offer
from planner.query_costs import AMOUNTS
from planner.tco import (
    HOURS_PER_YEAR,
    break_even_reserved,
    break_even_utilization,
    device_power_w,
    payback_years,
    usd_per_device_hour,
)


def terms_line(host: HostPlan) -> str:
    """What an owned device's price adds up."""
    terms = host.owned_usd_per_hour or {}
    return " + ".join(f"{name} ${usd:.3g}" for name, usd in terms.items())


def energy_lines(fleet: FleetPlan, assumptions: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Power, energy and carbon of a fleet, compactly."""
    energy = fleet.energy
    used = {host.device for host in fleet.hosts}
    grids = sorted({assumptions[name]["carbon"]["value"] for name in used if name in assumptions})
    at = f" (at {_listed(grids)} g/kWh)" if grids else ""
    return [
        f"{_kw(energy.it_power_w)} at this load, {_kw(energy.site_power_w)} with PUE; by TDP, "
        "none of it measured",
        f"{energy.wh_per_request:.3g} Wh per request; kWh per million tokens: "
        f"{energy.kwh_per_million_input_tokens:.3g} input, "
        f"{energy.kwh_per_million_output_tokens:.3g} output",
        f"g CO2e per million tokens: {energy.gco2e_per_million_input_tokens:.3g} input, "
        f"{energy.gco2e_per_million_output_tokens:.3g} output{at}",
    ]


def _kw(watts: float) -> str:
    return f"{watts / 1e3:,.3g} kW" if watts < 1e6 else f"{watts / 1e3:,.0f} kW"


def price_lines(offer: Offer) -> list[str]:
    """An owned device's price, term by term; nothing for a rented one."""
    if offer.owned_usd_per_hour is None:
        return []
    name, price = offer.device.name, offer.usd_per_device_hour
    lines = [f"{name} owned, USD per hour in use:"]
    lines += [f"  {line}" for line in derivation(offer.costs, offer.device.tdp_w)]
    return [*lines, f"  together ${price:.4g}"]


def derivation(costs: Costs, tdp_w: float) -> Iterator[str]:
    """Each term of an owned device's price with the figures that make it."""
    terms = usd_per_device_hour(costs, tdp_w)
    used, capex = costs.availability * costs.utilization, costs.capex_usd or 0.0
    hours = f"/ {HOURS_PER_YEAR:,.0f} h / {used:.3g} in use"
    most_kw = tdp_w * costs.host_power_factor / 1e3
    busy, idle = device_power_w(costs, tdp_w, costs.load), device_power_w(costs, tdp_w, 0)
    figures = {
        "depreciation": f"${capex:,.0f} x (1 - {costs.residual_share:.3g} residual) / "
        f"{costs.amortization_years:g} years {hours}",
        "interest": f"an annuity of those years at {costs.interest_per_year:.3g} per year, "
        "residual included, less depreciation",
        "maintenance": f"${capex:,.0f} x {costs.maintenance_per_year:.3g} per year {hours}",
        "staff": f"${costs.staff_usd_per_year:,.4g} per year {hours}",
        "hosting": f"{most_kw:.3g} kW x ${costs.hosting_usd_per_kw_month:,.4g} per kW-month x 12 "
        f"{hours}",
        "electricity": f"({busy:,.0f} W at {costs.load:.0%} load + {1 / used - 1:.3g} h idle x "
        f"{idle:,.0f} W) x PUE {costs.pue:g} x ${costs.electricity_usd_per_kwh:g} per kWh",
    }
    for name, usd in terms.items():
        yield f"{name} ${usd:.4g} = {figures[name]}"


def energy_derivation(
    energy: EnergyPlan, offers: Sequence[Offer], qps: float, tokens: tuple[float, float]
) -> list[str]:
    """How a fleet's power and energy come about.

    Args:
        tokens: of a mean request, input and output.
    """
    of = {offer.device.name: offer for offer in offers}
    lines = []
    for power in energy.drawn:
        costs, tdp = of[power.device].costs, of[power.device].device.tdp_w
        curve = f"{costs.idle_power_share:.3g}"
        if power.load:
            curve += f" + ({power.busy_share:.3g} - {curve}) x {power.load:.3g} load"
        lines.append(
            f"{power.role}: {power.devices} x {power.device} draw {tdp:g} W x "
            f"{costs.host_power_factor:g} with hosts x ({curve}) = "
            f"{power.watts_per_device:,.4g} W each; {power.prompts_share:.1%} for prompts"
        )
    pues = sorted({of[power.device].costs.pue for power in energy.drawn})
    grids = sorted({of[power.device].costs.carbon_g_per_kwh for power in energy.drawn})
    by_hour = qps * 3600.0
    lines.append(
        f"energy: {_kw(energy.it_power_w)} x PUE {_listed(pues)} = {_kw(energy.site_power_w)}; "
        f"/ {by_hour:,.6g} requests per hour = {energy.wh_per_request:.4g} Wh per request"
    )
    sides = (
        ("input", energy.kwh_per_million_input_tokens, energy.gco2e_per_million_input_tokens),
        ("output", energy.kwh_per_million_output_tokens, energy.gco2e_per_million_output_tokens),
    )
    for (side, kwh, grams), each in zip(sides, tokens, strict=True):
        millions = by_hour * each / 1e6
        lines.append(
            f"{side}: {kwh * millions:.4g} kW / {millions:.4g} million tokens per hour = "
            f"{kwh:.4g} kWh per million; x {_listed(grids)} g/kWh = {grams:.4g} g CO2e"
        )
    if energy.owned_electricity_usd_per_hour:
        lines.append(
            f"electricity of owned devices at this load: "
            f"${energy.owned_electricity_usd_per_hour:,.4g} per hour (their price has it at their "
            "assumed load)"
        )
    return lines


def _listed(values: Sequence[float]) -> str:
    return " and ".join(f"{value:g}" for value in values)


def print_tco(devices: Sequence[tuple[Device, Costs]], console: Console) -> None:
    """Each device's price to own, beside what it is rented for, then the shared assumptions."""
    for device, costs in devices:
        terms = usd_per_device_hour(costs, device.tdp_w)
        console.print(Text(f"{device.name}: ${sum(terms.values()):.3f} per hour owned", "bold"))
        source = costs.sources["capex"]
        for line in (
            f"capex ${costs.capex_usd or 0:,.0f}: {source}",
            *derivation(costs, device.tdp_w),
        ):
            console.print(Padding(Text(line), (0, 0, 0, 2)))
        console.print(Padding(_rents(device, costs), (1, 0, 1, 2)))
    console.print(Text("Assumptions", style="bold"))
    console.print(Padding(_assumptions(devices[0][1]), (0, 0, 0, 2)))


def _rents(device: Device, costs: Costs) -> Table | Text:
    """Every price known for the device, and what owning it needs to be cheaper."""
    listed = listed_prices().get(device.name, [])
    rents = sorted((p for p in listed if p["kind"] != "relative"), key=_usd)
    if not rents:
        return Text("no rented price is known")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for i, name in enumerate(("rented at", "", "of", "cheaper owned", "paid back in")):
        table.add_column(name, justify="right" if i in (0, 3, 4) else "left")
    for price in rents:
        reserved = price["kind"] == "reserved"
        years = payback_years(costs, device.tdp_w, _usd(price), reserved=reserved)
        table.add_row(
            f"${_usd(price):.2f}",
            price["kind"],
            f"{price['provider']}, {price['date']}",
            _cheaper_owned(device, costs, _usd(price), reserved=reserved),
            f"{years:.1f} years" if years <= MOST_YEARS else "never",
        )
    return table


def _cheaper_owned(device: Device, costs: Costs, rent: float, *, reserved: bool) -> str:
    """At which utilization; reserved devices are paid in hours without work too."""
    if not reserved:
        least = break_even_utilization(costs, device.tdp_w, rent)
        return "never" if least is None else f"from {least:.0%} of hours"
    most = break_even_reserved(costs, device.tdp_w, rent)
    if most is None:
        return "never"
    return "at any use" if most == 1.0 else f"to {most:.0%} of hours"


MOST_YEARS = 30.0
"""Beyond which a device is not said to pay back."""


def _usd(price: Mapping[str, Any]) -> float:
    return float(price["usd_per_device_hour"])


def _assumptions(costs: Costs) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("costs:", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("source", overflow="fold")
    for name, entry in costs.assumptions().items():
        if name != "capex":
            table.add_row(name, AMOUNTS[name].format(entry["value"]), entry["source"])
    return table
