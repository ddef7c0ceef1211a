"""One evaluated query at other prices: the cheapest fleet as a function of what devices cost.

A fleet's price is linear in the prices of its devices, so that the least price of all fleets is
concave and piecewise linear in each of them. Its pieces are found exactly, by few fleets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from perfmodel.errors import InputError
from planner.choice import KINDS, Choice
from planner.evaluated import Evaluated
from planner.plan import hosts_text
from planner.query import Query
from planner.whatif.fields import short_name

TOLERANCE = 1e-9
"""Relative difference below which two prices of fleets are the same."""


@dataclass(frozen=True)
class Line:
    """A fleet's price, USD per hour, at a price `p` of one device: `fixed + devices * p`.

    Attributes:
        devices: of that type in the fleet's hosts.
    """

    choice: Choice
    fixed: float
    devices: float

    def at(self, price: float) -> float:
        """USD per hour at a price of the device."""
        return self.fixed + self.devices * price

    def meets(self, other: Line) -> float:
        """At which price two fleets cost the same."""
        return (other.fixed - self.fixed) / (self.devices - other.devices)


@dataclass(frozen=True)
class Segment:
    """Prices between which one fleet is the cheapest."""

    low: float
    high: float
    line: Line


class Market:
    """The fleets of an evaluated query at its demand, at any prices."""

    def __init__(self, evaluated: Evaluated) -> None:
        """Of a query with a demand.

        Raises:
            InputError: it asks for as much as possible.
        """
        self.evaluated = evaluated
        self.query = evaluated.query
        self.qps = demand(self.query)
        offers = evaluated.problem.offers
        names = [short_name(device.name) for device in self.query.devices]
        self.offers = dict(zip(names, offers, strict=False))
        self.prices = {name: offer.usd_per_device_hour for name, offer in self.offers.items()}
        self._known: dict[tuple[object, ...], Choice | None] = {}

    def best(
        self,
        prices: Mapping[str, float] | None = None,
        kinds: Sequence[str] = KINDS,
        without: Sequence[str] = (),
    ) -> Choice | None:
        """The cheapest fleet at other prices of some devices; None where none serves.

        Args:
            prices: USD per device-hour by name; others stay.
            without: devices that are not to be had.
        """
        asked = {**self.prices, **(prices or {})}
        key = (*asked.items(), tuple(kinds), tuple(without))
        if key not in self._known:
            devices = [
                device.model_copy(update={"usd_per_device_hour": asked[name]})
                for device in self.query.devices
                if (name := short_name(device.name)) not in without
            ]
            found: list[Choice] = []
            if devices:
                query = self.query.model_copy(update={"devices": tuple(devices)})
                found = self.evaluated.under(query).fleets(self.qps, kinds)
            self._known[key] = found[0] if found else None
        return self._known[key]

    def offer_name(self, device: str) -> str:
        """The device's own name, by which fleets know it.

        Raises:
            InputError: the query has no such device.
        """
        if device not in self.offers:
            raise InputError(f"no device {device!r} in the query; it has {', '.join(self.offers)}")
        return self.offers[device].device.name

    def line(self, choice: Choice, device: str) -> Line:
        """A fleet's price as a function of one device's."""
        name, fixed, devices = self.offer_name(device), 0.0, 0.0
        for offer, hosts in choice.hosts:
            if offer.device.name == name:
                devices += offer.host_devices * hosts
            else:
                fixed += offer.host_devices * hosts * offer.usd_per_device_hour
        return Line(choice, fixed, devices)


def demand(query: Query) -> float:
    """Requests/s that a query asks for.

    Raises:
        InputError: as many as possible.
    """
    if query.workload.qps == "max":
        raise InputError("workload.qps: prices matter for a demand; expected requests/s, got max")
    return float(query.workload.qps)


def fleet_name(choice: Choice) -> str:
    """A fleet in a few words: `2 x 8 h100_sxm, continuous`."""
    return f"{hosts_name(choice)}, {choice.kind}"


def hosts_name(choice: Choice) -> str:
    """Its hosts alone: `2 x 8 h100_sxm`."""
    return hosts_text((n, o.host_devices, o.device.name) for o, n in choice.hosts)


def envelope(best: Callable[[float], Line], low: float, high: float) -> list[Segment]:
    """All fleets that are cheapest at some price of an interval, by ascending price.

    Two fleets that are cheapest at two prices meet at one between; either they are the cheapest
    there, or a third is, which leaves two smaller intervals (Eisner and Severance, J. ACM 23(4),
    1976). Exact, with about two fleets sought per segment.

    Args:
        best: the cheapest fleet at a price.
    """
    lines = _between(best, (low, best(low)), (high, best(high)))
    ends = [low, *(a.meets(b) for a, b in pairwise(lines)), high]
    return [Segment(ends[i], ends[i + 1], line) for i, line in enumerate(lines)]


def _between(
    best: Callable[[float], Line], left: tuple[float, Line], right: tuple[float, Line]
) -> list[Line]:
    """The lines of the lower envelope from that of `left` to that of `right`, both included."""
    first, last = left[1], right[1]
    if first.devices <= last.devices:
        # By concavity the slope falls as the price rises: equal slopes are one fleet.
        return [last]
    price = first.meets(last)
    if not left[0] < price < right[0]:
        return [first, last]
    middle = best(price)
    if middle.at(price) >= first.at(price) * (1 - TOLERANCE):
        return [first, last]
    lower = _between(best, left, (price, middle))
    return [*lower[:-1], *_between(best, (price, middle), right)]
