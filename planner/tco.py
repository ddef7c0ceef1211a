"""What an hour of an owned device costs, built up from the assumptions of `planner.costs`.

The capital is paid back in equal yearly sums with interest, as an annuity [1]; electricity is
that of the device and its share of the host, times the site's PUE [2].

References:
    [1] L. Blank and A. Tarquin, Engineering Economy: capital recovery with a salvage value,
        `A = (P - S) (A/P, i, n) + S i`.
    [2] L. A. Barroso, U. Hoelzle and P. Ranganathan, The Datacenter as a Computer, third
        edition (2018), chapters 5 and 6: PUE, and the terms of a datacenter's cost.
"""

from __future__ import annotations

from math import expm1, inf, log1p

from planner.costs import Costs

HOURS_PER_YEAR = 8760.0

MONTHS_PER_YEAR = 12.0

NO_INTEREST = 1e-9
"""Rates per year below which interest is none: the annuity's formula would lose its digits."""


def device_power_w(costs: Costs, tdp_w: float, load: float, busy_share: float = 1.0) -> float:
    """Power of a device and its share of the host, W.

    Linear in the load, from idle to busy: `TDP x host factor x (idle + (busy - idle) x load)`.

    Args:
        load: share of the device's capacity in use.
        busy_share: power at full load, as a share of the TDP.
    """
    idle = costs.idle_power_share
    return tdp_w * costs.host_power_factor * (idle + (busy_share - idle) * load)


def usd_per_w_hour(costs: Costs) -> float:
    """Electricity of the site for one W of IT equipment, USD per hour."""
    return costs.electricity_usd_per_kwh * costs.pue / 1e3


def usd_per_device_hour(costs: Costs, tdp_w: float) -> dict[str, float]:
    """USD per hour in which an owned device has work, by term; their sum is its price.

    What is paid by the calendar is divided by availability and utilization; in the remaining
    hours the device draws the power of an idle one.

    Args:
        costs: of an owned device (with a capex).
        tdp_w: of the device alone.
    """
    used = costs.availability * costs.utilization
    idle_hours = 1.0 / used - 1.0
    drawn = device_power_w(costs, tdp_w, costs.load) + idle_hours * device_power_w(costs, tdp_w, 0)
    terms = {name: usd / used for name, usd in _by_the_calendar(costs, tdp_w).items()}
    return {**terms, "electricity": drawn * usd_per_w_hour(costs)}


def _by_the_calendar(costs: Costs, tdp_w: float) -> dict[str, float]:
    """USD per hour, used or not, by term."""
    capex, kept = costs.capex_usd or 0.0, costs.residual_share
    depreciation = capex * (1.0 - kept) / costs.amortization_years
    capital = capex * ((1.0 - kept) * _annuity(costs) + kept * costs.interest_per_year)
    most_kw = tdp_w * costs.host_power_factor / 1e3
    yearly = {
        "depreciation": depreciation,
        "interest": max(capital - depreciation, 0.0),
        "maintenance": capex * costs.maintenance_per_year,
        "staff": costs.staff_usd_per_year,
        "hosting": most_kw * costs.hosting_usd_per_kw_month * MONTHS_PER_YEAR,
    }
    return {name: usd / HOURS_PER_YEAR for name, usd in yearly.items()}


def _annuity(costs: Costs) -> float:
    """Yearly payment that pays 1 USD back with interest."""
    rate, years = costs.interest_per_year, costs.amortization_years
    if rate < NO_INTEREST:
        return 1.0 / years
    return rate / -expm1(-years * log1p(rate))


def break_even_utilization(costs: Costs, tdp_w: float, rent_usd_per_hour: float) -> float | None:
    """Utilization from which owning is cheaper than renting by the hour; None if it never is.

    Args:
        rent_usd_per_hour: of a device, paid only while it has work.
    """
    rate = usd_per_w_hour(costs)
    idle = device_power_w(costs, tdp_w, 0) * rate
    busy = device_power_w(costs, tdp_w, costs.load) * rate
    # (fixed + idle (1 - used)) / used + busy = rent
    saved = rent_usd_per_hour - busy + idle
    if saved <= 0:
        return None
    fixed = sum(_by_the_calendar(costs, tdp_w).values())
    utilization = (fixed + idle) / saved / costs.availability
    return utilization if utilization <= 1.0 else None


def break_even_reserved(costs: Costs, tdp_w: float, rent_usd_per_hour: float) -> float | None:
    """Utilization up to which owning is cheaper than a reserved device; None if it never is.

    Whoever reserves pays in hours without work too, in which an owned device draws less power.

    Args:
        rent_usd_per_hour: of a device that is in order, paid round the clock.
    """
    rate = usd_per_w_hour(costs)
    idle = device_power_w(costs, tdp_w, 0) * rate
    busy = device_power_w(costs, tdp_w, costs.load) * rate
    # (fixed + idle) / availability + (busy - idle) utilization = rent
    least = (sum(_by_the_calendar(costs, tdp_w).values()) + idle) / costs.availability
    if rent_usd_per_hour < least:
        return None
    return min((rent_usd_per_hour - least) / (busy - idle), 1.0) if busy > idle else 1.0


def payback_years(
    costs: Costs, tdp_w: float, rent_usd_per_hour: float, *, reserved: bool = False
) -> float:
    """Years after which a device has cost less than renting one for as long; inf if never.

    Interest is paid on what is not yet earned back, and what the device is then worth is left
    out. The device has work for its availability times its utilization.

    Args:
        reserved: the rent is paid in hours without work too.
    """
    used = costs.availability * costs.utilization
    terms = usd_per_device_hour(costs, tdp_w)
    running = sum(usd for name, usd in terms.items() if name not in ("depreciation", "interest"))
    rented = costs.availability if reserved else used
    saved = (rent_usd_per_hour * rented - running * used) * HOURS_PER_YEAR
    capex, rate = costs.capex_usd or 0.0, costs.interest_per_year
    if capex == 0:
        return 0.0 if saved >= 0 else inf
    if saved <= capex * rate:
        return inf
    if rate < NO_INTEREST:
        return capex / saved
    return -log1p(-capex * rate / saved) / log1p(rate)
