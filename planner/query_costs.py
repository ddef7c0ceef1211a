"""Assumptions on what owning and powering devices costs, as a query spells them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from planner.query_choices import Strict

_AMOUNT = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(.*)")


@dataclass(frozen=True)
class Amount:
    """A kind of amount: its unit, how else it may be spelled, and what it may be.

    Attributes:
        unit: in which it is shown; a percentage is kept as a share.
        expected: an example, and the range, for messages.
        spellings: what may follow the number -> by what that multiplies it.
        lowest, highest: of the allowed values.
        above: the lowest is not allowed itself.
        bare: highest of a number without a unit; more is likely of another one.
    """

    unit: str
    expected: str
    spellings: Mapping[str, float]
    lowest: float = 0.0
    highest: float = float("inf")
    above: bool = False
    bare: float = float("inf")

    def read(self, value: Any) -> float:
        """A number or a spelling such as `0.08 USD/kWh`.

        Raises:
            ValueError: not an amount of this kind, or out of its range.
        """
        match = _AMOUNT.fullmatch(str(value).strip())
        if isinstance(value, bool) or match is None:
            raise ValueError(f"expected {self.expected}, got {value!r}")
        number, spelled = float(match.group(1)), match.group(2)
        if spelled not in self.spellings:
            raise ValueError(f"unknown unit {spelled!r}: expected {self.expected}, got {value!r}")
        if not spelled and number > self.bare:
            raise ValueError(f"expected {self.expected}, got {value!r} without its unit")
        number = round(number * self.spellings[spelled], 12)
        low = number <= self.lowest if self.above else number < self.lowest
        if low or number > self.highest or number == float("inf"):
            raise ValueError(f"expected {self.expected}, got {value!r}")
        return number

    def format(self, number: float) -> str:
        """An amount for people: `9 % per year`, `0.086 USD/kWh`."""
        if self.unit.startswith("%"):
            return f"{100 * number:.4g} {self.unit}"
        shown = f"{number:,.0f}" if number >= 1000 else f"{number:.4g}"
        return f"{shown} {self.unit}".strip()


def money(unit: str, example: str, *, above: bool = False, bare: float = float("inf")) -> Amount:
    """An amount of money, `unit` of which is one such as USD/kWh."""
    spellings = {"": 1.0, unit: 1.0, unit.replace("USD", "$"): 1.0}
    least = "above 0" if above else "from 0"
    expected = f"an amount {least} such as {example} {unit}"
    return Amount(unit, expected, spellings, above=above, bare=bare)


PRICE = money("USD/h", "2.5", above=True)
"""Of a device."""
SHARE = Amount("%", "a share from 0 to 1 such as 10%", {"": 1.0, "%": 0.01}, highest=1.0)
_USED = Amount(
    "%", "a share above 0, up to 1, such as 95%", {"": 1.0, "%": 0.01}, highest=1.0, above=True
)
_RATE = Amount(
    "% per year",
    "a share per year from 0 to 1 such as 9%",
    {"": 1.0, "%": 0.01, "%/year": 0.01, "% per year": 0.01},
    highest=1.0,
)
_FACTOR = Amount("", "a factor from 1 such as 1.3", {"": 1.0}, lowest=1.0)
_YEARS = Amount(
    "years",
    "a time above 0 such as 5 years",
    {"": 1.0, "years": 1.0, "year": 1.0, "months": 1 / 12},
    above=True,
)
_CARBON = Amount(
    "g/kWh",
    "an amount from 0 such as 350 g/kWh",
    {"": 1.0, "g/kWh": 1.0, "gCO2e/kWh": 1.0, "kg/kWh": 1e3},
)

AMOUNTS: dict[str, Amount] = {
    "capex": money("USD", "30000"),
    "amortization": _YEARS,
    "residual": SHARE,
    "interest": _RATE,
    "maintenance": _RATE,
    "staff": money("USD/year", "200"),
    "hosting": money("USD/kW-month", "150"),
    "electricity": money("USD/kWh", "0.08", bare=1.0),
    "pue": _FACTOR,
    "carbon": _CARBON,
    "availability": _USED,
    "utilization": _USED,
    "load": SHARE,
    "host_power": _FACTOR,
    "idle_power": SHARE,
    "prefill_power": SHARE,
    "decode_power": SHARE,
}
"""Every assumption by its name in a query, in the order in which they are shown."""


def _spelled(schema: dict[str, Any]) -> None:
    """Amounts may be written with their unit: as text."""
    for field in schema["properties"].values():
        field["anyOf"].insert(1, {"type": "string"})


class CostChoice(Strict):
    """What owning and powering devices costs; a figure not given is the shipped one.

    `planner tco DEVICE` shows every figure, where it comes from, and what it makes of a price.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=_spelled)

    amortization: float | None = Field(
        default=None, description="Time over which an owned device is paid for: `5 years`."
    )
    residual: float | None = Field(
        default=None, description="What a device is worth after that time, a share of its capex."
    )
    interest: float | None = Field(default=None, description="Cost of capital per year: `9%`.")
    maintenance: float | None = Field(
        default=None, description="Repair and support per year, a share of the capex."
    )
    staff: float | None = Field(
        default=None, description="People who run the devices: `200 USD/year` for each device."
    )
    hosting: float | None = Field(
        default=None,
        description="Space, power supply and cooling, but not the electricity: "
        "`150 USD/kW-month` of what a device and its share of the host draw at most.",
    )
    electricity: float | None = Field(default=None, description="`0.08 USD/kWh`.")
    pue: float | None = Field(
        default=None, description="Power of the site over that of its IT equipment, at least 1."
    )
    carbon: float | None = Field(
        default=None, description="Greenhouse gases of the electricity: `350 g/kWh`."
    )
    availability: float | None = Field(
        default=None, description="Share of hours in which an owned device is not out of order."
    )
    utilization: float | None = Field(
        default=None,
        description="Share of those hours in which it has work; the others are paid for too.",
    )
    load: float | None = Field(
        default=None,
        description="Load of an owned device that has work, for the electricity in its price; "
        "the energy of a plan is that of its own load.",
    )
    host_power: float | None = Field(
        default=None,
        description="Power of a device with its share of CPUs, fans and NICs over its own.",
    )
    idle_power: float | None = Field(
        default=None, description="Power of an idle device, a share of its TDP."
    )
    prefill_power: float | None = Field(
        default=None, description="Power while it computes prompts, a share of its TDP."
    )
    decode_power: float | None = Field(
        default=None, description="Power while it decodes full batches, a share of its TDP."
    )

    @field_validator("*", mode="before")
    @classmethod
    def _amounts(cls, value: Any, info: ValidationInfo) -> Any:
        return None if value is None else AMOUNTS[str(info.field_name)].read(value)


class OwnedChoice(CostChoice):
    """An owned device's costs; what is not given is as in `costs`."""

    capex: float | None = Field(
        default=None,
        description="`30000 USD` per device, with its share of host and network; the shipped "
        "figure, where there is one, if not given.",
    )
