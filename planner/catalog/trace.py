"""Traces of arrivals: files of timestamps, and the demand that they amount to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perfmodel.documents import read_text
from perfmodel.errors import ConfigError

FloatArray = NDArray[np.float64]

DAY_S, WEEK_S = 86400.0, 604800.0

MINUTE_S = 60.0

BURSTY = 1.5
"""Variance over mean above which a trace is said to come in bursts."""


@dataclass(frozen=True, eq=False)
class Trace:
    """Arrivals.

    Attributes:
        arrivals_s: since a Monday 00:00 UTC, ascending.
    """

    path: Path
    arrivals_s: FloatArray

    def qps(self, slot_s: float, window_s: float) -> FloatArray:
        """Requests/s of each slot of a day, or of a week where the trace has a whole one.

        Of several days (weeks) the busiest counts, and in each slot the busiest window.

        Args:
            window_s: divides `slot_s`.

        Raises:
            ConfigError: a slot of the day is not covered.
        """
        first = int(self.arrivals_s[0] // slot_s)
        counts = self._counts(slot_s, window_s)
        period_s = WEEK_S if len(counts) * slot_s >= WEEK_S else DAY_S
        period = round(period_s / slot_s)
        if len(counts) < period:
            raise ConfigError(
                f"{self.path}: covers {len(counts) * slot_s / 3600:g} h; expected arrivals in "
                "every hour of a day, from 00:00 to 24:00 UTC, or of a week"
            )
        if self._goes_round(len(counts), slot_s):
            # It ends in the slot in which it began, of which each end has a part.
            counts[0] += counts[-1]
            counts = counts[:-1]
        rates = counts.max(axis=1) / window_s
        slots = first + np.arange(len(rates))
        busiest = np.zeros(period)
        np.maximum.at(busiest, slots % period, rates)
        return busiest

    def mean_qps(self, slot_s: float) -> float:
        """Requests/s in the mean over the slots that it covers, no busiest ones chosen."""
        slots = len(self._counts(slot_s, slot_s))
        return len(self.arrivals_s) / ((slots - self._goes_round(slots, slot_s)) * slot_s)

    def _goes_round(self, slots: int, slot_s: float) -> bool:
        """Whether a whole day (week) ends in the slot of it in which it began."""
        long_s = float(self.arrivals_s[-1] - self.arrivals_s[0])
        period_s = WEEK_S if slots * slot_s >= WEEK_S else DAY_S
        return slots == round(period_s / slot_s) + 1 and long_s <= period_s

    def dispersion(self, slot_s: float) -> float:
        """Variance of the counts by minute over their mean, in slots: 1 for Poisson arrivals."""
        counts = self._counts(slot_s, MINUTE_S)
        counts = counts[counts.sum(axis=1) > 0]
        mean = counts.mean(axis=1)
        return float((counts.var(axis=1, ddof=1) / mean).mean())

    def describe(self, slot_s: float) -> str:
        """How its arrivals come, for people: their peaks over their mean, and their bursts."""
        minutes = self._counts(slot_s, MINUTE_S)
        slots = minutes.sum(axis=1) * MINUTE_S / slot_s
        dispersion = self.dispersion(slot_s)
        text = (
            f"{self.path.name}: {len(self.arrivals_s):,} arrivals; busiest slot "
            f"{slots.max() / slots.mean():.2f} and busiest minute "
            f"{minutes.max() / minutes.mean():.2f} times the mean; within slots the variance of "
            f"arrivals by minute is {dispersion:.2f} times their mean (Poisson: 1)"
        )
        if dispersion > BURSTY:
            text += (
                "; such bursts are not planned for: give headroom, or a trace_window to size "
                "every slot for its busiest part"
            )
        return text

    def _counts(self, slot_s: float, window_s: float) -> FloatArray:
        """Arrivals by slot and window, from the first arrival's slot to the last's."""
        first = self.arrivals_s[0] // slot_s
        slots = int(self.arrivals_s[-1] // slot_s - first) + 1
        windows = round(slot_s / window_s)
        since = self.arrivals_s - first * slot_s
        index = np.minimum((since / window_s).astype(int), slots * windows - 1)
        counts = np.bincount(index, minlength=slots * windows).astype(float)
        return counts.reshape(slots, windows)


def read_trace(path: Path) -> Trace:
    """Read arrivals: the first column of a CSV file, in seconds or as timestamps.

    A first line that is no time is taken for a heading; empty lines are skipped, and those that
    begin with #. Timestamps without an offset are UTC.

    Raises:
        ConfigError: no arrivals, or a line that is none or lies before the one above it; with
            file and line.
    """
    lines = read_text(path, "text").splitlines()
    times: list[float] = []
    monday: datetime | None = None
    stamped: bool | None = None
    for number, line in enumerate(lines, start=1):
        text = line.split(",", 1)[0].strip().strip('"')
        if not line.strip() or text.startswith("#"):
            continue
        where = f"{path}:{number}"
        stamp = None
        try:
            seconds = float(text)
        except ValueError:
            stamp = _timestamp(text)
            if stamp is None:
                if not times and number == _first_line(lines):
                    continue
                raise ConfigError(
                    f"{where}: expected seconds or a timestamp such as 2026-01-05T08:30:00Z, "
                    f"got {text!r}"
                ) from None
            monday = monday or _monday(stamp)
            seconds = (stamp - monday).total_seconds()
        if stamped is not None and stamped != (stamp is not None):
            raise ConfigError(f"{where}: expected all lines in seconds, or all as timestamps")
        stamped = stamp is not None
        if times and seconds < times[-1]:
            raise ConfigError(f"{where}: {text} is earlier than the line before; sort the arrivals")
        if not 0 <= seconds < float("inf"):
            raise ConfigError(f"{where}: expected a time from zero up, got {text!r}")
        times.append(seconds)
    if not times:
        raise ConfigError(f"{path}:1: expected arrivals, one a line, got none")
    return Trace(path, np.array(times))


def _first_line(lines: list[str]) -> int:
    """The number of the first line that says anything."""
    return next(
        i for i, line in enumerate(lines, 1) if line.strip() and not line.strip().startswith("#")
    )


def _timestamp(text: str) -> datetime | None:
    try:
        stamp = datetime.fromisoformat(text)
    except ValueError:
        return None
    return stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)


def _monday(stamp: datetime) -> datetime:
    """The Monday 00:00 UTC at or before a time."""
    day = stamp.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return day - timedelta(days=day.weekday())
