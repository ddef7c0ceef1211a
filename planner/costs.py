"""The assumptions on costs in force: what a query states, over the shipped figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from perfmodel.documents import Document, read_yaml, validate
from perfmodel.errors import ConfigError
from planner.query_costs import AMOUNTS, CostChoice, OwnedChoice

COSTS = Path(__file__).parent / "data" / "costs.yaml"

STATED = "query"
"""The source of a figure that the query gives."""

NAMES = {
    "amortization": "amortization_years",
    "residual": "residual_share",
    "interest": "interest_per_year",
    "maintenance": "maintenance_per_year",
    "staff": "staff_usd_per_year",
    "hosting": "hosting_usd_per_kw_month",
    "electricity": "electricity_usd_per_kwh",
    "pue": "pue",
    "carbon": "carbon_g_per_kwh",
    "availability": "availability",
    "utilization": "utilization",
    "load": "load",
    "host_power": "host_power_factor",
    "idle_power": "idle_power_share",
    "prefill_power": "prefill_power_share",
    "decode_power": "decode_power_share",
}
"""A query's field -> the attribute of `Costs`."""

OF_ENERGY = ("pue", "carbon", "host_power", "idle_power", "prefill_power", "decode_power")
"""Those that matter to a rented device too."""


@dataclass(frozen=True)
class Costs:
    """What owning and powering a device costs; `planner.query_costs` says what each is.

    Attributes:
        capex_usd: per device; None if it is rented.
        residual_share, maintenance_per_year: of the capex.
        idle_power_share, prefill_power_share, decode_power_share: of the device's TDP.
        sources: a query's field -> where its figure comes from.
    """

    amortization_years: float
    residual_share: float
    interest_per_year: float
    maintenance_per_year: float
    staff_usd_per_year: float
    hosting_usd_per_kw_month: float
    electricity_usd_per_kwh: float
    pue: float
    carbon_g_per_kwh: float
    availability: float
    utilization: float
    load: float
    host_power_factor: float
    idle_power_share: float
    prefill_power_share: float
    decode_power_share: float
    capex_usd: float | None = None
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    def assumptions(self) -> dict[str, dict[str, Any]]:
        """Each figure that matters, by its name in a query: value, unit and source."""
        owned = self.capex_usd is not None
        values = {"capex": self.capex_usd} if owned else {}
        values |= {n: getattr(self, a) for n, a in NAMES.items() if owned or n in OF_ENERGY}
        return {
            name: {
                "value": value,
                "unit": AMOUNTS[name].unit.replace("%", "share"),
                "source": self.sources[name],
            }
            for name, value in values.items()
        }


def costs_of(device: str, shared: CostChoice | None, own: OwnedChoice | None) -> Costs:
    """What holds for a device: what it states itself, else what `costs` does, else the default.

    Args:
        device: by name.
        own: None for a rented device.

    Raises:
        ConfigError: no capex is stated or shipped, or an idle device would draw more than a
            busy one; names the field within the query's `costs`, or the device's `cost`.
    """
    shipped, capex = defaults()
    values = {name: value for name, (value, _) in shipped.items()}
    sources = {name: source for name, (_, source) in shipped.items()}
    for layer in (shared, own):
        stated = layer.model_dump(exclude_none=True) if layer is not None else {}
        values |= stated
        sources |= dict.fromkeys(stated, STATED)
    if own is not None and own.capex is None:
        if device not in capex:
            raise ConfigError(
                f"no purchase price of {device} is shipped: give it in USD per device, with its "
                "share of host and network",
                field="capex",
            )
        values["capex"], sources["capex"] = capex[device]
    for name in ("prefill_power", "decode_power"):
        if values[name] < values["idle_power"]:
            raise ConfigError(
                f"idle_power, {values['idle_power']:.0%}, is above {name}, {values[name]:.0%}",
                field=name if sources[name] == STATED else "idle_power",
            )
    numbers = {attribute: values[name] for name, attribute in NAMES.items()}
    return Costs(**numbers, capex_usd=values.get("capex"), sources=sources)


def stated_costs(texts: Iterable[str]) -> OwnedChoice:
    """An owned device's costs from texts `NAME=VALUE`.

    Raises:
        ConfigError: a text of another form, an unknown name, or not such an amount.
    """
    values: dict[str, float] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in AMOUNTS:
            raise ConfigError(
                f"--set: expected NAME=VALUE with a name of {', '.join(AMOUNTS)}, got {text!r}"
            )
        try:
            values[name] = AMOUNTS[name].read(value)
        except ValueError as error:
            raise ConfigError(f"--set {name}: {error}") from None
    return OwnedChoice(**values)


Figures = dict[str, tuple[float, str]]
"""Name -> figure, and where it comes from with its date."""


@lru_cache(maxsize=1)
def defaults() -> tuple[Figures, Figures]:
    """The shipped assumptions by name, and the shipped capex by device.

    Raises:
        ConfigError: the shipped file is malformed.
    """
    document = read_yaml(COSTS)
    assumptions = _figures(document, "assumptions")
    read = validate(_values(document, "assumptions"), CostChoice).model_dump(exclude_none=True)
    if missing := sorted(set(NAMES) - set(read)):
        raise ConfigError(f"{COSTS}: no {', '.join(missing)} among the assumptions")
    capex = {
        device: (AMOUNTS["capex"].read(entry["value"]), _source(entry))
        for device, entry in _figures(document, "capex").items()
    }
    return {name: (read[name], _source(entry)) for name, entry in assumptions.items()}, capex


def _figures(document: Document, group: str) -> dict[str, dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = document.data[group]
    for name, entry in entries.items():
        for part in ("value", "date", "source"):
            if part not in entry:
                raise ConfigError(f"{document.where((group, name))}: {part} is missing")
    return entries


def _values(document: Document, group: str) -> Document:
    """The group's values alone, as a query's `costs` would state them."""
    values = {name: entry["value"] for name, entry in document.data[group].items()}
    lines = {path[1:]: line for path, line in document.lines.items() if path[:1] == (group,)}
    return Document(document.path, values, lines)


def _source(entry: Mapping[str, Any]) -> str:
    return f"{entry['source']} ({entry['date']})"
