"""Demand over time: what a service asks for in every slot of a day or a week.

A service states a diurnal curve, numbers by the hour, or a trace of arrivals. All become
requests/s by slot, over the 24 hours from 00:00 UTC or the 168 from Monday 00:00 UTC; the next
day or week is like it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, field_validator, model_validator

from perfmodel.units import parse_quantity
from planner.catalog.trace import read_trace
from planner.query_choices import Strict

FloatArray = NDArray[np.float64]

HOUR_S = 3600.0
DAY_HOURS, WEEK_HOURS = 24, 168

MOST_LEVELS = 24
"""Demands that a service's configurations are sized at, at most; one between two of them is sized
as the higher."""

DIGITS = 9
"""Significant digits of a demand: equal ones must not differ by how they were computed."""


def read_time(value: Any) -> Any:
    """A time from zero up in seconds, from its spelling with a unit."""
    if isinstance(value, str) and value.strip().startswith("-"):
        raise ValueError(f"expected a time from 0s up, got {value!r}")
    return parse_quantity(value, "time")


Time = Annotated[float, BeforeValidator(read_time)]


def read_positive(value: Any) -> Any:
    """A finite number above zero."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected a number, got {value!r}")
    if not 0 < value < float("inf"):
        raise ValueError(f"expected a number above zero, got {value}")
    return value


Positive = Annotated[float, BeforeValidator(read_positive)]


class DemandChoice(Strict):
    """A service's demand over time, as a catalog states it."""

    mean_qps: Positive | None = Field(
        default=None,
        description="Requests/s in the mean over all time, to which the shape is scaled: of a "
        "curve or a trace, whatever the slots and the `trace_window`.",
    )
    peak_qps: Positive | None = Field(
        default=None, description="Requests/s of the busiest slot, to which the shape is scaled."
    )
    peak_to_trough: float | None = Field(
        default=None,
        ge=1,
        allow_inf_nan=False,
        description="A cosine over the day: its greatest value over its least. Scaled to "
        "`workload.qps` as its mean if neither `mean_qps` nor `peak_qps` is given.",
    )
    peak_hour: float = Field(
        default=12.0, ge=0, lt=24, description="UTC hour at which the cosine is greatest."
    )
    hourly: tuple[float, ...] | None = Field(
        default=None,
        description="24 numbers from 00:00 UTC, or 168 from Monday 00:00 UTC: requests/s, or a "
        "shape where `mean_qps` or `peak_qps` is given.",
    )
    trace: str | None = Field(
        default=None,
        description="A CSV file of arrivals in order, one a line, in a column such as `timestamp`, "
        "or without a heading in the first: timestamps (2026-01-05T08:30:00Z), times since 1970, "
        "or since a Monday 00:00 UTC (`arrival_s`, `arrival_ms`; seconds without a heading). "
        "Whole days, or a week or more; of repeated hours the busiest counts.",
    )
    trace_window: Time | None = Field(
        default=None,
        description="A slot's demand is that of its busiest window of so long (5min), instead of "
        "its mean. Arrivals inside it are taken to be as `workload.arrivals` says.",
    )

    @field_validator("peak_to_trough", "peak_hour", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError(f"expected a number, got {value!r}")
        return value

    @field_validator("hourly", mode="before")
    @classmethod
    def _counted(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple) or len(value) not in (DAY_HOURS, WEEK_HOURS):
            got = f"{len(value)}" if isinstance(value, list | tuple) else repr(value)
            raise ValueError(f"expected 24 or 168 numbers, got {got}")
        for hour, number in enumerate(value):
            good = isinstance(number, int | float) and not isinstance(number, bool)
            if not (good and 0 <= number < float("inf")):
                raise ValueError(
                    f"expected numbers from zero up, got {number!r} for hour {hour} (from 0)"
                )
        if not any(value):
            raise ValueError("expected demand in some hour, got zeros only")
        return value

    @model_validator(mode="after")
    def _one_shape(self) -> DemandChoice:
        shapes = [
            name
            for name in ("peak_to_trough", "hourly", "trace")
            if getattr(self, name) is not None
        ]
        if len(shapes) != 1:
            raise ValueError(
                "expected one of peak_to_trough, hourly and trace"
                + (f", got {' and '.join(shapes)}" if shapes else "")
            )
        if self.mean_qps is not None and self.peak_qps is not None:
            raise ValueError("expected mean_qps or peak_qps, got both")
        for name, shape in (("peak_hour", "peak_to_trough"), ("trace_window", "trace")):
            if name in self.model_fields_set and getattr(self, shape) is None:
                raise ValueError(f"{name}: expected {shape} beside it")
        if self.trace_window == 0:
            raise ValueError("trace_window: expected more than 0s")
        return self

    @property
    def scaled_by_workload(self) -> bool:
        """Whether the query's demand is its mean."""
        return self.peak_to_trough is not None and self.mean_qps is None and self.peak_qps is None


@dataclass(frozen=True)
class Demand:
    """Requests/s by slot.

    Attributes:
        qps: over a day or a week.
        note: what a trace says of its arrivals.
    """

    qps: tuple[float, ...]
    slot_s: float = HOUR_S
    note: str = ""

    @property
    def peak(self) -> float:
        """Of the busiest slot."""
        return max(self.qps)

    @property
    def mean(self) -> float:
        """Over all slots."""
        return sum(self.qps) / len(self.qps)

    @property
    def hours(self) -> int:
        """24 or 168."""
        return round(len(self.qps) * self.slot_s / HOUR_S)

    @property
    def levels(self) -> tuple[float, ...]:
        """The demands above zero at which fleets are sized, ascending; the last is the peak."""
        distinct = np.unique([q for q in self.qps if q > 0])
        if len(distinct) > MOST_LEVELS:
            share = np.linspace(0.0, 1.0, MOST_LEVELS)
            distinct = np.unique(np.quantile(distinct, share, method="higher"))
        return tuple(distinct.tolist())

    def scaled(self, factor: float) -> Demand:
        """So many times as much."""
        return Demand(tuple(_rounded(q * factor) for q in self.qps), self.slot_s, self.note)

    def repeated(self, hours: int) -> Demand:
        """The same over a horizon of so many hours, a multiple of its own."""
        return Demand(self.qps * (hours // self.hours), self.slot_s, self.note)


def demand_over_time(
    choice: DemandChoice, workload_qps: float | None, slot_s: float, folder: Path
) -> Demand:
    """What a service states, by slot.

    Args:
        workload_qps: its query's demand, the mean of a curve that states none; None: not given.
        slot_s: divides an hour.
        folder: relative to which a trace is named.

    Raises:
        ConfigError: a trace that cannot be used, with file and line.
        ValueError: a curve without any scale, a window that does not divide the slot.
    """
    note = ""
    if choice.hourly is not None:
        shape = np.repeat(np.array(choice.hourly, dtype=float), round(HOUR_S / slot_s))
        mean = float(shape.mean())
    elif choice.trace is not None:
        window_s = slot_s if choice.trace_window is None else choice.trace_window
        if window_s > slot_s or not np.isclose(slot_s / window_s, round(slot_s / window_s)):
            raise ValueError(
                f"trace_window: expected a time that divides a slot of {slot_s:g} s, "
                f"got {window_s:g} s"
            )
        trace = read_trace(folder / Path(choice.trace).expanduser())
        shape, note = trace.qps(slot_s, window_s), trace.describe(slot_s)
        mean = trace.mean_qps(slot_s)
    else:
        assert choice.peak_to_trough is not None
        shape, mean = _cosine(choice.peak_to_trough, choice.peak_hour, slot_s), 1.0
        if choice.scaled_by_workload:
            if workload_qps is None:
                raise ValueError("expected mean_qps or peak_qps, or workload.qps as the mean")
            shape = shape * workload_qps
    # Slots have their greatest demand: they are scaled by the mean of what they are taken from.
    if choice.mean_qps is not None:
        shape = shape * (choice.mean_qps / mean)
    if choice.peak_qps is not None:
        shape = shape * (choice.peak_qps / shape.max())
    return Demand(tuple(_rounded(q) for q in shape.tolist()), slot_s, note)


def _rounded(qps: float) -> float:
    return float(f"{qps:.{DIGITS}g}")


def _cosine(peak_to_trough: float, peak_hour: float, slot_s: float) -> FloatArray:
    """`1 + a cos(2 pi (h - peak) / 24)`, `a = (r - 1) / (r + 1)`; its greatest in each slot."""
    swing = (peak_to_trough - 1.0) / (peak_to_trough + 1.0)
    slot_h = slot_s / HOUR_S
    starts = np.arange(round(DAY_HOURS / slot_h)) * slot_h
    # Hours from the peak, at the moment of the slot that is nearest to it.
    ahead = (peak_hour - starts) % DAY_HOURS
    behind = (starts - peak_hour) % DAY_HOURS
    after = (starts + slot_h - peak_hour) % DAY_HOURS
    away = np.minimum(np.minimum(behind, DAY_HOURS - behind), np.minimum(after, DAY_HOURS - after))
    away = np.where(ahead < slot_h, 0.0, away)
    return np.asarray(1.0 + swing * np.cos(2.0 * np.pi * away / DAY_HOURS))
