"""What devices cost per hour, by the shipped list of dated public prices."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import Any

from perfmodel.documents import read_yaml
from perfmodel.errors import ConfigError

PRICES = Path(__file__).parent / "data" / "prices.yaml"

RELATIVE = "relative"
"""The kind of an entry that is no money."""


def format_usd(usd: float) -> str:
    """An amount of USD for people: `0.0962`, `0.100`, `1.10`, `6,401`; no exponent."""
    if abs(usd) >= 100.0 or usd == 0.0:
        return f"{usd:,.0f}"
    decimals = max(2, 2 - math.floor(math.log10(abs(usd))))
    return f"{usd:.{decimals}f}"


@lru_cache(maxsize=1)
def listed_prices() -> dict[str, list[dict[str, Any]]]:
    """Every entry of the list, by device."""
    found: dict[str, list[dict[str, Any]]] = {}
    for entry in read_yaml(PRICES).data["prices"]:
        found.setdefault(entry["device"], []).append(entry)
    return found


@lru_cache(maxsize=1)
def price_list() -> dict[str, tuple[float, str]]:
    """The shipped default prices: device name -> (USD per device-hour, source and date)."""
    document = read_yaml(PRICES)
    prices: dict[str, tuple[float, str]] = {}
    for i, entry in enumerate(document.data["prices"]):
        price = entry.get("usd_per_device_hour")
        if not isinstance(price, int | float) or not price > 0:
            raise ConfigError(
                f"{document.where(('prices', i, 'usd_per_device_hour'))}: "
                f"expected a positive number, got {price!r}"
            )
        if entry.get("default"):
            source = f"{entry['kind']}, {entry['provider']}, {entry['date']}"
            prices[entry["device"]] = (float(price), source)
    return prices
