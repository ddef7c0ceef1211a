"""Traces of arrivals: files of timestamps, and the demand that they amount to."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perfmodel.documents import read_text
from perfmodel.errors import ConfigError

FloatArray = NDArray[np.float64]

DAY_S, WEEK_S, YEAR_S = 86400.0, 604800.0, 366 * 86400.0

MINUTE_S = 60.0

COLUMNS = (
    "timestamp",
    "ts",
    "time",
    "arrival",
    "arrival_time",
    "arrival_timestamp",
    "arrived_at",
    "request_time",
    "request_timestamp",
    "start_time",
    "created_at",
    "datetime",
)
"""Names of a column of arrivals; any capitals, and any marks between words."""

UNITS = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}

NAMES_WITH_UNIT = "arrival_s, timestamp_ms"

NO_HEADING, NO_UNIT = "", "?"
"""In place of a unit: nothing said, or a name without one."""

EPOCHS_S = (946_684_800.0, 4_102_444_800.0)
"""This century, in seconds since 1970."""

MOST_UNNAMED_S = 5 * WEEK_S
"""Numbers without a heading are seconds up to this: of a day in milliseconds all but the first 50
minutes lie above."""

MOMENT_S = 1e-9
"""In place of no time at all."""

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
        period = self._period(len(counts), slot_s)
        if len(counts) < period:
            raise ConfigError(
                f"{self.path}: covers {len(counts) * slot_s / 3600:g} h; expected arrivals in "
                "every hour of a day, from 00:00 to 24:00 UTC, or of a week"
            )
        once = len(counts) <= period + 1
        rates = self._once(counts, slot_s) if once else counts.max(axis=1) / window_s
        slots = first + np.arange(len(rates))
        busiest = np.zeros(period)
        np.maximum.at(busiest, slots % period, rates)
        return busiest

    def mean_qps(self, slot_s: float) -> float:
        """Requests/s in the mean over the time that it covers, no busiest slots chosen.

        Raises:
            ConfigError: as `qps`.
        """
        slots = len(self._counts(slot_s, slot_s))
        if slots <= self._period(slots, slot_s) + 1:
            return float(self.qps(slot_s, slot_s).mean())
        return (len(self.arrivals_s) - 1) / float(self.arrivals_s[-1] - self.arrivals_s[0])

    @staticmethod
    def _period(slots: int, slot_s: float) -> int:
        """Slots of a day, or of a week where there are as many."""
        return round((WEEK_S if slots * slot_s >= WEEK_S else DAY_S) / slot_s)

    def _once(self, counts: FloatArray, slot_s: float) -> FloatArray:
        """Requests/s of the slots of one day (week), the parts at its ends made whole.

        It ends in the slot in which it began, of which each end has a part, or in the one before.
        A part's arrivals are divided by the time that it covers. Where that is less than half, few
        arrivals say little of their rate: then only up to that of the slots beside it.
        """
        slots, windows = counts.shape
        window_s = slot_s / windows
        starts = window_s * np.arange(windows)
        begun_s, ended_s = self.arrivals_s[0] % slot_s, self.arrivals_s[-1] % slot_s
        covered = np.full(counts.shape, window_s)
        covered[0] = np.clip(starts + window_s - begun_s, 0, window_s)
        covered[-1] = np.clip(ended_s - starts, 0, window_s)
        # The arrivals that mark the ends lie at the edge of the time, not within it.
        within = counts.copy()
        within[0, min(int(begun_s / window_s), windows - 1)] -= 1
        within[-1, min(int(ended_s / window_s), windows - 1)] -= 1
        ends = [0, slots - 1]
        if slots > self._period(slots, slot_s):
            again = self.arrivals_s[-1] - self.arrivals_s[0] > (slots - 1) * slot_s
            # Where it goes on into what it has already, that is no more in the same time.
            once = np.maximum(counts[0], counts[-1]) if again else counts[0] + counts[-1]
            counts = np.vstack([once, counts[1:-1]])
            within, covered = (np.vstack([x[0] + x[-1], x[1:-1]]) for x in (within, covered))
            ends = [0]
        rates = counts.max(axis=1) / window_s
        beside = np.maximum(np.roll(rates, 1), np.roll(rates, -1))
        for end in ends:
            known = (within[end] / np.maximum(covered[end], window_s / 2)).max()
            part = (within[end] / np.maximum(covered[end], MOMENT_S)).max()
            rates[end] = max(rates[end], known, min(part, beside[end]))
        return np.asarray(rates)

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
        """Arrivals by slot and window, from the first arrival's slot to the last's.

        A window that does not divide the slot is made to.
        """
        first = self.arrivals_s[0] // slot_s
        slots = int(self.arrivals_s[-1] // slot_s - first) + 1
        windows = round(slot_s / window_s)
        since = self.arrivals_s - first * slot_s
        index = np.minimum((since / (slot_s / windows)).astype(int), slots * windows - 1)
        counts = np.bincount(index, minlength=slots * windows).astype(float)
        return counts.reshape(slots, windows)


def read_trace(path: Path) -> Trace:
    """Read arrivals: a column of a CSV file, as timestamps or numbers.

    The column is the first that has a name of `COLUMNS`, with a unit of `UNITS` behind it or
    without (`arrival_ms`); of a file without a heading, the first. Timestamps without an offset are
    UTC. Numbers count from 1970 where that puts the first into this century, in some unit if
    none is named; else from a Monday 00:00 UTC, in the unit named, or in seconds without a heading.
    A heading without a unit leaves that open, and is refused. Empty lines are skipped, and those
    that begin with #.

    Raises:
        ConfigError: no arrivals, a heading without such a name, numbers of an unknown unit, or a
            line that is no time or lies before the one above it; with file and line.
    """
    lines = read_text(path, "text").splitlines()
    column, unit, clock = 0, NO_HEADING, None
    times: list[float] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        where = f"{path}:{number}"
        (row,) = csv.reader([line], skipinitialspace=True)
        cell = row[column].strip() if column < len(row) else ""
        value, stamped = _time(cell)
        if value is None:
            if clock is None and unit == NO_HEADING:
                column, unit = _heading(row, where)
                continue
            raise ConfigError(
                f"{where}: expected a number or a timestamp such as 2026-01-05T08:30:00Z, "
                f"got {cell!r}"
            )
        if not 0 <= value < inf:
            raise ConfigError(f"{where}: expected a time from zero up, got {cell!r}")
        if clock is None:
            if unit == NO_HEADING and not stamped and any(_time(c.strip())[1] for c in row):
                raise ConfigError(
                    f"{where}: the first column has numbers and another timestamps; expected a "
                    f"heading that names the times: {COLUMNS[0]}"
                )
            clock = _clock(value, stamped, unit, where)
        if stamped != clock.stamped:
            raise ConfigError(f"{where}: expected all lines as numbers, or all as timestamps")
        seconds = value * clock.scale - clock.monday_s
        if times and seconds < times[-1]:
            raise ConfigError(f"{where}: {cell} is earlier than the line before; sort the arrivals")
        if seconds > clock.most_s:
            expected = (
                "a year at most"
                if clock.stamped
                else f"other units, named in the heading: {NAMES_WITH_UNIT}"
            )
            raise ConfigError(
                f"{where}: {cell} is {seconds / WEEK_S:,.0f} weeks from the Monday before the "
                f"first arrival; expected {expected}"
            )
        times.append(seconds)
    if not times:
        raise ConfigError(f"{path}:1: expected arrivals, one a line, got none")
    return Trace(path, np.array(times))


@dataclass(frozen=True)
class _Clock:
    """How the times of a trace are read.

    Attributes:
        stamped: as timestamps, in seconds from 1970 by now.
        scale: seconds of its unit.
        monday_s: from when its seconds count to the Monday that all count from.
        most_s: more than this after that Monday is likelier a mistake of the unit.
    """

    stamped: bool
    scale: float
    monday_s: float
    most_s: float


def _clock(first: float, stamped: bool, unit: str, where: str) -> _Clock:
    """Of a trace's first time; of its heading, the unit."""
    if stamped:
        return _Clock(True, 1.0, _monday(first), YEAR_S + WEEK_S)
    for scale in [UNITS[unit]] if unit in UNITS else UNITS.values():
        if EPOCHS_S[0] <= first * scale < EPOCHS_S[1]:
            return _Clock(False, scale, _monday(first * scale), YEAR_S)
    if unit == NO_UNIT:
        raise ConfigError(
            f"{where}: {first:g} is no time since 1970, and may be seconds or milliseconds; "
            f"expected the unit in the heading: {NAMES_WITH_UNIT}"
        )
    scale = UNITS.get(unit, 1.0)
    if first * scale >= WEEK_S:
        raise ConfigError(
            f"{where}: {first:g} {unit or 's'} is neither in the week from a Monday 00:00 UTC nor, "
            f"since 1970, in this century; expected other units, named in the heading: "
            f"{NAMES_WITH_UNIT}"
        )
    return _Clock(False, scale, 0.0, YEAR_S if unit else MOST_UNNAMED_S)


def _heading(row: Sequence[str], where: str) -> tuple[int, str]:
    """The column of arrivals, and its unit."""
    for column, text in enumerate(row):
        spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", text)
        name = re.sub(r"[^a-z0-9]+", "_", spaced.lower()).strip("_")
        start, _, end = name.rpartition("_")
        if name in COLUMNS:
            return column, NO_UNIT
        if start in COLUMNS and end in UNITS:
            return column, end
    raise ConfigError(
        f"{where}: expected times, or a comma-separated heading with a column of "
        f"{', '.join(COLUMNS)}, or one of these with its unit ({NAMES_WITH_UNIT}), "
        f"got {','.join(row)[:80]!r}"
    )


def _time(text: str) -> tuple[float | None, bool]:
    """A number, or a timestamp in seconds since 1970; whether it is a timestamp."""
    try:
        return float(text), False
    except ValueError:
        pass
    try:
        stamp = datetime.fromisoformat(text)
    except ValueError:
        return None, False
    return (stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)).timestamp(), True


def _monday(epoch_s: float) -> float:
    """The Monday 00:00 UTC at or before a time; 1970 began on a Thursday."""
    return epoch_s - (epoch_s - 4 * DAY_S) % WEEK_S
