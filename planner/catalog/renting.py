"""How devices are rented over time, and how fast services follow their demand."""

from __future__ import annotations

from math import ceil, isclose
from typing import Literal

from pydantic import Field, field_validator

from planner.catalog.demand import DAY_HOURS, HOUR_S, Positive, Time
from planner.query_choices import Strict

LEAST_SLOT_S = 300.0


def _at_most_a_day(seconds: float) -> float:
    if seconds > DAY_HOURS * HOUR_S:
        raise ValueError("expected at most 24h")
    return seconds


class DevicePrices(Strict):
    """What a device costs, reserved and on demand."""

    reserved: Positive = Field(
        description="USD per device-hour, paid round the clock for the hosts that are reserved."
    )
    on_demand: Positive | None = Field(
        default=None,
        description="USD per device-hour, paid by the slot; not to be had on demand if not given. "
        "May be below `reserved`: then nothing is reserved.",
    )
    minimum: Time = Field(
        default=0.0, description="A host on demand is rented for at least so long (2h)."
    )

    @field_validator("minimum")
    @classmethod
    def _within_a_day(cls, value: float) -> float:
        return _at_most_a_day(value)

    @property
    def least(self) -> float:
        """USD per device-hour of a device that runs round the clock."""
        return self.reserved if self.on_demand is None else min(self.reserved, self.on_demand)


class Autoscaling(Strict):
    """How replicas follow demand."""

    slot: Time = Field(
        default=HOUR_S,
        description="Time in which nothing changes, and by which hosts on demand are paid: "
        "5min or more, and a part of an hour.",
    )
    start_up: Time = Field(
        default=600.0,
        description="From asking for a replica to its first request: host, image, weights. What a "
        "slot needs runs so long before it, by whole slots.",
    )
    hold: Time = Field(
        default=0.0,
        description="What was needed stays for so long afterwards, by whole slots: a scale-down "
        "delay.",
    )
    granularity: Literal["replica", "host"] = Field(
        default="replica",
        description="`replica`: small replicas of several services lie on one host; `host`: "
        "services start and stop whole hosts of their own.",
    )

    @field_validator("slot")
    @classmethod
    def _part_of_an_hour(cls, value: float) -> float:
        parts = HOUR_S / value if value else 0.0
        if value < LEAST_SLOT_S or not isclose(parts, round(parts)):
            raise ValueError("expected 5min or more that divides an hour, such as 15min")
        return value

    @field_validator("start_up", "hold")
    @classmethod
    def _within_a_day(cls, value: float) -> float:
        return _at_most_a_day(value)

    def slots(self, seconds: float) -> int:
        """Whole slots that hold a time."""
        return ceil(seconds / self.slot - 1e-9)
