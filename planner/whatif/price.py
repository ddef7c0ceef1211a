"""The price at which a device is worth having."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from planner.choice import Choice
from planner.evaluated import Evaluated
from planner.infeasible import InfeasibleError
from planner.whatif.market import Line, Market, Segment, envelope, fleet_name

LEAST_SHARE = 1e-4
"""The lowest price looked at, as a share of the highest."""

BEYOND = 1.1
"""Where a fleet does without the device: the highest price looked at, over the least at which no
fleet has it."""

NEEDED_FACTOR = 10.0
"""Where no fleet does without the device: the highest price looked at, over today's."""


@dataclass(frozen=True)
class PriceCurve:
    """The cheapest fleet at any price of one device, the other prices as they are.

    Attributes:
        today_usd: its price in the query, per device-hour.
        segments: the cheapest fleets by ascending price.
        without: the cheapest fleet without the device; None: no fleet serves without it.
    """

    device: str
    today_usd: float
    segments: tuple[Segment, ...]
    without: Choice | None

    @property
    def needed(self) -> bool:
        """No fleet serves without the device."""
        return self.without is None

    @property
    def enters_below(self) -> float | None:
        """Below which price the best fleet has the device; None: at none, or at any if needed."""
        if self.needed:
            return None
        return max((s.high for s in self.segments if s.line.devices > 0), default=None)

    @property
    def alone_below(self) -> float | None:
        """Below which price the best fleet has no other device; None: at none."""
        alone = [s.high for s in self.segments if s.line.devices > 0 and s.line.fixed == 0]
        return max(alone, default=None)

    @property
    def today(self) -> Line:
        """The fleet at today's price."""
        return next((s.line for s in self.segments if self.today_usd <= s.high), self.last)

    @property
    def last(self) -> Line:
        """The fleet at the highest price."""
        return self.segments[-1].line

    def to_dict(self) -> dict[str, Any]:
        """Plain data: the break-even prices, and the fleet at every price."""
        return {
            "device": self.device,
            "today_usd_per_device_hour": self.today_usd,
            "needed_at_any_price": self.needed,
            "enters_below_usd_per_device_hour": self.enters_below,
            "alone_below_usd_per_device_hour": self.alone_below,
            "segments": [
                {
                    "from_usd_per_device_hour": segment.low,
                    "to_usd_per_device_hour": segment.high,
                    "fleet": fleet_name(segment.line.choice),
                    "fixed_usd_per_hour": segment.line.fixed,
                    "devices": segment.line.devices,
                }
                for segment in self.segments
            ],
        }

    def usd_per_hour(self, price: float) -> float:
        """Of the best fleet at a price of the device, USD per device-hour."""
        return min(segment.line.at(price) for segment in self.segments)


def price_curve(evaluated: Evaluated, device: str) -> PriceCurve:
    """The best fleet as a function of one device's price, exactly.

    Above `price of the best fleet without it / devices of a host` not even one host of the
    device can be in the best fleet.

    Raises:
        InputError: the query has no such device, no demand, or no fleet (`InfeasibleError`).
    """
    market = Market(evaluated)
    market.offer_name(device)
    host = market.offers[device].host_devices
    without = market.best(without=[device])
    if without is not None:
        high = BEYOND * without.usd_per_hour / host
    else:
        high = NEEDED_FACTOR * market.prices[device]

    def best(price: float) -> Line:
        choice = market.best({device: price})
        if choice is None:
            raise InfeasibleError("no fleet serves the query: `planner solve` says why")
        return market.line(choice, device)

    segments = envelope(best, LEAST_SHARE * high, high)
    return PriceCurve(device, market.prices[device], tuple(segments), without)
